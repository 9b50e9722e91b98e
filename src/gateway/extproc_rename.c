/* The model's name in responses: a client that asked for a name sees that name, whatever the model
 * server calls it.
 *
 * A pattern begins with a quote, so only quotes are looked at.  What could be the begin of a
 * pattern at the end of a piece is held back, at most one pattern less a byte. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "codec/json.h"
#include "gateway/extproc_priv.h"
#include <string.h>

/* A name in which every byte is escaped, and the rest of the member. */
#define MEMBER_MAX (6 * (size_t)EXTPROC_MODEL_MAX + 16)

static void member(struct buf *b, const char *head, struct str name)
{
    struct json_w w;

    buf_init(b, MEMBER_MAX);
    buf_z(b, head);
    json_w_init(&w, b);
    json_w_str(&w, name);
}

void extproc_rename_init(struct extproc_rename *r, struct str from, struct str to)
{
    static const char *const heads[COUNT(r->pattern)] = { "\"model\":", "\"model\": " };

    *r = (struct extproc_rename) { 0 };
    if (from.n == 0 || to.n == 0 || str_eq(from, to) || from.n > EXTPROC_MODEL_MAX ||
        to.n > EXTPROC_MODEL_MAX)
        return;
    for (size_t i = 0; i < COUNT(heads); i++) {
        member(&r->pattern[i], heads[i], from);
        member(&r->to[i], heads[i], to);
    }
    buf_init(&r->held, MEMBER_MAX);
    r->on = true;
}

void extproc_rename_fini(struct extproc_rename *r)
{
    if (!r->on)
        return;
    for (size_t i = 0; i < COUNT(r->pattern); i++) {
        buf_fini(&r->pattern[i]);
        buf_fini(&r->to[i]);
    }
    buf_fini(&r->held);
    r->on = false;
}

/* The bytes at `at` are a whole pattern (returns its index), or the begin of one (COUNT), or
 * neither. */
static size_t match(const struct extproc_rename *r, struct str at)
{
    size_t found = SIZE_MAX;

    for (size_t i = 0; i < COUNT(r->pattern); i++) {
        struct str p = buf_view(&r->pattern[i]);

        if (str_starts(at, p))
            return i;
        if (str_starts(p, at))
            found = COUNT(r->pattern);
    }
    return found;
}

static bool scan(struct extproc_rename *r, struct str in, bool end, struct buf *out)
{
    bool ok = true;

    while (in.n != 0 && ok) {
        size_t quote = MIN(str_chr(in, '"'), in.n), which;

        ok = buf_str(out, str_sub(in, 0, quote));
        in = str_sub(in, quote, SIZE_MAX);
        which = in.n != 0 ? match(r, in) : SIZE_MAX;
        if (which < COUNT(r->pattern)) {
            ok = ok && buf_str(out, buf_view(&r->to[which]));
            in = str_sub(in, r->pattern[which].len, SIZE_MAX);
        } else if (which == COUNT(r->pattern) && !end) {
            return ok && buf_str(&r->held, in);
        } else if (in.n != 0) {
            ok = ok && buf_c(out, '"');
            in = str_sub(in, 1, SIZE_MAX);
        }
    }
    return ok;
}

bool extproc_rename_feed(struct extproc_rename *r, struct str bytes, bool end, struct buf *out)
{
    struct buf whole;
    bool ok;

    if (!r->on)
        return buf_str(out, bytes);
    if (r->held.len == 0)
        return scan(r, bytes, end, out);
    buf_init(&whole, r->held.len + bytes.n);
    ok = buf_str(&whole, buf_view(&r->held)) && buf_str(&whole, bytes);
    buf_reset(&r->held);
    ok = ok && scan(r, buf_view(&whole), end, out);
    buf_fini(&whole);
    return ok;
}
