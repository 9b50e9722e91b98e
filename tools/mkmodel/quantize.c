/* Simple quantizers: one pass, the obvious scale.  Good enough for tests, whose
 * truth is what the blocks say and not what went in. */
// SPDX-License-Identifier: Apache-2.0
#include "mkmodel.h"
#include "base/check.h"
#include <math.h>
#include <string.h>

static uint32_t bits_of(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof(u));
    return u;
}

static void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* Nearest half, ties to even; the tests' values never overflow it.  Returns what was stored. */
static float put_half(uint8_t *p, float f)
{
    double a = fabs((double)f), step, q;
    int exp;

    if (a == 0) {
        put16(p, 0);
        return 0;
    }
    (void)frexp(a, &exp); /* a = m * 2^exp, m in [0.5, 1) */
    step = ldexp(1, exp < -13 ? -24 : exp - 11);
    q = nearbyint(a / step) * step;
    if (q >= 65520)
        q = 65504;
    (void)frexp(q, &exp);
    if (q < 0x1p-14) {
        put16(p, (uint32_t)(q * 0x1p24) | (f < 0 ? 0x8000u : 0));
    } else {
        uint32_t man = (uint32_t)(ldexp(q, 11 - exp)) - 1024;

        put16(p, (uint32_t)(exp + 14) << 10 | man | (f < 0 ? 0x8000u : 0));
    }
    return (float)(f < 0 ? -q : q);
}

static int code(float x, float scale, int low, int high)
{
    int q = scale != 0 ? (int)lrintf(x / scale) : 0;

    return MIN(MAX(q, low), high);
}

static void range(const float *x, int n, float *low, float *high, float *signed_max)
{
    *low = *high = *signed_max = x[0];
    for (int i = 1; i < n; i++) {
        *low = fminf(*low, x[i]);
        *high = fmaxf(*high, x[i]);
        if (fabsf(x[i]) > fabsf(*signed_max))
            *signed_max = x[i];
    }
}

/* 32 values of `bits` bits: with a minimum (Q4_1, Q5_1), or centred (Q4_0, Q5_0). */
static void block32(const float *x, uint8_t *out, int bits, bool has_min)
{
    int top = (1 << bits) - 1, half = 1 << (bits - 1);
    uint8_t *qs = out + 2 + (has_min ? 2 : 0) + (bits == 5 ? 4 : 0);
    uint32_t high_bits = 0;
    float low, high, peak, d, m = 0;

    range(x, 32, &low, &high, &peak);
    d = put_half(out, has_min ? (high - low) / (float)top : peak / (float)-half);
    if (has_min)
        m = put_half(out + 2, low);
    memset(qs, 0, 16);
    for (int i = 0; i < 32; i++) {
        int q = has_min ? code(x[i] - m, d, 0, top) : code(x[i], d, -half, half - 1) + half;

        qs[i % 16] = (uint8_t)(qs[i % 16] | (q & 15) << (i < 16 ? 0 : 4));
        high_bits |= (uint32_t)(q >> 4) << i;
    }
    if (bits == 5) {
        put16(qs - 4, high_bits);
        put16(qs - 2, high_bits >> 16);
    }
}

static void block_q8_0(const float *x, uint8_t *out)
{
    float low, high, peak, d;

    range(x, 32, &low, &high, &peak);
    d = put_half(out, fabsf(peak) / 127);
    for (int i = 0; i < 32; i++)
        out[2 + i] = (uint8_t)(int8_t)code(x[i], d, -127, 127);
}

/* Q4_K and Q5_K: 8 sub-blocks, value = d*scale*q - dmin*min. */
static void block_k(const float *x, uint8_t *out, int bits)
{
    int top = (1 << bits) - 1;
    uint8_t *sc = out + 4, *qh = out + 16, *qs = bits == 5 ? out + 48 : out + 16;
    float scale[8], min[8], scale_max = 0, min_max = 0, d, dmin;

    for (int s = 0; s < 8; s++) {
        float low, high, peak;

        range(x + 32 * s, 32, &low, &high, &peak);
        min[s] = fmaxf(-low, 0);
        scale[s] = fmaxf(high + min[s], 0) / (float)top;
        scale_max = fmaxf(scale_max, scale[s]);
        min_max = fmaxf(min_max, min[s]);
    }
    d = put_half(out, scale_max / 63);
    dmin = put_half(out + 2, min_max / 63);
    memset(sc, 0, (size_t)(qs - sc) + 128);
    for (int s = 0; s < 8; s++) {
        int a = code(scale[s], d, 0, 63), b = code(min[s], dmin, 0, 63);

        if (s < 4) {
            sc[s] = (uint8_t)(sc[s] | a);
            sc[s + 4] = (uint8_t)(sc[s + 4] | b);
        } else {
            sc[s + 4] = (uint8_t)((a & 15) | (b & 15) << 4);
            sc[s - 4] = (uint8_t)(sc[s - 4] | (a >> 4) << 6);
            sc[s] = (uint8_t)(sc[s] | (b >> 4) << 6);
        }
        for (int l = 0; l < 32; l++) {
            int q = code(x[32 * s + l] + dmin * (float)b, d * (float)a, 0, top);
            uint8_t *at = &qs[32 * (s / 2) + l];

            *at = (uint8_t)(*at | (q & 15) << (s % 2 != 0 ? 4 : 0));
            if (bits == 5)
                qh[l] = (uint8_t)(qh[l] | (q >> 4) << s);
        }
    }
}

static void block_q6_k(const float *x, uint8_t *out)
{
    float scale[16], scale_max = 0, d;

    for (int s = 0; s < 16; s++) {
        float low, high, peak;

        range(x + 16 * s, 16, &low, &high, &peak);
        scale[s] = fabsf(peak) / 31;
        scale_max = fmaxf(scale_max, scale[s]);
    }
    memset(out, 0, 192);
    d = put_half(out + 208, scale_max / 127);
    for (int i = 0; i < 256; i++) {
        int h = i / 128, k = i % 128 / 32, l = i % 32, s = i / 16;
        int a = code(scale[s], d, 0, 127), q = code(x[i], d * (float)a, -32, 31) + 32;
        uint8_t *low = &out[64 * h + 32 * (k & 1) + l], *high = &out[128 + 32 * h + l];

        out[192 + s] = (uint8_t)a;
        *low = (uint8_t)(*low | (q & 15) << (k < 2 ? 0 : 4));
        *high = (uint8_t)(*high | (q >> 4) << 2 * k);
    }
}

static void block(enum tensor_type t, const float *x, uint8_t *out)
{
    uint32_t u;

    switch (t) {
    case TENSOR_F32: memcpy(out, x, sizeof(*x)); break;
    case TENSOR_F16: (void)put_half(out, *x); break;
    case TENSOR_BF16:
        u = bits_of(*x);
        put16(out, (u + 0x7fff + (u >> 16 & 1)) >> 16);
        break;
    case TENSOR_Q4_0: block32(x, out, 4, false); break;
    case TENSOR_Q4_1: block32(x, out, 4, true); break;
    case TENSOR_Q5_0: block32(x, out, 5, false); break;
    case TENSOR_Q5_1: block32(x, out, 5, true); break;
    case TENSOR_Q8_0: block_q8_0(x, out); break;
    case TENSOR_Q4_K: block_k(x, out, 4); break;
    case TENSOR_Q5_K: block_k(x, out, 5); break;
    case TENSOR_Q6_K: block_q6_k(x, out); break;
    }
}

void mkmodel_quantize(enum tensor_type t, const float *x, void *out, size_t n)
{
    uint8_t *p = out;

    ASSERT(n % tensor_block_elems(t) == 0);
    for (size_t i = 0; i < n; i += tensor_block_elems(t), p += tensor_block_bytes(t))
        block(t, x + i, p);
}

bool mkmodel_type(const char *name, enum tensor_type *out)
{
    for (uint32_t t = 0; t < 64; t++)
        if (tensor_type_known(t) && str_eqz(str_of(tensor_type_name((enum tensor_type)t)), name)) {
            *out = (enum tensor_type)t;
            return true;
        }
    return false;
}
