/* net/sse.h - server-sent events: an incremental reader of "data:" lines (WHATWG HTML, 9.2). */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_SSE_H
#define NET_SSE_H
#include "base/buf.h"

struct sse {
    struct buf line, data;
    bool has_data, skip_lf, at_start;
};

void sse_init(struct sse *s, size_t event_bytes_max);
void sse_fini(struct sse *s);
/* Calls on_event with the joined data of each finished event.  Returns 0 or ERR_LIMIT
 * (an event or a line over the ceiling: the stream cannot be read on).  An event that is not
 * ended by an empty line does not count. */
int sse_feed(struct sse *s, struct str bytes, void (*on_event)(void *ctx, struct str data),
             void *ctx);
#endif
