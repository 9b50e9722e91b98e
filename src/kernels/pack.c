/* Packing: GGUF blocks, row by row, into the interleaved cells that kern_priv.h draws.
 *
 * Each type has one reader that opens a GGUF block into plain codes and scales (struct opened);
 * from there on all types share the code that lays them out and the code that reads a row back.
 * Scales are kept as they are in the file (f16, and the small integers of super-blocks), so
 * nothing is rounded: a row read back equals the block's own definition bit for bit. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/kern_priv.h"
#include <string.h>

#define BLOCK_MAX 256 /* elements of a super-block */

/* type, elem_bytes, bits, zero, has_min, halves, cells, head, cell, code_at, src */
static const struct kern_form forms[] = {
    { KT_F32, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4 },
    { KT_F16, 2, 0, 0, 0, 0, 0, 0, 0, 0, 2 },
    { KT_BF16, 2, 0, 0, 0, 0, 0, 0, 0, 0, 2 },
    { KT_Q4_0, 0, 4, 8, 0, 1, 1, 0, 288, 32, 18 },
    { KT_Q4_1, 0, 4, 0, 1, 1, 1, 0, 320, 64, 20 },
    { KT_Q5_0, 0, 5, 16, 0, 1, 1, 0, 352, 32, 22 },
    { KT_Q5_1, 0, 5, 0, 1, 1, 1, 0, 384, 64, 24 },
    { KT_Q8_0, 0, 8, 128, 0, 1, 1, 0, 544, 32, 34 },
    { KT_Q4_K, 0, 4, 0, 1, 1, 8, 64, 288, 32, 144 },
    { KT_Q5_K, 0, 5, 0, 1, 1, 8, 64, 352, 32, 176 },
    { KT_Q6_K, 0, 6, 32, 0, 2, 8, 32, 416, 32, 210 },
};

struct opened {
    uint16_t d, m;         /* f16 bits: scale, and min or dmin */
    uint8_t sc[16], mn[8]; /* super-blocks: integer sub-scales (Q6_K: signed) and mins */
    uint8_t code[BLOCK_MAX];
};

const struct kern_form *kern_form_of(uint32_t type)
{
    for (size_t i = 0; i < COUNT(forms); i++)
        if (forms[i].type == type)
            return &forms[i];
    return NULL;
}

static uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)load_u16(p) | (uint32_t)load_u16(p + 2) << 16;
}

/* 32 nibbles: low ones first; high5: bit i is the fifth bit of element i. */
static void open_nibbles(uint8_t *code, const uint8_t *qs, uint32_t high5)
{
    for (uint32_t j = 0; j < 16; j++) {
        code[j] = (uint8_t)((qs[j] & 15) | (high5 >> j & 1) << 4);
        code[j + 16] = (uint8_t)(qs[j] >> 4 | (high5 >> (j + 16) & 1) << 4);
    }
}

/* The eight 6-bit (scale, min) pairs of Q4_K and Q5_K in 12 bytes. */
static void open_k_scales(struct opened *o, const uint8_t *sc)
{
    for (uint32_t s = 0; s < 4; s++) {
        o->sc[s] = sc[s] & 63;
        o->mn[s] = sc[s + 4] & 63;
        o->sc[s + 4] = (uint8_t)((sc[s + 8] & 15) | (sc[s] >> 6) << 4);
        o->mn[s + 4] = (uint8_t)(sc[s + 8] >> 4 | (sc[s + 4] >> 6) << 4);
    }
}

static void open_q4_k(struct opened *o, const uint8_t *qs, const uint8_t *qh)
{
    for (uint32_t s = 0; s < 8; s++)
        for (uint32_t l = 0; l < 32; l++) {
            uint8_t b = qs[32 * (s / 2) + l];
            uint8_t q = s % 2 == 0 ? b & 15 : b >> 4;

            if (qh != NULL)
                q = (uint8_t)(q | (qh[l] >> s & 1) << 4);
            o->code[32 * s + l] = q;
        }
}

static void open_q6_k(struct opened *o, const uint8_t *p)
{
    const uint8_t *qh = p + 128;

    for (uint32_t i = 0; i < BLOCK_MAX; i++) {
        uint32_t h = i / 128, k = i % 128 / 32, l = i % 32;
        uint8_t b = p[64 * h + 32 * (k & 1) + l];
        uint8_t low = k < 2 ? b & 15 : b >> 4;

        o->code[i] = (uint8_t)(low | (qh[32 * h + l] >> 2 * k & 3) << 4);
    }
    memcpy(o->sc, p + 192, 16); /* 8h + 2k + l/16 is i/16: in the order of the elements */
    o->d = load_u16(p + 208);
}

static void open_block(struct opened *o, uint32_t type, const uint8_t *p)
{
    o->d = load_u16(p);
    switch (type) {
    case KT_Q4_0: open_nibbles(o->code, p + 2, 0); break;
    case KT_Q4_1:
        o->m = load_u16(p + 2);
        open_nibbles(o->code, p + 4, 0);
        break;
    case KT_Q5_0: open_nibbles(o->code, p + 6, load_u32(p + 2)); break;
    case KT_Q5_1:
        o->m = load_u16(p + 2);
        open_nibbles(o->code, p + 8, load_u32(p + 4));
        break;
    case KT_Q8_0:
        for (uint32_t j = 0; j < 32; j++)
            o->code[j] = p[2 + j] ^ 0x80; /* signed to offset 128 */
        break;
    case KT_Q4_K:
    case KT_Q5_K:
        o->m = load_u16(p + 2);
        open_k_scales(o, p + 4);
        open_q4_k(o, p + (type == KT_Q4_K ? 16 : 48), type == KT_Q4_K ? NULL : p + 16);
        break;
    default: open_q6_k(o, p); break;
    }
}

/* Lays 32 codes of row r into a cell that was zeroed before. */
static void put_codes(uint8_t *dst, uint32_t bits, uint32_t r, const uint8_t *code)
{
    for (uint32_t s = 0; s < 8; s++)
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t j = 4 * r + i, c = code[4 * s + i];

            if (bits == 8) {
                dst[64 * s + j] = (uint8_t)c;
                continue;
            }
            dst[64 * (s / 2) + j] |= (uint8_t)((c & 15) << 4 * (s % 2));
            if (bits == 5)
                dst[256 + j] |= (uint8_t)(c >> 4 << s);
            else if (bits == 6)
                dst[256 + 64 * (s / 4) + j] |= (uint8_t)(c >> 4 << 2 * (s % 4));
        }
}

static void put_u16(uint8_t *p, uint32_t r, uint16_t v)
{
    memcpy(p + 2 * r, &v, sizeof(v));
}

static uint16_t get_u16(const uint8_t *p, uint32_t r)
{
    uint16_t v;

    memcpy(&v, p + 2 * r, sizeof(v));
    return v;
}

/* Lays one opened block of row r at dst, the super-block's head (or the cell). */
static void put_block(const struct kern_form *f, uint8_t *dst, uint32_t r, const struct opened *o)
{
    put_u16(dst, r, o->d);
    if (f->has_min)
        put_u16(dst + 32, r, o->m);
    for (uint32_t c = 0; c < f->cells; c++) {
        uint8_t *cell = dst + f->head_bytes + (size_t)c * f->cell_bytes;

        if (f->cells > 1) {
            for (uint32_t h = 0; h < f->halves; h++)
                cell[16 * h + r] = o->sc[f->halves * c + h];
            if (f->has_min)
                cell[16 + r] = o->mn[c];
        }
        put_codes(cell + f->code_at, f->bits, r, o->code + KERN_CELL * c);
    }
}

struct pack_job {
    const struct kern_form *form;
    const uint8_t *src;
    uint8_t *dst;
    uint32_t rows, cols;
};

#define PACK_GRAIN 4 /* groups a ticket */

static void pack_float_group(const struct pack_job *j, uint32_t g, uint8_t *dst)
{
    uint32_t e = j->form->elem_bytes;

    for (uint32_t r = 0; r < KERN_GROUP && g * KERN_GROUP + r < j->rows; r++) {
        const uint8_t *src = j->src + ((size_t)g * KERN_GROUP + r) * j->cols * e;

        for (uint32_t k = 0; k < j->cols; k++)
            memcpy(dst + ((size_t)k * KERN_GROUP + r) * e, src + (size_t)k * e, e);
    }
}

static void pack_group(const struct pack_job *j, uint32_t g)
{
    const struct kern_form *f = j->form;
    size_t size = kern_group_bytes(f, j->cols);
    size_t super = f->head_bytes + (size_t)f->cells * f->cell_bytes;
    uint8_t *dst = j->dst + g * size;
    struct opened o = { 0 };

    memset(dst, 0, size); /* rows past the end: scale 0, code 0 */
    if (f->elem_bytes != 0) {
        pack_float_group(j, g, dst);
        return;
    }
    for (uint32_t r = 0; r < KERN_GROUP && g * KERN_GROUP + r < j->rows; r++) {
        uint32_t blocks = j->cols / KERN_CELL / f->cells;
        const uint8_t *src = j->src + ((size_t)g * KERN_GROUP + r) * blocks * f->src_bytes;

        for (uint32_t b = 0; b < blocks; b++) {
            open_block(&o, f->type, src + (size_t)b * f->src_bytes);
            put_block(f, dst + b * super, r, &o);
        }
    }
}

static uint32_t group_count(uint32_t rows)
{
    return (rows + KERN_GROUP - 1) / KERN_GROUP;
}

static void pack_ticket(void *ctx, uint32_t i, uint32_t thread)
{
    const struct pack_job *j = ctx;
    uint32_t end = MIN((i + 1) * PACK_GRAIN, group_count(j->rows));

    (void)thread;
    for (uint32_t g = i * PACK_GRAIN; g < end; g++)
        pack_group(j, g);
}

size_t kern_packed_size(uint32_t type, uint32_t rows, uint32_t cols)
{
    const struct kern_form *f = kern_form_of(type);

    return f == NULL ? 0 : group_count(rows) * kern_group_bytes(f, cols);
}

void kern_pack(struct kern_mat *out, uint32_t type, uint32_t rows, uint32_t cols, const void *gguf,
               void *data, struct kern_pool *p)
{
    struct pack_job j = { kern_form_of(type), gguf, data, rows, cols };
    uint32_t tickets = (group_count(rows) + PACK_GRAIN - 1) / PACK_GRAIN;

    ASSERT(j.form != NULL);
    ASSERT(j.form->elem_bytes != 0 || cols % (KERN_CELL * j.form->cells) == 0);
    *out = (struct kern_mat) { .type = type, .rows = rows, .cols = cols, .data = data };
    out->size = kern_packed_size(type, rows, cols);
    if (p != NULL) {
        kern_pool_run(p, tickets, pack_ticket, &j);
        return;
    }
    for (uint32_t i = 0; i < tickets; i++)
        pack_ticket(&j, i, 0);
}

static uint32_t get_code(const uint8_t *codes, uint32_t bits, uint32_t r, uint32_t k)
{
    uint32_t s = k / 4, j = 4 * r + k % 4, c;

    if (bits == 8)
        return codes[64 * s + j];
    c = codes[64 * (s / 2) + j] >> 4 * (s % 2) & 15;
    if (bits == 5)
        c |= (codes[256 + j] >> s & 1U) << 4;
    else if (bits == 6)
        c |= (codes[256 + 64 * (s / 4) + j] >> 2 * (s % 4) & 3U) << 4;
    return c;
}

static void cell_row(const struct kern_form *f, const uint8_t *head, uint32_t c, uint32_t r,
                     float *out)
{
    const uint8_t *cell = head + f->head_bytes + (size_t)c * f->cell_bytes;
    const uint8_t *codes = cell + f->code_at;
    float d = kern_half_to_float(get_u16(head, r)), m = 0;

    if (f->has_min)
        m = kern_half_to_float(get_u16(head + 32, r));
    for (uint32_t k = 0; k < KERN_CELL; k++) {
        float q = (float)((int)get_code(codes, f->bits, r, k) - (int)f->zero);

        if (f->cells == 1)
            out[k] = f->has_min ? d * q + m : d * q;
        else if (f->halves == 2)
            out[k] = d * (float)(int8_t)cell[16 * (k / 16) + r] * q;
        else
            out[k] = d * (float)cell[r] * q - m * (float)cell[16 + r];
    }
}

static float get_float(const struct kern_form *f, const uint8_t *p)
{
    float v;
    uint16_t h;

    if (f->elem_bytes == 4) {
        memcpy(&v, p, sizeof(v));
        return v;
    }
    memcpy(&h, p, sizeof(h));
    if (f->type == KT_F16)
        return kern_half_to_float(h);
    memcpy(&v, &(uint32_t) { (uint32_t)h << 16 }, sizeof(v));
    return v;
}

void kern_row(const struct kern_mat *m, uint32_t row, float *out)
{
    const struct kern_form *f = kern_form_of(m->type);
    const uint8_t *p = (const uint8_t *)m->data + row / KERN_GROUP * kern_group_bytes(f, m->cols);
    uint32_t r = row % KERN_GROUP;

    if (f->elem_bytes != 0) {
        for (uint32_t k = 0; k < m->cols; k++)
            out[k] = get_float(f, p + ((size_t)k * KERN_GROUP + r) * f->elem_bytes);
        return;
    }
    for (uint32_t b = 0; b < m->cols / KERN_CELL; b++)
        cell_row(f, p + b / f->cells * (f->head_bytes + (size_t)f->cells * f->cell_bytes),
                 b % f->cells, r, out + (size_t)b * KERN_CELL);
}
