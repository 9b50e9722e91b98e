/* kv/stream_priv.h - the index stream: what the cache manager tells schedulers, and its reader.
 *
 * Frames of { u32 payload bytes, u8 type, 3 zero bytes, payload }, little-endian;
 * the layout of each payload is in docs/protocols/index-stream.md.
 * Threads: pure functions of their arguments. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KV_STREAM_PRIV_H
#define KV_STREAM_PRIV_H
#include "base/buf.h"
#include "base/err.h"
#include "codec/blockkey.h"

#define KV_STREAM_PATH        "/v1/index/stream"
#define KV_STREAM_TYPE        "application/vnd.llmd.index-stream"
#define KV_STREAM_VERSION     1
#define KV_STREAM_HEAD_BYTES  8
#define KV_STREAM_PAYLOAD_MAX 65536
#define KV_STREAM_BEAT_MS     1000

enum kv_frame_type {
    KV_FRAME_HELLO = 1, /* first: version, block size, hash, seed, ceiling */
    KV_FRAME_ENDPOINT,  /* number, address, model */
    KV_FRAME_PAIRS,     /* snapshot: (endpoint, key) ... */
    KV_FRAME_ADD,       /* endpoint, keys */
    KV_FRAME_DEL,
    KV_FRAME_CLEAR, /* endpoint */
    KV_FRAME_READY, /* the snapshot is complete: number of pairs */
    KV_FRAME_BEAT   /* every second: number of pairs */
};

struct kv_frame {
    enum kv_frame_type type;
    uint32_t version, block_tokens, endpoint;
    enum index_hash hash;
    uint64_t blocks_max, pairs;
    struct str seed, address, model;
    struct str body; /* PAIRS, ADD, DEL: use the getters below */
    uint32_t count;
};

uint64_t kv_frame_key(const struct kv_frame *f, uint32_t i);                      /* ADD, DEL */
uint64_t kv_frame_pair(const struct kv_frame *f, uint32_t i, uint32_t *endpoint); /* PAIRS */

void kv_stream_hello(struct buf *b, uint32_t block_tokens, enum index_hash hash, struct str seed,
                     uint64_t blocks_max);
void kv_stream_endpoint(struct buf *b, uint32_t endpoint, struct str address, struct str model);
void kv_stream_clear(struct buf *b, uint32_t endpoint);
void kv_stream_count(struct buf *b, enum kv_frame_type type, uint64_t pairs); /* READY, BEAT */

/* Appends keys one by one; neighbours of one kind share a frame. */
struct kv_stream_writer {
    struct buf *b;
    size_t open_at; /* of the frame that may still grow; SIZE_MAX = none */
    enum kv_frame_type type;
    uint32_t endpoint;
};
void kv_stream_writer_init(struct kv_stream_writer *w, struct buf *b);
/* After anything else was appended to b, or b was emptied. */
void kv_stream_break(struct kv_stream_writer *w);
void kv_stream_key(struct kv_stream_writer *w, enum kv_frame_type type, uint32_t endpoint,
                   uint64_t key);
void kv_stream_pair(struct kv_stream_writer *w, uint32_t endpoint, uint64_t key);

struct kv_stream_reader {
    struct buf in;
};
void kv_stream_reader_init(struct kv_stream_reader *r);
void kv_stream_reader_fini(struct kv_stream_reader *r);
/* Calls on_frame for each whole frame; stops at the first that returns non-zero and returns that.
 * Else 0 or ERR_PARSE; unknown types are passed over. */
int kv_stream_feed(struct kv_stream_reader *r, struct str bytes,
                   int (*on_frame)(void *ctx, const struct kv_frame *f), void *ctx) MUST_CHECK;
#endif
