/* What endpoints are believed to hold, beside a list that is kept the slow way. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "base/check.h"
#include "base/rng.h"
#include "sched/prefix_index.h"

#define KEYS 60
#define ENDS 3

/* key[0] is the least recent */
struct slow {
    uint64_t key[KEYS];
    uint32_t weight[KEYS], count, total;
};

static void slow_drop(struct slow *s, uint32_t i)
{
    s->total -= s->weight[i];
    s->count--;
    memmove(&s->key[i], &s->key[i + 1], (s->count - i) * sizeof(s->key[0]));
    memmove(&s->weight[i], &s->weight[i + 1], (s->count - i) * sizeof(s->weight[0]));
}

static void slow_add(struct slow *s, uint32_t capacity, uint64_t key, uint32_t weight)
{
    bool known = false;

    for (uint32_t i = 0; i < s->count && !known; i++)
        if (s->key[i] == key) {
            slow_drop(s, i);
            known = true;
        }
    while (!known && s->count > 0 && s->total + weight > capacity)
        slow_drop(s, 0);
    s->key[s->count] = key;
    s->weight[s->count++] = weight;
    s->total += weight;
}

static bool slow_holds(const struct slow *s, uint64_t key)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (s->key[i] == key)
            return true;
    return false;
}

/* A key's weight is its own, as a block's place in a prompt is. */
static uint32_t weight_of(uint64_t key)
{
    return 1 + (uint32_t)(key % 7);
}

static void the_least_recent_goes_when_the_capacity_is_reached(void **state)
{
    struct slow slow[ENDS] = { 0 };
    struct prefix_index *ix = prefix_index_new(1 << 20);
    struct prefix_index_stats stats;
    struct rng g;

    (void)state;
    rng_seed(&g, 3);
    for (uint32_t n = 0; n < 5000; n++) {
        uint32_t end = (uint32_t)rng_below(&g, ENDS), capacity = 40 + 30 * end;
        uint32_t count = 1 + (uint32_t)rng_below(&g, 5), weight[5];
        uint64_t key[5], first = 1 + rng_below(&g, KEYS - 5), total = 0, entries = 0;

        for (uint32_t i = 0; i < count; i++) {
            key[i] = first + i;
            weight[i] = weight_of(key[i]);
            slow_add(&slow[end], capacity, key[i], weight[i]);
        }
        prefix_index_add(ix, end + 10, capacity, key, weight, count, n);
        for (uint32_t e = 0; e < ENDS; e++) {
            for (uint64_t k = 1; k <= KEYS; k++)
                assert_int_equal(prefix_index_holds(ix, e + 10, k), slow_holds(&slow[e], k));
            assert_int_equal(prefix_index_weight(ix, e + 10), slow[e].total);
            total += slow[e].total;
            entries += slow[e].count;
        }
        prefix_index_stats(ix, &stats);
        assert_int_equal(stats.weight, total);
        assert_int_equal(stats.entries, entries);
    }
    prefix_index_gone(ix, 11);
    prefix_index_stats(ix, &stats);
    assert_int_equal(stats.weight, slow[0].total + slow[2].total);
    assert_int_equal(prefix_index_weight(ix, 11), 0);
    prefix_index_free(ix);
}

static void what_is_old_expires(void **state)
{
    static const uint64_t key[] = { 1, 2, 3 };
    struct prefix_index *ix = prefix_index_new(1 << 20);

    (void)state;
    prefix_index_add(ix, 5, 100, key, NULL, 2, 1000);
    prefix_index_add(ix, 5, 100, key + 2, NULL, 1, 3000);
    prefix_index_expire(ix, 2000);
    assert_false(prefix_index_holds(ix, 5, 1));
    assert_true(prefix_index_holds(ix, 5, 3));
    assert_int_equal(prefix_index_weight(ix, 5), 1);
    prefix_index_free(ix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_least_recent_goes_when_the_capacity_is_reached),
        cmocka_unit_test(what_is_old_expires),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
