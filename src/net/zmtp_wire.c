/* ZMTP 3.0 bytes (RFC 23).
 *
 *   greeting (64) then frames: flags, length (1 or 8 bytes, big endian), body
 *   flags: 1 = more frames follow, 2 = long length, 4 = command
 *
 * A peer needs no credentials, so nothing it says is believed before it is checked: a message has
 * at most ZMTP_FRAMES_MAX frames, empty ones counted, and bytes_max bytes, both tested before
 * memory is taken for the frame.  (A library peer without these two checks was driven to hundreds
 * of MB.) */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "net/zmtp_priv.h"
#include <string.h>

#define FLAG_MORE    1u
#define FLAG_LONG    2u
#define FLAG_COMMAND 4u
#define KEEP_BYTES   ((size_t)64 << 10) /* memory kept between messages */

const unsigned char zmtp_greeting[ZMTP_GREETING_BYTES] = {
    [0] = 0xff, [9] = 0x7f, [10] = 3, [12] = 'N', [13] = 'U', [14] = 'L', [15] = 'L'
};

void zmtp_reader_init(struct zmtp_reader *r, size_t bytes_max)
{
    *r = (struct zmtp_reader) { .bytes_max = bytes_max };
    buf_init(&r->bytes, bytes_max);
}

void zmtp_reader_fini(struct zmtp_reader *r)
{
    buf_fini(&r->bytes);
}

static enum zmtp_event bad(struct zmtp_reader *r)
{
    r->state = ZMTP_AT_BAD;
    return ZMTP_BAD;
}

/* Byte i of the greeting: false as soon as it cannot become an acceptable one. */
static bool greeting_byte_ok(size_t i, unsigned char c)
{
    if (i == 0 || i == 9)
        return c == zmtp_greeting[i];
    if (i == 10)
        return c >= 3; /* a later version speaks ours when it sees our number */
    if (i >= 12 && i < 32)
        return c == zmtp_greeting[i]; /* mechanism NULL */
    return true;
}

static bool greeting_take(struct zmtp_reader *r, struct str *in)
{
    while (in->n != 0 && r->have < ZMTP_GREETING_BYTES) {
        unsigned char c = (unsigned char)in->p[0];

        if (!greeting_byte_ok(r->have, c)) {
            (void)bad(r);
            return false;
        }
        r->greeting[r->have++] = c;
        *in = str_sub(*in, 1, SIZE_MAX);
    }
    if (r->have < ZMTP_GREETING_BYTES)
        return false;
    r->have = 0;
    r->state = ZMTP_AT_FLAGS;
    return true;
}

static void flags_take(struct zmtp_reader *r, unsigned char c)
{
    r->flags = c;
    r->length = 0;
    r->have = 0;
    r->state = ZMTP_AT_LENGTH;
    /* Reserved bits; a command of several frames or inside a message; too many frames. */
    if ((c & ~(FLAG_MORE | FLAG_LONG | FLAG_COMMAND)) != 0 ||
        ((c & FLAG_COMMAND) != 0 && ((c & FLAG_MORE) != 0 || r->count != 0)) ||
        r->count == ZMTP_FRAMES_MAX)
        (void)bad(r);
}

static void length_take(struct zmtp_reader *r, unsigned char c)
{
    r->length = r->length << 8 | c;
    if (++r->have < ((r->flags & FLAG_LONG) != 0 ? 8u : 1u))
        return;
    r->left = r->length;
    r->state = ZMTP_AT_BODY;
    if (r->length > r->bytes_max - r->bytes.len)
        (void)bad(r);
}

/* The frame is complete: a command, a message, or one more frame of it (ZMTP_MORE). */
static enum zmtp_event frame_done(struct zmtp_reader *r, struct zmtp_msg *m)
{
    struct str all = buf_view(&r->bytes);
    size_t at = 0;

    r->state = ZMTP_AT_FLAGS;
    if ((r->flags & FLAG_COMMAND) != 0) {
        size_t n = all.n != 0 ? (unsigned char)all.p[0] : 0;

        if (n == 0 || n > all.n - 1)
            return bad(r);
        m->count = 2;
        m->frame[0] = str_sub(all, 1, n);
        m->frame[1] = str_sub(all, 1 + n, SIZE_MAX);
        r->delivered = true;
        return ZMTP_COMMAND;
    }
    r->end[r->count++] = all.n;
    if ((r->flags & FLAG_MORE) != 0)
        return ZMTP_MORE;
    m->count = r->count;
    for (size_t i = 0; i < r->count; i++) {
        m->frame[i] = str_sub(all, at, r->end[i] - at);
        at = r->end[i];
    }
    r->count = 0;
    r->delivered = true;
    return ZMTP_MESSAGE;
}

enum zmtp_event zmtp_next(struct zmtp_reader *r, struct str *in, struct zmtp_msg *m)
{
    m->count = 0;
    if (r->delivered) {
        r->delivered = false;
        if (r->bytes.cap > KEEP_BYTES)
            buf_fini(&r->bytes);
        buf_reset(&r->bytes);
    }
    for (;;) {
        struct str piece;

        if (r->state == ZMTP_AT_BAD)
            return ZMTP_BAD;
        if (r->state == ZMTP_AT_BODY && r->left == 0) {
            enum zmtp_event ev = frame_done(r, m);

            if (ev != ZMTP_MORE)
                return ev;
        }
        if (in->n == 0)
            return ZMTP_MORE;
        switch (r->state) {
        case ZMTP_AT_GREETING:
            if (greeting_take(r, in))
                return ZMTP_GREETED;
            break;
        case ZMTP_AT_FLAGS:
            flags_take(r, (unsigned char)in->p[0]);
            *in = str_sub(*in, 1, SIZE_MAX);
            break;
        case ZMTP_AT_LENGTH:
            length_take(r, (unsigned char)in->p[0]);
            *in = str_sub(*in, 1, SIZE_MAX);
            break;
        default:
            piece = str_sub(*in, 0, (size_t)r->left);
            if (!buf_str(&r->bytes, piece))
                return bad(r);
            r->left -= piece.n;
            *in = str_sub(*in, piece.n, SIZE_MAX);
            break;
        }
    }
}

static bool put_frame(struct buf *b, unsigned flags, struct str head, struct str body)
{
    uint64_t n = head.n + body.n;

    if (n > 255) {
        buf_c(b, (char)(flags | FLAG_LONG));
        for (int shift = 56; shift >= 0; shift -= 8)
            buf_c(b, (char)(n >> shift));
    } else {
        buf_c(b, (char)flags);
        buf_c(b, (char)n);
    }
    buf_str(b, head);
    return buf_str(b, body);
}

bool zmtp_put(struct buf *b, const struct zmtp_msg *m)
{
    ASSERT(m->count >= 1 && m->count <= ZMTP_FRAMES_MAX);
    for (size_t i = 0; i < m->count; i++)
        put_frame(b, i + 1 < m->count ? FLAG_MORE : 0, STR_NONE, m->frame[i]);
    return !b->failed;
}

bool zmtp_put_command(struct buf *b, const char *name, struct str data)
{
    char head[64];
    size_t n = strlen(name);

    ASSERT(n < sizeof(head));
    head[0] = (char)n;
    memcpy(head + 1, name, n);
    return put_frame(b, FLAG_COMMAND, (struct str) { head, n + 1 }, data);
}

bool zmtp_put_ready(struct buf *b, const char *socket_type)
{
    char data[64];
    size_t n = strlen(socket_type), at = 0;
    bool identity = strcmp(socket_type, "DEALER") == 0 || strcmp(socket_type, "ROUTER") == 0;

    ASSERT(n <= 8);
    memcpy(data, "\x0bSocket-Type\0\0\0", 15);
    data[15] = (char)n;
    memcpy(data + 16, socket_type, n);
    at = 16 + n;
    if (identity) {
        memcpy(data + at, "\x08Identity\0\0\0\0", 13);
        at += 13;
    }
    return zmtp_put_command(b, "READY", (struct str) { data, at });
}

struct str zmtp_property(struct str data, const char *name)
{
    while (data.n != 0) {
        size_t n = (unsigned char)data.p[0], size = 0;
        struct str key = str_sub(data, 1, n);

        if (key.n != n || data.n - 1 - n < 4)
            return STR_NONE;
        for (size_t i = 0; i < 4; i++)
            size = size << 8 | (unsigned char)data.p[1 + n + i];
        data = str_sub(data, 5 + n, SIZE_MAX);
        if (size > data.n)
            return STR_NONE;
        if (str_ieq(key, str_of(name)))
            return str_sub(data, 0, size);
        data = str_sub(data, size, SIZE_MAX);
    }
    return STR_NONE;
}
