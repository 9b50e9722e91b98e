/* net/http2.h - the server side of one HTTP/2 connection, without a socket.
 *
 * Bytes of the peer go in by http2_feed, bytes for it come out by http2_pull; streams appear
 * through struct http2_ops.  The limits of the project's reliability page (LIM-30 to LIM-38) are
 * set here: streams, windows, header lists, floods of control frames, resets and glitches.
 *
 * Callbacks run inside http2_feed, http2_pull, http2_tick and http2_free.  They may call everything
 * that takes a stream, but none of these four.
 * Threads: one owner. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_HTTP2_H
#define NET_HTTP2_H
#include "base/err.h"
#include "base/str.h"

#define HTTP2_FIELDS_MAX 100
#define HTTP2_HEAD_BYTES_MAX                                                                       \
    ((size_t)32 << 10) /* names, values and 32 a field (RFC 9113, 6.5.2)                           \
                        */

struct http2_session;
struct http2_stream;

struct http2_field {
    struct str name, value;
};

/* Borrowed for the call of on_head. */
struct http2_head {
    const struct http2_field *field; /* pseudo-fields first, names in lower case */
    size_t count;
    bool too_large; /* over one of the two ceilings: the fields are not all here */
};

struct http2_ops {
    /* A request begins; end: it has no body.  on_close follows sooner or later. */
    void (*on_head)(void *ctx, struct http2_stream *s, const struct http2_head *head, bool end);
    /* Borrowed bytes.  The peer's window opens again by http2_consume. */
    void (*on_data)(void *ctx, struct http2_stream *s, struct str bytes);
    void (*on_end)(void *ctx, struct http2_stream *s); /* the peer ended its side after a body */
    void (*on_room)(void *ctx,
                    struct http2_stream *s); /* after ERR_AGAIN: the queue is half empty */
    /* Exactly once for each on_head; code is HTTP/2's, 0 = none.  The stream is gone afterwards. */
    void (*on_close)(void *ctx, struct http2_stream *s, uint32_t code);
};

struct http2_opts {
    uint32_t streams_max;    /* at a time; 0 = 100 */
    size_t stream_queue_max; /* bytes queued to the peer a stream; 0 = 256 KiB */
};

/* ERR_NOMEM, or 0 and *out is the caller's: http2_free. */
int http2_new(struct http2_session **out, const struct http2_opts *opts,
              const struct http2_ops *ops, void *ctx) MUST_CHECK;
void http2_free(struct http2_session *h); /* open streams get on_close; NULL is fine */

/* Takes all bytes.  ERR_PARSE: this peer does not speak HTTP/2; pull what is left and close. */
int http2_feed(struct http2_session *h, struct str bytes) MUST_CHECK;
/* The next bytes to write, valid until the next call on the session; empty: none now. */
struct str http2_pull(struct http2_session *h);
/* Nothing will be read or written any more: close the connection. */
bool http2_done(struct http2_session *h);
/* About once a second: ends what waits for too long. */
void http2_tick(struct http2_session *h, uint64_t now_ms);
/* GOAWAY: open streams go on, no new ones; done when the last has ended.  Streams that the peer
 * opened before it knew are served for a second. */
void http2_drain(struct http2_session *h);
size_t http2_streams(const struct http2_session *h);

void http2_stream_set(struct http2_stream *s, void *user);
void *http2_stream_get(const struct http2_stream *s);

/* The response's head; once a stream.  end: and nothing else. */
int http2_respond(struct http2_stream *s, const struct http2_field *field, size_t count,
                  bool end) MUST_CHECK;
/* Copies and queues the pieces as one.  0, ERR_AGAIN (over stream_queue_max: nothing queued,
 * on_room will come), ERR_CLOSED.  Into an empty queue any size goes. */
int http2_send(struct http2_stream *s, const struct str *piece, size_t count) MUST_CHECK;
size_t http2_queued(const struct http2_stream *s);
/* Asks for on_room although nothing was refused.  Something must be queued, or it never comes. */
void http2_want_room(struct http2_stream *s);
/* After what is queued: these trailers, and the end of our side. */
void http2_finish(struct http2_stream *s, const struct http2_field *trailer, size_t count);
void http2_reset(struct http2_stream *s, uint32_t code); /* drops what is queued */
void http2_consume(struct http2_stream *s, size_t bytes);

/* What one session saw, for tests and logs. */
struct http2_counts {
    uint64_t streams, resets_in, resets_out, glitches;
    bool goaway_sent;
};
struct http2_counts http2_count(const struct http2_session *h);
#endif
