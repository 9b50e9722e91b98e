// SPDX-License-Identifier: Apache-2.0
#include "kube/client.h"
#include "base/buf.h"
#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "net/tls.h"
#include <stdio.h>

#define TOKEN_BYTES_MAX ((size_t)64 << 10)
#define PATH_BYTES_MAX  ((size_t)64 << 10)

struct kube_client {
    struct kube_access at;
    struct http_client *http;
    struct tls_client *tls;
    char server[300];
};

int kube_client_open(struct loop *l, const char *kubeconfig, struct kube_client **out,
                     struct err *e)
{
    struct kube_client *c = mem_zalloc(sizeof(*c));
    int rc = kube_access_load(kubeconfig, &c->at, e);

    *out = c;
    if (rc == 0 && c->at.is_tls) {
        struct tls_client_opts o = { .ca_file = c->at.ca_file,
                                     .cert_file = c->at.cert_file,
                                     .key_file = c->at.key_file,
                                     .server_name = c->at.server_name,
                                     .alpn = "http/1.1",
                                     .skip_verify = c->at.skip_verify };

        /* what a kubeconfig carries itself does not change, and is not to be watched */
        rc = tls_client_open(c->at.fd[0] < 0 && c->at.fd[1] < 0 ? l : NULL, &o, &c->tls, e);
    }
    if (rc != 0) {
        kube_client_close(c);
        *out = NULL;
        return rc;
    }
    snprintf(c->server, sizeof(c->server), "%s:%u", c->at.host, c->at.port);
    c->http = http_client_new(l);
    return 0;
}

void kube_client_close(struct kube_client *c)
{
    if (c == NULL)
        return;
    if (c->http != NULL)
        http_client_free(c->http);
    tls_client_close(c->tls);
    kube_access_free(&c->at);
    mem_free(c);
}

const char *kube_client_namespace(const struct kube_client *c)
{
    return c->at.namespace;
}

const char *kube_client_server(const struct kube_client *c)
{
    return c->server;
}

/* "Bearer TOKEN"; empty: we have none. */
static int bearer(const struct kube_client *c, struct buf *out, struct err *e)
{
    struct buf b;
    int rc = 0;

    if (c->at.token_file != NULL) {
        buf_init(&b, TOKEN_BYTES_MAX);
        rc = file_read(c->at.token_file, &b, e);
        if (rc == 0 && str_trim(buf_view(&b)).n != 0)
            buf_f(out, "Bearer %.*s", STR_ARG(str_trim(buf_view(&b))));
        buf_fini(&b);
    } else if (c->at.token != NULL) {
        buf_f(out, "Bearer %s", c->at.token);
    }
    return rc;
}

static int start(struct kube_client *c, struct http_call_opts *o, struct str path,
                 const struct http_call_ops *ops, void *ctx, struct http_call **out, struct err *e)
{
    struct http_header h[3] = { { STR("Accept"), STR("application/json") } };
    struct buf token, full;
    int rc;

    o->host = c->at.host;
    o->port = c->at.port;
    o->tls = c->tls;
    o->headers = (struct http_headers) { h, 1 };
    buf_init(&token, TOKEN_BYTES_MAX + 16);
    buf_init(&full, PATH_BYTES_MAX);
    rc = bearer(c, &token, e);
    if (token.len != 0)
        h[o->headers.count++] = (struct http_header) { STR("Authorization"), buf_view(&token) };
    if (o->body.n != 0)
        h[o->headers.count++] =
            (struct http_header) { STR("Content-Type"), STR("application/json") };
    buf_z(&full, c->at.prefix);
    buf_str(&full, path);
    o->path = buf_view(&full);
    if (rc == 0 && full.failed)
        rc = err_set(e, ERR_LIMIT, "a selector of over %zu bytes", PATH_BYTES_MAX);
    if (rc == 0)
        rc = http_call_start(c->http, o, ops, ctx, out, e);
    buf_fini(&token);
    buf_fini(&full);
    return rc;
}

int kube_get(struct kube_client *c, struct str path, uint32_t gap_ms,
             const struct http_call_ops *ops, void *ctx, struct http_call **out, struct err *e)
{
    struct http_call_opts o = {
        .method = STR("GET"), .connect_ms = 5000, .first_byte_ms = 30000, .gap_ms = gap_ms
    };

    return start(c, &o, path, ops, ctx, out, e);
}

int kube_send(struct kube_client *c, const char *method, struct str path, struct str body,
              uint32_t total_ms, const struct http_call_ops *ops, void *ctx, struct http_call **out,
              struct err *e)
{
    struct http_call_opts o = { .method = str_of(method),
                                .body = body,
                                .connect_ms = total_ms,
                                .first_byte_ms = total_ms,
                                .gap_ms = total_ms,
                                .total_ms = total_ms };

    return start(c, &o, path, ops, ctx, out, e);
}
