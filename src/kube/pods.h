/* kube/pods.h - the pods that were selected, and which of them are endpoints.
 *
 * A pod is an endpoint on each of the target ports (or those that an annotation of it names: ranks
 * that may come and go) once it has an address and its condition Ready
 * is True; it stops being one when that falls or when it is to be deleted, which comes before its
 * process is told to stop.  Every other pod is kept with the reason why it is not used.
 * Source: the project's scheduler page 10.3; Kubernetes "Pod Lifecycle".
 * Threads: one owner. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KUBE_PODS_H
#define KUBE_PODS_H
#include "codec/json.h"

#define KUBE_PODS_MAX   10000
#define KUBE_LABELS_MAX 64

/* Some of the reasons. */
#define KUBE_DELETING "is being deleted"
#define KUBE_ENDED    "has ended"
#define KUBE_UNREADY  "is not ready (its readiness probe)"
#define KUBE_INACTIVE "none of its ports is active (annotation llm-d.ai/active-ports)"

struct kube_label {
    struct str key, value;
};

struct kube_pod {
    struct str name, namespace, ip;
    const char *reason;      /* why it is not used; NULL: it is */
    bool was_used;           /* it is, or was since it was first seen */
    struct str active_ports; /* "8000,8001": of the target ports these; p == NULL: all */
    struct kube_label label[KUBE_LABELS_MAX];
    uint32_t label_count;
};

/* Reads a Pod object; strings borrow from it.  ERR_PARSE: no pod.  */
int kube_pod_read(const struct json *object, struct kube_pod *out, struct err *e) MUST_CHECK;

/* Whether it is an endpoint on that port once it is one at all. */
bool kube_pod_has_port(const struct kube_pod *p, uint16_t port);

struct kube_pods;

struct kube_pods *kube_pods_new(void);
void kube_pods_free(struct kube_pods *p);
/* Whether anything that matters changed.  Past KUBE_PODS_MAX pods are passed over and counted. */
bool kube_pods_put(struct kube_pods *p, const struct kube_pod *pod);
bool kube_pods_del(struct kube_pods *p, struct str name);
/* Between them: a list; what was not put meanwhile is gone. */
void kube_pods_begin(struct kube_pods *p);
bool kube_pods_end(struct kube_pods *p);
uint32_t kube_pods_count(const struct kube_pods *p);
/* Passed over since the last list began. */
uint32_t kube_pods_left_out(const struct kube_pods *p);
/* How many of them a list that ends now would keep. */
uint32_t kube_pods_listed(const struct kube_pods *p);
const struct kube_pod *kube_pods_at(const struct kube_pods *p, uint32_t i);
#endif
