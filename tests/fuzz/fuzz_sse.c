/* Server-sent events: byte 0 chooses the cuts.  The same events at every cut as from a slow reader
 * that first splits the text into lines. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "net/sse.h"

#define EVENT_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void collect(void *ctx, struct str data)
{
    struct buf *b = ctx;

    ASSERT(data.n <= EVENT_MAX);
    buf_f(b, "%zu=", data.n);
    buf_str(b, data);
}

static int feed(struct str text, size_t step, struct buf *out)
{
    struct sse s;
    int rc = 0;

    sse_init(&s, EVENT_MAX);
    for (size_t at = 0; at < text.n && rc == 0; at += step) {
        size_t n = MIN(step, text.n - at);
        char *copy = mem_dup(text.p + at, n);

        rc = sse_feed(&s, (struct str) { copy, n }, collect, out);
        mem_free(copy);
    }
    sse_fini(&s);
    return rc;
}

/* The reference: whole text, no ceilings, the standard's steps one after the other. */
static void reference(struct str text, struct buf *out)
{
    struct buf event;
    bool any = false;

    buf_init(&event, 16 << 20);
    if (str_starts(text, STR("\xef\xbb\xbf")))
        text = str_sub(text, 3, SIZE_MAX);
    for (size_t at = 0; at < text.n;) {
        size_t end = at;
        struct str line, value;

        while (end < text.n && text.p[end] != '\n' && text.p[end] != '\r')
            end++;
        if (end == text.n)
            break;
        line = str_sub(text, at, end - at);
        at = end + (text.p[end] == '\r' && end + 1 < text.n && text.p[end + 1] == '\n' ? 2 : 1);
        if (line.n == 0) {
            if (any) {
                event.len--; /* the last LF */
                buf_f(out, "%zu=", event.len);
                buf_str(out, buf_view(&event));
            }
            buf_reset(&event);
            any = false;
        } else if (str_eqz(line, "data") || str_starts(line, STR("data:"))) {
            value = str_sub(line, 5, SIZE_MAX);
            if (value.n != 0 && value.p[0] == ' ')
                value = str_sub(value, 1, SIZE_MAX);
            buf_str(&event, value);
            buf_c(&event, '\n');
            any = true;
        }
    }
    buf_fini(&event);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf whole, cut, slow;
    struct str text;
    int rc;

    if (size < 1)
        return 0;
    text = (struct str) { (const char *)data + 1, size - 1 };
    buf_init(&whole, 16 << 20);
    buf_init(&cut, 16 << 20);
    buf_init(&slow, 16 << 20);
    rc = feed(text, text.n, &whole);
    ASSERT(feed(text, (size_t)data[0] % 20 + 1, &cut) == rc);
    ASSERT(str_eq(buf_view(&whole), buf_view(&cut)));
    reference(text, &slow);
    ASSERT(rc == ERR_LIMIT ? str_starts(buf_view(&slow), buf_view(&whole))
                           : str_eq(buf_view(&slow), buf_view(&whole)));
    buf_fini(&whole);
    buf_fini(&cut);
    buf_fini(&slow);
    return 0;
}
