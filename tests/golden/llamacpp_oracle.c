/* A peer for the engine: the same GGUF file through llama.cpp's libraries.
 *
 *   llamacpp_oracle check  MODEL LIBS THREADS   stdin: lines "PROMPT_COUNT id id ..."
 *       for each id after the prompt: "pos id argmax gap", gap = logit of argmax - logit of id
 *   llamacpp_oracle logits MODEL LIBS THREADS   stdin: one line of ids; stdout: f32 [count][vocab]
 *   llamacpp_oracle bench  MODEL LIBS THREADS   lines "prefill512 TOKENS_PER_S", "decode1 ...",
 * "decode4", "decode16"
 *
 * LIBS holds libggml-cpu-*.so: only the wanted one, to force a CPU level.
 * Built by build_llamacpp_oracle.sh; a test tool, nothing of llama.cpp ships. */
// SPDX-License-Identifier: Apache-2.0
#include <ggml-backend.h>
#include <llama.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_IDS_MAX 8192
#define BATCH        512

static struct llama_model *model;
static struct llama_context *ctx;
static struct llama_batch batch;
static int vocab;

static void quiet(enum ggml_log_level level, const char *text, void *data)
{
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

static void open_model(const char *path, const char *libs, int threads, bool exact)
{
    struct llama_model_params mp = llama_model_default_params();
    struct llama_context_params cp = llama_context_default_params();

    llama_log_set(quiet, NULL);
    ggml_backend_load_all_from_path(libs);
    mp.n_gpu_layers = 0;
    model = llama_model_load_from_file(path, mp);
    if (model == NULL)
        exit(1);
    cp.n_ctx = 16 * 512;
    cp.n_batch = cp.n_ubatch = BATCH;
    cp.n_seq_max = 16;
    cp.kv_unified = true;
    cp.n_threads = cp.n_threads_batch = threads;
    if (exact) {
        cp.type_k = cp.type_v = GGML_TYPE_F32;
        cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    }
    ctx = llama_init_from_model(model, cp);
    if (ctx == NULL)
        exit(1);
    batch = llama_batch_init(BATCH, 0, 1);
    vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
}

static void put(int32_t token, int pos, int seq, bool logits)
{
    int i = batch.n_tokens++;

    batch.token[i] = token;
    batch.pos[i] = pos;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = seq;
    batch.logits[i] = logits;
}

static void decode(void)
{
    if (llama_decode(ctx, batch) != 0) {
        fputs("llama_decode failed\n", stderr);
        exit(1);
    }
}

static int argmax(const float *x)
{
    int best = 0;

    for (int i = 1; i < vocab; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

static int read_ids(char *line, int32_t *ids)
{
    int n = 0;
    char *end;

    for (char *p = line; n < LINE_IDS_MAX; p = end) {
        long v = strtol(p, &end, 10);

        if (end == p)
            break;
        ids[n++] = (int32_t)v;
    }
    return n;
}

/* Teacher-forced run; each(pos, logits) for positions from `first`. */
static void run_ids(const int32_t *ids, int count, int first,
                    void (*each)(int pos, const float *l, const int32_t *ids))
{
    llama_memory_clear(llama_get_memory(ctx), true);
    for (int at = 0; at < count; at += BATCH) {
        int n = count - at < BATCH ? count - at : BATCH;

        batch.n_tokens = 0;
        for (int i = 0; i < n; i++)
            put(ids[at + i], at + i, 0, at + i >= first);
        decode();
        for (int i = 0; i < n; i++)
            if (at + i >= first)
                each(at + i, llama_get_logits_ith(ctx, i), ids);
    }
}

static int check_count;

static void check_one(int pos, const float *l, const int32_t *ids)
{
    int best = argmax(l);

    if (pos + 1 < check_count)
        printf("%d %d %d %.4f\n", pos + 1, ids[pos + 1], best, (double)(l[best] - l[ids[pos + 1]]));
}

static void logits_one(int pos, const float *l, const int32_t *ids)
{
    (void)pos;
    (void)ids;
    fwrite(l, sizeof(float), (size_t)vocab, stdout);
}

static double tokens_per_s(int tokens, int64_t us)
{
    return (double)tokens * 1e6 / (double)us;
}

static double bench_prefill(int n)
{
    int64_t t;

    llama_memory_clear(llama_get_memory(ctx), true);
    batch.n_tokens = 0;
    for (int i = 0; i < n; i++)
        put((i * 7 + 11) % 1000 + 100, i, 0, i == n - 1);
    t = llama_time_us();
    decode();
    (void)llama_get_logits_ith(ctx, n - 1);
    return tokens_per_s(n, llama_time_us() - t);
}

static double bench_decode(int seqs, int steps)
{
    int64_t t;

    llama_memory_clear(llama_get_memory(ctx), true);
    for (int s = 0; s < seqs; s++) {
        batch.n_tokens = 0;
        for (int i = 0; i < 32; i++)
            put((i * 7 + s) % 1000 + 100, i, s, i == 31);
        decode();
    }
    t = llama_time_us();
    for (int k = 0; k < steps; k++) {
        batch.n_tokens = 0;
        for (int s = 0; s < seqs; s++)
            put((k * 13 + s) % 1000 + 100, 32 + k, s, true);
        decode();
        for (int s = 0; s < seqs; s++)
            (void)argmax(llama_get_logits_ith(ctx, s));
    }
    return tokens_per_s(seqs * steps, llama_time_us() - t);
}

static void bench(void)
{
    (void)bench_prefill(64); /* warm */
    printf("prefill512 %.2f\n", bench_prefill(512));
    printf("decode1 %.2f\n", bench_decode(1, 48));
    printf("decode4 %.2f\n", bench_decode(4, 32));
    printf("decode16 %.2f\n", bench_decode(16, 24));
}

int main(int argc, char **argv)
{
    static char line[LINE_IDS_MAX * 8];
    static int32_t ids[LINE_IDS_MAX];

    if (argc != 5) {
        fputs("usage: llamacpp_oracle check|logits|bench MODEL LIBS THREADS\n", stderr);
        return 2;
    }
    open_model(argv[2], argv[3], (int)strtol(argv[4], NULL, 10), strcmp(argv[1], "logits") == 0);
    if (strcmp(argv[1], "bench") == 0) {
        bench();
        return 0;
    }
    while (fgets(line, sizeof(line), stdin) != NULL) {
        int n = read_ids(line, ids);

        if (n < 2)
            continue;
        if (strcmp(argv[1], "logits") == 0) {
            run_ids(ids, n, 0, logits_one);
            continue;
        }
        check_count = n - 1;
        run_ids(ids + 1, n - 1, ids[0] - 1, check_one);
    }
    return 0;
}
