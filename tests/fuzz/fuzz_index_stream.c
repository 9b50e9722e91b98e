/* Fuzz: the index stream reads alike whole and in pieces, and stops at the same frame. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "kv/stream_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    uint64_t sum;
    uint32_t frames;
};

static int note(void *ctx, const struct kv_frame *f)
{
    struct seen *s = ctx;
    uint32_t endpoint = 0;

    s->frames++;
    s->sum = s->sum * 31 + (uint64_t)f->type + f->endpoint + f->pairs + f->blocks_max + f->version;
    s->sum += hash_xxh64(f->address.p, f->address.n) + hash_xxh64(f->model.p, f->model.n) +
              hash_xxh64(f->seed.p, f->seed.n);
    for (uint32_t i = 0; i < f->count; i++) {
        s->sum = s->sum * 31 +
                 (f->type == KV_FRAME_PAIRS ? kv_frame_pair(f, i, &endpoint) : kv_frame_key(f, i));
        s->sum += endpoint;
    }
    return 0;
}

static int read_in(struct str bytes, size_t step, struct seen *s)
{
    struct kv_stream_reader r;
    int rc = 0;

    kv_stream_reader_init(&r);
    for (size_t at = 0; rc == 0 && at < bytes.n; at += step)
        rc = kv_stream_feed(&r, str_sub(bytes, at, step), note, s);
    kv_stream_reader_fini(&r);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str in = { (const char *)data, size };
    struct seen whole = { 0 }, pieces = { 0 };
    int a, b;

    if (size == 0)
        return 0;
    a = read_in(in, size, &whole);
    b = read_in(in, 1 + data[size - 1] % 13, &pieces);
    ASSERT(a == b && whole.frames == pieces.frames && whole.sum == pieces.sum);
    return 0;
}
