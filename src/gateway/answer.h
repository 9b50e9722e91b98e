/* gateway/answer.h - what a proxy must know of an answer that it does not parse.
 *
 * Source: WHATWG HTML 9.2 (event streams); OpenAI API reference (usage, [DONE]).
 * Threads: pure functions. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_ANSWER_H
#define GATEWAY_ANSWER_H
#include "base/buf.h"
#include "base/str.h"

struct answer_usage {
    bool known, cached_known;
    uint32_t prompt_tokens, completion_tokens, cached_tokens;
};

struct answer_seen {
    uint32_t events; /* data lines, the end mark left out */
    bool done;       /* the end mark "data: [DONE]" */
    bool error;      /* a data line that begins with an error object */
};

/* Bytes of s up to and with the last blank line that ends an event; 0 when there is none. */
size_t answer_whole_events(struct str s);
/* Adds what whole events say.  usage: the last one wins. */
void answer_inspect(struct str events, struct answer_seen *seen, struct answer_usage *usage);
/* The last "usage" object of a JSON text. */
void answer_find_usage(struct str text, struct answer_usage *usage);
/* Appends text to out with every "model":"from" (one blank after the colon is allowed) naming `to`
 * instead.  from holds nothing that JSON escapes; text holds whole events or a whole
 * object, so that no match is cut in two. */
void answer_rename(struct str text, struct str from, struct str to, struct buf *out);
#endif
