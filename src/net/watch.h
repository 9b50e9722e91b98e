/* net/watch.h - tells when a file's content may have changed.
 *
 * Looks at the file's identity, size and time four times a second, through symbolic links, so that
 * editors, atomic renames and the link swaps of mounted volumes are all seen alike; a change is
 * told once it has been still for SETTLE_MS.  A file that vanishes is no change: it is told when it
 * comes back.
 * Threads: the loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_WATCH_H
#define NET_WATCH_H
#include "net/loop.h"

struct watch;
/* path is copied. */
struct watch *watch_new(struct loop *l, const char *path, loop_fn *fn, void *ctx);
void watch_free(struct watch *w); /* NULL is fine */
#endif
