/* kv/table_priv.h - the hash table of the block index: 16 bytes an entry, 81 to 90 % full.
 *
 * Linear probing with the entries kept in the order of their hashes:
 *
 *   home(h) = h * cap / 2^64       hash: 03 05 | -- | 11 12 12' 15 | -- | ...
 *
 * An entry stands at its home or after it with no gap between, so a search is
 * "from home, while smaller, go on", and a rebuild is one pass in order through
 * both tables.  Removal closes the gap.  An unused entry's hash is the largest
 * number, which ends every search; that hash itself cannot be stored.
 * Threads: one owner. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KV_TABLE_PRIV_H
#define KV_TABLE_PRIV_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_TABLE_UNUSED UINT64_MAX

__extension__ typedef unsigned __int128 kv_u128;

struct kv_entry {
    uint64_t hash, val;
};

/* A zeroed table is empty and valid. */
struct kv_table {
    struct kv_entry *e;
    size_t cap;   /* range of homes */
    size_t alloc; /* cap and a tail; e[alloc] is always unused */
    size_t count;
    unsigned shift; /* leading bits of the hash that all entries share */
};

static inline size_t kv_table_home(const struct kv_table *t, uint64_t hash)
{
    return (size_t)((kv_u128)(hash << t->shift) * t->cap >> 64);
}

/* Index of the first entry whose hash is not below `hash`, searched from its home; the table
 * must have memory. */
static inline size_t kv_table_lower(const struct kv_table *t, uint64_t hash)
{
    size_t i = kv_table_home(t, hash);

    while (t->e[i].hash < hash)
        i++;
    return i;
}

static inline struct kv_entry *kv_table_find(const struct kv_table *t, uint64_t hash)
{
    size_t i;

    if (t->count == 0)
        return NULL;
    i = kv_table_lower(t, hash);
    return t->e[i].hash == hash ? &t->e[i] : NULL;
}

static inline void kv_table_prefetch(const struct kv_table *t, uint64_t hash)
{
    if (t->e != NULL)
        __builtin_prefetch(&t->e[kv_table_home(t, hash)]);
}

void kv_table_fini(struct kv_table *t);
/* The entry of hash, a new one with val 0 when there was none.  NULL = no memory (or the hash
 * that cannot be stored). */
struct kv_entry *kv_table_put(struct kv_table *t, uint64_t hash, bool *is_new);
/* Removes the entry at index i: what stood after it may now stand at i. */
void kv_table_del(struct kv_table *t, size_t i);
/* Gives memory back after many removals; entries move. */
void kv_table_trim(struct kv_table *t);
size_t kv_table_bytes(const struct kv_table *t);
#endif
