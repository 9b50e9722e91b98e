/* sched/burst.h - requests that come together are placed together: bursts with shared beginnings.
 *
 * The first request opens a window, the others join it until it closes; then all of them are placed
 * at once, so that the same beginning is computed at one endpoint although nobody holds it yet.
 *
 *   burst_join ... burst_join --window closes--> burst_find of the first one: all are placed
 *
 * Keys are chain keys: two requests with the same n-th key have the first n blocks in common.
 * Source: the project's scheduler page, 6.5.
 * Threads: one owner at a time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_BURST_H
#define SCHED_BURST_H
#include "base/arena.h"
#include <stdbool.h>
#include <stdint.h>

struct burst_conf {
    uint32_t window_ms;
    uint32_t block_tokens, tokens_max; /* tokens_max 0: 2048 blocks */
    int64_t per_endpoint_max;          /* of one group; -1: all of it */
    int64_t requests_max;              /* of a window; -1: as many as are ever kept */
    uint32_t colocate_blocks; /* so many shared ones bring different prompts together; 0: none */
    int balance;              /* 0: endpoints get equal requests; 1: equal blocks */
};

struct burst;
struct burst *burst_new(const struct burst_conf *c); /* c is borrowed */
void burst_free(struct burst *b);
/* Request number `id` (ascending, never 0) with these block keys (copied) joins.  Milliseconds
 * until its window closes; 0: it does not join (no keys, the window is full). */
uint32_t burst_join(struct burst *b, uint64_t id, const uint64_t *keys, uint32_t count,
                    uint64_t now_ms);
/* Where it was placed, always one of these endpoints.  False: nowhere, or it never joined. */
bool burst_find(struct burst *b, uint64_t id, const uint64_t *uid, uint32_t uid_count,
                uint64_t now_ms, uint64_t *out);

/* The placement alone, for one window. */
struct burst_request {
    uint64_t id;
    const uint64_t *keys;
    uint32_t count;
    uint32_t endpoint; /* out: an index, or UINT32_MAX */
};
void burst_place(const struct burst_conf *c, struct burst_request *r, uint32_t count,
                 uint32_t endpoints);
#endif
