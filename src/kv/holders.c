/* Sets of holders: inline, list, bitmap, and the ways between them (kv/holders_priv.h). */
// SPDX-License-Identifier: Apache-2.0
#include "kv/holders_priv.h"
#include "base/check.h"
#include "base/mem.h"
#include <string.h>

#define HEAD_BYTES     offsetof(struct kv_set, data)
#define LIST_CAP_FIRST 12 /* with the head 32 bytes; then 64, 128, ... */

static size_t list_bytes(uint32_t cap)
{
    return HEAD_BYTES + cap * sizeof(uint16_t);
}

static size_t bitmap_bytes(uint32_t words)
{
    return HEAD_BYTES + words * sizeof(uint64_t);
}

static size_t set_bytes(const struct kv_set *s)
{
    return s->cap != 0 ? list_bytes(s->cap) : bitmap_bytes(s->words);
}

static void point_to(uint64_t *word, const struct kv_set *s)
{
    uint64_t at = (uint64_t)(uintptr_t)s;

    ASSERT((at & 15) == 0 && at >> 48 == 0);
    *word = (*word & (uint64_t)0xff << KV_AGE_SHIFT) | KV_SET_FLAG | at >> 4;
}

static void inline_put(uint64_t *word, unsigned i, uint32_t slot)
{
    unsigned shift = KV_INLINE_BITS * i;

    *word = (*word & ~((uint64_t)KV_INLINE_MASK << shift)) | (uint64_t)slot << shift;
}

bool kv_holders_has(uint64_t word, uint32_t slot)
{
    struct kv_set *s = kv_holders_set(word);

    if (s == NULL) {
        for (unsigned i = 0; i < KV_INLINE_SLOTS; i++)
            if (kv_holders_inline(word, i) == slot)
                return true;
        return false;
    }
    if (s->cap == 0)
        return slot / 64 < s->words && kv_bit(s->data, slot);
    for (uint32_t i = 0; i < s->count; i++)
        if (kv_set_list(s)[i] == slot)
            return true;
    return false;
}

bool kv_holders_empty(uint64_t word)
{
    struct kv_set *s = kv_holders_set(word);

    return s != NULL ? s->count == 0 : word << (64 - KV_AGE_SHIFT) == 0;
}

void kv_holders_free(uint64_t *word, size_t *bytes)
{
    struct kv_set *s = kv_holders_set(*word);

    if (s != NULL) {
        *bytes -= set_bytes(s);
        mem_free(s);
    }
    *word &= (uint64_t)0xff << KV_AGE_SHIFT;
}

void kv_holders_each(uint64_t word, void (*fn)(void *ctx, uint32_t slot), void *ctx)
{
    struct kv_set *s = kv_holders_set(word);

    if (s == NULL) {
        for (unsigned i = 0; i < KV_INLINE_SLOTS; i++)
            if (kv_holders_inline(word, i) != 0)
                fn(ctx, kv_holders_inline(word, i));
    } else if (s->cap != 0) {
        for (uint32_t i = 0; i < s->count; i++)
            fn(ctx, kv_set_list(s)[i]);
    } else {
        for (uint32_t w = 0; w < s->words; w++)
            for (uint64_t left = s->data[w]; left != 0; left &= left - 1)
                fn(ctx, w * 64 + (uint32_t)__builtin_ctzll(left));
    }
}

/* Few enough to stand in the word again. */
static void shrink(uint64_t *word, size_t *bytes)
{
    struct kv_set *s = kv_holders_set(*word);
    uint32_t slot[KV_INLINE_SLOTS], n = 0;

    if (s == NULL || s->count >= KV_INLINE_SLOTS) /* one below, so that it does not flutter */
        return;
    if (s->cap != 0) {
        for (; n < s->count; n++)
            slot[n] = kv_set_list(s)[n];
    } else {
        for (uint32_t w = 0; w < s->words; w++)
            for (uint64_t left = s->data[w]; left != 0; left &= left - 1)
                slot[n++] = w * 64 + (uint32_t)__builtin_ctzll(left);
    }
    kv_holders_free(word, bytes);
    for (uint32_t i = 0; i < n; i++)
        inline_put(word, i, slot[i]);
}

static void drop_dead(uint64_t *word, const uint64_t *live)
{
    struct kv_set *s = kv_holders_set(*word);

    if (s == NULL) {
        for (unsigned i = 0; i < KV_INLINE_SLOTS; i++)
            if (!kv_bit(live, kv_holders_inline(*word, i)))
                inline_put(word, i, 0);
    } else if (s->cap != 0) {
        uint32_t n = 0;

        for (uint32_t i = 0; i < s->count; i++)
            if (kv_bit(live, kv_set_list(s)[i]))
                kv_set_list(s)[n++] = kv_set_list(s)[i];
        s->count = n;
    } else {
        s->count = 0;
        for (uint32_t w = 0; w < s->words; w++) {
            s->data[w] &= live[w];
            s->count += (uint32_t)__builtin_popcountll(s->data[w]);
        }
    }
}

void kv_holders_purge(uint64_t *word, const uint64_t *live, size_t *bytes)
{
    drop_dead(word, live);
    shrink(word, bytes);
}

bool kv_holders_del(uint64_t *word, uint32_t slot, size_t *bytes)
{
    struct kv_set *s = kv_holders_set(*word);

    if (!kv_holders_has(*word, slot))
        return false;
    if (s == NULL) {
        for (unsigned i = 0; i < KV_INLINE_SLOTS; i++)
            if (kv_holders_inline(*word, i) == slot)
                inline_put(word, i, 0);
        return true;
    }
    s->count--;
    if (s->cap == 0)
        s->data[slot / 64] &= ~((uint64_t)1 << slot % 64);
    else
        for (uint32_t i = 0; i <= s->count; i++)
            if (kv_set_list(s)[i] == slot) {
                kv_set_list(s)[i] = kv_set_list(s)[s->count];
                break;
            }
    shrink(word, bytes);
    return true;
}

static bool word_to_list(uint64_t *word, size_t *bytes)
{
    struct kv_set *s = mem_try(list_bytes(LIST_CAP_FIRST));

    if (s == NULL)
        return false;
    *s = (struct kv_set) { .cap = LIST_CAP_FIRST };
    for (unsigned i = 0; i < KV_INLINE_SLOTS; i++)
        kv_set_list(s)[s->count++] = (uint16_t)kv_holders_inline(*word, i);
    *bytes += list_bytes(LIST_CAP_FIRST);
    point_to(word, s);
    return true;
}

/* Room for one more in a full list: a longer list, or a bitmap once that is smaller. */
static bool widen(uint64_t *word, uint32_t slot, size_t *bytes)
{
    struct kv_set *s = kv_holders_set(*word), *to;
    uint32_t cap = s->cap * 2u + 4u, top = slot, words;

    for (uint32_t i = 0; i < s->count; i++)
        top = MAX(top, (uint32_t)kv_set_list(s)[i]);
    words = top / 64 + 1;
    if (bitmap_bytes(words) > list_bytes(cap)) {
        to = mem_try_realloc(s, list_bytes(cap));
        if (to == NULL)
            return false;
        *bytes += list_bytes(cap) - list_bytes(to->cap);
        to->cap = (uint16_t)cap;
    } else {
        to = mem_try_zero(1, bitmap_bytes(words));
        if (to == NULL)
            return false;
        to->count = s->count;
        to->words = (uint16_t)words;
        for (uint32_t i = 0; i < s->count; i++)
            to->data[kv_set_list(s)[i] / 64] |= (uint64_t)1 << kv_set_list(s)[i] % 64;
        *bytes += bitmap_bytes(words) - list_bytes(s->cap);
        mem_free(s);
    }
    point_to(word, to);
    return true;
}

static int bitmap_add(uint64_t *word, struct kv_set *s, uint32_t slot, size_t *bytes)
{
    uint32_t words = slot / 64 + 1;

    if (words > s->words) {
        s = mem_try_realloc(s, bitmap_bytes(words));
        if (s == NULL)
            return -1;
        memset(&s->data[s->words], 0, (words - s->words) * sizeof(uint64_t));
        *bytes += bitmap_bytes(words) - bitmap_bytes(s->words);
        s->words = (uint16_t)words;
        point_to(word, s);
    }
    s->data[slot / 64] |= (uint64_t)1 << slot % 64;
    s->count++;
    return 1;
}

static bool inline_add(uint64_t *word, uint32_t slot)
{
    for (unsigned i = 0; i < KV_INLINE_SLOTS; i++)
        if (kv_holders_inline(*word, i) == 0) {
            inline_put(word, i, slot);
            return true;
        }
    return false;
}

int kv_holders_add(uint64_t *word, uint32_t slot, const uint64_t *live, size_t *bytes)
{
    struct kv_set *s;

    if (kv_holders_has(*word, slot))
        return 0;
    s = kv_holders_set(*word);
    if (s == NULL) {
        if (inline_add(word, slot))
            return 1;
        drop_dead(word, live);
        if (inline_add(word, slot))
            return 1;
        if (!word_to_list(word, bytes))
            return -1;
    } else if (s->cap != 0 && s->count == s->cap) {
        drop_dead(word, live);
        if (s->count == s->cap && !widen(word, slot, bytes))
            return -1;
    }
    s = kv_holders_set(*word);
    if (s->cap == 0)
        return bitmap_add(word, s, slot, bytes);
    kv_set_list(s)[s->count++] = (uint16_t)slot;
    return 1;
}
