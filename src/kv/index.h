/* kv/index.h - the block index: which endpoint holds which block.
 *
 * Keys are index keys (codec/blockkey.h: indexkey_*), computed from the tokens
 * that events carry; engine hashes are opaque handles kept per endpoint, so two
 * endpoints can never disturb each other.  Clearing an endpoint is O(1) (its
 * epoch moves on; dead entries are dropped when met).  Entries are a hint: a
 * wrong one may cost time, never correctness.
 * Threads: one owner (a loop). */
// SPDX-License-Identifier: Apache-2.0
#ifndef KV_INDEX_H
#define KV_INDEX_H
#include "codec/blockkey.h"
#include "kv/events.h"

struct kv_index;

#define KV_ENDPOINTS_MAX 4096

struct kv_index_opts {
    uint32_t block_tokens; /* canonical; 16 */
    enum index_hash hash;  /* INDEX_HASH_XXH64 */
    const char *seed;      /* "" */
    size_t blocks_max;     /* (block, endpoint) pairs kept; 0 = 4 Mi; past it those go that
                              were stored longest ago */
};

struct kv_index *kv_index_new(const struct kv_index_opts *o);
void kv_index_free(struct kv_index *x);
/* A small stable number for (address, model); the same for the same address.  Another model at a
 * known address clears it.  Returns 0, ERR_LIMIT (KV_ENDPOINTS_MAX) or ERR_NOMEM. */
int kv_index_endpoint(struct kv_index *x, struct str address, struct str model,
                      uint32_t *out) MUST_CHECK;
/* The number of a known address; false otherwise. */
bool kv_index_find(const struct kv_index *x, struct str address, uint32_t *out);
void kv_index_clear(struct kv_index *x, uint32_t endpoint);

/* Why an event was passed over. */
enum kv_skip {
    KV_SKIP_UNKNOWN_TAG,
    KV_SKIP_UNKNOWN_GROUP,
    KV_SKIP_KIND,
    KV_SKIP_BLOCK_SIZE,
    KV_SKIP_SPAN,
    KV_SKIP_UNKNOWN_BLOCK,
    KV_SKIP_EXTRAS,
    KV_SKIPS
};
const char *kv_skip_name(enum kv_skip s); /* as the metric's label has it */

/* What one batch did; filled anew.  Engine blocks, save for skips (events). */
struct kv_apply_stats {
    uint32_t stored;     /* announced, and now in the index */
    uint32_t removed;    /* the last reference to them is gone */
    uint32_t suppressed; /* removals that left another reference */
    uint32_t orphans;    /* stored under an unknown parent: not indexed */
    uint32_t skipped;    /* events, sum of the next two */
    uint32_t store_skips[KV_SKIPS], removal_skips[KV_SKIPS];
};
/* Applies one batch of an endpoint, in order.  s may be NULL. */
void kv_index_apply(struct kv_index *x, uint32_t endpoint, const struct kv_batch *b,
                    struct kv_apply_stats *s);

/* Index keys of a prompt: full blocks only.  out has room for count / block_tokens keys. */
uint32_t kv_index_keys(const struct kv_index *x, struct str model, struct str salt,
                       const uint32_t *tokens, uint32_t count, uint64_t *out);
/* matched[e] for e in 0..endpoints-1: leading blocks that endpoint e holds. */
void kv_index_match(const struct kv_index *x, const uint64_t *keys, uint32_t count,
                    uint32_t *matched, uint32_t endpoints);
uint32_t kv_index_endpoint_count(const struct kv_index *x);
struct str kv_index_address(const struct kv_index *x, uint32_t endpoint);
struct str kv_index_model(const struct kv_index *x, uint32_t endpoint);
uint64_t kv_index_blocks(const struct kv_index *x, uint32_t endpoint);
uint64_t kv_index_total(const struct kv_index *x);
size_t kv_index_bytes(const struct kv_index *x);
/* Direct changes, for replicas of the index (keys, not events). */
void kv_index_add(struct kv_index *x, uint32_t endpoint, uint64_t key);
void kv_index_del(struct kv_index *x, uint32_t endpoint, uint64_t key);
/* Hears every change, evictions included: added or removed keys, cleared endpoints.  The index
 * must not be changed from inside. */
struct kv_index_watch {
    void (*on_add)(void *ctx, uint32_t endpoint, uint64_t key);
    void (*on_del)(void *ctx, uint32_t endpoint, uint64_t key);
    void (*on_clear)(void *ctx, uint32_t endpoint);
    void *ctx;
};
void kv_index_set_watch(struct kv_index *x, const struct kv_index_watch *w);
/* Visits every live (endpoint, key): the snapshot for a new replica. */
void kv_index_each(const struct kv_index *x, void (*fn)(void *ctx, uint32_t endpoint, uint64_t key),
                   void *ctx);
/* The same in KV_INDEX_PARTS parts of about equal size; a key never changes its part. */
#define KV_INDEX_PARTS 256
void kv_index_each_part(const struct kv_index *x, uint32_t part,
                        void (*fn)(void *ctx, uint32_t endpoint, uint64_t key), void *ctx);
#endif
