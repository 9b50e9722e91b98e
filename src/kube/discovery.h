/* kube/discovery.h - endpoints and objects of one namespace, as the API server has them now.
 *
 * Either an InferencePool, whose selector and target ports are followed, or a selector and ports
 * from flags.  InferenceObjective and InferenceModelRewrite of the groups llm-d.ai and (older)
 * inference.networking.x-k8s.io are taken when the server knows them; of one name llm-d.ai's.
 *
 * What was known stays while the server is away.  A list that suddenly names nobody is not
 * believed while workers still answer: it is asked for again until it names some or they are gone.
 * Neither is it when all pods are not ready at once.
 * Source: the project's scheduler page 10, deployment page 4.
 * Threads: everything on its loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KUBE_DISCOVERY_H
#define KUBE_DISCOVERY_H
#include "kube/client.h"
#include "kube/pods.h"
#include "kube/reflector.h"

#define KUBE_PORTS_MAX 8

struct kube_discovery;

struct kube_discovery_opts {
    const char *namespace;
    const char *pool, *pool_group; /* the pool's name; NULL: the next two */
    const char *selector;          /* kube/selector.h */
    uint16_t port[KUBE_PORTS_MAX];
    uint32_t port_count;
    bool objects; /* follow objectives and rewrites */
};

/* is_doubted: not one pod is ready, though some were, and are not being deleted.  A node that lost
 * the API server is marked so with all its pods; those that still answer are used. */
struct kube_view {
    const struct kube_pods *pods;
    bool is_doubted;
    const uint16_t *port;
    uint32_t port_count;
};

/* Why the pod is not used; NULL: it is. */
const char *kube_view_reason(const struct kube_view *v, const struct kube_pod *pod);

struct kube_discovery_ops {
    /* Something changed; changes of some 20 ms come together. */
    void (*on_view)(void *ctx, const struct kube_view *v);
    /* Objects as documents (sched's --objects-file), older ones first. */
    void (*on_objects)(void *ctx, struct str text);
    /* Whether any endpoint of the last view still answers. */
    bool (*still_answer)(void *ctx);
};

/* "8000" or "8000,8001"; one that comes twice counts once.  ERR_INVAL. */
int kube_ports_parse(struct str text, uint16_t port[KUBE_PORTS_MAX], uint32_t *count,
                     struct err *e) MUST_CHECK;

/* Small letters, digits, dashes and dots: what a path may have. */
bool kube_name_ok(const char *s);

int kube_discovery_new(struct loop *l, struct kube_client *c, const struct kube_discovery_opts *o,
                       const struct kube_discovery_ops *ops, void *ctx, struct kube_discovery **out,
                       struct err *e) MUST_CHECK;
void kube_discovery_free(struct kube_discovery *d); /* NULL is fine */
/* Calls fn for each kind that is followed. */
void kube_discovery_each(const struct kube_discovery *d,
                         void (*fn)(void *ctx, const char *what, bool optional,
                                    const struct kube_reflector_stats *s),
                         void *ctx);
#endif
