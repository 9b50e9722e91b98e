/* net/conn.h - byte streams over TCP, the only place that reads and writes sockets.
 *
 * Everything runs on the loop that opened it.  Writes are queued up to
 * write_max; past it conn_write returns ERR_AGAIN and on_drain says when there
 * is room.  With TLS all of this holds for the bytes inside; what waits is counted before it is
 * encrypted, and a FIN without close_notify is no on_eof but ERR_CLOSED.  conn_close may be called
 * in any callback; on_close comes exactly once, last, from the loop (never inside conn_close). */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_CONN_H
#define NET_CONN_H
#include "base/str.h"
#include "net/loop.h"

struct conn;
struct listener;
struct tls_server; /* net/tls.h */
struct tls_client;

struct conn_ops {
    /* Clients: connected.  With TLS both sides: the handshake is done. */
    void (*on_open)(void *ctx, struct conn *c);
    /* Bytes are borrowed for the call. */
    void (*on_data)(void *ctx, struct conn *c, struct str bytes);
    void (*on_eof)(void *ctx, struct conn *c);   /* peer shut down its side; NULL: close */
    void (*on_drain)(void *ctx, struct conn *c); /* queued bytes fell under half of write_max */
    /* rc: 0 = by us or clean; ERR_TIMEOUT, ERR_IO, ERR_CLOSED; with TLS also ERR_MISMATCH (a
     * certificate that is not accepted), ERR_PARSE (not the protocol) */
    void (*on_close)(void *ctx, struct conn *c, int rc);
};

struct conn_opts {
    size_t write_max;    /* queued bytes; 0 = 1 MiB */
    uint32_t connect_ms; /* 0 = 1000 */
    uint32_t dead_ms;    /* unacknowledged bytes (TCP_USER_TIMEOUT); 0 = 10 s */
    bool shares_port;    /* listeners: several share a port, the kernel spreads (SO_REUSEPORT) */
    bool no_keepalive;   /* else 5 s idle, 3 probes 2 s apart */
    /* Encrypt, as the one or the other side; borrowed, must outlive the connections. */
    struct tls_server *tls_server;
    struct tls_client *tls_client;
    uint32_t handshake_ms; /* 0 = 10 s, then ERR_TIMEOUT */
};

/* "127.0.0.1:8080", "[::1]:80", "localhost:80", ":8080" (loopback).  port 0 = any free.
 * host_out has room for 256 bytes. */
int addr_parse(struct str text, char *host_out, uint16_t *port, struct err *e) MUST_CHECK;
bool addr_is_loopback(const char *host);

/* Starts a connection; host is a name or an address.  on_open or on_close follows. */
int conn_open(struct loop *l, const char *host, uint16_t port, const struct conn_opts *opts,
              const struct conn_ops *ops, void *ctx, struct conn **out, struct err *e) MUST_CHECK;
/* Copies and queues.  0, ERR_AGAIN (over write_max: nothing queued), ERR_CLOSED.  Into an empty
 * queue any size goes, so that ERR_AGAIN always means that on_drain will come. */
int conn_write(struct conn *c, struct str bytes) MUST_CHECK;
/* Queues without copying: release(rctx) runs on the loop once the bytes are written or dropped
 * (possibly inside this call).  On an error it does not run: the bytes stay the caller's. */
int conn_write_ref(struct conn *c, struct str bytes, loop_fn *release, void *rctx) MUST_CHECK;
size_t conn_queued(const struct conn *c);
/* Asks for on_drain although no write was refused: for callers that look at conn_queued first.
 * Something must be queued, or it never comes. */
void conn_want_drain(struct conn *c);
void conn_pause(struct conn *c); /* stop reading: back-pressure */
void conn_resume(struct conn *c);
void conn_shutdown(struct conn *c); /* after queued bytes: FIN; reading goes on */
void conn_close(struct conn *c);    /* drops queued bytes */
void conn_set_ctx(struct conn *c, const struct conn_ops *ops, void *ctx);
const char *conn_peer(const struct conn *c); /* "1.2.3.4:56" */
bool conn_is_tls(const struct conn *c);
/* The protocol that the handshake agreed on, or p == NULL. */
struct str conn_alpn(const struct conn *c);

/* accept: called for each new connection; it must conn_set_ctx or conn_close. */
int listener_open(struct loop *l, const char *host, uint16_t port, const struct conn_opts *opts,
                  void (*on_accept)(void *ctx, struct conn *c), void *ctx, struct listener **out,
                  struct err *e) MUST_CHECK;
uint16_t listener_port(const struct listener *s);
void listener_close(struct listener *s);
#endif
