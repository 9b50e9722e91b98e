/* Samples are kept whole and sorted at the end; times are milliseconds in the report. */
// SPDX-License-Identifier: Apache-2.0
#include "load_stats.h"
#include "base/check.h"
#include "base/mem.h"
#include "codec/json.h"
#include <stdio.h>
#include <stdlib.h>

#define SAMPLES_MAX ((size_t)8 << 20)

static const char *const error_names[LOAD_ERRORS] = {
    [LOAD_CONNECT] = "connect", [LOAD_CLOSED] = "closed", [LOAD_CUT] = "cut",
    [LOAD_TIMEOUT] = "timeout", [LOAD_BAD] = "bad_http",  [LOAD_EVENT] = "error_event",
    [LOAD_NO_DONE] = "no_done",
};

void series_add(struct series *s, double v)
{
    if (s->n == s->cap) {
        if (s->cap >= SAMPLES_MAX)
            return;
        s->cap = MAX(2 * s->cap, (size_t)1024);
        s->v = mem_realloc(s->v, s->cap * sizeof(*s->v));
    }
    s->v[s->n++] = v;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

double series_at(struct series *s, double q)
{
    size_t at;

    if (s->n == 0)
        return 0;
    qsort(s->v, s->n, sizeof(*s->v), by_value);
    at = (size_t)(q * (double)s->n);
    return s->v[MIN(at, s->n - 1)];
}

static void add_series(struct json_w *w, const char *name, struct series *s)
{
    static const struct {
        const char *name;
        double q;
    } points[] = { { "p50", .5 }, { "p90", .9 }, { "p99", .99 }, { "max", 1 } };
    double sum = 0;

    json_w_kobj(w, name);
    json_w_ku64(w, "count", s->n);
    for (size_t i = 0; i < COUNT(points); i++)
        json_w_kf64(w, points[i].name, series_at(s, points[i].q));
    for (size_t i = 0; i < s->n; i++)
        sum += s->v[i];
    json_w_kf64(w, "mean", s->n != 0 ? sum / (double)s->n : 0);
    json_w_end(w, '}');
}

static void add_seconds(struct json_w *w, const char *name, const uint32_t *v, uint32_t n)
{
    json_w_karr(w, name);
    for (uint32_t i = 0; i < n; i++)
        json_w_u64(w, v[i]);
    json_w_end(w, ']');
}

static void merge(struct series *to, const struct series *from)
{
    for (size_t i = 0; i < from->n; i++)
        series_add(to, from->v[i]);
}

static void add_tenants(struct json_w *w, struct load_stats *st, const char *const *name,
                        uint32_t tenants, double window_s)
{
    json_w_kobj(w, "tenants");
    for (uint32_t i = 0; i < tenants; i++) {
        struct tenant_stats *t = &st->tenant[i];

        json_w_kobj(w, name[i]);
        json_w_ku64(w, "requests", t->begun);
        json_w_ku64(w, "ok", t->ok);
        json_w_ku64(w, "refused", t->refused);
        json_w_ku64(w, "failed", t->failed);
        json_w_ku64(w, "output_tokens", t->tokens);
        json_w_kf64(w, "output_tokens_per_s", (double)t->tokens / window_s);
        add_series(w, "ttft_ms", &t->ttft);
        add_series(w, "latency_ms", &t->total);
        json_w_end(w, '}');
    }
    json_w_end(w, '}');
}

static void add_errors(struct json_w *w, const struct load_stats *st)
{
    uint64_t all = 0;
    char text[16];

    for (int i = 0; i < LOAD_ERRORS; i++)
        all += st->error[i];
    json_w_ku64(w, "errors", all);
    json_w_kobj(w, "errors_by_kind");
    for (int i = 0; i < LOAD_ERRORS; i++)
        if (st->error[i] != 0)
            json_w_ku64(w, error_names[i], st->error[i]);
    json_w_end(w, '}');
    json_w_kobj(w, "by_status");
    for (int i = 0; i < 600; i++) {
        if (st->status[i] == 0)
            continue;
        (void)snprintf(text, sizeof(text), "%d", i);
        json_w_ku64(w, text, st->status[i]);
    }
    json_w_end(w, '}');
}

void load_report(struct load_stats *st, const char *const *name, uint32_t tenants, double window_s,
                 struct buf *out)
{
    struct tenant_stats all = { 0 };
    struct json_w w;

    for (uint32_t i = 0; i < tenants; i++) {
        all.begun += st->tenant[i].begun;
        all.ok += st->tenant[i].ok;
        all.refused += st->tenant[i].refused;
        merge(&all.ttft, &st->tenant[i].ttft);
        merge(&all.total, &st->tenant[i].total);
    }
    json_w_init(&w, out);
    json_w_obj(&w);
    json_w_kf64(&w, "window_s", window_s);
    json_w_ku64(&w, "requests", all.begun);
    json_w_ku64(&w, "ok", all.ok);
    json_w_kf64(&w, "requests_per_s", (double)st->ok_in_window / window_s);
    json_w_kf64(&w, "output_tokens_per_s", (double)st->tokens_in_window / window_s);
    add_errors(&w, st);
    json_w_ku64(&w, "refused", all.refused);
    json_w_ku64(&w, "aborted_by_us", st->aborted);
    json_w_ku64(&w, "stale_connections", st->stale);
    json_w_ku64(&w, "unsent", st->unsent);
    json_w_ku64(&w, "unfinished", st->unfinished);
    json_w_ku64(&w, "prompt_tokens", st->prompt_tokens);
    json_w_ku64(&w, "cached_tokens", st->cached_tokens);
    add_series(&w, "ttft_ms", &all.ttft);
    add_series(&w, "latency_ms", &all.total);
    add_series(&w, "gap_ms", &st->gap);
    json_w_kobj(&w, "retry_after");
    json_w_ku64(&w, "missing", st->refusals_without_promise);
    add_series(&w, "promised_s", &st->promised);
    add_series(&w, "waited_s", &st->waited);
    json_w_ku64(&w, "accepted_after", st->accepted_after);
    json_w_ku64(&w, "waiting_after", st->waiting_after);
    json_w_ku64(&w, "expired_after", st->expired_after);
    json_w_ku64(&w, "refused_after", st->refused_after);
    json_w_end(&w, '}');
    add_tenants(&w, st, name, tenants, window_s);
    add_seconds(&w, "ok_at", st->ok_at, st->seconds);
    add_seconds(&w, "tokens_at", st->tokens_at, st->seconds);
    add_seconds(&w, "refused_at", st->refused_at, st->seconds);
    json_w_end(&w, '}');
    mem_free(all.ttft.v);
    mem_free(all.total.v);
}

void load_stats_fini(struct load_stats *st)
{
    for (uint32_t i = 0; i < STATS_TENANTS; i++) {
        mem_free(st->tenant[i].ttft.v);
        mem_free(st->tenant[i].total.v);
    }
    mem_free(st->gap.v);
    mem_free(st->promised.v);
    mem_free(st->waited.v);
}
