/* One generation request: body -> prompt ids -> engine requests -> text -> reply.
 *
 *   loop thread                                  engine thread
 *   gen_start: parse, tokenize, submit n ----->  steps ...
 *   on_item <--- loop_post(token | done) ------  on_token, on_done
 *
 * A gen lives until every engine request of it said done and no hand-over is
 * left; the HTTP exchange may end or break before.  Stop strings are found here:
 * text that may still become one is held back, and a match cancels the engine
 * request.  A stream's status line waits for the first result, so that errors
 * of admission get their real status. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "worker/worker_priv.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define TEXT_BYTES_MAX    ((size_t)16 << 20)
#define PENDING_BYTES_MAX ((size_t)256 << 10)
#define REPLY_BYTES_MAX   ((size_t)64 << 20)
#define ARENA_BYTES_MAX   ((size_t)256 << 20)

struct choice {
    struct gen *gen;
    uint32_t index, prompt_index;
    uint64_t id; /* engine request, 0 = not submitted */
    struct detok detok;
    struct buf text; /* everything decoded so far */
    size_t sent;     /* bytes of text given to the client */
    struct token_list tokens;
    struct engine_logprob *lps; /* one per token when asked */
    size_t lp_count, lp_cap, lp_sent;
    size_t tokens_sent;
    char *prompt_logprobs; /* JSON */
    bool stopped;          /* by a stop string: later tokens are ignored */
    bool done;             /* the engine said so */
    bool final_sent;
    const char *finish;
    struct str stop_text;
    int64_t stop_id;
    struct engine_result result;
    struct pd *pd;
    uint32_t pd_blocks;
    uint64_t last_token_ns;
};

struct gen {
    struct gen *prev, *next; /* the worker's list of all */
    struct worker *w;
    struct http_req *r; /* NULL once ended or gone */
    struct arena arena;
    struct oai_request q;
    struct oai_reply_meta meta;
    bool is_chat, started, failed;
    uint64_t start_ns;
    struct token_list *prompts;
    uint32_t prompt_count;
    struct choice *choices;
    uint32_t choice_count, done_count;
    struct buf pending; /* stream bytes that the client has not taken yet */
    bool end_pending;
    bool offered; /* producer side of a hand-over */
    struct kvx_id transfer;
    uint32_t offered_blocks;
};

static void gen_unref(struct gen *g);
static void reply_whole(struct gen *g);

/* ---- ids and errors ---- */

static void fail(struct gen *g, const struct oai_error *e)
{
    struct http_req *r = g->r;

    g->failed = true;
    if (r == NULL)
        return;
    if (!g->started) {
        g->r = NULL;
        worker_reply_error(r, e);
        return;
    }
    oai_sse_error(&g->pending, e); /* and no [DONE]: what failed must not look finished */
    g->end_pending = true;
}

static void fail_internal(struct gen *g, int rc)
{
    struct oai_error e;

    (void)oai_fail(&e, 500, "InternalServerError", "engine_error", NULL,
                   "the engine could not finish this request (%s); see the worker's log",
                   err_name(rc));
    fail(g, &e);
}

/* ---- streaming out ---- */

static void flush(struct gen *g)
{
    if (g->r == NULL || g->pending.len == 0)
        goto end;
    if (g->pending.failed) {
        LOG_WARN("stream broken off id=%.*s reason=client_reads_too_slowly", STR_ARG(g->meta.id));
        goto broken;
    }
    switch (http_reply_chunk(g->r, buf_view(&g->pending))) {
    case 0: buf_reset(&g->pending); break;
    case ERR_AGAIN: return; /* on_drain comes back here */
    default: goto broken;
    }
end:
    if (g->r != NULL && g->end_pending) {
        struct http_req *r = g->r;

        g->r = NULL;
        http_reply_end(r);
    }
    return;
broken:
    http_reply_abort(g->r);
    g->r = NULL;
    for (uint32_t i = 0; i < g->choice_count; i++)
        if (g->choices[i].id != 0 && !g->choices[i].done)
            engine_cancel(g->w->engine, g->choices[i].id);
}

static void on_drain(void *ctx)
{
    flush(ctx);
}

static void start_stream(struct gen *g)
{
    struct http_header h[3] = { { STR("Cache-Control"), STR("no-cache") },
                                { STR("X-Accel-Buffering"), STR("no") },
                                { STR("X-Request-Id"), g->q.request_id } };
    struct http_headers extra = { h, g->q.request_id.n != 0 ? 3 : 2 };

    g->started = true;
    if (g->r == NULL)
        return;
    http_req_on_drain(g->r, on_drain, g);
    http_reply_start(g->r, 200, "text/event-stream; charset=utf-8", &extra);
}

/* ---- logprobs ---- */

static struct str piece(struct gen *g, uint32_t id)
{
    struct buf b;
    struct str s;

    buf_init(&b, 4096);
    (void)tokenizer_piece(g->w->tok, id, true, &b);
    s = arena_str(&g->arena, buf_view(&b));
    buf_fini(&b);
    return s.p != NULL ? s : STR("");
}

static const struct oai_logprob *logprobs(struct gen *g, const struct choice *c, size_t from,
                                          size_t to)
{
    struct oai_logprob *out = arena_try_zero(&g->arena, to - from + 1, sizeof(*out));
    uint32_t offset = 0;

    if (out == NULL)
        return NULL;
    for (size_t i = from; i < to; i++) {
        const struct engine_logprob *lp = &c->lps[i];
        struct oai_logprob *o = &out[i - from];

        o->token = piece(g, lp->id);
        o->id = lp->id;
        o->logprob = lp->logprob;
        o->text_offset = offset;
        offset += (uint32_t)o->token.n;
        o->top_count = MIN(lp->top_count, (uint32_t)MAX(g->q.logprobs, 0));
        for (uint32_t k = 0; k < o->top_count; k++) {
            o->top[k].token = piece(g, lp->top_id[k]);
            o->top[k].id = lp->top_id[k];
            o->top[k].logprob = lp->top_logprob[k];
        }
    }
    return out;
}

/* vLLM's form: [null, {"ID": {"logprob", "rank", "decoded_token"}, ...}, ...] */
static char *prompt_logprobs_json(struct gen *g, const struct engine_logprob *lp, uint32_t count,
                                  int top)
{
    struct json_w j;
    struct buf b;
    size_t n;

    buf_init(&b, REPLY_BYTES_MAX);
    json_w_init(&j, &b);
    json_w_arr(&j);
    for (uint32_t i = 0; i < count; i++) {
        bool has_own = false;

        if (i == 0) {
            json_w_null(&j);
            continue;
        }
        json_w_obj(&j);
        for (uint32_t k = 0; k <= MIN(lp[i].top_count, (uint32_t)top); k++) {
            bool own = k == MIN(lp[i].top_count, (uint32_t)top);
            uint32_t id = own ? lp[i].id : lp[i].top_id[k];
            char key[16];

            if (own && has_own)
                break;
            has_own |= id == lp[i].id;
            snprintf(key, sizeof(key), "%u", id);
            json_w_kobj(&j, key);
            json_w_kf64(&j, "logprob", (double)(own ? lp[i].logprob : lp[i].top_logprob[k]));
            json_w_ku64(&j, "rank", own ? lp[i].rank : k + 1);
            json_w_kstr(&j, "decoded_token", piece(g, id));
            json_w_end(&j, '}');
        }
        json_w_end(&j, '}');
    }
    json_w_end(&j, ']');
    buf_c(&b, 0);
    if (b.failed) {
        buf_fini(&b);
        return NULL;
    }
    return buf_take(&b, &n);
}

/* ---- text and stop strings ---- */

/* How much of the text may be shown: all but a tail that could begin a stop string. */
static size_t showable(const struct gen *g, const struct choice *c)
{
    size_t n = c->text.len;

    for (uint32_t i = 0; i < g->q.stop_count; i++) {
        struct str s = g->q.stop[i];

        for (size_t k = MIN(s.n - 1, c->text.len); k > 0; k--)
            if (memcmp(c->text.p + c->text.len - k, s.p, k) == 0) {
                n = MIN(n, c->text.len - k);
                break;
            }
    }
    return n;
}

/* Looks for the earliest stop string that ends in the bytes from `old` on. */
static void find_stop(struct gen *g, struct choice *c, size_t old)
{
    size_t best = SIZE_MAX, best_len = 0;
    uint32_t which = 0;

    for (uint32_t i = 0; i < g->q.stop_count; i++) {
        struct str s = g->q.stop[i];
        size_t from = old >= s.n ? old - s.n + 1 : 0, at;

        if (s.n == 0)
            continue;
        at = str_find(str_sub(buf_view(&c->text), from, SIZE_MAX), s);
        if (at != SIZE_MAX && from + at < best) {
            best = from + at;
            best_len = s.n;
            which = i;
        }
    }
    if (best == SIZE_MAX)
        return;
    c->text.len = best + (g->q.include_stop_str_in_output ? best_len : 0);
    c->stopped = true;
    c->finish = "stop";
    c->stop_text = g->q.stop[which];
    engine_cancel(g->w->engine, c->id);
}

static void fill_choice(struct gen *g, const struct choice *c, struct oai_choice *o)
{
    *o = (struct oai_choice) { .index = c->index,
                               .stop_reason_id = c->stop_id,
                               .finish_reason = c->finish,
                               .stop_reason = c->stop_text };
    o->want_logprobs = g->q.logprobs >= 0;
    if (c->prompt_logprobs != NULL)
        o->prompt_logprobs = str_of(c->prompt_logprobs);
}

static struct oai_usage usage_of(const struct gen *g)
{
    struct oai_usage u = { 0 };

    for (uint32_t i = 0; i < g->choice_count; i++) {
        const struct choice *c = &g->choices[i];

        u.completion_tokens += (uint32_t)c->tokens.count;
        if (c->index % g->q.n == 0) {
            u.prompt_tokens += (uint32_t)g->prompts[c->prompt_index].count;
            u.cached_tokens += c->result.cached_tokens + c->result.imported_tokens;
        }
    }
    return u;
}

/* Emits what is new of a choice, and its end. */
static void stream_choice(struct gen *g, struct choice *c, bool last)
{
    struct oai_choice o;
    size_t upto = last ? c->text.len : showable(g, c);
    size_t lp_upto = c->lp_count;
    bool has_text = upto > c->sent, has_lp = g->q.logprobs >= 0 && lp_upto > c->lp_sent;

    if (g->r == NULL || c->final_sent)
        return;
    if (!g->started) {
        start_stream(g);
        if (g->is_chat)
            for (uint32_t i = 0; i < g->choice_count; i++) {
                fill_choice(g, &g->choices[i], &o);
                o.finish_reason = NULL;
                o.want_logprobs = false;
                oai_chat_chunk(&g->pending, &g->meta, &o, true, NULL);
            }
    }
    if (!has_text && !has_lp && !last)
        return;
    fill_choice(g, c, &o);
    if (!last)
        o.finish_reason = NULL;
    o.text = str_sub(buf_view(&c->text), c->sent, upto - c->sent);
    if (has_lp) {
        o.logprobs = logprobs(g, c, c->lp_sent, lp_upto);
        o.logprob_count = o.logprobs != NULL ? (uint32_t)(lp_upto - c->lp_sent) : 0;
    }
    if (g->q.return_token_ids) {
        o.token_ids = c->tokens.id + c->tokens_sent;
        o.token_id_count = (uint32_t)(c->tokens.count - c->tokens_sent);
    }
    c->sent = upto;
    c->lp_sent = lp_upto;
    c->tokens_sent = c->tokens.count;
    c->final_sent = last;
    {
        struct oai_usage u = usage_of(g), *up = g->q.continuous_usage ? &u : NULL;

        if (g->is_chat)
            oai_chat_chunk(&g->pending, &g->meta, &o, false, up);
        else
            oai_completion_chunk(&g->pending, &g->meta, &o, up);
    }
}

static void stream_end(struct gen *g)
{
    struct oai_usage u = usage_of(g);

    if (g->q.include_usage) {
        if (g->is_chat)
            oai_chat_chunk(&g->pending, &g->meta, NULL, false, &u);
        else
            oai_completion_chunk(&g->pending, &g->meta, NULL, &u);
    }
    oai_sse_done(&g->pending);
    g->end_pending = true;
}

/* ---- what the engine says, on the loop ---- */

enum item_kind { ITEM_TOKEN, ITEM_PROMPT_LOGPROBS, ITEM_PREFILL, ITEM_DONE };

struct item {
    enum item_kind kind;
    struct choice *choice;
    uint32_t token, count;
    bool has_lp;
    struct engine_logprob lp;
    struct engine_logprob *lps; /* owned */
    struct engine_result result;
};

static void observe_token(struct gen *g, struct choice *c)
{
    uint64_t now = clock_ns();

    if (c->tokens.count == 1)
        metric_observe(worker_metric(g->w, WM_TTFT, NULL), (double)(now - g->start_ns) * 1e-9);
    else
        metric_observe(worker_metric(g->w, WM_ITL, NULL), (double)(now - c->last_token_ns) * 1e-9);
    c->last_token_ns = now;
}

static void on_token_item(struct gen *g, struct choice *c, const struct item *it)
{
    size_t old = c->text.len;

    if (c->stopped || g->failed)
        return;
    if (!token_list_add(&c->tokens, it->token))
        return;
    observe_token(g, c);
    if (it->has_lp) {
        if (c->lp_count == c->lp_cap) {
            c->lp_cap = c->lp_cap != 0 ? c->lp_cap * 2 : 16;
            c->lps = mem_realloc(c->lps, c->lp_cap * sizeof(*c->lps));
        }
        c->lps[c->lp_count++] = it->lp;
    }
    (void)detok_add(&c->detok, it->token, &c->text);
    if (g->q.stop_count != 0 && c->tokens.count >= g->q.min_tokens)
        find_stop(g, c, old);
    if (g->q.stream)
        stream_choice(g, c, false);
}

static void observe_done(struct gen *g, struct choice *c)
{
    const struct engine_result *r = &c->result;
    struct worker *w = g->w;

    metric_add(worker_metric(w, WM_SUCCESS, c->finish), 1);
    metric_observe(worker_metric(w, WM_E2E, NULL), (double)(clock_ns() - g->start_ns) * 1e-9);
    metric_observe(worker_metric(w, WM_QUEUE_TIME, NULL), r->queue_s);
    metric_observe(worker_metric(w, WM_PREFILL_TIME, NULL), r->prefill_s);
    metric_observe(worker_metric(w, WM_DECODE_TIME, NULL), r->decode_s);
    metric_observe(worker_metric(w, WM_REQUEST_PROMPT, NULL), r->prompt_tokens);
    metric_observe(worker_metric(w, WM_REQUEST_GENERATION, NULL), (double)c->tokens.count);
    metric_add(worker_metric(w, WM_BY_SOURCE, "local_compute"), r->computed_tokens);
    metric_add(worker_metric(w, WM_BY_SOURCE, "local_cache_hit"), r->cached_tokens);
    metric_add(worker_metric(w, WM_BY_SOURCE, "external_kv_transfer"), r->imported_tokens);
    metric_add(worker_metric(w, WM_EXTERNAL_HITS, NULL), r->imported_tokens);
    metric_add(worker_metric(w, WM_PREFILL_COMPUTED, NULL), r->computed_tokens);
}

static void on_done_item(struct gen *g, struct choice *c, const struct item *it)
{
    static const char *const names[] = { "stop", "length", "abort", "error" };

    c->result = it->result;
    c->done = true;
    g->done_count++;
    if (!c->stopped) {
        c->finish = names[it->result.reason];
        c->stop_id = it->result.reason == ENGINE_STOP ? it->result.stop_id : -1;
        (void)detok_flush(&c->detok, &c->text);
    }
    observe_done(g, c);
    if (c->pd != NULL) { /* ended before the hand-over did */
        pd_cancel(c->pd);
        c->pd = NULL;
    }
    if (g->offered)
        kvx_server_finish(g->w->kvx_server, g->transfer,
                          it->result.reason == ENGINE_STOP || it->result.reason == ENGINE_LENGTH
                              ? 0
                              : ERR_CANCELLED);
    if (g->failed || g->r == NULL)
        return;
    if (!c->stopped && (it->result.reason == ENGINE_ERROR || it->result.reason == ENGINE_ABORT)) {
        struct oai_error e;

        if (it->result.reason == ENGINE_ERROR) {
            fail_internal(g, it->result.rc);
        } else {
            (void)oai_fail(
                &e, 503, "ServiceUnavailableError", "aborted", NULL,
                "the request was aborted because the server is shutting down; send it again");
            fail(g, &e);
        }
        for (uint32_t i = 0; i < g->choice_count; i++)
            if (!g->choices[i].done)
                engine_cancel(g->w->engine, g->choices[i].id);
        return;
    }
    if (g->q.stream)
        stream_choice(g, c, true);
    if (g->done_count < g->choice_count)
        return;
    if (g->q.stream)
        stream_end(g);
    else
        reply_whole(g);
}

static void on_item(void *ctx)
{
    struct item *it = ctx;
    struct choice *c = it->choice;
    struct gen *g = c->gen;

    switch (it->kind) {
    case ITEM_TOKEN: on_token_item(g, c, it); break;
    case ITEM_PROMPT_LOGPROBS:
        mem_free(c->prompt_logprobs);
        c->prompt_logprobs = prompt_logprobs_json(g, it->lps, it->count, g->q.prompt_logprobs);
        break;
    case ITEM_PREFILL:
        if (g->offered)
            kvx_server_progress(g->w->kvx_server, g->transfer, it->count);
        break;
    case ITEM_DONE: on_done_item(g, c, it); break;
    }
    flush(g);
    mem_free(it->lps);
    mem_free(it);
    gen_unref(g);
}

/* ---- engine thread: copy and hand on ---- */

static void post(struct choice *c, struct item it)
{
    it.choice = c;
    loop_post(c->gen->w->loop, on_item, mem_dup(&it, sizeof(it)));
}

static void on_token(void *ctx, uint64_t id, uint32_t token, const struct engine_logprob *lp)
{
    struct item it = { .kind = ITEM_TOKEN, .token = token, .has_lp = lp != NULL };

    (void)id;
    if (lp != NULL)
        it.lp = *lp;
    post(ctx, it);
}

static void on_prompt_logprobs(void *ctx, uint64_t id, const struct engine_logprob *lp,
                               uint32_t count)
{
    (void)id;
    post(ctx, (struct item) { .kind = ITEM_PROMPT_LOGPROBS,
                              .count = count,
                              .lps = mem_dup(lp, count * sizeof(*lp)) });
}

static void on_prefill(void *ctx, uint64_t id, uint32_t blocks)
{
    (void)id;
    post(ctx, (struct item) { .kind = ITEM_PREFILL, .count = blocks });
}

static void on_done(void *ctx, uint64_t id, const struct engine_result *r)
{
    (void)id;
    post(ctx, (struct item) { .kind = ITEM_DONE, .result = *r });
}

/* ---- life ---- */

static void gen_free(struct gen *g)
{
    ASSERT(g->r == NULL);
    for (uint32_t i = 0; i < g->choice_count; i++) {
        struct choice *c = &g->choices[i];

        detok_fini(&c->detok);
        buf_fini(&c->text);
        token_list_fini(&c->tokens);
        mem_free(c->lps);
        mem_free(c->prompt_logprobs);
    }
    for (uint32_t i = 0; i < g->prompt_count; i++)
        token_list_fini(&g->prompts[i]);
    buf_fini(&g->pending);
    arena_fini(&g->arena);
    *(g->prev != NULL ? &g->prev->next : &g->w->gens) = g->next;
    if (g->next != NULL)
        g->next->prev = g->prev;
    g->w->live--;
    mem_free(g);
}

/* Frees g once nothing can call back: every submitted request is done, nothing left to send. */
static void gen_unref(struct gen *g)
{
    for (uint32_t i = 0; i < g->choice_count; i++)
        if ((g->choices[i].id != 0 && !g->choices[i].done) || g->choices[i].pd != NULL)
            return;
    if (g->r == NULL)
        gen_free(g);
}

static void cancel_choices(struct gen *g)
{
    for (uint32_t i = 0; i < g->choice_count; i++) {
        struct choice *c = &g->choices[i];

        pd_cancel(c->pd);
        c->pd = NULL;
        if (c->id != 0 && !c->done)
            engine_cancel(g->w->engine, c->id);
    }
}

void gen_cancel_all(struct worker *w)
{
    for (struct gen *g = w->gens; g != NULL; g = g->next)
        cancel_choices(g);
}

static void on_gone(void *ctx)
{
    struct gen *g = ctx;

    g->r = NULL;
    cancel_choices(g);
    gen_unref(g);
}

/* ---- whole replies ---- */

static void kv_params(struct gen *g, struct buf *b)
{
    uint32_t blocks = g->offered_blocks, tokens = (uint32_t)g->prompts[0].count;
    char hex[33], epoch[24], host[256];
    struct json_w j;
    uint16_t port;
    struct err e;

    if (addr_parse(str_of(g->w->address), host, &port, &e) != 0)
        return;
    pd_id_print(g->transfer, hex);
    snprintf(epoch, sizeof(epoch), "%llu", (unsigned long long)g->w->epoch);
    json_w_init(&j, b);
    json_w_obj(&j);
    json_w_kbool(&j, "do_remote_prefill", true);
    json_w_kbool(&j, "do_remote_decode", false);
    json_w_karr(&j, "remote_block_ids");
    json_w_arr(&j);
    for (uint32_t i = 0; i < blocks; i++)
        json_w_u64(&j, i);
    json_w_end(&j, ']');
    json_w_end(&j, ']');
    json_w_kz(&j, "remote_engine_id", g->w->engine_id);
    json_w_kz(&j, "remote_request_id", hex);
    json_w_kz(&j, "remote_host", host);
    json_w_ku64(&j, "remote_port", kvx_server_port(g->w->kvx_server));
    json_w_ku64(&j, "tp_size", 1);
    json_w_ku64(&j, "dcp_size", 1);
    json_w_ku64(&j, "pp_size", 1);
    json_w_ku64(&j, "remote_num_tokens", MIN(tokens, blocks * engine_block_tokens(g->w->engine)));
    json_w_kf64(&j, "remote_blocks_expiry_time", clock_wall_s() + KVX_LEASE_MS / 1000.0);
    json_w_kz(&j, "transfer_mode", "push");
    json_w_kz(&j, "llmd_epoch", epoch);
    json_w_ku64(&j, "llmd_expires_ms", KVX_LEASE_MS);
    json_w_end(&j, '}');
}

static void reply_whole(struct gen *g)
{
    struct oai_choice *o = arena_alloc(&g->arena, g->choice_count * sizeof(*o));
    struct http_header h = { STR("X-Request-Id"), g->q.request_id };
    struct http_headers extra = { &h, g->q.request_id.n != 0 ? 1 : 0 };
    struct oai_usage u = usage_of(g);
    struct buf out, params;
    struct http_req *r = g->r;

    buf_init(&out, REPLY_BYTES_MAX);
    buf_init(&params, REPLY_BYTES_MAX);
    for (uint32_t i = 0; i < g->choice_count; i++) {
        struct choice *c = &g->choices[i];
        struct str text = buf_view(&c->text);

        fill_choice(g, c, &o[i]);
        if (g->q.echo && !g->is_chat) {
            struct buf echo;

            buf_init(&echo, TEXT_BYTES_MAX);
            buf_str(&echo, g->q.prompts[c->prompt_index].text);
            buf_str(&echo, text);
            text = arena_str(&g->arena, buf_view(&echo));
            buf_fini(&echo);
        }
        o[i].text = text.p != NULL ? text : STR("");
        if (g->q.logprobs >= 0) {
            o[i].logprobs = logprobs(g, c, 0, c->lp_count);
            o[i].logprob_count = o[i].logprobs != NULL ? (uint32_t)c->lp_count : 0;
        }
        if (g->q.return_token_ids) {
            o[i].token_ids = c->tokens.id;
            o[i].token_id_count = (uint32_t)c->tokens.count;
        }
    }
    if (g->offered && g->offered_blocks != 0) {
        kv_params(g, &params);
        g->meta.kv_transfer_params = buf_view(&params);
    }
    if (g->is_chat)
        oai_chat_reply(&out, &g->meta, o, g->choice_count, &u);
    else
        oai_completion_reply(&out, &g->meta, o, g->choice_count, &u);
    g->r = NULL;
    if (out.failed) {
        struct oai_error e;

        (void)oai_fail(&e, 500, "InternalServerError", "reply_too_large", NULL,
                       "the reply is larger than 64 MiB");
        worker_reply_error(r, &e);
    } else {
        http_reply(r, 200, "application/json", buf_view(&out), &extra);
    }
    buf_fini(&params);
    buf_fini(&out);
}

/* ---- start ---- */

int gen_tokenize_chat(struct worker *w, const struct oai_request *q, struct token_list *out,
                      struct oai_error *err)
{
    struct chat_render_opts o = { .messages = q->messages,
                                  .tools = q->tools,
                                  .kwargs = q->chat_template_kwargs,
                                  .add_generation_prompt = q->add_generation_prompt,
                                  .continue_final_message = q->continue_final_message,
                                  .allow_special_in_content = w->opts->allow_special_in_content,
                                  .now_s = clock_wall_s() };
    uint32_t bos = tokenizer_bos(w->tok), eos = tokenizer_eos(w->tok);
    struct err e = { 0 };
    int rc;

    if (w->chat == NULL)
        return oai_fail(
            err, 400, "BadRequestError", "no_chat_template", "messages",
            "the model %s has no chat template (it is a base model); use /v1/completions",
            w->model_name);
    if (bos != UINT32_MAX)
        o.bos_token = tokenizer_text(w->tok, bos);
    if (eos != UINT32_MAX)
        o.eos_token = tokenizer_text(w->tok, eos);
    rc = chat_tokenize(w->chat, &o, w->tok, out, &e);
    if (rc == ERR_LIMIT)
        return oai_fail(err, 400, "BadRequestError", "template_limit", "messages", "%s", e.msg);
    if (rc != 0)
        return oai_fail(err, 400, "BadRequestError", "template_error", "messages", "%s", e.msg);
    return 0;
}

static int tokenize_prompts(struct gen *g, struct oai_error *err)
{
    g->prompt_count = g->is_chat ? 1 : g->q.prompt_count;
    g->prompts = arena_alloc(&g->arena, g->prompt_count * sizeof(*g->prompts));
    memset(g->prompts, 0, g->prompt_count * sizeof(*g->prompts));
    if (g->is_chat)
        return gen_tokenize_chat(g->w, &g->q, &g->prompts[0], err);
    for (uint32_t i = 0; i < g->prompt_count; i++) {
        const struct oai_prompt *p = &g->q.prompts[i];

        if (p->text.p != NULL) {
            unsigned flags =
                TOKENIZE_PARSE_SPECIAL | (g->q.add_special_tokens ? TOKENIZE_ADD_SPECIAL : 0);

            if (tokenizer_encode(g->w->tok, p->text, flags, &g->prompts[i]) != 0)
                return oai_fail(err, 413, "BadRequestError", "prompt_too_long", "prompt",
                                "the prompt is too long to tokenize");
            continue;
        }
        for (uint32_t k = 0; k < p->id_count; k++) {
            if (p->ids[k] >= tokenizer_count(g->w->tok))
                return oai_fail(err, 400, "BadRequestError", "invalid_value", "prompt",
                                "token id %u is out of the vocabulary (0..%u)", p->ids[k],
                                tokenizer_count(g->w->tok) - 1);
            if (!token_list_add(&g->prompts[i], p->ids[k]))
                return oai_fail(err, 413, "BadRequestError", "prompt_too_long", "prompt",
                                "the prompt is too long");
        }
    }
    return 0;
}

static int check_lengths(struct gen *g, struct oai_error *err)
{
    uint32_t max = engine_max_model_len(g->w->engine);

    for (uint32_t i = 0; i < g->prompt_count; i++) {
        size_t n = g->prompts[i].count;
        int64_t want = g->q.max_tokens >= 0 ? g->q.max_tokens : 1;

        if (n == 0)
            return oai_fail(err, 400, "BadRequestError", "empty_prompt",
                            g->is_chat ? "messages" : "prompt", "the prompt has no tokens");
        if (n + (uint64_t)want > max)
            return oai_fail(err, 400, "BadRequestError", "context_length_exceeded",
                            g->is_chat ? "messages" : "prompt",
                            "This model's maximum context length is %u tokens. However, you "
                            "requested %lld output tokens and your prompt "
                            "contains %zu input tokens. Shorten the prompt or lower max_tokens.",
                            max, (long long)want, n);
    }
    return 0;
}

static void on_pd_end(void *ctx, const char *reason)
{
    struct choice *c = ctx;
    struct gen *g = c->gen;
    bool ok = strcmp(reason, "ok") == 0;

    c->pd = NULL;
    metric_add(worker_metric(g->w, WM_REMOTE_PREFILL, reason), 1);
    if (!ok)
        metric_add(worker_metric(g->w, WM_KVX_RECOMPUTE, NULL),
                   c->pd_blocks * engine_block_tokens(g->w->engine));
    metric_add(metrics_cell(g->w->metrics, WM_KVX_TRANSFERS,
                            (const char *const[]) { "recv", ok ? "ok" : "failed" }),
               1);
    gen_unref(g);
}

/* Where else the prompt may be computed; NULL and no params: here. */
static bool plan_remote(struct gen *g, struct pd_opts *o, char prefiller[300])
{
    const struct http_headers *h = http_req_headers(g->r);
    struct str to = http_header_get(h, "x-prefiller-host-port");
    const struct token_list *p = &g->prompts[0];
    uint32_t block = engine_block_tokens(g->w->engine), full;
    bool remote = false;

    (void)json_bool(json_get(g->q.kv_transfer_params, "do_remote_prefill"), &remote);
    *o = (struct pd_opts) { 0 };
    if (to.n != 0 && to.n < 300) {
        memcpy(prefiller, to.p, to.n);
        prefiller[to.n] = 0;
        o->prefiller = prefiller;
    } else if (remote) {
        o->params = g->q.kv_transfer_params;
    } else {
        return false;
    }
    if (g->choice_count != 1 || g->q.prompt_logprobs >= 0) {
        metric_add(worker_metric(g->w, WM_REMOTE_PREFILL, "not_for_this_request"), 1);
        return false;
    }
    full = (uint32_t)((p->count - 1) / block);
    o->prompt = p->id;
    o->prompt_count = (uint32_t)p->count;
    o->salt = g->q.cache_salt;
    o->first =
        MIN(full, engine_prefix_blocks(g->w->engine, p->id, (uint32_t)p->count, g->q.cache_salt));
    o->count = full - o->first;
    o->request_id = g->q.request_id;
    o->traceparent = http_header_get(h, "traceparent");
    metric_add(worker_metric(g->w, WM_EXTERNAL_QUERIES, NULL), o->count * block);
    if (o->count == 0) {
        metric_add(worker_metric(g->w, WM_REMOTE_PREFILL, "cached_here"), 1);
        return false;
    }
    return true;
}

static void fill_sampling(struct gen *g, const struct choice *c, struct engine_sampling *s)
{
    const struct oai_request *q = &g->q;
    uint32_t room =
        engine_max_model_len(g->w->engine) - (uint32_t)g->prompts[c->prompt_index].count;

    *s = (struct engine_sampling) { .temperature = q->temperature,
                                    .top_k = q->top_k,
                                    .top_p = q->top_p,
                                    .min_p = q->min_p,
                                    .repetition_penalty = q->repetition_penalty,
                                    .presence_penalty = q->presence_penalty,
                                    .frequency_penalty = q->frequency_penalty,
                                    .has_seed = q->has_seed,
                                    .seed = q->seed + c->index % q->n,
                                    .max_tokens = q->max_tokens >= 0 ? (uint32_t)q->max_tokens
                                                  : g->is_chat       ? room
                                                                     : MIN(room, 16),
                                    .min_tokens = q->min_tokens,
                                    .ignore_eos = q->ignore_eos,
                                    .stop_id_count = MIN(q->stop_id_count, ENGINE_STOP_IDS_MAX),
                                    .bias = (const struct engine_bias *)(const void *)q->bias,
                                    .bias_count = q->bias_count,
                                    .logprobs = q->logprobs,
                                    .prompt_logprobs = q->prompt_logprobs };
    memcpy(s->stop_ids, q->stop_ids, s->stop_id_count * sizeof(s->stop_ids[0]));
}
_Static_assert(sizeof(struct engine_bias) == sizeof(struct oai_bias),
               "one layout for logit_bias entries");

/* Producer side: the blocks stay for whoever has the transfer id. */
static void plan_offer(struct gen *g, bool *hold)
{
    const struct json *p = g->q.kv_transfer_params;
    struct str hex;

    *hold = false;
    (void)json_bool(json_get(p, "do_remote_decode"), hold);
    if (!*hold)
        return;
    if (!json_str(json_get(p, "llmd_transfer_id"), &hex) || !pd_id_parse(hex, &g->transfer))
        rng_secure(g->transfer.b, sizeof(g->transfer.b));
    g->offered_blocks = (uint32_t)(g->prompts[0].count / engine_block_tokens(g->w->engine));
}

static int submit(struct gen *g, struct choice *c, struct oai_error *err)
{
    struct engine_request er = { .prompt = g->prompts[c->prompt_index].id,
                                 .prompt_count = (uint32_t)g->prompts[c->prompt_index].count,
                                 .salt = g->q.cache_salt,
                                 .priority = g->q.priority,
                                 .import_wait_ms = g->w->opts->prefill_timeout_ms,
                                 .on_token = on_token,
                                 .on_done = on_done,
                                 .ctx = c };
    char prefiller[300];
    struct pd_opts pd;
    struct err e = { 0 };
    int rc;

    fill_sampling(g, c, &er.sampling);
    if (g->q.prompt_logprobs >= 0)
        er.on_prompt_logprobs = on_prompt_logprobs;
    plan_offer(g, &er.hold_kv);
    if (er.hold_kv)
        er.on_prefill = on_prefill;
    else
        er.await_import = plan_remote(g, &pd, prefiller);
    rc = engine_submit(g->w->engine, &er, &c->id, &e);
    if (rc == ERR_LIMIT)
        return oai_fail(err, er.hold_kv ? 503 : 429,
                        er.hold_kv ? "ServiceUnavailableError" : "RateLimitError",
                        er.hold_kv ? "kv_pressure" : "queue_full", NULL, "%s", e.msg);
    if (rc == ERR_CLOSED)
        return oai_fail(err, 503, "ServiceUnavailableError", "shutting_down", NULL,
                        "server is shutting down");
    if (rc != 0)
        return oai_fail(err, 400, "BadRequestError", "invalid_value", NULL, "%s", e.msg);
    if (er.hold_kv) {
        g->offered = true;
        kvx_server_offer(g->w->kvx_server, g->transfer, c->id, g->offered_blocks);
    }
    if (er.await_import) {
        pd.request = c->id;
        c->pd_blocks = pd.count;
        rc = pd_start(g->w, &pd, on_pd_end, c, &c->pd);
        if (rc != 0) {
            metric_add(worker_metric(g->w, WM_REMOTE_PREFILL, "not_started"), 1);
            engine_import_done(g->w->engine, c->id, rc);
        }
    }
    return 0;
}

static void name_reply(struct gen *g)
{
    struct str given = http_header_get(http_req_headers(g->r), "x-request-id");
    char *id = arena_alloc(&g->arena, 256), random[33];
    uint64_t a = rng_secure_u64(), b = rng_secure_u64();

    snprintf(random, sizeof(random), "%016llx%016llx", (unsigned long long)a,
             (unsigned long long)b);
    if (given.n == 0 || given.n > 128)
        given =
            g->q.request_id.n != 0 && g->q.request_id.n <= 128 ? g->q.request_id : str_of(random);
    g->q.request_id = arena_str(&g->arena, given);
    snprintf(id, 256, "%s-%.*s", g->is_chat ? "chatcmpl" : "cmpl", STR_ARG(given));
    g->meta = (struct oai_reply_meta) { .id = str_of(id),
                                        .model = str_of(g->w->model_name),
                                        .created = (int64_t)clock_wall_s() };
}

static int prepare(struct gen *g, struct str body, struct oai_error *err)
{
    int rc = g->is_chat ? oai_parse_chat(&g->arena, body, &g->q, err)
                        : oai_parse_completion(&g->arena, body, &g->q, err);

    if (rc != 0)
        return rc;
    if (g->q.model.n != 0 && !str_eqz(g->q.model, g->w->model_name))
        return oai_fail(err, 404, "NotFoundError", "model_not_found", "model",
                        "The model `%.*s` does not exist; this server has `%s`.",
                        STR_ARG(g->q.model), g->w->model_name);
    if (g->q.chat_template.n != 0)
        return oai_fail(
            err, 400, "BadRequestError", "unsupported", "chat_template",
            "chat_template in a request is refused; start the server with the template you trust");
    name_reply(g);
    rc = tokenize_prompts(g, err);
    return rc != 0 ? rc : check_lengths(g, err);
}

void gen_start(struct worker *w, struct http_req *r, bool is_chat)
{
    struct gen *g = mem_zalloc(sizeof(*g));
    struct oai_error err = { 0 };
    struct str body;
    int rc;

    g->w = w;
    g->r = r;
    g->is_chat = is_chat;
    g->start_ns = clock_ns();
    w->live++;
    g->next = w->gens;
    if (w->gens != NULL)
        w->gens->prev = g;
    w->gens = g;
    arena_init(&g->arena, ARENA_BYTES_MAX);
    buf_init(&g->pending, PENDING_BYTES_MAX);
    body = arena_str(&g->arena, http_req_body(r));
    rc = body.p == NULL ? oai_fail(&err, 413, "BadRequestError", "body_too_large", NULL,
                                   "the body is too large")
                        : prepare(g, body, &err);
    if (rc != 0) {
        fail(g, &err);
        gen_free(g);
        return;
    }
    g->choice_count = g->prompt_count * g->q.n;
    g->choices = arena_alloc(&g->arena, g->choice_count * sizeof(*g->choices));
    memset(g->choices, 0, g->choice_count * sizeof(*g->choices));
    http_req_on_gone(r, on_gone, g);
    for (uint32_t i = 0; i < g->choice_count; i++) {
        struct choice *c = &g->choices[i];

        c->gen = g;
        c->index = i;
        c->prompt_index = i / g->q.n;
        c->stop_id = -1;
        detok_init(&c->detok, w->tok, !g->q.skip_special_tokens);
        c->detok.first = false; /* an answer goes on where the prompt ended */
        buf_init(&c->text, TEXT_BYTES_MAX);
    }
    for (uint32_t i = 0; i < g->choice_count && rc == 0; i++)
        rc = submit(g, &g->choices[i], &err);
    if (rc != 0) {
        for (uint32_t i = 0; i < g->choice_count; i++)
            if (g->choices[i].id != 0)
                engine_cancel(w->engine, g->choices[i].id);
        fail(g, &err);
        gen_unref(g);
    }
}
