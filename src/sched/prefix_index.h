/* sched/prefix_index.h - which endpoint was given which blocks, as far as we routed them there.
 *
 * Per endpoint the least recently used of a bounded number of block keys; over all of them one
 * table from a key to the set of its holders, so that one walk over a prompt's keys gives the
 * match of every endpoint.  What endpoints really hold is not known: this is a guess from what was
 * sent, which is why it is bounded like their caches.
 *
 * Memory: a ceiling in bytes for everything; when it is reached an endpoint's new keys push out its
 * own oldest ones.
 * Cost: match() is O(keys + changes of holders along them), add() O(keys).
 * Threads: one owner at a time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_PREFIX_INDEX_H
#define SCHED_PREFIX_INDEX_H
#include "base/arena.h"
#include "base/map.h"

#define PREFIX_INDEX_NONE UINT32_MAX

struct prefix_index;

struct prefix_index *prefix_index_new(size_t bytes_max);
void prefix_index_free(struct prefix_index *ix);

/* Place of an endpoint, or PREFIX_INDEX_NONE: nothing was added for it. */
uint32_t prefix_index_place(const struct prefix_index *ix, uint64_t uid);
/* Adds keys to the endpoint, the last of them as the most recent; of more than capacity the oldest
 * are dropped.  Keys that it has become recent again.  Without memory fewer are remembered.
 * weight: how much of the capacity each takes; NULL: 1. */
void prefix_index_add(struct prefix_index *ix, uint64_t uid, uint32_t capacity,
                      const uint64_t *keys, const uint32_t *weight, uint32_t count,
                      uint64_t now_ms);
/* held[i] = how many of keys the endpoint uid[i] holds, up to the first key that nobody holds. */
void prefix_index_match(const struct prefix_index *ix, struct arena *a, const uint64_t *keys,
                        uint32_t count, const uint64_t *uid, uint32_t endpoints, uint32_t *held);
/* How much of its capacity is taken. */
uint64_t prefix_index_weight(const struct prefix_index *ix, uint64_t uid);
bool prefix_index_holds(const struct prefix_index *ix, uint64_t uid, uint64_t key);
void prefix_index_gone(struct prefix_index *ix, uint64_t uid);
/* Drops what was added, or became recent again, at `before_ms` or earlier. */
void prefix_index_expire(struct prefix_index *ix, uint64_t before_ms);

struct prefix_index_stats {
    uint32_t endpoints, keys; /* keys: distinct */
    uint64_t entries;         /* over all endpoints */
    uint64_t weight;          /* of all entries */
    size_t bytes;
};
void prefix_index_stats(const struct prefix_index *ix, struct prefix_index_stats *out);
/* Entries of the nth endpoint that is there, and its uid; false: no more. */
bool prefix_index_nth(const struct prefix_index *ix, uint32_t n, uint64_t *uid, uint32_t *entries);
#endif
