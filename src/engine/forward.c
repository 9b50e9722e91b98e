/* The layer program: rows of many requests through all layers as one batch.
 *
 *   per layer: norm -> [q,k,v] -> head norms, rope, K and V to their blocks -> attention -> o
 * (+residual) norm -> [gate,up] -> act(gate)*up -> down (+residual)
 *
 * q, k and v share one quantized activation, gate and up another.  The residual
 * stays in f32.  In the last layer only rows whose logits are wanted go on after
 * their K and V are stored: a prompt's other rows are needed by nobody.
 * Everything a row needs comes from its own token, position and
 * earlier KV; rope angles are those of the absolute position: so a row's bits do
 * not depend on the rows beside it. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "engine/engine_priv.h"
#include <math.h>
#include <string.h>

#define ROWS_A_TICKET 4 /* small row work: enough to hide a ticket, few enough to share */

static uint32_t q_width(const struct model *m)
{
    return m->n_heads * m->head_dim;
}

static uint32_t kv_width(const struct model *m)
{
    return m->n_kv_heads * m->head_dim;
}

static uint32_t act_width(const struct model *m)
{
    return MAX(MAX(m->n_embd, m->n_ff), q_width(m));
}

static size_t row_floats(const struct model *m)
{
    return (size_t)m->n_embd * 2 + (size_t)q_width(m) * 2 + (size_t)kv_width(m) * 2 +
           (size_t)m->n_ff * 2 + (size_t)m->rope_dim * m->group_count;
}

size_t forward_work_bytes(const struct model *m, uint32_t rows, uint32_t logit_rows)
{
    size_t act = (size_t)rows * act_width(m) * 5 / 4;

    return rows * row_floats(m) * sizeof(float) + act +
           (size_t)logit_rows * (m->n_vocab + m->n_embd) * sizeof(float);
}

static float *floats(size_t n)
{
    return mem_pages(MAX(n, (size_t)1) * sizeof(float));
}

static void unfloats(float *p, size_t n)
{
    mem_pages_free(p, MAX(n, (size_t)1) * sizeof(float));
}

int forward_init(struct forward *f, const struct model *m, const struct weights *w,
                 const struct blocks *kv, struct kern_pool *pool, uint32_t rows_max,
                 uint32_t logit_rows)
{
    size_t n = rows_max;

    *f = (struct forward) {
        .m = m, .w = w, .kv = kv, .pool = pool, .rows_max = rows_max, .logit_rows = logit_rows
    };
    f->x = floats(n * m->n_embd);
    f->h = floats(n * m->n_embd);
    f->q = floats(n * q_width(m));
    f->att = floats(n * q_width(m));
    f->k = floats(n * kv_width(m));
    f->v = floats(n * kv_width(m));
    f->gate = floats(n * m->n_ff);
    f->up = floats(n * m->n_ff);
    for (uint32_t g = 0; g < m->group_count; g++)
        f->cs[g] = floats(n * m->rope_dim);
    f->logits = floats((size_t)logit_rows * m->n_vocab);
    f->final = floats((size_t)logit_rows * m->n_embd);
    if (f->x == NULL || f->h == NULL || f->q == NULL || f->att == NULL || f->k == NULL ||
        f->v == NULL || f->gate == NULL || f->up == NULL || f->cs[0] == NULL ||
        (m->group_count > 1 && f->cs[1] == NULL) || f->logits == NULL || f->final == NULL)
        return ERR_NOMEM;
    return kern_act_init(&f->act, MAX(rows_max, logit_rows), act_width(m));
}

void forward_fini(struct forward *f)
{
    const struct model *m = f->m;
    size_t n = f->rows_max;

    if (m == NULL)
        return;
    unfloats(f->x, n * m->n_embd);
    unfloats(f->h, n * m->n_embd);
    unfloats(f->q, n * q_width(m));
    unfloats(f->att, n * q_width(m));
    unfloats(f->k, n * kv_width(m));
    unfloats(f->v, n * kv_width(m));
    unfloats(f->gate, n * m->n_ff);
    unfloats(f->up, n * m->n_ff);
    for (uint32_t g = 0; g < m->group_count; g++)
        unfloats(f->cs[g], n * m->rope_dim);
    unfloats(f->logits, (size_t)f->logit_rows * m->n_vocab);
    unfloats(f->final, (size_t)f->logit_rows * m->n_embd);
    kern_act_fini(&f->act);
    *f = (struct forward) { 0 };
}

/* ---- row work between matmuls, a few rows a ticket ---- */

struct row_job {
    struct forward *f;
    const struct fwd_row *row;
    uint32_t rows, layer;
};

/* Embedding and rope angles of the absolute position. */
static void rows_begin(void *ctx, uint32_t ticket, uint32_t thread)
{
    const struct row_job *j = ctx;
    struct forward *f = j->f;
    const struct model *m = f->m;
    uint32_t end = MIN((ticket + 1) * ROWS_A_TICKET, j->rows), half = m->rope_dim / 2;

    (void)thread;
    for (uint32_t r = ticket * ROWS_A_TICKET; r < end; r++) {
        float *x = f->x + (size_t)r * m->n_embd;

        kern_row(&f->w->embd, j->row[r].token, x);
        if (m->embd_scale != 1.0f)
            for (uint32_t i = 0; i < m->n_embd; i++)
                x[i] *= m->embd_scale;
        for (uint32_t g = 0; g < m->group_count; g++) {
            float *cs = f->cs[g] + (size_t)r * m->rope_dim;

            if (f->w->inv_freq[g] == NULL)
                continue;
            for (uint32_t i = 0; i < half; i++) {
                double s, c;

                sincos((double)j->row[r].pos * f->w->inv_freq[g][i], &s, &c);
                cs[2 * i] = (float)c;
                cs[2 * i + 1] = (float)s;
            }
        }
    }
}

/* Per-head RMS norm of one row: `heads` heads of d in place. */
static void head_norm(float *x, const float *w, uint32_t heads, uint32_t d, float eps)
{
    for (uint32_t h = 0; h < heads; h++, x += d) {
        float sum = 0, scale;

        for (uint32_t i = 0; i < d; i++)
            sum += x[i] * x[i];
        scale = 1.0f / sqrtf(sum / (float)d + eps);
        for (uint32_t i = 0; i < d; i++)
            x[i] = x[i] * scale * w[i];
    }
}

/* Head norms, rope, and K and V into their block. */
static void rows_qkv(void *ctx, uint32_t ticket, uint32_t thread)
{
    const struct row_job *j = ctx;
    struct forward *f = j->f;
    const struct model *m = f->m;
    const struct model_layer *l = &m->layers[j->layer];
    const struct layer_weights *w = &f->w->layer[j->layer];
    uint32_t first = ticket * ROWS_A_TICKET, end = MIN(first + ROWS_A_TICKET, j->rows),
             g = l->group;
    size_t qw = q_width(m), kw = kv_width(m);
    size_t offset = (size_t)l->group_index * f->kv->tokens * kw * 2 * sizeof(uint16_t);
    const float *cs = f->cs[g] + (size_t)first * m->rope_dim;

    (void)thread;
    for (uint32_t r = first; r < end; r++) {
        if (w->q_norm != NULL)
            head_norm(f->q + r * qw, w->q_norm, m->n_heads, m->head_dim, m->norm_eps);
        if (w->k_norm != NULL)
            head_norm(f->k + r * kw, w->k_norm, m->n_kv_heads, m->head_dim, m->norm_eps);
    }
    kern_rope(f->q + first * qw, cs, end - first, m->n_heads, m->head_dim, m->rope_dim,
              m->rope == ROPE_NEOX, qw);
    kern_rope(f->k + first * kw, cs, end - first, m->n_kv_heads, m->head_dim, m->rope_dim,
              m->rope == ROPE_NEOX, kw);
    for (uint32_t r = first; r < end; r++)
        if (j->row[r].place[g] != BLOCK_NONE)
            kern_kv_store(f->kv->arena[g], f->kv->stride[g], offset, j->row[r].place[g],
                          j->row[r].pos & (f->kv->tokens - 1), f->kv->tokens, m->n_kv_heads,
                          m->head_dim, f->k + r * kw, f->v + r * kw);
}

static void run_rows(struct row_job *j, void (*fn)(void *ctx, uint32_t i, uint32_t thread))
{
    uint32_t tickets = (j->rows + ROWS_A_TICKET - 1) / ROWS_A_TICKET;

    if (tickets == 1)
        fn(j, 0, 0);
    else
        kern_pool_run(j->f->pool, tickets, fn, j);
}

/* ---- the program ---- */

/* x += norm(y) for the architectures that norm a block's output, else x += y came with the matmul.
 */
static void add_back(struct forward *f, const struct kern_mat *w, const float *bias,
                     const float *post, uint32_t rows)
{
    const struct model *m = f->m;

    if (post == NULL) {
        kern_matmul(w, &f->act, f->x, m->n_embd, bias, true, f->pool);
        return;
    }
    kern_matmul(w, &f->act, f->h, m->n_embd, bias, false, f->pool);
    kern_rmsnorm(f->h, f->h, post, rows, m->n_embd, m->norm_eps, f->pool);
    kern_add(f->x, f->h, (size_t)rows * m->n_embd);
}

static void attention(struct forward *f, const struct model_layer *l,
                      const struct kern_attn_seq *seq, uint32_t seq_count)
{
    const struct model *m = f->m;
    struct kern_attn a = {
        .kv = f->kv->arena[l->group],
        .block_stride = f->kv->stride[l->group],
        .layer_offset = (size_t)l->group_index * f->kv->tokens * kv_width(m) * 2 * sizeof(uint16_t),
        .block_tokens = f->kv->tokens,
        .heads = m->n_heads,
        .kv_heads = m->n_kv_heads,
        .head_dim = m->head_dim,
        .window = l->window,
        .scale = m->attn_scale,
        .q = f->q,
        .out = f->att,
        .seq = seq,
        .seq_count = seq_count,
    };

    kern_attention(&a, f->pool);
}

/* Moves the wanted rows of x and q to the front. */
static void keep_wanted(struct forward *f, const struct fwd_step *s)
{
    size_t d = f->m->n_embd, qw = q_width(f->m);

    for (uint32_t i = 0; i < s->want_count;
         i++) { /* rising: no row is overwritten before it moved */
        memmove(f->x + i * d, f->x + s->want[i] * d, d * sizeof(float));
        memmove(f->q + i * qw, f->q + s->want[i] * qw, qw * sizeof(float));
    }
}

void forward_run(struct forward *f, const struct fwd_step *s)
{
    const struct model *m = f->m;
    struct row_job job = { f, s->row, s->rows, 0 };
    const struct kern_attn_seq *const *seq = s->seq;
    uint32_t rows = s->rows, seq_count = s->seq_count;

    ASSERT(rows > 0 && rows <= f->rows_max);
    run_rows(&job, rows_begin);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct model_layer *l = &m->layers[i];
        const struct layer_weights *w = &f->w->layer[i];

        job.layer = i;
        kern_rmsnorm(f->h, f->x, w->attn_norm, rows, m->n_embd, m->norm_eps, f->pool);
        kern_act_set(&f->act, f->h, rows, m->n_embd, f->pool);
        kern_matmul(&w->q, &f->act, f->q, q_width(m), w->q_bias, false, f->pool);
        kern_matmul(&w->k, &f->act, f->k, kv_width(m), w->k_bias, false, f->pool);
        kern_matmul(&w->v, &f->act, f->v, kv_width(m), w->v_bias, false, f->pool);
        run_rows(&job, rows_qkv);
        if (i + 1 == m->n_layers) {
            if (s->want_count == 0)
                return;
            keep_wanted(f, s);
            seq = s->want_seq;
            rows = seq_count = s->want_count;
        }
        attention(f, l, seq[l->group], seq_count);
        kern_act_set(&f->act, f->att, rows, q_width(m), f->pool);
        add_back(f, &w->o, w->o_bias, w->post_attn_norm, rows);

        kern_rmsnorm(f->h, f->x, w->ffn_norm, rows, m->n_embd, m->norm_eps, f->pool);
        kern_act_set(&f->act, f->h, rows, m->n_embd, f->pool);
        kern_matmul(&w->gate, &f->act, f->gate, m->n_ff, NULL, false, f->pool);
        kern_matmul(&w->up, &f->act, f->up, m->n_ff, NULL, false, f->pool);
        kern_glu(f->gate, f->gate, f->up, rows, m->n_ff, m->act == ACT_GELU_TANH, f->pool);
        kern_act_set(&f->act, f->gate, rows, m->n_ff, f->pool);
        add_back(f, &w->down, NULL, w->post_ffn_norm, rows);
    }
}

void forward_logits(struct forward *f, uint32_t first, uint32_t count)
{
    const struct model *m = f->m;

    ASSERT(count > 0 && count <= f->logit_rows);
    kern_rmsnorm(f->final, f->x + (size_t)first * m->n_embd, f->w->output_norm, count, m->n_embd,
                 m->norm_eps, f->pool);
    kern_act_set(&f->act, f->final, count, m->n_embd, f->pool);
    kern_matmul(&f->w->head, &f->act, f->logits, m->n_vocab, NULL, false, f->pool);
}
