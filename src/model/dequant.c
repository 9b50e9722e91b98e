/* The definition of each tensor type: blocks of 1, 32 or 256 values to f32.
 *
 * Every value is computed as the format's formula says it, one f32 operation at
 * a time, so results do not depend on the machine.  Fast code lives in kernels/
 * and is tested against this. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "model/gguf.h"
#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    uint16_t elems, bytes;
} types[] = {
    [TENSOR_F32] = { "F32", 1, 4 },       [TENSOR_F16] = { "F16", 1, 2 },
    [TENSOR_Q4_0] = { "Q4_0", 32, 18 },   [TENSOR_Q4_1] = { "Q4_1", 32, 20 },
    [TENSOR_Q5_0] = { "Q5_0", 32, 22 },   [TENSOR_Q5_1] = { "Q5_1", 32, 24 },
    [TENSOR_Q8_0] = { "Q8_0", 32, 34 },   [TENSOR_Q4_K] = { "Q4_K", 256, 144 },
    [TENSOR_Q5_K] = { "Q5_K", 256, 176 }, [TENSOR_Q6_K] = { "Q6_K", 256, 210 },
    [TENSOR_BF16] = { "BF16", 1, 2 },
};

bool tensor_type_known(uint32_t t)
{
    return t < COUNT(types) && types[t].name != NULL;
}

const char *tensor_type_name(enum tensor_type t)
{
    return tensor_type_known(t) ? types[t].name : "unknown";
}

uint32_t tensor_block_elems(enum tensor_type t)
{
    return types[t].elems;
}

uint32_t tensor_block_bytes(enum tensor_type t)
{
    return types[t].bytes;
}

static float f32_bits(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof(f));
    return f;
}

static uint32_t load16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t load32(const uint8_t *p)
{
    return load16(p) | load16(p + 2) << 16;
}

/* IEEE half, subnormals exact. */
static float half(const uint8_t *p)
{
    uint32_t h = load16(p), sign = (h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 0x3ff;

    if (exp == 31)
        return f32_bits(sign | 0x7f800000 | man << 13);
    if (exp == 0) {
        float f = (float)man * 0x1p-24f;

        return sign != 0 ? -f : f;
    }
    return f32_bits(sign | (exp + 112) << 23 | man << 13);
}

/* 32 values: d*(q - 8), or d*q + m. */
static void row_q4_0(const uint8_t *b, float *y)
{
    float d = half(b);

    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)((b[2 + j] & 15) - 8);
        y[j + 16] = d * (float)((b[2 + j] >> 4) - 8);
    }
}

static void row_q4_1(const uint8_t *b, float *y)
{
    float d = half(b), m = half(b + 2);

    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)(b[4 + j] & 15) + m;
        y[j + 16] = d * (float)(b[4 + j] >> 4) + m;
    }
}

/* The fifth bit of value i is bit i of qh. */
static int five(const uint8_t *qs, uint32_t qh, int i)
{
    int low = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;

    return low | (int)(qh >> i & 1) << 4;
}

static void row_q5_0(const uint8_t *b, float *y)
{
    float d = half(b);

    for (int i = 0; i < 32; i++)
        y[i] = d * (float)(five(b + 6, load32(b + 2), i) - 16);
}

static void row_q5_1(const uint8_t *b, float *y)
{
    float d = half(b), m = half(b + 2);

    for (int i = 0; i < 32; i++)
        y[i] = d * (float)five(b + 8, load32(b + 4), i) + m;
}

static void row_q8_0(const uint8_t *b, float *y)
{
    float d = half(b);

    for (int i = 0; i < 32; i++)
        y[i] = d * (float)(int8_t)b[2 + i];
}

/* Scale and minimum of sub-block s (0..7), six bits each, packed in 12 bytes. */
static void scale_min(const uint8_t *sc, int s, int *scale, int *min)
{
    if (s < 4) {
        *scale = sc[s] & 63;
        *min = sc[s + 4] & 63;
    } else {
        *scale = (sc[s + 4] & 15) | (sc[s - 4] >> 6) << 4;
        *min = sc[s + 4] >> 4 | (sc[s] >> 6) << 4;
    }
}

/* 256 values in 8 sub-blocks of 32: d*scale*q - dmin*min.  qh is NULL for Q4_K. */
static void row_q45_k(const uint8_t *b, const uint8_t *qh, const uint8_t *qs, float *y)
{
    float d = half(b), dmin = half(b + 2);

    for (int s = 0; s < 8; s++) {
        int scale, min;
        float dl, ml;

        scale_min(b + 4, s, &scale, &min);
        dl = d * (float)scale;
        ml = dmin * (float)min;
        for (int l = 0; l < 32; l++) {
            int byte = qs[32 * (s / 2) + l], q = s % 2 != 0 ? byte >> 4 : byte & 15;

            if (qh != NULL)
                q |= (qh[l] >> s & 1) << 4;
            y[32 * s + l] = dl * (float)q - ml;
        }
    }
}

static void row_q4_k(const uint8_t *b, float *y)
{
    row_q45_k(b, NULL, b + 16, y);
}

static void row_q5_k(const uint8_t *b, float *y)
{
    row_q45_k(b, b + 16, b + 48, y);
}

/* 256 values in 16 sub-blocks of 16: d*scale*(q - 32), q of six bits. */
static void row_q6_k(const uint8_t *b, float *y)
{
    const uint8_t *ql = b, *qh = b + 128, *sc = b + 192;
    float d = half(b + 208);

    for (int i = 0; i < 256; i++) {
        int h = i / 128, k = i % 128 / 32, l = i % 32;
        int byte = ql[64 * h + 32 * (k & 1) + l];
        int low = k < 2 ? byte & 15 : byte >> 4, high = qh[32 * h + l] >> 2 * k & 3;
        float scale = d * (float)(int8_t)sc[8 * h + 2 * k + l / 16];

        y[i] = scale * (float)((low | high << 4) - 32);
    }
}

static void row_f32(const uint8_t *b, float *y)
{
    *y = f32_bits(load32(b));
}

static void row_f16(const uint8_t *b, float *y)
{
    *y = half(b);
}

static void row_bf16(const uint8_t *b, float *y)
{
    *y = f32_bits(load16(b) << 16);
}

void tensor_dequant_row(enum tensor_type t, const void *src, float *dst, size_t n)
{
    static void (*const block[])(const uint8_t *, float *) = {
        [TENSOR_F32] = row_f32,   [TENSOR_F16] = row_f16,   [TENSOR_Q4_0] = row_q4_0,
        [TENSOR_Q4_1] = row_q4_1, [TENSOR_Q5_0] = row_q5_0, [TENSOR_Q5_1] = row_q5_1,
        [TENSOR_Q8_0] = row_q8_0, [TENSOR_Q4_K] = row_q4_k, [TENSOR_Q5_K] = row_q5_k,
        [TENSOR_Q6_K] = row_q6_k, [TENSOR_BF16] = row_bf16,
    };
    const uint8_t *p = src;

    ASSERT(tensor_type_known(t) && n % types[t].elems == 0);
    for (size_t i = 0; i < n; i += types[t].elems, p += types[t].bytes)
        block[t](p, dst + i);
}
