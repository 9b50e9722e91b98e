/* The sorted table of kv/table_priv.h: growth by a ninth at a time, which keeps it dense;
 * it stays cheap because a rebuild reads and writes in order. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "kv/table_priv.h"
#include <string.h>

#define CAP_MIN 16
#define CAP_MAX ((size_t)1 << 40)

static size_t tail_of(size_t cap)
{
    return 16 +
           cap / 128; /* where clusters of the last homes run out; a rebuild when it is short */
}

/* Moves everything to a table of at least cap homes. */
static bool rebuild(struct kv_table *t, size_t cap)
{
    struct kv_table to = { .count = t->count, .shift = t->shift };
    size_t at, i;

    for (;; cap += cap / 8 + 1) {
        if (cap > CAP_MAX)
            return false;
        to.cap = cap;
        to.alloc = cap + tail_of(cap);
        to.e = mem_try((to.alloc + 1) * sizeof(*to.e));
        if (to.e == NULL)
            return false;
        memset(to.e, 0xff, (to.alloc + 1) * sizeof(*to.e));
        at = 0;
        for (i = 0; i < t->alloc; i++) {
            if (t->e[i].hash == KV_TABLE_UNUSED)
                continue;
            at = MAX(at, kv_table_home(&to, t->e[i].hash));
            if (at == to.alloc)
                break;
            to.e[at++] = t->e[i];
        }
        if (i == t->alloc)
            break;
        mem_free(to.e); /* one cluster ran over the tail */
    }
    mem_free(t->e);
    *t = to;
    return true;
}

void kv_table_fini(struct kv_table *t)
{
    mem_free(t->e);
    *t = (struct kv_table) { .shift = t->shift };
}

struct kv_entry *kv_table_put(struct kv_table *t, uint64_t hash, bool *is_new)
{
    size_t i, gap;

    *is_new = false;
    if (hash == KV_TABLE_UNUSED)
        return NULL;
    if (t->e != NULL) {
        i = kv_table_lower(t, hash);
        if (t->e[i].hash == hash)
            return &t->e[i];
    }
    if (t->count >= t->cap - t->cap / 10 && !rebuild(t, MAX(t->cap + t->cap / 9, (size_t)CAP_MIN)))
        return NULL;
    for (;;) {
        i = kv_table_lower(t, hash);
        for (gap = i; gap < t->alloc && t->e[gap].hash != KV_TABLE_UNUSED; gap++)
            ;
        if (gap < t->alloc)
            break;
        if (!rebuild(t, t->cap + t->cap / 9 + 1))
            return NULL;
    }
    memmove(&t->e[i + 1], &t->e[i], (gap - i) * sizeof(*t->e));
    t->e[i] = (struct kv_entry) { hash, 0 };
    t->count++;
    *is_new = true;
    return &t->e[i];
}

void kv_table_del(struct kv_table *t, size_t i)
{
    size_t end = i + 1;

    DEBUG_ASSERT(i < t->alloc && t->e[i].hash != KV_TABLE_UNUSED);
    /* Entries that stand after their home move back by one; the first that is at home stops it. */
    while (t->e[end].hash != KV_TABLE_UNUSED && kv_table_home(t, t->e[end].hash) < end)
        end++;
    memmove(&t->e[i], &t->e[i + 1], (end - i - 1) * sizeof(*t->e));
    t->e[end - 1].hash = KV_TABLE_UNUSED;
    t->count--;
}

void kv_table_trim(struct kv_table *t)
{
    if (t->count == 0)
        kv_table_fini(t);
    else if (t->count < t->cap / 4)
        (void)rebuild(t,
                      MAX(t->count + t->count / 4, (size_t)CAP_MIN)); /* refused: stays as it is */
}

size_t kv_table_bytes(const struct kv_table *t)
{
    return t->e != NULL ? (t->alloc + 1) * sizeof(*t->e) : 0;
}
