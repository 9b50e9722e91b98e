// SPDX-License-Identifier: Apache-2.0
#include "cmd/cache_kube.h"
#include "base/check.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

#define BOOKS_MS       1000
#define VIEW_BYTES_MAX ((size_t)16 << 20)

struct cache_kube {
    struct kv_manager *m;
    struct kube_client *client;
    struct kube_discovery *discovery;
    struct loop_timer *timer;
    uint64_t errors[2]; /* told so far, of the pool and the pods */
    uint32_t kind, left_out;
    uint16_t events_port, replay_port;
    bool told_ports;
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

/* A rank publishes at its number above the first one's port, and replays likewise.  false: two
 * pods have one address for a moment; the first one counts. */
static bool source_of(const struct cache_kube *k, struct arena *a, const struct kube_pod *p,
                      const struct kube_view *v, uint32_t rank, struct map *addresses,
                      struct kv_source_opts *out)
{
    struct str name = p->name, address = at_port(a, p->ip, v->port[rank]);
    uint64_t at;

    if (map_gets(addresses, address, &at) || !map_puts(addresses, address, 1))
        return false;
    if (v->port_count > 1) {
        char *text = arena_alloc(a, name.n + 16);

        snprintf(text, name.n + 16, "%.*s-rank-%u", STR_ARG(name), rank);
        name = str_of(text);
    }
    *out = (struct kv_source_opts) {
        .name = name,
        .address = address,
        .events = at_port(a, p->ip, k->events_port + rank),
        .replay = k->replay_port != 0 ? at_port(a, p->ip, k->replay_port + rank) : STR_NONE,
    };
    return true;
}

/* A new port of events must not be one of replays. */
static void check_ports(struct cache_kube *k, const struct kube_view *v)
{
    uint32_t apart = k->replay_port > k->events_port ? k->replay_port - k->events_port
                                                     : k->events_port - k->replay_port;

    if (k->replay_port != 0 && v->port_count > apart && !k->told_ports)
        LOG_ERROR("kubernetes: %u ranks publish from port %u on and replay from port %u on, which "
                  "overlap: set --kv-events-port and --kv-replay-port further apart",
                  v->port_count, k->events_port, k->replay_port);
    k->told_ports = k->replay_port != 0 && v->port_count > apart;
}

static void on_view(void *ctx, const struct kube_view *v)
{
    struct cache_kube *k = ctx;
    uint32_t pods = kube_pods_count(v->pods), n = 0, left_out = 0;
    struct kv_source_opts *list = mem_zalloc((KV_SOURCES_MAX + 1) * sizeof(*list));
    struct map addresses = { 0 };
    struct arena a;
    struct err e;

    check_ports(k, v);
    arena_init(&a, VIEW_BYTES_MAX);
    for (uint32_t i = 0; i < pods; i++) {
        const struct kube_pod *p = kube_pods_at(v->pods, i);

        for (uint32_t r = 0; r < v->port_count && p->ip.n != 0 && !is_leaving(p); r++) {
            if (!kube_pod_has_port(p, v->port[r]))
                continue;
            if (n == KV_SOURCES_MAX)
                left_out++;
            else
                n += source_of(k, &a, p, v, r, &addresses, &list[n]);
        }
    }
    if (left_out != 0 && k->left_out == 0)
        LOG_WARN("kubernetes: %u publishers of KV events are left out, %d are heard: a cache "
                 "manager for each part of the pods",
                 left_out, KV_SOURCES_MAX);
    k->left_out = left_out;
    if (kv_manager_set_sources(k->m, list, n, &e) != 0)
        LOG_ERROR("kubernetes: workers refused, what was there before stays: %s", e.msg);
    map_fini(&addresses);
    arena_fini(&a);
    mem_free(list);
}

static bool still_answer(void *ctx)
{
    return kv_manager_sources_up(((struct cache_kube *)ctx)->m) != 0;
}

/* ---- books ---- */

static void book(void *ctx, const char *what, bool optional, const struct kube_reflector_stats *s)
{
    struct cache_kube *k = ctx;
    uint32_t i = k->kind++;

    (void)optional;
    if (i >= COUNT(k->errors))
        return;
    kv_manager_discovery(k->m, what, s->synced && s->connected && !s->absent,
                         s->errors - k->errors[i]);
    k->errors[i] = s->errors;
}

static void books(void *ctx)
{
    struct cache_kube *k = ctx;

    k->kind = 0;
    kube_discovery_each(k->discovery, book, k);
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
    if (rc != 0)
        return rc;
    LOG_INFO("kubernetes: following pods server=%s namespace=%s %s=%s",
             kube_client_server(k->client), d.namespace, d.pool != NULL ? "pool" : "selector",
             d.pool != NULL ? d.pool : d.selector);
    k->timer = loop_timer_new(l, books, k);
    loop_timer_arm(k->timer, 1, BOOKS_MS);
    return 0;
}

void cache_kube_close(struct cache_kube *k)
{
    if (k == NULL)
        return;
    loop_timer_free(k->timer);
    kube_discovery_free(k->discovery);
    kube_client_close(k->client);
    mem_free(k);
}
