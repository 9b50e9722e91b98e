/* The scalar level: the definition of every kernel, in plain loops.
 *
 * Its integer sums and activation codes are what the other levels must reproduce exactly; its
 * floats are theirs up to the contraction of multiply and add. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/kern_priv.h"
#include <float.h>
#include <math.h>
#include <string.h>

#define SCALAR_TILE     4
#define SCALAR_HEAD_MAX 4096 /* head_dim that the scratch holds many times over */

float kern_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 0x3ff, bits;
    float f;

    if (exp == 0) {
        f = (float)man * 0x1p-24f; /* zero and subnormals: exact */
        return sign != 0 ? -f : f;
    }
    bits = sign | (exp == 31 ? 0x7f800000 : (exp + 112) << 23) | man << 13;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

uint16_t kern_float_to_half(float f)
{
    uint32_t bits, sign, abs, man, shift, half;

    memcpy(&bits, &f, sizeof(bits));
    sign = bits >> 16 & 0x8000;
    abs = bits & 0x7fffffff;
    if (abs > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (abs >= 0x477ff000) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (abs < 0x33000000) /* below half of the least subnormal */
        return (uint16_t)sign;
    if (abs < 0x38800000) {
        shift = 126 - (abs >> 23); /* 14 .. 24 */
        man = (abs & 0x7fffff) | 0x800000;
    } else {
        shift = 13;
        man = abs - 0x38000000;
    }
    half = man >> shift;
    man &= (1U << shift) - 1;
    half += man > 1U << (shift - 1) || (man == 1U << (shift - 1) && (half & 1) != 0);
    return (uint16_t)(sign | half);
}

/* Panel of w rows: per 32 inputs scale[w], s[w], s0[w], s1[w], q[8][w][4]. */
static void act_scalar(uint8_t *dst, const float *x, uint32_t w, uint32_t cols)
{
    for (uint32_t b = 0; b < cols / KERN_CELL; b++, dst += w * KERN_ACT_BYTES) {
        float *scale = (float *)(void *)dst;
        int8_t *q = (int8_t *)dst + 16 * w;

        for (uint32_t t = 0; t < w; t++) {
            const float *src = x + (size_t)t * cols + (size_t)b * KERN_CELL;
            float amax = 0, inv;
            int sum[2] = { 0, 0 };

            for (uint32_t k = 0; k < KERN_CELL; k++)
                amax = fabsf(src[k]) > amax ? fabsf(src[k]) : amax;
            inv = amax > 0 ? 127.0f / amax : 0;
            for (uint32_t k = 0; k < KERN_CELL; k++) {
                int c = (int)lrintf(src[k] * inv); /* to nearest, ties to even */

                c = c > 127 ? 127 : c < -127 ? -127 : c;
                q[k / 4 * 4 * w + 4 * t + k % 4] = (int8_t)c;
                sum[k / 16] += c;
            }
            scale[t] = amax * (1.0f / 127.0f);
            scale[w + t] = scale[t] * (float)(sum[0] + sum[1]);
            scale[2 * w + t] = scale[t] * (float)sum[0];
            scale[3 * w + t] = scale[t] * (float)sum[1];
        }
    }
}

/* ---- matmul ---- */

/* A cell opened: codes of 16 rows, scales and mins of each half. */
struct cell {
    uint8_t code[KERN_GROUP][KERN_CELL];
    float scale[2][KERN_GROUP], min[2][KERN_GROUP];
};

static void open_scales(struct cell *c, const struct kern_form *f, const uint8_t *head,
                        const uint8_t *cell)
{
    uint16_t d[KERN_GROUP], m[KERN_GROUP] = { 0 };

    memcpy(d, head, sizeof(d));
    if (f->has_min)
        memcpy(m, head + 32, sizeof(m));
    for (uint32_t r = 0; r < KERN_GROUP; r++)
        for (uint32_t h = 0; h < f->halves; h++) {
            float s = kern_half_to_float(d[r]), min = kern_half_to_float(m[r]);

            if (f->cells > 1) {
                s *= f->halves == 2 ? (float)(int8_t)cell[16 * h + r] : (float)cell[r];
                min *= f->has_min ? -(float)cell[16 + r] : 0;
            }
            c->scale[h][r] = s;
            c->min[h][r] = f->has_min ? min : -(float)f->zero * s;
        }
}

static void open_codes(struct cell *c, uint32_t bits, const uint8_t *p)
{
    for (uint32_t r = 0; r < KERN_GROUP; r++)
        for (uint32_t k = 0; k < KERN_CELL; k++) {
            uint32_t s = k / 4, j = 4 * r + k % 4, q = p[64 * (s / 2) + j] >> 4 * (s % 2) & 15;

            if (bits == 8)
                q = p[64 * s + j];
            else if (bits == 5)
                q |= (p[256 + j] >> s & 1U) << 4;
            else if (bits == 6)
                q |= (p[256 + 64 * (s / 4) + j] >> 2 * (s % 4) & 3U) << 4;
            c->code[r][k] = (uint8_t)q;
        }
}

static void cell_times_act(float *acc, const struct cell *c, uint32_t halves, const uint8_t *act,
                           uint32_t w, uint32_t t)
{
    const float *scale = (const float *)(const void *)act;
    const int8_t *q = (const int8_t *)act + 16 * w + 4 * t;

    for (uint32_t r = 0; r < KERN_GROUP; r++)
        for (uint32_t h = 0; h < halves; h++) {
            uint32_t k0 = h * 16, k1 = halves == 2 ? k0 + 16 : KERN_CELL;
            int32_t sum = 0;

            for (uint32_t k = k0; k < k1; k++)
                sum += c->code[r][k] * q[k / 4 * 4 * w + k % 4];
            acc[r] += (float)sum * (c->scale[h][r] * scale[t]);
            acc[r] += c->min[h][r] * scale[(halves == 2 ? 2 + h : 1) * w + t];
        }
}

static void put_result(const struct kern_mm_task *t, uint32_t g, uint32_t row, const float *acc)
{
    const struct kern_mm *mm = t->mm;

    for (uint32_t r = 0; r < KERN_GROUP && g * KERN_GROUP + r < mm->w->rows; r++) {
        float *y = mm->y + row * mm->ldy + g * KERN_GROUP + r;
        float v = acc[r];

        if (mm->bias != NULL)
            v += mm->bias[g * KERN_GROUP + r];
        *y = mm->add ? *y + v : v;
    }
}

static void mm_codes(const struct kern_mm_task *t, uint32_t g, float *acc)
{
    const struct kern_form *f = t->form;
    uint32_t cells = t->act->cols / KERN_CELL;
    const uint8_t *head = (const uint8_t *)t->mm->w->data + g * kern_group_bytes(f, t->act->cols);
    struct cell c;

    for (uint32_t b = 0; b < cells; b++) {
        const uint8_t *cell = head + f->head_bytes + b % f->cells * f->cell_bytes;

        open_scales(&c, f, head, cell);
        open_codes(&c, f->bits, cell + f->code_at);
        for (uint32_t row = t->t0; row < t->t1; row++) {
            uint32_t t0 = row / SCALAR_TILE * SCALAR_TILE, w = MIN(SCALAR_TILE, t->act->n - t0);
            const uint8_t *act = kern_act_panel(t->act, t0) + (size_t)b * w * KERN_ACT_BYTES;

            cell_times_act(acc + (row - t->t0) * KERN_GROUP, &c, f->halves, act, w, row - t0);
        }
        if ((b + 1) % f->cells == 0)
            head += f->head_bytes + (size_t)f->cells * f->cell_bytes;
    }
}

static float float_weight(const struct kern_form *f, const uint8_t *p, size_t i)
{
    uint16_t h;
    uint32_t bits;
    float v;

    if (f->type == KT_F32) {
        memcpy(&v, p + 4 * i, sizeof(v));
        return v;
    }
    memcpy(&h, p + 2 * i, sizeof(h));
    if (f->type == KT_F16)
        return kern_half_to_float(h);
    bits = (uint32_t)h << 16;
    memcpy(&v, &bits, sizeof(v));
    return v;
}

static void mm_floats(const struct kern_mm_task *t, uint32_t g, float *acc)
{
    uint32_t cols = t->act->cols;
    const uint8_t *p = (const uint8_t *)t->mm->w->data + g * kern_group_bytes(t->form, cols);

    for (uint32_t row = t->t0; row < t->t1; row++)
        for (uint32_t k = 0; k < cols; k++)
            for (uint32_t r = 0; r < KERN_GROUP; r++)
                acc[(row - t->t0) * KERN_GROUP + r] +=
                    float_weight(t->form, p, (size_t)k * KERN_GROUP + r) *
                    t->act->f32[(size_t)row * cols + k];
}

static void mm_scalar(const struct kern_mm_task *t)
{
    float *acc = t->scratch;

    for (uint32_t g = t->g0; g < t->g1; g++) {
        memset(acc, 0, (t->t1 - t->t0) * KERN_GROUP * sizeof(float));
        if (t->form->elem_bytes != 0)
            mm_floats(t, g, acc);
        else
            mm_codes(t, g, acc);
        for (uint32_t row = t->t0; row < t->t1; row++)
            put_result(t, g, row, acc + (row - t->t0) * KERN_GROUP);
    }
}

/* ---- attention ---- */

static void merge_tile(float *o, float *max, float *sum, const float *part, uint32_t d)
{
    float m = *max > part[0] ? *max : part[0];
    float c1 = expf(*max - m), c2 = expf(part[0] - m);

    if (part[1] == 0) /* no visible key in this tile */
        return;
    for (uint32_t i = 0; i < d; i++)
        o[i] = o[i] * c1 + part[2 + i] * c2;
    *sum = *sum * c1 + part[1] * c2;
    *max = m;
}

static void attn_merge_scalar(float *out, const float *part, uint32_t tiles, uint32_t head_dim)
{
    float max = -FLT_MAX, sum = 0;

    memset(out, 0, head_dim * sizeof(float));
    for (uint32_t i = 0; i < tiles; i++)
        merge_tile(out, &max, &sum, part + (size_t)i * (head_dim + 2), head_dim);
    for (uint32_t i = 0; i < head_dim; i++)
        out[i] /= sum;
}

/* One tile of one row: part = (max, sum, acc[d]). */
static void attn_tile(const struct kern_attn_task *t, uint32_t row, uint32_t tile, const float *q,
                      float *part)
{
    const struct kern_attn *a = t->a;
    uint32_t lo, hi, d = a->head_dim;
    float s[KERN_KEYS];

    kern_attn_range(a, t->seq, row, &lo, &hi);
    lo = MAX(lo, tile * KERN_KEYS);
    hi = MIN(hi, (tile + 1) * KERN_KEYS);
    memset(part, 0, (d + 2) * sizeof(float));
    part[0] = -FLT_MAX;
    for (uint32_t key = lo; key < hi; key++) {
        const uint16_t *k = kern_attn_key(a, t->seq, t->kv_head, key);
        float dot = 0;

        for (uint32_t i = 0; i < d; i++)
            dot += q[i] * a->scale * kern_half_to_float(k[i]);
        s[key - lo] = dot;
        part[0] = dot > part[0] ? dot : part[0];
    }
    for (uint32_t key = lo; key < hi; key++) {
        const uint16_t *v = kern_attn_key(a, t->seq, t->kv_head, key) + kern_attn_v_offset(a);
        float p = expf(s[key - lo] - part[0]);

        part[1] += p;
        for (uint32_t i = 0; i < d; i++)
            part[2 + i] += p * kern_half_to_float(v[i]);
    }
}

static void attn_scalar(const struct kern_attn_task *t)
{
    const struct kern_attn *a = t->a;
    uint32_t group = a->heads / a->kv_heads, d = a->head_dim;
    float *part = t->scratch;

    ASSERT(d <= SCALAR_HEAD_MAX);
    for (uint32_t row = t->r0; row < t->r1; row++) {
        size_t token = t->seq->q_row + row / group;
        size_t at = (token * a->heads + t->kv_head * group + row % group) * d;
        float *o = a->out + at, max = -FLT_MAX, sum = 0;

        if (t->part != NULL) {
            for (uint32_t tile = t->tile0; tile < t->tile1; tile++)
                attn_tile(t, row, tile, a->q + at,
                          t->part +
                              ((size_t)(row - t->r0) * t->part_tiles + tile - t->tile0) * (d + 2));
            continue;
        }
        memset(o, 0, d * sizeof(float));
        for (uint32_t tile = t->tile0; tile < t->tile1; tile++) {
            attn_tile(t, row, tile, a->q + at, part);
            merge_tile(o, &max, &sum, part, d);
        }
        for (uint32_t i = 0; i < d; i++)
            o[i] /= sum;
    }
}

/* ---- row operations ---- */

static void rmsnorm_scalar(float *y, const float *x, const float *w, uint32_t d, float eps)
{
    double sum = 0;
    float r;

    for (uint32_t i = 0; i < d; i++)
        sum += (double)x[i] * x[i];
    r = 1.0f / sqrtf((float)(sum / d) + eps);
    for (uint32_t i = 0; i < d; i++)
        y[i] = x[i] * r * w[i];
}

static void glu_scalar(float *out, const float *gate, const float *up, size_t n, int act)
{
    for (size_t i = 0; i < n; i++) {
        float g = gate[i], z;

        /* gelu-tanh: g/2 (1 + tanh z) = g / (1 + exp(-2z)) */
        z = act == 0 ? g : 1.5957691216057308f * g * (1 + 0.044715f * g * g);
        out[i] = g / (1 + expf(-z)) * up[i];
    }
}

static void rope_scalar(float *x, const float *cs, uint32_t heads, uint32_t head_dim,
                        uint32_t rope_dim, int neox)
{
    uint32_t half = rope_dim / 2;

    for (uint32_t h = 0; h < heads; h++, x += head_dim)
        for (uint32_t i = 0; i < half; i++) {
            float *a = neox ? x + i : x + 2 * i, *b = neox ? x + i + half : x + 2 * i + 1;
            float u = *a, v = *b;

            *a = u * cs[2 * i] - v * cs[2 * i + 1];
            *b = u * cs[2 * i + 1] + v * cs[2 * i];
        }
}

static void to_f16_scalar(uint16_t *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = kern_float_to_half(src[i]);
}

static void to_f32_scalar(float *dst, const uint16_t *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = kern_half_to_float(src[i]);
}

static void add_scalar(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

static uint32_t argmax_scalar(const float *x, uint32_t n)
{
    uint32_t best = 0;
    float top = -INFINITY;

    for (uint32_t i = 0; i < n; i++)
        if (x[i] > top) { /* NaN never is */
            top = x[i];
            best = i;
        }
    return best;
}

static uint64_t read_scalar(const void *p, size_t n)
{
    const uint64_t *w = p;
    uint64_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;

    for (size_t i = 0; i < n / 8; i += 4) {
        s0 += w[i];
        s1 += w[i + 1];
        s2 += w[i + 2];
        s3 += w[i + 3];
    }
    return s0 + s1 + s2 + s3;
}

const struct kern_ops kern_ops_scalar = {
    .level = KERN_SCALAR,
    .name = "scalar",
    .tile = SCALAR_TILE,
    .pair = 1,
    .act = act_scalar,
    .mm = mm_scalar,
    .attn = attn_scalar,
    .attn_merge = attn_merge_scalar,
    .rmsnorm = rmsnorm_scalar,
    .glu = glu_scalar,
    .rope = rope_scalar,
    .to_f16 = to_f16_scalar,
    .to_f32 = to_f32_scalar,
    .add = add_scalar,
    .argmax = argmax_scalar,
    .read = read_scalar,
};
