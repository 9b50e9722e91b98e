/* net/watch.h - says when files changed: configuration, keys, certificates.
 *
 * Each path is watched twice, because each way misses something: its directory tells of renames
 * and symlink swaps in it at once, and stat through the name (every 2 s, on libuv's threads) sees
 * what lies behind a symlink to elsewhere or on a file system without events.
 * Threads: the loop's. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_WATCH_H
#define NET_WATCH_H
#include "net/loop.h"
#include <stddef.h>

#define WATCH_FILES_MAX 4
#define WATCH_QUIET_MS  250

struct watch;

/* fn runs once the files (paths are copied, NULLs passed over) have been quiet for WATCH_QUIET_MS
 * after a change (or 2 s long not been quiet).  It may free the watch. */
struct watch *watch_new(struct loop *l, const char *const *path, size_t count, loop_fn *fn,
                        void *ctx);
void watch_free(struct watch *w); /* NULL is fine; before loop_free */
#endif
