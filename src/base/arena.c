// SPDX-License-Identifier: Apache-2.0
#include "base/arena.h"
#include "base/check.h"
#include "base/mem.h"
#include <string.h>

#define CHUNK_BYTES ((size_t)16 << 10)

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, cap;
    _Alignas(16) char data[];
};

void arena_init(struct arena *a, size_t max)
{
    *a = (struct arena) { .max = max };
}

void arena_fini(struct arena *a)
{
    struct arena_chunk *c = a->head;

    while (c != NULL) {
        struct arena_chunk *next = c->next;

        mem_free(c);
        c = next;
    }
    *a = (struct arena) { .max = a->max };
}

static void *take(struct arena *a, size_t size, bool bounded)
{
    struct arena_chunk *c = a->head;
    size_t want, cap;
    void *p;

    if (size > SIZE_MAX / 2)
        return NULL;
    want = (size + 15) & ~(size_t)15;
    if (c == NULL || c->cap - c->used < want) {
        cap = MAX(want, CHUNK_BYTES);
        if (bounded && (cap > a->max || a->used > a->max - cap))
            return NULL;
        c = bounded ? mem_try(sizeof(*c) + cap) : mem_alloc(sizeof(*c) + cap);
        if (c == NULL)
            return NULL;
        c->cap = cap;
        c->used = 0;
        /* A big piece goes behind the head, so that the head's room is not lost. */
        if (a->head != NULL && cap > CHUNK_BYTES) {
            c->next = a->head->next;
            a->head->next = c;
        } else {
            c->next = a->head;
            a->head = c;
        }
        a->used += cap;
    }
    p = c->data + c->used;
    c->used += want;
    return p;
}

void *arena_try(struct arena *a, size_t size)
{
    return take(a, size, true);
}

void *arena_try_zero(struct arena *a, size_t count, size_t size)
{
    size_t all;
    void *p;

    if (!size_mul(count, size, &all))
        return NULL;
    p = take(a, all, true);
    if (p != NULL)
        memset(p, 0, all);
    return p;
}

void *arena_alloc(struct arena *a, size_t size)
{
    void *p = take(a, size, false);

    ASSERT(p != NULL);
    return p;
}

struct str arena_str(struct arena *a, struct str s)
{
    char *p = arena_try(a, s.n + 1);

    if (p == NULL)
        return STR_NONE;
    if (s.n != 0)
        memcpy(p, s.p, s.n);
    p[s.n] = 0;
    return (struct str) { p, s.n };
}
