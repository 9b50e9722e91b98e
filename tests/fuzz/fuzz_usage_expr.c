/* Expressions over usage: any bytes are parsed or refused with a character that is there, and what
 * was parsed has one value, of its type. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/usage_expr.h"
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void evaluate(const struct usage_expr *x, enum usage_type type)
{
    for (unsigned known = 0; known < 1U << USAGE_FIELDS; known++) {
        struct usage_values u = { .value = { 7, 0, 12, 3 } };
        double a = 0, b = 0;
        bool is_value;

        for (unsigned i = 0; i < USAGE_FIELDS; i++)
            u.known[i] = (known >> i & 1) != 0;
        is_value = usage_expr_eval(x, &u, &a);
        ASSERT(usage_expr_eval(x, &u, &b) == is_value);
        if (is_value)
            ASSERT(a == b || (a != a && b != b));
        if (is_value && type == USAGE_BOOL)
            ASSERT(a == 0 || a == 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = { (const char *)data, size };
    int accepted = 0;

    for (int type = USAGE_NUMBER; type <= USAGE_BOOL; type++) {
        const struct usage_expr *x;
        struct err e = { 0 };
        struct arena a;
        size_t at;

        arena_init(&a, (size_t)1 << 20);
        if (usage_expr_parse(&x, text, (enum usage_type)type, &a, &e) == 0) {
            accepted++;
            evaluate(x, (enum usage_type)type);
        } else {
            ASSERT(x == NULL && e.code < 0);
            ASSERT(sscanf(e.msg, "character %zu: ", &at) == 1 && at >= 1 && at <= size + 1);
        }
        arena_fini(&a);
    }
    ASSERT(accepted <= 1); /* nothing is a number and a condition */
    return 0;
}
