/* JSON writer: text goes straight into the buf; one bit per open container says
 * whether a comma is due.  Nothing fails half-way: a buf that refuses an append
 * stays refused, and nesting past 64 marks it refused as well. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "codec/json.h"
#include "codec/utf8_priv.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WRITE_DEPTH_MAX 64

void json_w_init(struct json_w *w, struct buf *b)
{
    *w = (struct json_w) { .b = b };
}

/* Before a value or a key: the comma, if one is due. */
static void before(struct json_w *w)
{
    uint64_t bit;

    if (w->after_key) {
        w->after_key = false;
        return;
    }
    if (w->depth == 0 || w->depth > WRITE_DEPTH_MAX)
        return;
    bit = (uint64_t)1 << (w->depth - 1);
    if ((w->has_item & bit) != 0)
        buf_c(w->b, ',');
    w->has_item |= bit;
}

static void open_container(struct json_w *w, char c)
{
    before(w);
    buf_c(w->b, c);
    w->depth++;
    if (w->depth > WRITE_DEPTH_MAX)
        w->b->failed = true;
    else
        w->has_item &= ~((uint64_t)1 << (w->depth - 1));
}

void json_w_obj(struct json_w *w)
{
    open_container(w, '{');
}

void json_w_arr(struct json_w *w)
{
    open_container(w, '[');
}

void json_w_end(struct json_w *w, char close)
{
    ASSERT(w->depth > 0 && !w->after_key);
    w->depth--;
    buf_c(w->b, close);
}

/* What may stand in a JSON string as it is. */
static bool is_plain(uint8_t c)
{
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

static void put_escape(struct buf *b, uint8_t c)
{
    static const char hex[] = "0123456789abcdef";
    char six[6] = { '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] };

    switch (c) {
    case '"': buf_add(b, "\\\"", 2); break;
    case '\\': buf_add(b, "\\\\", 2); break;
    case '\b': buf_add(b, "\\b", 2); break;
    case '\f': buf_add(b, "\\f", 2); break;
    case '\n': buf_add(b, "\\n", 2); break;
    case '\r': buf_add(b, "\\r", 2); break;
    case '\t': buf_add(b, "\\t", 2); break;
    default: buf_add(b, six, sizeof(six)); break;
    }
}

static void put_string(struct buf *b, struct str s)
{
    const uint8_t *p = (const uint8_t *)(s.n != 0 ? s.p : ""), *from = p, *end = p + s.n;
    size_t n, bad = 1;

    buf_c(b, '"');
    while (p < end) {
        if (is_plain(*p)) {
            p++;
            continue;
        }
        n = *p < 0x80 ? 0 : utf8_step(p, end, &bad);
        if (n != 0) {
            p += n;
            continue;
        }
        buf_add(b, from, (size_t)(p - from));
        if (*p < 0x80) {
            put_escape(b, *p);
            p++;
        } else {
            buf_add(b, "\xef\xbf\xbd", 3);
            p += bad;
        }
        from = p;
    }
    buf_add(b, from, (size_t)(p - from));
    buf_c(b, '"');
}

void json_w_key(struct json_w *w, struct str key)
{
    before(w);
    put_string(w->b, key);
    buf_c(w->b, ':');
    w->after_key = true;
}

void json_w_str(struct json_w *w, struct str s)
{
    before(w);
    put_string(w->b, s);
}

static void put_u64(struct json_w *w, bool is_negative, uint64_t v)
{
    char tmp[24];
    size_t at = sizeof(tmp);

    do {
        tmp[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v != 0);
    if (is_negative)
        tmp[--at] = '-';
    before(w);
    buf_add(w->b, tmp + at, sizeof(tmp) - at);
}

void json_w_i64(struct json_w *w, int64_t v)
{
    put_u64(w, v < 0, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

void json_w_u64(struct json_w *w, uint64_t v)
{
    put_u64(w, false, v);
}

/* Most doubles that are written are whole or have a few decimals.  A division is rounded as strtod
 * rounds the decimal, so that v == n / 1000 means that these digits read back as v. */
static bool put_decimals(struct json_w *w, double v)
{
    double a = fabs(v);
    char tmp[24];
    size_t at = sizeof(tmp);
    int decimals = 3;
    uint64_t n;

    if (!(a < 1e9) || (v == 0 && signbit(v)))
        return false;
    n = (uint64_t)(a * 1000 + 0.5);
    if ((double)n / 1000 != a)
        return false;
    for (; decimals > 0 && n % 10 == 0; decimals--)
        n /= 10;
    while (decimals-- > 0) {
        tmp[--at] = (char)('0' + n % 10);
        n /= 10;
        if (decimals == 0)
            tmp[--at] = '.';
    }
    do {
        tmp[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n != 0);
    if (v < 0)
        tmp[--at] = '-';
    before(w);
    buf_add(w->b, tmp + at, sizeof(tmp) - at);
    return true;
}

void json_w_f64(struct json_w *w, double v)
{
    char tmp[32];
    int n = 0;

    if (!isfinite(v)) {
        json_w_null(w);
        return;
    }
    if (put_decimals(w, v))
        return;
    /* 15 digits always survive, 17 always suffice; %g drops trailing zeros. */
    for (int digits = 15; digits <= 17; digits++) {
        n = snprintf(tmp, sizeof(tmp), "%.*g", digits, v);
        if (strtod(tmp, NULL) == v)
            break;
    }
    before(w);
    buf_add(w->b, tmp, (size_t)n);
}

void json_w_bool(struct json_w *w, bool v)
{
    before(w);
    buf_z(w->b, v ? "true" : "false");
}

void json_w_null(struct json_w *w)
{
    before(w);
    buf_add(w->b, "null", 4);
}

void json_w_raw(struct json_w *w, struct str s)
{
    before(w);
    buf_str(w->b, s);
}

void json_w_kstr(struct json_w *w, const char *key, struct str s)
{
    json_w_key(w, str_of(key));
    json_w_str(w, s);
}

void json_w_kz(struct json_w *w, const char *key, const char *z)
{
    json_w_key(w, str_of(key));
    json_w_str(w, str_of(z));
}

void json_w_ki64(struct json_w *w, const char *key, int64_t v)
{
    json_w_key(w, str_of(key));
    json_w_i64(w, v);
}

void json_w_ku64(struct json_w *w, const char *key, uint64_t v)
{
    json_w_key(w, str_of(key));
    json_w_u64(w, v);
}

void json_w_kf64(struct json_w *w, const char *key, double v)
{
    json_w_key(w, str_of(key));
    json_w_f64(w, v);
}

void json_w_kbool(struct json_w *w, const char *key, bool v)
{
    json_w_key(w, str_of(key));
    json_w_bool(w, v);
}

void json_w_knull(struct json_w *w, const char *key)
{
    json_w_key(w, str_of(key));
    json_w_null(w);
}

void json_w_kobj(struct json_w *w, const char *key)
{
    json_w_key(w, str_of(key));
    json_w_obj(w);
}

void json_w_karr(struct json_w *w, const char *key)
{
    json_w_key(w, str_of(key));
    json_w_arr(w);
}

void json_w_kraw(struct json_w *w, const char *key, struct str s)
{
    json_w_key(w, str_of(key));
    json_w_raw(w, s);
}
