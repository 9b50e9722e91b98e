/* base/arena.h - memory that is dropped whole: one per request.
 *
 * arena_alloc aborts only when our own small sizes cannot be had; arena_try is
 * for sizes a peer sets: it counts against the arena's ceiling and returns NULL.
 * Results are 16-byte aligned.  Threads: one owner. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_ARENA_H
#define BASE_ARENA_H
#include "base/str.h"

struct arena_chunk;

struct arena {
    struct arena_chunk *head;
    size_t used, max; /* bytes in chunks, and their ceiling */
};

void arena_init(struct arena *a, size_t max);
void arena_fini(struct arena *a);
void *arena_try(struct arena *a, size_t size); /* NULL past the ceiling */
void *arena_try_zero(struct arena *a, size_t count, size_t size);
void *arena_alloc(struct arena *a, size_t size); /* ceiling does not apply */
/* A NUL-ended copy; p == NULL past the ceiling. */
struct str arena_str(struct arena *a, struct str s);
#endif
