/* HTTP/1.1 messages, byte by byte, strict.
 *
 *   START --line--> FIELDS --blank line--> AT_HEAD -+-> LENGTH -----------------------+-> DONE
 *                                                   +-> CHUNK_SIZE ... -> TRAILERS ---+
 *                                                   +-> UNTIL_CLOSE (replies) --------+
 *
 * The head is gathered in one buffer, since its fields outlive the read; each line is checked when
 * it is complete, so a client that sends half a head hears about its first mistake at once.  Body
 * bytes are handed on from the input without a copy.
 *
 * One answer for any cut: a verdict depends only on the bytes before it.  Length limits are tested
 * before the content of the line that crosses them, complete or not.
 *
 * What is refused, and why, is the table in the project's reliability page, 3.1: every row is a way
 * to make two HTTP implementations disagree on where a message ends. */
// SPDX-License-Identifier: Apache-2.0
#include "net/http1.h"
#include "base/check.h"
#include "base/mem.h"
#include <arpa/inet.h>
#include <string.h>

#define LINE_BYTES_MAX     8192
#define METHOD_BYTES_MAX   32
#define EXT_BYTES_MAX      256  /* extension of one chunk */
#define EXT_BYTES_ALL_MAX  4096 /* of all chunks of a message */
#define SIZE_DIGITS_MAX    8
#define TRAILER_BYTES_MAX  4096
#define TRAILER_COUNT_MAX  16
#define PROTECTED_NAME_MAX 64

enum {
    TCHAR = 1,  /* RFC 9110 token */
    VALUE = 2,  /* field content: visible, space, tab, 8-bit */
    TARGET = 4, /* may stand in a request target */
    HEX = 8
};

static uint8_t classes[256];

__attribute__((constructor)) static void classes_fill(void)
{
    for (unsigned c = 0; c < 256; c++) {
        bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        bool visible = c > ' ' && c < 127;

        if (alnum || (visible && strchr("!#$%&'*+-.^_`|~", (int)c) != NULL))
            classes[c] |= TCHAR;
        if (visible || c == ' ' || c == '\t' || c >= 128)
            classes[c] |= VALUE;
        if (visible && strchr("\"#<>\\^`{|}", (int)c) == NULL)
            classes[c] |= TARGET;
        if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f'))
            classes[c] |= HEX;
    }
}

static bool all_of(struct str s, uint8_t class)
{
    for (size_t i = 0; i < s.n; i++)
        if (!(classes[(unsigned char)s.p[i]] & class))
            return false;
    return true;
}

static unsigned hex_digit(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : ((unsigned)c & 0xdfu) - 'A' + 10;
}

bool http1_name_ok(struct str name)
{
    return name.n != 0 && all_of(name, TCHAR);
}

bool http1_value_ok(struct str value)
{
    return all_of(value, VALUE);
}

static struct str trim_ows(struct str s)
{
    while (s.n != 0 && (s.p[0] == ' ' || s.p[0] == '\t'))
        s = str_sub(s, 1, SIZE_MAX);
    while (s.n != 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

bool http1_list_has(struct str list, const char *word)
{
    while (list.p != NULL)
        if (str_ieq(trim_ows(str_cut(&list, ',')), str_of(word)))
            return true;
    return false;
}

struct str http_header_get(const struct http_headers *h, const char *name)
{
    struct str want = str_of(name);

    for (size_t i = 0; i < h->count; i++)
        if (str_ieq(h->list[i].name, want))
            return h->list[i].value;
    return STR_NONE;
}

const char *http1_status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } known[] = {
        { 100, "Continue" },
        { 200, "OK" },
        { 201, "Created" },
        { 202, "Accepted" },
        { 204, "No Content" },
        { 206, "Partial Content" },
        { 301, "Moved Permanently" },
        { 302, "Found" },
        { 304, "Not Modified" },
        { 307, "Temporary Redirect" },
        { 308, "Permanent Redirect" },
        { 400, "Bad Request" },
        { 401, "Unauthorized" },
        { 403, "Forbidden" },
        { 404, "Not Found" },
        { 405, "Method Not Allowed" },
        { 408, "Request Timeout" },
        { 409, "Conflict" },
        { 411, "Length Required" },
        { 412, "Precondition Failed" },
        { 413, "Content Too Large" },
        { 414, "URI Too Long" },
        { 415, "Unsupported Media Type" },
        { 417, "Expectation Failed" },
        { 421, "Misdirected Request" },
        { 422, "Unprocessable Content" },
        { 429, "Too Many Requests" },
        { 431, "Request Header Fields Too Large" },
        { 499, "Client Closed Request" },
        { 500, "Internal Server Error" },
        { 501, "Not Implemented" },
        { 502, "Bad Gateway" },
        { 503, "Service Unavailable" },
        { 504, "Gateway Timeout" },
        { 505, "HTTP Version Not Supported" },
    };

    for (size_t i = 0; i < COUNT(known); i++)
        if (known[i].status == status)
            return known[i].text;
    return "Status";
}

/* ---- life ---- */

void http1_init(struct http1 *p, enum http1_kind kind, const struct http1_limits *limits)
{
    *p = (struct http1) { .kind = kind, .limits = *limits };
    buf_init(&p->head, limits->head_bytes);
    buf_init(&p->trailer, TRAILER_BYTES_MAX);
}

void http1_fini(struct http1 *p)
{
    buf_fini(&p->head);
    buf_fini(&p->trailer);
    mem_free(p->field);
    mem_free(p->list);
    p->field = NULL;
    p->list = NULL;
}

void http1_reset(struct http1 *p)
{
    http1_fini(p);
    http1_init(
        p, p->kind,
        &(struct http1_limits) { p->limits.head_bytes, p->limits.fields, p->limits.body_bytes });
}

bool http1_idle(const struct http1 *p)
{
    return p->state == HTTP1_IN_START && p->head.len == 0;
}

static int bad(struct http1 *p, int status, const char *reason, const char *text)
{
    p->state = HTTP1_AT_BAD;
    p->bad_status = status;
    p->bad_reason = reason;
    p->bad_text = text;
    p->bad_rc = status == 413 || status == 414 || status == 431 ? ERR_LIMIT
                : status == 503                                 ? ERR_NOMEM
                : status == 501                                 ? ERR_UNSUPPORTED
                                                                : ERR_PARSE;
    return -1;
}

static int no_memory(struct http1 *p)
{
    return bad(p, 503, "overloaded", "The server is out of memory.");
}

/* ---- the first line ---- */

/* Percent sequences are whole; the path hides no separator, NUL or dot segment. */
static bool path_ok(struct str path)
{
    size_t dots = 0, chars = 0; /* of the segment so far, decoded */

    for (size_t i = 0; i <= path.n; i++) {
        char c = i < path.n ? path.p[i] : '/';

        if (c == '%') {
            unsigned v;

            if (path.n - i < 3 || !all_of(str_sub(path, i + 1, 2), HEX))
                return false;
            v = hex_digit(path.p[i + 1]) * 16 + hex_digit(path.p[i + 2]);
            if (v == 0 || v == '/' || v == '\\')
                return false;
            c = (char)v;
            i += 2;
        } else if (c == '/') {
            if (chars == dots && (dots == 1 || dots == 2))
                return false;
            dots = chars = 0;
            continue;
        }
        chars++;
        dots += c == '.';
    }
    return true;
}

static bool query_ok(struct str query)
{
    for (size_t i = 0; i < query.n; i++)
        if (query.p[i] == '%' && (query.n - i < 3 || !all_of(str_sub(query, i + 1, 2), HEX) ||
                                  (query.p[i + 1] == '0' && query.p[i + 2] == '0')))
            return false;
    return true;
}

/* Where the authority of an absolute-form target ends; 0 when there is none. */
static size_t authority_end(struct str target, size_t from)
{
    size_t at = from;

    while (at < target.n && target.p[at] != '/' && target.p[at] != '?')
        at++;
    return at == from ? 0 : at;
}

/* Sets path and query from target. */
static bool target_split(struct http1 *p)
{
    struct str rest = p->target;

    if (str_eqz(rest, "*") && str_eqz(p->method, "OPTIONS")) {
        p->path = rest;
        return true;
    }
    p->authority = STR_NONE;
    if (rest.p[0] != '/') {
        size_t at = str_find(rest, STR("://")), end;
        struct str scheme = str_sub(rest, 0, at);

        if (at == SIZE_MAX || !(str_ieq(scheme, STR("http")) || str_ieq(scheme, STR("https"))))
            return false;
        end = authority_end(rest, at + 3);
        if (end == 0)
            return false;
        p->authority = str_sub(rest, at + 3, end - at - 3);
        rest = str_sub(rest, end, SIZE_MAX);
    }
    p->path = str_cut(&rest, '?');
    p->query = rest;
    if (p->path.n == 0)
        p->path = STR("/");
    return true;
}

static int request_line(struct http1 *p, struct str line)
{
    struct str rest = line;

    p->method = str_cut(&rest, ' ');
    if (!http1_name_ok(p->method) || p->method.n > METHOD_BYTES_MAX || rest.p == NULL)
        return bad(p, 400, "request_line", "The request line is malformed.");
    p->target = str_cut(&rest, ' ');
    if (rest.p == NULL && p->target.n != 0)
        return bad(p, 0, "version", "HTTP/0.9 is not spoken here.");
    if (p->target.n == 0 || str_chr(rest, ' ') != SIZE_MAX)
        return bad(p, 400, "request_line", "The request line is malformed.");
    if (!str_eqz(rest, "HTTP/1.1") && !str_eqz(rest, "HTTP/1.0"))
        return bad(p, 505, "version", "Only HTTP/1.1 and HTTP/1.0 are spoken here.");
    p->minor = rest.p[7] - '0';
    if (str_eqz(p->method, "CONNECT") || str_eqz(p->method, "TRACE"))
        return bad(p, 405, "method", "The method is not allowed.");
    if (!all_of(p->target, TARGET) || !target_split(p) || !path_ok(p->path) || !query_ok(p->query))
        return bad(p, 400, "target", "The request target is not acceptable.");
    p->target_at = (size_t)(p->target.p - p->head.p);
    return 0;
}

static int status_line(struct http1 *p, struct str line)
{
    struct str version = str_sub(line, 0, 9), code = str_sub(line, 9, 3), rest;
    uint64_t v;

    if (!str_eqz(version, "HTTP/1.1 ") && !str_eqz(version, "HTTP/1.0 "))
        return bad(p, 502, "version", "The reply is not HTTP/1.1.");
    rest = str_sub(line, 12, SIZE_MAX);
    if (code.n != 3 || !str_u64(code, &v) || v < 100 || v > 599 ||
        (rest.n != 0 && rest.p[0] != ' ') || !http1_value_ok(rest))
        return bad(p, 502, "status_line", "The status line is malformed.");
    p->minor = line.p[7] - '0';
    p->status = (int)v;
    return 0;
}

/* ---- header fields ---- */

/* Names that decide about framing or steering: a copy with '_' for '-' may be read as the real one
 * by something behind us. */
static bool shadows_protected(struct str name)
{
    static const char *const exact[] = { "content-length",
                                         "transfer-encoding",
                                         "x-prefiller-host-port",
                                         "x-encoder-hosts-ports",
                                         "x-kv-cache-source-host-port",
                                         "x-data-parallel-rank",
                                         "x-request-id",
                                         "x-api-key" };
    static const char *const prefix[] = { "x-gateway-destination-endpoint", "x-llm-d-", "x-envoy-",
                                          "x-forwarded-", "x-real-ip" };
    char dashed[PROTECTED_NAME_MAX];
    struct str s = { dashed, MIN(name.n, sizeof(dashed)) };

    if (str_chr(name, '_') == SIZE_MAX)
        return false;
    for (size_t i = 0; i < s.n; i++)
        dashed[i] = name.p[i] == '_' ? '-' : name.p[i];
    for (size_t i = 0; i < COUNT(exact); i++)
        if (name.n == s.n && str_ieq(s, str_of(exact[i])))
            return true;
    for (size_t i = 0; i < COUNT(prefix); i++)
        if (str_ieq(str_sub(s, 0, strlen(prefix[i])), str_of(prefix[i])))
            return true;
    return false;
}

static int field_check(struct http1 *p, struct str line, struct str *name, struct str *value)
{
    size_t colon = str_chr(line, ':');

    *name = str_sub(line, 0, colon);
    *value = colon == SIZE_MAX ? STR_NONE : trim_ows(str_sub(line, colon + 1, SIZE_MAX));
    if (colon == SIZE_MAX || !http1_name_ok(*name))
        return bad(p, 400, "header_syntax", "A header field is malformed.");
    if (!http1_value_ok(*value))
        return bad(p, 400,
                   str_ieq(*name, STR("transfer-encoding")) ? "framing_te" : "header_syntax",
                   "A header field holds a control character.");
    if (p->kind == HTTP1_REQUEST && shadows_protected(*name))
        return bad(p, 400, "header_syntax", "A header field imitates a reserved name.");
    return 0;
}

static int field_line(struct http1 *p, struct str line)
{
    struct str name, value;

    if (field_check(p, line, &name, &value) != 0)
        return -1;
    if (p->field_count == p->limits.fields)
        return bad(p, 431, "too_large", "The request has too many header fields.");
    if (p->field_count == p->field_cap) {
        size_t cap = MAX(p->field_cap * 2, (size_t)16);
        struct http1_field *f = mem_try_realloc(p->field, cap * sizeof(*f));

        if (f == NULL)
            return no_memory(p);
        p->field = f;
        p->field_cap = cap;
    }
    p->field[p->field_count++] =
        (struct http1_field) { (uint32_t)(name.p - p->head.p), (uint32_t)name.n,
                               (uint32_t)(value.p != NULL ? value.p - p->head.p : 0),
                               (uint32_t)value.n };
    return 0;
}

/* ---- what the head means ---- */

static bool host_ok(struct str host)
{
    struct str name, port = host;
    uint64_t n;

    if (host.n != 0 && host.p[0] == '[') {
        size_t end = str_chr(host, ']');
        char ip[INET6_ADDRSTRLEN];
        struct in6_addr a;

        if (end == SIZE_MAX || end - 1 >= sizeof(ip))
            return false;
        memcpy(ip, host.p + 1, end - 1);
        ip[end - 1] = 0;
        if (inet_pton(AF_INET6, ip, &a) != 1)
            return false;
        port = str_sub(host, end + 1, SIZE_MAX);
        if (port.n == 0)
            return true;
        if (port.p[0] != ':')
            return false;
        port = str_sub(port, 1, SIZE_MAX);
    } else {
        name = str_cut(&port, ':');
        if (name.n == 0 || !all_of(name, TCHAR))
            return false;
        for (size_t i = 0; i < name.n; i++)
            if (strchr("#%^`|", name.p[i]) != NULL)
                return false;
        if (port.p == NULL)
            return true;
    }
    return port.n <= 5 && str_u64(port, &n) && n <= 65535;
}

struct framing {
    struct str host, length, coding, expect;
    size_t hosts, lengths, codings;
    bool close, keep_alive;
};

static void framing_collect(const struct http_headers *h, struct framing *f)
{
    *f = (struct framing) { 0 };
    for (size_t i = 0; i < h->count; i++) {
        struct str name = h->list[i].name, value = h->list[i].value;

        switch (name.n) {
        case 4:
            if (str_ieq(name, STR("host"))) {
                f->host = value;
                f->hosts++;
            }
            break;
        case 6:
            if (str_ieq(name, STR("expect")))
                f->expect = value;
            break;
        case 10:
            if (str_ieq(name, STR("connection"))) {
                f->close |= http1_list_has(value, "close");
                f->keep_alive |= http1_list_has(value, "keep-alive");
            }
            break;
        case 14:
            if (str_ieq(name, STR("content-length"))) {
                f->length = value;
                f->lengths++;
            }
            break;
        case 17:
            if (str_ieq(name, STR("transfer-encoding"))) {
                f->coding = value;
                f->codings++;
            }
            break;
        default: break;
        }
    }
}

static int framing_body(struct http1 *p, const struct framing *f)
{
    if (f->lengths != 0 && f->codings != 0)
        return bad(p, 400, "framing_cl_te",
                   "Content-Length and Transfer-Encoding exclude each other.");
    if (f->lengths > 1 || (f->lengths == 1 && str_chr(f->length, ',') != SIZE_MAX))
        return bad(p, 400, "framing_cl_dup", "Content-Length may be given once.");
    if (f->lengths == 1) {
        if (f->length.n > 19 || !str_u64(f->length, &p->length) || p->length > INT64_MAX)
            return bad(p, 400, "framing_cl_bad", "Content-Length is not a number of bytes.");
        p->has_length = true;
    }
    if (f->codings != 0) {
        if (f->codings > 1 || p->minor == 0)
            return bad(p, 400, "framing_te", "Transfer-Encoding is not acceptable.");
        if (!str_ieq(f->coding, STR("chunked")))
            return bad(p, http1_name_ok(f->coding) ? 501 : 400, "framing_te",
                       "Only the transfer coding chunked is known.");
        p->chunked = true;
    }
    return 0;
}

static int head_request(struct http1 *p, const struct framing *f)
{
    if (f->hosts > 1 || (f->hosts == 0 && p->minor == 1) || (f->hosts == 1 && !host_ok(f->host)))
        return bad(p, 400, "host", "The Host field is missing, doubled or malformed.");
    if (p->authority.n != 0 && !str_ieq(p->authority, f->host))
        return bad(p, 400, "target", "The request target and Host name different servers.");
    if (f->expect.p != NULL && p->minor == 1) {
        if (!str_ieq(f->expect, STR("100-continue")))
            return bad(p, 417, "expect", "Only the expectation 100-continue is known.");
        p->expect_continue = p->chunked || p->length != 0;
    }
    return 0;
}

/* What comes after the head. */
static enum http1_state body_state(const struct http1 *p)
{
    bool none = p->kind == HTTP1_REPLY &&
                (p->head_only || p->status < 200 || p->status == 204 || p->status == 304);

    if (none || (p->has_length && p->length == 0))
        return HTTP1_AT_DONE;
    if (p->chunked)
        return HTTP1_IN_CHUNK_SIZE;
    if (p->has_length)
        return HTTP1_IN_LENGTH;
    return p->kind == HTTP1_REPLY ? HTTP1_UNTIL_CLOSE : HTTP1_AT_DONE;
}

/* Turns offsets into pointers, then decides how the body is framed. */
static int head_finish(struct http1 *p)
{
    struct framing f;

    if (p->kind == HTTP1_REQUEST) { /* the buffer may have moved since the first line */
        p->target.p = p->head.p + p->target_at;
        p->method.p = p->target.p - 1 - p->method.n;
        (void)target_split(p);
    }
    p->list = mem_try_zero(p->field_count, sizeof(*p->list));
    if (p->list == NULL)
        return no_memory(p);
    for (size_t i = 0; i < p->field_count; i++) {
        const struct http1_field *d = &p->field[i];

        p->list[i].name = (struct str) { p->head.p + d->name, d->name_len };
        p->list[i].value = (struct str) { p->head.p + d->value, d->value_len };
    }
    mem_free(p->field);
    p->field = NULL;
    p->headers = (struct http_headers) { p->list, p->field_count };
    framing_collect(&p->headers, &f);
    if (framing_body(p, &f) != 0)
        return -1;
    if (p->kind == HTTP1_REQUEST && head_request(p, &f) != 0)
        return -1;
    p->keep_alive = p->minor == 1 ? !f.close : f.keep_alive && !f.close;
    if (p->has_length && !p->head_only && p->length > p->limits.body_bytes)
        return bad(p, 413, "too_large", "The body is too large.");
    p->left = p->length;
    p->after_head = body_state(p);
    if (p->after_head == HTTP1_UNTIL_CLOSE)
        p->keep_alive = false;
    return 0;
}

/* ---- lines ---- */

/* Gathers one line.  1: *line is complete (without CRLF); 0: more bytes wanted; -1: bad. */
static int take_line(struct http1 *p, struct buf *b, struct str *in, struct str *line)
{
    size_t lf = str_chr(*in, '\n'), take = lf == SIZE_MAX ? in->n : lf + 1, n;
    bool first = p->state == HTTP1_IN_START && p->kind == HTTP1_REQUEST;

    n = b->len - p->line_at + take;
    if (take > b->max - b->len || n > LINE_BYTES_MAX + 2)
        return first ? bad(p, 414, "too_large", "The request line is too long.")
                     : bad(p, p->state == HTTP1_IN_TRAILERS ? 400 : 431,
                           p->state == HTTP1_IN_TRAILERS ? "framing_chunk" : "too_large",
                           "The header fields are too large.");
    if (!buf_add(b, in->p, take))
        return no_memory(p);
    *in = str_sub(*in, take, SIZE_MAX);
    if (lf == SIZE_MAX)
        return 0;
    *line = (struct str) { b->p + p->line_at, n };
    p->line_at = b->len;
    if (n < 2 || line->p[n - 2] != '\r')
        return bad(p, 400, "framing_eol", "A line does not end with CR LF.");
    line->n -= 2;
    if (str_chr(*line, '\r') != SIZE_MAX)
        return bad(p, 400, "framing_eol", "A bare CR is not allowed.");
    return 1;
}

static int step_start(struct http1 *p, struct str *in)
{
    unsigned char c = (unsigned char)in->p[0];
    struct str line;
    int rc;

    /* Something else than HTTP (TLS, say) is told from its first byte. */
    if (p->head.len == 0 && c != '\r' && c != '\n' && !(classes[c] & TCHAR))
        return bad(p, 400, "request_line", "The request line is malformed.");
    rc = take_line(p, &p->head, in, &line);
    if (rc <= 0)
        return rc;
    if (line.n == 0 && p->kind == HTTP1_REQUEST && !p->skipped_blank) {
        p->skipped_blank = true; /* RFC 9112, 2.2: one stray CRLF after a body */
        buf_reset(&p->head);
        p->line_at = 0;
        return 0;
    }
    p->state = HTTP1_IN_FIELDS;
    return p->kind == HTTP1_REQUEST ? request_line(p, line) : status_line(p, line);
}

static int step_fields(struct http1 *p, struct str *in)
{
    struct str line;
    int rc = take_line(p, &p->head, in, &line);

    if (rc <= 0)
        return rc;
    if (line.n != 0)
        return field_line(p, line);
    if (head_finish(p) != 0)
        return -1;
    p->state = HTTP1_AT_HEAD;
    return 0;
}

static int step_trailers(struct http1 *p, struct str *in)
{
    struct str line, name, value;
    int rc = take_line(p, &p->trailer, in, &line);

    if (rc <= 0)
        return rc;
    if (line.n == 0) {
        p->state = HTTP1_AT_DONE;
        return 0;
    }
    if (++p->trailer_count > TRAILER_COUNT_MAX)
        return bad(p, 400, "framing_chunk", "Too many trailer fields.");
    return field_check(p, line, &name, &value);
}

/* ---- chunks ---- */

static int chunk_bad(struct http1 *p)
{
    return bad(p, 400, "framing_chunk", "The chunked body is malformed.");
}

/* One byte of a chunk's header or end. */
static int step_chunk_byte(struct http1 *p, char c)
{
    switch (p->state) {
    case HTTP1_IN_CHUNK_SIZE:
        if (classes[(unsigned char)c] & HEX) {
            p->left = (p->size_digits == 0 ? 0 : p->left * 16) + hex_digit(c);
            return ++p->size_digits > SIZE_DIGITS_MAX ? chunk_bad(p) : 0;
        }
        if (p->size_digits == 0)
            return chunk_bad(p);
        p->ext_bytes = 0;
        if (c == ';')
            p->state = HTTP1_IN_CHUNK_EXT;
        else if (c == '\r')
            p->state = HTTP1_IN_CHUNK_LF;
        else if (c == '\n')
            return bad(p, 400, "framing_eol", "A line does not end with CR LF.");
        else
            return chunk_bad(p);
        return 0;
    case HTTP1_IN_CHUNK_EXT:
        if (c == '\r') {
            p->state = HTTP1_IN_CHUNK_LF;
            return 0;
        }
        if (c == '\n')
            return bad(p, 400, "framing_eol", "A line does not end with CR LF.");
        if (!(classes[(unsigned char)c] & VALUE) || ++p->ext_bytes > EXT_BYTES_MAX ||
            ++p->ext_bytes_all > EXT_BYTES_ALL_MAX)
            return chunk_bad(p);
        return 0;
    case HTTP1_IN_CHUNK_LF:
        if (c != '\n')
            return chunk_bad(p);
        p->size_digits = 0;
        if (p->left > p->limits.body_bytes - p->body_seen)
            return bad(p, 413, "too_large", "The body is too large.");
        p->state = p->left != 0 ? HTTP1_IN_CHUNK_DATA : HTTP1_IN_TRAILERS;
        p->line_at = 0;
        return 0;
    case HTTP1_IN_CHUNK_CR: p->state = HTTP1_IN_CHUNK_END; return c == '\r' ? 0 : chunk_bad(p);
    default: /* HTTP1_IN_CHUNK_END */
        p->state = HTTP1_IN_CHUNK_SIZE;
        return c == '\n' ? 0 : chunk_bad(p);
    }
}

static struct str take_body(struct http1 *p, struct str *in)
{
    struct str piece = str_sub(*in, 0, p->left > SIZE_MAX ? SIZE_MAX : (size_t)p->left);

    *in = str_sub(*in, piece.n, SIZE_MAX);
    p->left -= piece.n;
    p->body_seen += piece.n;
    if (p->left == 0)
        p->state = p->chunked ? HTTP1_IN_CHUNK_CR : HTTP1_AT_DONE;
    return piece;
}

/* ---- the machine ---- */

enum http1_event http1_next(struct http1 *p, struct str *in, struct str *body)
{
    for (;;) {
        switch (p->state) {
        case HTTP1_AT_HEAD: /* just said HTTP1_HEAD: go on with the body */
            p->state = p->after_head;
            continue;
        case HTTP1_AT_DONE: return HTTP1_DONE;
        case HTTP1_AT_BAD: return HTTP1_BAD;
        default: break;
        }
        if (in->n == 0)
            return HTTP1_MORE;
        switch (p->state) {
        case HTTP1_IN_START: (void)step_start(p, in); break;
        case HTTP1_IN_FIELDS:
            (void)step_fields(p, in);
            if (p->state == HTTP1_AT_HEAD)
                return HTTP1_HEAD;
            break;
        case HTTP1_IN_LENGTH:
        case HTTP1_IN_CHUNK_DATA: *body = take_body(p, in); return HTTP1_BODY;
        case HTTP1_UNTIL_CLOSE:
            if (in->n > p->limits.body_bytes - p->body_seen) {
                (void)bad(p, 413, "too_large", "The body is too large.");
                break;
            }
            p->body_seen += in->n;
            *body = *in;
            *in = (struct str) { in->p + in->n, 0 };
            return HTTP1_BODY;
        case HTTP1_IN_TRAILERS: (void)step_trailers(p, in); break;
        default:
            (void)step_chunk_byte(p, in->p[0]);
            *in = str_sub(*in, 1, SIZE_MAX);
            break;
        }
    }
}

enum http1_event http1_eof(struct http1 *p)
{
    if (p->state == HTTP1_AT_HEAD)
        p->state = p->after_head;
    if (http1_idle(p))
        return HTTP1_MORE;
    if (p->state == HTTP1_UNTIL_CLOSE)
        p->state = HTTP1_AT_DONE;
    if (p->state == HTTP1_AT_DONE)
        return HTTP1_DONE;
    if (p->state != HTTP1_AT_BAD)
        (void)bad(p, 400, "cut_short", "The message was cut short.");
    return HTTP1_BAD;
}
