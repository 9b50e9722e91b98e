/* cmd/sched_kube.h - endpoints, objectives and rewrites of a gateway from Kubernetes.
 * Threads: the gateway's first loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CMD_SCHED_KUBE_H
#define CMD_SCHED_KUBE_H
#include "cmd/kube_flags.h"
#include "gateway/gateway.h"

struct sched_kube;

struct sched_kube_opts {
    const struct kube_flags *flags;
    bool objects;             /* false: they come from a file */
    bool elects;              /* only one replica leads, by a Lease */
    const char *const *alias; /* NAME=TARGET, kept beside the objects; borrowed */
    size_t alias_count;
};

int sched_kube_open(struct loop *l, struct gateway *g, const struct sched_kube_opts *o,
                    struct sched_kube **out, struct err *e) MUST_CHECK;
/* Leads no more, and lets another; fn(ctx) runs once, within 2 s.  Whether it led.  NULL is fine.
 */
bool sched_kube_resign(struct sched_kube *k, loop_fn *fn, void *ctx);
void sched_kube_close(struct sched_kube *k); /* before the gateway; NULL is fine */
#endif
