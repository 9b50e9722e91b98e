/* base/map.h - open-addressing hash map from a 64-bit key or a text to a 64-bit value.
 *
 * Text keys are borrowed: they must outlive their entry.  Values that are
 * pointers go through uintptr_t.  Growth uses mem_try: map_put can fail.
 * Threads: one owner. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_MAP_H
#define BASE_MAP_H
#include "base/str.h"

struct map_slot {
    uint64_t key;
    struct str text; /* text maps only */
    uint64_t value;
    bool used;
};

struct map {
    struct map_slot *slot;
    size_t cap, count;
};

/* A zeroed struct map is empty and valid. */
void map_fini(struct map *m);
bool map_put(struct map *m, uint64_t key, uint64_t value); /* replaces; false = no memory */
bool map_get(const struct map *m, uint64_t key, uint64_t *value);
bool map_del(struct map *m, uint64_t key);
bool map_puts(struct map *m, struct str key, uint64_t value);
bool map_gets(const struct map *m, struct str key, uint64_t *value);
bool map_dels(struct map *m, struct str key);
/* Visits used slots: for (size_t i = map_next(m, 0); i < m->cap; i = map_next(m, i + 1)). */
size_t map_next(const struct map *m, size_t i);
uint64_t map_mix(uint64_t x); /* a good 64-bit finalizer */
#endif
