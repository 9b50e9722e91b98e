/* gateway/picker.h - the scheduler behind Envoy: ext_proc and health over gRPC, on one loop.
 * Threads: the loop of the front. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_PICKER_H
#define GATEWAY_PICKER_H
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PICKER_NO_PORT UINT16_MAX

struct front;
struct picker;
struct tls_server;

struct picker_opts {
    const char *host;
    uint16_t port;            /* ext_proc, and health beside it; 0 = any free */
    uint16_t health_port;     /* plain-text health alone; PICKER_NO_PORT: none */
    bool shares_port;         /* other loops listen at port, too */
    struct tls_server *tls;   /* of the ext_proc port; NULL: plain text; borrowed */
    size_t message_bytes_max; /* 0 = 4 MiB */
    size_t body_bytes_max;    /* 0 = 16 MiB */
};

int picker_open(struct picker **out, struct front *f, const struct picker_opts *o, struct err *e)
    __attribute__((warn_unused_result));
uint16_t picker_port(const struct picker *p);
uint16_t picker_health_port(const struct picker *p);
/* GOAWAY: streams that are open end on their own. */
void picker_drain(struct picker *p);
void picker_close(struct picker *p); /* NULL is fine */
/* When the oldest unfinished request began, or otherwise.  p may be NULL. */
uint64_t picker_oldest_ns(const struct picker *p, uint64_t otherwise);
#endif
