/* net/resolve.h - every address behind a name, off the loop (getaddrinfo on libuv's threads).
 *
 * Source: RFC 1035 as the C library's resolver does it: /etc/hosts, search domains, DNS.
 * Threads: the loop that asked. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_RESOLVE_H
#define NET_RESOLVE_H
#include "net/loop.h"

#define RESOLVE_ADDRESSES_MAX 4096

struct resolve;

/* rc 0: address[0..count) is sorted, without doubles, in the form of addr_parse ("1.2.3.4:80",
 * "[::1]:80"), borrowed for the call; count is not 0.  Else why says what the resolver said.
 * A name with addresses of both families gives the IPv4 ones: they are the same machines. */
typedef void resolve_fn(void *ctx, int rc, char *const *address, uint32_t count, const char *why);

/* Asks once.  fn comes from the loop, exactly once, unless cancelled before. */
int resolve_start(struct loop *l, const char *host, uint16_t port, resolve_fn *fn, void *ctx,
                  struct resolve **out, struct err *e) MUST_CHECK;
void resolve_cancel(struct resolve *r); /* NULL is fine; fn does not come any more */
#endif
