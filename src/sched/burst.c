/* Placing a burst.
 *
 *   requests --equal prompts--> groups of two and more, by length, the longest first
 *            `--no equal, but enough blocks shared with another--> singles, likewise
 *   each in turn --> the endpoint that holds the most of its beginning and has less than its share,
 *                    else the one with the least; past per_endpoint_max members, the next one
 *
 * Whoever shares nothing is placed nowhere: other scorers decide.
 *
 * Requests of one window may have different endpoints to choose from (by model, by a proxy's
 * subset), so a window can be placed several times.  Who comes second takes a placement among at
 * least as many endpoints as it has itself, if what that chose for it is one of its own. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/burst.h"
#include "base/check.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

#define REQUESTS_KEPT  4096 /* of one window, whatever is configured */
#define WINDOW_BYTES   ((size_t)64 << 20)
#define KEEP_MS        2000 /* after a window closed: its requests ask soon */
#define PLACEMENTS_MAX 8    /* of one window; who needs a further one is placed nowhere */
#define PLACED_NOWHERE UINT32_MAX

/* Of a whole window among some endpoints. */
struct placement {
    struct placement *next;
    const uint64_t *uid; /* of the endpoints */
    uint32_t uid_count;
    uint32_t *endpoint; /* one per request: an index of uid, or PLACED_NOWHERE */
};

struct window {
    struct window *next;
    uint64_t close_ms;
    struct burst_request *request; /* by id, ascending */
    uint32_t count;
    struct placement *placed; /* NULL: still open */
    uint32_t placed_count;
    struct arena arena;
};

struct burst {
    const struct burst_conf *c;
    struct window *first; /* the newest one first */
};

/* ---- placing ---- */

/* Requests with the same prompt, in the order they came. */
struct unit {
    const uint64_t *keys;
    uint32_t blocks, first, size; /* first: in the sorted list of requests */
    uint32_t came, rank;          /* rank: in by_rank */
};

/* An endpoint.  What it holds of a prompt's beginning it holds by one of the two prompts beside
 * that one in the order of by_rank, so that nobody has to compare it with all of them. */
struct spot {
    uint64_t load;
    uint32_t held;  /* blocks of the unit at hand */
    bool used;      /* by this unit */
    uint32_t *rank; /* of the units that were placed there, ascending */
    uint32_t count, cap;
};

struct placing {
    const struct burst_conf *c;
    struct burst_request *r;
    uint32_t *sorted; /* requests, equal ones side by side */
    struct unit *unit;
    uint32_t unit_count;
    uint32_t *by_rank; /* units, prompts that begin alike side by side; NULL: not asked for */
    struct spot *spot;
    uint32_t endpoints;
    uint64_t share;
};

static int order(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

static uint64_t last_key(const struct burst_request *r)
{
    return r->count != 0 ? r->keys[r->count - 1] : 0;
}

static int by_prompt(const void *x, const void *y, void *ctx)
{
    const struct burst_request *r = ctx, *a = &r[*(const uint32_t *)x],
                               *b = &r[*(const uint32_t *)y];
    int o = order(a->count, b->count);

    if (o == 0)
        o = order(last_key(a), last_key(b));
    return o != 0 ? o : order(a->id, b->id);
}

/* Groups before singles, the longest first, then as they came. */
static int by_turn(const void *x, const void *y)
{
    const struct unit *a = x, *b = y;
    int o = order(b->size > 1, a->size > 1);

    if (o == 0)
        o = order(b->blocks, a->blocks);
    return o != 0 ? o : order(a->came, b->came);
}

static uint32_t shared_blocks(const struct unit *a, const struct unit *b)
{
    uint32_t lo = 0, hi = MIN(a->blocks, b->blocks);

    if (hi == 0 || a->keys[0] != b->keys[0])
        return 0;
    while (lo < hi) { /* the first lo are equal; of the first hi + 1 the last is not */
        uint32_t mid = (lo + hi + 1) / 2;

        if (a->keys[mid - 1] == b->keys[mid - 1])
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

/* Prompts as words in a dictionary, with blocks for letters. */
static int by_blocks(const void *x, const void *y, void *ctx)
{
    const struct unit *unit = ctx, *a = &unit[*(const uint32_t *)x],
                      *b = &unit[*(const uint32_t *)y];
    uint32_t same = shared_blocks(a, b);

    if (same == a->blocks || same == b->blocks)
        return order(a->blocks, b->blocks);
    return order(a->keys[same], b->keys[same]);
}

static void rank_units(struct placing *p)
{
    if (p->c->colocate_blocks == 0 && p->c->balance == 0)
        return; /* nobody asks who holds what */
    p->by_rank = mem_alloc(((size_t)p->unit_count + 1) * sizeof(*p->by_rank));
    for (uint32_t i = 0; i < p->unit_count; i++)
        p->by_rank[i] = i;
    qsort_r(p->by_rank, p->unit_count, sizeof(*p->by_rank), by_blocks, p->unit);
    for (uint32_t i = 0; i < p->unit_count; i++)
        p->unit[p->by_rank[i]].rank = i;
}

static int by_key(const void *x, const void *y)
{
    return order(*(const uint64_t *)x, *(const uint64_t *)y);
}

/* Whether another prompt begins with the same `blocks` blocks; key: the sorted keys at that place.
 */
static bool is_shared(const struct unit *u, uint32_t blocks, const uint64_t *key, uint32_t count)
{
    uint32_t lo = 0, hi = count;
    uint64_t want;

    if (u->blocks < blocks)
        return false;
    want = u->keys[blocks - 1];
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (key[mid] < want)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo + 1 < count && key[lo + 1] == want;
}

static void find_units(struct placing *p, uint32_t count)
{
    for (uint32_t i = 0, n; i < count; i += n) {
        const struct burst_request *a = &p->r[p->sorted[i]];

        for (n = 1; i + n < count; n++) {
            const struct burst_request *b = &p->r[p->sorted[i + n]];

            if (b->count != a->count || last_key(b) != last_key(a))
                break;
        }
        if (a->count != 0)
            p->unit[p->unit_count++] = (struct unit) { a->keys, a->count, i, n, p->sorted[i], 0 };
    }
}

/* Singles stay only if they share enough with another request. */
static void drop_lonely(struct placing *p, uint32_t count)
{
    uint32_t blocks = p->c->colocate_blocks, keys = 0, n = 0;
    uint64_t *key = mem_alloc(((size_t)count + 1) * sizeof(*key));

    for (uint32_t i = 0; i < count && blocks != 0; i++)
        if (p->r[i].count >= blocks)
            key[keys++] = p->r[i].keys[blocks - 1];
    qsort(key, keys, sizeof(*key), by_key);
    for (uint32_t i = 0; i < p->unit_count; i++)
        if (p->unit[i].size > 1 || (blocks != 0 && is_shared(&p->unit[i], blocks, key, keys)))
            p->unit[n++] = p->unit[i];
    p->unit_count = n;
    mem_free(key);
}

/* Where a rank stands among those of an endpoint, or would. */
static uint32_t rank_at(const struct spot *s, uint32_t rank)
{
    uint32_t lo = 0, hi = s->count;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (s->rank[mid] < rank)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* What each endpoint holds of a unit's beginning by what was placed there. */
static void look(struct placing *p, const struct unit *u)
{
    for (uint32_t i = 0; i < p->endpoints; i++) {
        struct spot *s = &p->spot[i];
        uint32_t at = p->by_rank != NULL ? rank_at(s, u->rank) : 0;

        s->used = false;
        s->held = 0;
        if (at < s->count)
            s->held = shared_blocks(u, &p->unit[p->by_rank[s->rank[at]]]);
        if (at > 0)
            s->held = MAX(s->held, shared_blocks(u, &p->unit[p->by_rank[s->rank[at - 1]]]));
    }
}

static void put_rank(struct spot *s, uint32_t rank)
{
    uint32_t at = rank_at(s, rank);

    if (s->count == s->cap) {
        s->cap = MAX(s->cap * 2, 64);
        s->rank = mem_realloc(s->rank, s->cap * sizeof(*s->rank));
    }
    memmove(&s->rank[at + 1], &s->rank[at], (s->count - at) * sizeof(*s->rank));
    s->rank[at] = rank;
    s->count++;
}

static uint32_t choose(const struct placing *p)
{
    const struct spot *near = NULL, *least = NULL, *to;

    for (const struct spot *s = p->spot; s < p->spot + p->endpoints; s++) {
        if (s->used)
            continue;
        if (least == NULL || s->load < least->load)
            least = s;
        if (p->c->colocate_blocks == 0 || s->held < p->c->colocate_blocks || s->load >= p->share)
            continue;
        if (near == NULL || s->held > near->held || (s->held == near->held && s->load < near->load))
            near = s;
    }
    to = near != NULL ? near : least;
    return to != NULL ? (uint32_t)(to - p->spot) : PLACED_NOWHERE;
}

static void place_unit(struct placing *p, const struct unit *u)
{
    uint32_t max = p->c->per_endpoint_max < 0 ? u->size : (uint32_t)p->c->per_endpoint_max;

    look(p, u);
    for (uint32_t done = 0, n; done < u->size; done += n) {
        uint32_t to = choose(p);
        struct spot *s;

        if (to == PLACED_NOWHERE)
            return; /* full everywhere */
        s = &p->spot[to];
        n = MIN(max, u->size - done);
        for (uint32_t i = 0; i < n; i++)
            p->r[p->sorted[u->first + done + i]].endpoint = to;
        s->load += p->c->balance == 0 ? n : u->blocks - s->held;
        s->used = true;
        if (p->by_rank != NULL)
            put_rank(s, u->rank);
    }
}

void burst_place(const struct burst_conf *c, struct burst_request *r, uint32_t count,
                 uint32_t endpoints)
{
    struct placing p = { .c = c, .r = r, .endpoints = endpoints };
    uint64_t total = 0;

    p.sorted = mem_alloc(((size_t)count + 1) * sizeof(*p.sorted));
    p.unit = mem_zalloc(((size_t)count + 1) * sizeof(*p.unit));
    p.spot = mem_zalloc(((size_t)endpoints + 1) * sizeof(*p.spot));
    for (uint32_t i = 0; i < count; i++) {
        p.sorted[i] = i;
        r[i].endpoint = PLACED_NOWHERE;
    }
    qsort_r(p.sorted, count, sizeof(*p.sorted), by_prompt, r);
    find_units(&p, count);
    drop_lonely(&p, count);
    qsort(p.unit, p.unit_count, sizeof(*p.unit), by_turn);
    rank_units(&p);
    for (uint32_t i = 0; i < p.unit_count; i++)
        total += c->balance == 0 ? p.unit[i].size : p.unit[i].blocks;
    p.share = endpoints != 0 ? (total + endpoints - 1) / endpoints : 0;
    for (uint32_t i = 0; i < p.unit_count; i++)
        place_unit(&p, &p.unit[i]);
    for (uint32_t i = 0; i < endpoints; i++)
        mem_free(p.spot[i].rank);
    mem_free(p.spot);
    mem_free(p.by_rank);
    mem_free(p.unit);
    mem_free(p.sorted);
}

/* ---- windows ---- */

struct burst *burst_new(const struct burst_conf *c)
{
    struct burst *b = mem_zalloc(sizeof(*b));

    b->c = c;
    return b;
}

static void window_free(struct window *w)
{
    mem_free(w->request);
    arena_fini(&w->arena);
    mem_free(w);
}

static void windows_drop(struct window **at, uint64_t now_ms)
{
    while (*at != NULL) {
        struct window *w = *at;

        if (now_ms != UINT64_MAX && now_ms < w->close_ms + KEEP_MS) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        window_free(w);
    }
}

void burst_free(struct burst *b)
{
    if (b == NULL)
        return;
    windows_drop(&b->first, UINT64_MAX);
    mem_free(b);
}

static uint32_t room(const struct burst_conf *c)
{
    return c->requests_max < 0 ? REQUESTS_KEPT : (uint32_t)MIN(c->requests_max, REQUESTS_KEPT);
}

static struct window *open_window(struct burst *b, uint64_t now_ms)
{
    struct window *w = b->first;

    if (w != NULL && w->placed == NULL && now_ms < w->close_ms)
        return w;
    w = mem_zalloc(sizeof(*w));
    w->close_ms = now_ms + b->c->window_ms;
    w->request = mem_zalloc(room(b->c) * sizeof(*w->request));
    arena_init(&w->arena, WINDOW_BYTES);
    w->next = b->first;
    b->first = w;
    return w;
}

uint32_t burst_join(struct burst *b, uint64_t id, const uint64_t *keys, uint32_t count,
                    uint64_t now_ms)
{
    struct window *w;
    uint64_t *copy;

    windows_drop(&b->first, now_ms);
    if (count == 0)
        return 0;
    w = open_window(b, now_ms);
    if (w->count == room(b->c))
        return 0;
    copy = arena_try(&w->arena, count * sizeof(*copy));
    if (copy == NULL)
        return 0;
    memcpy(copy, keys, count * sizeof(*copy));
    w->request[w->count++] = (struct burst_request) { id, copy, count, PLACED_NOWHERE };
    return (uint32_t)(w->close_ms - now_ms);
}

static struct burst_request *request_of(const struct window *w, uint64_t id)
{
    uint32_t lo = 0, hi = w->count;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (w->request[mid].id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < w->count && w->request[lo].id == id ? &w->request[lo] : NULL;
}

static bool is_one_of(uint64_t one, const uint64_t *uid, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (uid[i] == one)
            return true;
    return false;
}

static bool suits(const struct placement *p, uint32_t request, const uint64_t *uid, uint32_t count)
{
    uint32_t at = p->endpoint[request];

    return p->uid_count >= count && (at == PLACED_NOWHERE || is_one_of(p->uid[at], uid, count));
}

/* NULL: there are too many, or no memory. */
static const struct placement *place_among(struct burst *b, struct window *w, const uint64_t *uid,
                                           uint32_t count)
{
    struct placement *p;
    uint64_t *copy;

    if (w->placed_count == PLACEMENTS_MAX || count == 0)
        return NULL;
    p = arena_try_zero(&w->arena, 1, sizeof(*p));
    copy = arena_try(&w->arena, count * sizeof(*copy));
    if (p == NULL || copy == NULL)
        return NULL;
    p->endpoint = arena_try(&w->arena, w->count * sizeof(*p->endpoint));
    if (p->endpoint == NULL)
        return NULL;
    memcpy(copy, uid, count * sizeof(*copy));
    p->uid = copy;
    p->uid_count = count;
    burst_place(b->c, w->request, w->count, count);
    for (uint32_t i = 0; i < w->count; i++)
        p->endpoint[i] = w->request[i].endpoint;
    p->next = w->placed;
    w->placed = p;
    w->placed_count++;
    return p;
}

bool burst_find(struct burst *b, uint64_t id, const uint64_t *uid, uint32_t uid_count,
                uint64_t now_ms, uint64_t *out)
{
    const struct burst_request *r = NULL;
    const struct placement *p;
    struct window *w;
    uint32_t at;

    windows_drop(&b->first, now_ms);
    for (w = b->first; w != NULL && r == NULL; w = r == NULL ? w->next : w)
        r = request_of(w, id);
    if (r == NULL)
        return false;
    at = (uint32_t)(r - w->request);
    for (p = w->placed; p != NULL && !suits(p, at, uid, uid_count);)
        p = p->next;
    if (p == NULL)
        p = place_among(b, w, uid, uid_count);
    if (p == NULL || p->endpoint[at] == PLACED_NOWHERE)
        return false;
    *out = p->uid[p->endpoint[at]];
    return true;
}
