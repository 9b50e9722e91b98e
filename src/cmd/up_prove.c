/* llmd up --check: each promise of the design that exists so far, by real requests.
 *
 * A proof states what it did and what it saw; a promise that cannot be proved
 * on this set-up (no prefill worker, a base model) is said to be skipped, never
 * passed. */
// SPDX-License-Identifier: Apache-2.0
#include "base/arena.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cmd/up.h"
#include "net/http.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define PATIENCE_MAX_MS 24000
#define SETTLE_MS       5000
#define LONG_WORDS      1200

enum verdict { KEPT, BROKEN, SKIPPED };

struct proof {
    const struct endpoint *door;
    const struct up_state *s;
    char saw[400];
};

/* ---- small requests ---- */

static int post(const struct endpoint *at, const char *path, struct str body, const char *header,
                const char *value, int *status, struct buf *reply)
{
    struct http_header h[2] = { { STR("Content-Type"), STR("application/json") },
                                { str_of(header), str_of(value) } };
    struct http_call_opts o = { .host = at->host,
                                .port = at->port,
                                .method = STR("POST"),
                                .path = str_of(path),
                                .body = body,
                                .total_ms = 120000,
                                .headers = { h, header != NULL ? 2 : 1 } };
    struct err e;

    return http_fetch(&o, status, reply, NULL, NULL, &e);
}

static double part_metric(const char *address, const char *name, const char *label)
{
    struct endpoint at;
    struct buf b;
    struct err e;
    double v = -1;
    int status;

    buf_init(&b, (size_t)4 << 20);
    if (endpoint_parse_url(address, &at, &e) == 0 &&
        endpoint_get(&at, "/metrics", 2000, &status, &b, &e) == 0 && status == 200)
        v = prom_sum(buf_view(&b), name, label);
    buf_fini(&b);
    return v;
}

static bool is_worker(const struct up_part *p)
{
    return strcmp(p->role, "scheduler") != 0 && strcmp(p->role, "cache") != 0;
}

static double workers_sum(const struct proof *p, const char *name, const char *label)
{
    double v = 0;

    for (size_t i = 0; i < p->s->count; i++)
        if (is_worker(&p->s->part[i]))
            v += part_metric(p->s->part[i].address, name, label);
    return v;
}

static const struct up_part *part_of(const struct proof *p, const char *role)
{
    for (size_t i = 0; i < p->s->count; i++)
        if (strcmp(p->s->part[i].role, role) == 0)
            return &p->s->part[i];
    return NULL;
}

/* A completion body with a prompt of `words` numbered words, different for each tag. */
static void completion_body(const struct proof *p, struct buf *b, const char *tag, uint32_t words,
                            uint32_t max_tokens, bool stream)
{
    struct json_w w;
    struct buf prompt;

    buf_init(&prompt, (size_t)1 << 20);
    buf_f(&prompt, "A list named %s:", tag);
    for (uint32_t i = 0; i < words; i++)
        buf_f(&prompt, " item %u,", i);
    json_w_init(&w, b);
    json_w_obj(&w);
    json_w_kz(&w, "model", p->s->model);
    json_w_kstr(&w, "prompt", buf_view(&prompt));
    json_w_ku64(&w, "max_tokens", max_tokens);
    json_w_kf64(&w, "temperature", 0);
    json_w_kbool(&w, "stream", stream);
    json_w_kbool(&w, "ignore_eos", true);
    json_w_end(&w, '}');
    buf_fini(&prompt);
}

/* Asks and returns the answer's text span as JSON bytes; false when it is no 200. */
static bool complete(const struct proof *p, const struct endpoint *at, const char *tag,
                     uint32_t words, const char *header, const char *value, struct buf *text)
{
    const struct json *j;
    struct buf body, reply;
    struct arena a;
    struct err e;
    struct str s;
    int status = 0;
    bool ok;

    arena_init(&a, (size_t)4 << 20);
    buf_init(&body, (size_t)1 << 20);
    buf_init(&reply, (size_t)1 << 20);
    completion_body(p, &body, tag, words, 16, false);
    ok = post(at, "/v1/completions", buf_view(&body), header, value, &status, &reply) == 0 &&
         status == 200 && json_parse(&a, buf_view(&reply), NULL, &j, &e) == 0 &&
         json_str(json_get(json_at(json_get(j, "choices"), 0), "text"), &s);
    if (ok)
        buf_str(text, s);
    buf_fini(&reply);
    buf_fini(&body);
    arena_fini(&a);
    return ok;
}

/* ---- the promises ---- */

static enum verdict prove_loud(struct proof *p)
{
    const struct up_part *d =
        part_of(p, "decode") != NULL ? part_of(p, "decode") : part_of(p, "both");
    struct endpoint at;
    struct buf text;
    struct err e;
    double before, after;
    bool ok;

    if (d == NULL || endpoint_parse_url(d->address, &at, &e) != 0)
        return SKIPPED;
    buf_init(&text, 65536);
    before = part_metric(d->address, "llmd_remote_prefill_total", "reason=\"connect\"");
    ok = complete(p, &at, "loud", 40, "x-prefiller-host-port", "127.0.0.1:9", &text);
    after = part_metric(d->address, "llmd_remote_prefill_total", "reason=\"connect\"");
    snprintf(p->saw, sizeof(p->saw),
             "a prefill worker that is not there: answered %s, counter with reason %+.0f",
             ok ? "anyway" : "with an error", after - before);
    buf_fini(&text);
    return ok && after == before + 1 ? KEPT : BROKEN;
}

static enum verdict prove_ours(struct proof *p)
{
    const struct up_part *d = part_of(p, "decode");
    struct endpoint at;
    struct buf split, alone;
    struct err e;
    double before, moved, bad;
    bool ok;

    if (d == NULL || part_of(p, "prefill") == NULL ||
        endpoint_parse_url(d->address, &at, &e) != 0) {
        snprintf(p->saw, sizeof(p->saw), "no prefill worker in this set-up");
        return SKIPPED;
    }
    buf_init(&split, 65536);
    buf_init(&alone, 65536);
    before = part_metric(d->address, "llmd_kvx_bytes_total", "dir=\"recv\"");
    ok = complete(p, p->door, "ours", 200, NULL, NULL, &split);
    moved = part_metric(d->address, "llmd_kvx_bytes_total", "dir=\"recv\"") - before;
    {
        struct buf none;
        int status;

        buf_init(&none, 65536);
        ok = ok && post(&at, "/reset_prefix_cache", STR("{}"), NULL, NULL, &status, &none) == 0 &&
             status == 200;
        buf_fini(&none);
    }
    ok = ok && complete(p, &at, "ours", 200, NULL, NULL, &alone);
    bad = workers_sum(p, "llmd_kvx_verify_failures_total", NULL);
    snprintf(p->saw, sizeof(p->saw),
             "%.0f KB handed over and verified, %.0f refused; text %s to one worker's own",
             moved / 1e3, bad,
             ok && str_eq(buf_view(&split), buf_view(&alone)) ? "identical" : "DIFFERENT");
    ok = ok && moved > 0 && bad == 0 && str_eq(buf_view(&split), buf_view(&alone));
    buf_fini(&split);
    buf_fini(&alone);
    return ok ? KEPT : BROKEN;
}

static enum verdict prove_ceiling(struct proof *p)
{
    struct buf body, reply;
    int too_long = 0, too_big = 0, unknown = 0;

    buf_init(&body, (size_t)32 << 20);
    buf_init(&reply, (size_t)1 << 20);
    completion_body(p, &body, "ceiling", 20, 100000000, false);
    (void)post(p->door, "/v1/completions", buf_view(&body), NULL, NULL, &too_long, &reply);
    buf_reset(&body);
    buf_reset(&reply);
    buf_z(&body, "{\"model\":\"no-such-model\",\"prompt\":\"x\"}");
    (void)post(p->door, "/v1/completions", buf_view(&body), NULL, NULL, &unknown, &reply);
    buf_reset(&body);
    buf_reset(&reply);
    buf_z(&body, "{\"prompt\":\"");
    while (body.len < ((size_t)17 << 20))
        buf_z(&body, "0123456789012345678901234567890123456789012345678901234567890123");
    buf_z(&body, "\"}");
    (void)post(p->door, "/v1/completions", buf_view(&body), NULL, NULL, &too_big, &reply);
    snprintf(p->saw, sizeof(p->saw), "past the context: %d, body of 17 MB: %d, unknown model: %d",
             too_long, too_big, unknown);
    buf_fini(&reply);
    buf_fini(&body);
    return too_long == 400 && (too_big == 413 || too_big == 0) && unknown == 404 ? KEPT : BROKEN;
}

static bool settles(const struct proof *p, double *left)
{
    uint64_t deadline = clock_ms() + SETTLE_MS;

    do {
        *left = workers_sum(p, "llmd_blocks_in_use", NULL);
        if (*left == 0)
            return true;
        clock_sleep_ms(50);
    } while (clock_ms() < deadline);
    return false;
}

/* A stream on a thread of its own: notes the times of its pieces; may be cut after the first. */
struct stream {
    const struct endpoint *at;
    struct buf body;
    uint32_t total_ms;
    int rc; /* ERR_TIMEOUT when the client left by itself */
    uint32_t pieces;
    uint64_t last_ns, gap_max_ns;
    _Atomic bool running;
};

static void on_piece(void *ctx, struct str bytes)
{
    struct stream *s = ctx;
    uint64_t now = clock_ns();

    (void)bytes;
    if (s->pieces++ != 0)
        s->gap_max_ns = MAX(s->gap_max_ns, now - s->last_ns);
    s->last_ns = now;
    s->running = true; /* seq_cst: read by the thread that started us */
}

static void *stream_thread(void *ctx)
{
    struct stream *s = ctx;
    struct http_header h = { STR("Content-Type"), STR("application/json") };
    struct http_call_opts o = { .host = s->at->host,
                                .port = s->at->port,
                                .method = STR("POST"),
                                .path = STR("/v1/completions"),
                                .body = buf_view(&s->body),
                                .total_ms = s->total_ms,
                                .headers = { &h, 1 } };
    struct err e;
    int status;

    s->rc = http_fetch(&o, &status, NULL, on_piece, s, &e);
    s->running = true; /* whoever waits for the first piece must not wait for ever */
    return NULL;
}

static enum verdict prove_cancel(struct proof *p)
{
    struct stream s = { .at = p->door, .total_ms = 1500 };
    pthread_t t;
    double left = 0;
    bool free_again;

    buf_init(&s.body, (size_t)1 << 20);
    completion_body(p, &s.body, "cancel", 60, 1000, true);
    /* The client gives up in the middle of the answer; where that has not begun yet, the machine is
     * slow, and the next one has twice the patience. */
    for (; s.pieces == 0 && s.total_ms <= PATIENCE_MAX_MS; s.total_ms *= 2) {
        if (pthread_create(&t, NULL, stream_thread, &s) != 0)
            return SKIPPED;
        pthread_join(t, NULL);
    }
    free_again = settles(p, &left);
    snprintf(p->saw, sizeof(p->saw),
             "client left after %u pieces; KV blocks in use on all workers: %.0f", s.pieces, left);
    buf_fini(&s.body);
    return free_again && s.pieces > 0 && s.rc == ERR_TIMEOUT ? KEPT : BROKEN;
}

static enum verdict prove_no_freeze(struct proof *p)
{
    struct stream alone = { .at = p->door, .total_ms = 120000 },
                  beside = { .at = p->door, .total_ms = 120000 };
    struct buf text;
    uint64_t limit;
    pthread_t t;
    bool ok, started;

    buf_init(&text, 65536);
    buf_init(&alone.body, (size_t)1 << 20);
    buf_init(&beside.body, (size_t)1 << 20);
    completion_body(p, &alone.body, "alone", 10, 60, true);
    completion_body(p, &beside.body, "beside", 10, 120, true);
    (void)stream_thread(&alone);
    started = ok = pthread_create(&t, NULL, stream_thread, &beside) == 0;
    while (ok && !beside.running)
        clock_sleep_ms(5);
    ok = ok && complete(p, p->door, "freeze", LONG_WORDS / 4, NULL, NULL, &text);
    if (started)
        pthread_join(t, NULL);
    /* A step with a chunk in it is bounded by its budget (50 ms) on top of the decode itself;
     * two cores are shared by everybody here, hence the factor. */
    limit = 10 * MAX(alone.gap_max_ns, (uint64_t)50000000);
    snprintf(p->saw, sizeof(p->saw),
             "longest gap of a stream: %.0f ms alone, %.0f ms beside a long prompt",
             (double)alone.gap_max_ns / 1e6, (double)beside.gap_max_ns / 1e6);
    buf_fini(&alone.body);
    buf_fini(&beside.body);
    buf_fini(&text);
    return ok && alone.rc == 0 && beside.rc == 0 && beside.gap_max_ns <= limit ? KEPT : BROKEN;
}

static enum verdict prove_small(struct proof *p)
{
    size_t roles = 0;

    roles += part_of(p, "scheduler") != NULL;
    roles += part_of(p, "cache") != NULL;
    for (size_t i = 0; i < p->s->count; i++)
        roles += is_worker(&p->s->part[i]) ? 1 : 0;
    snprintf(p->saw, sizeof(p->saw), "%zu parts run and are ready on this machine", roles);
    return roles == p->s->count && roles >= 3 ? KEPT : BROKEN;
}

static enum verdict prove_names(struct proof *p)
{
    static const char *const names[] = { "vllm:num_requests_waiting", "vllm:num_requests_running",
                                         "vllm:kv_cache_usage_perc", "vllm:prefix_cache_hits_total",
                                         "vllm:time_to_first_token_seconds_bucket" };
    uint32_t missing = 0, workers = 0;

    for (size_t i = 0; i < p->s->count; i++) {
        struct endpoint at;
        struct buf b;
        struct err e;
        int status;

        if (!is_worker(&p->s->part[i]))
            continue;
        workers++;
        buf_init(&b, (size_t)4 << 20);
        if (endpoint_parse_url(p->s->part[i].address, &at, &e) != 0 ||
            endpoint_get(&at, "/metrics", 2000, &status, &b, &e) != 0)
            missing++;
        for (size_t k = 0; k < COUNT(names); k++)
            missing += str_find(buf_view(&b), str_of(names[k])) == SIZE_MAX;
        buf_fini(&b);
    }
    snprintf(p->saw, sizeof(p->saw), "%zu vLLM metric names on %u workers, %u missing",
             COUNT(names), workers, missing);
    return missing == 0 ? KEPT : BROKEN;
}

uint32_t up_prove(const struct endpoint *door, const struct up_state *s)
{
    static const struct {
        const char *promise;
        enum verdict (*prove)(struct proof *p);
    } rows[] = {
        { "1 never degrades silently", prove_loud },
        { "2 only KV that is proved ours", prove_ours },
        { "3 a ceiling for everything", prove_ceiling },
        { "4 cancelled means free", prove_cancel },
        { "5 long prompts freeze nobody", prove_no_freeze },
        { "7 small machines are first class", prove_small },
        { "8 names are an interface", prove_names },
    };
    static const char *const words[] = { "kept", "BROKEN", "skipped" };
    struct proof p = { .door = door, .s = s };
    uint32_t broken = 0;

    printf("\n%-34s %-8s %s\n", "PROMISE", "", "WHAT WAS SEEN");
    for (size_t i = 0; i < COUNT(rows); i++) {
        enum verdict v;

        p.saw[0] = 0;
        v = rows[i].prove(&p);
        broken += v == BROKEN;
        printf("%-34s %-8s %s\n", rows[i].promise, words[v], p.saw);
        fflush(stdout);
    }
    return broken;
}
