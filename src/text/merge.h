/* text/merge.h - the merge loop that BPE and SPM share.
 *
 * A row of symbols; again and again the neighbours with the smallest (rank, position) become one,
 * until no pair has a rank.  Which pairs have one is all the two differ in: `find`, a constant
 * argument, so that the compiler makes one copy of the loop for each.
 * Short rows keep the ranks in an array and search it; long ones use a heap, so that 100 KB
 * of one letter are not quadratic. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TEXT_MERGE_H
#define TEXT_MERGE_H
#include "base/mem.h"
#include "text/tokenizer_priv.h"

#define MERGE_SMALL 48 /* measured: words are shorter, and a heap pays above */

struct merge_sym {
    uint32_t id, at,
        len; /* bytes at .. at + len of the text; id TOK_NONE = not in the vocabulary */
};

struct merge_node { /* long rows: a symbol in a list */
    struct merge_sym sym;
    uint32_t prev, next; /* TOK_NONE = end; next == own index: merged away */
};

struct merge_item {
    uint64_t key; /* rank << 32 | left */
    uint32_t right, right_id, merged;
};

/* Whether l and r merge; then the rank and the id of the result. */
typedef bool merge_find(const struct tokenizer *t, const uint8_t *text, const struct merge_sym *l,
                        const struct merge_sym *r, uint32_t *rank, uint32_t *id);

/* ---- merges that are listed pairs of ids ---- */

static inline uint64_t pair_hash(uint64_t pair)
{
    pair *= 0x9e3779b97f4a7c15u;
    return pair ^ pair >> 32;
}

static inline struct pair_slot *pair_probe(const struct tokenizer *t, uint64_t pair)
{
    uint64_t i = pair_hash(pair) & t->pair_mask;

    while (t->pair[i].pair != pair && t->pair[i].pair != UINT64_MAX)
        i = (i + 1) & t->pair_mask;
    return &t->pair[i];
}

static inline bool find_pair(const struct tokenizer *t, const uint8_t *text,
                             const struct merge_sym *l, const struct merge_sym *r, uint32_t *rank,
                             uint32_t *id)
{
    uint64_t pair = (uint64_t)l->id << 32 | r->id;
    const struct pair_slot *s = pair_probe(t, pair);

    (void)text;
    if (s->pair != pair)
        return false;
    *rank = s->rank;
    *id = s->merged;
    return true;
}

/* ---- short rows ---- */

/* Merges sym[0..n), n <= MERGE_SMALL, in place; returns how many remain. */
static inline __attribute__((always_inline)) uint32_t merge_small(const struct tokenizer *t,
                                                                  const uint8_t *text,
                                                                  struct merge_sym *sym, uint32_t n,
                                                                  merge_find *find)
{
    uint32_t rank[MERGE_SMALL], merged[MERGE_SMALL];

    for (uint32_t i = 0; i + 1 < n; i++)
        if (!find(t, text, &sym[i], &sym[i + 1], &rank[i], &merged[i]))
            rank[i] = TOK_NONE;
    while (n > 1) {
        uint32_t best = 0;

        for (uint32_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == TOK_NONE)
            break;
        sym[best].id = merged[best];
        sym[best].len += sym[best + 1].len;
        n--;
        for (uint32_t i = best + 1; i < n; i++) {
            sym[i] = sym[i + 1];
            rank[i - 1] = rank[i];
            merged[i - 1] = merged[i];
        }
        if (best > 0 &&
            !find(t, text, &sym[best - 1], &sym[best], &rank[best - 1], &merged[best - 1]))
            rank[best - 1] = TOK_NONE;
        if (best + 1 < n && !find(t, text, &sym[best], &sym[best + 1], &rank[best], &merged[best]))
            rank[best] = TOK_NONE;
    }
    return n;
}

/* ---- long rows ---- */

static inline void merge_sift_down(struct merge_item *h, size_t n, size_t i)
{
    struct merge_item x = h[i];

    for (;;) {
        size_t c = 2 * i + 1;

        if (c >= n)
            break;
        if (c + 1 < n && h[c + 1].key < h[c].key)
            c++;
        if (x.key <= h[c].key)
            break;
        h[i] = h[c];
        i = c;
    }
    h[i] = x;
}

static inline bool merge_push(struct enc *e, size_t *n, struct merge_item x)
{
    size_t i = *n;

    if (i == e->heap_cap) {
        size_t cap = e->heap_cap + e->heap_cap / 2 + 64;
        struct merge_item *p = mem_try_realloc(e->heap, cap * sizeof(*p));

        if (p == NULL)
            return false;
        e->heap = p;
        e->heap_cap = cap;
    }
    while (i > 0 && x.key < e->heap[(i - 1) / 2].key) {
        e->heap[i] = e->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    e->heap[i] = x;
    (*n)++;
    return true;
}

/* Room for n nodes and as many heap items. */
static inline bool merge_room(struct enc *e, size_t n)
{
    if (n > e->node_cap) {
        struct merge_node *p = mem_try_realloc(e->node, n * sizeof(*p));

        if (p == NULL)
            return false;
        e->node = p;
        e->node_cap = n;
    }
    if (n > e->heap_cap) {
        struct merge_item *h = mem_try_realloc(e->heap, n * sizeof(*h));

        if (h == NULL)
            return false;
        e->heap = h;
        e->heap_cap = n;
    }
    return true;
}

static inline __attribute__((always_inline)) bool merge_try(struct enc *e, const uint8_t *text,
                                                            uint32_t l, uint32_t r, size_t *heap_n,
                                                            merge_find *find)
{
    struct merge_node *node = e->node;
    uint32_t rank, id;

    if (!find(e->t, text, &node[l].sym, &node[r].sym, &rank, &id))
        return true;
    return merge_push(e, heap_n,
                      (struct merge_item) { (uint64_t)rank << 32 | l, r, node[r].sym.id, id });
}

/* Merges e->node[0..n), whose sym are set.  What remains is the list from node 0 along next.
 * An item of the heap is stale when its left is no longer followed by its right, or its right
 * has grown: a symbol changes only by taking its right neighbour in. */
static inline __attribute__((always_inline)) int merge_large(struct enc *e, const uint8_t *text,
                                                             uint32_t n, merge_find *find)
{
    struct merge_node *node = e->node;
    size_t heap_n = 0;

    for (uint32_t i = 0; i < n; i++) {
        node[i].prev = i == 0 ? TOK_NONE : i - 1;
        node[i].next = i + 1 < n ? i + 1 : TOK_NONE;
    }
    for (uint32_t i = 0; i + 1 < n; i++)
        if (!merge_try(e, text, i, i + 1, &heap_n, find))
            return ERR_NOMEM;
    while (heap_n > 0) {
        struct merge_item x = e->heap[0];
        uint32_t l = (uint32_t)x.key, r = x.right, after;

        e->heap[0] = e->heap[--heap_n];
        if (heap_n > 1)
            merge_sift_down(e->heap, heap_n, 0);
        if (node[l].next != r || node[r].sym.id != x.right_id)
            continue;
        after = node[r].next;
        node[l].sym.id = x.merged;
        node[l].sym.len += node[r].sym.len;
        node[l].next = after;
        node[r].next = r;
        if (after != TOK_NONE)
            node[after].prev = l;
        if (node[l].prev != TOK_NONE && !merge_try(e, text, node[l].prev, l, &heap_n, find))
            return ERR_NOMEM;
        if (after != TOK_NONE && !merge_try(e, text, l, after, &heap_n, find))
            return ERR_NOMEM;
    }
    return 0;
}
#endif
