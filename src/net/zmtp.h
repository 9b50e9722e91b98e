/* net/zmtp.h - ZMTP 3.0 over TCP (NULL mechanism): PUB, SUB, and the ROUTER/DEALER of replay.
 *
 * Enough to speak with libzmq 4.x.  Every length is checked against a ceiling
 * before memory is taken.  Source: RFC 23/ZMTP 3.0; the project's kv-cache page
 * 3.1 and 3.6.  Threads: everything on its loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_ZMTP_H
#define NET_ZMTP_H
#include "net/loop.h"
#include "base/str.h"

#define ZMTP_FRAMES_MAX    16
#define ZMTP_MSG_BYTES_MAX ((size_t)8 << 20)

struct zmtp_msg {
    struct str frame[ZMTP_FRAMES_MAX];
    size_t count;
};

struct zmtp_pub;
/* Binds.  Slow subscribers lose whole messages past queue_bytes_max each (0 = 16 MiB). */
int zmtp_pub_open(struct loop *l, const char *host, uint16_t port, size_t queue_bytes_max,
                  struct zmtp_pub **out, struct err *e) MUST_CHECK;
uint16_t zmtp_pub_port(const struct zmtp_pub *p);
/* Also serves a subscriber that binds (a central index): connects to it, again and again. */
int zmtp_pub_connect(struct zmtp_pub *p, const char *host, uint16_t port, struct err *e) MUST_CHECK;
/* Sends to every subscriber whose prefix matches frame 0. */
void zmtp_pub_send(struct zmtp_pub *p, const struct zmtp_msg *m);
size_t zmtp_pub_peers(const struct zmtp_pub *p);
/* that subscribed to something */                /* subscribers after their handshake */
uint64_t zmtp_pub_lost(const struct zmtp_pub *p); /* messages a slow subscriber did not get */
void zmtp_pub_close(struct zmtp_pub *p);

/* Answers replay requests: on_request gets the asked-for message; the handler replies with
 * zmtp_router_send to that peer, frames as on the wire (the empty delimiter first). */
struct zmtp_router;
struct zmtp_peer;
int zmtp_router_open(struct loop *l, const char *host, uint16_t port,
                     void (*on_request)(void *ctx, struct zmtp_peer *peer,
                                        const struct zmtp_msg *m),
                     void *ctx, struct zmtp_router **out, struct err *e) MUST_CHECK;
uint16_t zmtp_router_port(const struct zmtp_router *r);
/* 0, ERR_AGAIN (16 MiB are queued: nothing was added), ERR_CLOSED. */
int zmtp_router_send(struct zmtp_peer *peer, const struct zmtp_msg *m) MUST_CHECK;
/* For a reply that goes on after on_request returned: drain runs when there is room again, gone
 * (once, last) when the peer is no more.  Either may be NULL; without gone, do not keep peer. */
void zmtp_peer_watch(struct zmtp_peer *peer, loop_fn *drain, loop_fn *gone, void *ctx);
void zmtp_router_close(struct zmtp_router *r);

enum zmtp_kind { ZMTP_SUB, ZMTP_DEALER };

struct zmtp_client;
struct zmtp_client_ops {
    void (*on_up)(void *ctx);   /* handshake done (subscription sent) */
    void (*on_down)(void *ctx); /* lost; it reconnects by itself, with back-off up to 5 s */
    void (*on_msg)(void *ctx, const struct zmtp_msg *m); /* borrowed for the call */
};
int zmtp_client_open(struct loop *l, enum zmtp_kind kind, const char *host, uint16_t port,
                     struct str subscribe, const struct zmtp_client_ops *ops, void *ctx,
                     struct zmtp_client **out, struct err *e) MUST_CHECK;
/* DEALER.  0, ERR_AGAIN (too much is queued), ERR_CLOSED (not up). */
int zmtp_client_send(struct zmtp_client *c, const struct zmtp_msg *m) MUST_CHECK;
void zmtp_client_close(struct zmtp_client *c); /* no callback follows */

/* A SUB that binds: publishers connect to it.  peer is the publisher's "address:port". */
struct zmtp_sub;
int zmtp_sub_bind(struct loop *l, const char *host, uint16_t port, struct str subscribe,
                  void (*on_msg)(void *ctx, const char *peer, const struct zmtp_msg *m), void *ctx,
                  struct zmtp_sub **out, struct err *e) MUST_CHECK;
uint16_t zmtp_sub_port(const struct zmtp_sub *s);
void zmtp_sub_close(struct zmtp_sub *s);
#endif
