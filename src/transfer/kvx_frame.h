/* transfer/kvx_frame.h - KVX frames: encoding, and an incremental reader.
 *
 *   offset size  (little-endian)
 *   0      4     magic "KVX1"
 *   4      2     type
 *   6      2     flags: bit 0 = optional (unknown types are skipped)
 *   8      4     header bytes, at most 64 KiB
 *   12     4     stream, 0 (one transfer a connection)
 *   16     8     body bytes
 *   24     4     CRC-32C of bytes 0..23 and of the header
 *   28     ..    header: MessagePack map with text keys; then the body
 *
 * Everything is bounded before memory is taken.  Pure functions; a reader has one owner. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TRANSFER_KVX_FRAME_H
#define TRANSFER_KVX_FRAME_H
#include "base/buf.h"
#include "base/err.h"
#include "codec/blockkey.h"

#define KVX_PROTO            1
#define KVX_FIXED_BYTES      28
#define KVX_HEADER_BYTES_MAX 65536
#define KVX_BODY_BYTES_MAX   ((uint64_t)64 << 20)
#define KVX_FLAG_OPTIONAL    1

enum kvx_type {
    KVX_HELLO = 1,
    KVX_DATA = 5,
    KVX_DONE = 6,
    KVX_PUSH_OPEN = 7,
    KVX_PUSH_ACK = 8,
    KVX_RELEASE = 9,
    KVX_RENEW = 10,
    KVX_CANCEL = 11,
    KVX_ERROR = 12,
    KVX_PING = 15,
    KVX_CANCEL_ACK = 18
};

enum kvx_code { /* of ERROR */
                KVX_E_PROTO = 1,
                KVX_E_FINGERPRINT,
                KVX_E_UNKNOWN_REQUEST,
                KVX_E_LEASE_EXPIRED,
                KVX_E_BUSY,
                KVX_E_EPOCH,
                KVX_E_INTERNAL
};

/* Fields of all headers; `has` says which stand in this one (1 << enum kvx_field). */
enum kvx_field {
    KVX_F_PROTO,
    KVX_F_EPOCH,
    KVX_F_FINGERPRINT,
    KVX_F_BLOCK_BYTES,
    KVX_F_BLOCK_TOKENS,
    KVX_F_TRANSFER,
    KVX_F_ATTEMPT,
    KVX_F_FIRST,
    KVX_F_COUNT,
    KVX_F_INDEX,
    KVX_F_SEQ,
    KVX_F_PARTS,
    KVX_F_KEY,
    KVX_F_CRC,
    KVX_F_LATE,
    KVX_F_DIGEST,
    KVX_F_CODE,
    KVX_F_COUNT_OF
};

struct kvx_header {
    uint32_t has;
    uint64_t proto, epoch, block_bytes, block_tokens, attempt, first, count, index, seq, parts, crc,
        late, code;
    uint8_t fingerprint[32], transfer[16], key[BLOCKKEY_BYTES], digest[16];
};

#define KVX_HAS(h, f) (((h)->has & (1u << (f))) != 0)

/* Appends one frame without its body (body_bytes are promised to follow). */
void kvx_frame_put(struct buf *b, enum kvx_type type, const struct kvx_header *h,
                   uint64_t body_bytes);

struct kvx_frame {
    uint16_t type, flags;
    struct kvx_header header;
    struct str body; /* borrowed for the call */
};

struct kvx_reader {
    struct buf head;
    char *body;
    uint64_t body_max, body_bytes, body_have;
    struct kvx_frame frame;
    size_t need; /* bytes of fixed part and header wanted before the next decision */
    bool in_body;
};

/* body_max: the largest body this side expects. */
void kvx_reader_init(struct kvx_reader *r, uint64_t body_max);
void kvx_reader_fini(struct kvx_reader *r);
/* Feeds bytes; on_frame may return non-zero to stop (that code is returned).
 * Returns 0, ERR_PARSE, ERR_MISMATCH (header CRC), ERR_LIMIT, ERR_NOMEM. */
int kvx_reader_feed(struct kvx_reader *r, struct str bytes,
                    int (*on_frame)(void *ctx, const struct kvx_frame *f), void *ctx) MUST_CHECK;

/* The manifest's digest: SHA-256 over (key, crc) of each block in order, first 16 bytes. */
struct kvx_manifest {
    struct buf acc;
};
void kvx_manifest_init(struct kvx_manifest *m);
void kvx_manifest_add(struct kvx_manifest *m, const uint8_t key[BLOCKKEY_BYTES], uint32_t crc);
void kvx_manifest_digest(const struct kvx_manifest *m, uint8_t out[16]);
void kvx_manifest_fini(struct kvx_manifest *m);
#endif
