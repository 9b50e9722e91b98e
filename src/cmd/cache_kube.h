/* cmd/cache_kube.h - the workers whose KV events a cache manager hears, from Kubernetes.
 *
 * Each active target port of a pod is a rank, and each rank a publisher on a port of its own: the
 * first one's and its number (as vLLM's data-parallel ranks do).
 * Every pod that has an address counts, ready or not: what it holds is known when it gets ready.
 * Threads: the manager's loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CMD_CACHE_KUBE_H
#define CMD_CACHE_KUBE_H
#include "cmd/kube_flags.h"
#include "kv/manager.h"

struct cache_kube;

/* replay_port 0: workers have no replay socket. */
int cache_kube_open(struct loop *l, struct kv_manager *m, const struct kube_flags *flags,
                    uint16_t events_port, uint16_t replay_port, struct cache_kube **out,
                    struct err *e) MUST_CHECK;
void cache_kube_close(struct cache_kube *k); /* before the manager; NULL is fine */
#endif
