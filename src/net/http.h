/* net/http.h - HTTP/1.1 server and client (RFC 9110, 9112), strict about framing.
 *
 * Server: a handler gets a request when its whole body is there (bounded), and
 * answers now or later from the same loop.  A client that leaves (FIN counts) is
 * told at once through on_gone, also while nothing is being written.  What breaks
 * the framing rules or a limit is refused by the server itself, with an error
 * object, and the connection is closed.
 * Client: a pool of keep-alive connections per loop; replies are streamed.
 * Threads: everything on its loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_HTTP_H
#define NET_HTTP_H
#include "base/arena.h"
#include "base/buf.h"
#include "net/conn.h"
#include "net/loop.h"

struct http_header {
    struct str name, value; /* name as received; compare with str_ieq */
};

struct http_headers {
    const struct http_header *list;
    size_t count;
};

/* First value, trimmed, or p == NULL. */
struct str http_header_get(const struct http_headers *h, const char *name);

/* ---- server ---- */

struct http_server;
struct http_req; /* one exchange */

typedef void http_handler(void *ctx, struct http_req *r);

struct http_server_opts {
    const char *host;
    uint16_t port;               /* 0 = any free */
    bool shares_port;            /* other servers of this process listen there, too */
    size_t head_bytes_max;       /* 0 = 32 KiB */
    size_t headers_max;          /* 0 = 100 */
    size_t body_bytes_max;       /* 0 = 16 MiB */
    size_t write_bytes_max;      /* queued to one client; 0 = 1 MiB */
    uint32_t head_ms, body_ms;   /* 0 = 10 s, 120 s */
    uint32_t gap_ms;             /* between bytes of a body; 0 = 30 s */
    uint32_t idle_ms;            /* keep-alive; 0 = 120 s */
    uint32_t conns_max;          /* 0 = 10,000; past it new ones wait a second, then are reset */
    uint32_t conns_per_peer_max; /* from one address: reset past it; 0 = conns_max */
    const char *server_name;     /* "Server:" header, borrowed */
    size_t bodies_bytes_max;     /* all bodies being held; 0 = 1 GiB; past it 503 */
    uint32_t stall_ms;           /* client reads nothing of what is queued; 0 = 60 s */
    uint32_t dead_ms;            /* conn_opts.dead_ms; 0 = stall_ms */
    struct tls_server *tls;      /* NULL: plain; borrowed, closed after the server (net/tls.h) */
    /* May be NULL: sees a request before its body is read (body empty), e.g. to authenticate; may
     * answer it, then the body is not read and the connection closes.  Else fn gets it later. */
    http_handler *on_head;
    /* May be NULL: a refusal by the server itself, for the books.  reason: a static token. */
    void (*on_refuse)(void *ctx, int status, const char *reason);
};

int http_server_open(struct loop *l, const struct http_server_opts *o, http_handler *fn, void *ctx,
                     struct http_server **out, struct err *e) MUST_CHECK;
uint16_t http_server_port(const struct http_server *s);
/* Stops accepting; idle connections close, busy ones after their answer. */
void http_server_drain(struct http_server *s);
size_t http_server_active(const struct http_server *s); /* exchanges without a finished answer */
/* Bytes of answers that the kernel has not taken yet: closing the server now would cut them off. */
size_t http_server_unsent(const struct http_server *s);
/* Breaks what is left (on_gone runs inside); not from inside a handler: loop_post it. */
void http_server_close(struct http_server *s);

/* Everything below is valid until the answer ended or on_gone ran. */
struct str http_req_method(const struct http_req *r);
struct str http_req_path(const struct http_req *r); /* without the query */
struct str http_req_query(const struct http_req *r);
const struct http_headers *http_req_headers(const struct http_req *r);
struct str http_req_body(const struct http_req *r);
struct arena *http_req_arena(struct http_req *r); /* dropped after the exchange */
const char *http_req_peer(const struct http_req *r);
/* The client left, or the exchange was broken off: fn(ctx) runs once, and r is
 * gone after it.  Not called once http_reply_end was called.  A request without fn
 * stays valid until it is answered (into the void). */
void http_req_on_gone(struct http_req *r, loop_fn *fn, void *ctx);
/* fn runs when queued answer bytes fell under half of the ceiling. */
void http_req_on_drain(struct http_req *r, loop_fn *fn, void *ctx);

/* Whole answer in one call; ends the exchange.  extra: more header lines, may be NULL; the ones
 * the server writes itself (Content-Length, Transfer-Encoding, Connection, Server) are passed over,
 * save that "Connection: close" closes.  content_type NULL: none.  To HEAD no body goes out. */
void http_reply(struct http_req *r, int status, const char *content_type, struct str body,
                const struct http_headers *extra);
/* Streamed answer: head (chunked; HTTP/1.0: until close), pieces, end.  The head leaves with the
 * first piece, or when the loop gets to wait. */
void http_reply_start(struct http_req *r, int status, const char *content_type,
                      const struct http_headers *extra);
/* Queues one chunk.  0, ERR_AGAIN (client reads too slowly: nothing queued), ERR_CLOSED. */
int http_reply_chunk(struct http_req *r, struct str bytes) MUST_CHECK;
void http_reply_end(struct http_req *r);
void http_reply_abort(struct http_req *r); /* break the connection: the client sees a cut stream */
bool http_reply_started(const struct http_req *r);

/* ---- client ---- */

struct http_client;
struct http_call;

struct http_call_ops {
    /* h is borrowed for the call. */
    void (*on_head)(void *ctx, int status, const struct http_headers *h);
    void (*on_body)(void *ctx, struct str bytes); /* unframed body bytes */
    /* Last, once.  rc: 0, or ERR_TIMEOUT, ERR_CLOSED, ERR_IO, ERR_PARSE, ERR_LIMIT, ERR_MISMATCH
     * (TLS: a certificate that is not accepted).
     * sent: the request (or part of it) went out on a connection. got: reply bytes arrived. */
    void (*on_end)(void *ctx, int rc, bool sent, bool got);
};

#define HTTP_PIECES_MAX 4

struct http_call_opts {
    const char *host;
    uint16_t port;
    struct str method, path;     /* path with query */
    struct http_headers headers; /* besides Host, Content-Length, Connection */
    struct str body;             /* copied */
    /* Instead of body, sent one after the other: borrowed until the call ends or is cancelled. */
    const struct str *pieces;
    size_t piece_count;     /* at most HTTP_PIECES_MAX */
    uint32_t connect_ms;    /* 0 = 1 s */
    uint32_t first_byte_ms; /* 0 = 600 s */
    uint32_t gap_ms;        /* between reply bytes; 0 = 120 s */
    uint32_t total_ms;      /* 0 = 3600 s */
    size_t body_bytes_max;  /* 0 = unbounded (streamed through) */
    struct tls_client *tls; /* NULL: plain; connections are kept apart by it (net/tls.h) */
};

struct http_client *http_client_new(struct loop *l);
void http_client_free(struct http_client *c); /* cancels without callbacks */
int http_call_start(struct http_client *c, const struct http_call_opts *o,
                    const struct http_call_ops *ops, void *ctx, struct http_call **out,
                    struct err *e) MUST_CHECK;
void http_call_cancel(struct http_call *call); /* closes its connection; no callback follows */
void http_call_pause(struct http_call *call);  /* back-pressure */
void http_call_resume(struct http_call *call);

/* Blocking one-shot for command-line tools: whole answer into body (bounded by its max).
 * on_bytes (may be NULL) sees body bytes as they come instead. */
int http_fetch(const struct http_call_opts *o, int *status, struct buf *body,
               void (*on_bytes)(void *ctx, struct str bytes), void *ctx, struct err *e) MUST_CHECK;
#endif
