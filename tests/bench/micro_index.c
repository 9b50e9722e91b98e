/* The block index: bytes a block and holder, events and look-ups a second, a wide score, a clear.
 *
 *   micro_index [MILLIONS of pairs, default 4]
 *
 * One thread; seconds are those of its CPU (the two short ones: the best of some
 * by the clock), so a busy machine blurs them less.  "events" are whole batches of 16 blocks as
 * bytes: decoded, hashed, stored.  A look-up is one key of a prompt of 64 blocks. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "codec/json.h"
#include "kv/index.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#define CHAIN  16
#define PROMPT 64
#define EPS    16

/* CPU time of this thread. */
static uint64_t cpu_us(void)
{
    struct rusage u;

    getrusage(RUSAGE_THREAD, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static double seconds_since(uint64_t start)
{
    return (double)(cpu_us() - start) / 1e6;
}

static uint32_t endpoint(struct kv_index *x, uint32_t i)
{
    char name[32];
    uint32_t id;

    snprintf(name, sizeof(name), "10.0.%u.%u:8000", i / 256, i % 256);
    ASSERT(kv_index_endpoint(x, str_of(name), STR("m"), &id) == 0);
    return id;
}

/* Encoded batches of CHAIN blocks each; chain c has its own tokens. */
static void encode_chain(struct buf *out, uint64_t c, struct rng *r)
{
    uint32_t tokens[CHAIN * 16];
    uint64_t hashes[CHAIN];
    struct kv_event ev = { .kind = KV_STORED,
                           .hashes = hashes,
                           .hash_count = CHAIN,
                           .tokens = tokens,
                           .token_count = CHAIN * 16,
                           .block_size = 16,
                           .medium = STR("GPU") };

    for (size_t i = 0; i < COUNT(tokens); i++)
        tokens[i] = (uint32_t)rng_below(r, 128000);
    for (uint64_t i = 0; i < CHAIN; i++)
        hashes[i] = rng_u64(r) ^ c;
    kv_batch_encode(out, &(struct kv_batch) { .ts = 1, .events = &ev, .count = 1 });
}

static void events_and_bytes(uint64_t pairs)
{
    struct kv_index *x =
        kv_index_new(&(struct kv_index_opts) { .block_tokens = 16, .blocks_max = pairs * 2 });
    struct arena a;
    struct buf b;
    struct rng r;
    struct err e;
    uint64_t start, took = 0;
    size_t *at = mem_alloc((4096 + 1) * sizeof(*at));
    size_t base;

    for (uint32_t i = 0; i < EPS; i++)
        endpoint(x, i);
    base = kv_index_bytes(x);
    rng_seed(&r, 1);
    buf_init(&b, (size_t)1 << 30);
    arena_init(&a, (size_t)1 << 30);
    for (uint64_t c = 0; c < pairs / CHAIN;) {
        uint32_t n = 0;

        buf_reset(&b);
        for (; n < 4096; n++) {
            at[n] = b.len;
            encode_chain(&b, c + n, &r);
        }
        at[n] = b.len;
        start = cpu_us();
        for (uint32_t i = 0; i < n; i++) {
            struct kv_batch batch;

            ASSERT(kv_batch_decode(&a, (struct str) { b.p + at[i], at[i + 1] - at[i] }, &batch,
                                   &e) == 0);
            kv_index_apply(x, (uint32_t)((c + i) % EPS), &batch, NULL);
            arena_fini(&a);
        }
        took += cpu_us() - start;
        c += n;
    }
    printf("store     %8.2f M block events/s, decoding included, %llu pairs, %.1f bytes a pair "
           "with its handle\n",
           (double)kv_index_total(x) / (double)took, (unsigned long long)kv_index_total(x),
           (double)(kv_index_bytes(x) - base) / (double)kv_index_total(x));
    mem_free(at);
    buf_fini(&b);
    kv_index_free(x);
}

static void lookups(uint64_t pairs)
{
    struct kv_index *x =
        kv_index_new(&(struct kv_index_opts) { .block_tokens = 16, .blocks_max = pairs * 2 });
    uint64_t *keys = mem_alloc(pairs * sizeof(*keys)), start, done = 0;
    uint32_t matched[EPS];
    struct rng r;

    rng_seed(&r, 2);
    for (uint32_t i = 0; i < EPS; i++)
        endpoint(x, i);
    for (uint64_t i = 0; i < pairs; i++) {
        keys[i] = rng_u64(&r);
        kv_index_add(x, (uint32_t)(i / PROMPT % EPS), keys[i]);
    }
    start = cpu_us();
    while (seconds_since(start) < 1)
        for (int n = 0; n < 256; n++) {
            uint64_t p = rng_below(&r, pairs / PROMPT) * PROMPT;

            kv_index_match(x, keys + p, PROMPT, matched, EPS);
            ASSERT(matched[p / PROMPT % EPS] == PROMPT);
            done += PROMPT;
        }
    printf("look-up   %8.2f M keys/s, all found, %llu pairs, %.1f bytes a pair\n",
           (double)done / seconds_since(start) / 1e6, (unsigned long long)pairs,
           (double)kv_index_bytes(x) / (double)pairs);
    start = clock_ns();
    kv_index_clear(x, 0);
    printf("clear     %8.2f us for %llu blocks\n", (double)(clock_ns() - start) / 1e3,
           (unsigned long long)pairs / EPS);
    kv_index_free(x);
    mem_free(keys);
}

static void wide_score(void)
{
    enum { KEYS = 3750, HOLDERS = 96, OTHERS = 1 << 20 };
    struct kv_index *x = kv_index_new(&(struct kv_index_opts) { .block_tokens = 16 });
    uint64_t *keys = mem_alloc(KEYS * sizeof(*keys)), start;
    uint32_t matched[HOLDERS];
    size_t base;
    struct rng r;
    double best = 1;

    rng_seed(&r, 3);
    for (uint32_t i = 0; i < HOLDERS; i++)
        endpoint(x, i);
    base = kv_index_bytes(x);
    for (uint32_t k = 0; k < KEYS; k++) {
        keys[k] = rng_u64(&r);
        for (uint32_t e = 0; e < HOLDERS; e++)
            kv_index_add(x, e, keys[k]);
    }
    printf("wide      %8.2f bytes a pair, %d holders a block (without handles)\n",
           (double)(kv_index_bytes(x) - base) / KEYS / HOLDERS, HOLDERS);
    for (uint64_t i = 0; i < OTHERS; i++)
        kv_index_add(x, (uint32_t)(i % HOLDERS), rng_u64(&r));
    for (int n = 0; n < 50; n++) {
        double took;

        start = clock_ns();
        kv_index_match(x, keys, KEYS, matched, HOLDERS);
        took = (double)(clock_ns() - start) / 1e9;
        best = MIN(best, took);
        ASSERT(matched[HOLDERS - 1] == KEYS);
    }
    printf("score     %8.3f ms for %d keys x %d holders\n", best * 1e3, KEYS, HOLDERS);
    kv_index_free(x);
    mem_free(keys);
}

static void json_speed(void)
{
    struct buf b;
    struct arena a;
    const struct json *j;
    struct err e;
    uint64_t start, bytes = 0;

    buf_init(&b, (size_t)1 << 24);
    buf_z(&b, "{\"model\":\"m\",\"messages\":[");
    for (int i = 0; i < 200; i++)
        buf_f(&b,
              "%s{\"role\":\"user\",\"content\":\"The %dth message, which says \\\"something\\\" "
              "of ordinary length,\\n"
              "on two lines and with a few plain words more to it than the shortest have.\"}",
              i != 0 ? "," : "", i);
    buf_z(&b, "],\"temperature\":0.7,\"stream\":true}");
    start = cpu_us();
    while (seconds_since(start) < 1)
        for (int n = 0; n < 64; n++) {
            arena_init(&a, (size_t)1 << 26);
            ASSERT(json_parse(&a, buf_view(&b), NULL, &j, &e) == 0);
            arena_fini(&a);
            bytes += b.len;
        }
    printf("json      %8.2f GB/s of chat bodies (%zu bytes)\n",
           (double)bytes / seconds_since(start) / 1e9, b.len);
    buf_fini(&b);
}

int main(int argc, char **argv)
{
    uint64_t millions = argc > 1 ? strtoull(argv[1], NULL, 10) : 4;
    uint64_t pairs = MIN(MAX(millions, (uint64_t)1), (uint64_t)100) << 20;

    events_and_bytes(pairs);
    lookups(pairs);
    wide_score();
    json_speed();
    return 0;
}
