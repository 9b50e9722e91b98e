/* Attention: how sequences, KV heads, query rows and key tiles become tickets.
 *
 * Keys are taken in tiles of KERN_KEYS at absolute positions.  A query row's result is defined as:
 * per tile, the two-pass softmax of its visible keys from a fresh accumulator (max, sum, acc);
 * tiles merged one after the other in ascending order.  So it does not matter which rows share a
 * ticket, or whether the tiles of a long sequence are computed by several threads and merged
 * later from the partial results (*split*), or by one thread as it goes.
 *
 * Query rows are counted per KV head: row = token * heads_of_the_kv_head + head, so that all
 * query heads of a KV head use a key tile while it is in cache, in prefill and decode alike. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/kern_priv.h"

#define SPLIT_ROWS_MAX 32 /* more rows than this make tickets enough by themselves */
#define SPLIT_TILES    2  /* smallest share of a split sequence */
#define UNITS_A_THREAD 4

/* One sequence and KV head, its tickets numbered from first. */
struct span {
    uint32_t seq, kv_head, rows;
    uint32_t tile0, tile1;
    uint32_t first, tickets;
    uint32_t tiles_each; /* split: tiles of a ticket; 0 = tickets are row ranges */
    size_t part;         /* split: offset of its partial results in floats */
};

struct region {
    const struct kern_attn *a;
    const struct kern_ops *ops;
    struct kern_pool *pool;
    struct span *span;
    uint32_t span_count, rows_each;
    float *part;
};

static uint32_t first_tile(const struct kern_attn *a, const struct kern_attn_seq *s)
{
    uint32_t lo = s->first_pos;

    if (a->window != 0 && s->q_start + 1 > a->window)
        lo = MAX(lo, s->q_start + 1 - a->window);
    return lo / KERN_KEYS;
}

static uint32_t last_tile(const struct kern_attn_seq *s)
{
    return (s->q_start + s->q_count - 1) / KERN_KEYS + 1;
}

/* The span of ticket i: spans are in the order of their tickets. */
static const struct span *span_of(const struct region *r, uint32_t i)
{
    uint32_t lo = 0, hi = r->span_count;

    while (hi - lo > 1) {
        uint32_t mid = (lo + hi) / 2;

        if (r->span[mid].first <= i)
            lo = mid;
        else
            hi = mid;
    }
    return &r->span[lo];
}

static void attn_ticket(void *ctx, uint32_t i, uint32_t thread)
{
    const struct region *r = ctx;
    const struct span *s = span_of(r, i);
    struct kern_attn_task t = { .a = r->a, .seq = &r->a->seq[s->seq], .kv_head = s->kv_head };

    t.scratch = kern_pool_scratch(r->pool, thread);
    i -= s->first;
    if (s->tiles_each != 0) {
        t.r1 = s->rows;
        t.tile0 = s->tile0 + i * s->tiles_each;
        t.tile1 = MIN(t.tile0 + s->tiles_each, s->tile1);
        t.part_tiles = s->tile1 - s->tile0;
        t.part = r->part + s->part + (size_t)(t.tile0 - s->tile0) * (r->a->head_dim + 2);
    } else {
        /* The last rows see the most keys: they go first, so that no thread ends late. */
        t.r0 = (s->tickets - 1 - i) * r->rows_each;
        t.r1 = MIN(t.r0 + r->rows_each, s->rows);
        t.tile0 = s->tile0;
        t.tile1 = s->tile1;
    }
    r->ops->attn(&t);
}

static void merge_ticket(void *ctx, uint32_t i, uint32_t thread)
{
    const struct region *r = ctx;
    const struct span *s = &r->span[i];
    const struct kern_attn *a = r->a;
    uint32_t group = a->heads / a->kv_heads, tiles = s->tile1 - s->tile0;

    (void)thread;
    for (uint32_t row = 0; s->tiles_each != 0 && row < s->rows; row++) {
        size_t token = a->seq[s->seq].q_row + row / group;
        uint32_t head = s->kv_head * group + row % group;

        r->ops->attn_merge(a->out + (token * a->heads + head) * a->head_dim,
                           r->part + s->part + (size_t)row * tiles * (a->head_dim + 2), tiles,
                           a->head_dim);
    }
}

/* Lays out the spans; returns the number of tickets, and in *part the floats of partial results. */
static uint32_t plan(struct region *r, size_t *part)
{
    const struct kern_attn *a = r->a;
    uint32_t group = a->heads / a->kv_heads, tickets = 0, share;
    size_t tiles_all = 0;

    *part = 0;
    for (uint32_t i = 0; i < a->seq_count; i++)
        if (a->seq[i].q_count != 0)
            tiles_all += (size_t)(last_tile(&a->seq[i]) - first_tile(a, &a->seq[i])) * a->kv_heads;
    share = (uint32_t)(tiles_all / (kern_pool_threads(r->pool) * UNITS_A_THREAD));
    share = MAX(share, SPLIT_TILES);
    for (uint32_t i = 0; i < a->seq_count; i++)
        for (uint32_t h = 0; h < a->kv_heads && a->seq[i].q_count != 0; h++) {
            struct span *s = &r->span[r->span_count++];
            uint32_t tiles;

            *s = (struct span) { .seq = i, .kv_head = h, .rows = a->seq[i].q_count * group };
            s->tile0 = first_tile(a, &a->seq[i]);
            s->tile1 = last_tile(&a->seq[i]);
            tiles = s->tile1 - s->tile0;
            s->first = tickets;
            s->tickets = (s->rows + r->rows_each - 1) / r->rows_each;
            if (s->rows <= MIN(SPLIT_ROWS_MAX, r->rows_each) && tiles > share &&
                kern_pool_threads(r->pool) > 1) {
                s->tiles_each = share;
                s->tickets = (tiles + share - 1) / share;
                s->part = *part;
                *part += (size_t)s->rows * tiles * (a->head_dim + 2);
            }
            tickets += s->tickets;
        }
    return tickets;
}

void kern_attention(const struct kern_attn *a, struct kern_pool *p)
{
    struct region r = { .a = a, .ops = kern_ops_now(), .pool = p };
    size_t spans = (size_t)a->seq_count * a->kv_heads * sizeof(struct span), part;
    uint32_t tickets;

    ASSERT(a->heads % a->kv_heads == 0);
    r.rows_each = a->head_dim <= 128 ? KERN_ATTN_ROWS : KERN_ATTN_ROWS / 2;
    r.span = kern_pool_work(p, 0, spans);
    tickets = plan(&r, &part);
    if (part != 0)
        r.part = kern_pool_work(p, 1, part * sizeof(float));
    kern_pool_run(p, tickets, attn_ticket, &r);
    if (part != 0)
        kern_pool_run(p, r.span_count, merge_ticket, &r);
}
