/* kv/manager.h - the cache manager: hears the KV events of workers, keeps the index of who holds
 * which block, answers look-ups and streams the index to schedulers.
 *
 * A source is one publisher of events: a worker's ZeroMQ PUB socket.  Its blocks
 * are dropped at once when its connection is lost, when its sequence falls (it
 * restarted) and when messages are missing, unless a replay endpoint is given
 * and closes the hole.  The index is a hint: losing it costs cache hits.
 *
 * HTTP: GET /health, /health/ready, /metrics, /v1/index, /v1/index/stream;
 * POST /v1/lookup.  docs/protocols/index-stream.md has the stream.
 * Threads: everything on its loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef KV_MANAGER_H
#define KV_MANAGER_H
#include "kv/index.h"
#include "net/loop.h"

#define KV_SOURCES_MAX 1024

struct kv_source_opts {
    struct str name;    /* for people: "w0" */
    struct str address; /* where the worker serves, "10.0.0.7:8000"; p == NULL: its topic says */
    struct str events;  /* HOST:PORT of its publisher */
    struct str replay;  /* HOST:PORT of its replay socket; p == NULL: none */
};

/* "NAME=HOST:PORT@EVENTS_HOST:EVENTS_PORT[@REPLAY_HOST:REPLAY_PORT]"; "NAME=@EVENTS..." takes the
 * address from the topic.  out borrows from text. */
int kv_source_parse(struct str text, struct kv_source_opts *out, struct err *e) MUST_CHECK;

struct kv_manager_opts {
    const char *host;
    uint16_t port;                        /* 0 = any free */
    const struct kv_source_opts *sources; /* copied */
    size_t source_count;
    struct kv_index_opts index;
    const char *model; /* of sources whose topic names none; may be NULL */
};

struct kv_manager;

int kv_manager_open(struct loop *l, const struct kv_manager_opts *o, struct kv_manager **out,
                    struct err *e) MUST_CHECK;
/* Makes the sources what the list says: new ones are heard, what missing ones held is forgotten,
 * the rest goes on undisturbed.  Copied. */
int kv_manager_set_sources(struct kv_manager *m, const struct kv_source_opts *list, size_t count,
                           struct err *e) MUST_CHECK;
/* For the books, of what discovery follows: whether it is followed now, and requests that failed
 * since the last call. */
void kv_manager_discovery(struct kv_manager *m, const char *what, bool is_followed,
                          uint64_t errors);
size_t kv_manager_sources_up(const struct kv_manager *m); /* whose connection is up */
uint16_t kv_manager_port(const struct kv_manager *m);
const struct kv_index *kv_manager_index(const struct kv_manager *m);
/* Not from inside an HTTP handler: loop_post it. */
void kv_manager_close(struct kv_manager *m);
#endif
