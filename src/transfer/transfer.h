/* transfer/transfer.h - KVX: handing prompt KV from a prefill worker to a decode worker.
 *
 * Wire: frames of the project's kv-cache page, section 12, with the additions of
 * the reliability page 4.2 (header CRC, transfer id and attempt, CANCEL_ACK,
 * manifest in DONE).  docs/protocols/kvx.md is the page of record.
 *
 * The consumer (decode) connects to the producer (prefill), registers where it
 * wants the blocks (PUSH_OPEN with transfer id, the blocks it already holds),
 * and the producer sends each block as soon as engine's on_prefill reports it;
 * DONE carries the manifest.  Every block has its key and CRC-32C; every phase has
 * a deadline; a fault ends in on_done with a reason, never in silence.
 *
 * Threads: a server and a client each run on the loop given; all callbacks too. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TRANSFER_TRANSFER_H
#define TRANSFER_TRANSFER_H
#include "base/metrics.h"
#include "engine/engine.h"
#include "net/loop.h"

#define KVX_LEASE_MS       30000 /* from the end of prefill */
#define KVX_RENEW_EVERY_MS 5000
#define KVX_RENEW_TO_MS    20000
#define KVX_SETUP_MS       2000 /* connect + HELLO */
#define KVX_PING_MS        500  /* the producer says it is alive, also while it computes */
#define KVX_GAP_MS         3000 /* silence of the peer */

struct kvx_id {
    uint8_t b[16];
}; /* transfer id: random, one use */

/* Where counters go; all may be NULL in tests. */
struct kvx_metrics {
    struct metric_cell *bytes_sent, *bytes_received;
    struct metric_cell *verify_crc, *verify_key, *verify_fingerprint, *verify_epoch;
    struct metric_cell *lease_expired, *transfers_ok, *transfers_failed;
    struct metric_cell
        *bytes_hidden; /* received, sent before the prompt's last block was computed */
};

/* ---- producer ---- */
struct kvx_server;
int kvx_server_open(struct loop *l, struct engine *en, const char *host, uint16_t port,
                    uint64_t epoch, const struct kvx_metrics *m, struct kvx_server **out,
                    struct err *e) MUST_CHECK;
uint16_t kvx_server_port(const struct kvx_server *s);
/* Says that transfer `id` is engine request `request` with so many full blocks; consumers may
 * have registered before.  The producer's HTTP handler calls this when it submits. */
void kvx_server_offer(struct kvx_server *s, struct kvx_id id, uint64_t request, uint32_t blocks);
/* More blocks are complete (from on_prefill, posted to the loop). */
void kvx_server_progress(struct kvx_server *s, struct kvx_id id, uint32_t blocks);
/* Prefill ended: rc 0 or why not (consumers are told). */
void kvx_server_finish(struct kvx_server *s, struct kvx_id id, int rc);
uint32_t kvx_server_transfers(const struct kvx_server *s);
void kvx_server_close(struct kvx_server *s);

/* ---- consumer ---- */
struct kvx_client;
struct kvx_pull;
struct kvx_result {
    int rc; /* 0 = every wanted block arrived and was committed */
    const char
        *reason; /* stable word for counters: "ok", "connect", "timeout", "crc", "epoch", ... */
    uint32_t blocks, blocks_wanted;
    uint64_t bytes, bytes_hidden; /* hidden: sent before the prompt's last block was computed */
    double seconds;
};
struct kvx_client *kvx_client_new(struct loop *l, struct engine *en, uint64_t epoch,
                                  const struct kvx_metrics *m);
void kvx_client_free(struct kvx_client *c);
/* Wants prompt blocks [first, count) of transfer id from host:port into engine request `request`
 * (submitted with await_import).  Calls engine_import_block for each and engine_import_done at the
 * end by itself, then on_done.  deadline_ms bounds the whole. */
int kvx_pull_start(struct kvx_client *c, const char *host, uint16_t port, struct kvx_id id,
                   uint64_t producer_epoch, uint64_t request, uint32_t first, uint32_t count,
                   uint32_t deadline_ms, void (*on_done)(void *ctx, const struct kvx_result *r),
                   void *ctx, struct kvx_pull **out, struct err *e) MUST_CHECK;
/* Client gone: tells the producer (which cancels its request and frees); no on_done follows. */
void kvx_pull_cancel(struct kvx_pull *p);
#endif
