/* Ids and speed of one model's tokenizer, for tokjson.py.
 *
 *   tokjson_ids ids MODEL < texts > ids      u32 length, bytes, ... -> per text and flag set
 *                                            (0 = plain, 2 = with control tokens): u32 count, ids
 *   tokjson_ids render MODEL < bodies > text u32 length, JSON {"messages", "tools"...} -> u32, text
 *   tokjson_ids time MODEL FILE ROUNDS       tokens, nanoseconds of the first and the best round */
// SPDX-License-Identifier: Apache-2.0
#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "codec/json.h"
#include "text/chat.h"
#include "text/text_model.h"
#include "text/tokenizer.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX ((size_t)64 << 20)

static bool next_text(struct buf *b)
{
    uint32_t n;

    buf_reset(b);
    if (fread(&n, sizeof(n), 1, stdin) != 1 || !buf_reserve(b, n) || fread(b->p, 1, n, stdin) != n)
        return false;
    b->len = n;
    return true;
}

static void put(const void *p, size_t size, size_t count)
{
    uint32_t n = (uint32_t)count;

    fwrite(&n, sizeof(n), 1, stdout);
    fwrite(p, size, count, stdout);
}

static int ids(const struct text_model *m)
{
    struct token_list l = { 0 };
    struct buf b;

    buf_init(&b, TEXT_MAX);
    while (next_text(&b))
        for (unsigned flags = TOKENIZE_PARSE_SPECIAL;
             flags <= (TOKENIZE_PARSE_SPECIAL | TOKENIZE_ADD_SPECIAL); flags++) {
            l.count = 0;
            if (tokenizer_encode(m->tokenizer, buf_view(&b), flags, &l) != 0)
                return 1;
            put(l.id, sizeof(*l.id), l.count);
        }
    token_list_fini(&l);
    buf_fini(&b);
    return 0;
}

static int render(const struct text_model *m)
{
    struct buf b, out;
    struct err e = { 0 };

    buf_init(&b, TEXT_MAX);
    buf_init(&out, TEXT_MAX);
    while (next_text(&b)) {
        const struct json *root = NULL;
        struct chat_render_opts o = { .bos_token = m->bos, .eos_token = m->eos };
        struct arena a;

        arena_init(&a, TEXT_MAX);
        buf_reset(&out);
        if (json_parse(&a, buf_view(&b), NULL, &root, &e) != 0)
            return 1;
        o.messages = json_get(root, "messages");
        o.tools = json_get(root, "tools");
        o.kwargs = json_get(root, "kwargs");
        (void)json_bool(json_get(root, "add_generation_prompt"), &o.add_generation_prompt);
        if (m->chat_template == NULL || chat_render(m->chat_template, &o, &out, &e) != 0) {
            buf_reset(&out);
            buf_f(&out, "ERROR %s", e.msg);
        }
        put(out.p, 1, out.len);
        arena_fini(&a);
    }
    buf_fini(&b);
    buf_fini(&out);
    return 0;
}

static int measure(const struct text_model *m, const char *path, int rounds)
{
    struct token_list l = { .max = TEXT_MAX };
    uint64_t first = 0, best = UINT64_MAX;
    struct err e = { 0 };
    struct buf b;

    buf_init(&b, TEXT_MAX);
    if (file_read(path, &b, &e) != 0) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    for (int i = 0; i < rounds; i++) {
        uint64_t t0 = clock_ns(), took;

        l.count = 0;
        if (tokenizer_encode(m->tokenizer, buf_view(&b), 0, &l) != 0)
            return 1;
        took = clock_ns() - t0;
        first = i == 0 ? took : first;
        best = took < best ? took : best;
    }
    printf("%zu %" PRIu64 " %" PRIu64 "\n", l.count, first, best);
    token_list_fini(&l);
    buf_fini(&b);
    return 0;
}

int main(int argc, char **argv)
{
    struct text_model *m;
    struct err e = { 0 };
    uint64_t t0 = clock_ns();
    int rc = 2;

    if (argc < 3)
        return 2;
    if (text_model_open(&m, argv[2], &e) != 0) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    fprintf(stderr, "opened in %.0f ms\n", (double)(clock_ns() - t0) / 1e6);
    if (strcmp(argv[1], "ids") == 0)
        rc = ids(m);
    else if (strcmp(argv[1], "render") == 0)
        rc = render(m);
    else if (argc == 5)
        rc = measure(m, argv[3], (int)strtol(argv[4], NULL, 10));
    text_model_close(m);
    return rc;
}
