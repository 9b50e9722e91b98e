// SPDX-License-Identifier: Apache-2.0
#include "cmd/cache_kube.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

#define VIEW_BYTES_MAX ((size_t)16 << 20)

struct cache_kube {
    struct kv_manager *m;
    struct kube_client *client;
    struct kube_discovery *discovery;
    uint16_t events_port, replay_port;
};

static struct str at_port(struct arena *a, struct str ip, uint32_t port)
{
    size_t n = ip.n + 16;
    char *text = arena_alloc(a, n);

    snprintf(text, n, str_chr(ip, ':') != SIZE_MAX ? "[%.*s]:%u" : "%.*s:%u", STR_ARG(ip), port);
    return str_of(text);
}

static bool is_leaving(const struct kube_pod *p)
{
    return p->reason != NULL &&
           (strcmp(p->reason, KUBE_DELETING) == 0 || strcmp(p->reason, KUBE_ENDED) == 0);
}

/* One source a pod: the events of its ranks come from one port. */
static void on_view(void *ctx, const struct kube_view *v)
{
    struct cache_kube *k = ctx;
    uint32_t pods = kube_pods_count(v->pods), n = 0;
    struct kv_source_opts *list = mem_zalloc((pods + 1) * sizeof(*list));
    struct arena a;
    struct err e;

    arena_init(&a, VIEW_BYTES_MAX);
    for (uint32_t i = 0; i < pods && n < KV_SOURCES_MAX; i++) {
        const struct kube_pod *p = kube_pods_at(v->pods, i);

        if (p->ip.n == 0 || is_leaving(p) || v->port_count == 0)
            continue;
        list[n++] = (struct kv_source_opts) {
            .name = p->name,
            .address = at_port(&a, p->ip, v->port[0]),
            .events = at_port(&a, p->ip, k->events_port),
            .replay = k->replay_port != 0 ? at_port(&a, p->ip, k->replay_port) : STR_NONE,
        };
    }
    if (kv_manager_set_sources(k->m, list, n, &e) != 0)
        LOG_ERROR("kubernetes: workers refused, what was there before stays: %s", e.msg);
    arena_fini(&a);
    mem_free(list);
}

static bool still_answer(void *ctx)
{
    return kv_manager_sources_up(((struct cache_kube *)ctx)->m) != 0;
}

int cache_kube_open(struct loop *l, struct kv_manager *m, const struct kube_flags *flags,
                    uint16_t events_port, uint16_t replay_port, struct cache_kube **out,
                    struct err *e)
{
    static const struct kube_discovery_ops ops = { on_view, NULL, still_answer };
    struct cache_kube *k = mem_zalloc(sizeof(*k));
    struct kube_discovery_opts d;
    int rc;

    *out = k;
    k->m = m;
    k->events_port = events_port;
    k->replay_port = replay_port;
    rc = kube_flags_open(flags, l, &k->client, &d, e);
    if (rc == 0)
        rc = kube_discovery_new(l, k->client, &d, &ops, k, &k->discovery, e);
    if (rc == 0)
        LOG_INFO("kubernetes: following pods server=%s namespace=%s %s=%s",
                 kube_client_server(k->client), d.namespace, d.pool != NULL ? "pool" : "selector",
                 d.pool != NULL ? d.pool : d.selector);
    return rc;
}

void cache_kube_close(struct cache_kube *k)
{
    if (k == NULL)
        return;
    kube_discovery_free(k->discovery);
    kube_client_close(k->client);
    mem_free(k);
}
