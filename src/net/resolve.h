/* net/resolve.h - all addresses of a name, by the system's resolver, without blocking the loop.
 * Threads: the loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_RESOLVE_H
#define NET_RESOLVE_H
#include "net/loop.h"

#define RESOLVE_ADDRESSES_MAX 1024
#define RESOLVE_ADDRESS_BYTES 46 /* the longest text of an IPv6 address, with its NUL */

struct resolve;
/* rc 0 and count addresses (each once, sorted by their text), or an error and none. */
typedef void resolve_fn(void *ctx, int rc, const char (*address)[RESOLVE_ADDRESS_BYTES],
                        uint32_t count);
/* fn runs once, later.  NULL: the look-up cannot be started. */
struct resolve *resolve_start(struct loop *l, const char *host, resolve_fn *fn, void *ctx);
/* fn will not run any more. */
void resolve_cancel(struct resolve *r);
#endif
