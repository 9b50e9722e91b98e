/* net/conn_tls_priv.h - what conn.c and conn_tls.c know of each other.
 *
 * Only these two look inside a connection. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_CONN_TLS_PRIV_H
#define NET_CONN_TLS_PRIV_H
#include "base/check.h"
#include "net/conn.h"
#include "net/loop_priv.h"

struct seg {
    struct seg *next;
    const char *p;
    size_t n;
    loop_fn *release; /* NULL: the bytes follow the struct */
    void *rctx;
};

enum conn_state { CONN_STARTING, CONN_OPEN, CONN_CLOSING, CONN_CLOSED };

#define CONN_PEER_MAX 64

struct dial;
struct conn_tls;

struct conn {
    uv_tcp_t tcp;
    uv_write_t write;
    uv_shutdown_t fin;
    struct loop_own own;
    struct loop *loop;
    const struct conn_ops *ops;
    void *ctx;
    struct dial *dial;
    struct conn_tls *tls;      /* NULL: plain */
    struct seg *first, **last; /* first `inflight` of them are with libuv; TLS: none, see there */
    size_t inflight, queued, write_max;
    uint64_t written;
    enum conn_state state;
    int close_rc;
    uint32_t dead_ms;
    bool paused, reading, eof, fin_wanted, fin_sent, want_drain, keepalive, next_address;
    char peer[CONN_PEER_MAX];
};

/* conn.c */
void conn_fail(struct conn *c, int rc); /* on_close(rc) follows from the loop */
void conn_read_on(struct conn *c);      /* starts or stops reading, as things now are */
void conn_end_of_data(struct conn *c);  /* the peer's side is shut down: on_eof */
void conn_was_drained(struct conn *c);  /* on_drain when it is due */
void conn_seg_push(struct conn *c, struct seg *s);
void conn_seg_release(struct seg *s);
void conn_fin_send(struct conn *c);

/* conn_tls.c */
/* 0 or ERR_NOMEM.  host: of a client. */
int conn_tls_new(struct conn *c, const struct conn_opts *o, const char *host);
void conn_tls_free(struct conn *c);
void conn_tls_start(struct conn *c); /* the TCP connection stands */
/* Reading may go on: not paused, or the handshake needs it, and nothing older waits. */
bool conn_tls_reads(const struct conn *c);
void conn_tls_resume(struct conn *c);
void conn_tls_bytes(struct conn *c, struct str bytes);
int conn_tls_writev(struct conn *c, const struct str *piece, size_t count, size_t all);
void conn_tls_pump(struct conn *c); /* sends what can be sent */
void conn_tls_closing(struct conn *c, bool clean);
size_t conn_tls_queued(const struct conn *c); /* encrypted and not yet with libuv */
#endif
