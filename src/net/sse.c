/* Server-sent events, incrementally.
 *
 * Lines end with LF, CR or CR LF; "data" lines are joined by LF; an empty line ends the event.  A
 * whole line inside the input is read in place; only a line that the input cuts goes through
 * `line`.  Comments and the fields event, id and retry are passed over; an event without data is
 * none. */
// SPDX-License-Identifier: Apache-2.0
#include "net/sse.h"
#include "base/err.h"

void sse_init(struct sse *s, size_t event_bytes_max)
{
    *s = (struct sse) { .at_start = true };
    buf_init(&s->line, event_bytes_max + 16); /* the field's name on top */
    buf_init(&s->data, event_bytes_max);
}

void sse_fini(struct sse *s)
{
    buf_fini(&s->line);
    buf_fini(&s->data);
}

static int line_done(struct sse *s, struct str line, void (*on_event)(void *ctx, struct str data),
                     void *ctx)
{
    struct str name, value = line;

    if (s->at_start && str_starts(line, STR("\xef\xbb\xbf"))) /* one byte order mark is allowed */
        value = line = str_sub(line, 3, SIZE_MAX);
    s->at_start = false;
    if (line.n == 0) {
        if (s->has_data) {
            s->has_data = false;
            on_event(ctx, buf_view(&s->data));
            buf_reset(&s->data);
        }
        return 0;
    }
    name = str_cut(&value, ':');
    if (!str_eqz(name, "data"))
        return 0;
    if (value.n != 0 && value.p[0] == ' ')
        value = str_sub(value, 1, SIZE_MAX);
    if (s->has_data && !buf_c(&s->data, '\n'))
        return ERR_LIMIT;
    s->has_data = true;
    return buf_str(&s->data, value) ? 0 : ERR_LIMIT;
}

int sse_feed(struct sse *s, struct str in, void (*on_event)(void *ctx, struct str data), void *ctx)
{
    while (in.n != 0) {
        size_t end = 0;
        int rc;

        if (s->skip_lf) { /* the LF of a CR LF that the input may have cut */
            s->skip_lf = false;
            if (in.p[0] == '\n') {
                in = str_sub(in, 1, SIZE_MAX);
                continue;
            }
        }
        while (end < in.n && in.p[end] != '\n' && in.p[end] != '\r')
            end++;
        if (end == in.n)
            return buf_str(&s->line, in) ? 0 : ERR_LIMIT;
        s->skip_lf = in.p[end] == '\r';
        if (s->line.len == 0) {
            if (end > s->line.max)
                return ERR_LIMIT;
            rc = line_done(s, str_sub(in, 0, end), on_event, ctx);
        } else {
            if (!buf_add(&s->line, in.p, end))
                return ERR_LIMIT;
            rc = line_done(s, buf_view(&s->line), on_event, ctx);
            buf_reset(&s->line);
        }
        if (rc != 0)
            return rc;
        in = str_sub(in, end + 1, SIZE_MAX);
    }
    return 0;
}
