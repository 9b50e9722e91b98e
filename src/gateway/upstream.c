/* How workers are reached: over TLS or not, and where the pages are that are asked of them.
 *
 * --worker-tls holds for everything; a configuration's metrics-data-source and models-data-source
 * say it for their page alone (llm-d's picker sends no requests itself).  A TLS side that was
 * opened stays until the end: connections may still use it, and a changed configuration mostly
 * names the same one again. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "gateway/gateway_priv.h"
#include "net/tls.h"
#include "sched/plugins_data.h"
#include <string.h>

#define CLIENTS_MAX 64

struct upstream_tls {
    struct upstream_tls *next;
    char *ca, *cert, *key; /* "": none */
    bool skip_verify;
    struct tls_client *client;
};

static void tls_free(struct upstream_tls *t)
{
    tls_client_close(t->client);
    mem_free(t->ca);
    mem_free(t->cert);
    mem_free(t->key);
    mem_free(t);
}

static bool is_it(const struct upstream_tls *t, const struct data_http_params *p)
{
    return t->skip_verify == p->insecure_skip_verify && str_eqz(p->ca_cert_path, t->ca) &&
           str_eqz(p->client_cert_path, t->cert) && str_eqz(p->client_key_path, t->key);
}

static const char *or_null(const char *s)
{
    return s[0] != 0 ? s : NULL;
}

static int tls_of(struct gateway *g, const struct data_http_params *p, struct tls_client **out,
                  struct err *e)
{
    struct upstream_tls *t = g->upstream.clients;
    struct tls_client_opts o = { .skip_verify = p->insecure_skip_verify };
    unsigned n = 0;
    int rc;

    for (; t != NULL && !is_it(t, p); t = t->next)
        n++;
    if (t == NULL && n == CLIENTS_MAX)
        return err_set(e, ERR_LIMIT, "more than %d different certificates since the start: restart",
                       CLIENTS_MAX);
    if (t == NULL) {
        t = mem_zalloc(sizeof(*t));
        t->ca = str_dup(p->ca_cert_path);
        t->cert = str_dup(p->client_cert_path);
        t->key = str_dup(p->client_key_path);
        t->skip_verify = p->insecure_skip_verify;
        o.ca_file = or_null(t->ca);
        o.cert_file = or_null(t->cert);
        o.key_file = or_null(t->key);
        rc = tls_client_open(g->front[0].loop, &o, &t->client, e);
        if (rc != 0) {
            tls_free(t);
            return rc;
        }
        t->next = g->upstream.clients;
        g->upstream.clients = t;
    }
    *out = t->client;
    return 0;
}

/* The parameters of the configuration's own source of this type, or NULL. */
static const struct data_http_params *source_of(const struct sched_config *c, const char *type)
{
    for (uint32_t i = 0; c != NULL && i < c->plugin_count; i++)
        if (!c->plugin[i].is_default && strcmp(c->plugin[i].type->type, type) == 0)
            return c->plugin[i].params;
    return NULL;
}

static int page_of(struct gateway *g, const struct sched_config *c, const char *type,
                   const char *path, struct upstream_page *out, struct err *e)
{
    const struct data_http_params *p = source_of(c, type);
    int rc = 0;

    *out = (struct upstream_page) { .tls = g->upstream.tls };
    if (p != NULL && p->scheme == 1)
        rc = tls_of(g, p, &out->tls, e);
    if (rc != 0)
        return rc;
    out->path = p != NULL ? str_dup(p->path) : mem_strdup(path);
    out->port = p != NULL ? (uint16_t)p->port : 0;
    return 0;
}

int upstream_set(struct gateway *g, const struct sched_config *c, struct err *e)
{
    struct upstream_page metrics, models = { 0 };
    int rc = page_of(g, c, "metrics-data-source", "/metrics", &metrics, e);

    if (rc == 0)
        rc = page_of(g, c, "models-data-source", "/v1/models", &models, e);
    if (rc != 0) {
        mem_free(metrics.path);
        return rc;
    }
    mem_free(g->upstream.metrics.path);
    mem_free(g->upstream.models.path);
    g->upstream.metrics = metrics;
    g->upstream.models = models;
    return 0;
}

void upstream_fini(struct gateway *g)
{
    mem_free(g->upstream.metrics.path);
    mem_free(g->upstream.models.path);
    for (struct upstream_tls *t = g->upstream.clients, *next; t != NULL; t = next) {
        next = t->next;
        tls_free(t);
    }
}
