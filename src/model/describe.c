/* A model in a dozen lines, for people. */
// SPDX-License-Identifier: Apache-2.0
#include "model/arch_priv.h"
#include "base/check.h"
#include "model/model.h"
#include <inttypes.h>

#define MIB ((double)(1 << 20))

/* A file's text on one line: control characters become '?'. */
static void safe(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.n && i < 200; i++)
        buf_c(out, (unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f ? '?' : s.p[i]);
}

static void types(const struct model *m, struct buf *out)
{
    uint32_t count[64] = { 0 };
    uint64_t params = 0;

    for (size_t i = 0; i < gguf_tensor_count(m->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);

        count[t->type]++;
        params += t->ne[0] * t->ne[1];
    }
    buf_f(out, "parameters     %.1f M, %.2f bits each\ntensors       ", (double)params / 1e6,
          (double)model_weight_bytes(m) * 8 / (double)params);
    for (uint32_t t = 0; t < COUNT(count); t++)
        if (count[t] != 0)
            buf_f(out, " %s %" PRIu32, tensor_type_name((enum tensor_type)t), count[t]);
    buf_c(out, '\n');
}

static void attention(const struct model *m, struct buf *out)
{
    const struct model_layer *last = &m->layers[m->n_layers - 1];

    buf_f(out, "attention      %" PRIu32 " heads, %" PRIu32 " KV heads of %" PRIu32, m->n_heads,
          m->n_kv_heads, m->head_dim);
    if (m->group_count == 2)
        buf_f(out, "; %" PRIu32 " layers see all, %" PRIu32 " the last %" PRIu32 " tokens",
              m->groups[0].layers, m->groups[1].layers, m->groups[1].window);
    else if (m->groups[0].window != 0)
        buf_f(out, "; all layers see the last %" PRIu32 " tokens", m->groups[0].window);
    buf_f(out, "\nrotary         %s, %" PRIu32 " of %" PRIu32 ", base %g",
          m->rope == ROPE_NEOX ? "neox" : "interleaved", m->rope_dim, m->head_dim, last->rope_base);
    if (m->layers[0].rope_base != last->rope_base)
        buf_f(out, " (windowed layers %g)", m->layers[0].rope_base);
    if (last->rope_scale != 1)
        buf_f(out, ", positions / %g", last->rope_scale);
    buf_f(out, "%s\n", m->rope_freqs != NULL ? ", frequency factors" : "");
}

static void tokenizer(const struct model *m, struct buf *out)
{
    struct str kind = STR("unknown"), pre = STR_NONE, chat = STR_NONE;
    uint64_t id;

    (void)gguf_str(m->gguf, "tokenizer.ggml.model", &kind);
    buf_z(out, "tokenizer      ");
    safe(out, kind);
    if (gguf_str(m->gguf, "tokenizer.ggml.pre", &pre)) {
        buf_z(out, ", pre-tokenizer ");
        safe(out, pre);
    }
    buf_f(out, ", %" PRIu32 " tokens", m->n_vocab);
    if (gguf_u64(m->gguf, "tokenizer.ggml.bos_token_id", &id))
        buf_f(out, ", BOS %" PRIu64, id);
    if (gguf_u64(m->gguf, "tokenizer.ggml.eos_token_id", &id))
        buf_f(out, ", EOS %" PRIu64, id);
    if (gguf_str(m->gguf, "tokenizer.chat_template", &chat))
        buf_f(out, "\nchat template  yes, %zu bytes\n", chat.n);
    else
        buf_z(out, "\nchat template  none: completions only\n");
}

static uint64_t kv_bytes(const struct model *m, uint64_t tokens)
{
    uint64_t sum = 0;

    for (uint32_t g = 0; g < m->group_count; g++) {
        uint64_t held = m->groups[g].window != 0 ? MIN(tokens, m->groups[g].window) : tokens;

        sum += held * model_kv_bytes_per_token(m, g);
    }
    return sum;
}

static void memory(const struct model *m, struct buf *out)
{
    static const uint64_t lengths[] = { 2048, 8192, 32768 };
    size_t all = 0;

    for (uint32_t g = 0; g < m->group_count; g++)
        all += model_kv_bytes_per_token(m, g);
    buf_f(out, "KV cache       %.1f KiB a token in f16", (double)all / 1024);
    if (m->group_count == 2)
        buf_f(out, " (%.1f beyond the window)", (double)model_kv_bytes_per_token(m, 0) / 1024);
    buf_f(out, "\nmemory plan    weights %.0f MiB; KV of one sequence:",
          (double)model_weight_bytes(m) / MIB);
    for (size_t i = 0; i < COUNT(lengths); i++)
        if (lengths[i] <= m->context_max || i == 0)
            buf_f(out, "%s %" PRIu64 " tokens %.0f MiB", i != 0 ? "," : "",
                  MIN(lengths[i], m->context_max),
                  (double)kv_bytes(m, MIN(lengths[i], m->context_max)) / MIB);
    buf_c(out, '\n');
}

void model_describe(const struct model *m, struct buf *out)
{
    buf_z(out, "name           ");
    safe(out, m->name);
    buf_f(out,
          "\narchitecture   %.*s: %" PRIu32 " layers, %" PRIu32 " wide, feed-forward %" PRIu32
          " (%s)%s\n",
          STR_ARG(m->arch), m->n_layers, m->n_embd, m->n_ff,
          m->act == ACT_SILU ? "SwiGLU" : "GeGLU",
          m->output == m->token_embd ? ", tied embedding" : "");
    types(m, out);
    buf_f(out, "file           %.1f MB\ncontext        %" PRIu32 " tokens\n",
          (double)gguf_file_bytes(m->gguf) / 1e6, m->context_max);
    attention(m, out);
    tokenizer(m, out);
    memory(m, out);
    buf_z(out, "fingerprint    ");
    for (size_t i = 0; i < sizeof(m->digest); i++)
        buf_f(out, "%02x", m->digest[i]);
    buf_c(out, '\n');
}
