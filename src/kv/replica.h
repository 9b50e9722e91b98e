/* kv/replica.h - a scheduler's warm copy of the cache manager's index.
 *
 * Follows the manager's index stream (docs/protocols/index-stream.md), connects
 * again with back-off, and begins anew with a snapshot each time.  While the
 * manager is away the last view is kept for keep_ms, then it is emptied: a hint
 * that nobody corrects grows wrong.
 * Threads: everything on its loop; readers elsewhere hold opts.lock. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KV_REPLICA_H
#define KV_REPLICA_H
#include "kv/index.h"
#include "net/loop.h"
#include <pthread.h>

struct replica;

struct replica_opts {
    const char *host; /* of the cache manager; copied */
    uint16_t port;
    /* block_tokens, hash and seed as the caller makes its keys: a manager that makes them otherwise
     * is refused (and said so in the log).  blocks_max is the manager's. */
    struct kv_index_opts index;
    uint32_t keep_ms; /* 0 = 10 s */
    /* Held while the view changes: with it, other threads may read under the same lock.  NULL: only
     * the loop reads.  Borrowed. */
    pthread_mutex_t *lock;
};

int replica_new(struct loop *l, const struct replica_opts *o, struct replica **out,
                struct err *e) MUST_CHECK;
/* Never NULL; empty until the first snapshot is complete.  The pointer is good until the loop
 * turns: a new snapshot brings a new index.  The number of an endpoint stays as long as the replica
 * lives (kv_index_find). */
const struct kv_index *replica_index(const struct replica *r);
/* A complete view that the manager confirmed within the last 3 s. */
bool replica_up(const struct replica *r);
uint32_t
replica_age_ms(const struct replica *r); /* since the manager last spoke; UINT32_MAX = never */
uint64_t replica_snapshots(const struct replica *r); /* complete ones so far */
void replica_free(struct replica *r);                /* NULL is fine */
#endif
