/* no-hit-lru-scorer: spreads prompts that nobody holds over the endpoints in turn.
 *
 * State: endpoints by the last cold request they got, the oldest first.  A request that somebody
 * has a part of leaves the order alone and scores the same everywhere. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "sched/config.h"
#include "sched/plugin_params.h"
#include "sched/plugin_types_priv.h"
#include <string.h>

#define SIZE_CEILING 65536

struct order {
    uint64_t *uid; /* the oldest first */
    uint32_t count, cap;
};

static const struct plugin_param PARAMS[] = {
    { .name = "lruSize",
      .kind = PARAM_I64,
      .at = offsetof(struct no_hit_lru_params, size),
      .value = "1024",
      .help = "endpoints remembered; 0 and less: 1024" },
    { .name = "prefixMatchInfoProducerName",
      .kind = PARAM_STR,
      .at = offsetof(struct no_hit_lru_params, producer),
      .help = "whose matches count; empty: the approximate producer's" },
    { .name = "prefixPluginType", .kind = PARAM_IGNORED, .help = "without effect" },
    { .name = "prefixPluginName", .kind = PARAM_IGNORED, .help = "without effect" },
};

static uint32_t size_of(const struct plugin *p)
{
    int64_t n = ((const struct no_hit_lru_params *)p->params)->size;

    return n <= 0 ? 1024 : (uint32_t)MIN(n, SIZE_CEILING);
}

static bool is_cold(const struct plugin *p, const struct sched_view *v)
{
    const struct no_hit_lru_params *c = p->params;
    const struct sched_prefix *f = sched_view_prefix(v, c->producer);

    for (uint32_t i = 0; i < v->count && f != NULL; i++)
        if (f->match_blocks[i] != 0)
            return false;
    return true;
}

/* Position from the oldest, or order->count: never used. */
static uint32_t position(const struct order *o, uint64_t uid)
{
    uint32_t i = 0;

    while (i < o->count && o->uid[i] != uid)
        i++;
    return i;
}

static void score_cold(const struct order *o, const struct sched_view *v, const bool *keep,
                       double *out)
{
    uint32_t count = 0, unused = 0, nth = 0;

    for (uint32_t i = 0; i < v->count; i++) {
        count += keep[i];
        unused += keep[i] && position(o, v->ep[i].uid) == o->count;
    }
    for (uint32_t i = 0; i < v->count; i++) {
        uint32_t at = position(o, v->ep[i].uid), rank;

        if (!keep[i])
            continue;
        rank = at == o->count ? nth++ : unused + at;
        out[i] = count == 1 ? 1 : MAX(0, 1 - (double)rank / (count - 1));
    }
}

static void score(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    if (is_cold(p, v)) {
        score_cold(p->state, v, keep, out);
        return;
    }
    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            out[i] = 0.5;
}

static void forget(struct order *o, uint32_t at)
{
    if (at == o->count)
        return;
    memmove(o->uid + at, o->uid + at + 1, (o->count - at - 1) * sizeof(*o->uid));
    o->count--;
}

static void use(struct plugin *p, uint64_t uid)
{
    struct order *o = p->state;

    forget(o, position(o, uid));
    if (o->count == size_of(p))
        forget(o, 0);
    if (o->count == o->cap) {
        uint32_t cap = MIN(MAX(o->cap * 2, 16), size_of(p));
        uint64_t *grown = mem_try_realloc(o->uid, cap * sizeof(*grown));

        if (grown == NULL)
            return;
        o->uid = grown;
        o->cap = cap;
    }
    o->uid[o->count++] = uid;
}

static void dispatched(struct plugin *p, struct sched_run *run)
{
    uint32_t primary = sched_run_pick(run, run->primary);
    uint32_t prefill = sched_run_pick(run, sched_run_prefill(run));

    if (!is_cold(p, run->v))
        return;
    if (primary != SCHED_NONE)
        use(p, run->v->ep[primary].uid);
    if (prefill != SCHED_NONE && prefill != primary)
        use(p, run->v->ep[prefill].uid);
}

static void endpoint_gone(struct plugin *p, uint64_t uid)
{
    struct order *o = p->state;

    forget(o, position(o, uid));
}

static void state_fini(struct plugin *p)
{
    mem_free(((struct order *)p->state)->uid);
}

static void dump(const struct plugin *p, struct buf *out)
{
    buf_f(out, "{\"endpoints\":%u}", ((const struct order *)p->state)->count);
}

static const char *const NEEDS[] = { "PrefixCacheMatchInfo", NULL };

static struct str needs_from(const void *params)
{
    return ((const struct no_hit_lru_params *)params)->producer;
}

const struct plugin_type plugin_no_hit_lru_scorer = {
    .type = "no-hit-lru-scorer",
    .roles = ROLE_SCORER | ROLE_PRE_REQUEST,
    .params_size = sizeof(struct no_hit_lru_params),
    .state_size = sizeof(struct order),
    .params = PARAMS,
    .param_count = COUNT(PARAMS),
    .needs = NEEDS,
    .needs_from = needs_from,
    .state_fini = state_fini,
    .score = score,
    .dispatched = dispatched,
    .endpoint_gone = endpoint_gone,
    .dump = dump,
};
