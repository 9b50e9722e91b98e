/* Special texts: where control and user-defined tokens cut a text.
 *
 * The reference takes the special texts longest first and for each cuts every occurrence out of
 * what is still text, from the left.  Doing just that costs (texts x bytes); Gemma has 6,400.
 * Here a trie finds, at each position, the longest text that begins there; a heap hands the
 * candidates out in the reference's order (longest first, then leftmost).  One that overlaps a
 * cut already made falls back to the longest shorter text that still fits before that cut.  The
 * same cuts, with work in proportion to the text. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "text/tokenizer_priv.h"
#include <stdlib.h>

/* ---- building ---- */

static int longest_first(const void *a, const void *b)
{
    const struct special_text *x = a, *y = b;

    if (x->text.n != y->text.n)
        return x->text.n > y->text.n ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static uint32_t new_node(struct special_set *s, uint8_t byte)
{
    if (s->node_count == s->node_cap) {
        size_t cap = (size_t)s->node_cap * 2 + 64;
        struct special_node *p;

        if (cap > UINT32_MAX / 4)
            return 0;
        p = mem_try_realloc(s->node, cap * sizeof(*p));
        if (p == NULL)
            return 0;
        s->node = p;
        s->node_cap = (uint32_t)cap;
        if (s->node_count == 0)
            s->node_count = 1;
    }
    s->node[s->node_count] = (struct special_node) { .rank = TOK_NONE, .byte = byte };
    return s->node_count++;
}

static uint32_t child_of(const struct special_set *s, uint32_t node, uint8_t byte)
{
    uint32_t c = s->node[node].child;

    while (c != 0 && s->node[c].byte != byte)
        c = s->node[c].sibling;
    return c;
}

static bool insert(struct special_set *s, struct str text, uint32_t rank, bool user)
{
    const uint8_t *p = (const uint8_t *)text.p;
    uint32_t at = s->root[p[0]];

    if (at == 0)
        at = s->root[p[0]] = new_node(s, p[0]);
    if (at == 0)
        return false;
    if (text.n == 1)
        s->single[p[0]] = true;
    else
        s->second[p[0]][p[1] >> 6] |= 1ull << (p[1] & 63);
    for (size_t i = 1; i < text.n; i++) {
        uint32_t c = child_of(s, at, p[i]);

        if (c == 0) {
            c = new_node(s, p[i]);
            if (c == 0)
                return false;
            s->node[c].sibling = s->node[at].child;
            s->node[at].child = c;
        }
        at = c;
    }
    s->node[at].rank = rank;
    s->node[at].user = user;
    return true;
}

int special_build_from(struct special_set *s, struct special_text *list, size_t n)
{
    *s = (struct special_set) { 0 };
    s->id = mem_try_zero(n + 1, sizeof(*s->id));
    s->len = mem_try_zero(n + 1, sizeof(*s->len));
    if (s->id == NULL || s->len == NULL)
        return ERR_NOMEM;
    if (n > 0)
        qsort(list, n, sizeof(*list), longest_first);
    for (size_t i = 0; i < n; i++) {
        s->id[i] = list[i].id;
        s->len[i] = (uint32_t)list[i].text.n;
        if (!insert(s, list[i].text, (uint32_t)i, list[i].user))
            return ERR_NOMEM;
    }
    s->count = (uint32_t)n;
    return 0;
}

int special_build(struct special_set *s, const struct tokenizer *t)
{
    struct special_text *list;
    size_t n = 0;
    int rc;

    *s = (struct special_set) { 0 };
    for (uint32_t id = 0; id < t->count; id++)
        n += (t->attr[id] & (TOK_SPECIAL | TOK_USER)) != 0 && t->text[id].n > 0;
    list = mem_try_zero(n + 1, sizeof(*list));
    if (list == NULL)
        return ERR_NOMEM;
    n = 0;
    for (uint32_t id = 0; id < t->count; id++)
        if ((t->attr[id] & (TOK_SPECIAL | TOK_USER)) != 0 && t->text[id].n > 0)
            list[n++] = (struct special_text) { t->text[id], id, (t->attr[id] & TOK_SPECIAL) == 0 };
    rc = special_build_from(s, list, n);
    mem_free(list);
    return rc;
}

void special_fini(struct special_set *s)
{
    mem_free(s->node);
    mem_free(s->id);
    mem_free(s->len);
    *s = (struct special_set) { 0 };
}

/* ---- finding ---- */

struct candidate {
    uint64_t key; /* rank << 32 | position */
};

struct finder {
    const struct tokenizer *t;
    struct str text;
    bool control;
    const uint8_t *mark; /* bytes that no control token may have; NULL = none */
    struct candidate *heap;
    size_t count, cap;
    uint64_t *cover; /* a bit for each byte that was cut out; NULL until the first candidate */
};

uint32_t special_longest(const struct special_set *s, struct str text, size_t at, size_t n,
                         bool control, const uint8_t *mark)
{
    const uint8_t *p = (const uint8_t *)text.p + at;
    uint32_t node = s->root[p[0]], best = TOK_NONE;

    for (size_t i = 1; node != 0; i++) {
        control = control && (mark == NULL || mark[at + i - 1] == 0);
        if (s->node[node].rank != TOK_NONE && (control || s->node[node].user))
            best = s->node[node].rank;
        if (i >= n)
            break;
        node = child_of(s, node, p[i]);
    }
    return best;
}

static uint32_t longest_at(const struct finder *f, size_t at, size_t n)
{
    return special_longest(&f->t->special, f->text, at, n, f->control, f->mark);
}

static bool push(struct finder *f, uint32_t rank, size_t at)
{
    uint64_t key = (uint64_t)rank << 32 | at;
    size_t i = f->count;

    if (f->count == f->cap) {
        size_t cap = f->cap * 2 + 64;
        struct candidate *p = mem_try_realloc(f->heap, cap * sizeof(*p));

        if (p == NULL)
            return false;
        f->heap = p;
        f->cap = cap;
    }
    while (i > 0 && key < f->heap[(i - 1) / 2].key) {
        f->heap[i] = f->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    f->heap[i].key = key;
    f->count++;
    return true;
}

static uint64_t pop(struct finder *f)
{
    uint64_t top = f->heap[0].key, last = f->heap[--f->count].key;
    size_t i = 0;

    for (size_t c; (c = 2 * i + 1) < f->count; i = c) {
        if (c + 1 < f->count && f->heap[c + 1].key < f->heap[c].key)
            c++;
        if (last <= f->heap[c].key)
            break;
        f->heap[i] = f->heap[c];
    }
    f->heap[i].key = last;
    return top;
}

static bool is_covered(const struct finder *f, size_t at)
{
    return (f->cover[at >> 6] >> (at & 63) & 1) != 0;
}

/* Bytes from `at`, which is free, to the next covered one, at most n. */
static size_t free_bytes(const struct finder *f, size_t at, size_t n)
{
    size_t end = at + n, i = at;

    while (i < end) {
        uint64_t w = f->cover[i >> 6] >> (i & 63);

        if (w != 0) {
            i += (size_t)__builtin_ctzll(w);
            return i < end ? i - at : n;
        }
        i = (i | 63) + 1;
    }
    return n;
}

static bool collect(struct finder *f)
{
    const struct special_set *s = &f->t->special;
    const uint8_t *p = (const uint8_t *)f->text.p;
    size_t n = f->text.n;

    for (size_t i = 0; i < n; i++) {
        uint32_t rank;

        if (!special_may_begin(s, p + i, n - i))
            continue;
        rank = longest_at(f, i, n - i);
        if (rank != TOK_NONE && !push(f, rank, i))
            return false;
    }
    return true;
}

static bool is_blank(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool add_cut(struct finder *f, struct special_cuts *out, size_t at, uint32_t id)
{
    size_t end = at + f->t->text[id].n, resume = end;

    if (out->count == out->cap) {
        size_t cap = out->cap * 2 + 16;
        struct special_cut *p = mem_try_realloc(out->cut, cap * sizeof(*p));

        if (p == NULL)
            return false;
        out->cut = p;
        out->cap = cap;
    }
    if ((f->t->attr[id] & TOK_RSTRIP) != 0)
        while (resume < f->text.n && is_blank((uint8_t)f->text.p[resume]) && !is_covered(f, resume))
            resume++;
    for (size_t i = at; i < resume; i++)
        f->cover[i >> 6] |= 1ull << (i & 63);
    out->cut[out->count++] = (struct special_cut) { at, end, resume, id };
    return true;
}

static int by_position(const void *a, const void *b)
{
    const struct special_cut *x = a, *y = b;

    return x->at < y->at ? -1 : x->at > y->at;
}

int special_find(const struct tokenizer *t, struct str text, bool control, const uint8_t *mark,
                 struct special_cuts *out)
{
    struct finder f = { .t = t, .text = text, .control = control, .mark = mark };
    int rc = ERR_NOMEM;

    out->count = 0;
    DEBUG_ASSERT(text.n <= UINT32_MAX);
    if (!collect(&f))
        goto done;
    if (f.count > 0) {
        f.cover = mem_try_zero(text.n / 64 + 1, sizeof(*f.cover));
        if (f.cover == NULL)
            goto done;
    }
    while (f.count > 0) {
        uint64_t key = pop(&f);
        uint32_t rank = (uint32_t)(key >> 32), id = t->special.id[rank];
        size_t at = (uint32_t)key, len = t->text[id].n, room;

        if (is_covered(&f, at))
            continue;
        room = free_bytes(&f, at, len);
        if (room == len) {
            if (!add_cut(&f, out, at, id))
                goto done;
            continue;
        }
        rank = longest_at(&f, at, room);
        if (rank != TOK_NONE && !push(&f, rank, at))
            goto done;
    }
    if (out->count > 1)
        qsort(out->cut, out->count, sizeof(*out->cut), by_position);
    rc = 0;
done:
    mem_free(f.heap);
    mem_free(f.cover);
    return rc;
}
