/* What the targets http1_req and http1_reply share: a message parsed in pieces gives the same
 * verdict as whole, and one that is accepted survives being written out again. */
// SPDX-License-Identifier: Apache-2.0
#ifndef FUZZ_HTTP1_H
#define FUZZ_HTTP1_H
#include "base/check.h"
#include "base/mem.h"
#include "net/http1.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct verdict {
    enum http1_event event;
    int status;
    const char *reason;
    struct buf body, again; /* again: the message written out anew */
    size_t left, headers;
    bool keep_alive;
};

static void write_again(const struct http1 *p, struct buf *b)
{
    if (p->kind == HTTP1_REQUEST)
        buf_f(b, "%.*s %.*s HTTP/1.%d\r\n", STR_ARG(p->method), STR_ARG(p->target), p->minor);
    else
        buf_f(b, "HTTP/1.%d %d again\r\n", p->minor, p->status);
    for (size_t i = 0; i < p->headers.count; i++) {
        buf_str(b, p->headers.list[i].name);
        buf_c(b, ':');
        buf_str(b, p->headers.list[i].value);
        buf_z(b, "\r\n");
    }
    buf_z(b, "\r\n");
}

static void judge(struct verdict *v, enum http1_kind kind, bool head_only, bool eof,
                  struct str text, size_t step)
{
    struct http1 p;
    bool chunked = false;

    *v = (struct verdict) { .event = HTTP1_MORE, .reason = "" };
    buf_init(&v->body, 1 << 20);
    buf_init(&v->again, 1 << 20);
    http1_init(&p, kind, &(struct http1_limits) { 4096, 20, 4096 });
    p.head_only = head_only;
    for (size_t at = 0; at < text.n && v->event != HTTP1_DONE && v->event != HTTP1_BAD;) {
        size_t n = MIN(step, text.n - at);
        char *copy = mem_dup(text.p + at, n); /* the sanitizer sees its edges */
        struct str in = { copy, n }, piece = STR_NONE;

        at += n;
        do {
            v->event = http1_next(&p, &in, &piece);
            if (v->event == HTTP1_HEAD) {
                v->headers = p.headers.count;
                v->keep_alive = p.keep_alive;
                chunked = p.after_head == HTTP1_IN_CHUNK_SIZE;
                write_again(&p, &v->again);
            }
            if (v->event == HTTP1_BODY) {
                buf_str(&v->body, piece);
                if (chunked)
                    buf_f(&v->again, "%zx\r\n", piece.n);
                buf_str(&v->again, piece);
                if (chunked)
                    buf_z(&v->again, "\r\n");
            }
        } while (v->event == HTTP1_HEAD || v->event == HTTP1_BODY);
        v->left = in.n + (text.n - at);
        mem_free(copy);
        ASSERT(v->body.len <= 4096 && p.head.len <= 4096 && p.trailer.len <= 4096);
    }
    if (eof && v->event == HTTP1_MORE)
        v->event = http1_eof(&p);
    if (v->event == HTTP1_BAD) {
        v->status = p.bad_status;
        v->reason = p.bad_reason;
        v->left = 0;
        buf_reset(&v->body);
    } else {
        v->status = p.status;
    }
    if (v->event == HTTP1_DONE && chunked)
        buf_z(&v->again, "0\r\n\r\n");
    http1_fini(&p);
}

static void verdict_fini(struct verdict *v)
{
    buf_fini(&v->body);
    buf_fini(&v->again);
}

static void agree(const struct verdict *a, const struct verdict *b)
{
    ASSERT(a->event == b->event);
    ASSERT(a->status == b->status);
    ASSERT(strcmp(a->reason, b->reason) == 0);
    ASSERT(a->headers == b->headers && a->keep_alive == b->keep_alive && a->left == b->left);
    ASSERT(str_eq(buf_view(&a->body), buf_view(&b->body)));
}

static void http1_fuzz(enum http1_kind kind, const uint8_t *data, size_t size)
{
    struct verdict whole, cut, again;
    struct str text;
    bool head_only, eof;
    size_t step;

    if (size < 1)
        return;
    step = (size_t)(data[0] >> 2) + 1;
    head_only = kind == HTTP1_REPLY && (data[0] & 1);
    eof = kind == HTTP1_REPLY && (data[0] & 2);
    text = (struct str) { (const char *)data + 1, size - 1 };
    judge(&whole, kind, head_only, eof, text, text.n);
    judge(&cut, kind, head_only, eof, text, step);
    agree(&cut, &whole);
    verdict_fini(&cut);
    judge(&cut, kind, head_only, eof, text, 1);
    agree(&cut, &whole);
    if (whole.event == HTTP1_DONE && whole.again.len <= 2048) {
        judge(&again, kind, head_only, eof, buf_view(&whole.again), step);
        ASSERT(again.event == HTTP1_DONE && again.left == 0);
        ASSERT(again.headers == whole.headers && again.keep_alive == whole.keep_alive);
        ASSERT(str_eq(buf_view(&again.body), buf_view(&whole.body)));
        verdict_fini(&again);
    }
    verdict_fini(&cut);
    verdict_fini(&whole);
}
#endif
