/* Session affinity as filter and as scorer.
 *
 * The table of sessions is bounded: a session takes an entry of fixed size under the hash of its
 * id, the least recently used one goes when the table is full, and the sweep drops those idle for
 * too long from that same end, so it never walks over live ones. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/session_affinity.h"
#include "base/check.h"
#include "base/mem.h"
#include "codec/b64.h"
#include "codec/blockkey.h"
#include "sched/config.h"
#include "sched/params.h"
#include "sched/plugin_types_priv.h"
#include <string.h>

#define SESSIONS_MAX     200000 /* 64 bytes each and as much in the map: about 25 MB */
#define SESSION_NAME_MAX 1024   /* longer ids are no ids */
#define TTL_S            300
#define SWEEP_S          10

/* ---- the table ---- */

struct session_entry {
    uint64_t hash, uid, used_ms;
    struct session_entry *newer, *older;
};

static void unlink_entry(struct session_table *t, struct session_entry *s)
{
    *(s->newer != NULL ? &s->newer->older : &t->newest) = s->older;
    *(s->older != NULL ? &s->older->newer : &t->oldest) = s->newer;
}

static void link_newest(struct session_table *t, struct session_entry *s, uint64_t now_ms)
{
    s->used_ms = now_ms;
    s->newer = NULL;
    s->older = t->newest;
    *(t->newest != NULL ? &t->newest->newer : &t->oldest) = s;
    t->newest = s;
}

static void drop(struct session_table *t, struct session_entry *s)
{
    unlink_entry(t, s);
    map_del(&t->by_hash, s->hash);
    mem_free(s);
    t->count--;
}

void session_table_fini(struct session_table *t)
{
    while (t->oldest != NULL)
        drop(t, t->oldest);
    map_fini(&t->by_hash);
}

static struct session_entry *find(const struct session_table *t, uint64_t hash)
{
    uint64_t at;

    return map_get(&t->by_hash, hash, &at) ? (struct session_entry *)(uintptr_t)at : NULL;
}

static void sweep(struct session_table *t, const struct session_affinity_params *c, uint64_t now_ms)
{
    /* 0: not given, for a configuration without sessionIdConfig has no place for defaults */
    uint64_t every_s = c->sweep_s != 0 ? c->sweep_s : SWEEP_S;
    uint64_t ttl_s = c->ttl_s != 0 ? c->ttl_s : TTL_S;

    if (now_ms < t->swept_ms + every_s * 1000)
        return;
    t->swept_ms = now_ms;
    while (t->oldest != NULL && t->oldest->used_ms + ttl_s * 1000 <= now_ms)
        drop(t, t->oldest);
}

static void bind(struct session_table *t, uint64_t hash, uint64_t uid, uint64_t now_ms)
{
    struct session_entry *s;

    if (t->count == SESSIONS_MAX)
        drop(t, t->oldest);
    s = mem_try_zero(1, sizeof(*s));
    if (s == NULL || !map_put(&t->by_hash, hash, (uintptr_t)s)) {
        mem_free(s);
        return;
    }
    s->hash = hash;
    s->uid = uid;
    link_newest(t, s, now_ms);
    t->count++;
}

/* ---- of a request ---- */

static struct str header_name(const struct session_affinity_params *c)
{
    return c->header.n != 0 ? c->header : STR("x-session-token");
}

/* The session's id, trimmed; empty: none. */
static struct str session_of(const struct session_affinity_params *c, const struct sched_view *v)
{
    for (uint32_t i = 0; i < c->source_count; i++) {
        const struct session_source *s = &c->source[i];
        struct str id = s->header.n != 0
                            ? sched_view_header(v, s->header.p)
                            : str_trim(sched_view_attribute(v, s->attribute, s->producer));

        if (id.n != 0)
            return id.n <= SESSION_NAME_MAX ? id : STR("");
    }
    return c->source_count == 0 ? sched_view_header(v, "x-session-id") : STR("");
}

static uint32_t by_uid(const struct sched_view *v, uint64_t uid)
{
    for (uint32_t i = 0; i < v->count; i++)
        if (v->ep[i].uid == uid)
            return i;
    return SCHED_NONE;
}

uint32_t session_affinity_bound(struct plugin *p, const struct sched_view *v)
{
    const struct session_affinity_params *c = p->params;
    const struct session_entry *s;
    struct str id;

    if (c->strategy == SESSION_ENCODED_ENDPOINT) {
        id = base64_decode(v->arena, sched_view_header(v, header_name(c).p));
        for (uint32_t i = 0; i < v->count && id.n != 0; i++)
            if (str_eq(v->ep[i].id, id))
                return i;
        return SCHED_NONE;
    }
    id = session_of(c, v);
    s = id.n == 0 ? NULL : find(p->state, hash_xxh64(id.p, id.n));
    return s == NULL ? SCHED_NONE : by_uid(v, s->uid);
}

static uint32_t pinned_pick(const struct session_affinity_params *c, const struct sched_run *run)
{
    if (c->profile.n == 0)
        return sched_run_pick(run, run->primary);
    return sched_run_pick(run, sched_config_profile(run->config, c->profile));
}

static void dispatched(struct plugin *p, struct sched_run *run)
{
    const struct session_affinity_params *c = p->params;
    const struct sched_view *v = run->v;
    struct session_table *t = p->state;
    uint32_t pick = pinned_pick(c, run);
    struct session_entry *s;
    struct str id;
    uint64_t hash;

    if (c->strategy != SESSION_ID)
        return;
    sweep(t, c, v->now_ms);
    id = session_of(c, v);
    if (id.n == 0 || pick == SCHED_NONE)
        return;
    hash = hash_xxh64(id.p, id.n);
    s = find(t, hash);
    if (s == NULL) {
        bind(t, hash, v->ep[pick].uid, v->now_ms);
        return;
    }
    unlink_entry(t, s);
    link_newest(t, s, v->now_ms);
    if (by_uid(v, s->uid) == SCHED_NONE)
        s->uid = v->ep[pick].uid;
}

static void responded(struct plugin *p, struct sched_run *run)
{
    const struct session_affinity_params *c = p->params;
    uint32_t pick = pinned_pick(c, run);

    if (c->strategy != SESSION_ENCODED_ENDPOINT || pick == SCHED_NONE)
        return;
    sched_run_header(run, header_name(c).p, base64_encode(run->v->arena, run->v->ep[pick].id));
}

static void filter(struct plugin *p, const struct sched_view *v, bool *keep)
{
    uint32_t bound = session_affinity_bound(p, v);

    if (bound == SCHED_NONE || !keep[bound])
        return;
    memset(keep, 0, v->count);
    keep[bound] = true;
}

static void score(struct plugin *p, const struct sched_view *v, const bool *keep, double *out)
{
    uint32_t bound = session_affinity_bound(p, v);

    for (uint32_t i = 0; i < v->count; i++)
        if (keep[i])
            out[i] = i == bound;
}

static void state_fini(struct plugin *p)
{
    session_table_fini(p->state);
}

static void dump(const struct plugin *p, struct buf *out)
{
    buf_f(out, "{\"sessions\":%u}", ((const struct session_table *)p->state)->count);
}

/* ---- parameters ---- */

static const char *const STRATEGIES[] = { "encoded_endpoint_header", "session_id", NULL };

#define P struct session_affinity_params

static struct str lower(struct arena *a, struct str s)
{
    char *p = arena_alloc(a, s.n + 1);

    for (size_t i = 0; i < s.n; i++)
        p[i] = (char)(s.p[i] >= 'A' && s.p[i] <= 'Z' ? s.p[i] + 32 : s.p[i]);
    p[s.n] = 0;
    return (struct str) { p, s.n };
}

static const struct plugin_param HEADER_CONFIG[] = {
    { .name = "header", .kind = PARAM_STR, .at = offsetof(P, header) },
};

static int decode_header(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    P *c = params;
    int rc = params_decode(n, HEADER_CONFIG, COUNT(HEADER_CONFIG), "encodedEndpointHeaderConfig", a,
                           c, e);

    c->has_header_config = true;
    c->header = lower(a, str_trim(c->header));
    return rc;
}

static const struct plugin_param SOURCE[] = {
    { .name = "header", .kind = PARAM_STR, .at = offsetof(struct session_source, header) },
    { .name = "attribute", .kind = PARAM_STR, .at = offsetof(struct session_source, attribute) },
    { .name = "producer", .kind = PARAM_STR, .at = offsetof(struct session_source, producer) },
};

static int decode_sources(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    P *c = params;
    void *items = NULL;
    struct session_source *s;
    int rc = params_maps(n, SOURCE, COUNT(SOURCE), "sources", sizeof(*s), a, &items,
                         &c->source_count, e);

    s = items;
    for (uint32_t i = 0; i < c->source_count && rc == 0; i++) {
        s[i].header = lower(a, str_trim(s[i].header));
        if ((s[i].header.n != 0) == (s[i].attribute.n != 0))
            rc = yaml_err(n, e, "sources: each needs one of header and attribute");
        else if (s[i].header.n != 0 && s[i].producer.n != 0)
            rc = yaml_err(n, e, "sources: producer goes with attribute");
    }
    c->source = s;
    return rc;
}

static const struct plugin_param ID_CONFIG[] = {
    { .name = "sources", .kind = PARAM_CUSTOM, .decode = decode_sources },
    { .name = "evictionTtlSeconds",
      .kind = PARAM_U32,
      .at = offsetof(P, ttl_s),
      .min = 1,
      .max = UINT32_MAX },
    { .name = "evictionSweepSeconds",
      .kind = PARAM_U32,
      .at = offsetof(P, sweep_s),
      .min = 1,
      .max = UINT32_MAX },
};

static int decode_id(const struct yaml_node *n, struct arena *a, void *params, struct err *e)
{
    ((P *)params)->has_id_config = true;
    return params_decode(n, ID_CONFIG, COUNT(ID_CONFIG), "sessionIdConfig", a, params, e);
}

static const struct plugin_param PARAMS[] = {
    { .name = "strategy",
      .kind = PARAM_WORD,
      .at = offsetof(P, strategy),
      .value = "encoded_endpoint_header",
      .words = STRATEGIES,
      .help = "who remembers: the client's header, or a table here" },
    { .name = "profileName",
      .kind = PARAM_STR,
      .at = offsetof(P, profile),
      .help = "whose pick is pinned; empty: the primary one" },
    { .name = "encodedEndpointHeaderConfig",
      .kind = PARAM_CUSTOM,
      .decode = decode_header,
      .help = "header: its name (x-session-token)" },
    { .name = "sessionIdConfig",
      .kind = PARAM_CUSTOM,
      .decode = decode_id,
      .help = "sources: list of header, or attribute and producer (header x-session-id); "
              "evictionTtlSeconds (300); evictionSweepSeconds (10)" },
};
#undef P

static int check(const void *params, struct err *e)
{
    const struct session_affinity_params *c = params;

    if (c->strategy == SESSION_ID && c->has_header_config)
        return err_set(e, ERR_INVAL, "encodedEndpointHeaderConfig: not with session_id");
    if (c->strategy == SESSION_ENCODED_ENDPOINT && c->has_id_config)
        return err_set(e, ERR_INVAL, "sessionIdConfig: only with session_id");
    return 0;
}

#define SESSION_TYPE(name, role)                                                                   \
    .type = name, .roles = (role) | ROLE_PRE_REQUEST | ROLE_RESPONSE, .alpha = true,               \
    .params_size = sizeof(struct session_affinity_params),                                         \
    .state_size = sizeof(struct session_table), .params = PARAMS, .param_count = COUNT(PARAMS),    \
    .check = check, .state_fini = state_fini, .dispatched = dispatched, .responded = responded,    \
    .dump = dump

const struct plugin_type plugin_session_affinity_filter = {
    SESSION_TYPE("session-affinity-filter", ROLE_FILTER),
    .filter = filter,
};

const struct plugin_type plugin_multicluster_session_affinity_filter = {
    SESSION_TYPE("multicluster-session-affinity-filter", ROLE_FILTER),
    .filter = filter,
};

const struct plugin_type plugin_session_affinity_scorer = {
    SESSION_TYPE("session-affinity-scorer", ROLE_SCORER),
    .score = score,
};
