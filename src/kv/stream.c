/* Frames of the index stream, written and read (kv/stream_priv.h).
 *
 * The reader keeps at most one incomplete frame; whole ones are read in place
 * from the bytes that came. */
// SPDX-License-Identifier: Apache-2.0
#include "kv/stream_priv.h"
#include "base/check.h"
#include <string.h>

#define MAGIC      "LLMDIDX1"
#define KEY_BYTES  8
#define PAIR_BYTES 12
#define KEYS_MAX   ((KV_STREAM_PAYLOAD_MAX - 4) / KEY_BYTES)
#define PAIRS_MAX  (KV_STREAM_PAYLOAD_MAX / PAIR_BYTES)

static void put_le(struct buf *b, uint64_t v, unsigned bytes)
{
    uint8_t tmp[8];

    for (unsigned i = 0; i < bytes; i++)
        tmp[i] = (uint8_t)(v >> 8 * i);
    buf_add(b, tmp, bytes);
}

static uint64_t get_le(const char *p, unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = bytes; i-- > 0;)
        v = v << 8 | (uint8_t)p[i];
    return v;
}

static void put_head(struct buf *b, enum kv_frame_type type, size_t payload)
{
    put_le(b, payload, 4);
    put_le(b, type, 4);
}

void kv_stream_hello(struct buf *b, uint32_t block_tokens, enum index_hash hash, struct str seed,
                     uint64_t blocks_max)
{
    put_head(b, KV_FRAME_HELLO, 8 + 4 + 4 + 4 + 8 + seed.n);
    buf_add(b, MAGIC, 8);
    put_le(b, KV_STREAM_VERSION, 4);
    put_le(b, block_tokens, 4);
    put_le(b, hash, 4);
    put_le(b, blocks_max, 8);
    buf_str(b, seed);
}

/* Texts longer than a frame can hold are cut: addresses and model names come from peers. */
void kv_stream_endpoint(struct buf *b, uint32_t endpoint, struct str address, struct str model)
{
    address = str_sub(address, 0, 4096);
    model = str_sub(model, 0, 4096);
    put_head(b, KV_FRAME_ENDPOINT, 4 + 2 + address.n + model.n);
    put_le(b, endpoint, 4);
    put_le(b, address.n, 2);
    buf_str(b, address);
    buf_str(b, model);
}

void kv_stream_clear(struct buf *b, uint32_t endpoint)
{
    put_head(b, KV_FRAME_CLEAR, 4);
    put_le(b, endpoint, 4);
}

void kv_stream_count(struct buf *b, enum kv_frame_type type, uint64_t pairs)
{
    put_head(b, type, 8);
    put_le(b, pairs, 8);
}

void kv_stream_writer_init(struct kv_stream_writer *w, struct buf *b)
{
    *w = (struct kv_stream_writer) { .b = b, .open_at = SIZE_MAX };
}

void kv_stream_break(struct kv_stream_writer *w)
{
    w->open_at = SIZE_MAX;
}

/* Makes the open frame longer by `bytes`, or opens one whose payload begins with `fixed` bytes. */
static void grow_frame(struct kv_stream_writer *w, enum kv_frame_type type, uint32_t endpoint,
                       size_t fixed, size_t bytes)
{
    uint8_t *len;
    size_t payload;

    if (w->open_at != SIZE_MAX && !w->b->failed && w->type == type && w->endpoint == endpoint) {
        payload = w->b->len - w->open_at - KV_STREAM_HEAD_BYTES + bytes;
        if (payload <= KV_STREAM_PAYLOAD_MAX) {
            len = (uint8_t *)w->b->p + w->open_at;
            for (unsigned i = 0; i < 4; i++)
                len[i] = (uint8_t)(payload >> 8 * i);
            return;
        }
    }
    w->open_at = w->b->len;
    w->type = type;
    w->endpoint = endpoint;
    put_head(w->b, type, fixed + bytes);
    if (fixed != 0)
        put_le(w->b, endpoint, (unsigned)fixed);
}

void kv_stream_key(struct kv_stream_writer *w, enum kv_frame_type type, uint32_t endpoint,
                   uint64_t key)
{
    grow_frame(w, type, endpoint, 4, KEY_BYTES);
    put_le(w->b, key, KEY_BYTES);
}

void kv_stream_pair(struct kv_stream_writer *w, uint32_t endpoint, uint64_t key)
{
    grow_frame(w, KV_FRAME_PAIRS, 0, 0, PAIR_BYTES);
    put_le(w->b, endpoint, 4);
    put_le(w->b, key, 8);
}

uint64_t kv_frame_key(const struct kv_frame *f, uint32_t i)
{
    return get_le(f->body.p + (size_t)i * KEY_BYTES, KEY_BYTES);
}

uint64_t kv_frame_pair(const struct kv_frame *f, uint32_t i, uint32_t *endpoint)
{
    const char *p = f->body.p + (size_t)i * PAIR_BYTES;

    *endpoint = (uint32_t)get_le(p, 4);
    return get_le(p + 4, 8);
}

void kv_stream_reader_init(struct kv_stream_reader *r)
{
    buf_init(&r->in, KV_STREAM_HEAD_BYTES + KV_STREAM_PAYLOAD_MAX);
}

void kv_stream_reader_fini(struct kv_stream_reader *r)
{
    buf_fini(&r->in);
}

static bool split_items(struct kv_frame *f, struct str items, size_t each)
{
    if (items.n == 0 || items.n % each != 0)
        return false;
    f->body = items;
    f->count = (uint32_t)(items.n / each);
    return true;
}

/* Fills f from a payload; false = malformed. */
static bool parse(struct kv_frame *f, struct str p)
{
    size_t n;

    switch (f->type) {
    case KV_FRAME_HELLO:
        if (p.n < 28 || memcmp(p.p, MAGIC, 8) != 0)
            return false;
        f->version = (uint32_t)get_le(p.p + 8, 4);
        f->block_tokens = (uint32_t)get_le(p.p + 12, 4);
        f->hash = (enum index_hash)get_le(p.p + 16, 4);
        f->blocks_max = get_le(p.p + 20, 8);
        f->seed = str_sub(p, 28, SIZE_MAX);
        return true;
    case KV_FRAME_ENDPOINT:
        if (p.n < 6)
            return false;
        n = get_le(p.p + 4, 2);
        if (n > p.n - 6)
            return false;
        f->endpoint = (uint32_t)get_le(p.p, 4);
        f->address = str_sub(p, 6, n);
        f->model = str_sub(p, 6 + n, SIZE_MAX);
        return true;
    case KV_FRAME_PAIRS: return split_items(f, p, PAIR_BYTES);
    case KV_FRAME_ADD:
    case KV_FRAME_DEL:
        if (p.n < 4)
            return false;
        f->endpoint = (uint32_t)get_le(p.p, 4);
        return split_items(f, str_sub(p, 4, SIZE_MAX), KEY_BYTES);
    case KV_FRAME_CLEAR: f->endpoint = p.n == 4 ? (uint32_t)get_le(p.p, 4) : 0; return p.n == 4;
    case KV_FRAME_READY:
    case KV_FRAME_BEAT: f->pairs = p.n == 8 ? get_le(p.p, 8) : 0; return p.n == 8;
    }
    return false;
}

/* One frame at the front of `in`: *used is its size, 0 when it is not all there. */
static int one_frame(struct str in, size_t *used,
                     int (*on_frame)(void *ctx, const struct kv_frame *f), void *ctx)
{
    struct kv_frame f = { 0 };
    size_t payload;
    uint32_t type;

    *used = 0;
    if (in.n < KV_STREAM_HEAD_BYTES)
        return 0;
    payload = get_le(in.p, 4);
    type = (uint32_t)get_le(in.p + 4, 4);
    if (payload > KV_STREAM_PAYLOAD_MAX || type > UINT8_MAX)
        return ERR_PARSE;
    if (in.n - KV_STREAM_HEAD_BYTES < payload)
        return 0;
    *used = KV_STREAM_HEAD_BYTES + payload;
    if (type < KV_FRAME_HELLO || type > KV_FRAME_BEAT)
        return 0; /* from a later version */
    f.type = (enum kv_frame_type)type;
    if (!parse(&f, str_sub(in, KV_STREAM_HEAD_BYTES, payload)))
        return ERR_PARSE;
    return on_frame(ctx, &f);
}

int kv_stream_feed(struct kv_stream_reader *r, struct str bytes,
                   int (*on_frame)(void *ctx, const struct kv_frame *f), void *ctx)
{
    size_t used, want;
    int rc;

    while (bytes.n != 0) {
        if (r->in.len == 0) { /* whole frames in place */
            rc = one_frame(bytes, &used, on_frame, ctx);
            if (rc != 0)
                return rc;
            bytes = str_sub(bytes, used, SIZE_MAX);
            if (used != 0)
                continue;
        }
        want = KV_STREAM_HEAD_BYTES;
        if (r->in.len >= want)
            want += get_le(r->in.p, 4); /* checked when the head came */
        want = MIN(want - r->in.len, bytes.n);
        if (!buf_add(&r->in, bytes.p, want))
            return ERR_PARSE;
        bytes = str_sub(bytes, want, SIZE_MAX);
        rc = one_frame(buf_view(&r->in), &used, on_frame, ctx);
        if (rc != 0)
            return rc;
        if (used != 0)
            buf_reset(&r->in);
    }
    return 0;
}
