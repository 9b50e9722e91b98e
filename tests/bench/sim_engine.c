/* The simulated engine.
 *
 *   submit -> waiting --slot and blocks--> running: prompt chunks, then a token a step --> done
 *
 * One timer is one step.  Steps follow each other by their computed ends and not by the moment at
 * which the timer was seen, so that a late timer does not make the engine slower; after a
 * standstill of CATCH_UP_MS (a frozen process) the lost time is really lost.
 *
 * Blocks without references are in one ring: what holds nothing cached in front, then the least
 * recently used.  A sequence gives its blocks back last block first, so that the tail of a prompt
 * is evicted before its head. Invariant: blocks_used = blocks with references. */
// SPDX-License-Identifier: Apache-2.0
#include "sim_engine.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"

#define CATCH_UP_MS 100
#define NONE        UINT32_MAX

struct block {
    uint64_t key;
    uint32_t refs, next, prev; /* the ring of free ones; its head is the index kv_blocks */
    bool cached;
};

struct sim_seq {
    struct sim_seq *next;
    struct sim_engine *en;
    void *ctx;
    uint64_t *key; /* of the prompt's full blocks */
    uint32_t *block;
    uint32_t keys, blocks, prompt_tokens, cached, kept, prefill_left, chunk, left, decoded;
    uint64_t admitted_ns;
    bool decoding, dead;
};

struct sim_engine {
    struct loop_timer *timer;
    struct sim_conf conf;
    struct sim_ops ops;
    struct sim_totals totals;
    struct sim_seq *running, *waiting, **waiting_end;
    struct block *block;
    uint32_t free_count;
    struct map by_key;
    double end_ms; /* of the current step */
    bool stepping, busy;
};

/* ---- blocks ---- */

static void ring_out(struct sim_engine *en, uint32_t i)
{
    struct block *b = en->block;

    b[b[i].prev].next = b[i].next;
    b[b[i].next].prev = b[i].prev;
    en->free_count--;
}

static void ring_in(struct sim_engine *en, uint32_t i)
{
    struct block *b = en->block;
    uint32_t head = en->conf.kv_blocks, after = b[i].cached ? b[head].prev : head;

    b[i].prev = after;
    b[i].next = b[after].next;
    b[b[after].next].prev = i;
    b[after].next = i;
    en->free_count++;
}

static void block_get(struct sim_engine *en, uint32_t i)
{
    if (en->block[i].refs++ != 0)
        return;
    ring_out(en, i);
    en->totals.blocks_used++;
}

static void block_put(struct sim_engine *en, uint32_t i)
{
    if (--en->block[i].refs != 0)
        return;
    ring_in(en, i);
    en->totals.blocks_used--;
}

static uint32_t block_new(struct sim_engine *en)
{
    uint32_t i = en->block[en->conf.kv_blocks].next;

    ASSERT(en->free_count != 0);
    if (en->block[i].cached) {
        (void)map_del(&en->by_key, en->block[i].key);
        en->block[i].cached = false;
        en->totals.evicted_blocks++;
    }
    block_get(en, i);
    return i;
}

/* What is computed of a prompt can be hit from now on. */
static void seq_keep(struct sim_seq *s)
{
    struct sim_engine *en = s->en;
    uint32_t computed = (s->prompt_tokens - s->prefill_left) / SIM_TOKENS_PER_BLOCK;

    for (; s->kept < MIN(s->keys, computed); s->kept++) {
        uint32_t i = s->kept;
        struct block *b = &en->block[s->block[i]];
        uint64_t other;

        if (b->cached || map_get(&en->by_key, s->key[i], &other))
            continue;
        if (!map_put(&en->by_key, s->key[i], s->block[i]))
            return;
        b->cached = true;
        b->key = s->key[i];
    }
}

static void seq_free(struct sim_seq *s)
{
    for (uint32_t i = s->blocks; i-- > 0;)
        if (s->block[i] != NONE)
            block_put(s->en, s->block[i]);
    mem_free(s->key);
    mem_free(s->block);
    mem_free(s);
}

/* ---- admission ---- */

static bool admit(struct sim_engine *en, struct sim_seq *s)
{
    uint32_t hits = 0, idle = 0;
    uint64_t at;

    while (hits < s->keys && map_get(&en->by_key, s->key[hits], &at)) {
        s->block[hits++] = (uint32_t)at;
        idle += en->block[at].refs == 0;
    }
    if (s->blocks - hits > en->free_count - idle) {
        for (uint32_t i = 0; i < hits; i++)
            s->block[i] = NONE;
        return false;
    }
    for (uint32_t i = 0; i < hits; i++)
        block_get(en, s->block[i]);
    for (uint32_t i = hits; i < s->blocks; i++)
        s->block[i] = block_new(en);
    s->cached = MIN(hits * SIM_TOKENS_PER_BLOCK, s->prompt_tokens - 1);
    s->prefill_left = s->prompt_tokens - s->cached;
    s->admitted_ns = clock_ns();
    en->totals.queried_tokens += s->prompt_tokens;
    en->totals.hit_tokens += s->cached;
    return true;
}

/* Only as many as the step's prompt budget reaches: who waits a step longer finds what the others
 * computed in it. */
static void admit_all(struct sim_engine *en)
{
    struct sim_seq **end = &en->running, *s;
    uint64_t planned = 0;

    for (; *end != NULL; end = &(*end)->next)
        planned += (*end)->prefill_left;
    while ((s = en->waiting) != NULL && en->totals.running < en->conf.slots &&
           planned < en->conf.chunk_tokens && admit(en, s)) {
        planned += s->prefill_left;
        en->waiting = s->next;
        if (en->waiting == NULL)
            en->waiting_end = &en->waiting;
        s->next = NULL;
        *end = s; /* oldest first: their prompts come first, too */
        end = &s->next;
        en->totals.waiting--;
        en->totals.running++;
    }
}

/* ---- steps ---- */

static double now_ms(void)
{
    return (double)clock_ns() / 1e6;
}

static void step_begin(struct sim_engine *en)
{
    const struct sim_conf *c = &en->conf;
    uint32_t left = c->chunk_tokens, decoding = 0;
    double ms, now = now_ms();

    admit_all(en);
    if (en->running == NULL) {
        en->busy = false;
        return;
    }
    for (struct sim_seq *s = en->running; s != NULL; s = s->next) {
        decoding += s->decoding;
        s->chunk = s->decoding ? 0 : MIN(s->prefill_left, left);
        left -= s->chunk;
    }
    ms = c->prefill_ms * (double)(c->chunk_tokens - left);
    if (decoding != 0)
        ms += c->decode_ms * (1 + c->slope * (double)(decoding - 1));
    if (!en->busy || en->end_ms < now - CATCH_UP_MS)
        en->end_ms = now;
    en->busy = true;
    en->end_ms += ms * c->factor;
    /* Never 0: the loop would run the timer again and again before it looks at a socket. */
    loop_timer_arm(en->timer, en->end_ms > now + 1 ? (uint64_t)(en->end_ms - now + 0.5) : 1, 0);
}

/* One sequence at the end of a step. */
static void seq_step(struct sim_seq *s)
{
    struct sim_engine *en = s->en;

    if (s->dead)
        return;
    if (!s->decoding) {
        s->prefill_left -= s->chunk;
        seq_keep(s);
        if (s->prefill_left != 0)
            return;
        s->decoding = true;
    }
    if (s->decoded++ % MAX(en->conf.every, 1u) != 0)
        return;
    s->left--;
    en->ops.on_token(s->ctx);
    if (s->left != 0 || s->dead)
        return;
    s->dead = true;
    en->ops.on_done(s->ctx);
}

static void step_end(void *ctx)
{
    struct sim_engine *en = ctx;

    en->stepping = true;
    for (struct sim_seq *s = en->running; s != NULL; s = s->next)
        seq_step(s);
    en->stepping = false;
    for (struct sim_seq **at = &en->running, *s; (s = *at) != NULL;) {
        if (!s->dead) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        en->totals.running--;
        seq_free(s);
    }
    step_begin(en);
}

/* ---- requests ---- */

static void keys_of(struct sim_seq *s, struct str prompt)
{
    uint64_t chain = 0;

    for (uint32_t i = 0; i < s->keys; i++) {
        struct str piece = { prompt.p + (size_t)i * SIM_BLOCK_BYTES, SIM_BLOCK_BYTES };

        chain = map_mix(chain * 31 + str_hash(piece) + 1);
        s->key[i] = chain;
    }
}

struct sim_seq *sim_submit(struct sim_engine *en, struct str prompt, uint32_t max_tokens, void *ctx)
{
    struct sim_seq *s = mem_zalloc(sizeof(*s));

    s->en = en;
    s->ctx = ctx;
    s->left = MAX(max_tokens, 1u);
    s->prompt_tokens = (uint32_t)MAX(prompt.n / SIM_BYTES_PER_TOKEN, (size_t)1);
    s->keys = (uint32_t)(prompt.n / SIM_BLOCK_BYTES);
    s->blocks = (s->prompt_tokens + s->left + SIM_TOKENS_PER_BLOCK) / SIM_TOKENS_PER_BLOCK;
    if (s->blocks > en->conf.kv_blocks) {
        mem_free(s);
        return NULL;
    }
    s->key = mem_alloc((s->keys + 1) * sizeof(*s->key));
    s->block = mem_alloc(s->blocks * sizeof(*s->block));
    for (uint32_t i = 0; i < s->blocks; i++)
        s->block[i] = NONE;
    keys_of(s, prompt);
    *en->waiting_end = s;
    en->waiting_end = &s->next;
    en->totals.waiting++;
    if (!en->busy && !en->stepping)
        step_begin(en);
    return s;
}

void sim_cancel(struct sim_seq *s)
{
    struct sim_engine *en = s->en;

    for (struct sim_seq **at = &en->waiting; *at != NULL; at = &(*at)->next) {
        if (*at != s)
            continue;
        *at = s->next;
        if (s->next == NULL)
            en->waiting_end = at;
        en->totals.waiting--;
        seq_free(s);
        return;
    }
    s->dead = true; /* its step ends without it */
}

uint32_t sim_cached_tokens(const struct sim_seq *s)
{
    return s->cached;
}

uint64_t sim_admitted_ns(const struct sim_seq *s)
{
    return s->admitted_ns;
}

const struct sim_totals *sim_engine_totals(const struct sim_engine *en)
{
    return &en->totals;
}

struct sim_engine *sim_engine_new(struct loop *l, const struct sim_conf *c,
                                  const struct sim_ops *ops)
{
    struct sim_engine *en = mem_zalloc(sizeof(*en));

    en->conf = *c;
    en->ops = *ops;
    en->timer = loop_timer_new(l, step_end, en);
    en->waiting_end = &en->waiting;
    en->block = mem_zalloc(((size_t)c->kv_blocks + 1) * sizeof(*en->block));
    en->block[c->kv_blocks].next = en->block[c->kv_blocks].prev = c->kv_blocks;
    for (uint32_t i = 0; i < c->kv_blocks; i++)
        ring_in(en, i);
    return en;
}

void sim_engine_free(struct sim_engine *en)
{
    struct sim_seq *s;

    while ((s = en->running) != NULL) {
        en->running = s->next;
        seq_free(s);
    }
    while ((s = en->waiting) != NULL) {
        en->waiting = s->next;
        seq_free(s);
    }
    loop_timer_free(en->timer);
    map_fini(&en->by_key);
    mem_free(en->block);
    mem_free(en);
}
