/* net/conn_priv.h - calls on connections that only the protocols of net/ use. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_CONN_PRIV_H
#define NET_CONN_PRIV_H
#include "net/conn.h"

#define CONN_PIECES_MAX 8

/* Writes the pieces as one: they leave in one system call when the peer keeps up.  force: past
 * write_max as well, for bytes whose sum is bounded elsewhere. */
int conn_writev(struct conn *c, const struct str *piece, size_t count, bool force) MUST_CHECK;
/* As conn_write_ref, past write_max. */
int conn_write_ref_force(struct conn *c, struct str bytes, loop_fn *release, void *rctx) MUST_CHECK;
/* Closes with RST: the peer cannot take what it has for complete. */
void conn_reset(struct conn *c);
/* Bytes the kernel took so far: tells a slow peer from one that does not read at all. */
uint64_t conn_written(const struct conn *c);
/* Asks the kernel whether the peer sent FIN or RST: for a connection that is paused, where
 * on_eof cannot be seen. */
bool conn_peer_left(const struct conn *c);
/* Holds new connections back in the kernel's queue, and lets them in again. */
void listener_pause(struct listener *s);
void listener_resume(struct listener *s);
#endif
