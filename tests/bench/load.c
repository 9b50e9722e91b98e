/* A load generator for OpenAI-like servers: many users, each with a connection of its own.
 *
 *   closed loop (--rate 0): every user asks again as soon as it has its answer
 *   open loop (--rate R):   requests arrive at random moments, R a second on average, at idle users
 *
 *   user:  OFF --connect--> ASKING --head, body--> done --> IDLE or SLEEPING --> ASKING ...
 *
 * It is made to be light: texts are written once, a request is one buffer in which only a counter
 * changes, and of an answer only its last bytes are kept (its usage and end mark are there).
 * A prompt is: the text shared by its group, a counter that makes the rest unique, more text.
 * With --turns a user's next request repeats the conversation so far.
 *
 * Counted is what begins after the warm-up; rates are of what ends in the --seconds after it.  Then
 * nothing new begins, and what is under way has --drain-s to end.  The report goes to standard
 * output as one JSON object. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/opt.h"
#include "base/rng.h"
#include "codec/json.h"
#include "load_stats.h"
#include "net/conn.h"
#include "net/http1.h"
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define BYTES_PER_TOKEN 4
#define TAIL_BYTES      512
#define REQUEST_MAX     ((size_t)64 << 20)
#define ID_DIGITS       16
#define TICK_MS         250
#define PAUSE_MS        20   /* after an error */
#define TAKEN_IN_MS     1000 /* who is refused later than that was taken in, and waited */

struct options {
    const char *target, *path, *model;
    uint32_t connections, prompt_tokens, shared_tokens, groups, turns, max_tokens, slow_readers,
        slow_ms, think_ms, refused_ms;
    uint64_t requests, seed;
    double rate, seconds, warmup_s, drain_s, timeout_s, stagger_s, abort_fraction;
    struct opt_list tenants;
    bool stream, honour_retry_after;
};

#define AT(f) offsetof(struct options, f)

static const struct opt_desc table[] = {
    { "target", OPT_STR, AT(target), "127.0.0.1:8080", "ADDR:PORT", 0, 0, "the server" },
    { "path", OPT_STR, AT(path), "/v1/chat/completions", "PATH", 0, 0, "of chat requests" },
    { "model", OPT_STR, AT(model), "sim", "NAME", 0, 0, "asked for" },
    { "connections", OPT_U32, AT(connections), "16", "N", 1, 100000, "users" },
    { "rate", OPT_F64, AT(rate), "0", "R", 0, 0, "requests a second; 0: as fast as answered" },
    { "seconds", OPT_F64, AT(seconds), "5", "S", 0, 0, "to measure" },
    { "warmup-s", OPT_F64, AT(warmup_s), "0", "S", 0, 0, "before" },
    { "drain-s", OPT_F64, AT(drain_s), "10", "S", 0, 0, "after, for what is under way" },
    { "timeout-s", OPT_F64, AT(timeout_s), "60", "S", 0, 0, "of silence: the request failed" },
    { "stagger-s", OPT_F64, AT(stagger_s), "0", "S", 0, 0, "users begin within so long" },
    { "requests", OPT_U64, AT(requests), "0", "N", 0, 0, "end after so many; 0: by time" },
    { "prompt-tokens", OPT_U32, AT(prompt_tokens), "1000", "N", 16, 10000000,
      "of four bytes each" },
    { "shared-tokens", OPT_U32, AT(shared_tokens), "0", "N", 0, 10000000,
      "of them alike within a group" },
    { "groups", OPT_U32, AT(groups), "1", "N", 1, 100000, "of shared prefixes" },
    { "turns", OPT_U32, AT(turns), "1", "N", 1, 1000, "of a conversation" },
    { "think-ms", OPT_U32, AT(think_ms), "0", "MS", 0, 0, "between a user's requests" },
    { "max-tokens", OPT_U32, AT(max_tokens), "16", "N", 1, 1000000, "asked for" },
    { "stream", OPT_BOOL, AT(stream), "false", NULL, 0, 0, "ask for a stream" },
    { "abort-fraction", OPT_F64, AT(abort_fraction), "0", "F", 0, 0,
      "of requests that we leave after their first bytes" },
    { "slow-readers", OPT_U32, AT(slow_readers), "0", "N", 0, 100000, "users that read slowly" },
    { "slow-ms", OPT_U32, AT(slow_ms), "500", "MS", 1, 600000, "pause after each of their reads" },
    { "tenant", OPT_LIST, AT(tenants), NULL, "NAME:KEY:SHARE", 0, 0,
      "share of the users; NAME goes into the fairness header, KEY is the bearer token" },
    { "honour-retry-after", OPT_BOOL, AT(honour_retry_after), "false", NULL, 0, 0,
      "a refused user asks again after the promised time" },
    { "refused-ms", OPT_U32, AT(refused_ms), "100", "MS", 1, 600000, "else after so long" },
    { "seed", OPT_U64, AT(seed), "1", "N", 0, 0, "of texts and arrivals" },
};

struct tenant {
    char *name, *key;
    double upto; /* cumulated share */
};

enum user_state { USER_OFF, USER_IDLE, USER_SLEEPING, USER_ASKING };

struct user {
    struct load *load;
    struct conn *conn;
    struct http1 parser;
    struct buf request, talk; /* talk: messages of the conversation so far */
    struct loop_timer *timer;
    enum user_state state;
    uint32_t index, tenant, group, turn;
    size_t id_at;         /* of the counter in request; 0: the request must be written anew */
    uint64_t begun_ns;    /* of the request; 0 after it was counted */
    uint64_t active_ns;   /* of the last bytes */
    uint64_t first_ns;    /* of the first bytes of the body */
    uint64_t refused_ns;  /* of the first refusal, while it comes back as told; or 0 */
    double retry_after_s; /* of this reply; < 0: none */
    uint32_t counted;     /* tokens */
    int status;
    bool open, reused, abort, slow, counts;
    size_t tail_len;
    char tail[TAIL_BYTES];
};

struct load {
    struct options o;
    struct loop *loop;
    char host[256];
    uint16_t port;
    struct user *user;
    uint32_t *idle; /* open loop: indices of users */
    uint32_t idle_count;
    struct tenant tenant[STATS_TENANTS];
    uint32_t tenants;
    char **shared; /* text of each group */
    char *rest;
    size_t shared_bytes, rest_bytes;
    struct rng rng;
    uint64_t start_ns, from_ns, to_ns, next_id, begun, ended;
    double next_arrival_ms;
    uint32_t asking;
    struct loop_timer *arrivals, *tick;
    struct load_stats stats;
    bool stopping;
};

static void ask(struct user *u);

/* ---- text ---- */

static const char *const words[] = {
    "river",  "stone",  "market", "window", "garden", "letter", "engine", "forest",  "silver",
    "table",  "winter", "bridge", "copper", "music",  "planet", "harbor", "yellow",  "doctor",
    "simple", "travel", "ocean",  "carpet", "puzzle", "butter", "signal", "thunder", "village",
    "camera", "pencil", "the",    "and",    "with",   "under",  "before", "because", "between",
};

static char *text_new(struct rng *r, size_t bytes)
{
    char *p = mem_alloc(bytes + 1);
    size_t at = 0;
    bool capital = true;

    while (at < bytes) {
        const char *word = words[rng_below(r, COUNT(words))];
        size_t n = MIN(strlen(word), bytes - at);
        bool end = rng_below(r, 9) == 0;

        memcpy(p + at, word, n);
        if (capital)
            p[at] = (char)(p[at] - 'a' + 'A');
        at += n;
        if (end && at < bytes)
            p[at++] = '.';
        if (at < bytes)
            p[at++] = ' ';
        capital = end;
    }
    p[bytes] = '\0';
    return p;
}

static void texts(struct load *l)
{
    uint32_t shared = MIN(l->o.shared_tokens, l->o.prompt_tokens);

    l->shared_bytes = (size_t)shared * BYTES_PER_TOKEN;
    l->rest_bytes = (size_t)(l->o.prompt_tokens - shared) * BYTES_PER_TOKEN;
    l->rest_bytes -= MIN(l->rest_bytes, (size_t)ID_DIGITS);
    l->shared = mem_zalloc(l->o.groups * sizeof(*l->shared));
    for (uint32_t i = 0; i < l->o.groups; i++) {
        struct rng r;

        rng_seed(&r, l->o.seed * 1000003 + i);
        l->shared[i] = text_new(&r, l->shared_bytes);
    }
    l->rest = text_new(&l->rng, l->rest_bytes);
}

/* ---- requests ---- */

static void add_messages(struct user *u, struct buf *b)
{
    struct load *l = u->load;

    if (u->turn == 0)
        buf_reset(&u->talk);
    if (u->turn == 0 && l->shared_bytes != 0)
        buf_f(&u->talk, "{\"role\":\"system\",\"content\":\"%s\"},", l->shared[u->group]);
    if (u->turn != 0)
        buf_z(&u->talk, "\"},{\"role\":\"assistant\",\"content\":\"The river is under the bridge, "
                        "and the market is between the forest and the harbor.\"},");
    buf_z(&u->talk, "{\"role\":\"user\",\"content\":\"");
    buf_str(b, buf_view(&u->talk));
    u->id_at = b->len;
    buf_f(b, "%0*llu", ID_DIGITS, 0ULL);
    buf_str(b, (struct str) { l->rest, l->rest_bytes });
    if (l->o.turns > 1)
        buf_f(&u->talk, "%0*llu%s", ID_DIGITS, (unsigned long long)l->next_id, l->rest);
    buf_z(b, "\"}]}");
}

static void write_request(struct user *u)
{
    struct load *l = u->load;
    const struct tenant *t = &l->tenant[u->tenant];
    struct buf body, *b = &u->request;

    buf_init(&body, REQUEST_MAX);
    buf_f(&body, "{\"model\":\"%s\",\"max_tokens\":%u,%s\"messages\":[", l->o.model,
          l->o.max_tokens,
          l->o.stream ? "\"stream\":true,\"stream_options\":{\"include_usage\":true}," : "");
    add_messages(u, &body);
    buf_reset(b);
    buf_f(b,
          "POST %s HTTP/1.1\r\nHost: %s:%u\r\nContent-Type: application/json\r\n"
          "Content-Length: %zu\r\n",
          l->o.path, l->host, l->port, body.len);
    if (l->o.tenants.count != 0) {
        buf_f(b, "x-llm-d-inference-fairness-id: %s\r\n", t->name);
        if (t->key[0] != '\0')
            buf_f(b, "Authorization: Bearer %s\r\n", t->key);
    }
    buf_z(b, "\r\n");
    u->id_at += b->len;
    buf_str(b, buf_view(&body));
    ASSERT(!b->failed && !body.failed);
    buf_fini(&body);
}

static void number_request(struct user *u)
{
    char id[ID_DIGITS + 2];

    (void)snprintf(id, sizeof(id), "%0*llu", ID_DIGITS,
                   (unsigned long long)u->load->next_id++ % 10000000000000000ULL);
    memcpy(u->request.p + u->id_at, id, ID_DIGITS);
}

static uint32_t pick_tenant(struct load *l, double at)
{
    uint32_t i = 0;

    while (i + 1 < l->tenants && at >= l->tenant[i].upto)
        i++;
    return i;
}

/* The request of a user stays the same, save its counter, when nothing else can change. */
static void prepare(struct user *u)
{
    struct load *l = u->load;
    uint32_t group = (uint32_t)rng_below(&l->rng, l->o.groups), tenant = u->tenant;
    bool big = l->o.prompt_tokens >= 16384 && l->o.turns == 1;

    if (big || u->turn != 0)
        group = u->id_at != 0 || u->turn != 0 ? u->group : u->index % l->o.groups;
    if (l->o.rate > 0)
        tenant = pick_tenant(l, rng_f64(&l->rng));
    if (u->id_at == 0 || l->o.turns > 1 || group != u->group || tenant != u->tenant) {
        u->group = group;
        u->tenant = tenant;
        write_request(u);
    }
    number_request(u);
}

/* ---- the books ---- */

static double ms(uint64_t ns)
{
    return (double)ns / 1e6;
}

static uint32_t second_of(struct load *l)
{
    uint64_t s = (clock_ns() - l->start_ns) / 1000000000;

    s = MIN(s, (uint64_t)STATS_SECONDS - 1);
    l->stats.seconds = MAX(l->stats.seconds, (uint32_t)s + 1);
    return (uint32_t)s;
}

static bool in_window(const struct load *l, uint64_t now)
{
    return now >= l->from_ns && now < l->to_ns;
}

static void count_tokens(struct user *u, int64_t n)
{
    struct load *l = u->load;

    if (n == 0)
        return;
    l->stats.tokens_at[second_of(l)] += (uint32_t)n;
    if (!in_window(l, u->active_ns))
        return;
    l->stats.tokens_in_window += (uint64_t)n;
    l->stats.tenant[u->tenant].tokens += (uint64_t)n;
}

static uint64_t number_after(const struct user *u, const char *name)
{
    struct str tail = { u->tail, u->tail_len };
    size_t at = str_find(tail, str_of(name));
    uint64_t v = 0;

    if (at == SIZE_MAX)
        return 0;
    for (at += strlen(name); at < tail.n && (tail.p[at] == ' ' || tail.p[at] == ':'); at++)
        ;
    for (; at < tail.n && tail.p[at] >= '0' && tail.p[at] <= '9'; at++)
        v = v * 10 + (uint64_t)(tail.p[at] - '0');
    return v;
}

static bool tail_has(const struct user *u, const char *word)
{
    return str_find((struct str) { u->tail, u->tail_len }, str_of(word)) != SIZE_MAX;
}

static void count_ok(struct user *u)
{
    struct load *l = u->load;
    struct tenant_stats *t = &l->stats.tenant[u->tenant];
    uint64_t now = u->active_ns, tokens = number_after(u, "\"completion_tokens\"");

    count_tokens(u, (int64_t)tokens - (int64_t)u->counted);
    l->stats.ok_at[second_of(l)]++;
    l->stats.ok_in_window += in_window(l, now);
    if (!u->counts)
        return;
    t->ok++;
    l->stats.prompt_tokens += number_after(u, "\"prompt_tokens\"");
    l->stats.cached_tokens += number_after(u, "\"cached_tokens\"");
    series_add(&t->total, ms(now - u->begun_ns));
}

static void count_refusal(struct user *u)
{
    struct load *l = u->load;

    l->stats.refused_at[second_of(l)]++;
    if (u->refused_ns != 0 && ms(u->active_ns - u->begun_ns) > TAKEN_IN_MS)
        l->stats.expired_after++;
    else if (u->refused_ns != 0)
        l->stats.refused_after++;
    else if (l->o.honour_retry_after)
        u->refused_ns = u->active_ns;
    if (u->retry_after_s < 0)
        l->stats.refusals_without_promise++;
    else
        series_add(&l->stats.promised, u->retry_after_s);
    if (u->counts)
        l->stats.tenant[u->tenant].refused++;
}

static void count_error(struct user *u, enum load_error kind)
{
    struct load *l = u->load;

    if (!u->counts)
        return;
    l->stats.error[kind]++;
    l->stats.tenant[u->tenant].failed++;
}

/* ---- users ---- */

static void finish(struct load *l)
{
    if (l->stopping && l->asking == 0)
        loop_stop(l->loop);
}

static void stop_asking(struct load *l)
{
    l->stopping = true;
    finish(l);
}

static void user_woke(void *ctx)
{
    struct user *u = ctx;

    if (u->state == USER_SLEEPING)
        ask(u);
    else if (u->slow && u->conn != NULL)
        conn_resume(u->conn);
}

static void timer_arm(struct user *u, uint64_t after_ms)
{
    if (u->timer == NULL)
        u->timer = loop_timer_new(u->load->loop, user_woke, u);
    loop_timer_arm(u->timer, after_ms, 0);
}

/* The request is over; what next? */
static void rest(struct user *u, uint64_t pause_ms)
{
    struct load *l = u->load;

    if (u->timer != NULL)
        loop_timer_disarm(u->timer);
    if (u->state == USER_ASKING) {
        l->asking--;
        l->ended++;
    }
    u->state = u->conn != NULL ? USER_IDLE : USER_OFF;
    if (l->o.requests != 0 && l->begun >= l->o.requests)
        l->stopping = true;
    if (l->stopping) {
        finish(l);
        return;
    }
    if (l->o.rate > 0 && u->refused_ns == 0) {
        l->idle[l->idle_count++] = u->index;
    } else if (pause_ms == 0) {
        ask(u);
    } else {
        u->state = USER_SLEEPING;
        timer_arm(u, pause_ms);
    }
}

static void ignore_close(void *ctx, struct conn *c, int rc)
{
    (void)ctx;
    (void)c;
    (void)rc;
}
static const struct conn_ops no_ops = { .on_close = ignore_close };

static void drop_connection(struct user *u)
{
    struct conn *c = u->conn;

    u->conn = NULL;
    u->open = false;
    u->reused = false;
    if (c != NULL) {
        conn_set_ctx(c, &no_ops, NULL);
        conn_close(c);
    }
}

static void failed(struct user *u, enum load_error kind)
{
    count_error(u, kind);
    u->turn = 0;
    u->refused_ns = 0;
    drop_connection(u);
    rest(u, PAUSE_MS);
}

static void note_head(struct user *u)
{
    struct str v = http_header_get(&u->parser.headers, "retry-after");
    uint64_t s;

    u->status = u->parser.status;
    u->retry_after_s = str_u64(v, &s) ? (double)s : -1;
    if (u->status != 200 || u->refused_ns == 0)
        return;
    u->load->stats.accepted_after++;
    series_add(&u->load->stats.waited, (double)(u->begun_ns - u->refused_ns) / 1e9);
    u->refused_ns = 0;
}

static uint32_t count_events(struct str s)
{
    const char *p = s.p, *end = s.p + s.n;
    uint32_t n = 0;

    while ((p = memmem(p, (size_t)(end - p), "data: {", 7)) != NULL) {
        n++;
        p += 7;
    }
    return n;
}

static void note_body(struct user *u, struct str s)
{
    size_t keep;

    if (u->first_ns == 0) {
        u->first_ns = u->active_ns;
        if (u->counts && u->status == 200)
            series_add(&u->load->stats.tenant[u->tenant].ttft, ms(u->first_ns - u->begun_ns));
    }
    if (u->status == 200 && u->load->o.stream) {
        uint32_t n = count_events(s);

        count_tokens(u, n);
        u->counted += n;
    }
    if (s.n >= TAIL_BYTES) {
        memcpy(u->tail, s.p + s.n - TAIL_BYTES, TAIL_BYTES);
        u->tail_len = TAIL_BYTES;
        return;
    }
    keep = MIN(u->tail_len, TAIL_BYTES - s.n);
    memmove(u->tail, u->tail + u->tail_len - keep, keep);
    memcpy(u->tail + keep, s.p, s.n);
    u->tail_len = keep + s.n;
}

static void answered(struct user *u)
{
    struct load *l = u->load;
    uint64_t pause = l->o.think_ms;
    bool keep = u->parser.keep_alive && conn_queued(u->conn) == 0;

    if (u->counts)
        l->stats.status[MIN(u->status, 599)]++;
    if (u->status == 200 && l->o.stream && !tail_has(u, "[DONE]")) {
        failed(u, tail_has(u, "\"error\"") ? LOAD_EVENT : LOAD_NO_DONE);
        return;
    }
    if (u->status == 200) {
        count_ok(u);
        u->turn = (u->turn + 1) % l->o.turns;
    } else {
        pause = l->o.refused_ms;
        u->turn = 0;
        if (u->status == 429 || u->status == 503) {
            count_refusal(u);
            if (l->o.honour_retry_after && u->retry_after_s > 0)
                pause = (uint64_t)(u->retry_after_s * 1000);
        } else if (u->counts) {
            l->stats.tenant[u->tenant].failed++;
        }
    }
    if (keep) {
        http1_reset(&u->parser);
        u->reused = true;
    } else {
        drop_connection(u);
    }
    rest(u, pause);
}

static void leave(struct user *u)
{
    u->load->stats.aborted += u->counts;
    u->turn = 0;
    u->refused_ns = 0;
    drop_connection(u);
    rest(u, 0);
}

static void on_open(void *ctx, struct conn *c)
{
    struct user *u = ctx;

    (void)c;
    u->open = true;
    ask(u);
}

static void on_data(void *ctx, struct conn *c, struct str in)
{
    struct user *u = ctx;
    struct load *l = u->load;
    uint64_t now = clock_ns();

    if (u->state != USER_ASKING) { /* nothing was asked for */
        drop_connection(u);
        return;
    }
    if (u->first_ns != 0 && u->counts && l->o.stream)
        series_add(&l->stats.gap, ms(now - u->active_ns));
    u->active_ns = now;
    while (u->conn == c && u->state == USER_ASKING) {
        struct str body;
        enum http1_event ev = http1_next(&u->parser, &in, &body);

        if (ev == HTTP1_MORE)
            break;
        if (ev == HTTP1_HEAD)
            note_head(u);
        else if (ev == HTTP1_BODY)
            note_body(u, body);
        else if (ev == HTTP1_BAD)
            failed(u, LOAD_BAD);
        else {
            answered(u);
            return;
        }
    }
    if (u->conn != c || u->state != USER_ASKING)
        return;
    if (u->abort && u->first_ns != 0)
        leave(u);
    else if (u->slow && u->first_ns != 0) {
        conn_pause(c);
        timer_arm(u, l->o.slow_ms);
    }
}

/* The connection is gone, or about to. */
static void lost(struct user *u)
{
    bool idle = http1_idle(&u->parser);

    if (u->state != USER_ASKING) {
        drop_connection(u);
        if (u->state == USER_IDLE)
            u->state = USER_OFF;
        return;
    }
    if (!u->open) {
        failed(u, LOAD_CONNECT);
    } else if (idle && u->reused) { /* a kept connection may be closed at any time: once more */
        u->load->stats.stale++;
        drop_connection(u);
        u->load->asking--;
        u->state = USER_OFF;
        u->load->begun--;
        if (u->counts)
            u->load->stats.tenant[u->tenant].begun--;
        ask(u);
    } else if (!idle && http1_eof(&u->parser) == HTTP1_DONE) {
        answered(u);
    } else {
        failed(u, idle ? LOAD_CLOSED : tail_has(u, "\"error\"") ? LOAD_EVENT : LOAD_CUT);
    }
}

static void on_eof(void *ctx, struct conn *c)
{
    (void)c;
    lost(ctx);
}

static void on_close(void *ctx, struct conn *c, int rc)
{
    struct user *u = ctx;

    (void)c;
    (void)rc;
    if (u != NULL && u->conn == c)
        lost(u);
}

static const struct conn_ops conn_ops = {
    .on_open = on_open, .on_data = on_data, .on_eof = on_eof, .on_close = on_close
};

static void written(void *ctx)
{
    (void)ctx; /* the bytes are the user's */
}

static void begin(struct user *u)
{
    struct load *l = u->load;
    uint64_t now;

    if (u->state != USER_ASKING) {
        u->state = USER_ASKING;
        l->asking++;
        l->begun++;
    }
    prepare(u);
    http1_reset(&u->parser);
    now = clock_ns();
    u->begun_ns = u->active_ns = now;
    u->first_ns = 0;
    u->counted = 0;
    u->tail_len = 0;
    u->status = 0;
    u->retry_after_s = -1;
    u->counts = now >= l->from_ns;
    u->abort = l->o.abort_fraction > 0 && rng_f64(&l->rng) < l->o.abort_fraction;
    if (u->counts)
        l->stats.tenant[u->tenant].begun++;
    if (conn_write_ref(u->conn, buf_view(&u->request), written, NULL) != 0)
        lost(u);
}

static void ask(struct user *u)
{
    struct load *l = u->load;
    struct conn_opts o = { .write_max = REQUEST_MAX, .connect_ms = 5000, .no_keepalive = true };
    struct err e;

    if (u->conn != NULL && u->open) {
        begin(u);
        return;
    }
    if (u->state != USER_ASKING) {
        u->state = USER_ASKING;
        l->asking++;
        l->begun++;
    }
    u->active_ns = u->begun_ns = clock_ns();
    u->counts = u->begun_ns >= l->from_ns;
    http1_reset(&u->parser);
    if (conn_open(l->loop, l->host, l->port, &o, &conn_ops, u, &u->conn, &e) != 0)
        failed(u, LOAD_CONNECT);
}

/* ---- the run ---- */

static double gap_ms(struct load *l)
{
    return -log(1 - rng_f64(&l->rng)) * 1000 / l->o.rate;
}

static void arrive(void *ctx)
{
    struct load *l = ctx;
    double now = ms(clock_ns() - l->start_ns);

    while (!l->stopping && l->next_arrival_ms <= now) {
        l->next_arrival_ms += gap_ms(l);
        if (l->idle_count == 0)
            l->stats.unsent += clock_ns() >= l->from_ns;
        else
            ask(&l->user[l->idle[--l->idle_count]]);
    }
    if (!l->stopping)
        /* Never 0: the loop would run the timer again and again before it looks at a socket. */
        loop_timer_arm(l->arrivals, MAX((uint64_t)(l->next_arrival_ms - now + 0.5), (uint64_t)1),
                       0);
}

static void look(void *ctx)
{
    struct load *l = ctx;
    uint64_t now = clock_ns(), drain_ns = (uint64_t)(l->o.drain_s * 1e9);

    for (uint32_t i = 0; i < l->o.connections; i++) {
        struct user *u = &l->user[i];

        if (u->state == USER_ASKING && ms(now - u->active_ns) > l->o.timeout_s * 1000 &&
            now > u->active_ns)
            failed(u, LOAD_TIMEOUT);
    }
    if (now >= l->to_ns && !l->stopping)
        stop_asking(l);
    if (now < l->to_ns + drain_ns || !l->stopping)
        return;
    for (uint32_t i = 0; i < l->o.connections; i++) {
        const struct user *u = &l->user[i];

        if (u->state != USER_ASKING)
            continue;
        l->stats.unfinished += u->counts;
        l->stats.waiting_after += u->refused_ns != 0 && ms(now - u->begun_ns) > TAKEN_IN_MS;
    }
    loop_stop(l->loop);
}

static void interrupted(void *ctx)
{
    struct load *l = ctx;

    l->to_ns = MIN(l->to_ns, clock_ns());
    stop_asking(l);
}

static void user_init(struct load *l, uint32_t i)
{
    struct user *u = &l->user[i];
    struct http1_limits limits = { 64 << 10, 128, UINT64_MAX };

    u->load = l;
    u->index = i;
    u->slow = i < l->o.slow_readers;
    u->tenant = pick_tenant(l, ((double)i + 0.5) / (double)l->o.connections);
    http1_init(&u->parser, HTTP1_REPLY, &limits);
    buf_init(&u->request, REQUEST_MAX);
    buf_init(&u->talk, REQUEST_MAX);
}

static void users_begin(struct load *l)
{
    for (uint32_t i = 0; i < l->o.connections; i++) {
        struct user *u = &l->user[i];
        double delay = l->o.stagger_s * 1000 * (double)i / (double)l->o.connections;

        if (l->o.requests != 0 && l->begun + (delay > 0 ? i : 0) >= l->o.requests)
            break;
        if (l->o.rate > 0) {
            l->idle[l->idle_count++] = i;
        } else if (delay < 1) {
            ask(u);
        } else {
            u->state = USER_SLEEPING;
            timer_arm(u, (uint64_t)delay);
        }
    }
    if (l->o.rate > 0)
        arrive(l);
}

static int tenants_parse(struct load *l, struct err *e)
{
    double all = 0, share[STATS_TENANTS];

    if (l->o.tenants.count > STATS_TENANTS)
        return err_set(e, ERR_INVAL, "--tenant: at most %d", STATS_TENANTS);
    for (size_t i = 0; i < l->o.tenants.count; i++) {
        struct str rest = str_of(l->o.tenants.item[i]), name = str_cut(&rest, ':'),
                   key = str_cut(&rest, ':');

        if (!str_f64(rest, &share[i]) || !(share[i] > 0))
            return err_set(e, ERR_INVAL, "--tenant %s: must be NAME:KEY:SHARE",
                           l->o.tenants.item[i]);
        l->tenant[i].name = str_dup(name);
        l->tenant[i].key = str_dup(key);
        all += share[i];
    }
    l->tenants = (uint32_t)l->o.tenants.count;
    for (uint32_t i = 0; i < l->tenants; i++)
        l->tenant[i].upto = (i != 0 ? l->tenant[i - 1].upto : 0) + share[i] / all;
    if (l->tenants == 0)
        l->tenant[l->tenants++] =
            (struct tenant) { .name = mem_strdup("all"), .key = mem_strdup(""), .upto = 1 };
    return 0;
}

static void report(struct load *l)
{
    const char *name[STATS_TENANTS];
    uint64_t end = MAX(MIN(clock_ns(), l->to_ns), l->from_ns + 1000000);
    struct buf out;

    for (uint32_t i = 0; i < l->tenants; i++)
        name[i] = l->tenant[i].name;
    buf_init(&out, (size_t)4 << 20);
    load_report(&l->stats, name, l->tenants, (double)(end - l->from_ns) / 1e9, &out);
    printf("%.*s\n", STR_ARG(buf_view(&out)));
    buf_fini(&out);
}

static void run(struct load *l)
{
    l->user = mem_zalloc(l->o.connections * sizeof(*l->user));
    l->idle = mem_zalloc(l->o.connections * sizeof(*l->idle));
    rng_seed(&l->rng, l->o.seed);
    texts(l);
    for (uint32_t i = 0; i < l->o.connections; i++)
        user_init(l, i);
    l->arrivals = loop_timer_new(l->loop, arrive, l);
    l->tick = loop_timer_new(l->loop, look, l);
    loop_timer_arm(l->tick, TICK_MS, TICK_MS);
    l->start_ns = clock_ns();
    l->from_ns = l->start_ns + (uint64_t)(l->o.warmup_s * 1e9);
    l->to_ns = l->from_ns + (uint64_t)(l->o.seconds * 1e9);
    users_begin(l);
    loop_run(l->loop);
    report(l);
    for (uint32_t i = 0; i < l->o.connections; i++) {
        struct user *u = &l->user[i];

        drop_connection(u);
        loop_timer_free(u->timer);
        http1_fini(&u->parser);
    }
    loop_timer_free(l->arrivals);
    loop_timer_free(l->tick);
}

/* After the loop, which may still have held bytes of the requests. */
static void fini(struct load *l)
{
    for (uint32_t i = 0; l->user != NULL && i < l->o.connections; i++) {
        buf_fini(&l->user[i].request);
        buf_fini(&l->user[i].talk);
    }
    for (uint32_t i = 0; l->shared != NULL && i < l->o.groups; i++)
        mem_free(l->shared[i]);
    for (uint32_t i = 0; i < l->tenants; i++) {
        mem_free(l->tenant[i].name);
        mem_free(l->tenant[i].key);
    }
    mem_free(l->shared);
    mem_free(l->rest);
    mem_free(l->user);
    mem_free(l->idle);
    load_stats_fini(&l->stats);
    mem_free(l);
}

static int start(struct load *l, struct err *e)
{
    struct rlimit r;
    int rc = addr_parse(str_of(l->o.target), l->host, &l->port, e);

    if (rc == 0)
        rc = tenants_parse(l, e);
    if (rc == 0 && getrlimit(RLIMIT_NOFILE, &r) == 0) {
        r.rlim_cur = r.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &r);
    }
    if (rc == 0)
        rc = loop_new(&l->loop, e);
    if (rc != 0)
        return rc;
    rc = loop_signal(l->loop, SIGINT, interrupted, l, e);
    if (rc == 0)
        rc = loop_signal(l->loop, SIGTERM, interrupted, l, e);
    if (rc == 0)
        run(l);
    loop_free(l->loop);
    return rc;
}

int main(int argc, char **argv)
{
    struct load *l = mem_zalloc(sizeof(*l));
    struct err e = { 0 };
    struct buf help;
    int rc;

    log_init("load", LOG_WARN_LEVEL);
    rc = opt_parse(&l->o, table, COUNT(table), argc - 1, argv + 1, NULL, &e);
    if (rc == ERR_CANCELLED) {
        buf_init(&help, (size_t)64 << 10);
        opt_help(table, COUNT(table), &help);
        printf("%.*s", STR_ARG(buf_view(&help)));
        buf_fini(&help);
        mem_free(l);
        return 0;
    }
    if (rc == 0)
        rc = start(l, &e);
    if (rc != 0)
        fprintf(stderr, "load: %s\n", e.msg);
    fini(l);
    return rc != 0;
}
