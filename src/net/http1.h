/* net/http1.h - the HTTP/1.1 message parser (RFC 9112): pure, incremental, strict.
 *
 * Bytes in, events out: the answer is the same however the bytes are cut.  Where the RFC leaves a
 * choice it takes the strict side, because another HTTP implementation may sit in front or behind.
 * Threads: one owner. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_HTTP1_H
#define NET_HTTP1_H
#include "base/buf.h"
#include "net/http.h"

enum http1_kind { HTTP1_REQUEST, HTTP1_REPLY };

enum http1_event {
    HTTP1_MORE, /* all bytes used up: feed more */
    HTTP1_HEAD, /* the head is complete: the fields below are valid until http1_reset */
    HTTP1_BODY, /* a piece of the body, borrowed from the input */
    HTTP1_DONE, /* the message is complete; what follows belongs to the next */
    HTTP1_BAD   /* bad_*; the parser stays there */
};

enum http1_state {
    HTTP1_IN_START,
    HTTP1_IN_FIELDS,
    HTTP1_AT_HEAD, /* head parsed: says what comes next */
    HTTP1_IN_LENGTH,
    HTTP1_IN_CHUNK_SIZE,
    HTTP1_IN_CHUNK_EXT,
    HTTP1_IN_CHUNK_LF,
    HTTP1_IN_CHUNK_DATA,
    HTTP1_IN_CHUNK_CR,
    HTTP1_IN_CHUNK_END,
    HTTP1_IN_TRAILERS,
    HTTP1_UNTIL_CLOSE,
    HTTP1_AT_DONE,
    HTTP1_AT_BAD
};

struct http1_limits {
    size_t head_bytes;   /* whole head */
    size_t fields;       /* header lines */
    uint64_t body_bytes; /* UINT64_MAX: the receiver bounds it */
};

struct http1_field {
    uint32_t name, name_len, value, value_len; /* offsets into head */
};

struct http1 {
    enum http1_kind kind;
    enum http1_state state;
    struct http1_limits limits;
    bool head_only; /* replies: the request was HEAD, so no body follows */

    /* valid from HTTP1_HEAD on */
    int minor;                              /* HTTP/1.minor */
    int status;                             /* replies */
    struct str method, target, path, query; /* requests */
    struct str authority;                   /* of an absolute-form target */
    struct http_headers headers;
    bool keep_alive, expect_continue, chunked, has_length;
    uint64_t length;

    /* valid at HTTP1_BAD */
    int bad_status;         /* what to answer; 0: close without a word */
    int bad_rc;             /* ERR_PARSE, ERR_LIMIT, ERR_UNSUPPORTED or ERR_NOMEM */
    const char *bad_reason; /* stable token */
    const char *bad_text;   /* a safe sentence */

    /* inside */
    struct buf head, trailer;
    enum http1_state after_head;
    size_t target_at;
    size_t line_at; /* where the current line begins in its buffer */
    struct http1_field *field;
    struct http_header *list;
    size_t field_count, field_cap, trailer_count;
    uint64_t left, body_seen;
    uint32_t size_digits, ext_bytes, ext_bytes_all;
    bool skipped_blank;
};

void http1_init(struct http1 *p, enum http1_kind kind, const struct http1_limits *limits);
void http1_fini(struct http1 *p);
/* Ready for the next message; keeps kind and limits, no memory. */
void http1_reset(struct http1 *p);
/* Consumes from *in and returns the next event; body: the piece of HTTP1_BODY. */
enum http1_event http1_next(struct http1 *p, struct str *in, struct str *body);
/* The other side sent FIN: HTTP1_DONE when that ends the message, HTTP1_MORE when none has begun,
 * HTTP1_BAD when it is cut short. */
enum http1_event http1_eof(struct http1 *p);
/* Nothing of a message has arrived. */
bool http1_idle(const struct http1 *p);

/* A name made of token characters; a value without line breaks and controls. */
bool http1_name_ok(struct str name);
bool http1_value_ok(struct str value);
/* Does the comma-separated list contain the word (letters in any case)? */
bool http1_list_has(struct str list, const char *word);
const char *http1_status_text(int status);
#endif
