/* What reading one chat body costs the scheduler: the whole of reader_read, and its phases alone.
 *
 *   micro_reading [MODEL [TEXT]]    MODEL: as text_model_open takes it; none: estimates only
 *
 * Conversations of about 1,000, 10,000 and 100,000 tokens; messages of 150 to 4,000 bytes, cut
 * from TEXT (a file) or made of common words.  "cold": every conversation is new.  "grown": the
 * same conversation with one more answer and question, as a client sends it turn by turn. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "codec/json.h"
#include "gateway/reading.h"
#include "kv/index.h"
#include "openai/openai.h"
#include "text/chat.h"
#include "text/text_model.h"
#include "text/tokenizer.h"
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#define BYTES_PER_TOKEN 4
#define BLOCK           16
#define BODY_MAX        ((size_t)8 << 20)

static struct buf source;

/* ---- conversations ---- */

static void words(struct rng *r, struct buf *out, size_t bytes)
{
    static const char *const list[] = { "the",   "of",     "worker", "request", "and",  "is",
                                        "cache", "prefix", "token",  "answer",  "with", "schedules",
                                        "to",    "blocks", "a",      "that",    "when", "streams" };
    size_t to = out->len + bytes;

    while (out->len < to) {
        buf_z(out, list[rng_below(r, COUNT(list))]);
        buf_z(out, rng_below(r, 12) == 0 ? ".\n" : " ");
    }
}

static void message(struct rng *r, struct json_w *w, const char *role, size_t bytes)
{
    struct buf text;

    buf_init(&text, BODY_MAX);
    if (source.len > bytes * 2) {
        size_t at = rng_below(r, (uint32_t)(source.len - bytes));
        struct str s = str_sub(buf_view(&source), at, bytes);

        while (s.n > 0 && ((uint8_t)s.p[0] & 0xc0) == 0x80)
            s = str_sub(s, 1, s.n);
        buf_str(&text, s);
    } else {
        words(r, &text, bytes);
    }
    json_w_obj(w);
    json_w_kz(w, "role", role);
    json_w_kstr(w, "content", buf_view(&text));
    json_w_end(w, '}');
    buf_fini(&text);
}

/* A body whose first `turns` messages are those of `seed`: longer ones begin alike. */
static size_t conversation(struct buf *out, uint64_t seed, size_t bytes, size_t turns)
{
    struct json_w w;
    struct rng r;
    size_t n = 0;

    rng_seed(&r, seed);
    buf_reset(out);
    json_w_init(&w, out);
    json_w_obj(&w);
    json_w_kz(&w, "model", "m");
    json_w_kbool(&w, "stream", true);
    json_w_ku64(&w, "max_tokens", 64);
    json_w_karr(&w, "messages");
    message(&r, &w, "system", 800);
    for (; turns != 0 ? n < turns : out->len < bytes || n % 2 == 0; n++)
        message(&r, &w, n % 2 == 0 ? "user" : "assistant",
                150 + rng_below(&r, bytes < 8000 ? 500 : 3850));
    json_w_end(&w, ']');
    json_w_end(&w, '}');
    return n;
}

/* ---- phases ---- */

enum { PH_PARSE, PH_CHECK, PH_RENDER, PH_TOKENS, PH_KEYS, PHASES };

struct phases {
    double us[PHASES];
    size_t tokens;
};

static void phases_of(const struct text_model *m, const struct kv_index *x, struct str body,
                      struct phases *p)
{
    struct chat_render_opts o = { 0 };
    struct token_list l = { 0 };
    const struct json *root = NULL;
    struct oai_request q;
    struct oai_error refused;
    struct arena a;
    struct buf text;
    struct err e = { 0 };
    uint64_t *keys, t[PHASES + 1];

    arena_init(&a, (size_t)256 << 20);
    buf_init(&text, BODY_MAX * 2);
    t[PH_PARSE] = clock_ns();
    ASSERT(json_parse(&a, body, NULL, &root, &e) == 0);
    t[PH_CHECK] = clock_ns();
    ASSERT(oai_chat_prompt(&a, root, &q, &refused) == 0);
    o.messages = q.messages;
    o.add_generation_prompt = true;
    o.bos_token = m->bos;
    o.eos_token = m->eos;
    t[PH_RENDER] = clock_ns();
    if (chat_render(m->chat_template, &o, &text, &e) != 0)
        printf("  the template refuses: %s\n", e.msg);
    t[PH_TOKENS] = clock_ns();
    ASSERT(tokenizer_encode(m->tokenizer, buf_view(&text), TOKENIZE_PARSE_SPECIAL, &l) == 0);
    t[PH_KEYS] = clock_ns();
    keys = mem_alloc((l.count / BLOCK + 1) * sizeof(*keys));
    (void)kv_index_keys(x, STR("m"), STR_NONE, l.id, (uint32_t)l.count, keys);
    t[PHASES] = clock_ns();
    for (int i = 0; i < PHASES; i++)
        p->us[i] = (double)(t[i + 1] - t[i]) / 1e3;
    p->tokens = l.count;
    mem_free(keys);
    token_list_fini(&l);
    buf_fini(&text);
    arena_fini(&a);
}

static void print_phases(const struct text_model *m, size_t tokens, int rounds)
{
    static const char *const names[] = { "parse", "check", "render", "tokenize", "keys" };
    struct kv_index_opts k = { .block_tokens = BLOCK, .hash = INDEX_HASH_XXH64, .seed = "s" };
    struct kv_index *x = kv_index_new(&k);
    struct phases sum = { 0 };
    struct buf body;

    buf_init(&body, BODY_MAX);
    for (int i = 0; i < rounds; i++) {
        struct phases p;

        conversation(&body, 1000 + (uint64_t)i, tokens * BYTES_PER_TOKEN, 0);
        phases_of(m, x, buf_view(&body), &p);
        for (int j = 0; j < PHASES; j++)
            sum.us[j] += p.us[j] / rounds;
        sum.tokens += p.tokens / (size_t)rounds;
    }
    printf("  phases at %zu tokens:", sum.tokens);
    for (int j = 0; j < PHASES; j++)
        printf(" %s %.1f", names[j], sum.us[j]);
    printf(" us\n");
    buf_fini(&body);
    kv_index_free(x);
}

/* ---- reader_read ---- */

static double read_us(struct reader *r, struct str body, struct reading *out)
{
    uint64_t t0 = clock_ns();

    reader_read(r, READING_CHAT, body, STR("m"), out);
    return (double)(clock_ns() - t0) / 1e3;
}

static void print_reads(struct reader *r, size_t tokens, int rounds)
{
    double cold = 0, grown = 0, again = 0;
    size_t body_bytes = 0, count = 0;
    struct buf body;

    buf_init(&body, BODY_MAX);
    for (int i = 0; i < rounds; i++) {
        struct reading out;
        size_t turns =
            conversation(&body, (uint64_t)tokens * 100 + (uint64_t)i, tokens * BYTES_PER_TOKEN, 0);

        body_bytes += body.len / (size_t)rounds;
        cold += read_us(r, buf_view(&body), &out) / rounds;
        ASSERT(out.error.status == 0);
        count += out.prompt_tokens / (size_t)rounds;
        reading_free(&out);
        conversation(&body, (uint64_t)tokens * 100 + (uint64_t)i, tokens * BYTES_PER_TOKEN,
                     turns + 2);
        grown += read_us(r, buf_view(&body), &out) / rounds;
        reading_free(&out);
        again += read_us(r, buf_view(&body), &out) / rounds;
        reading_free(&out);
    }
    printf("  %7zu tokens, %7zu bytes: cold %.1f grown %.1f again %.1f us\n", count, body_bytes,
           cold, grown, again);
    buf_fini(&body);
}

static void run(struct loop *l, const char *path)
{
    static const struct {
        size_t tokens;
        int rounds;
    } sizes[] = { { 1000, 200 }, { 10000, 60 }, { 100000, 15 } };
    struct reader_opts o = { .seed = "s", .block_tokens = BLOCK, .model = path };
    struct text_model *m = NULL;
    struct reader *r;
    struct err e = { 0 };

    if (reader_new(&r, l, &o, &e) != 0 || (path != NULL && text_model_open(&m, path, &e) != 0)) {
        fprintf(stderr, "%s\n", e.msg);
        return;
    }
    printf("%s\n", path != NULL ? path : "estimates");
    for (size_t i = 0; i < COUNT(sizes); i++) {
        print_reads(r, sizes[i].tokens, sizes[i].rounds);
        if (m != NULL && m->chat_template != NULL)
            print_phases(m, sizes[i].tokens, sizes[i].rounds);
    }
    text_model_close(m);
    reader_free(r);
}

int main(int argc, char **argv)
{
    struct loop *l;
    struct err e = { 0 };

    log_init("micro_reading", LOG_WARN_LEVEL);
    (void)mallopt(M_MMAP_THRESHOLD, 32 << 20); /* as the scheduler does */
    (void)mallopt(M_TRIM_THRESHOLD, 128 << 20);
    buf_init(&source, (size_t)64 << 20);
    if (loop_new(&l, &e) != 0 || (argc > 2 && file_read(argv[2], &source, &e) != 0)) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    run(l, NULL);
    if (argc > 1)
        run(l, argv[1]);
    buf_fini(&source);
    loop_free(l);
    return 0;
}
