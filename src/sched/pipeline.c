/* One request through the plugins of a configuration.
 *
 *   request headers -> screeners -> producers in order -> admitters
 *     -> handler: next profile? -> finish
 *          ^  filters -> scorers -> picker
 *          `-------------------------'
 *
 * Everything a run computes is in its arena; instances change only in sched_pipeline_dispatched and
 * after, so a run that is thrown away leaves no trace.
 *
 * Invariants: keep[] of a profile starts from the endpoints that may be used at all and is only
 * cleared; a score outside 0..1 never reaches the sum. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "codec/json.h"
#include "sched/config.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define NO_ENDPOINTS   "no endpoints available for the given request"
#define NO_TARGET      "failed to find target endpoint: "
#define REASON_FULL    "rejected-saturated"
#define REASON_NOBODY  "rejected-no-endpoints"
#define PROFILE_RUNS   (2 * SCHED_PROFILES_MAX) /* of one request: a handler that never ends */
#define CONDITION_NAME "if-available"

struct sched_pipeline {
    const struct sched_config *c;
    struct plugin plugin[SCHED_PLUGINS_MAX];
};

struct sched_pipeline *sched_pipeline_new(const struct sched_config *c)
{
    struct sched_pipeline *p = mem_zalloc(sizeof(*p));

    p->c = c;
    for (uint32_t i = 0; i < c->plugin_count; i++) {
        const struct sched_plugin_conf *conf = &c->plugin[i];

        p->plugin[i] = (struct plugin) {
            .type = conf->type,
            .name = conf->name,
            .params = conf->params,
            .state = conf->type->state_size != 0 ? mem_zalloc(conf->type->state_size) : NULL,
            .pipeline = p,
        };
    }
    for (uint32_t i = 0; i < c->plugin_count; i++) /* once all can be found by name */
        if (c->plugin[i].type->state_init != NULL)
            c->plugin[i].type->state_init(&p->plugin[i]);
    return p;
}

void sched_pipeline_free(struct sched_pipeline *p)
{
    if (p == NULL)
        return;
    for (uint32_t i = 0; i < p->c->plugin_count; i++) {
        if (p->plugin[i].type->state_fini != NULL)
            p->plugin[i].type->state_fini(&p->plugin[i]);
        mem_free(p->plugin[i].state);
    }
    mem_free(p);
}

const struct sched_config *sched_pipeline_config(const struct sched_pipeline *p)
{
    return p->c;
}

struct plugin *sched_pipeline_plugin(struct sched_pipeline *p, uint32_t index)
{
    ASSERT(index < p->c->plugin_count);
    return &p->plugin[index];
}

/* ---- before the profiles ---- */

static bool any(const bool *keep, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (keep[i])
            return true;
    return false;
}

/* Endpoints that may be used at all: candidates not tried yet that every screener lets through. */
static bool *usable(struct sched_pipeline *p, const struct sched_view *v)
{
    bool *all = arena_alloc(v->arena, v->count + 1), *own = arena_alloc(v->arena, v->count + 1);

    for (uint32_t i = 0; i < v->count; i++)
        all[i] = v->ep[i].use == SCHED_USED && (v->r->excluded == NULL || !v->r->excluded[i]);
    for (uint32_t k = 0; k < p->c->plugin_count; k++) {
        struct plugin *screener = &p->plugin[k];

        if ((screener->type->roles & ROLE_SCREENER) == 0 || screener->type->filter == NULL)
            continue;
        memset(own, true, v->count);
        screener->type->filter(screener, v, own);
        for (uint32_t i = 0; i < v->count; i++)
            all[i] = all[i] && own[i];
    }
    return all;
}

static void read_headers(struct sched_pipeline *p, struct sched_view *v)
{
    for (uint32_t i = 0; i < p->c->plugin_count; i++)
        if ((p->plugin[i].type->roles & ROLE_REQUEST_HEADER) != 0 &&
            p->plugin[i].type->produce != NULL)
            p->plugin[i].type->produce(&p->plugin[i], v);
}

struct str sched_pipeline_identity(struct sched_pipeline *p, const struct sched_request *r)
{
    struct sched_view v = { .r = r };

    read_headers(p, &v);
    return sched_view_attribute(&v, STR(SCHED_AGENT_IDENTITY), STR(""));
}

static bool admitted(struct sched_pipeline *p, struct sched_run *run)
{
    for (uint32_t i = 0; i < p->c->plugin_count; i++) {
        struct plugin *a = &p->plugin[i];

        if ((a->type->roles & ROLE_ADMITTER) == 0 || a->type->admit == NULL ||
            a->type->admit(a, run->v))
            continue;
        sched_run_fail(run, 500, NULL, "request cannot be admitted: denied by %.*s",
                       STR_ARG(a->name));
        return false;
    }
    return true;
}

/* ---- a profile ---- */

static double clamped(double score)
{
    return isnan(score) || score < 0 ? 0 : MIN(score, 1.0);
}

/* Sums of weight x score over the endpoints kept; NULL: the profile has no scorer. */
static double *weigh(struct sched_pipeline *p, const struct sched_profile_conf *conf,
                     const struct sched_view *v, const bool *keep)
{
    size_t bytes = (v->count + 1) * sizeof(double);
    double *sum, *own;

    if (conf->scorer_count == 0)
        return NULL;
    sum = arena_alloc(v->arena, bytes);
    own = arena_alloc(v->arena, bytes);
    memset(sum, 0, bytes);
    for (uint32_t k = 0; k < conf->scorer_count; k++) {
        struct plugin *scorer = &p->plugin[conf->scorer[k].plugin];

        for (uint32_t i = 0; i < v->count; i++)
            own[i] = NAN;
        scorer->type->score(scorer, v, keep, own);
        for (uint32_t i = 0; i < v->count; i++)
            if (keep[i])
                sum[i] += conf->scorer[k].weight * clamped(own[i]);
    }
    return sum;
}

static void run_profile(struct sched_pipeline *p, struct sched_run *run, uint32_t index,
                        const bool *all)
{
    const struct sched_profile_conf *conf = &p->c->profile[index];
    struct sched_profile_result *result = &run->profile[index];
    const struct sched_view *v = run->v;
    struct plugin *picker = &p->plugin[conf->picker];
    bool *keep = arena_alloc(v->arena, v->count + 1);
    const double *score;

    *result = (struct sched_profile_result) { .ran = true };
    memcpy(keep, all, v->count);
    for (uint32_t k = 0; k < conf->filter_count && any(keep, v->count); k++) {
        struct plugin *filter = &p->plugin[conf->filter[k]];

        filter->type->filter(filter, v, keep);
    }
    result->no_endpoint = !any(keep, v->count);
    if (result->no_endpoint)
        return;
    result->score = weigh(p, conf, v, keep);
    score = result->score;
    if (score == NULL) {
        double *zero = arena_alloc(v->arena, (v->count + 1) * sizeof(*zero));

        memset(zero, 0, (v->count + 1) * sizeof(*zero));
        score = zero;
    }
    result->pick_count = picker->type->pick(picker, v, keep, score, result->pick, SCHED_PICKS_MAX);
    ASSERT(result->pick_count <= SCHED_PICKS_MAX);
    result->no_endpoint = result->pick_count == 0;
}

/* ---- after the profiles ---- */

/* Prefer: if-available asks for an answer only where the prompt is cached already. */
static bool asks_for_cached(const struct sched_view *v)
{
    struct str rest = sched_view_header(v, "prefer");

    while (rest.n != 0) {
        struct str token = str_cut(&rest, ',');

        if (str_ieq(str_trim(str_cut(&token, ';')), STR(CONDITION_NAME)))
            return true;
    }
    return false;
}

static void check_condition(struct sched_run *run, uint32_t pick)
{
    const struct sched_prefix *prefix;

    if (!asks_for_cached(run->v))
        return;
    prefix = sched_view_prefix(run->v, STR(""));
    if (prefix == NULL || prefix->match_blocks[pick] == 0)
        sched_run_fail(run, 412, NULL, "no decode worker has the requested KV cache");
}

static void finish(struct sched_pipeline *p, struct sched_run *run)
{
    struct plugin *handler = &p->plugin[p->c->handler];
    bool ran = false, nobody = false;

    for (uint32_t i = 0; i < p->c->profile_count; i++) {
        ran = ran || run->profile[i].ran;
        nobody = nobody || run->profile[i].no_endpoint;
    }
    if (run->status == 0 && !ran)
        sched_run_fail(run, 429, NULL, NO_TARGET "failed to run any scheduler profile");
    if (run->status == 0)
        handler->type->finish(handler, run);
    if (run->status == 0 && run->primary < 0)
        sched_run_fail(run, 429, NULL, NO_TARGET "no profile was chosen");
    if (run->status == 0 && run->profile[run->primary].pick_count == 0)
        sched_run_fail(run, 429, REASON_FULL, NO_ENDPOINTS);
    /* What a profile said reaches the client, unless the handler gave a reason of its own. */
    if (run->status != 0 && run->reason == NULL && nobody)
        sched_run_fail(run, 429, REASON_FULL, NO_ENDPOINTS);
    if (run->status == 0)
        check_condition(run, run->profile[run->primary].pick[0]);
}

void sched_pipeline_run(struct sched_pipeline *p, struct sched_run *run)
{
    struct plugin *handler = &p->plugin[p->c->handler];
    struct sched_view *v = run->v;
    const bool *all;
    int next = -1;

    *run =
        (struct sched_run) { .v = v, .config = p->c, .primary = -1, .prefill = -1, .encode = -1 };
    v->prefix_count = v->attribute_count = 0;
    v->uncached_tokens = v->media_match = NULL;
    v->prediction = NULL;
    v->peer = SCHED_NONE;
    read_headers(p, v);
    all = usable(p, v);
    if (!any(all, v->count)) {
        sched_run_fail(run, 503, REASON_NOBODY,
                       "failed to find endpoint candidates for serving the request");
        return;
    }
    for (uint32_t i = 0; i < p->c->order_count; i++) {
        struct plugin *producer = &p->plugin[p->c->order[i]];

        if (producer->type->produce != NULL)
            producer->type->produce(producer, v);
    }
    if (!admitted(p, run))
        return;
    for (int i = 0; i < PROFILE_RUNS && run->status == 0; i++) {
        next = handler->type->next(handler, run);
        if (next < 0)
            break;
        ASSERT((uint32_t)next < p->c->profile_count);
        run_profile(p, run, (uint32_t)next, all);
    }
    if (next >= 0 && run->status == 0)
        sched_run_fail(run, 500, NULL, "the profile handler never ends");
    finish(p, run);
}

/* ---- what is remembered ---- */

void sched_pipeline_dispatched(struct sched_pipeline *p, struct sched_run *run)
{
    for (uint32_t i = 0; i < p->c->plugin_count; i++)
        if (p->plugin[i].type->dispatched != NULL)
            p->plugin[i].type->dispatched(&p->plugin[i], run);
}

void sched_pipeline_responded(struct sched_pipeline *p, struct sched_run *run)
{
    for (uint32_t i = 0; i < p->c->plugin_count; i++)
        if (p->plugin[i].type->responded != NULL)
            p->plugin[i].type->responded(&p->plugin[i], run);
}

bool sched_pipeline_holds(const struct sched_pipeline *p)
{
    for (uint32_t i = 0; i < p->c->plugin_count; i++)
        if (p->plugin[i].type->hold != NULL)
            return true;
    return false;
}

uint32_t sched_pipeline_hold(struct sched_pipeline *p, const struct sched_view *v)
{
    uint32_t ms = 0;

    for (uint32_t i = 0; i < p->c->plugin_count; i++)
        if (p->plugin[i].type->hold != NULL)
            ms = MAX(ms, p->plugin[i].type->hold(&p->plugin[i], v));
    return ms;
}

uint32_t sched_pipeline_served(struct sched_pipeline *p, const struct sched_served *s,
                               struct sched_header *out, uint32_t max)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->c->plugin_count && n < max; i++)
        if (p->plugin[i].type->served != NULL)
            out[n++] = p->plugin[i].type->served(&p->plugin[i], s);
    return n;
}

uint32_t sched_pipeline_report(struct sched_pipeline *p, const struct usage_values *u,
                               struct sched_report *out, uint32_t max)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->c->plugin_count && n < max; i++)
        if (p->plugin[i].type->report != NULL)
            n += p->plugin[i].type->report(&p->plugin[i], u, &out[n]);
    return n;
}

void sched_pipeline_endpoint_gone(struct sched_pipeline *p, uint64_t uid)
{
    for (uint32_t i = 0; i < p->c->plugin_count; i++)
        if (p->plugin[i].type->endpoint_gone != NULL)
            p->plugin[i].type->endpoint_gone(&p->plugin[i], uid);
}

void sched_pipeline_dump(const struct sched_pipeline *p, struct buf *out)
{
    struct json_w w;

    json_w_init(&w, out);
    json_w_obj(&w);
    for (uint32_t i = 0; i < p->c->plugin_count; i++) {
        const struct plugin *one = &p->plugin[i];
        struct buf value;

        if (one->type->dump == NULL)
            continue;
        buf_init(&value, out->max);
        one->type->dump(one, &value);
        json_w_key(&w, one->name);
        if (value.failed || value.len == 0)
            json_w_null(&w);
        else
            json_w_raw(&w, buf_view(&value));
        buf_fini(&value);
    }
    json_w_end(&w, '}');
}
