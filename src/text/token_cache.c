/* A text is a row of segments, each ended by an anchor, and a rest:
 *
 *   <|im_start|>system ... <|im_end|>|<|im_start|>user ... <|im_end|>|<|im_start|>assistant
 *   `---------- segment ------------'`---------- segment ----------' `------ rest -------'
 *
 * An anchor is a control token whose text overlaps no other special text, in no way: not at
 * either end, not inside a longer one, not with itself; it begins and ends with no blank and has
 * no rule about its neighbours.  Wherever its bytes stand unmarked it is that token, and what is
 * on its left and on its right are tokenized apart: both tokenizers (special.c, rules.c) cut there
 * before anything else looks at the text.  A segment ends at the first anchor that makes it
 * SEGMENT_MIN long, so that where the cuts are depends on the text before them alone.
 *
 * A segment is known by the hash of all text and marks up to its end, chained segment by segment
 * (XXH3, 128 bits, with a secret of this process: nobody can make two texts collide), and by its
 * length.  The ids of a segment lie in one node; the list of nodes is ordered by use, and a text's
 * first segments count as used after its last, so that what goes first is always the end of a
 * chain. */
// SPDX-License-Identifier: Apache-2.0
#include "text/token_cache.h"
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "text/rules.h"
#include <pthread.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define SEGMENT_MIN  512 /* bytes; the rest that is tokenized anew is hardly longer */
#define ANCHORS_MAX  1024
#define SPECIALS_MAX 65536
#define BUCKETS      4096 /* to begin with; doubled when full */

struct segment_key {
    uint64_t low, high;
};

struct segment {
    struct segment_key key;
    struct segment *chain;         /* of the bucket */
    struct segment *older, *newer; /* by use */
    uint32_t bytes;                /* of text */
    uint32_t count;
    uint32_t id[];
};

struct token_cache {
    const struct tokenizer *t;
    struct special_set anchors;
    size_t longest; /* bytes of an anchor */
    int first_byte; /* that all anchors begin with, or -1 */
    uint8_t secret[XXH3_SECRET_DEFAULT_SIZE];
    size_t bytes_max;

    pthread_mutex_t lock; /* guards what follows */
    struct segment **bucket, *newest, *oldest;
    uint32_t buckets;
    struct token_cache_stats stats;
};

/* ---- anchors ---- */

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Whether b, standing at some place of a (`from` on), shares bytes with a and more. */
static bool overlaps(struct str a, struct str b, size_t from)
{
    for (size_t at = from; at < a.n; at++) {
        size_t n = MIN(a.n - at, b.n);

        if (a.p[at] == b.p[0] && memcmp(a.p + at, b.p, n) == 0)
            return true;
    }
    return false;
}

static bool has_rule(const struct tokenizer *t, uint32_t id)
{
    return t->rules != NULL ? t->rules->added[id] != 0 : (t->attr[id] & TOK_RSTRIP) != 0;
}

static int by_id(const void *a, const void *b)
{
    const struct special_text *x = a, *y = b;

    return x->id < y->id ? -1 : x->id > y->id;
}

/* Special texts of t that are looked for in text as it is, to list; returns how many. */
static size_t list_specials(const struct tokenizer *t, struct special_text *list)
{
    const struct special_set *s = t->rules != NULL ? &t->rules->raw : &t->special;
    size_t n = 0;

    for (uint32_t i = 0; i < s->count && n < SPECIALS_MAX; i++)
        list[n++] = (struct special_text) { t->text[s->id[i]], s->id[i], false };
    qsort(list, n, sizeof(*list), by_id); /* those in use are mostly the first */
    return n;
}

static bool is_anchor(const struct special_text *all, size_t n, size_t i)
{
    for (size_t j = 0; j < n; j++) {
        /* a text inside the anchor would do no harm, but there is none worth the distinction */
        if (overlaps(all[i].text, all[j].text, i == j ? 1 : 0) ||
            (i != j && overlaps(all[j].text, all[i].text, 0)))
            return false;
    }
    return true;
}

static int find_anchors(struct token_cache *c)
{
    const struct tokenizer *t = c->t;
    struct special_text *all, *anchors;
    size_t n, count = 0;
    int rc;

    /* a token that must stand alone looks at the character before it, across an anchor too */
    if (t->rules != NULL && t->rules->has_single_word)
        return special_build_from(&c->anchors, NULL, 0);
    all = mem_try_zero(SPECIALS_MAX, sizeof(*all));
    anchors = mem_try_zero(ANCHORS_MAX, sizeof(*anchors));
    if (all == NULL || anchors == NULL) {
        mem_free(all);
        mem_free(anchors);
        return ERR_NOMEM;
    }
    n = list_specials(t, all);
    for (size_t i = 0; i < n && n < SPECIALS_MAX && count < ANCHORS_MAX; i++) {
        struct str s = all[i].text;

        if ((t->attr[all[i].id] & TOK_CONTROL) == 0 || s.n < 2 || is_blank(s.p[0]) ||
            is_blank(s.p[s.n - 1]) || has_rule(t, all[i].id) || !is_anchor(all, n, i))
            continue;
        if (count == 0)
            c->first_byte = (uint8_t)s.p[0];
        else if (c->first_byte != (uint8_t)s.p[0])
            c->first_byte = -1;
        c->longest = MAX(c->longest, s.n);
        anchors[count++] = all[i];
    }
    rc = special_build_from(&c->anchors, anchors, count);
    mem_free(all);
    mem_free(anchors);
    return rc;
}

/* The end of the segment that begins at from, or 0 when what is left is a rest. */
static size_t segment_end(const struct token_cache *c, struct str text, const uint8_t *mark,
                          size_t from)
{
    const uint8_t *p = (const uint8_t *)text.p;
    size_t at = from + SEGMENT_MIN - MIN((size_t)SEGMENT_MIN, c->longest);

    if (c->anchors.count == 0 || text.n - from < SEGMENT_MIN)
        return 0;
    for (; at < text.n; at++) {
        uint32_t rank;

        if (c->first_byte >= 0) {
            const uint8_t *q = memchr(p + at, c->first_byte, text.n - at);

            if (q == NULL)
                return 0;
            at = (size_t)(q - p);
        }
        if (!special_may_begin(&c->anchors, p + at, text.n - at))
            continue;
        rank = special_longest(&c->anchors, text, at, text.n - at, true, mark);
        if (rank != TOK_NONE && at + c->anchors.len[rank] >= from + SEGMENT_MIN)
            return at + c->anchors.len[rank];
    }
    return 0;
}

/* ---- one text ---- */

struct cut {
    struct segment_key key;
    size_t end;
};

struct cuts {
    struct cut *cut;
    size_t count, cap;
};

static bool cuts_add(struct cuts *l, struct cut x)
{
    if (l->count == l->cap) {
        size_t cap = l->cap * 2 + 32;
        struct cut *p = mem_try_realloc(l->cut, cap * sizeof(*p));

        if (p == NULL)
            return false;
        l->cut = p;
        l->cap = cap;
    }
    l->cut[l->count++] = x;
    return true;
}

static struct segment_key key_of(const struct token_cache *c, struct segment_key before,
                                 struct str text, const uint8_t *mark)
{
    struct {
        struct segment_key before;
        XXH128_hash_t text, mark;
    } all = { .before = before };
    XXH128_hash_t h;

    all.text = XXH3_128bits_withSecret(text.p, text.n, c->secret, sizeof(c->secret));
    if (mark != NULL)
        all.mark = XXH3_128bits_withSecret(mark, text.n, c->secret, sizeof(c->secret));
    h = XXH3_128bits_withSecret(&all, sizeof(all), c->secret, sizeof(c->secret));
    return (struct segment_key) { h.low64, h.high64 };
}

static int find_cuts(const struct token_cache *c, struct str text, const uint8_t *mark,
                     struct cuts *out)
{
    /* marked text must not meet unmarked: the first key tells them apart */
    struct segment_key key = { mark != NULL, text.n != 0 };
    size_t from = 0, end;

    while ((end = segment_end(c, text, mark, from)) != 0) {
        key = key_of(c, key, str_sub(text, from, end - from), mark != NULL ? mark + from : NULL);
        if (!cuts_add(out, (struct cut) { key, end }))
            return ERR_NOMEM;
        from = end;
    }
    return 0;
}

/* ---- nodes; under the lock ---- */

static struct segment **place(struct token_cache *c, struct segment_key key, uint32_t bytes)
{
    struct segment **at = &c->bucket[key.low & (c->buckets - 1)];

    while (*at != NULL &&
           ((*at)->key.low != key.low || (*at)->key.high != key.high || (*at)->bytes != bytes))
        at = &(*at)->chain;
    return at;
}

static size_t segment_bytes(const struct segment *s)
{
    return sizeof(*s) + (size_t)s->count * sizeof(s->id[0]);
}

static void unlist(struct token_cache *c, struct segment *s)
{
    *(s->older != NULL ? &s->older->newer : &c->oldest) = s->newer;
    *(s->newer != NULL ? &s->newer->older : &c->newest) = s->older;
}

static void list_newest(struct token_cache *c, struct segment *s)
{
    s->newer = NULL;
    s->older = c->newest;
    *(c->newest != NULL ? &c->newest->newer : &c->oldest) = s;
    c->newest = s;
}

static void drop(struct token_cache *c, struct segment *s)
{
    *place(c, s->key, s->bytes) = s->chain;
    unlist(c, s);
    c->stats.bytes -= segment_bytes(s);
    c->stats.segments--;
    mem_free(s);
}

static void grow(struct token_cache *c)
{
    uint32_t n = c->buckets * 2;
    struct segment **bucket;

    if (c->stats.segments < c->buckets || c->buckets >= 1u << 24)
        return;
    bucket = mem_try_zero(n, sizeof(struct segment *));
    if (bucket == NULL)
        return; /* longer chains, nothing worse */
    for (struct segment *s = c->oldest; s != NULL; s = s->newer) {
        s->chain = bucket[s->key.low & (n - 1)];
        bucket[s->key.low & (n - 1)] = s;
    }
    mem_free(c->bucket);
    c->bucket = bucket;
    c->buckets = n;
}

/* Copies the ids of the segments that are here, from the first on; how many segments. */
static size_t take(struct token_cache *c, const struct cuts *l, struct token_list *out)
{
    size_t n = 0, from = 0;

    for (; n < l->count; n++) {
        struct segment *s = *place(c, l->cut[n].key, (uint32_t)(l->cut[n].end - from));

        if (s == NULL || !token_list_append(out, s->id, s->count))
            break;
        from = l->cut[n].end;
    }
    for (size_t i = n; i-- > 0;) { /* the first segment last: it is what others share */
        struct segment *s =
            *place(c, l->cut[i].key, (uint32_t)(l->cut[i].end - (i > 0 ? l->cut[i - 1].end : 0)));

        unlist(c, s);
        list_newest(c, s);
    }
    return n;
}

static void put(struct token_cache *c, struct segment *s)
{
    struct segment **at = place(c, s->key, s->bytes);

    if (*at != NULL) { /* another thread was faster */
        mem_free(s);
        return;
    }
    s->chain = NULL;
    *at = s;
    list_newest(c, s);
    c->stats.bytes += segment_bytes(s);
    c->stats.segments++;
    while (c->stats.bytes > c->bytes_max && c->oldest != NULL)
        drop(c, c->oldest);
    grow(c);
}

/* ---- encoding ---- */

static int encode_part(const struct token_cache *c, struct str text, const uint8_t *mark,
                       size_t from, size_t end, struct token_list *out)
{
    return tokenizer_encode_part(c->t, str_sub(text, from, end - from), from,
                                 mark != NULL ? mark + from : NULL, out);
}

/* Tokenizes the segments from the n-th on; the new nodes hang on *made, last first. */
static int encode_segments(const struct token_cache *c, struct str text, const uint8_t *mark,
                           const struct cuts *l, size_t n, struct token_list *out,
                           struct segment **made)
{
    for (; n < l->count; n++) {
        size_t from = n > 0 ? l->cut[n - 1].end : 0, before = out->count, count;
        struct segment *s;
        int rc = encode_part(c, text, mark, from, l->cut[n].end, out);

        if (rc != 0)
            return rc;
        count = out->count - before;
        s = mem_try(sizeof(*s) + count * sizeof(s->id[0]));
        if (s == NULL)
            continue; /* not cached */
        *s = (struct segment) { .key = l->cut[n].key,
                                .chain = *made,
                                .bytes = (uint32_t)(l->cut[n].end - from),
                                .count = (uint32_t)count };
        memcpy(s->id, out->id + before, count * sizeof(s->id[0]));
        *made = s;
    }
    return 0;
}

int token_cache_encode(struct token_cache *c, struct str text, const uint8_t *mark,
                       struct token_list *out)
{
    struct segment *made = NULL, *next;
    struct cuts l = { 0 };
    size_t count = out->count, had = 0, cached = 0;
    int rc;

    if (text.n > TOKENIZER_TEXT_MAX)
        return ERR_LIMIT;
    rc = find_cuts(c, text, mark, &l);
    if (rc == 0 && l.count > 0) {
        pthread_mutex_lock(&c->lock);
        had = take(c, &l, out);
        pthread_mutex_unlock(&c->lock);
        cached = out->count - count;
        rc = encode_segments(c, text, mark, &l, had, out, &made);
    }
    if (rc == 0)
        rc = encode_part(c, text, mark, l.count > 0 ? l.cut[l.count - 1].end : 0, text.n, out);
    pthread_mutex_lock(&c->lock);
    for (; made != NULL; made = next) { /* the last segment first, as in take */
        next = made->chain;
        put(c, made);
    }
    c->stats.texts++;
    c->stats.tokens += out->count - count;
    c->stats.cached_tokens += cached;
    pthread_mutex_unlock(&c->lock);
    if (rc != 0)
        out->count = count;
    mem_free(l.cut);
    return rc;
}

/* ---- the cache ---- */

struct token_cache *token_cache_new(const struct tokenizer *t, size_t bytes_max)
{
    struct token_cache *c = mem_try_zero(1, sizeof(*c));

    if (c == NULL)
        return NULL;
    c->t = t;
    c->bytes_max = bytes_max;
    c->first_byte = -1;
    c->buckets = BUCKETS;
    rng_secure(c->secret, sizeof(c->secret));
    pthread_mutex_init(&c->lock, NULL);
    c->bucket = mem_try_zero(c->buckets, sizeof(struct segment *));
    if (c->bucket == NULL || find_anchors(c) != 0) {
        token_cache_free(c);
        return NULL;
    }
    return c;
}

void token_cache_free(struct token_cache *c)
{
    if (c == NULL)
        return;
    while (c->oldest != NULL)
        drop(c, c->oldest);
    special_fini(&c->anchors);
    pthread_mutex_destroy(&c->lock);
    mem_free(c->bucket);
    mem_free(c);
}

void token_cache_stats(struct token_cache *c, struct token_cache_stats *out)
{
    pthread_mutex_lock(&c->lock);
    *out = c->stats;
    pthread_mutex_unlock(&c->lock);
}
