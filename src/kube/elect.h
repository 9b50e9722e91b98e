/* kube/elect.h - one of several processes leads, by a Lease of coordination.k8s.io/v1.
 *
 *   look --free, ours or run out--> write our name --answered--> leads --2 s--> write ...
 *     ^          no                      `-- 409: another was first          |
 *     `-- 2 s, when it runs out, ----'         10 s without an answer: steps back
 *         at once when it is given away
 *
 * Who leads writes every 2 s and steps back 10 s after it sent the last write that was answered
 * well; another takes over 15 s after it last saw the Lease change.  Both measure with clocks of
 * their own that only go forward: what times the Lease says is for people.  A write carries the
 * version it is based on, so that of two that try at once one gets 409.
 * Source: the project's scheduler page 10.5; Kubernetes "Leases" and Lease v1.
 * Threads: everything on the client's loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KUBE_ELECT_H
#define KUBE_ELECT_H
#include "codec/json.h"
#include "kube/client.h"

struct kube_elect;

struct kube_elect_opts {
    const char *namespace, *name; /* of the Lease; made when it is not there */
    const char *identity;         /* as its holder; no other process has it */
    void (*on_change)(void *ctx, bool leads);
    void *ctx;
};

/* Begins to try at once; not leading yet. */
struct kube_elect *kube_elect_new(struct loop *l, struct kube_client *c,
                                  const struct kube_elect_opts *o);
/* Steps back, and gives the Lease away so that another need not wait.  fn(ctx) runs once, maybe
 * inside, at the latest after 2 s.  Whether it led. */
bool kube_elect_release(struct kube_elect *el, loop_fn *fn, void *ctx);
void kube_elect_free(struct kube_elect *el); /* NULL is fine */

/* ---- what a Lease says (pure) ---- */

struct kube_lease {
    struct str metadata, spec; /* their JSON */
    struct str holder;         /* n == 0: nobody */
    struct str acquired;       /* a time's text; n == 0: not said */
    uint32_t duration_s;       /* 0: not said */
    uint32_t transitions;
};

/* Strings borrow from the object.  ERR_PARSE: no Lease. */
int kube_lease_read(const struct json *object, struct kube_lease *out, struct err *e) MUST_CHECK;
#endif
