/* Linear probing, load <= 1/2; deletion shifts the run back, so no tombstones. */
// SPDX-License-Identifier: Apache-2.0
#include "base/map.h"
#include "base/mem.h"

uint64_t map_mix(uint64_t x)
{
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    return x ^ (x >> 32);
}

void map_fini(struct map *m)
{
    mem_free(m->slot);
    *m = (struct map) { 0 };
}

static size_t find(const struct map *m, uint64_t key, struct str text)
{
    size_t i = map_mix(key) & (m->cap - 1);

    while (m->slot[i].used && !(m->slot[i].key == key && str_eq(m->slot[i].text, text)))
        i = (i + 1) & (m->cap - 1);
    return i;
}

static bool grow(struct map *m)
{
    struct map old = *m, bigger = { .cap = m->cap != 0 ? m->cap * 2 : 16 };

    bigger.slot = mem_try_zero(bigger.cap, sizeof(*bigger.slot));
    if (bigger.slot == NULL)
        return false;
    bigger.count = old.count;
    for (size_t i = 0; i < old.cap; i++)
        if (old.slot[i].used)
            bigger.slot[find(&bigger, old.slot[i].key, old.slot[i].text)] = old.slot[i];
    mem_free(old.slot);
    *m = bigger;
    return true;
}

static bool put(struct map *m, uint64_t key, struct str text, uint64_t value)
{
    size_t i;

    if (m->count * 2 >= m->cap && !grow(m))
        return false;
    i = find(m, key, text);
    m->count += !m->slot[i].used;
    m->slot[i] = (struct map_slot) { key, text, value, true };
    return true;
}

static bool get(const struct map *m, uint64_t key, struct str text, uint64_t *value)
{
    size_t i;

    if (m->cap == 0)
        return false;
    i = find(m, key, text);
    if (m->slot[i].used && value != NULL)
        *value = m->slot[i].value;
    return m->slot[i].used;
}

static bool del(struct map *m, uint64_t key, struct str text)
{
    size_t i, j;

    if (m->cap == 0)
        return false;
    i = find(m, key, text);
    if (!m->slot[i].used)
        return false;
    for (j = i;;) {
        size_t home;

        j = (j + 1) & (m->cap - 1);
        if (!m->slot[j].used)
            break;
        home = map_mix(m->slot[j].key) & (m->cap - 1);
        if (((j - home) & (m->cap - 1)) >= ((j - i) & (m->cap - 1))) {
            m->slot[i] = m->slot[j];
            i = j;
        }
    }
    m->slot[i] = (struct map_slot) { 0 };
    m->count--;
    return true;
}

bool map_put(struct map *m, uint64_t key, uint64_t value)
{
    return put(m, key, STR_NONE, value);
}

bool map_get(const struct map *m, uint64_t key, uint64_t *value)
{
    return get(m, key, STR_NONE, value);
}

bool map_del(struct map *m, uint64_t key)
{
    return del(m, key, STR_NONE);
}

bool map_puts(struct map *m, struct str key, uint64_t value)
{
    return put(m, str_hash(key), key, value);
}

bool map_gets(const struct map *m, struct str key, uint64_t *value)
{
    return get(m, str_hash(key), key, value);
}

bool map_dels(struct map *m, struct str key)
{
    return del(m, str_hash(key), key);
}

size_t map_next(const struct map *m, size_t i)
{
    while (i < m->cap && !m->slot[i].used)
        i++;
    return i;
}
