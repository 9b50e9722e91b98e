/* Requests: the fields that chat and completions share, and the completions route.
 *
 * Plain fields are rows of a table: name, kind, place, range.  A field that we know
 * but do not do is a row of a second table, with the value that means "not asked
 * for": anything else is refused by name, for a request must never be answered as
 * if it had not asked.  Fields we do not know are ignored, as OpenAI's clients
 * expect of every server but OpenAI's.
 * `null` means absent everywhere. */
// SPDX-License-Identifier: Apache-2.0
#include "openai/request_priv.h"
#include "base/check.h"
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MODEL_BYTES_MAX      256
#define REQUEST_ID_BYTES_MAX 256
#define SALT_BYTES_MAX       128
#define COMPLETION_TOKENS    16 /* OpenAI's default of max_tokens on this route */
#define GREEDY_BELOW         1e-5f

enum field_kind {
    FIELD_BOOL,
    FIELD_U32,
    FIELD_I32,
    FIELD_F32,
    FIELD_F32_OPEN,
    FIELD_STR,
    FIELD_OBJECT
};

struct field {
    const char *name;
    enum field_kind kind;
    unsigned route;
    size_t at;
    double min, max; /* numbers; of strings, bytes.  FIELD_F32_OPEN excludes min */
};

#define AT(member) offsetof(struct oai_request, member)
static const struct field fields[] = {
    { "stream", FIELD_BOOL, ROUTE_ANY, AT(stream), 0, 0 },
    { "n", FIELD_U32, ROUTE_ANY, AT(n), 1, OAI_N_MAX },
    { "min_tokens", FIELD_U32, ROUTE_ANY, AT(min_tokens), 0, UINT32_MAX },
    { "temperature", FIELD_F32, ROUTE_ANY, AT(temperature), 0, 2 },
    { "top_p", FIELD_F32_OPEN, ROUTE_ANY, AT(top_p), 0, 1 },
    { "min_p", FIELD_F32, ROUTE_ANY, AT(min_p), 0, 1 },
    { "presence_penalty", FIELD_F32, ROUTE_ANY, AT(presence_penalty), -2, 2 },
    { "frequency_penalty", FIELD_F32, ROUTE_ANY, AT(frequency_penalty), -2, 2 },
    { "repetition_penalty", FIELD_F32_OPEN, ROUTE_ANY, AT(repetition_penalty), 0, 1e6 },
    { "include_stop_str_in_output", FIELD_BOOL, ROUTE_ANY, AT(include_stop_str_in_output), 0, 0 },
    { "ignore_eos", FIELD_BOOL, ROUTE_ANY, AT(ignore_eos), 0, 0 },
    { "skip_special_tokens", FIELD_BOOL, ROUTE_ANY, AT(skip_special_tokens), 0, 0 },
    { "add_special_tokens", FIELD_BOOL, ROUTE_ANY, AT(add_special_tokens), 0, 0 },
    { "return_token_ids", FIELD_BOOL, ROUTE_ANY, AT(return_token_ids), 0, 0 },
    { "echo", FIELD_BOOL, ROUTE_ANY, AT(echo), 0, 0 },
    { "priority", FIELD_I32, ROUTE_ANY, AT(priority), INT32_MIN, INT32_MAX },
    { "model", FIELD_STR, ROUTE_ANY, AT(model), 0, MODEL_BYTES_MAX },
    { "user", FIELD_STR, ROUTE_ANY, AT(user), 0, 4096 },
    { "cache_salt", FIELD_STR, ROUTE_ANY, AT(cache_salt), 1, SALT_BYTES_MAX },
    { "request_id", FIELD_STR, ROUTE_ANY, AT(request_id), 1, REQUEST_ID_BYTES_MAX },
    { "kv_transfer_params", FIELD_OBJECT, ROUTE_ANY, AT(kv_transfer_params), 0, 0 },
    { "add_generation_prompt", FIELD_BOOL, ROUTE_CHAT, AT(add_generation_prompt), 0, 0 },
    { "continue_final_message", FIELD_BOOL, ROUTE_CHAT, AT(continue_final_message), 0, 0 },
    { "chat_template", FIELD_STR, ROUTE_CHAT, AT(chat_template), 1, 256 * 1024 },
    { "chat_template_kwargs", FIELD_OBJECT, ROUTE_CHAT, AT(chat_template_kwargs), 0, 0 },
};

/* The value of a field we do not do that asks for nothing. */
enum neutral { NEUTRAL_NONE, NEUTRAL_FALSE, NEUTRAL_EMPTY, NEUTRAL_ZERO, NEUTRAL_MINUS_ONE };

static const struct {
    const char *name;
    unsigned route;
    enum neutral neutral;
} refused[] = {
    { "structured_outputs", ROUTE_ANY, NEUTRAL_NONE },
    { "guided_json", ROUTE_ANY, NEUTRAL_NONE },
    { "guided_regex", ROUTE_ANY, NEUTRAL_NONE },
    { "guided_choice", ROUTE_ANY, NEUTRAL_NONE },
    { "guided_grammar", ROUTE_ANY, NEUTRAL_NONE },
    { "structural_tag", ROUTE_ANY, NEUTRAL_NONE },
    { "grammar", ROUTE_ANY, NEUTRAL_EMPTY },
    { "json_schema", ROUTE_ANY, NEUTRAL_NONE },
    { "use_beam_search", ROUTE_ANY, NEUTRAL_FALSE },
    { "allowed_token_ids", ROUTE_ANY, NEUTRAL_NONE },
    { "bad_words", ROUTE_ANY, NEUTRAL_EMPTY },
    { "truncate_prompt_tokens", ROUTE_ANY, NEUTRAL_NONE },
    { "logprob_token_ids", ROUTE_ANY, NEUTRAL_EMPTY },
    { "return_tokens_as_token_ids", ROUTE_ANY, NEUTRAL_FALSE },
    { "repetition_detection", ROUTE_ANY, NEUTRAL_NONE },
    { "logits_processors", ROUTE_ANY, NEUTRAL_EMPTY },
    { "cache_hit_threshold", ROUTE_ANY, NEUTRAL_ZERO },
    { "prompt_embeds", ROUTE_COMPLETION, NEUTRAL_EMPTY },
    { "suffix", ROUTE_COMPLETION, NEUTRAL_EMPTY },
    { "functions", ROUTE_CHAT, NEUTRAL_EMPTY },
    { "thinking_token_budget", ROUTE_CHAT, NEUTRAL_MINUS_ONE },
    { "return_prompt_text", ROUTE_CHAT, NEUTRAL_FALSE },
    { "tokens", ROUTE_CHAT, NEUTRAL_NONE },
    { "audio", ROUTE_CHAT, NEUTRAL_NONE },
    { "web_search_options", ROUTE_CHAT, NEUTRAL_NONE },
};

const char *request_path(struct arena *a, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    struct str s;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    s = arena_str(a, str_of(text));
    return s.p;
}

const char *request_type_name(const struct json *j)
{
    static const char *const names[] = {
        [JSON_NULL] = "null",        [JSON_FALSE] = "a boolean", [JSON_TRUE] = "a boolean",
        [JSON_NUMBER] = "a number",  [JSON_STRING] = "a string", [JSON_ARRAY] = "an array",
        [JSON_OBJECT] = "an object",
    };
    return j == NULL ? "nothing" : names[j->type];
}

int request_no_memory(struct request_ctx *c)
{
    return oai_fail(c->e, 413, "BadRequestError", "limit", NULL,
                    "the request needs more memory than one request may take");
}

const struct json *request_field(const struct request_ctx *c, const char *name)
{
    const struct json *j = json_get(c->root, name);

    return json_is(j, JSON_NULL) ? NULL : j;
}

int request_int(struct request_ctx *c, const struct json *j, const char *param, int64_t min,
                int64_t max, int64_t *out)
{
    double d;

    if (!json_is(j, JSON_NUMBER))
        return BAD(c, "type", param, "%s must be an integer, got %s", param, request_type_name(j));
    if (!json_i64(j, out)) {
        if (!json_f64(j, &d) || floor(d) != d)
            return BAD(c, "range", param, "%s must be an integer, got %.*s", param, CUT(j->text));
        if (fabs(d) > 9007199254740992.0) /* 2^53: past it a double no longer says which integer */
            return BAD(c, "range", param, "%s is out of range: %.*s", param, CUT(j->text));
        *out = (int64_t)d;
    }
    if (*out < min || *out > max)
        return BAD(c, "range", param, "%s must be between %" PRId64 " and %" PRId64 ", got %.*s",
                   param, min, max, CUT(j->text));
    return 0;
}

static int read_f32(struct request_ctx *c, const struct field *f, const struct json *j, float *out)
{
    bool open = f->kind == FIELD_F32_OPEN;
    double d;

    if (!json_is(j, JSON_NUMBER) || !json_f64(j, &d))
        return BAD(c, "type", f->name, "%s must be a number, got %s", f->name,
                   request_type_name(j));
    if (!(d >= f->min && d <= f->max) || (open && d <= f->min))
        return BAD(c, "range", f->name, "%s must be in %c%g, %g], got %.*s", f->name,
                   open ? '(' : '[', f->min, f->max, CUT(j->text));
    *out = (float)d;
    if (open && *out <= (float)f->min) /* below what a float can hold */
        *out = FLT_MIN;
    return 0;
}

static int read_str(struct request_ctx *c, const struct field *f, const struct json *j,
                    struct str *out)
{
    if (!json_str(j, out))
        return BAD(c, "type", f->name, "%s must be a string, got %s", f->name,
                   request_type_name(j));
    if (out->n < (size_t)f->min)
        return BAD(c, "value", f->name, "%s must not be empty", f->name);
    if (out->n > (size_t)f->max)
        return BAD(c, "limit", f->name, "%s may have at most %.0f bytes, got %zu", f->name, f->max,
                   out->n);
    return 0;
}

static int read_field(struct request_ctx *c, const struct field *f, const struct json *j)
{
    char *at = (char *)c->r + f->at;
    int64_t v;
    int rc;

    switch (f->kind) {
    case FIELD_BOOL:
        if (!json_bool(j, (bool *)(void *)at))
            return BAD(c, "type", f->name, "%s must be true or false, got %s", f->name,
                       request_type_name(j));
        return 0;
    case FIELD_U32:
    case FIELD_I32:
        rc = request_int(c, j, f->name, (int64_t)f->min, (int64_t)f->max, &v);
        if (rc == 0 && f->kind == FIELD_U32)
            *(uint32_t *)(void *)at = (uint32_t)v;
        else if (rc == 0)
            *(int32_t *)(void *)at = (int32_t)v;
        return rc;
    case FIELD_F32:
    case FIELD_F32_OPEN: return read_f32(c, f, j, (float *)(void *)at);
    case FIELD_STR: return read_str(c, f, j, (struct str *)(void *)at);
    case FIELD_OBJECT:
        if (!json_is(j, JSON_OBJECT))
            return BAD(c, "type", f->name, "%s must be an object, got %s", f->name,
                       request_type_name(j));
        *(const struct json **)(void *)at = j;
        return 0;
    }
    return 0;
}

static bool is_neutral(const struct json *j, enum neutral n)
{
    double d;

    switch (n) {
    case NEUTRAL_NONE: return false;
    case NEUTRAL_FALSE: return j->type == JSON_FALSE;
    case NEUTRAL_EMPTY:
        return (j->type == JSON_STRING && j->text.n == 0) ||
               ((j->type == JSON_ARRAY || j->type == JSON_OBJECT) && j->count == 0);
    case NEUTRAL_ZERO: return json_f64(j, &d) && d == 0;
    case NEUTRAL_MINUS_ONE: return json_f64(j, &d) && d == -1;
    }
    return false;
}

static int refuse_unsupported(struct request_ctx *c)
{
    for (size_t i = 0; i < COUNT(refused); i++) {
        const struct json *j;

        if ((refused[i].route & c->route) == 0)
            continue;
        j = request_field(c, refused[i].name);
        if (j != NULL && !is_neutral(j, refused[i].neutral))
            return BAD(c, "unsupported", refused[i].name, "%s is not supported by this server",
                       refused[i].name);
    }
    return 0;
}

static int read_response_format(struct request_ctx *c)
{
    const struct json *j = request_field(c, "response_format");
    struct str type;

    if (j == NULL)
        return 0;
    if (!json_is(j, JSON_OBJECT))
        return BAD(c, "type", "response_format", "response_format must be an object, got %s",
                   request_type_name(j));
    if (!json_str(json_get(j, "type"), &type))
        return BAD(c, "type", "response_format.type", "response_format.type must be a string");
    if (str_eqz(type, "text"))
        return 0;
    return BAD(c, "unsupported", "response_format",
               "response_format of type '%.*s' is not supported by this server: only 'text' is",
               CUT(type));
}

/* max_completion_tokens is chat's newer name and wins. */
static int read_max_tokens(struct request_ctx *c)
{
    const struct json *j =
        c->route == ROUTE_CHAT ? request_field(c, "max_completion_tokens") : NULL;
    const char *name = j != NULL ? "max_completion_tokens" : "max_tokens";
    int rc = 0;

    if (j == NULL)
        j = request_field(c, "max_tokens");
    if (j != NULL)
        rc = request_int(c, j, name, c->r->echo && c->route == ROUTE_COMPLETION ? 0 : 1, INT32_MAX,
                         &c->r->max_tokens);
    else if (c->route == ROUTE_COMPLETION)
        c->r->max_tokens = COMPLETION_TOKENS;
    if (rc != 0)
        return rc;
    if (j != NULL && c->r->max_tokens > 0 && (int64_t)c->r->min_tokens > c->r->max_tokens)
        return BAD(c, "combination", "min_tokens",
                   "min_tokens must be at most %s=%" PRId64 ", got %" PRIu32, name,
                   c->r->max_tokens, c->r->min_tokens);
    return 0;
}

static int read_top_k_seed(struct request_ctx *c)
{
    const struct json *k = request_field(c, "top_k"), *seed = request_field(c, "seed");
    int64_t v;
    int rc;

    if (k != NULL) {
        rc = request_int(c, k, "top_k", -1, INT32_MAX, &v);
        if (rc != 0)
            return rc;
        c->r->top_k = v < 0 ? 0 : (uint32_t)v;
    }
    if (seed == NULL)
        return 0;
    if (!json_u64(seed, &c->r->seed)) { /* up to 2^64 - 1 kept exactly; negative ones wrap */
        rc = request_int(c, seed, "seed", INT64_MIN, INT64_MAX, &v);
        if (rc != 0)
            return rc;
        if (v == -1) /* vLLM's way to say none */
            return 0;
        c->r->seed = (uint64_t)v;
    }
    c->r->has_seed = true;
    return 0;
}

static int add_stop(struct request_ctx *c, const struct json *j)
{
    struct str s;

    if (!json_str(j, &s))
        return BAD(c, "type", "stop", "stop must be a string or an array of strings, got %s",
                   request_type_name(j));
    if (s.n == 0)
        return BAD(c, "value", "stop", "stop must not contain an empty string");
    if (s.n > OAI_STOP_BYTES_MAX)
        return BAD(c, "limit", "stop", "a stop string may have at most %d bytes, got %zu",
                   OAI_STOP_BYTES_MAX, s.n);
    if (c->r->stop_count == OAI_STOP_MAX)
        return BAD(c, "limit", "stop", "at most %d stop strings are allowed", OAI_STOP_MAX);
    c->r->stop[c->r->stop_count++] = s;
    return 0;
}

static int read_stops(struct request_ctx *c)
{
    const struct json *stop = request_field(c, "stop"), *ids = request_field(c, "stop_token_ids");
    int64_t v;
    int rc = 0;

    if (json_is(stop, JSON_ARRAY)) {
        for (const struct json *j = stop->first; j != NULL && rc == 0; j = j->next)
            rc = add_stop(c, j);
    } else if (stop != NULL) {
        rc = add_stop(c, stop);
    }
    if (rc != 0 || ids == NULL)
        return rc;
    if (!json_is(ids, JSON_ARRAY))
        return BAD(c, "type", "stop_token_ids",
                   "stop_token_ids must be an array of token ids, got %s", request_type_name(ids));
    if (ids->count > OAI_STOP_IDS_MAX)
        return BAD(c, "limit", "stop_token_ids",
                   "at most %d stop_token_ids are allowed, got %" PRIu32, OAI_STOP_IDS_MAX,
                   ids->count);
    for (const struct json *j = ids->first; j != NULL; j = j->next) {
        rc = request_int(c, j, "stop_token_ids", 0, UINT32_MAX - 1, &v);
        if (rc != 0)
            return rc;
        c->r->stop_ids[c->r->stop_id_count++] = (uint32_t)v;
    }
    return 0;
}

static int read_bias(struct request_ctx *c)
{
    const struct json *map = request_field(c, "logit_bias");
    struct oai_bias *b;
    uint64_t id;
    double v;

    if (map == NULL)
        return 0;
    if (!json_is(map, JSON_OBJECT))
        return BAD(c, "type", "logit_bias", "logit_bias must be an object, got %s",
                   request_type_name(map));
    if (map->count > OAI_BIAS_MAX)
        return BAD(c, "limit", "logit_bias", "logit_bias may have at most %d entries, got %" PRIu32,
                   OAI_BIAS_MAX, map->count);
    b = arena_try_zero(c->a, map->count, sizeof(*b));
    if (b == NULL)
        return request_no_memory(c);
    c->r->bias = b;
    for (const struct json *j = map->first; j != NULL; j = j->next) {
        if (!str_u64(j->key, &id) || id >= UINT32_MAX)
            return BAD(c, "value", "logit_bias", "logit_bias: key '%.*s' is not a token id",
                       CUT(j->key));
        if (!json_is(j, JSON_NUMBER) || !json_f64(j, &v))
            return BAD(c, "type", "logit_bias", "logit_bias: the value of '%.*s' must be a number",
                       CUT(j->key));
        b[c->r->bias_count++] = (struct oai_bias) { (uint32_t)id, (float)fmin(100, fmax(-100, v)) };
    }
    return 0;
}

static int read_logprobs(struct request_ctx *c)
{
    const struct json *j = request_field(c, "logprobs"), *top = request_field(c, "top_logprobs");
    const struct json *prompt = request_field(c, "prompt_logprobs");
    bool on = false;
    int64_t v = 0;
    int rc;

    if (c->route == ROUTE_COMPLETION && j != NULL) {
        rc = request_int(c, j, "logprobs", 0, OAI_LOGPROBS_MAX, &v);
        if (rc != 0)
            return rc;
        c->r->logprobs = (int)v;
    } else if (c->route == ROUTE_CHAT) {
        if (j != NULL && !json_bool(j, &on))
            return BAD(c, "type", "logprobs", "logprobs must be true or false, got %s",
                       request_type_name(j));
        if (top != NULL) {
            rc = request_int(c, top, "top_logprobs", 0, OAI_LOGPROBS_MAX, &v);
            if (rc != 0)
                return rc;
            if (v > 0 && !on)
                return BAD(c, "combination", "top_logprobs",
                           "top_logprobs needs logprobs to be true");
        }
        c->r->logprobs = on ? (int)v : -1;
    }
    if (prompt == NULL)
        return 0;
    rc = request_int(c, prompt, "prompt_logprobs", 0, OAI_LOGPROBS_MAX, &v);
    if (rc != 0)
        return rc;
    if (c->r->stream)
        return BAD(c, "combination", "prompt_logprobs",
                   "prompt_logprobs is not available with stream");
    c->r->prompt_logprobs = (int)v;
    return 0;
}

static int read_stream_options(struct request_ctx *c)
{
    static const char *const names[] = { "include_usage", "continuous_usage_stats" };
    bool *const at[] = { &c->r->include_usage, &c->r->continuous_usage };
    const struct json *o = request_field(c, "stream_options");

    if (o == NULL)
        return 0;
    if (!json_is(o, JSON_OBJECT))
        return BAD(c, "type", "stream_options", "stream_options must be an object, got %s",
                   request_type_name(o));
    if (!c->r->stream)
        return BAD(c, "combination", "stream_options",
                   "stream_options is only allowed when stream is true");
    for (size_t i = 0; i < COUNT(names); i++) {
        const struct json *j = json_get(o, names[i]);

        if (j != NULL && !json_is(j, JSON_NULL) && !json_bool(j, at[i]))
            return BAD(c, "type", request_path(c->a, "stream_options.%s", names[i]),
                       "stream_options.%s must be true or false, got %s", names[i],
                       request_type_name(j));
    }
    return 0;
}

/* What the table's ranges cannot say. */
static int check_strings(struct request_ctx *c)
{
    const struct oai_request *r = c->r;

    for (size_t i = 0; i < r->cache_salt.n; i++)
        if (memchr("@/\\", r->cache_salt.p[i], 4) != NULL) /* 4: the NUL too */
            return BAD(c, "value", "cache_salt",
                       "cache_salt must not contain '@', '/', '\\' or NUL");
    /* It comes back in a header. */
    for (size_t i = 0; i < r->request_id.n; i++)
        if (r->request_id.p[i] < 0x21 || r->request_id.p[i] > 0x7e)
            return BAD(c, "value", "request_id", "request_id may hold visible ASCII only");
    return 0;
}

static int read_best_of(struct request_ctx *c)
{
    const struct json *best = request_field(c, "best_of");
    int64_t v;
    int rc;

    if (best == NULL)
        return 0;
    rc = request_int(c, best, "best_of", 1, OAI_N_MAX, &v);
    if (rc == 0 && v != c->r->n)
        rc = BAD(c, "unsupported", "best_of",
                 "best_of other than n is not supported by this server: got best_of=%" PRId64
                 " with n=%" PRIu32,
                 v, c->r->n);
    return rc;
}

static void set_defaults(struct request_ctx *c)
{
    *c->r = (struct oai_request) {
        .n = 1,
        .max_tokens = -1,
        .temperature = 1,
        .top_p = 1,
        .repetition_penalty = 1,
        .skip_special_tokens = true,
        .logprobs = -1,
        .prompt_logprobs = -1,
        .is_chat = c->route == ROUTE_CHAT,
        .add_generation_prompt = true,
        .add_special_tokens = c->route == ROUTE_COMPLETION,
    };
}

int request_begin(struct request_ctx *c, struct str body)
{
    struct err e = { 0 };
    int rc;

    set_defaults(c);
    rc = json_parse(c->a, body, NULL, &c->root, &e);
    if (rc == ERR_NOMEM)
        return request_no_memory(c);
    if (rc == ERR_LIMIT)
        return BAD(c, strstr(e.msg, "deep") != NULL ? "json_too_deep" : "json_too_large", NULL,
                   "the request body is too large or too deep: %s", e.msg);
    if (rc != 0)
        return BAD(c, "json_syntax", NULL, "the request body is not valid JSON: %s", e.msg);
    if (!json_is(c->root, JSON_OBJECT))
        return BAD(c, "type", NULL, "the request body must be a JSON object, got %s",
                   request_type_name(c->root));
    return 0;
}

static int read_fields(struct request_ctx *c)
{
    int rc = 0;

    for (size_t i = 0; i < COUNT(fields) && rc == 0; i++) {
        const struct json *j =
            (fields[i].route & c->route) != 0 ? request_field(c, fields[i].name) : NULL;

        if (j != NULL)
            rc = read_field(c, &fields[i], j);
    }
    return rc;
}

typedef int request_reader(struct request_ctx *c);

int request_common(struct request_ctx *c)
{
    static request_reader *const readers[] = {
        check_strings, read_max_tokens,     read_top_k_seed,      read_stops,   read_bias,
        read_logprobs, read_stream_options, read_response_format, read_best_of, refuse_unsupported,
    };
    int rc = read_fields(c);

    for (size_t i = 0; i < COUNT(readers) && rc == 0; i++)
        rc = readers[i](c);
    if (rc != 0)
        return rc;
    c->r->has_temperature = request_field(c, "temperature") != NULL;
    if (c->r->has_temperature && c->r->temperature < GREEDY_BELOW && c->r->n > 1)
        return BAD(c, "combination", "n", "n must be 1 when temperature is 0, got %" PRIu32,
                   c->r->n);
    if (c->r->kv_transfer_params == NULL) { /* some clients can only add vllm_xargs */
        const struct json *kv = json_get(request_field(c, "vllm_xargs"), "kv_transfer_params");

        c->r->kv_transfer_params = json_is(kv, JSON_OBJECT) ? kv : NULL;
    }
    return 0;
}

static int read_ids(struct request_ctx *c, const struct json *array, struct oai_prompt *out)
{
    uint32_t *ids = arena_try_zero(c->a, array->count, sizeof(*ids));
    int64_t v;
    int rc;

    if (array->count == 0)
        return BAD(c, "value", "prompt", "prompt must not be empty");
    if (ids == NULL)
        return request_no_memory(c);
    out->ids = ids;
    for (const struct json *j = array->first; j != NULL; j = j->next) {
        rc = request_int(c, j, "prompt", 0, UINT32_MAX - 1, &v);
        if (rc != 0)
            return rc;
        ids[out->id_count++] = (uint32_t)v;
    }
    return 0;
}

static int read_prompts(struct request_ctx *c)
{
    const struct json *p = request_field(c, "prompt");
    bool single;

    if (p == NULL)
        return BAD(c, "missing", "prompt", "prompt is required");
    if (!json_is(p, JSON_STRING) && !json_is(p, JSON_ARRAY))
        return BAD(c, "type", "prompt",
                   "prompt must be a string, an array of strings, or token ids, got %s",
                   request_type_name(p));
    if (json_is(p, JSON_ARRAY) && p->count == 0)
        return BAD(c, "value", "prompt", "prompt must not be empty");
    single = json_is(p, JSON_STRING) || json_is(p->first, JSON_NUMBER);
    if (!single && p->count > OAI_PROMPTS_MAX)
        return BAD(c, "limit", "prompt",
                   "at most %d prompts are allowed in one request, got %" PRIu32, OAI_PROMPTS_MAX,
                   p->count);
    c->r->prompts = arena_try_zero(c->a, single ? 1 : p->count, sizeof(*c->r->prompts));
    if (c->r->prompts == NULL)
        return request_no_memory(c);
    if (single) {
        c->r->prompt_count = 1;
        if (json_is(p, JSON_ARRAY))
            return read_ids(c, p, &c->r->prompts[0]);
        return json_str(p, &c->r->prompts[0].text) ? 0 : ERR_INTERNAL;
    }
    for (const struct json *j = p->first; j != NULL; j = j->next) {
        struct oai_prompt *out = &c->r->prompts[c->r->prompt_count++];
        int rc = 0;

        if (j->type != p->first->type || (j->type != JSON_STRING && j->type != JSON_ARRAY))
            return BAD(c, "type", request_path(c->a, "prompt[%" PRIu32 "]", c->r->prompt_count - 1),
                       "the items of prompt must be all strings or all arrays of token ids");
        if (j->type == JSON_ARRAY)
            rc = read_ids(c, j, out);
        else if (!json_str(j, &out->text))
            rc = ERR_INTERNAL;
        if (rc != 0)
            return rc;
    }
    return 0;
}

int oai_parse_completion(struct arena *a, struct str body, struct oai_request *out,
                         struct oai_error *err)
{
    struct request_ctx c = { .a = a, .r = out, .e = err, .route = ROUTE_COMPLETION };
    int rc = request_begin(&c, body);

    if (rc == 0)
        rc = request_common(&c);
    if (rc == 0)
        rc = read_prompts(&c);
    return rc;
}

/* All that the template sees. */
static int read_conversation(struct request_ctx *c)
{
    int rc = request_messages(c);

    if (rc == 0)
        rc = request_tools(c);
    if (rc == 0)
        rc = request_template_args(c);
    return rc;
}

int oai_parse_chat(struct arena *a, struct str body, struct oai_request *out, struct oai_error *err)
{
    struct request_ctx c = { .a = a, .r = out, .e = err, .route = ROUTE_CHAT };
    int rc = request_begin(&c, body);

    if (rc == 0)
        rc = request_common(&c);
    if (rc == 0)
        rc = read_conversation(&c);
    if (rc == 0)
        rc = request_tool_choice(&c);
    return rc;
}

int oai_chat_prompt(struct arena *a, const struct json *root, struct oai_request *out,
                    struct oai_error *err)
{
    struct request_ctx c = { .a = a, .root = root, .r = out, .e = err, .route = ROUTE_CHAT };
    int rc;

    set_defaults(&c);
    rc = read_fields(&c);
    return rc != 0 ? rc : read_conversation(&c);
}
