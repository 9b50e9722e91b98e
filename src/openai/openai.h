/* openai/openai.h - requests and replies of the OpenAI-compatible API as structs.
 *
 * Parsing validates everything (types, ranges, limits) and names the field at
 * fault; building writes exactly the fields that OpenAI's and vLLM's clients
 * read.  No sockets here.  Source: OpenAI API reference; vLLM's protocol files;
 * the project's worker-api page, sections 3, 5-7, 9, 13, 19.
 * Threads: pure functions; everything lives in the caller's arena. */
// SPDX-License-Identifier: Apache-2.0
#ifndef OPENAI_OPENAI_H
#define OPENAI_OPENAI_H
#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "codec/json.h"

#define OAI_N_MAX          16
#define OAI_STOP_MAX       16
#define OAI_STOP_BYTES_MAX 256
#define OAI_STOP_IDS_MAX   32
#define OAI_BIAS_MAX       1024
#define OAI_LOGPROBS_MAX   20
#define OAI_PROMPTS_MAX    64

/* Errors in OpenAI's shape: {"error":{"message","type","param","code","reason"}}, where code is
 * the HTTP status as vLLM sends it and reason our stable word.  Words of this module: json_syntax
 * json_too_deep json_too_large type range value missing limit combination unsupported. */
struct oai_error {
    int status;        /* HTTP */
    const char *type;  /* "BadRequestError", "NotFoundError", "ServiceUnavailableError" ... */
    const char *code;  /* stable: "range", "model_not_found", "context_length_exceeded" ... */
    const char *param; /* field at fault, or NULL */
    char message[512];
};
int oai_fail(struct oai_error *e, int status, const char *type, const char *code, const char *param,
             const char *fmt, ...) __attribute__((format(printf, 6, 7))); /* returns ERR_INVAL */
void oai_error_body(const struct oai_error *e, struct buf *out);

struct oai_bias {
    uint32_t id;
    float bias;
};

/* Common to chat and completions. */
struct oai_request {
    struct str model;
    bool stream, include_usage, continuous_usage;
    uint32_t n;         /* 1..OAI_N_MAX */
    int64_t max_tokens; /* -1 = not given: fill the context (chat); completions: 16 */
    uint32_t min_tokens;
    float temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty;
    bool has_temperature; /* given by the client (else the model's default applies) */
    uint32_t top_k;       /* 0 = off (the API's -1 too) */
    bool has_seed;
    uint64_t seed;
    struct str stop[OAI_STOP_MAX];
    uint32_t stop_count;
    uint32_t stop_ids[OAI_STOP_IDS_MAX];
    uint32_t stop_id_count;
    bool include_stop_str_in_output, ignore_eos, skip_special_tokens;
    const struct oai_bias *bias;
    uint32_t bias_count;
    int logprobs;        /* -1 off, else N top */
    int prompt_logprobs; /* -1 off */
    bool return_token_ids;
    int32_t priority;
    struct str cache_salt, request_id, user;
    const struct json *kv_transfer_params; /* as received, or NULL */

    /* chat */
    bool is_chat;
    /* messages: content is a string or null (text parts joined), arguments of tool calls are
     * objects.  kwargs: with reasoning_effort, enable_thinking and documents of the request. */
    const struct json *messages, *tools, *chat_template_kwargs;
    struct str chat_template; /* given in the request: refused unless trusted */
    bool add_generation_prompt, continue_final_message, add_special_tokens;
    bool echo; /* completions (chat: of the last message) */

    /* completions: one of text or ids per prompt */
    struct oai_prompt {
        struct str text; /* p == NULL: ids */
        const uint32_t *ids;
        uint32_t id_count;
    } * prompts;
    uint32_t prompt_count;
};

/* body: the whole JSON; it and the arena must outlive *out.  Nothing that was asked for is
 * ignored: fields we know and do not do are refused by name, unknown ones are passed over.
 * Left to the caller, who knows the model: ids inside the vocabulary, context length, the model's
 * name, whether chat_template and priority are allowed here.
 * 0, or ERR_INVAL with *err filled (status, param, message). */
int oai_parse_chat(struct arena *a, struct str body, struct oai_request *out,
                   struct oai_error *err) MUST_CHECK;
int oai_parse_completion(struct arena *a, struct str body, struct oai_request *out,
                         struct oai_error *err) MUST_CHECK;
/* Only what a chat's prompt is made of (messages, tools, chat_template_kwargs, the flags that end
 * it), for a router that must make the worker's tokens and leaves the other fields to the worker.
 * root: the parsed body, in a. */
int oai_chat_prompt(struct arena *a, const struct json *root, struct oai_request *out,
                    struct oai_error *err) MUST_CHECK;

struct oai_usage {
    uint32_t prompt_tokens, completion_tokens, cached_tokens;
};

/* One token's logprob entry, text and bytes already detokenized. */
struct oai_logprob {
    struct str token; /* the token's bytes */
    uint32_t id;
    float logprob; /* -inf is written -9999; NaN (completions): null, an echo's first token */
    uint32_t top_count;
    struct oai_top {
        struct str token;
        uint32_t id;
        float logprob;
    } top[OAI_LOGPROBS_MAX];
    uint32_t text_offset; /* completions */
};

struct oai_choice {
    uint32_t index;
    struct str text;
    const char *finish_reason; /* NULL while streaming */
    struct str stop_reason;    /* p == NULL: null */
    int64_t stop_reason_id;    /* >= 0: the id instead; -1: none */
    const struct oai_logprob *logprobs;
    uint32_t logprob_count;
    bool want_logprobs;
    const uint32_t *token_ids; /* return_token_ids; NULL = absent */
    uint32_t token_id_count;
    struct str prompt_logprobs; /* JSON, or p == NULL */
    const uint32_t *prompt_ids; /* return_token_ids; NULL = absent (chat: of the first choice) */
    uint32_t prompt_id_count;
};

struct oai_reply_meta {
    struct str id, model; /* "chatcmpl-..." */
    int64_t created;
    struct str kv_transfer_params; /* JSON object or p == NULL */
};

/* Whole answers. */
void oai_chat_reply(struct buf *out, const struct oai_reply_meta *m, const struct oai_choice *c,
                    uint32_t count, const struct oai_usage *u);
void oai_completion_reply(struct buf *out, const struct oai_reply_meta *m,
                          const struct oai_choice *c, uint32_t count, const struct oai_usage *u);
/* One SSE event each ("data: {...}\n\n").  first: the chat role chunk.  usage: NULL = absent;
 * a usage-only chunk has choice NULL. */
void oai_chat_chunk(struct buf *out, const struct oai_reply_meta *m, const struct oai_choice *c,
                    bool first, const struct oai_usage *u);
void oai_completion_chunk(struct buf *out, const struct oai_reply_meta *m,
                          const struct oai_choice *c, const struct oai_usage *u);
void oai_sse_error(struct buf *out, const struct oai_error *e); /* data: {"error":{...}} */
void oai_sse_done(struct buf *out);                             /* data: [DONE] */
void oai_models_reply(struct buf *out, const struct str *ids, uint32_t count, int64_t created,
                      uint32_t max_model_len);
#endif
