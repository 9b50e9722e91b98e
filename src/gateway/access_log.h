/* gateway/access_log.h - one JSON line a request, without its content.
 *
 * Lines gather in a buffer and are written from a thread of the log's own, so that a slow disk or a
 * full pipe never holds the loop: past the ceiling lines are dropped and counted.  reopen follows
 * a log that was rotated away.
 * Threads: any for access_log_write. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_ACCESS_LOG_H
#define GATEWAY_ACCESS_LOG_H
#include "base/buf.h"
#include "base/err.h"

struct access_log;

/* path "-": standard output.  Created with mode 0600. */
int access_log_open(struct access_log **out, const char *path, struct err *e) MUST_CHECK;
void access_log_close(struct access_log *a); /* writes what is left; NULL is fine */
void access_log_write(struct access_log *a, struct str line); /* with its newline */
void access_log_reopen(struct access_log *a);
uint64_t access_log_dropped(struct access_log *a);
#endif
