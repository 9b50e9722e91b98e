/* kv/events.h - KV events in vLLM's wire form: encoding (worker) and decoding (cache manager).
 *
 * Batch: MessagePack [ts, [events], rank]; events positional or as maps; both are
 * read, positional is written.  Source: the project's kv-cache page, section 3
 * (vLLM's kv_events), with published payloads.  Threads: pure functions. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KV_EVENTS_H
#define KV_EVENTS_H
#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

#define KV_EVENTS_MAX       65536 /* of one batch */
#define KV_EVENT_HASHES_MAX 65536
#define KV_EVENT_TOKENS_MAX 1048576

enum kv_event_kind { KV_STORED, KV_REMOVED, KV_CLEARED };

/* An extra key of one block: a media hash or the cache salt (never the LoRA name). */
struct kv_extra {
    uint32_t block; /* index into hashes; rising */
    bool is_media;  /* known to be a media hash: came with an offset or a type */
    struct str text;
};

struct kv_event {
    enum kv_event_kind kind;
    const uint64_t *hashes; /* folded to 64 bits */
    uint32_t hash_count;
    bool has_parent;
    uint64_t parent;
    const uint32_t *tokens;
    uint32_t token_count, block_size;
    struct str medium, lora_name, kind_name; /* p == NULL: nil */
    bool has_group;
    uint32_t group;
    struct str salt; /* first text extra of block 0 that is no LoRA name; p == NULL: none */
    uint32_t window;
    const struct kv_extra *extras; /* all of them; the encoder writes salt when extra_count is 0 */
    uint32_t extra_count;
};

struct kv_batch {
    double ts;
    const struct kv_event *events;
    uint32_t count;
    uint32_t skipped; /* unknown tags, counted */
};

/* Decodes into the arena; texts point into bytes.  Accepted besides: batches as maps or with two
 * elements, events wrapped as bin, hashes as bytes (their last 8, big-endian) or signed.  Unknown
 * tags and token lists that are no plain numbers are skipped and counted; anything else that is
 * malformed refuses the whole batch, which a caller must treat as a gap in the sequence.
 * Returns 0, ERR_PARSE, or ERR_LIMIT (a ceiling above, or the arena's). */
int kv_batch_decode(struct arena *a, struct str bytes, struct kv_batch *out,
                    struct err *e) MUST_CHECK;
void kv_batch_encode(struct buf *out,
                     const struct kv_batch *b); /* positional, three elements, rank 0 */
#endif
