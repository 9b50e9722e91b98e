/* kv/manager_priv.h - the inside of the cache manager.
 *
 *   source.c        one worker's events: sequence, gaps, replay, restarts
 *   publish.c       subscribers of the index stream
 *   manager_http.c  requests
 *   manager.c       putting it together; metrics */
// SPDX-License-Identifier: Apache-2.0
#ifndef KV_MANAGER_PRIV_H
#define KV_MANAGER_PRIV_H
#include "base/metrics.h"
#include "kv/manager.h"
#include "kv/stream_priv.h"
#include "net/http.h"
#include "net/zmtp.h"

#define KV_TICK_MS         100
#define KV_REPLAYS_MAX     8    /* at once */
#define KV_REPLAY_IDLE_MS  2000 /* without a message: ask again */
#define KV_REPLAY_TRIES    3
#define KV_REPLAY_COOL_MS  30000 /* after a replay that failed */
#define KV_QUEUE_COUNT_MAX 65536
#define KV_QUEUE_BYTES_MAX ((size_t)64 << 20)

enum kv_metric {
    KM_MESSAGES,
    KM_RECONNECTS,
    KM_ZMQ_ERRORS,
    KM_SUBSCRIBERS,
    KM_QUEUE_DEPTH,
    KM_QUEUE_CAP,
    KM_STORES_SKIPPED,
    KM_REMOVALS_SKIPPED,
    KM_SUPPRESSED,
    KM_FORWARDED,
    KM_ADMISSIONS,
    KM_EVICTIONS,
    KM_LOOKUPS,
    KM_LOOKUP_HITS,
    KM_MAX_HIT,
    KM_LOOKUP_SECONDS,
    KM_BLOCKS,
    KM_BYTES,
    KM_ENDPOINT_BLOCKS,
    KM_SOURCES,
    KM_SOURCE_UP,
    KM_GAP,
    KM_ORPHAN,
    KM_DUPLICATE,
    KM_LAG,
    KM_RESYNC,
    KM_STREAMS,
    KM_STREAM_OVERFLOWS,
    KM_FOLLOWED,
    KM_FOLLOW_ERRORS,
    KM_COUNT
};

enum kv_replay { KV_REPLAY_NONE, KV_REPLAY_WAITING, KV_REPLAY_RUNNING };

struct kv_queued {
    struct kv_queued *next;
    uint64_t seq;
    size_t bytes;
    char p[];
};

struct kv_source {
    struct kv_manager *m;
    char *name, *address; /* address NULL until the topic said it */
    char *spec;           /* "NAME=ADDRESS@EVENTS@REPLAY": what it was opened with */
    struct zmtp_client *sub, *dealer;
    bool is_up, was_up, is_dealer_up;
    bool has_endpoint;
    uint32_t endpoint;
    bool has_seq;
    bool is_partial; /* some earlier events were not seen: it holds more than the index says */
    uint64_t last_seq;
    uint64_t messages;
    double lag_s;
    struct metric_cell *cell_messages;

    enum kv_replay replay;
    uint64_t replay_first; /* what it began with; 0: everything, so nothing old is uncertain */
    uint64_t replay_next, replay_at_ms, cool_until_ms;
    unsigned tries;
    struct kv_queued *queue, **queue_tail; /* live messages that wait for the replay */
    size_t queue_count, queue_bytes;
};

struct kv_subscriber;

struct kv_manager {
    struct loop *loop;
    struct http_server *http;
    struct kv_index *index;
    struct kv_index_opts index_opts;
    char *model, *seed;
    struct metrics *metrics;
    struct metric_cell *cell[KM_COUNT]; /* of families without labels */
    struct kv_source **source;
    size_t source_count;
    struct loop_timer *tick;
    uint64_t start_ms, beat_ms;
    bool is_ready;
    unsigned replays;

    struct kv_subscriber *subscribers;
    size_t subscriber_count;
    struct buf changes;             /* since the last kv_publish() */
    struct kv_stream_writer writer; /* into changes */
};

/* source.c */
int kv_source_open(struct kv_source *s, const struct kv_source_opts *o, struct err *e) MUST_CHECK;
void kv_source_close(struct kv_source *s);
void kv_source_tick(struct kv_source *s, uint64_t now_ms);

/* publish.c */
void kv_publish_init(struct kv_manager *m);
void kv_publish_fini(struct kv_manager *m);
void kv_publish_endpoint(struct kv_manager *m, uint32_t endpoint);
void kv_publish(struct kv_manager *m); /* what changed goes to every subscriber */
void kv_publish_beat(struct kv_manager *m);
void kv_publish_subscribe(struct kv_manager *m, struct http_req *r);

/* manager_http.c */
void kv_manager_handle(void *ctx, struct http_req *r);

/* manager.c */
struct metric_cell *kv_metric(struct kv_manager *m, enum kv_metric f, const char *value);
void kv_manager_gauges(struct kv_manager *m);
void kv_manager_check_ready(struct kv_manager *m);
#endif
