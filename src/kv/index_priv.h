/* kv/index_priv.h - the inside of the block index, shared by index.c and index_apply.c. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KV_INDEX_PRIV_H
#define KV_INDEX_PRIV_H
#include "base/map.h"
#include "kv/holders_priv.h"
#include "kv/index.h"
#include "kv/table_priv.h"

#define KV_SHARDS            KV_INDEX_PARTS
#define KV_SHARD_BITS        8
#define KV_HANDLE_SHARDS     8
#define KV_HANDLE_SHARD_BITS 3
#define KV_GROUPS_MAX        32

enum kv_tier { KV_TIER_GPU, KV_TIER_CPU, KV_TIER_OTHER };

/* What an endpoint said about one of its cache groups. */
struct kv_group {
    bool is_known, is_indexable;
    uint16_t ratio; /* canonical blocks an engine block, at least 1; 0 = never stored */
};

struct kv_endpoint {
    char *address, *model;
    uint32_t slot; /* this life of it */
    uint64_t blocks;
    uint64_t handle_count;
    uint32_t hand;                            /* where eviction looks next */
    struct kv_table handle[KV_HANDLE_SHARDS]; /* engine hash -> prefix of a key, references */
    struct kv_group group[KV_GROUPS_MAX + 1]; /* [0]: events without a group */
};

struct kv_index {
    uint32_t block_tokens;
    enum index_hash hash;
    char *seed;
    uint64_t blocks_max, handles_max;
    uint64_t
        secret; /* of mix(): peers choose keys, so where they land must not be theirs to choose */

    struct kv_table shard[KV_SHARDS]; /* mixed key -> holders */
    uint64_t total;                   /* live (block, endpoint) pairs */
    uint64_t handle_count;
    size_t set_bytes;
    uint32_t evict_shard, evict_at;

    struct kv_endpoint **endpoint;
    uint32_t endpoint_count, endpoint_cap;
    struct map by_address;

    uint64_t live[KV_SLOT_WORDS];     /* slots in use */
    uint64_t dying[KV_SLOT_WORDS];    /* ended, still standing in some holders */
    uint64_t sweeping[KV_SLOT_WORDS]; /* those of them that this pass removes */
    uint16_t owner[KV_SLOTS];         /* endpoint of a live slot */
    uint32_t slot_words;              /* words that may hold a live bit */
    bool is_sweeping, has_dying;
    uint32_t sweep_shard, adds;

    uint64_t inserts; /* drives the age */
    uint8_t age;
    struct kv_index_watch watch;
};

/* Invertible: equal numbers mean equal keys, and the key can be had back. */
uint64_t kv_index_mix(const struct kv_index *x, uint64_t key);

static inline struct kv_table *kv_index_shard(const struct kv_index *x, uint64_t mixed)
{
    return (struct kv_table *)&x->shard[mixed >> (64 - KV_SHARD_BITS)];
}

/* By mixed key.  add: false only without memory. */
bool kv_index_pair_add(struct kv_index *x, uint32_t endpoint, uint64_t mixed);
/* The entry whose mixed key begins with these 48 bits, or NULL. */
struct kv_entry *kv_index_by_prefix(const struct kv_index *x, uint64_t prefix);
void kv_index_pair_del(struct kv_index *x, uint32_t endpoint, uint64_t prefix);
uint64_t kv_index_unmix(const struct kv_index *x, uint64_t mixed);
void kv_index_sweep_step(struct kv_index *x);
#endif
