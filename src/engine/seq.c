/* The blocks of one request.
 *
 *   table[0]:  b0 b1 b2 b3 b4 b5     ids; [0, published) are complete, named and read-only
 *   table[1]:   -  -  -  p3 p4 p5    windowed part: only what a later query still reads
 *                         ^published ^table_count
 *
 * A complete block is given to the prefix cache at once; when the cache has the
 * same block already, the table takes that one and ours is freed. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "engine/engine_priv.h"

void seq_free(struct seq *s)
{
    if (s == NULL)
        return;
    sampler_fini(&s->sampler);
    mem_free(s->tokens);
    mem_free(s->keys);
    for (uint32_t g = 0; g < GROUPS; g++)
        mem_free(s->table[g]);
    mem_free(s->salt);
    mem_free(s->plp);
    mem_free(s->arrived);
    mem_free(s);
}

uint32_t seq_window_first(const struct engine *en, uint32_t pos)
{
    uint32_t window = en->m->group_count > 1 ? en->m->groups[1].window : 0;

    return window == 0 || pos < window ? 0 : (pos - (window - 1)) / en->kv.tokens;
}

/* The longest n <= found at which the windowed group can go on: it reads back one window. */
static uint32_t window_valid(const struct engine *en, const struct seq *s, uint32_t n)
{
    while (n > 0) {
        uint32_t first = seq_window_first(en, MIN(n * en->kv.tokens, s->count - 1)), i = n;

        while (i > first && en->kv.block[s->table[0][i - 1]].part1 != BLOCK_NONE)
            i--;
        if (i == first)
            break;
        n = i - 1; /* block i - 1 lacks its part: nothing that reads it is valid */
    }
    return n;
}

void seq_adopt(struct engine *en, struct seq *s, uint32_t n, uint32_t first)
{
    for (uint32_t i = 0; i < n; i++) {
        blocks_ref(&en->kv, s->table[0][i], 0);
        s->table[1][i] = BLOCK_NONE;
        if (en->kv.groups > 1 && i >= first) {
            blocks_ref(&en->kv, s->table[0][i], 1);
            s->table[1][i] = en->kv.block[s->table[0][i]].part1;
        }
    }
    s->first_part = first;
    s->table_count = s->published = n;
    s->computed = MIN(n * en->kv.tokens, s->count - 1); /* the last token is always computed */
}

uint32_t seq_take_prefix(struct engine *en, struct seq *s)
{
    uint32_t limit = s->key_count, n = 0;

    ASSERT(s->table_count == 0);
    if (!en->plan.o.prefix_caching)
        return 0;
    if (s->rq.sampling.prompt_logprobs >= 0)
        limit = MIN(limit, s->plp_done / en->kv.tokens); /* rows not told yet must be computed */
    while (n < limit) {
        uint32_t id = blocks_find(&en->kv, &s->keys[n]);

        if (id == BLOCK_NONE)
            break;
        s->table[0][n++] = id;
    }
    if (en->kv.groups > 1)
        n = window_valid(en, s, n);
    seq_adopt(en, s, n, seq_window_first(en, MIN(n * en->kv.tokens, s->count - 1)));
    return n;
}

bool seq_ensure(struct engine *en, struct seq *s, uint32_t end)
{
    uint32_t need = (end + en->kv.tokens - 1) / en->kv.tokens;

    ASSERT(need <= s->block_cap);
    while (s->table_count < need) {
        uint32_t id = blocks_alloc(&en->kv);

        if (id == BLOCK_NONE)
            return false;
        s->table[0][s->table_count] = id;
        s->table[1][s->table_count++] = BLOCK_NONE;
    }
    if (en->kv.groups == 1)
        return true;
    for (uint32_t i = MAX(s->published, s->computed / en->kv.tokens); i < need; i++) {
        if (s->table[1][i] != BLOCK_NONE)
            continue;
        if (!blocks_alloc_part(&en->kv, s->table[0][i]))
            return false;
        s->table[1][i] = en->kv.block[s->table[0][i]].part1;
    }
    return true;
}

static void name_block(struct engine *en, struct seq *s, uint32_t i)
{
    struct blockkey_extra salt = { { s->salt, s->rq.salt.n } };

    if (i < s->key_count)
        return;
    ASSERT(i == s->key_count);
    blockkey_next(i != 0 ? &s->keys[i - 1] : &en->root, s->tokens + (size_t)i * en->kv.tokens,
                  en->kv.tokens, i == 0 && salt.text.n != 0 ? &salt : NULL,
                  i == 0 && salt.text.n != 0, &s->keys[i]);
    s->key_count++;
}

void seq_publish(struct engine *en, struct seq *s, uint32_t upto)
{
    struct blocks *kv = &en->kv;

    for (uint32_t i = s->published; i < upto; i++) {
        uint32_t id = s->table[0][i], now;

        name_block(en, s, i);
        s->published = i + 1;
        /* A child of an uncached block stays private: its parent was never announced. */
        if (!en->plan.o.prefix_caching || (i != 0 && !kv->block[s->table[0][i - 1]].cached))
            continue;
        now = blocks_publish(kv, id, &s->keys[i], s->table[1][i] != BLOCK_NONE);
        if (now != id) {
            s->table[0][i] = now;
            if (s->table[1][i] != BLOCK_NONE)
                s->table[1][i] = kv->block[now].part1;
        } else if (kv->block[id].cached) {
            blocks_event_stored(kv, &s->keys[i], i != 0 ? &s->keys[i - 1] : NULL,
                                s->tokens + (size_t)i * kv->tokens,
                                (struct str) { s->salt, s->rq.salt.n });
        }
    }
}

void seq_slide_to(struct engine *en, struct seq *s, uint32_t first)
{
    if (en->kv.groups == 1 || first <= s->first_part)
        return;
    pthread_mutex_lock(&en->mu);
    if (s->pins == 0) /* else a network thread may be reading: next step */
        for (; s->first_part < first; s->first_part++) {
            uint32_t i = s->first_part;

            if (s->table[1][i] == BLOCK_NONE)
                continue;
            s->table[1][i] = BLOCK_NONE;
            blocks_unref(&en->kv, s->table[0][i], 1);
        }
    pthread_mutex_unlock(&en->mu);
}

void seq_slide(struct engine *en, struct seq *s)
{
    uint32_t base = s->published * en->kv.tokens;

    /* Whoever takes the prompt over starts at its last token. */
    if (s->rq.hold_kv)
        base = MIN(base, s->prompt_count - 1);
    seq_slide_to(en, s, seq_window_first(en, base));
}

void seq_release(struct engine *en, struct seq *s, uint32_t keep)
{
    pthread_mutex_lock(&en->mu);
    s->export_ready = MIN(s->export_ready, keep);
    s->import_ready = false;
    pthread_mutex_unlock(&en->mu);
    while (s->table_count > keep) { /* the chain's end first: parents stay longer in the cache */
        uint32_t i = --s->table_count;

        if (s->table[1][i] != BLOCK_NONE)
            blocks_unref(&en->kv, s->table[0][i], 1);
        blocks_unref(&en->kv, s->table[0][i], 0);
    }
    s->published = MIN(s->published, keep);
    s->first_part = MIN(s->first_part, keep);
    s->computed = MIN(s->computed, MIN(keep * en->kv.tokens, s->count - 1));
}
