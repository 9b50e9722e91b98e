/* What the tools say to a running llmd, over the same client as every part uses. */
// SPDX-License-Identifier: Apache-2.0
#include "base/arena.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cmd/cmd.h"
#include "net/http.h"
#include "net/sse.h"
#include "net/tls.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_BYTES_MAX ((size_t)16 << 20)

int endpoint_parse_url(const char *url, struct endpoint *out, struct err *e)
{
    struct str s = str_of(url), path;

    out->key = NULL;
    out->is_tls = str_starts(s, STR("https://"));
    if (out->is_tls || str_starts(s, STR("http://")))
        s = str_sub(s, out->is_tls ? 8 : 7, SIZE_MAX);
    path = s;
    s = str_cut(&path, '/');
    if (addr_parse(s, out->host, &out->port, e) != 0)
        return err_set(e, ERR_INVAL, "'%s' is no URL like " CMD_URL_DEFAULT, url);
    return 0;
}

void endpoint_take_key(struct endpoint *at)
{
    const char *key = getenv("LLMD_API_KEY");

    at->key = key != NULL && *key != 0 ? key : NULL;
}

/* "Authorization: Bearer KEY"; how many headers that is.  text holds its value. */
static size_t put_key(const struct endpoint *at, struct http_header *h, char text[300])
{
    if (at->key == NULL)
        return 0;
    snprintf(text, 300, "Bearer %s", at->key);
    *h = (struct http_header) { STR("Authorization"), str_of(text) };
    return 1;
}

/* http_fetch over TLS where the URL says so, trusting $LLMD_CA_FILE (PEM) or the system's store. */
static int fetch(const struct endpoint *at, struct http_call_opts *o, int *status, struct buf *body,
                 void (*on_bytes)(void *ctx, struct str bytes), void *ctx, struct err *e)
{
    const char *ca = getenv("LLMD_CA_FILE");
    int rc = 0;

    if (at->is_tls)
        rc = tls_client_open(
            NULL, &(struct tls_client_opts) { .ca_file = ca != NULL && *ca != 0 ? ca : NULL },
            &o->tls, e);
    if (rc == 0)
        rc = http_fetch(o, status, body, on_bytes, ctx, e);
    tls_client_close(o->tls);
    return rc;
}

int endpoint_get(const struct endpoint *at, const char *path, uint32_t timeout_ms, int *status,
                 struct buf *body, struct err *e)
{
    struct http_call_opts o = { .host = at->host,
                                .port = at->port,
                                .method = STR("GET"),
                                .path = str_of(path),
                                .total_ms = timeout_ms,
                                .first_byte_ms = timeout_ms };
    struct http_header h;
    char text[300];

    o.headers = (struct http_headers) { &h, put_key(at, &h, text) };
    return fetch(at, &o, status, body, NULL, NULL, e);
}

static int no_answer(const struct endpoint *at, int rc, struct err *e)
{
    return err_set(e, rc, "nothing answers on %s:%u (%s)%s; start it with: llmd up", at->host,
                   at->port, err_name(rc),
                   at->is_tls
                       ? ", or not with a certificate that is trusted here: LLMD_CA_FILE names "
                         "a PEM file"
                       : "");
}

int ask_model(const struct endpoint *at, char out[256], struct err *e)
{
    const struct json *j;
    struct arena a;
    struct buf b;
    struct str id;
    int status, rc;

    arena_init(&a, (size_t)1 << 20);
    buf_init(&b, (size_t)1 << 20);
    rc = endpoint_get(at, "/v1/models", 5000, &status, &b, e);
    if (rc != 0)
        rc = no_answer(at, rc, e);
    else if (status != 200 || json_parse(&a, buf_view(&b), NULL, &j, e) != 0 ||
             !json_str(json_get(json_at(json_get(j, "data"), 0), "id"), &id))
        rc = err_set(e, ERR_AGAIN, "%s:%u has no model ready yet (status %d); llmd status says why",
                     at->host, at->port, status);
    else
        snprintf(out, 256, "%.*s", STR_ARG(id));
    buf_fini(&b);
    arena_fini(&a);
    return rc;
}

struct asking {
    struct ask_result *r;
    struct sse sse;
    struct buf raw; /* a reply that is no stream */
    FILE *out;
    uint64_t start_ns;
};

static void read_usage(const struct json *u, struct ask_result *r)
{
    uint64_t v;

    if (json_u64(json_get(u, "prompt_tokens"), &v))
        r->prompt_tokens = (uint32_t)v;
    if (json_u64(json_get(u, "completion_tokens"), &v))
        r->completion_tokens = (uint32_t)v;
    if (json_u64(json_get(json_get(u, "prompt_tokens_details"), "cached_tokens"), &v))
        r->cached_tokens = (uint32_t)v;
}

static void read_error(const struct json *j, struct ask_result *r)
{
    struct str s;

    if (json_str(json_get(json_get(j, "error"), "message"), &s))
        snprintf(r->error, sizeof(r->error), "%.*s", STR_ARG(s));
}

static void on_event(void *ctx, struct str data)
{
    struct asking *a = ctx;
    const struct json *j;
    struct arena arena;
    struct str s;
    struct err e;

    if (str_eqz(data, "[DONE]")) {
        a->r->done = true;
        return;
    }
    arena_init(&arena, (size_t)4 << 20);
    if (json_parse(&arena, data, NULL, &j, &e) == 0) {
        const struct json *delta = json_get(json_at(json_get(j, "choices"), 0), "delta");

        read_error(j, a->r);
        read_usage(json_get(j, "usage"), a->r);
        if (json_str(json_get(delta, "content"), &s) && s.n != 0) {
            if (a->r->text.len == 0)
                a->r->first_token_s = (double)(clock_ns() - a->start_ns) * 1e-9;
            (void)buf_str(&a->r->text, s);
            if (a->out != NULL) {
                fwrite(s.p, 1, s.n, a->out);
                fflush(a->out);
            }
        }
    }
    arena_fini(&arena);
}

static void on_bytes(void *ctx, struct str bytes)
{
    struct asking *a = ctx;

    if (a->raw.len < 65536)
        (void)buf_str(&a->raw, str_sub(bytes, 0, 65536));
    (void)sse_feed(&a->sse, bytes, on_event, a);
}

int ask_chat(const struct endpoint *at, const char *model, struct str messages, const char *extra,
             void *out_file, struct ask_result *r, struct err *e)
{
    struct http_header h[3] = { { STR("Content-Type"), STR("application/json") },
                                { STR("X-Request-Id"), STR_NONE } };
    char key[300];
    struct http_call_opts o = { .host = at->host,
                                .port = at->port,
                                .method = STR("POST"),
                                .path = STR("/v1/chat/completions") };
    struct asking a = { .r = r, .out = out_file };
    struct json_w w;
    struct buf body;
    int rc;

    *r = (struct ask_result) { 0 };
    buf_init(&r->text, ANSWER_BYTES_MAX);
    buf_init(&a.raw, (size_t)1 << 20);
    buf_init(&body, (size_t)16 << 20);
    sse_init(&a.sse, (size_t)4 << 20);
    snprintf(r->request_id, sizeof(r->request_id), "cli-%016llx",
             (unsigned long long)rng_secure_u64());
    h[1].value = str_of(r->request_id);
    o.headers = (struct http_headers) { h, 2 + put_key(at, &h[2], key) };
    json_w_init(&w, &body);
    json_w_obj(&w);
    json_w_kz(&w, "model", model);
    json_w_kbool(&w, "stream", true);
    json_w_kobj(&w, "stream_options");
    json_w_kbool(&w, "include_usage", true);
    json_w_end(&w, '}');
    json_w_kraw(&w, "messages", messages);
    buf_z(&body, extra);
    json_w_end(&w, '}');
    o.body = buf_view(&body);
    a.start_ns = clock_ns();
    rc = fetch(at, &o, &r->status, NULL, on_bytes, &a, e);
    r->total_s = (double)(clock_ns() - a.start_ns) * 1e-9;
    if (rc != 0 && r->status == 0)
        rc = no_answer(at, rc, e);
    if (rc == 0 && r->status != 200 && r->error[0] == 0) {
        const struct json *j;
        struct arena arena;

        arena_init(&arena, (size_t)1 << 20);
        if (json_parse(&arena, buf_view(&a.raw), NULL, &j, e) == 0)
            read_error(j, r);
        if (r->error[0] == 0)
            snprintf(r->error, sizeof(r->error), "HTTP status %d", r->status);
        arena_fini(&arena);
    }
    sse_fini(&a.sse);
    buf_fini(&a.raw);
    buf_fini(&body);
    return rc;
}

void ask_result_fini(struct ask_result *r)
{
    buf_fini(&r->text);
}

double prom_sum(struct str text, const char *name, const char *label)
{
    double sum = 0, v;

    while (text.n != 0) {
        struct str line = str_cut(&text, '\n'), rest = line, key;
        size_t brace;

        if (line.n == 0 || line.p[0] == '#')
            continue;
        brace = str_chr(line, '}');
        if (brace != SIZE_MAX) {
            key = str_sub(line, 0, brace + 1);
            rest = str_trim(str_sub(line, brace + 1, SIZE_MAX));
        } else {
            key = str_cut(&rest, ' ');
            rest = str_trim(rest);
        }
        if (!str_eqz(str_sub(key, 0, MIN(str_chr(key, '{'), key.n)), name))
            continue;
        if (label != NULL && str_find(key, str_of(label)) == SIZE_MAX)
            continue;
        if (str_f64(str_cut(&rest, ' '), &v))
            sum += v;
    }
    return sum;
}
