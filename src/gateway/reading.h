/* gateway/reading.h - a request body, read once: who it is for, how long, which blocks.
 *
 * Only what routing needs is looked at; whether the rest is valid is the worker's to say, so that
 * fields of newer dialects pass.  With a model's files (there may be several models, the body's
 * name picks) the prompt is rendered and tokenized as the worker does; without them its bytes
 * stand for tokens, four each, and the keys made of them fit only this process's own notes.
 * Source: the project's scheduler page 6.2, 6.3; kv-cache page 2. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_READING_H
#define GATEWAY_READING_H
#include "base/err.h"
#include "net/loop.h"
#include "openai/openai.h"

enum reading_kind { READING_CHAT, READING_COMPLETION, READING_OTHER };

struct reading {
    char *memory;                 /* owned: what the pointers below point into */
    struct oai_error error;       /* status != 0: refuse with it */
    struct str model;             /* p == NULL: not named */
    struct str target;            /* what the rewrite made of it; p == NULL: it stays */
    size_t model_at, model_bytes; /* the value of "model" in the body, quotes and all; 0, 0: none */
    bool stream, include_usage;
    uint32_t max_tokens; /* 0 = not given */
    struct str salt;     /* cache_salt, or p == NULL */
    bool estimated;      /* tokens and keys are guessed from bytes */
    bool render_failed;  /* the template refused: the worker will say why */
    uint32_t prompt_tokens;
    const uint64_t *keys; /* of full blocks */
    uint32_t key_count;
};

struct reader_model {
    const char *name; /* as bodies name it; NULL: for all that name no other */
    const char *path; /* as text_model_open takes it */
};

#define READER_NAME_MAX 255

struct reader_opts {
    /* What a body's model (p == NULL: not named) becomes: p == NULL, or a name, kept in out.  On
     * the loop or on the reader's thread; NULL: nothing is rewritten. */
    struct str (*rewrite)(void *ctx, struct str model, char out[READER_NAME_MAX + 1]);
    void *rewrite_ctx;
    struct reader *share; /* whose models it uses instead of opening the next two, or NULL */
    const char *model;    /* path of the model for all names that `models` has not, or NULL */
    const struct reader_model *models;
    size_t model_count;
    const char *seed;
    uint32_t block_tokens;
    bool allow_special_in_content;
};

struct reader;
struct reader_job;

/* Opens the files; starts the thread that reads long bodies. */
int reader_new(struct reader **out, struct loop *l, const struct reader_opts *o,
               struct err *e) MUST_CHECK;
void reader_free(struct reader *r);            /* waits for the job that runs; drops the others */
bool reader_has_model(const struct reader *r); /* any */

/* Prompts for these models are estimated from now on, and for no others: their workers tokenize
 * otherwise.  Copied.  Any thread. */
#define READER_DISTRUSTED_MAX 64
void reader_distrust(struct reader *r, const struct str *model, size_t count);

/* Reads now.  out is filled whatever happens (see out->error); reading_free it.
 * model: the name that keys are made with when the body names none. */
void reader_read(struct reader *r, enum reading_kind kind, struct str body, struct str model,
                 struct reading *out);
void reading_free(struct reading *r);

/* The ids of a body's prompt (chat or completion), for comparing with what a worker's /tokenize
 * says of the same body.  Appends to out.  ERR_UNSUPPORTED: no model for it; ERR_PARSE, ERR_INVAL:
 * the body, or its template, says no.  Models of reader_distrust are tokenized all the same.  Same
 * threads as reader_read: any. */
struct token_list;
int reader_tokens(const struct reader *r, enum reading_kind kind, struct str body, struct str model,
                  struct token_list *out, struct err *e) MUST_CHECK;

/* Reads on the thread.  The body is copied; done runs on the loop, once, with a reading that it
 * takes over, unless the job was dropped before.  NULL: the queue is full. */
#define READER_QUEUE_MAX 256
struct reader_job *reader_start(struct reader *r, enum reading_kind kind, struct str body,
                                struct str model, void (*done)(void *ctx, struct reading *r),
                                void *ctx);
void reader_drop(struct reader_job *job);
#endif
