/* Asks llama.cpp's libraries for the ids of every case, and writes one 64-bit hash a case.
 *
 *   oracle MODEL.gguf OUT       a golden file: for each case the hash of its ids without special
 *                               tokens, their end, its ids with BOS/EOS and parsed special tokens;
 *                               last the hash of every token's kind and text
 *   oracle MODEL.gguf show I    the ids of case I, both ways
 *
 * Built by make.sh; a test tool, nothing of llama.cpp ships. */
// SPDX-License-Identifier: Apache-2.0
#include "cases.h"
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>

#define IDS_MAX (1 << 20)

static void quiet(enum ggml_log_level level, const char *text, void *data)
{
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

static uint64_t hash_vocabulary(const struct llama_vocab *vocab)
{
    uint64_t hash = CASE_HASH_INIT;

    for (llama_token id = 0; id < llama_vocab_n_tokens(vocab); id++) {
        char piece[4096];
        int shown = llama_token_to_piece(vocab, id, piece, sizeof(piece), 0, false);
        int n = llama_token_to_piece(vocab, id, piece, sizeof(piece), 0, true);

        if (shown < 0 || n < 0)
            exit(1);
        hash = case_hash(hash, (uint32_t)llama_vocab_is_eog(vocab, id) |
                                   (uint32_t)llama_vocab_is_control(vocab, id) << 1 |
                                   (uint32_t)(shown > 0) << 2);
        for (int i = 0; i < n; i++)
            hash = case_hash(hash, (uint8_t)piece[i]);
        hash = case_hash(hash, UINT32_MAX);
    }
    return hash;
}

static void put_hash(FILE *out, uint64_t hash)
{
    for (int j = 0; j < 8; j++)
        fputc((int)(hash >> 8 * j & 0xff), out);
}

int main(int argc, char **argv)
{
    static char text[CASE_BYTES_MAX];
    static llama_token ids[IDS_MAX];
    struct llama_model_params mp = llama_model_default_params();
    const struct llama_vocab *vocab;
    struct llama_model *model;
    FILE *out = NULL;

    if (argc < 3)
        return 2;
    llama_log_set(quiet, NULL);
    mp.vocab_only = true;
    model = llama_model_load_from_file(argv[1], mp);
    if (model == NULL)
        return 1;
    vocab = llama_model_get_vocab(model);
    if (argc == 3 && (out = fopen(argv[2], "wb")) == NULL)
        return 1;
    for (size_t i = out != NULL ? 0 : strtoul(argv[3], NULL, 10); i < CASE_COUNT; i++) {
        uint64_t hash = CASE_HASH_INIT;
        size_t n = case_make(i, text);

        for (int special = 0; special < 2; special++) {
            int count = llama_tokenize(vocab, text, (int32_t)n, ids, IDS_MAX, special, special);

            if (count < 0)
                return 1;
            for (int j = 0; j < count; j++) {
                hash = case_hash(hash, (uint32_t)ids[j]);
                if (out == NULL)
                    printf("%d ", ids[j]);
            }
            hash = case_hash(hash, UINT32_MAX);
            if (out == NULL)
                printf("\n");
        }
        if (out == NULL)
            break;
        put_hash(out, hash);
    }
    if (out != NULL) {
        put_hash(out, hash_vocabulary(vocab));
        if (fclose(out) != 0)
            return 1;
    }
    llama_model_free(model);
    return 0;
}
