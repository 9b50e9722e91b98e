/* Prefill elsewhere: the decode worker's side of a split request.
 *
 *   ask   GET  /v1/llmd/kvx of the prefill worker (remembered per peer): port, epoch
 *   leg   POST /v1/completions with the prompt's ids, one token, the transfer id
 *   pull  KVX connection that registers for the blocks and takes them as they come
 *
 * leg and pull run side by side: blocks arrive while later ones are computed.
 * llm-d's sidecar has run the leg already: then only pull, from the place that
 * kv_transfer_params names.  Whatever fails, the engine is told once
 * (engine_import_done) and computes what is missing. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "worker/worker_priv.h"
#include <stdio.h>
#include <string.h>

#define PEER_FRESH_MS 30000
#define PEER_BODY_MAX 4096
#define LEG_BODY_MAX  ((size_t)1 << 20)
#define ASK_MS        2000

struct peer {
    char *name; /* "host:port", the map's key */
    char host[256];
    uint16_t port, kvx_port;
    uint64_t epoch, asked_ms;
    bool known;
};

struct pd {
    struct worker *w;
    struct peer *peer; /* NULL when params name the source */
    struct kvx_id id;
    uint64_t request;
    uint32_t *prompt;
    uint32_t prompt_count, first, count;
    char *salt, *request_id, *traceparent;
    struct http_call *ask, *leg;
    struct kvx_pull *pull;
    struct buf reply;
    int status;
    bool ended;
    void (*on_end)(void *ctx, const char *reason);
    void *ctx;
};

void pd_id_print(struct kvx_id id, char out[33])
{
    for (size_t i = 0; i < sizeof(id.b); i++)
        snprintf(out + 2 * i, 3, "%02x", id.b[i]);
}

bool pd_id_parse(struct str hex, struct kvx_id *out)
{
    if (hex.n != 2 * sizeof(out->b))
        return false;
    for (size_t i = 0; i < hex.n; i++) {
        char c = hex.p[i];
        unsigned d = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                     : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                                            : 16;

        if (d > 15)
            return false;
        out->b[i / 2] = (uint8_t)(i % 2 == 0 ? d << 4 : out->b[i / 2] | d);
    }
    return true;
}

void pd_describe(struct worker *w, struct buf *out)
{
    uint8_t fp[32];
    char hex[17], epoch[24];
    struct json_w j;

    engine_fingerprint(w->engine, fp);
    for (size_t i = 0; i < 8; i++)
        snprintf(hex + 2 * i, 3, "%02x", fp[i]);
    snprintf(epoch, sizeof(epoch), "%llu", (unsigned long long)w->epoch);
    json_w_init(&j, out);
    json_w_obj(&j);
    json_w_kz(&j, "engine_id", w->engine_id);
    json_w_kz(&j, "epoch", epoch);
    json_w_ku64(&j, "port", kvx_server_port(w->kvx_server));
    json_w_kz(&j, "fingerprint", hex);
    json_w_ku64(&j, "block_tokens", engine_block_tokens(w->engine));
    json_w_end(&j, '}');
}

/* ---- one end ---- */

static void pd_free(struct pd *p)
{
    buf_fini(&p->reply);
    mem_free(p->prompt);
    mem_free(p->salt);
    mem_free(p->request_id);
    mem_free(p->traceparent);
    mem_free(p);
}

static void stop_all(struct pd *p)
{
    if (p->ask != NULL)
        http_call_cancel(p->ask);
    if (p->leg != NULL)
        http_call_cancel(p->leg);
    kvx_pull_cancel(p->pull);
    p->ask = p->leg = NULL;
    p->pull = NULL;
}

/* told: the engine heard of the end already (the pull does that itself). */
static void end(struct pd *p, int rc, const char *reason, bool told)
{
    ASSERT(!p->ended);
    p->ended = true;
    if (rc != 0 && p->peer != NULL)
        p->peer->known = false;
    stop_all(p);
    if (!told)
        engine_import_done(p->w->engine, p->request, rc);
    if (rc != 0)
        LOG_WARN("remote prefill failed peer=%s reason=%s rc=%s",
                 p->peer != NULL ? p->peer->name : "params", reason, err_name(rc));
    p->on_end(p->ctx, reason);
    pd_free(p);
}

static void on_pull_done(void *ctx, const struct kvx_result *r)
{
    struct pd *p = ctx;

    p->pull = NULL;
    end(p, r->rc, r->reason, true);
}

static int pull(struct pd *p, const char *host, uint16_t port, uint64_t epoch, struct err *e)
{
    return kvx_pull_start(p->w->kvx_client, host, port, p->id, epoch, p->request, p->first,
                          p->count, p->w->opts->prefill_timeout_ms, on_pull_done, p, &p->pull, e);
}

/* ---- leg ---- */

static void reply_head(void *ctx, int status, const struct http_headers *h)
{
    struct pd *p = ctx;

    (void)h;
    p->status = status;
    buf_reset(&p->reply);
}

static void reply_body(void *ctx, struct str bytes)
{
    struct pd *p = ctx;

    buf_str(&p->reply, bytes);
}

static void leg_end(void *ctx, int rc, bool sent, bool got)
{
    struct pd *p = ctx;

    (void)sent;
    (void)got;
    p->leg = NULL;
    if (rc != 0)
        end(p, rc, "leg_connection", false);
    else if (p->status != 200)
        end(p, ERR_IO, p->status == 503 || p->status == 429 ? "leg_busy" : "leg_refused", false);
    /* else: the pull ends by itself once the last block is here */
}

static void leg_body(struct pd *p, struct buf *b)
{
    struct json_w j;
    char hex[33];

    pd_id_print(p->id, hex);
    json_w_init(&j, b);
    json_w_obj(&j);
    json_w_kz(&j, "model", p->w->model_name);
    json_w_karr(&j, "prompt");
    for (uint32_t i = 0; i < p->prompt_count; i++)
        json_w_u64(&j, p->prompt[i]);
    json_w_end(&j, ']');
    json_w_ki64(&j, "max_tokens", 1);
    json_w_kf64(&j, "temperature", 0);
    json_w_kbool(&j, "stream", false);
    if (p->salt != NULL)
        json_w_kz(&j, "cache_salt", p->salt);
    json_w_kobj(&j, "kv_transfer_params");
    json_w_kbool(&j, "do_remote_decode", true);
    json_w_kbool(&j, "do_remote_prefill", false);
    json_w_kz(&j, "llmd_transfer_id", hex);
    json_w_end(&j, '}');
    json_w_end(&j, '}');
}

static void start_leg(struct pd *p)
{
    static const struct http_call_ops ops = { reply_head, reply_body, leg_end };
    struct http_header h[3] = { { STR("Content-Type"), STR("application/json") } };
    struct http_call_opts o = { .host = p->peer->host,
                                .port = p->peer->port,
                                .method = STR("POST"),
                                .path = STR("/v1/completions"),
                                .first_byte_ms = p->w->opts->prefill_timeout_ms,
                                .total_ms = p->w->opts->prefill_timeout_ms,
                                .body_bytes_max = LEG_BODY_MAX };
    size_t n = 1;
    struct buf b;
    struct err e;
    int rc;

    if (p->request_id != NULL)
        h[n++] = (struct http_header) { STR("X-Request-Id"), str_of(p->request_id) };
    if (p->traceparent != NULL)
        h[n++] = (struct http_header) { STR("traceparent"), str_of(p->traceparent) };
    o.headers = (struct http_headers) { h, n };
    buf_init(&b, (size_t)64 << 20);
    leg_body(p, &b);
    o.body = buf_view(&b);
    rc = b.failed ? ERR_LIMIT : http_call_start(p->w->client, &o, &ops, p, &p->leg, &e);
    buf_fini(&b);
    if (rc == 0)
        rc = pull(p, p->peer->host, p->peer->kvx_port, p->peer->epoch, &e);
    if (rc != 0)
        end(p, rc, "start", false);
}

/* ---- ask ---- */

static bool peer_read(struct peer *peer, struct str body)
{
    const struct json *j;
    struct str epoch;
    uint64_t port;
    struct arena a;
    struct err e;
    bool ok;

    arena_init(&a, 65536);
    ok = json_parse(&a, body, NULL, &j, &e) == 0 && json_u64(json_get(j, "port"), &port) &&
         json_str(json_get(j, "epoch"), &epoch) && str_u64(epoch, &peer->epoch) && port > 0 &&
         port < 65536;
    if (ok) {
        peer->kvx_port = (uint16_t)port;
        peer->known = true;
        peer->asked_ms = clock_ms();
    }
    arena_fini(&a);
    return ok;
}

static void ask_end(void *ctx, int rc, bool sent, bool got)
{
    struct pd *p = ctx;

    (void)sent;
    (void)got;
    p->ask = NULL;
    if (rc != 0)
        end(p, rc, "connect", false);
    else if (p->status != 200 || p->reply.failed || !peer_read(p->peer, buf_view(&p->reply)))
        end(p, ERR_IO, "not_ready", false);
    else
        start_leg(p);
}

static struct peer *peer_get(struct worker *w, const char *name, struct err *e)
{
    struct peer *peer;
    uint64_t v;

    if (map_gets(&w->peers, str_of(name), &v))
        return (struct peer *)(uintptr_t)v;
    if (w->peers.count >= 4096) {
        (void)err_set(e, ERR_LIMIT, "more than 4096 prefill workers");
        return NULL;
    }
    peer = mem_zalloc(sizeof(*peer));
    if (addr_parse(str_of(name), peer->host, &peer->port, e) != 0) {
        mem_free(peer);
        return NULL;
    }
    peer->name = mem_strdup(name);
    if (!map_puts(&w->peers, str_of(peer->name), (uintptr_t)peer)) {
        mem_free(peer->name);
        mem_free(peer);
        return NULL;
    }
    return peer;
}

void pd_peers_free(struct worker *w)
{
    for (size_t i = map_next(&w->peers, 0); i < w->peers.cap; i = map_next(&w->peers, i + 1)) {
        struct peer *peer = (struct peer *)(uintptr_t)w->peers.slot[i].value;

        mem_free(peer->name);
        mem_free(peer);
    }
    map_fini(&w->peers);
}

/* kv_transfer_params as llm-d's sidecar passes them on. */
static int start_from_params(struct pd *p, const struct json *params, struct err *e)
{
    struct str host, id, epoch;
    uint64_t port, n;
    char host_z[256];

    if (!json_str(json_get(params, "remote_host"), &host) || host.n >= sizeof(host_z) ||
        !json_u64(json_get(params, "remote_port"), &port) || port == 0 || port > 65535 ||
        !json_str(json_get(params, "remote_request_id"), &id) || !pd_id_parse(id, &p->id) ||
        !json_str(json_get(params, "llmd_epoch"), &epoch) || !str_u64(epoch, &n))
        return err_set(
            e, ERR_INVAL,
            "kv_transfer_params lack remote_host, remote_port, remote_request_id or llmd_epoch");
    memcpy(host_z, host.p, host.n);
    host_z[host.n] = 0;
    return pull(p, host_z, (uint16_t)port, n, e);
}

int pd_start(struct worker *w, const struct pd_opts *o,
             void (*on_end)(void *ctx, const char *reason), void *ctx, struct pd **out)
{
    static const struct http_call_ops ask_ops = { reply_head, reply_body, ask_end };
    struct pd *p = mem_zalloc(sizeof(*p));
    struct err e = { 0 };
    int rc = 0;

    *out = NULL;
    p->w = w;
    p->request = o->request;
    p->prompt_count = o->prompt_count;
    p->prompt = mem_dup(o->prompt, o->prompt_count * sizeof(*o->prompt));
    p->first = o->first;
    p->count = o->count;
    p->salt = o->salt.n != 0 ? str_dup(o->salt) : NULL;
    p->request_id = o->request_id.n != 0 ? str_dup(o->request_id) : NULL;
    p->traceparent = o->traceparent.n != 0 ? str_dup(o->traceparent) : NULL;
    p->on_end = on_end;
    p->ctx = ctx;
    buf_init(&p->reply, LEG_BODY_MAX);
    rng_secure(p->id.b, sizeof(p->id.b));
    if (o->prefiller == NULL) {
        rc = start_from_params(p, o->params, &e);
    } else {
        p->peer = peer_get(w, o->prefiller, &e);
        if (p->peer == NULL) {
            rc = ERR_INVAL;
        } else if (p->peer->known && clock_ms() - p->peer->asked_ms < PEER_FRESH_MS) {
            *out = p;
            start_leg(p); /* may end at once: *out is then cleared by the owner's on_end */
            return 0;
        } else {
            struct http_call_opts ask = { .host = p->peer->host,
                                          .port = p->peer->port,
                                          .method = STR("GET"),
                                          .path = STR("/v1/llmd/kvx"),
                                          .total_ms = ASK_MS,
                                          .body_bytes_max = PEER_BODY_MAX };

            rc = http_call_start(w->client, &ask, &ask_ops, p, &p->ask, &e);
        }
    }
    if (rc != 0) {
        LOG_WARN("remote prefill not started: %s", e.msg);
        pd_free(p);
        return rc;
    }
    *out = p;
    return 0;
}

void pd_cancel(struct pd *p)
{
    if (p == NULL)
        return;
    stop_all(p);
    pd_free(p);
}
