/* Every plugin decides as its documentation says: rows of tests/golden/sched_*.json, computed by a
 * second opinion (sched_formulas.py), go through plugins built from each row's configuration. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/buf.h"
#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "codec/json.h"
#include "sched/evict.h"
#include "sched/flow.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define ENDPOINTS_MAX 16
#define PICKS         20000 /* of a picker's row: its chances are within about 1.5 % then */
#define NEAR          0.02

/* ---- a row ---- */

struct world {
    const struct json *row;
    size_t index;
    const char *file;
    struct arena arena;
    struct rng rng;
    struct sched_config *c;
    struct sched_pipeline *p;
    struct plugin *t; /* under test */
    struct sched_endpoint ep[ENDPOINTS_MAX];
    bool keep[ENDPOINTS_MAX];
    uint32_t count;
    struct sched_request r;
    struct sched_view v;
    struct sched_run run;
};

#define FAIL(w, ...)                                                                               \
    do {                                                                                           \
        fprintf(stderr, "%s row %zu (%.*s): ", (w)->file, (w)->index,                              \
                STR_ARG(json_get((w)->row, "plugin")->text));                                      \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fprintf(stderr, "\n%.*s\n", STR_ARG((w)->row->span));                                      \
        (w)->index |= (size_t)1 << 62;                                                             \
    } while (0)

static double number(const struct json *j, double otherwise)
{
    double d;

    if (j == NULL)
        return otherwise;
    if (json_is(j, JSON_STRING))
        return str_eqz(j->text, "nan") ? NAN : str_eqz(j->text, "inf") ? INFINITY : -INFINITY;
    return json_f64(j, &d) ? d : NAN;
}

static uint32_t count_of(const struct json *j, uint32_t otherwise)
{
    return (uint32_t)number(j, otherwise);
}

static uint32_t strings(struct world *w, const struct json *list, const struct str **out)
{
    struct str *s = arena_alloc(&w->arena, ((list != NULL ? list->count : 0) + 1) * sizeof(*s));
    uint32_t n = 0;

    for (const struct json *j = list != NULL ? list->first : NULL; j != NULL; j = j->next)
        s[n++] = j->text;
    *out = s;
    return n;
}

static void labels(struct world *w, const struct json *map, struct sched_endpoint *e)
{
    struct sched_label *l =
        arena_alloc(&w->arena, ((map != NULL ? map->count : 0) + 1) * sizeof(*l));

    e->label = l;
    for (const struct json *j = map != NULL ? map->first : NULL; j != NULL; j = j->next)
        l[e->label_count++] = (struct sched_label) { j->key, j->text };
}

static void attributes(struct world *w, const struct json *list, struct sched_endpoint *e)
{
    struct sched_attribute *a =
        arena_alloc(&w->arena, ((list != NULL ? list->count : 0) + 1) * sizeof(*a));

    e->attribute = a;
    for (const struct json *j = list != NULL ? list->first : NULL; j != NULL; j = j->next)
        a[e->attribute_count++] =
            (struct sched_attribute) { json_get(j, "key")->text, json_get(j, "producer")->text,
                                       number(json_get(j, "value"), 0) };
}

static struct str text_of(const struct json *j, struct str otherwise)
{
    return j != NULL ? j->text : otherwise;
}

static void endpoint(struct world *w, const struct json *j, uint32_t i)
{
    struct sched_endpoint *e = &w->ep[i];

    *e = (struct sched_endpoint) {
        .address = text_of(json_get(j, "address"), STR("10.0.0.1:8000")),
        .id = text_of(json_get(j, "id"), STR("default/e")),
        .uid = i + 1,
        .has_metrics = !json_is(json_get(j, "metrics"), JSON_FALSE),
        .metrics_age_ms = count_of(json_get(j, "age"), 0),
        .scraped_waiting = number(json_get(j, "waiting"), 0),
        .scraped_running = number(json_get(j, "running"), 0),
        .scraped_kv = number(json_get(j, "kv"), 0),
        .inflight_requests = count_of(json_get(j, "inflight"), 0),
        .inflight_tokens = number(json_get(j, "tokens"), 0),
        .lora_max = count_of(json_get(j, "lora_max"), 0),
        .cache_block_tokens = count_of(json_get(j, "cache_block"), 0),
        .prefill_ms_per_token = number(json_get(j, "prefill_ms"), 0),
        .decode_ms_per_token = number(json_get(j, "decode_ms"), 0),
        .decode_batch_slope = number(json_get(j, "slope"), 0),
        .inflight_decode = number(json_get(j, "streams"), 0),
    };
    e->lora_active_count = strings(w, json_get(j, "lora_active"), &e->lora_active);
    e->lora_waiting_count = strings(w, json_get(j, "lora_waiting"), &e->lora_waiting);
    labels(w, json_get(j, "labels"), e);
    attributes(w, json_get(j, "attributes"), e);
    w->keep[i] = !json_is(json_get(j, "keep"), JSON_FALSE);
}

static struct str header(const void *ctx, const char *name)
{
    const struct json *j = ctx != NULL ? json_get(ctx, name) : NULL;

    return j != NULL ? j->text : STR_NONE;
}

static double *numbers(struct world *w, const struct json *list)
{
    double *d = arena_alloc(&w->arena, ((size_t)list->count + 1) * sizeof(*d));
    size_t n = 0;

    for (const struct json *j = list->first; j != NULL; j = j->next)
        d[n++] = number(j, 0);
    return d;
}

static uint32_t *counts(struct world *w, const struct json *list)
{
    uint32_t *d = arena_alloc(&w->arena, ((size_t)list->count + 1) * sizeof(*d));
    size_t n = 0;

    for (const struct json *j = list->first; j != NULL; j = j->next)
        d[n++] = count_of(j, 0);
    return d;
}

static void predictions(struct world *w, const struct json *list)
{
    struct sched_prediction *p = arena_alloc(&w->arena, ((size_t)list->count + 1) * sizeof(*p));
    size_t n = 0;

    w->v.prediction = p;
    for (const struct json *j = list->first; j != NULL; j = j->next)
        p[n++] = (struct sched_prediction) {
            .ttft_ms = number(json_get(j, "ttft"), 0),
            .tpot_ms = number(json_get(j, "tpot"), 0),
            .ttft_headroom_ms = number(json_get(j, "ttft_headroom"), 0),
            .tpot_headroom_ms = number(json_get(j, "tpot_headroom"), 0),
            .ttft_valid = number(json_get(j, "ttft_headroom"), 0) > 0,
            .tpot_valid = number(json_get(j, "tpot_headroom"), 0) >= 0,
            .dispatched = count_of(json_get(j, "dispatched"), 0),
        };
}

/* The request and what producers said of it. */
static void request(struct world *w, const struct json *j)
{
    const struct json *list;
    uint64_t *keys;

    w->r = (struct sched_request) { .prompt_tokens = count_of(json_get(j, "prompt_tokens"), 0),
                                    .block_tokens = 16,
                                    .id = text_of(json_get(j, "id"), STR("")),
                                    .target_model = text_of(json_get(j, "target_model"), STR("m")),
                                    .priority = (int32_t)number(json_get(j, "priority"), 0),
                                    .media_items = count_of(json_get(j, "media_items"), 0),
                                    .tail_key = count_of(json_get(j, "tail"), 0),
                                    .header = header,
                                    .header_ctx = json_get(j, "headers") };
    w->v = (struct sched_view) { .ep = w->ep,
                                 .count = w->count,
                                 .r = &w->r,
                                 .rng = &w->rng,
                                 .arena = &w->arena,
                                 .now_ms = 1000,
                                 .peer = count_of(json_get(j, "peer"), SCHED_NONE) };
    list = json_get(j, "keys");
    if (list != NULL) {
        keys = arena_alloc(&w->arena, ((size_t)list->count + 1) * sizeof(*keys));
        w->r.keys = keys;
        for (const struct json *k = list->first; k != NULL; k = k->next)
            keys[w->r.key_count++] = (uint64_t)number(k, 0);
    }
    if ((list = json_get(j, "indexed")) != NULL)
        w->r.indexed = counts(w, list);
    if ((list = json_get(j, "uncached")) != NULL)
        w->v.uncached_tokens = numbers(w, list);
    if ((list = json_get(j, "media_match")) != NULL)
        w->v.media_match = numbers(w, list);
    if ((list = json_get(j, "predictions")) != NULL)
        predictions(w, list);
    list = json_get(j, "prefix");
    for (const struct json *k = list != NULL ? list->first : NULL; k != NULL; k = k->next)
        w->v.prefix[w->v.prefix_count++] = (struct sched_prefix) {
            .producer = json_get(k, "producer")->text,
            .total_blocks = count_of(json_get(k, "total"), 0),
            .block_tokens = count_of(json_get(k, "block"), 0),
            .match_blocks = counts(w, json_get(k, "match")),
            .cached_blocks = counts(w, json_get(k, "cached")),
        };
}

/* Requests that went somewhere before. */
static void history(struct world *w)
{
    const struct json *list = json_get(w->row, "history");

    for (const struct json *j = list != NULL ? list->first : NULL; j != NULL; j = j->next) {
        request(w, j);
        w->run = (struct sched_run) { .v = &w->v, .config = w->c, .prefill = -1, .encode = -1 };
        w->run.profile[0].ran = true;
        w->run.profile[0].pick_count = 1;
        w->run.profile[0].pick[0] = count_of(json_get(j, "pick"), 0);
        w->t->type->dispatched(w->t, &w->run);
    }
}

static void warm(struct world *w, const struct json *row, const char *file, size_t index)
{
    struct sched_config_opts o = { .file = "row.yaml", .allow_experimental = true };
    const struct json *list;
    struct err e;
    int at;

    w->row = row;
    w->file = file;
    w->index = index;
    w->count = 0;
    arena_init(&w->arena, 16 << 20);
    rng_seed(&w->rng, 20260801 + index);
    if (sched_config_load(&w->c, json_get(row, "config")->text, &o, &e) != 0)
        fail_msg("%s row %zu: %s\n%.*s", file, index, e.msg, STR_ARG(row->span));
    w->p = sched_pipeline_new(w->c);
    at = sched_config_find(w->c, STR("t"));
    w->t = at >= 0 ? sched_pipeline_plugin(w->p, (uint32_t)at) : NULL;
    if (w->t != NULL)
        assert_true(str_eqz(json_get(row, "plugin")->text, w->t->type->type));
    list = json_get(row, "endpoints");
    assert_true(list->count <= ENDPOINTS_MAX);
    for (const struct json *j = list->first; j != NULL; j = j->next)
        endpoint(w, j, w->count++);
    history(w);
    request(w, json_get(row, "request"));
}

static void cool(struct world *w)
{
    sched_pipeline_free(w->p);
    sched_config_free(w->c);
    arena_fini(&w->arena);
}

/* ---- what is asked ---- */

static void ask_score(struct world *w, const struct json *expect)
{
    double out[ENDPOINTS_MAX], within = number(json_get(w->row, "within"), 1e-9);
    const struct json *j = expect->first;

    assert_int_equal(expect->count, w->count);
    for (uint32_t i = 0; i < w->count; i++)
        out[i] = NAN;
    w->t->type->score(w->t, &w->v, w->keep, out);
    for (uint32_t i = 0; i < w->count; i++, j = j->next)
        if (json_is(j, JSON_NULL) ? !isnan(out[i]) : !(fabs(out[i] - number(j, 0)) <= within))
            FAIL(w, "endpoint %u scored %.17g, not %.*s", i, out[i], STR_ARG(j->span));
}

static void ask_filter(struct world *w, const struct json *expect)
{
    const struct json *j = expect->first;
    bool keep[ENDPOINTS_MAX], want;

    memcpy(keep, w->keep, sizeof(keep));
    w->t->type->filter(w->t, &w->v, keep);
    for (uint32_t i = 0; i < w->count; i++, j = j->next)
        if (!json_bool(j, &want) || keep[i] != want)
            FAIL(w, "endpoint %u was%s kept", i, keep[i] ? "" : " not");
}

static void ask_pick(struct world *w, const struct json *expect)
{
    const double *scores = numbers(w, json_get(w->row, "scores"));
    uint32_t first[ENDPOINTS_MAX] = { 0 }, picked[ENDPOINTS_MAX] = { 0 }, got[SCHED_PICKS_MAX];

    for (unsigned k = 0; k < PICKS; k++) {
        uint32_t n = w->t->type->pick(w->t, &w->v, w->keep, scores, got, SCHED_PICKS_MAX);

        if (n != count_of(json_get(expect, "count"), 0)) {
            FAIL(w, "picked %u", n);
            return;
        }
        for (uint32_t i = 0; i < n; i++)
            picked[got[i]]++;
        if (n != 0)
            first[got[0]]++;
        if ((k & 255) == 255) { /* what lists a pick made may go */
            arena_fini(&w->arena);
            arena_init(&w->arena, 16 << 20);
            scores = numbers(w, json_get(w->row, "scores"));
        }
    }
    for (uint32_t i = 0; i < w->count; i++) {
        double a = number(json_at(json_get(expect, "first"), i), 0);
        double b = number(json_at(json_get(expect, "picked"), i), 0);

        if (fabs((double)first[i] / PICKS - a) > NEAR || (a == 0) != (first[i] == 0))
            FAIL(w, "endpoint %u came first in %g, not %g", i, (double)first[i] / PICKS, a);
        if (fabs((double)picked[i] / PICKS - b) > NEAR || (b == 0) != (picked[i] == 0))
            FAIL(w, "endpoint %u was picked in %g, not %g", i, (double)picked[i] / PICKS, b);
    }
}

/* How often each is kept. */
static void ask_screen(struct world *w, const struct json *expect)
{
    uint32_t kept[ENDPOINTS_MAX] = { 0 };
    struct arena *whole = w->v.arena, once;
    const struct json *j = expect->first;

    w->v.arena = &once;
    for (unsigned k = 0; k < PICKS; k++) {
        bool keep[ENDPOINTS_MAX];

        arena_init(&once, 1 << 20);
        memcpy(keep, w->keep, sizeof(keep));
        w->t->type->filter(w->t, &w->v, keep);
        for (uint32_t i = 0; i < w->count; i++)
            kept[i] += keep[i];
        arena_fini(&once);
    }
    w->v.arena = whole;
    for (uint32_t i = 0; i < w->count; i++, j = j->next) {
        double want = number(j, 0), got = (double)kept[i] / PICKS;

        if (fabs(got - want) > NEAR || ((want == 0 || want == 1) && got != want))
            FAIL(w, "endpoint %u was kept in %g, not %g", i, got, want);
    }
}

static void check_headers(struct world *w, const struct json *expect);

static void ask_respond(struct world *w, const struct json *expect)
{
    w->run = (struct sched_run) { .v = &w->v, .config = w->c, .prefill = -1, .encode = -1 };
    w->run.profile[0].ran = true;
    w->run.profile[0].pick_count = 1;
    w->run.profile[0].pick[0] = count_of(json_get(w->row, "pick"), 0);
    w->t->type->responded(w->t, &w->run);
    check_headers(w, expect);
}

static void ask_decide(struct world *w, const struct json *expect)
{
    bool want;

    if (!json_bool(expect, &want) ||
        w->t->type->decide(w->t, &w->v, count_of(json_get(w->row, "picked"), 0)) != want)
        FAIL(w, "decided otherwise");
}

static void check_headers(struct world *w, const struct json *expect)
{
    const struct json *list = json_get(expect, "headers");

    if (w->run.header_count != list->count)
        FAIL(w, "%u headers", w->run.header_count);
    for (uint32_t i = 0; i < w->run.header_count; i++)
        if (!str_eq(text_of(json_get(list, w->run.header[i].name.p), STR("")),
                    w->run.header[i].value))
            FAIL(w, "header %.*s: %.*s", STR_ARG(w->run.header[i].name),
                 STR_ARG(w->run.header[i].value));
    list = json_get(expect, "dropped");
    for (const struct json *j = list != NULL ? list->first : NULL; j != NULL; j = j->next) {
        bool is_there = false;

        for (size_t i = 0; w->run.drop_headers != NULL && w->run.drop_headers[i] != NULL; i++)
            is_there |= str_eqz(j->text, w->run.drop_headers[i]);
        if (!is_there)
            FAIL(w, "the client's %.*s is forwarded", STR_ARG(j->text));
    }
}

static void ask_run(struct world *w, const struct json *expect)
{
    struct str says = text_of(json_get(expect, "message"), STR(""));
    struct str reason = text_of(json_get(expect, "reason"), STR(""));

    w->run = (struct sched_run) { .v = &w->v };
    sched_pipeline_run(w->p, &w->run);
    if (w->run.status != (int)number(json_get(expect, "status"), 0) ||
        !str_starts(str_of(w->run.message), says) ||
        (reason.n != 0 && (w->run.reason == NULL || !str_eqz(reason, w->run.reason)))) {
        FAIL(w, "%d %s: %s", w->run.status, w->run.reason != NULL ? w->run.reason : "-",
             w->run.message);
        return;
    }
    if (w->run.status != 0)
        return;
    if (!str_eq(w->c->profile[w->run.primary].name, json_get(expect, "primary")->text) ||
        !str_eq(w->ep[sched_run_pick(&w->run, w->run.primary)].address,
                json_get(expect, "destination")->text) ||
        w->run.primary_port != count_of(json_get(expect, "port"), 0))
        FAIL(w, "profile %.*s, port %u", STR_ARG(w->c->profile[w->run.primary].name),
             w->run.primary_port);
    sched_pipeline_dispatched(w->p, &w->run);
    check_headers(w, expect);
}

static void ask_prefix(struct world *w, const struct json *expect)
{
    const struct sched_prefix *f;

    w->t->type->produce(w->t, &w->v);
    f = sched_view_prefix(&w->v, w->t->name);
    if (f == NULL) {
        FAIL(w, "nothing was given");
        return;
    }
    if (f->total_blocks != count_of(json_get(expect, "total"), 0) ||
        f->block_tokens != count_of(json_get(expect, "block"), 0))
        FAIL(w, "%u blocks of %u", f->total_blocks, f->block_tokens);
    for (uint32_t i = 0; i < w->count; i++)
        if (f->match_blocks[i] != count_of(json_at(json_get(expect, "match"), i), 0) ||
            f->cached_blocks[i] != count_of(json_at(json_get(expect, "cached"), i), 0))
            FAIL(w, "endpoint %u: %u match, %u cached", i, f->match_blocks[i], f->cached_blocks[i]);
}

/* A number in a list of them. */
static bool has(const struct json *list, double n)
{
    for (const struct json *j = list->first; j != NULL; j = j->next)
        if (number(j, -1) == n)
            return true;
    return false;
}

/* All join one window; each then asks where it was placed. */
static void ask_burst(struct world *w, const struct json *expect)
{
    const struct json *list = json_get(w->row, "requests"), *total = json_get(w->row, "total");
    uint32_t window = count_of(json_get(w->row, "window"), 0);
    uint32_t opened = 1000 + count_of(json_at(json_get(w->row, "joined"), 0), 0) % 2;

    for (uint32_t i = 0; i < list->count; i++) {
        request(w, json_at(list, i));
        w->r.held = i + 1;
        w->v.now_ms = 1000 + i % 2;
        if (w->t->type->hold(w->t, &w->v) !=
            (has(json_get(w->row, "joined"), i) ? window + opened - w->v.now_ms : 0))
            FAIL(w, "request %u waits otherwise", i);
    }
    for (uint32_t i = 0; i < list->count; i++) {
        double at = number(json_at(expect, i), -1);
        const struct sched_prefix *f;

        request(w, json_at(list, i));
        w->r.held = i + 1;
        w->v.now_ms = opened + window;
        w->t->type->produce(w->t, &w->v);
        f = sched_view_prefix(&w->v, w->t->name);
        if (f == NULL || f->total_blocks != count_of(json_at(total, i), 0)) {
            FAIL(w, "request %u has other blocks", i);
            continue;
        }
        for (uint32_t k = 0; k < w->count; k++)
            if (f->match_blocks[k] != (k == at ? f->total_blocks : 0))
                FAIL(w, "request %u: endpoint %u matches %u", i, k, f->match_blocks[k]);
    }
}

static void ask_uncached(struct world *w, const struct json *expect)
{
    w->t->type->produce(w->t, &w->v);
    for (uint32_t i = 0; i < w->count; i++)
        if (w->v.uncached_tokens == NULL ||
            w->v.uncached_tokens[i] != number(json_at(expect, i), 0))
            FAIL(w, "endpoint %u: %g tokens", i,
                 w->v.uncached_tokens != NULL ? w->v.uncached_tokens[i] : NAN);
}

static void ask_attribute(struct world *w, const struct json *expect)
{
    struct str got;

    w->t->type->produce(w->t, &w->v);
    got = sched_view_attribute(&w->v, json_get(w->row, "key")->text,
                               text_of(json_get(w->row, "producer"), w->t->name));
    if (json_is(expect, JSON_NULL) ? got.p != NULL : (got.p == NULL || !str_eq(got, expect->text)))
        FAIL(w, "attribute \"%.*s\"", STR_ARG(got));
}

static void ask_served(struct world *w, const struct json *expect)
{
    const struct json *endpoint = json_get(w->row, "served");
    struct sched_served s = { .is_reported = json_is(json_get(w->row, "reported"), JSON_TRUE),
                              .endpoint = text_of(endpoint, STR_NONE) };
    struct sched_header got = w->t->type->served(w->t, &s);

    if (!str_eqz(got.name, "x-conformance-test-served-endpoint") ||
        !str_eq(got.value, expect->text))
        FAIL(w, "%.*s: %.*s", STR_ARG(got.name), STR_ARG(got.value));
}

static void ask_report(struct world *w, const struct json *expect)
{
    static const char *const names[] = { "prompt", "completion", "total", "cached" };
    const struct json *usage = json_get(w->row, "usage");
    struct sched_report got = { 0 };
    struct usage_values u;

    for (size_t i = 0; i < COUNT(names); i++) {
        u.known[i] = json_get(usage, names[i]) != NULL;
        u.value[i] = number(json_get(usage, names[i]), NAN);
    }
    if (!w->t->type->report(w->t, &u, &got))
        got.value = 0;
    if (got.value != number(json_get(expect, "value"), 0) ||
        (got.value != 0 && (!str_eq(got.space, json_get(expect, "space")->text) ||
                            !str_eq(got.name, json_get(expect, "name")->text))))
        FAIL(w, "%.*s %.*s: %.17g", STR_ARG(got.space), STR_ARG(got.name), got.value);
}

static void ask_predict(struct world *w, const struct json *expect)
{
    const struct json *j = expect->first;

    w->t->type->produce(w->t, &w->v);
    if ((w->v.prediction != NULL) != json_is(expect, JSON_ARRAY)) {
        FAIL(w, "predicted%s", w->v.prediction != NULL ? "" : " nothing");
        return;
    }
    for (uint32_t i = 0; i < w->count && w->v.prediction != NULL; i++, j = j->next) {
        const struct sched_prediction *p = &w->v.prediction[i];

        if (fabs(p->ttft_ms - number(json_get(j, "ttft"), NAN)) > 1e-6 ||
            fabs(p->tpot_ms - number(json_get(j, "tpot"), NAN)) > 1e-6 ||
            fabs(p->ttft_headroom_ms - number(json_get(j, "ttft_headroom"), NAN)) > 1e-6 ||
            fabs(p->tpot_headroom_ms - number(json_get(j, "tpot_headroom"), NAN)) > 1e-6 ||
            p->ttft_valid != json_is(json_get(j, "ttft_valid"), JSON_TRUE) ||
            p->tpot_valid != json_is(json_get(j, "tpot_valid"), JSON_TRUE) ||
            p->dispatched != count_of(json_get(j, "dispatched"), 0))
            FAIL(w, "endpoint %u: ttft %g (%g), tpot %g (%g)", i, p->ttft_ms, p->ttft_headroom_ms,
                 p->tpot_ms, p->tpot_headroom_ms);
    }
}

static void picked(struct world *w, const char *profile, uint32_t pick)
{
    int at = sched_config_profile(w->c, str_of(profile));

    assert_true(at >= 0);
    w->run.profile[at] = (struct sched_profile_result) { .ran = true, .pick_count = 1 };
    w->run.profile[at].pick[0] = pick;
}

static void ask_dispatch(struct world *w, const struct json *expect)
{
    const struct json *prefill = json_get(w->row, "prefill");

    w->run = (struct sched_run) { .v = &w->v, .config = w->c, .prefill = -1, .encode = -1 };
    picked(w, "decode", count_of(json_get(w->row, "pick"), 0));
    w->run.primary = sched_config_profile(w->c, STR("decode"));
    if (!json_is(prefill, JSON_NULL))
        picked(w, "prefill", count_of(prefill, 0));
    w->t->type->produce(w->t, &w->v);
    w->t->type->dispatched(w->t, &w->run);
    check_headers(w, expect);
}

static void ask_admit(struct world *w, const struct json *expect)
{
    double want = number(expect, 0);
    uint32_t yes = 0;

    for (unsigned k = 0; k < PICKS; k++)
        yes += w->t->type->admit(w->t, &w->v);
    if (fabs((double)yes / PICKS - want) > NEAR || (want == 0 && yes != 0) ||
        (want == 1 && yes != PICKS))
        FAIL(w, "admitted %g, not %g", (double)yes / PICKS, want);
}

static void ask_saturation(struct world *w, const struct json *expect)
{
    double got = flow_saturation(w->p, &w->c->flow, w->ep, w->count, w->v.now_ms, NULL);

    if (!(fabs(got - number(expect, 0)) <= 1e-9 * MAX(1, got)))
        FAIL(w, "saturation %.17g", got);
}

/* ---- a script of queues ---- */

#define ITEMS_MAX 128

static void one_next(struct world *w, struct flow *f, const struct flow_item *items,
                     const struct json *op, const struct json *want)
{
    struct flow_fleet fleet = { .saturation = number(json_get(op, "saturation"), 0) };
    struct flow_item *it = flow_next(f, &fleet, (uint64_t)number(json_get(op, "at"), 0));
    long got = it != NULL ? it - items : -1;

    if (got != (long)number(want, 0))
        FAIL(w, "at %g: item %ld went, not %.*s", number(json_get(op, "at"), 0), got,
             STR_ARG(want->span));
}

static void ask_flow(struct world *w, const struct json *expect)
{
    static const struct flow_fleet full = { .saturation = 1 };
    struct flow *f = flow_new(&w->c->flow, w->p);
    struct flow_item items[ITEMS_MAX] = { 0 };
    const struct json *want = expect->first, *op;
    uint32_t n = 0;

    for (const struct json *j = json_get(w->row, "ops")->first; j != NULL; j = j->next) {
        if ((op = json_get(j, "enqueue")) != NULL) {
            assert_true(n < ITEMS_MAX);
            items[n] = (struct flow_item) {
                .fairness_id = json_get(op, "tenant")->text,
                .priority = (int32_t)number(json_get(op, "priority"), 0),
                .tokens = 10,
                .bytes = 10,
                .received_ms = (uint64_t)number(json_get(op, "received"), 0),
                .slo_ttft_ms = number(json_get(op, "slo"), 0),
            };
            assert_int_equal(
                flow_enqueue(f, &items[n++], &full, (uint64_t)number(json_get(op, "at"), 0)),
                FLOW_DISPATCHED);
        } else if ((op = json_get(j, "settle")) != NULL) {
            flow_settle(f, json_get(op, "tenant")->text,
                        (int32_t)number(json_get(op, "priority"), 0), 10,
                        number(json_get(op, "prompt"), 0), number(json_get(op, "answer"), 0),
                        (uint64_t)number(json_get(op, "at"), 0));
        } else {
            one_next(w, f, items, json_get(j, "next"), want);
            want = want->next;
        }
    }
    for (uint32_t i = 0; i < n; i++)
        flow_remove(f, &items[i]);
    flow_free(f);
}

/* ---- a script of requests in flight ---- */

static void one_choice(struct world *w, struct flow *f, struct evict *ev,
                       const struct flow_item *items, const struct evict_item *flying,
                       const struct json *op, const struct json *want)
{
    struct flow_fleet fleet = { .saturation = number(json_get(op, "saturation"), 0) };
    uint64_t at = (uint64_t)number(json_get(op, "at"), 0);
    const struct json *victims = json_get(want, "victims");
    struct flow_item *it = flow_next(f, &fleet, at);
    struct evict_item *out[EVICT_MAX];
    uint32_t n = 0;
    struct flow_demand demand;

    if ((it != NULL ? it - items : -1) != (long)number(json_get(want, "item"), 0))
        FAIL(w, "at %llu: another item went", (unsigned long long)at);
    if (it == NULL && flow_queued(f) != 0)
        (void)evict_expire(ev, at);
    if (it == NULL && flow_demand(f, &demand))
        n = evict_choose(ev, &demand, fleet.saturation, at, out);
    if (n != victims->count)
        FAIL(w, "at %llu: %u end, not %.*s", (unsigned long long)at, n, STR_ARG(victims->span));
    for (uint32_t i = 0; i < n && i < victims->count; i++)
        if (out[i] - flying != (long)number(json_at(victims, i), 0))
            FAIL(w, "at %llu: %ld ends, not %.*s", (unsigned long long)at, (long)(out[i] - flying),
                 STR_ARG(victims->span));
}

static void ask_evict(struct world *w, const struct json *expect)
{
    struct evict ev = { .grace_ms = count_of(json_get(w->row, "grace"), 0) };
    static const struct flow_fleet full = { .saturation = 1 };
    struct flow *f = flow_new(&w->c->flow, w->p);
    struct flow_item items[ITEMS_MAX] = { 0 };
    struct evict_item flying[ITEMS_MAX] = { 0 };
    const struct json *want = expect->first, *op;
    uint32_t queued = 0, begun = 0;
    uint64_t waited;

    assert_true(w->c->flow.eviction);
    for (const struct json *j = json_get(w->row, "ops")->first; j != NULL; j = j->next) {
        assert_true(queued < ITEMS_MAX && begun < ITEMS_MAX);
        if ((op = json_get(j, "enqueue")) != NULL) {
            items[queued].priority = (int32_t)number(json_get(op, "priority"), 0);
            items[queued].fairness_id = STR("a");
            assert_int_equal(
                flow_enqueue(f, &items[queued++], &full, (uint64_t)number(json_get(op, "at"), 0)),
                FLOW_DISPATCHED);
        } else if ((op = json_get(j, "begin")) != NULL) {
            evict_track(&ev, &flying[begun++], (int32_t)number(json_get(op, "priority"), 0));
        } else if ((op = json_get(j, "end")) != NULL) {
            (void)evict_end(&ev, &flying[count_of(json_get(op, "id"), 0)],
                            (uint64_t)number(json_get(op, "at"), 0), &waited);
        } else {
            one_choice(w, f, &ev, items, flying, json_get(j, "next"), want);
            want = want->next;
        }
    }
    for (uint32_t i = 0; i < queued; i++)
        flow_remove(f, &items[i]);
    flow_free(f);
}

/* ---- all rows ---- */

static const struct {
    const char *kind;
    void (*ask)(struct world *w, const struct json *expect);
} kinds[] = {
    { "score", ask_score },           { "filter", ask_filter }, { "pick", ask_pick },
    { "decide", ask_decide },         { "run", ask_run },       { "prefix", ask_prefix },
    { "uncached", ask_uncached },     { "admit", ask_admit },   { "attribute", ask_attribute },
    { "saturation", ask_saturation }, { "flow", ask_flow },     { "predict", ask_predict },
    { "dispatch", ask_dispatch },     { "screen", ask_screen }, { "respond", ask_respond },
    { "served", ask_served },         { "report", ask_report }, { "burst", ask_burst },
    { "evict", ask_evict },
};

static void ask(struct world *w)
{
    for (size_t i = 0; i < COUNT(kinds); i++)
        if (str_eqz(json_get(w->row, "kind")->text, kinds[i].kind)) {
            kinds[i].ask(w, json_get(w->row, "expect"));
            return;
        }
    fail_msg("kind %.*s", STR_ARG(json_get(w->row, "kind")->text));
}

static void rows_of(const char *name)
{
    struct world *w = mem_zalloc(sizeof(*w));
    const struct json *rows = NULL;
    size_t index = 0, wrong = 0;
    struct arena arena;
    struct buf text;
    char path[512];
    struct err e;

    snprintf(path, sizeof(path), GOLDEN "/sched_%s.json", name);
    buf_init(&text, 16 << 20);
    arena_init(&arena, 256 << 20);
    if (file_read(path, &text, &e) != 0 ||
        json_parse(&arena, buf_view(&text), NULL, &rows, &e) != 0)
        fail_msg("%s: %s", path, e.msg);
    for (const struct json *j = rows->first; j != NULL; j = j->next) {
        warm(w, j, name, index++);
        ask(w);
        wrong += w->index >> 62;
        cool(w);
    }
    buf_fini(&text);
    arena_fini(&arena);
    mem_free(w);
    assert_true(index > 50);
    if (wrong != 0)
        fail_msg("%zu of %zu rows of %s", wrong, index, name);
}

static void scorers_follow_their_formulas(void **state)
{
    (void)state;
    rows_of("scorers");
}

static void filters_keep_who_is_documented(void **state)
{
    (void)state;
    rows_of("filters");
}

static void pickers_have_the_documented_chances(void **state)
{
    (void)state;
    rows_of("pickers");
}

static void handlers_and_deciders_run_the_documented_stages(void **state)
{
    (void)state;
    rows_of("handlers");
}

static void producers_and_admitters_say_what_is_documented(void **state)
{
    (void)state;
    rows_of("producers");
}

static void queues_and_detectors_follow_their_policies(void **state)
{
    (void)state;
    rows_of("flow");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scorers_follow_their_formulas),
        cmocka_unit_test(filters_keep_who_is_documented),
        cmocka_unit_test(pickers_have_the_documented_chances),
        cmocka_unit_test(handlers_and_deciders_run_the_documented_stages),
        cmocka_unit_test(producers_and_admitters_say_what_is_documented),
        cmocka_unit_test(queues_and_detectors_follow_their_policies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
