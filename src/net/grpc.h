/* net/grpc.h - a gRPC server: unary calls and streams in both directions over HTTP/2.
 *
 * Plain text with prior knowledge, or over TLS.  Messages are bytes here; codec/proto.h reads them.
 * The peer is held back by itself: messages are delivered only while a stream's own answers are
 * being read, and its flow-control window opens as they are delivered.
 *
 * Each stream that on_open saw ends with exactly one on_gone, whatever happened, and is gone after
 * it.  Callbacks may call everything that takes a stream, but not grpc_server_close.
 * Threads: one loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_GRPC_H
#define NET_GRPC_H
#include "base/str.h"
#include "net/loop.h"

struct grpc_server;
struct tls_server;
struct grpc_stream;

enum grpc_status {
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_NOT_FOUND = 5,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14
};

struct grpc_method {
    const char *path; /* "/package.Service/Method" */
    bool unary;       /* exactly one message comes, or the call fails before on_half_close */
    void *ctx;
    void (*on_open)(void *ctx, struct grpc_stream *s);                      /* may be NULL */
    void (*on_message)(void *ctx, struct grpc_stream *s, struct str bytes); /* borrowed */
    void (*on_half_close)(void *ctx, struct grpc_stream *s); /* no more messages will come */
    void (*on_room)(void *ctx, struct grpc_stream *s);       /* after ERR_AGAIN; may be NULL */
    /* cancelled: the peer left, or broke the rules, before grpc_finish.  May be NULL. */
    void (*on_gone)(void *ctx, struct grpc_stream *s, bool cancelled);
};

struct grpc_server_opts {
    const char *host;         /* an IP address; NULL = loopback */
    uint16_t port;            /* 0 = any free one */
    bool shares_port;         /* other servers of this process listen there, too */
    struct tls_server *tls;   /* NULL: plain text; borrowed (net/tls.h) */
    size_t message_bytes_max; /* of one message to us; 0 = 4 MiB */
    size_t buffer_bytes_max;  /* unfinished messages of all streams together; 0 = 256 MiB */
    uint32_t streams_max;     /* a connection; 0 = 4096 */
    uint32_t connections_max; /* 0 = 1024; more are closed at once */
};

/* method: borrowed until grpc_server_close.  ERR_INVAL, ERR_IO. */
int grpc_server_open(struct loop *l, const struct grpc_server_opts *opts,
                     const struct grpc_method *method, size_t method_count,
                     struct grpc_server **out, struct err *e) MUST_CHECK;
uint16_t grpc_server_port(const struct grpc_server *s);
size_t grpc_server_streams(const struct grpc_server *s); /* open now */
/* No new connections; GOAWAY to those there are: their streams end on their own. */
void grpc_server_drain(struct grpc_server *s);
void grpc_server_close(struct grpc_server *s); /* open streams: on_gone, cancelled; NULL is fine */

/* A field of the request's head by its lower-case name; during on_open only.  p == NULL: none. */
struct str grpc_metadata(const struct grpc_stream *s, const char *name);
void grpc_stream_set(struct grpc_stream *s, void *user);
void *grpc_stream_get(const struct grpc_stream *s);

/* Copies and queues one message.  0, ERR_AGAIN (256 KiB are queued: on_room will come), ERR_CLOSED.
 * Into an empty queue any size goes. */
int grpc_send(struct grpc_stream *s, struct str message) MUST_CHECK;
/* Ends the call after what is queued.  message: for people, may be NULL; reason: a stable token for
 * the trailer llm-d-reason, may be NULL. */
void grpc_finish(struct grpc_stream *s, enum grpc_status status, const char *message,
                 const char *reason);
#endif
