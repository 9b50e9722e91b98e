/* sched/producer.h - what data producers share.  Threads: as sched/plugin.h. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_PRODUCER_H
#define SCHED_PRODUCER_H
#include "sched/plugin.h"
#include "sched/prefix_index.h"

#define PRODUCER_DUMP_MAX 100 /* endpoints in a dump */

struct approx_params {
    bool auto_tune;
    uint32_t block_tokens, block_size, tokens_max, blocks_max, capacity;
};

/* Tokens of a block: parameters, what the first candidate says, and the request's own unit. */
uint32_t approx_block_tokens(const struct approx_params *c, const struct sched_view *v);

/* Keys of the request's blocks of block_tokens (a multiple of the request's own), at most
 * blocks_max; with_tail: the last, shorter one too.  In the view's arena or the request itself. */
uint32_t producer_block_keys(const struct sched_view *v, uint32_t block_tokens, uint32_t blocks_max,
                             bool with_tail, const uint64_t **out);
/* A zeroed answer in the view under the producer's name, or NULL: there are too many. */
struct sched_prefix *producer_prefix_add(struct sched_view *v, struct str name);
/* Prompt tokens that endpoint i would have to compute; f: who holds the prefix, or NULL. */
double producer_uncached(const struct sched_view *v, const struct sched_prefix *f, uint32_t i);
/* An objective from a header, in ms; 0: none, or not a number. */
double producer_slo_ms(const struct sched_view *v, const char *name, const char *older);
/* An index as one JSON value; endpoints by their number, never a key. */
void producer_index_dump(const struct prefix_index *ix, struct buf *out);
#endif
