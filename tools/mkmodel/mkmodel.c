/* Writes the file in one pass: metadata, tensor infos (their offsets follow from
 * the sizes), padding, data.  The list of tensors is made once and walked twice. */
// SPDX-License-Identifier: Apache-2.0
#include "mkmodel.h"
#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "vocab_priv.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define ALIGN       32
#define TENSORS_MAX 4096

static const char chatml[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}";

struct plan_tensor {
    char name[64];
    enum tensor_type type;
    uint64_t in, out; /* out 0: a vector */
    float mean, spread;
};

struct plan {
    struct plan_tensor t[TENSORS_MAX];
    size_t count;
};

/* ---- metadata ---- */

struct writer {
    struct buf *b;
    const char *arch;
    uint64_t keys;
};

static void u32(struct writer *w, uint32_t v)
{
    buf_add(w->b, &v, sizeof(v));
}

static void u64(struct writer *w, uint64_t v)
{
    buf_add(w->b, &v, sizeof(v));
}

static void text(struct writer *w, const char *z)
{
    u64(w, strlen(z));
    buf_z(w->b, z);
}

/* A suffix that begins with a dot belongs to the architecture. */
static void key(struct writer *w, const char *name, enum gguf_type type)
{
    char full[128];

    snprintf(full, sizeof(full), "%s%s", *name == '.' ? w->arch : "", name);
    text(w, full);
    u32(w, (uint32_t)type);
    w->keys++;
}

static void key_u32(struct writer *w, const char *name, uint32_t v)
{
    key(w, name, GGUF_U32);
    u32(w, v);
}

static void key_f32(struct writer *w, const char *name, double v)
{
    float f = (float)v;

    key(w, name, GGUF_F32);
    buf_add(w->b, &f, sizeof(f));
}

static void key_bool(struct writer *w, const char *name, bool v)
{
    key(w, name, GGUF_BOOL);
    buf_c(w->b, v);
}

static void key_text(struct writer *w, const char *name, const char *v)
{
    key(w, name, GGUF_STRING);
    text(w, v);
}

static void key_array(struct writer *w, const char *name, enum gguf_type elem, uint64_t count)
{
    key(w, name, GGUF_ARRAY);
    u32(w, (uint32_t)elem);
    u64(w, count);
}

static bool is_gemma(const struct mkmodel *o)
{
    return strcmp(o->arch, "gemma3") == 0;
}

static void write_vocab(struct writer *w, const struct mkmodel *o, const struct vocab *v)
{
    key_text(w, "tokenizer.ggml.model", is_gemma(o) ? "llama" : "gpt2");
    key_text(w, "tokenizer.ggml.pre",
             is_gemma(o)                     ? "default"
             : strcmp(o->arch, "llama") == 0 ? "smollm"
                                             : "qwen2");
    key_array(w, "tokenizer.ggml.tokens", GGUF_STRING, v->count);
    for (uint32_t i = 0; i < v->count; i++)
        text(w, v->token[i].text);
    if (is_gemma(o)) {
        key_array(w, "tokenizer.ggml.scores", GGUF_F32, v->count);
        for (uint32_t i = 0; i < v->count; i++)
            buf_add(w->b, &v->token[i].score, sizeof(float));
    } else {
        key_array(w, "tokenizer.ggml.merges", GGUF_STRING, v->merge_count);
        for (uint32_t i = 0; i < v->merge_count; i++)
            text(w, v->merge[i]);
    }
    key_array(w, "tokenizer.ggml.token_type", GGUF_I32, v->count);
    for (uint32_t i = 0; i < v->count; i++)
        buf_add(w->b, &v->token[i].type, sizeof(int32_t));
    key_u32(w, "tokenizer.ggml.bos_token_id", v->bos);
    key_u32(w, "tokenizer.ggml.eos_token_id", v->eos);
    key_u32(w, "tokenizer.ggml.unknown_token_id", v->unknown);
    key_u32(w, "tokenizer.ggml.padding_token_id", v->pad);
    key_bool(w, "tokenizer.ggml.add_bos_token", is_gemma(o));
    key_bool(w, "tokenizer.ggml.add_space_prefix", false);
    if (o->has_template)
        key_text(w, "tokenizer.chat_template", chatml);
}

static void write_metadata(struct writer *w, const struct mkmodel *o, const struct vocab *v)
{
    key_text(w, "general.architecture", o->arch);
    key_text(w, "general.type", "model");
    key_text(w, "general.name", "mkmodel tiny");
    key_u32(w, "general.quantization_version", 2);
    key_u32(w, "general.alignment", ALIGN);
    key_u32(w, ".block_count", o->layers);
    key_u32(w, ".context_length", o->context);
    key_u32(w, ".embedding_length", o->embd);
    key_u32(w, ".feed_forward_length", o->ff);
    key_u32(w, ".attention.head_count", o->heads);
    key_u32(w, ".attention.head_count_kv", o->kv_heads);
    key_u32(w, ".attention.key_length", o->head_dim);
    key_u32(w, ".attention.value_length", o->head_dim);
    key_u32(w, ".rope.dimension_count", o->head_dim);
    key_f32(w, ".rope.freq_base", o->freq_base);
    key_f32(w, ".attention.layer_norm_rms_epsilon", 1e-6);
    if (is_gemma(o) && o->window != 0)
        key_u32(w, ".attention.sliding_window", o->window);
    write_vocab(w, o, v);
}

/* ---- tensors ---- */

static void plan_add(struct plan *p, const char *name, enum tensor_type type, uint64_t in,
                     uint64_t out, float mean, float spread)
{
    struct plan_tensor *t = &p->t[p->count++];

    ASSERT(p->count <= TENSORS_MAX);
    snprintf(t->name, sizeof(t->name), "%s", name);
    t->type = type;
    t->in = in;
    t->out = out;
    t->mean = mean;
    t->spread = spread;
}

static void plan_layer(struct plan *p, const struct mkmodel *o, uint32_t layer)
{
    uint32_t n_q = o->heads * o->head_dim, n_kv = o->kv_heads * o->head_dim;
    bool is_qwen2 = strcmp(o->arch, "qwen2") == 0;
    bool has_qk_norm = is_gemma(o) || strcmp(o->arch, "qwen3") == 0;
    const struct {
        const char *name;
        uint64_t in, out;
        bool is_there, is_bias;
    } rows[] = {
        { "attn_norm.weight", o->embd, 0, true, false },
        { "attn_q.weight", o->embd, n_q, true, false },
        { "attn_q.bias", n_q, 0, is_qwen2, true },
        { "attn_k.weight", o->embd, n_kv, true, false },
        { "attn_k.bias", n_kv, 0, is_qwen2, true },
        { "attn_v.weight", o->embd, n_kv, true, false },
        { "attn_v.bias", n_kv, 0, is_qwen2, true },
        { "attn_q_norm.weight", o->head_dim, 0, has_qk_norm, false },
        { "attn_k_norm.weight", o->head_dim, 0, has_qk_norm, false },
        { "attn_output.weight", n_q, o->embd, true, false },
        { "post_attention_norm.weight", o->embd, 0, is_gemma(o), false },
        { "ffn_norm.weight", o->embd, 0, true, false },
        { "ffn_gate.weight", o->embd, o->ff, true, false },
        { "ffn_up.weight", o->embd, o->ff, true, false },
        { "ffn_down.weight", o->ff, o->embd, true, false },
        { "post_ffw_norm.weight", o->embd, 0, is_gemma(o), false },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        char name[64];

        if (!rows[i].is_there)
            continue;
        snprintf(name, sizeof(name), "blk.%u.%s", layer, rows[i].name);
        if (rows[i].out != 0)
            plan_add(p, name, o->type, rows[i].in, rows[i].out, 0, 1 / sqrtf((float)rows[i].in));
        else
            plan_add(p, name, TENSOR_F32, rows[i].in, 0, rows[i].is_bias ? 0 : 1, 0.1f);
    }
}

static void plan_all(struct plan *p, const struct mkmodel *o, uint32_t rows)
{
    /* A tied embedding is kept small, or every token would predict itself; gemma3 multiplies it
     * by sqrt(embd). */
    float spread = is_gemma(o) ? 1 / sqrtf((float)o->embd) : o->tied ? 0.1f : 0.5f;

    plan_add(p, "token_embd.weight", o->embd_type, o->embd, rows, 0, spread);
    for (uint32_t i = 0; i < o->layers; i++)
        plan_layer(p, o, i);
    plan_add(p, "output_norm.weight", TENSOR_F32, o->embd, 0, 1, 0.1f);
    if (!o->tied)
        plan_add(p, "output.weight", o->embd_type, o->embd, rows, 0, 0.2f);
}

static uint64_t row_bytes(const struct plan_tensor *t)
{
    return t->in / tensor_block_elems(t->type) * tensor_block_bytes(t->type);
}

static uint64_t padded(uint64_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* Twelve uniform numbers make a normal one, near enough and the same everywhere. */
static float normal(struct rng *r)
{
    double sum = -6;

    for (int i = 0; i < 12; i++)
        sum += rng_f64(r);
    return (float)sum;
}

static void write_data(struct buf *out, const struct plan_tensor *t, uint64_t seed)
{
    float *row = mem_alloc(t->in * sizeof(*row));
    uint64_t bytes = row_bytes(t);
    struct rng r;

    rng_seed(&r, seed ^ str_hash(str_of(t->name)));
    for (uint64_t i = 0; i < MAX(t->out, 1); i++) {
        for (uint64_t j = 0; j < t->in; j++)
            row[j] = t->mean + t->spread * normal(&r);
        if (!buf_reserve(out, bytes))
            break;
        mkmodel_quantize(t->type, row, out->p + out->len, t->in);
        out->len += bytes;
    }
    for (uint64_t n = bytes * MAX(t->out, 1); n % ALIGN != 0; n++)
        buf_c(out, 0);
    mem_free(row);
}

/* ---- the file ---- */

static void write_file(const struct mkmodel *o, const struct vocab *v, const struct plan *p,
                       struct buf *out)
{
    struct writer w = { .b = out, .arch = o->arch };
    size_t start = out->len, keys_at;
    uint64_t offset = 0;

    buf_z(out, "GGUF");
    u32(&w, 3);
    u64(&w, p->count);
    keys_at = out->len;
    u64(&w, 0);
    write_metadata(&w, o, v);
    if (!out->failed)
        memcpy(out->p + keys_at, &w.keys, sizeof(w.keys));
    for (size_t i = 0; i < p->count; i++) {
        text(&w, p->t[i].name);
        u32(&w, p->t[i].out != 0 ? 2 : 1);
        u64(&w, p->t[i].in);
        if (p->t[i].out != 0)
            u64(&w, p->t[i].out);
        u32(&w, (uint32_t)p->t[i].type);
        u64(&w, offset);
        offset += padded(row_bytes(&p->t[i]) * MAX(p->t[i].out, 1));
    }
    while (!out->failed && (out->len - start) % ALIGN != 0)
        buf_c(out, 0);
    for (size_t i = 0; i < p->count && !out->failed; i++)
        write_data(out, &p->t[i], o->seed);
}

void mkmodel_defaults(struct mkmodel *o, const char *arch)
{
    bool is_gemma3 = strcmp(arch, "gemma3") == 0;

    *o = (struct mkmodel) { .arch = arch,
                            .type = TENSOR_F32,
                            .embd_type = TENSOR_F32,
                            .seed = 1,
                            .layers = is_gemma3 ? 6 : 2,
                            .embd = 256,
                            .heads = 4,
                            .kv_heads = 2,
                            .head_dim = 64,
                            .ff = 512,
                            .context = 2048,
                            .window = is_gemma3 ? 32 : 0,
                            .merges = 250,
                            .freq_base = strcmp(arch, "llama") == 0 ? 10000 : 1e6,
                            .tied = strcmp(arch, "llama") != 0,
                            .has_template = true };
}

static int check(const struct mkmodel *o, struct err *e)
{
    static const char *const archs[] = { "llama", "qwen2", "qwen3", "gemma3" };
    uint32_t k = tensor_block_elems(o->type), k_embd = tensor_block_elems(o->embd_type);
    bool is_known = false;

    for (size_t i = 0; i < COUNT(archs); i++)
        is_known = is_known || strcmp(o->arch, archs[i]) == 0;
    if (!is_known)
        return err_set(e, ERR_INVAL, "unknown architecture %s", o->arch);
    if (o->embd % k != 0 || o->ff % k != 0 || o->heads * o->head_dim % k != 0 ||
        o->embd % k_embd != 0)
        return err_set(e, ERR_INVAL, "rows must be multiples of the block, %u", MAX(k, k_embd));
    if (o->merges > VOCAB_TOKENS_MAX - 512 || o->layers * 16 > TENSORS_MAX - 4)
        return err_set(e, ERR_LIMIT, "too many merges or layers");
    return 0;
}

int mkmodel_build(const struct mkmodel *o, struct buf *out, struct err *e)
{
    struct vocab *v;
    struct plan *p;
    int rc = check(o, e);

    if (rc != 0)
        return rc;
    v = mem_zalloc(sizeof(*v));
    p = mem_zalloc(sizeof(*p));
    if (is_gemma(o))
        vocab_spm(v, o->merges);
    else
        vocab_bpe(v, o->merges);
    plan_all(p, o, v->count + o->pad_rows);
    write_file(o, v, p, out);
    mem_free(v);
    mem_free(p);
    return out->failed ? err_set(e, ERR_LIMIT, "the model is larger than its buffer") : 0;
}

int mkmodel_write(const struct mkmodel *o, const char *path, struct err *e)
{
    struct buf b;
    int rc;

    buf_init(&b, (size_t)1 << 30);
    rc = mkmodel_build(o, &b, e);
    if (rc == 0)
        rc = file_write(path, buf_view(&b), e);
    buf_fini(&b);
    return rc;
}
