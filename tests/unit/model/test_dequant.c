/* Tensor types against the values of an independent implementation (tests/golden/model). */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/file.h"
#include "mkmodel/mkmodel.h"
#include "model/gguf.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char *const names[] = { "F32",  "F16",  "BF16", "Q8_0", "Q4_0", "Q4_1",
                                     "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K" };

static uint8_t nibble(char c)
{
    return (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10);
}

static void unhex(struct str s, void *out, size_t max)
{
    assert_true(s.n % 2 == 0 && s.n / 2 <= max);
    for (size_t i = 0; i < s.n / 2; i++)
        ((uint8_t *)out)[i] = (uint8_t)(nibble(s.p[2 * i]) << 4 | nibble(s.p[2 * i + 1]));
}

static void every_block_has_the_values_of_the_reference(void **state)
{
    struct buf b;
    struct err e;
    struct str rest;
    uint32_t seen[COUNT(names)] = { 0 };

    (void)state;
    buf_init(&b, 1 << 20);
    assert_int_equal(file_read(GOLDEN "/dequant.txt", &b, &e), 0);
    rest = str_trim(buf_view(&b));
    while (rest.p != NULL) {
        struct str line = str_cut(&rest, '\n'), name = str_cut(&line, ' ');
        struct str block_hex = str_cut(&line, ' ');
        uint8_t block[256];
        float want[256], got[256];
        char type_name[16];
        enum tensor_type t;

        snprintf(type_name, sizeof(type_name), "%.*s", STR_ARG(name));
        assert_true(mkmodel_type(type_name, &t));
        unhex(block_hex, block, sizeof(block));
        unhex(line, want, sizeof(want));
        assert_int_equal(block_hex.n / 2, tensor_block_bytes(t));
        assert_int_equal(line.n / 8, tensor_block_elems(t));
        tensor_dequant_row(t, block, got, tensor_block_elems(t));
        if (memcmp(got, want, line.n / 2) != 0) /* bits, not nearly */
            fail_msg("%s: another value", type_name);
        for (size_t i = 0; i < COUNT(names); i++)
            seen[i] += strcmp(names[i], type_name) == 0;
    }
    for (size_t i = 0; i < COUNT(names); i++)
        assert_true(seen[i] >= 2);
    buf_fini(&b);
}

static void halves_are_exact_at_the_edges(void **state)
{
    static const struct {
        uint16_t bits;
        float want;
    } cases[] = {
        { 0x0000, 0 },        { 0x8000, -0.0f },     { 0x0001, 0x1p-24f }, { 0x03ff, 0x1.ff8p-15f },
        { 0x0400, 0x1p-14f }, { 0x3c00, 1 },         { 0xc000, -2 },       { 0x7bff, 65504 },
        { 0x7c00, INFINITY }, { 0xfc00, -INFINITY },
    };
    float got;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        tensor_dequant_row(TENSOR_F16, &cases[i].bits, &got, 1);
        assert_memory_equal(&got, &cases[i].want, sizeof(got));
    }
    tensor_dequant_row(TENSOR_F16, &(uint16_t) { 0x7e01 }, &got, 1);
    assert_true(isnan(got));
}

static void types_we_do_not_read_are_not_known(void **state)
{
    (void)state;
    for (uint32_t t = 0; t < 100; t++) {
        bool is_ours = false;

        for (size_t i = 0; i < COUNT(names); i++)
            is_ours = is_ours || strcmp(tensor_type_name((enum tensor_type)t), names[i]) == 0;
        assert_int_equal(tensor_type_known(t), is_ours);
    }
    assert_false(tensor_type_known(UINT32_MAX));
}

/* The quantizers of tools/mkmodel: what comes back is near what went in. */
static void what_mkmodel_quantizes_is_near(void **state)
{
    static const float tolerance[] = { 0,     0.001f, 0.005f, 0.01f, 0.14f, 0.08f,
                                       0.07f, 0.04f,  0.09f,  0.05f, 0.04f };
    float x[512], y[512];
    uint8_t out[2048];

    (void)state;
    for (size_t i = 0; i < COUNT(x); i++)
        x[i] = sinf((float)i * 0.7f) * (i < 256 ? 1.0f : 0.01f);
    for (size_t n = 0; n < COUNT(names); n++) {
        enum tensor_type t;

        assert_true(mkmodel_type(names[n], &t));
        mkmodel_quantize(t, x, out, COUNT(x));
        tensor_dequant_row(t, out, y, COUNT(x));
        for (size_t i = 0; i < COUNT(x); i++)
            if (fabsf(x[i] - y[i]) > tolerance[n] * (i < 256 ? 1.0f : 0.011f))
                fail_msg("%s: %g became %g", names[n], (double)x[i], (double)y[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_block_has_the_values_of_the_reference),
        cmocka_unit_test(halves_are_exact_at_the_edges),
        cmocka_unit_test(types_we_do_not_read_are_not_known),
        cmocka_unit_test(what_mkmodel_quantizes_is_near),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
