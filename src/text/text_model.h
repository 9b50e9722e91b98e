/* text/text_model.h - what a model's files say about text: tokenizer, chat template, BOS and EOS.
 *
 * A model is named by a GGUF file, by a tokenizer.json, or by a folder that has one.  Beside a
 * tokenizer.json these count when they are there: tokenizer_config.json (bos_token, eos_token,
 * add_bos_token, add_eos_token, chat_template as text or list), and, before its chat_template,
 * chat_template.jinja and chat_template.json.
 * Threads: immutable once opened. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TEXT_TEXT_MODEL_H
#define TEXT_TEXT_MODEL_H
#include "base/arena.h"
#include "base/err.h"

struct chat_template;
struct gguf;
struct tokenizer;

struct text_model {
    struct tokenizer *tokenizer;
    struct chat_template *chat_template; /* NULL: none */
    struct chat_template *tool_template; /* for requests with tools; NULL: as the others */
    struct str bos, eos;                 /* for the template; p == NULL: none */
    struct gguf *gguf;                   /* private, as what follows */
    struct arena own;
};

/* May block on the disk.  ERR_* with the file's name and what is wrong. */
int text_model_open(struct text_model **out, const char *path, struct err *e) MUST_CHECK;
void text_model_close(struct text_model *m);
#endif
