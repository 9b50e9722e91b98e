/* Byte strings to ids: one blob holds all strings in the order of their ids, an open-addressing
 * table of (hash, id) finds them.  Eight bytes a slot and at most half full: 262,144 tokens take
 * 4 MiB of table and 2 MiB of text, and a miss is mostly one cache line.  The hash is seeded, so
 * that no file can be made whose texts all collide. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "text/tokenizer_priv.h"
#define XXH_INLINE_ALL
#include <xxhash.h>

static uint64_t hash(const struct vocab *v, const uint8_t *p, size_t n)
{
    return XXH3_64bits_withSeed(p, n, v->seed);
}

int vocab_init(struct vocab *v, uint32_t expected)
{
    uint64_t slots = 64;

    *v = (struct vocab) { .seed = rng_secure_u64() };
    while (slots < (uint64_t)expected * 2)
        slots *= 2;
    v->cap = expected + 64;
    v->at = mem_try_zero((size_t)v->cap + 1, sizeof(*v->at));
    v->slot = mem_try_zero(slots, sizeof(*v->slot));
    if (v->at == NULL || v->slot == NULL) {
        vocab_fini(v);
        return ERR_NOMEM;
    }
    memset(v->slot, 0xff, slots * sizeof(*v->slot));
    v->mask = (uint32_t)(slots - 1);
    return 0;
}

void vocab_fini(struct vocab *v)
{
    mem_free(v->bytes);
    mem_free(v->at);
    mem_free(v->slot);
    *v = (struct vocab) { 0 };
}

static int grow_bytes(struct vocab *v, size_t n)
{
    size_t cap = v->bytes_cap;
    uint8_t *p;

    if (n > UINT32_MAX - v->bytes_len)
        return ERR_LIMIT;
    if (v->bytes != NULL && v->bytes_len + n <= cap)
        return 0;
    cap = MAX(cap + cap / 2, v->bytes_len + n + 4096);
    p = mem_try_realloc(v->bytes, cap);
    if (p == NULL)
        return ERR_NOMEM;
    v->bytes = p;
    v->bytes_cap = cap;
    return 0;
}

static int grow_ids(struct vocab *v)
{
    size_t cap;
    uint32_t *at;

    if (v->count < v->cap)
        return 0;
    if (v->count >= UINT32_MAX / 4)
        return ERR_LIMIT;
    cap = (size_t)v->cap + v->cap / 2;
    at = mem_try_realloc(v->at, (cap + 1) * sizeof(*at));
    if (at == NULL)
        return ERR_NOMEM;
    v->at = at;
    v->cap = (uint32_t)cap;
    return 0;
}

/* The slot of s, or the empty one where it belongs. */
static struct vocab_slot *probe(const struct vocab *v, uint64_t h, const uint8_t *p, size_t n)
{
    uint32_t tag = (uint32_t)(h >> 32);

    for (uint32_t i = (uint32_t)h & v->mask;; i = (i + 1) & v->mask) {
        struct vocab_slot *s = &v->slot[i];

        if (s->id == TOK_NONE)
            return s;
        if (s->tag == tag && v->at[s->id + 1] - v->at[s->id] == n &&
            memcmp(v->bytes + v->at[s->id], p, n) == 0)
            return s;
    }
}

static int grow_slots(struct vocab *v)
{
    uint64_t slots = ((uint64_t)v->mask + 1) * 2;
    struct vocab_slot *old = v->slot;
    uint32_t old_mask = v->mask;

    if ((uint64_t)v->count * 2 < slots / 2)
        return 0;
    v->slot = mem_try(slots * sizeof(*v->slot));
    if (v->slot == NULL) {
        v->slot = old;
        return ERR_NOMEM;
    }
    memset(v->slot, 0xff, slots * sizeof(*v->slot));
    v->mask = (uint32_t)(slots - 1);
    for (uint64_t i = 0; i <= old_mask; i++)
        if (old[i].id != TOK_NONE) {
            struct str s = vocab_get(v, old[i].id);
            uint64_t h = hash(v, (const uint8_t *)s.p, s.n);

            *probe(v, h, (const uint8_t *)s.p, s.n) = old[i];
        }
    mem_free(old);
    return 0;
}

int vocab_add(struct vocab *v, struct str s, bool hidden)
{
    struct vocab_slot *slot;
    uint64_t h;
    int rc;

    rc = grow_bytes(v, s.n);
    if (rc == 0)
        rc = grow_ids(v);
    if (rc == 0)
        rc = grow_slots(v);
    if (rc != 0)
        return rc;
    if (s.n != 0)
        memcpy(v->bytes + v->bytes_len, s.p, s.n);
    v->bytes_len += s.n;
    v->at[v->count + 1] = (uint32_t)v->bytes_len;
    if (!hidden) {
        h = hash(v, (const uint8_t *)s.p, s.n);
        slot = probe(v, h, (const uint8_t *)s.p, s.n);
        slot->tag = (uint32_t)(h >> 32);
        slot->id = v->count;
    }
    v->count++;
    return 0;
}

uint32_t vocab_find(const struct vocab *v, const uint8_t *p, size_t n)
{
    return probe(v, hash(v, p, n), p, n)->id;
}

struct str vocab_get(const struct vocab *v, uint32_t id)
{
    return (struct str) { (const char *)v->bytes + v->at[id], v->at[id + 1] - v->at[id] };
}

/* Bytes 33-126, 161-172 and 174-255 stand for themselves; the other 68, in order, for U+0100
 * onwards. */
static bool is_plain(uint32_t b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
}

uint32_t alphabet_char(uint8_t byte)
{
    if (is_plain(byte))
        return byte;
    if (byte <= 32)
        return 256u + byte;
    return byte == 173 ? 256 + 67 : 256u + 33 + byte - 127;
}

int alphabet_byte(uint32_t cp)
{
    if (is_plain(cp))
        return (int)cp;
    if (cp < 256 || cp > 256 + 67)
        return -1;
    cp -= 256;
    return cp <= 32 ? (int)cp : cp == 67 ? 173 : (int)(cp - 33 + 127);
}

bool alphabet_decode(struct str s, uint8_t *out, size_t *n)
{
    const uint8_t *p = (const uint8_t *)s.p, *end = p + s.n;

    *n = 0;
    while (p < end) {
        uint32_t cp = *p++;
        int b;

        if (cp >= 0x80) { /* every character of the alphabet has one byte or two */
            if (cp < 0xc2 || cp > 0xc5 || p == end || (*p & 0xc0) != 0x80)
                return false;
            cp = (cp & 0x1f) << 6 | (*p++ & 0x3f);
        }
        b = alphabet_byte(cp);
        if (b < 0)
            return false;
        out[(*n)++] = (uint8_t)b;
    }
    return true;
}
