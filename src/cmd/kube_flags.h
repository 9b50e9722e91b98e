/* cmd/kube_flags.h - what the scheduler and the cache manager are told of Kubernetes: the same
 * flags, under llm-d's names.
 * Threads: as kube/discovery.h. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CMD_KUBE_FLAGS_H
#define CMD_KUBE_FLAGS_H
#include "base/opt.h"
#include "kube/discovery.h"

struct kube_flags {
    const char *pool, *pool_namespace, *pool_group, *selector, *ports, *kubeconfig;
};

/* Rows of a table of flags; OPTS has the member kube. */
#define KUBE_FLAGS(OPTS)                                                                           \
    { "pool-name",                                                                                 \
      OPT_STR,                                                                                     \
      offsetof(OPTS, kube.pool),                                                                   \
      NULL,                                                                                        \
      "NAME",                                                                                      \
      0,                                                                                           \
      0,                                                                                           \
      "Kubernetes: workers are the pods of this InferencePool" },                                  \
        { "pool-namespace",                                                                        \
          OPT_STR,                                                                                 \
          offsetof(OPTS, kube.pool_namespace),                                                     \
          NULL,                                                                                    \
          "NAME",                                                                                  \
          0,                                                                                       \
          0,                                                                                       \
          "its namespace, and that of everything else that is read; default: the pod's own" },     \
        { "pool-group",                                                                            \
          OPT_STR,                                                                                 \
          offsetof(OPTS, kube.pool_group),                                                         \
          "inference.networking.k8s.io",                                                           \
          "GROUP",                                                                                 \
          0,                                                                                       \
          0,                                                                                       \
          "API group of the InferencePool" },                                                      \
        { "endpoint-selector",                                                                     \
          OPT_STR,                                                                                 \
          offsetof(OPTS, kube.selector),                                                           \
          NULL,                                                                                    \
          "SELECTOR",                                                                              \
          0,                                                                                       \
          0,                                                                                       \
          "Kubernetes without a pool: workers are the pods it matches, such as app=vllm or "       \
          "'app in (a,b),!canary'" },                                                              \
        { "endpoint-target-ports",    OPT_STR, offsetof(OPTS, kube.ports), NULL, "PORT,...", 0, 0, \
          "and these are their ports" },                                                           \
    {                                                                                              \
        "kubeconfig", OPT_STR, offsetof(OPTS, kube.kubeconfig), NULL, "FILE", 0, 0,                \
            "how to reach the API server; default: $KUBECONFIG (files with colons), as a pod "     \
            "does, "                                                                               \
            "~/.kube/config"                                                                       \
    }

/* Whether they ask for Kubernetes at all. */
bool kube_flags_given(const struct kube_flags *f);
/* Fills *o (borrows from f and c) and opens *c, or says which flag is wrong. */
int kube_flags_open(const struct kube_flags *f, struct loop *l, struct kube_client **c,
                    struct kube_discovery_opts *o, struct err *e) MUST_CHECK;
#endif
