/* Opening a model: numbers from the metadata, then tensors by the architecture's row.
 *
 *   gguf --numbers()--> sizes --rope(), windows()--> layers --tensors()--> pointers
 *                                                        `--leftovers()--> all used?
 *
 * Nothing is guessed.  A number out of range, a tensor that is missing, left
 * over or of another shape, and a key that asks for a computation we do not do
 * are errors that name themselves: a model either computes what its authors
 * meant or does not open. */
// SPDX-License-Identifier: Apache-2.0
#include "model/model.h"
#include "model/arch_priv.h"
#include "base/check.h"
#include "base/mem.h"
#include "codec/blockkey.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define LAYERS_MAX   512
#define HEADS_MAX    1024
#define HEAD_DIM_MAX 1024
#define VOCAB_MAX    (1u << 20)
#define WIDTH_MAX    (1u << 20) /* n_embd, n_ff: far beyond any model, keeps products in 64 bits */
#define CONTEXT_MAX  (1u << 30)

#define SAMPLE_BYTES 1024 /* at the start, middle and end of each tensor */

struct build {
    struct model *m;
    const struct arch *a;
    struct gguf *g;
    bool *used; /* by tensor index */
    uint32_t n_q, n_kv;
    struct err *e;
};

/* ---- metadata under the architecture's prefix ---- */

struct key {
    char z[128];
};

static struct key key_of(const struct build *b, const char *suffix)
{
    struct key k;

    snprintf(k.z, sizeof(k.z), "%s.%s", b->a->name, suffix);
    return k;
}

static const struct gguf_value *value_of(const struct build *b, const char *suffix)
{
    return gguf_get(b->g, key_of(b, suffix).z);
}

/* A scalar, or an array of one value per layer that are all the same. */
static bool uniform(const struct gguf_value *v, uint64_t *out)
{
    uint64_t next;

    if (!gguf_value_u64(v, 0, out))
        return false;
    for (uint64_t i = 1; v->type == GGUF_ARRAY && i < v->count; i++)
        if (!gguf_value_u64(v, i, &next) || next != *out)
            return false;
    return true;
}

/* fallback 0: the key must be there. */
static int number(struct build *b, const char *suffix, uint32_t max, uint32_t fallback,
                  uint32_t *out)
{
    const struct gguf_value *v = value_of(b, suffix);
    uint64_t n = fallback;

    if (v == NULL && fallback == 0)
        return err_set(b->e, ERR_PARSE, "the model lacks the key %s.%s; use another conversion",
                       b->a->name, suffix);
    if (v != NULL && !uniform(v, &n))
        return err_set(b->e, ERR_UNSUPPORTED,
                       "%s.%s is not one number for all layers: this "
                       "variant is not supported",
                       b->a->name, suffix);
    if (n == 0 || n > max)
        return err_set(b->e, ERR_LIMIT, "%s.%s is %" PRIu64 ", must be 1..%" PRIu32, b->a->name,
                       suffix, n, max);
    *out = (uint32_t)n;
    return 0;
}

static int real(struct build *b, const char *suffix, double fallback, double *out)
{
    *out = fallback;
    if (value_of(b, suffix) != NULL && !gguf_f64(b->g, key_of(b, suffix).z, out))
        return err_set(b->e, ERR_PARSE, "%s.%s is not a number", b->a->name, suffix);
    if (!isfinite(*out) || *out <= 0 || *out > 1e15)
        return err_set(b->e, ERR_PARSE, "%s.%s is missing or not a sensible positive number",
                       b->a->name, suffix);
    return 0;
}

/* Keys that change the computation in ways the layer program has no step for. */
static int refuse_extras(struct build *b)
{
    static const struct {
        const char *suffix;
        double neutral;
    } keys[] = {
        { "expert_count", 0 },
        { "attn_logit_softcapping", 0 },
        { "final_logit_softcapping", 0 },
        { "attention.clamp_kqv", 0 },
        { "attention.q_lora_rank", 0 },
        { "attention.kv_lora_rank", 0 },
        { "attention.shared_kv_layers", 0 },
        { "attention.temperature_length", 0 },
        { "logit_scale", 1 },
        { "residual_scale", 1 },
        { "embedding_scale", 1 },
        { "rope.scaling.yarn_log_multiplier", 0 },
    };
    bool causal = true;

    for (size_t i = 0; i < COUNT(keys); i++) {
        double v = 0;

        /* 0 is how converters write "not used" */
        if (gguf_f64(b->g, key_of(b, keys[i].suffix).z, &v) && v != 0 && v != keys[i].neutral)
            return err_set(b->e, ERR_UNSUPPORTED,
                           "%s.%s = %g: this variant of %s is not "
                           "supported",
                           b->a->name, keys[i].suffix, v, b->a->name);
    }
    if (gguf_bool(b->g, key_of(b, "attention.causal").z, &causal) && !causal)
        return err_set(b->e, ERR_UNSUPPORTED,
                       "an encoder (attention.causal is false): only models "
                       "that generate text are supported");
    return 0;
}

static int numbers(struct build *b)
{
    struct model *m = b->m;
    const struct gguf_value *tokens = gguf_get(b->g, "tokenizer.ggml.tokens");
    uint32_t value_dim;
    double eps = 0, scale;
    int rc = refuse_extras(b);

    if (rc != 0 || (rc = number(b, "block_count", LAYERS_MAX, 0, &m->n_layers)) != 0 ||
        (rc = number(b, "embedding_length", WIDTH_MAX, 0, &m->n_embd)) != 0 ||
        (rc = number(b, "feed_forward_length", WIDTH_MAX, 0, &m->n_ff)) != 0 ||
        (rc = number(b, "context_length", CONTEXT_MAX, 0, &m->context_max)) != 0 ||
        (rc = number(b, "attention.head_count", HEADS_MAX, 0, &m->n_heads)) != 0 ||
        (rc = number(b, "attention.head_count_kv", HEADS_MAX, m->n_heads, &m->n_kv_heads)) != 0 ||
        (rc = number(b, "attention.key_length", HEAD_DIM_MAX, MAX(m->n_embd / m->n_heads, 1),
                     &m->head_dim)) != 0 ||
        (rc = number(b, "attention.value_length", HEAD_DIM_MAX, m->head_dim, &value_dim)) != 0 ||
        (rc = number(b, "rope.dimension_count", HEAD_DIM_MAX, m->head_dim, &m->rope_dim)) != 0 ||
        (rc = real(b, "attention.layer_norm_rms_epsilon", 0, &eps)) != 0)
        return rc;
    scale = 1 / sqrt(m->n_layers == b->a->wide_scale_layers ? (double)m->n_embd / m->n_heads
                                                            : (double)m->head_dim);
    rc = real(b, "attention.scale", scale, &scale);
    if (rc != 0)
        return rc;
    if (m->n_heads % m->n_kv_heads != 0 || value_dim != m->head_dim)
        return err_set(b->e, ERR_UNSUPPORTED,
                       "%" PRIu32 " heads of %" PRIu32 " over %" PRIu32 " KV heads of %" PRIu32
                       ": this variant is not supported",
                       m->n_heads, m->head_dim, m->n_kv_heads, value_dim);
    if (m->rope_dim % 2 != 0 || m->rope_dim > m->head_dim)
        return err_set(b->e, ERR_PARSE,
                       "rope.dimension_count is %" PRIu32 ", must be even and at "
                       "most %" PRIu32,
                       m->rope_dim, m->head_dim);
    if (tokens == NULL || tokens->type != GGUF_ARRAY || tokens->elem != GGUF_STRING)
        return err_set(b->e, ERR_PARSE,
                       "the model has no vocabulary (tokenizer.ggml.tokens); use "
                       "another conversion");
    if (tokens->count == 0 || tokens->count > VOCAB_MAX)
        return err_set(b->e, ERR_LIMIT, "a vocabulary of %" PRIu64 " tokens, must be 1..%u",
                       tokens->count, VOCAB_MAX);
    m->n_vocab = (uint32_t)tokens->count;
    m->norm_eps = (float)eps;
    m->attn_scale = (float)scale;
    m->embd_scale = b->a->scales_embd ? (float)sqrt((double)m->n_embd) : 1;
    b->n_q = m->n_heads * m->head_dim;
    b->n_kv = m->n_kv_heads * m->head_dim;
    return 0;
}

/* ---- positions and windows ---- */

static int rope(struct build *b, double *base, double *base_local, double *scale)
{
    struct str type = STR("none");
    int rc = real(b, "rope.freq_base", 10000, base);

    if (rc == 0)
        rc = real(b, "rope.freq_base_swa", 10000, base_local);
    if (rc == 0)
        rc = real(b, "rope.scale_linear", 1, scale); /* the older name */
    if (rc != 0)
        return rc;
    (void)gguf_str(b->g, key_of(b, "rope.scaling.type").z, &type);
    if (str_eqz(type, "linear"))
        return real(b, "rope.scaling.factor", *scale, scale);
    if (!str_eqz(type, "none"))
        return err_set(b->e, ERR_UNSUPPORTED,
                       "%s.rope.scaling.type is not \"none\" or \"linear\": "
                       "other kinds are not supported",
                       b->a->name);
    return 0;
}

static bool is_local(const struct build *b, const struct gguf_value *pattern, uint32_t layer)
{
    uint64_t period = b->a->window_period, flag;

    if (pattern != NULL && pattern->type == GGUF_ARRAY)
        return gguf_value_u64(pattern, layer, &flag) && flag != 0;
    (void)gguf_value_u64(pattern, 0, &period);
    return period == 0 || (layer + 1) % period != 0;
}

static int windows(struct build *b)
{
    struct model *m = b->m;
    const struct gguf_value *pattern = value_of(b, "attention.sliding_window_pattern");
    double base, base_local, scale;
    uint64_t window = 0;
    uint32_t local = 0;
    int rc = rope(b, &base, &base_local, &scale);

    if (rc != 0)
        return rc;
    if (value_of(b, "attention.sliding_window") != NULL &&
        (!gguf_u64(b->g, key_of(b, "attention.sliding_window").z, &window) || window > CONTEXT_MAX))
        return err_set(b->e, ERR_PARSE, "%s.attention.sliding_window is out of range", b->a->name);
    if (pattern != NULL && pattern->type == GGUF_ARRAY && pattern->count < m->n_layers)
        return err_set(b->e, ERR_PARSE,
                       "%s.attention.sliding_window_pattern is shorter than the "
                       "%" PRIu32 " layers",
                       b->a->name, m->n_layers);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        struct model_layer *l = &m->layers[i];
        bool is_windowed = window != 0 && is_local(b, pattern, i);

        l->window = is_windowed ? (uint32_t)window : 0;
        l->rope_base = is_windowed && b->a->has_local_rope ? base_local : base;
        l->rope_scale = is_windowed && b->a->has_local_rope ? 1 : scale;
        local += is_windowed;
    }
    /* One kind of layer is one group, whichever kind it is. */
    m->group_count = local != 0 && local != m->n_layers ? 2 : 1;
    m->groups[0].window = local == m->n_layers ? (uint32_t)window : 0;
    m->groups[1].window = m->group_count == 2 ? (uint32_t)window : 0;
    for (uint32_t i = 0; i < m->n_layers; i++) {
        struct model_layer *l = &m->layers[i];

        l->group = m->group_count == 2 && l->window != 0;
        l->group_index = m->groups[l->group].layers++;
    }
    return 0;
}

/* ---- tensors ---- */

static uint32_t dim_of(const struct build *b, enum dim d)
{
    switch (d) {
    case DIM_EMBD: return b->m->n_embd;
    case DIM_Q: return b->n_q;
    case DIM_KV: return b->n_kv;
    case DIM_HEAD: return b->m->head_dim;
    case DIM_FF: return b->m->n_ff;
    default: return 1;
    }
}

/* out_max > out: that many rows are fine too (vocabularies are padded).  out 1 is an f32 vector. */
static int claim(struct build *b, const char *name, uint64_t in, uint64_t out, uint64_t out_max,
                 const struct gguf_tensor **at)
{
    const struct gguf_tensor *t = gguf_tensor_find(b->g, name);

    *at = t;
    if (t == NULL)
        return 0;
    if (t->ne[0] != in || t->ne[1] < out || t->ne[1] > MAX(out, out_max) || t->ne[2] != 1 ||
        t->ne[3] != 1)
        return err_set(b->e, ERR_PARSE,
                       "tensor %s is %" PRIu64 "x%" PRIu64 "x%" PRIu64 "x%" PRIu64
                       ", expected %" PRIu64 "x%" PRIu64,
                       name, t->ne[0], t->ne[1], t->ne[2], t->ne[3], in, out);
    if (out == 1 && t->type != TENSOR_F32)
        return err_set(b->e, ERR_UNSUPPORTED,
                       "tensor %s is %s, must be F32; use another "
                       "conversion",
                       name, tensor_type_name(t->type));
    b->used[t - gguf_tensor_at(b->g, 0)] = true;
    return 0;
}

static int missing(struct build *b, const char *name)
{
    return err_set(b->e, ERR_PARSE,
                   "the model lacks tensor %s, which %s needs; use another "
                   "conversion",
                   name, b->a->name);
}

static int layer_tensors(struct build *b, uint32_t layer)
{
    for (int t = 0; t < T_COUNT; t++) {
        const struct tensor_rule *r = &arch_layer_tensors[t];
        const struct gguf_tensor *found;
        char name[64];
        int rc;

        if (((b->a->required | b->a->optional) >> t & 1) == 0)
            continue;
        snprintf(name, sizeof(name), "blk.%" PRIu32 ".%s", layer, r->name);
        rc = claim(b, name, dim_of(b, r->in), dim_of(b, r->out), 0, &found);
        if (rc != 0)
            return rc;
        if (found == NULL && (b->a->required >> t & 1) != 0)
            return missing(b, name);
        memcpy((char *)&b->m->layers[layer] + r->at, &found, sizeof(found));
    }
    return 0;
}

static int leftovers(struct build *b)
{
    for (size_t i = 0; i < gguf_tensor_count(b->g); i++)
        if (!b->used[i])
            return err_set(b->e, ERR_UNSUPPORTED,
                           "the model has tensor %.*s, which %s does not "
                           "use: this variant is not supported",
                           STR_ARG(gguf_tensor_at(b->g, i)->name), b->a->name);
    return 0;
}

static int tensors(struct build *b)
{
    struct model *m = b->m;
    uint64_t rows_max = 2 * (uint64_t)VOCAB_MAX;
    int rc;

    if ((rc = claim(b, "token_embd.weight", m->n_embd, m->n_vocab, rows_max, &m->token_embd)) !=
            0 ||
        (rc = claim(b, "output.weight", m->n_embd, m->n_vocab, rows_max, &m->output)) != 0 ||
        (rc = claim(b, "output_norm.weight", m->n_embd, 1, 0, &m->output_norm)) != 0)
        return rc;
    if (b->a->has_rope_freqs &&
        (rc = claim(b, "rope_freqs.weight", m->rope_dim / 2, 1, 0, &m->rope_freqs)) != 0)
        return rc;
    if (m->token_embd == NULL)
        return missing(b, "token_embd.weight");
    if (m->output_norm == NULL)
        return missing(b, "output_norm.weight");
    if (m->output == NULL)
        m->output = m->token_embd;
    for (uint32_t i = 0; i < m->n_layers; i++) {
        rc = layer_tensors(b, i);
        if (rc != 0)
            return rc;
    }
    return leftovers(b);
}

/* ---- identity ---- */

/* SHA-256 chained over the numbers, then each tensor's name, type, shape and samples.  Two
 * trainings of one shape differ everywhere, so samples tell them apart at a fraction of the I/O. */
static void digest(struct model *m)
{
    struct {
        uint8_t before[32];
        char head[256];
        uint8_t sample[3][SAMPLE_BYTES];
    } d;
    size_t count = gguf_tensor_count(m->gguf), sample = MIN((4u << 20) / count, SAMPLE_BYTES);

    memset(&d, 0, sizeof(d));
    snprintf(d.head, sizeof(d.head), "%.*s %u %u %u %u %u %u %u %u %d %d %a %a %a %a %a %u %u",
             STR_ARG(m->arch), m->n_layers, m->n_embd, m->n_heads, m->n_kv_heads, m->head_dim,
             m->n_ff, m->n_vocab, m->rope_dim, (int)m->rope, (int)m->act, (double)m->norm_eps,
             (double)m->embd_scale, (double)m->attn_scale, m->layers[m->n_layers - 1].rope_base,
             m->layers[m->n_layers - 1].rope_scale, m->groups[0].window, m->groups[1].window);
    hash_sha256(&d, sizeof(d), m->digest);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        memcpy(d.before, m->digest, 32);
        snprintf(d.head, sizeof(d.head), "%u %u %a %a", i, m->layers[i].window,
                 m->layers[i].rope_base, m->layers[i].rope_scale);
        hash_sha256(&d, sizeof(d.before) + sizeof(d.head), m->digest);
    }
    for (size_t i = 0; i < count; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);
        size_t n = MIN(sample, t->size);

        memset(&d, 0, sizeof(d));
        memcpy(d.before, m->digest, 32);
        snprintf(d.head, sizeof(d.head), "%.*s %d %" PRIu64 " %" PRIu64, STR_ARG(t->name),
                 (int)t->type, t->ne[0], t->ne[1]);
        memcpy(d.sample[0], t->data, n);
        memcpy(d.sample[1], t->data + (t->size - n) / 2, n);
        memcpy(d.sample[2], t->data + t->size - n, n);
        hash_sha256(&d, sizeof(d), m->digest);
    }
}

/* ---- opening ---- */

static int unknown_arch(struct str name, struct err *e)
{
    char known[128];
    size_t n = 0;

    for (size_t i = 0; arch_at(i) != NULL; i++)
        n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", i != 0 ? ", " : "",
                              arch_at(i)->name);
    for (size_t i = 0; i < name.n; i++)
        if (name.p[i] < 0x21 || name.p[i] > 0x7e)
            name = STR("(unprintable)");
    return err_set(e, ERR_UNSUPPORTED, "architecture \"%.*s\" is not supported; these are: %s",
                   (int)MIN(name.n, 64), name.p, known);
}

static int fill(struct build *b)
{
    struct model *m = b->m;
    struct str arch;
    int rc;

    if (!gguf_str(b->g, "general.architecture", &arch))
        return err_set(b->e, ERR_PARSE, "the file has no general.architecture: not a model");
    b->a = arch_find(arch);
    if (b->a == NULL)
        return unknown_arch(arch, b->e);
    m->arch = str_of(b->a->name);
    m->rope = b->a->rope;
    m->act = b->a->act;
    (void)gguf_str(b->g, "general.name", &m->name);
    rc = numbers(b);
    if (rc != 0)
        return rc;
    m->layers = mem_try_zero(m->n_layers, sizeof(*m->layers));
    b->used = mem_try_zero(MAX(gguf_tensor_count(b->g), 1), sizeof(*b->used));
    if (m->layers == NULL || b->used == NULL)
        return err_set(b->e, ERR_NOMEM, "no memory for the model's tables");
    rc = windows(b);
    if (rc == 0)
        rc = tensors(b);
    if (rc == 0)
        digest(m);
    return rc;
}

int model_from_gguf(struct model **out, struct gguf *g, struct err *e)
{
    struct model *m = mem_zalloc(sizeof(*m));
    struct build b = { .m = m, .g = g, .e = e };
    int rc;

    *out = NULL;
    m->gguf = g;
    m->path = mem_strdup("");
    rc = fill(&b);
    mem_free(b.used);
    if (rc != 0)
        model_close(m);
    else
        *out = m;
    return rc;
}

int model_open(struct model **out, const char *path, struct err *e)
{
    const char *slash = strrchr(path, '/');
    struct gguf *g;
    struct err inner = { 0 };
    int rc;

    *out = NULL;
    rc = gguf_open(&g, path, e);
    if (rc != 0)
        return rc;
    rc = model_from_gguf(out, g, &inner);
    if (rc != 0)
        return err_set(e, rc, "%.150s: %.350s", path, inner.msg);
    mem_free((void *)(uintptr_t)(*out)->path);
    (*out)->path = mem_strdup(path);
    if ((*out)->name.n == 0)
        (*out)->name = str_of((*out)->path + (slash != NULL ? slash - path + 1 : 0));
    return 0;
}

void model_close(struct model *m)
{
    if (m == NULL)
        return;
    mem_free(m->layers);
    mem_free((void *)(uintptr_t)m->path);
    gguf_close(m->gguf);
    mem_free(m);
}

size_t model_weight_bytes(const struct model *m)
{
    size_t sum = 0;

    for (size_t i = 0; i < gguf_tensor_count(m->gguf); i++)
        sum += gguf_tensor_at(m->gguf, i)->size;
    return sum;
}

size_t model_kv_bytes_per_token(const struct model *m, uint32_t group)
{
    return (size_t)m->groups[group].layers * 2 * m->n_kv_heads * m->head_dim * 2;
}
