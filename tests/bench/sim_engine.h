/* bench/sim_engine.h - an inference engine that computes nothing: timers stand for the work.
 *
 * It batches as a real one does: steps, in which every decoding sequence gets a token and the
 * prompts of new ones are taken in chunks.  A step lasts
 *     prefill_ms * prompt tokens of the step + decode_ms * (1 + slope * (decoding - 1)),
 * times `factor`.  KV memory is blocks of SIM_BLOCK_BYTES prompt bytes with references and an LRU
 * cache of what prompts computed; a request waits, first come first served, until a slot and the
 * blocks of its prompt and its whole answer are free.
 * Threads: everything on its loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BENCH_SIM_ENGINE_H
#define BENCH_SIM_ENGINE_H
#include "base/str.h"
#include "net/loop.h"

#define SIM_BYTES_PER_TOKEN  4
#define SIM_TOKENS_PER_BLOCK 16
#define SIM_BLOCK_BYTES      (SIM_BYTES_PER_TOKEN * SIM_TOKENS_PER_BLOCK)

struct sim_conf {
    double prefill_ms, decode_ms, slope, factor;
    uint32_t slots, chunk_tokens, kv_blocks;
    uint32_t every; /* a decoding sequence gets a token at so many steps; 0: at each */
};

struct sim_engine;
struct sim_seq;

struct sim_ops {
    void (*on_token)(void *ctx);
    void (*on_done)(void *ctx); /* after its last token; the sequence is gone */
};

struct sim_totals {
    uint32_t running, waiting, blocks_used;
    uint64_t queried_tokens, hit_tokens, evicted_blocks;
};

struct sim_engine *sim_engine_new(struct loop *l, const struct sim_conf *c,
                                  const struct sim_ops *ops);
void sim_engine_free(struct sim_engine *en);
const struct sim_totals *sim_engine_totals(const struct sim_engine *en);
/* prompt is read now, not kept.  NULL: it can never fit. */
struct sim_seq *sim_submit(struct sim_engine *en, struct str prompt, uint32_t max_tokens,
                           void *ctx);
void sim_cancel(struct sim_seq *s);
/* Known once it was admitted, so in every on_token. */
uint32_t sim_cached_tokens(const struct sim_seq *s);
uint64_t sim_admitted_ns(const struct sim_seq *s);
#endif
