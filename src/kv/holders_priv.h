/* kv/holders_priv.h - which slots hold a block, in one 64-bit word.
 *
 *   63....56 55 54........................................0
 *     age    0   four slots of 14 bits, 0 = none
 *     age    1   address of a set / 16
 *
 * A slot (1 .. 8191) is one life of one endpoint.  Up to four stand in the word
 * itself; more go to a set on the heap, a list while that is smaller than a
 * bitmap.  Slots of lives that ended (not in `live`) may stand anywhere and are
 * dropped when room is needed.
 * Threads: one owner. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KV_HOLDERS_PRIV_H
#define KV_HOLDERS_PRIV_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_SLOTS        8192
#define KV_SLOT_WORDS   (KV_SLOTS / 64)
#define KV_INLINE_SLOTS 4
#define KV_INLINE_BITS  14
#define KV_INLINE_MASK  ((1u << KV_INLINE_BITS) - 1)
#define KV_SET_FLAG     ((uint64_t)1 << 55)
#define KV_AGE_SHIFT    56

struct kv_set {
    uint32_t count;
    uint16_t cap;   /* of the list; 0 = a bitmap */
    uint16_t words; /* of the bitmap */
    uint64_t data[];
};

static inline uint16_t *kv_set_list(struct kv_set *s)
{
    return (uint16_t *)(void *)s->data;
}

static inline bool kv_bit(const uint64_t *bits, uint32_t i)
{
    return (bits[i / 64] >> (i % 64) & 1) != 0;
}

static inline struct kv_set *kv_holders_set(uint64_t word)
{
    return (word & KV_SET_FLAG) != 0
               ? (struct kv_set *)(uintptr_t)((word & (((uint64_t)1 << 44) - 1)) << 4)
               : NULL;
}

static inline uint32_t kv_holders_inline(uint64_t word, unsigned i)
{
    return (uint32_t)(word >> (KV_INLINE_BITS * i)) & KV_INLINE_MASK;
}

static inline uint8_t kv_holders_age(uint64_t word)
{
    return (uint8_t)(word >> KV_AGE_SHIFT);
}

static inline uint64_t kv_holders_aged(uint64_t word, uint8_t age)
{
    return (word & ~((uint64_t)0xff << KV_AGE_SHIFT)) | (uint64_t)age << KV_AGE_SHIFT;
}

bool kv_holders_has(uint64_t word, uint32_t slot);
bool kv_holders_empty(uint64_t word);
/* 1 = added, 0 = was there, -1 = no memory.  *bytes keeps count of the heap. */
int kv_holders_add(uint64_t *word, uint32_t slot, const uint64_t *live, size_t *bytes);
bool kv_holders_del(uint64_t *word, uint32_t slot, size_t *bytes);
/* Drops every slot that is not in `live`. */
void kv_holders_purge(uint64_t *word, const uint64_t *live, size_t *bytes);
void kv_holders_free(uint64_t *word, size_t *bytes);
/* Calls fn for each slot; fn must not change the word. */
void kv_holders_each(uint64_t word, void (*fn)(void *ctx, uint32_t slot), void *ctx);
#endif
