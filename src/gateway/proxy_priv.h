/* gateway/proxy_priv.h - what proxy.c and stream.c share of an exchange's life. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_PROXY_PRIV_H
#define GATEWAY_PROXY_PRIV_H
#include "gateway/gateway_priv.h"

/* The one way out: cancels what runs, closes the books, frees x. */
void exchange_end(struct exchange *x);
/* Sends the head of a streamed answer. */
void exchange_start_stream(struct exchange *x);

/* Bytes of a streamed answer came. */
void stream_body(struct exchange *x, struct str bytes);
/* The worker's side ended: well (rc 0) or not.  The head has been sent. */
void stream_end(struct exchange *x, int rc);
/* Ends a started stream in an error event, without the end mark, visibly cut. */
void stream_cut(struct exchange *x, const char *code, const char *message);
/* The same with the error given; its code is static. */
void stream_fail(struct exchange *x, const struct oai_error *e);
/* Tells a client that waits its place in the queue. */
void stream_place(struct exchange *x, uint32_t position);
bool stream_place_is_due(const struct exchange *x, uint64_t now_ns);
/* The client has room again. */
void stream_drained(void *ctx);
/* Nothing came for a while: a comment keeps the connection alive. */
void stream_quiet(struct exchange *x, uint64_t now_ns);
#endif
