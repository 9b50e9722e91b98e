/* text/chat.h - chat templates: Jinja as Hugging Face uses it, with bounded work.
 *
 * A template is compiled once and rendered many times.  Text of user messages
 * that equals a special token is escaped by default, so that content cannot
 * forge turns: rendering yields segments, and only template text is parsed for
 * special tokens.
 * Threads: a compiled template is immutable. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TEXT_CHAT_H
#define TEXT_CHAT_H
#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "codec/json.h"
#include "text/tokenizer.h"

struct chat_template;
struct token_cache;

/* source is copied.  ERR_PARSE (line and what), ERR_LIMIT. */
int chat_template_new(struct chat_template **out, struct str source, struct err *e) MUST_CHECK;
void chat_template_free(struct chat_template *t);

struct chat_render_opts {
    const struct json *messages; /* array of {role, content, tool_calls ...} as received */
    const struct json *tools;    /* array or NULL */
    const struct json *kwargs;   /* chat_template_kwargs object or NULL */
    bool add_generation_prompt;
    bool continue_final_message;
    bool allow_special_in_content; /* vLLM's behaviour: content may hold control tokens */
    struct str bos_token, eos_token;
    double now_s;              /* strftime_now; seconds since 1970 */
    struct token_cache *cache; /* chat_tokenize only: of the same tokenizer, or NULL */
};

/* Appends the rendered text.  ERR_INVAL (raise_exception: e has its text), ERR_LIMIT. */
int chat_render(const struct chat_template *t, const struct chat_render_opts *o, struct buf *out,
                struct err *e) MUST_CHECK;
/* Renders and tokenizes, content escaped as opts say.  ids appended to out. */
int chat_tokenize(const struct chat_template *t, const struct chat_render_opts *o,
                  const struct tokenizer *tok, struct token_list *out, struct err *e) MUST_CHECK;
#endif
