// SPDX-License-Identifier: Apache-2.0
#include "cmd/sched_kube.h"
#include "base/check.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kube/elect.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BOOKS_MS       1000
#define KINDS_MAX      8
#define VIEW_BYTES_MAX ((size_t)64 << 20)

struct sched_kube {
    struct gateway *g;
    struct sched_kube_opts o;
    struct kube_client *client;
    struct kube_discovery *discovery;
    struct kube_elect *elect;
    char *lease;
    struct loop_timer *timer;
    uint64_t errors[KINDS_MAX]; /* told so far, in the order of kube_discovery_each */
    uint32_t kind;
};

/* ---- endpoints ---- */

static const struct sched_label *labels_of(struct arena *a, const struct kube_pod *p)
{
    struct sched_label *l = arena_alloc(a, (p->label_count + 1) * sizeof(*l));

    for (uint32_t i = 0; i < p->label_count; i++)
        l[i] = (struct sched_label) { p->label[i].key, p->label[i].value };
    return l;
}

/* A pod is one endpoint a port; its id is llm-d's, with the rank. */
static void endpoint_of(struct arena *a, const struct kube_pod *p, uint16_t port, uint32_t rank,
                        struct gateway_endpoint_opts *out)
{
    size_t n = p->ip.n + 16, m = p->namespace.n + p->name.n + 32;
    char *address = arena_alloc(a, n), *id = arena_alloc(a, m);

    snprintf(address, n, str_chr(p->ip, ':') != SIZE_MAX ? "[%.*s]:%u" : "%.*s:%u", STR_ARG(p->ip),
             port);
    snprintf(id, m, "%.*s/%.*s-rank-%u", STR_ARG(p->namespace), STR_ARG(p->name), rank);
    *out = (struct gateway_endpoint_opts) {
        .address = address, .id = id, .label = labels_of(a, p), .label_count = p->label_count
    };
    out->role_given = sched_role_of(out->label, out->label_count, &out->role);
}

/* Two pods can have one address for a moment (host network, or a name that was used again). */
static bool address_is_new(const struct gateway_endpoint_opts *list, uint32_t n,
                           struct map *addresses)
{
    uint64_t at;

    return !map_gets(addresses, str_of(list[n].address), &at) &&
           map_puts(addresses, str_of(list[n].address), n);
}

static const char *unused_id(struct arena *a, const struct kube_pod *p)
{
    size_t n = p->namespace.n + p->name.n + 2;
    char *id = arena_alloc(a, n);

    snprintf(id, n, "%.*s/%.*s", STR_ARG(p->namespace), STR_ARG(p->name));
    return id;
}

static void on_view(void *ctx, const struct kube_view *v)
{
    struct sched_kube *k = ctx;
    uint32_t pods = kube_pods_count(v->pods), n = 0, m = 0;
    struct gateway_endpoint_opts *list =
        mem_zalloc(((size_t)pods * KUBE_PORTS_MAX + 1) * sizeof(*list));
    struct gateway_unused *unused = mem_zalloc((pods + 1) * sizeof(*unused));
    struct map addresses = { 0 };
    struct arena a;
    struct err e;

    arena_init(&a, VIEW_BYTES_MAX);
    for (uint32_t i = 0; i < pods; i++) {
        const struct kube_pod *p = kube_pods_at(v->pods, i);
        const char *reason = kube_view_reason(v, p);

        for (uint32_t r = 0; reason == NULL && r < v->port_count; r++) {
            if (!kube_pod_has_port(p, v->port[r]))
                continue;
            if (n == GATEWAY_ENDPOINTS_MAX) {
                reason = "there are too many endpoints";
                continue;
            }
            endpoint_of(&a, p, v->port[r], r, &list[n]);
            if (address_is_new(list, n, &addresses))
                n++;
            else
                reason = "another pod has its address";
        }
        if (reason != NULL)
            unused[m++] = (struct gateway_unused) { unused_id(&a, p), reason };
    }
    if (gateway_set_endpoints(k->g, list, n, &e) != 0)
        LOG_ERROR("kubernetes: endpoints refused, what was there before stays: %s", e.msg);
    gateway_set_unused(k->g, unused, m);
    map_fini(&addresses);
    arena_fini(&a);
    mem_free(unused);
    mem_free(list);
}

/* The next document of text.  Its JSON may be laid out on lines, but none of them is "---". */
static struct str next_document(struct str *text)
{
    const char *from = text->p;

    while (text->p != NULL) {
        struct str line = str_cut(text, '\n');

        if (str_eqz(line, "---"))
            return (struct str) { from, (size_t)(line.p - from) };
        if (text->p == NULL)
            return (struct str) { from, (size_t)(line.p + line.n - from) };
    }
    return STR_NONE;
}

/* Copies the documents that can be read.  Whoever may write one object of the namespace must not
 * be able to hold up all others.  Returns how many were left out. */
static uint32_t readable(struct str text, struct buf *out)
{
    uint32_t left_out = 0;

    while (text.p != NULL) {
        struct str doc = next_document(&text);
        struct str head = str_sub(doc, 0, 160);
        struct objects *alone;
        struct err e;

        if (objects_load(&alone, doc, "kubernetes", NULL, 0, &e) != 0) {
            LOG_WARN("kubernetes: left out: %s object=%.*s", e.msg,
                     STR_ARG(str_sub(head, 0, str_chr(head, '\n'))));
            left_out++;
            continue;
        }
        objects_free(alone);
        if (out->len != 0)
            buf_z(out, "\n---\n");
        buf_str(out, doc);
    }
    return left_out;
}

static void on_objects(void *ctx, struct str text)
{
    struct sched_kube *k = ctx;
    struct objects *objects;
    struct buf good;
    uint32_t left_out;
    struct err e;
    int rc;

    buf_init(&good, text.n + 1);
    left_out = readable(text, &good);
    rc = objects_load(&objects, buf_view(&good), "kubernetes", k->o.alias, k->o.alias_count, &e);
    buf_fini(&good);
    gateway_reloaded(k->g, "objects", rc == 0 && left_out == 0);
    if (rc == 0)
        gateway_set_objects(k->g, objects);
    else
        LOG_ERROR("kubernetes: objectives and rewrites refused, what was there before stays: %s",
                  e.msg);
}

static bool still_answer(void *ctx)
{
    return gateway_any_usable(((struct sched_kube *)ctx)->g);
}

/* ---- books ---- */

static void book(void *ctx, const char *what, bool optional, const struct kube_reflector_stats *s)
{
    struct sched_kube *k = ctx;
    uint32_t i = k->kind++;

    if (i >= KINDS_MAX)
        return;
    gateway_discovery(k->g, what, s->synced && s->connected && !s->absent, s->errors - k->errors[i],
                      !optional || (!s->synced && !s->absent) ? -1 : !s->absent);
    k->errors[i] = s->errors;
}

static void books(void *ctx)
{
    struct sched_kube *k = ctx;

    k->kind = 0;
    kube_discovery_each(k->discovery, book, k);
}

/* ---- who leads ---- */

static void on_change(void *ctx, bool leads)
{
    struct sched_kube *k = ctx;

    gateway_set_leading(k->g, leads, k->lease);
}

/* DEPLOYMENT of a pod's name DEPLOYMENT-HASH-RANDOM; n == 0: it is not of that form. */
static struct str deployment_of(struct str pod)
{
    for (int parts = 0; parts < 2; parts++) {
        size_t n = pod.n;

        while (pod.n != 0 && pod.p[pod.n - 1] != '-')
            pod.n--;
        if (pod.n == n || pod.n == 0)
            return STR("");
        pod.n--;
    }
    return pod;
}

/* llm-d's name of the Lease.  Without a pool the Deployment's name stands for it. */
static int lease_name(const struct kube_discovery_opts *d, char **out, struct err *e)
{
    struct str pool = d->pool != NULL ? str_of(d->pool) : deployment_of(str_of(getenv("POD_NAME")));
    struct buf b;
    int rc = 0;

    if (pool.n == 0)
        return err_set(e, ERR_INVAL,
                       "--ha-enable-leader-election with --endpoint-selector needs POD_NAME, the "
                       "name of a Deployment's pod: replicas find each other by it");
    buf_init(&b, 1024);
    buf_f(&b, "epp-%s-%.*s.llm-d.ai", d->namespace, STR_ARG(pool));
    *out = str_dup(buf_view(&b));
    buf_fini(&b);
    if (!kube_name_ok(*out))
        rc = err_set(e, ERR_INVAL, "%s is no name of a Lease (at most 253 of a-z 0-9 - .)", *out);
    return rc;
}

static int elect(struct sched_kube *k, struct loop *l, const struct kube_discovery_opts *d,
                 struct err *e)
{
    const char *pod = getenv("POD_NAME");
    char host[256] = "", identity[320];
    int rc = lease_name(d, &k->lease, e);

    if (rc != 0)
        return rc;
    (void)gethostname(host, sizeof(host) - 1);
    /* another one after each start: a former life's Lease is not ours */
    snprintf(identity, sizeof(identity), "%s_%016" PRIx64, pod != NULL && *pod != 0 ? pod : host,
             rng_secure_u64());
    gateway_set_leading(k->g, false, k->lease);
    k->elect = kube_elect_new(l, k->client,
                              &(struct kube_elect_opts) { .namespace = d->namespace,
                                                          .name = k->lease,
                                                          .identity = identity,
                                                          .on_change = on_change,
                                                          .ctx = k });
    return 0;
}

bool sched_kube_resign(struct sched_kube *k, loop_fn *fn, void *ctx)
{
    if (k != NULL && k->elect != NULL)
        return kube_elect_release(k->elect, fn, ctx);
    fn(ctx);
    return false;
}

int sched_kube_open(struct loop *l, struct gateway *g, const struct sched_kube_opts *o,
                    struct sched_kube **out, struct err *e)
{
    static const struct kube_discovery_ops ops = { on_view, on_objects, still_answer };
    struct sched_kube *k = mem_zalloc(sizeof(*k));
    struct kube_discovery_opts d;
    int rc;

    *out = k;
    k->g = g;
    k->o = *o;
    rc = kube_flags_open(o->flags, l, &k->client, &d, e);
    if (rc == 0) {
        d.objects = o->objects;
        rc = kube_discovery_new(l, k->client, &d, &ops, k, &k->discovery, e);
    }
    if (rc == 0 && o->elects)
        rc = elect(k, l, &d, e);
    if (rc != 0)
        return rc;
    LOG_INFO("kubernetes: following pods server=%s namespace=%s %s=%s",
             kube_client_server(k->client), d.namespace, d.pool != NULL ? "pool" : "selector",
             d.pool != NULL ? d.pool : d.selector);
    k->timer = loop_timer_new(l, books, k);
    loop_timer_arm(k->timer, 1, BOOKS_MS);
    return 0;
}

void sched_kube_close(struct sched_kube *k)
{
    if (k == NULL)
        return;
    loop_timer_free(k->timer);
    kube_elect_free(k->elect);
    kube_discovery_free(k->discovery);
    kube_client_close(k->client);
    mem_free(k->lease);
    mem_free(k);
}
