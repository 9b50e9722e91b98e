/* Replies: whole answers, stream chunks, and the list of models.
 *
 * The chat stream leaves out members that are not set, the completion stream says
 * null for them; both are what vLLM's clients have learnt to read.  A logarithm
 * of zero is written -9999.0, for JSON has no infinity. */
// SPDX-License-Identifier: Apache-2.0
#include "openai/openai.h"
#include "base/check.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define FINGERPRINT "llmd-" LLMD_VERSION
#define LOG_ZERO    "-9999.0"

/* The shortest text that reads back as the same float: as a double it would show digits
 * that the value never had. */
static void put_logprob(struct json_w *w, float v)
{
    char text[32];
    struct str s;

    if (!isfinite(v)) {
        json_w_raw(w, STR(LOG_ZERO));
        return;
    }
    for (int digits = 6; digits <= 9; digits++) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v)
            break;
    }
    s = str_of(text);
    json_w_raw(w, s);
}

static void put_bytes(struct json_w *w, struct str s)
{
    json_w_karr(w, "bytes");
    for (size_t i = 0; i < s.n; i++)
        json_w_u64(w, (unsigned char)s.p[i]);
    json_w_end(w, ']');
}

static void put_chat_token(struct json_w *w, struct str token, float logprob)
{
    json_w_kstr(w, "token", token);
    json_w_key(w, STR("logprob"));
    put_logprob(w, logprob);
    put_bytes(w, token);
}

static void put_chat_logprobs(struct json_w *w, const struct oai_choice *c)
{
    if (!c->want_logprobs) {
        json_w_knull(w, "logprobs");
        return;
    }
    json_w_kobj(w, "logprobs");
    json_w_karr(w, "content");
    for (uint32_t i = 0; i < c->logprob_count; i++) {
        const struct oai_logprob *l = &c->logprobs[i];

        json_w_obj(w);
        put_chat_token(w, l->token, l->logprob);
        json_w_karr(w, "top_logprobs");
        for (uint32_t k = 0; k < l->top_count; k++) {
            json_w_obj(w);
            put_chat_token(w, l->top[k].token, l->top[k].logprob);
            json_w_end(w, '}');
        }
        json_w_end(w, ']');
        json_w_end(w, '}');
    }
    json_w_end(w, ']');
    json_w_end(w, '}');
}

/* The map of one position: the best tokens and the sampled one, each text once. */
static void put_top_map(struct json_w *w, const struct oai_logprob *l)
{
    bool sampled = false;

    json_w_obj(w);
    for (uint32_t k = 0; k < l->top_count; k++) {
        bool seen = false;

        for (uint32_t i = 0; i < k && !seen; i++)
            seen = str_eq(l->top[i].token, l->top[k].token);
        sampled = sampled || str_eq(l->top[k].token, l->token);
        if (seen)
            continue;
        json_w_key(w, l->top[k].token);
        put_logprob(w, l->top[k].logprob);
    }
    if (!sampled) {
        json_w_key(w, l->token);
        put_logprob(w, l->logprob);
    }
    json_w_end(w, '}');
}

static void put_completion_logprobs(struct json_w *w, const struct oai_choice *c)
{
    if (!c->want_logprobs) {
        json_w_knull(w, "logprobs");
        return;
    }
    json_w_kobj(w, "logprobs");
    json_w_karr(w, "text_offset");
    for (uint32_t i = 0; i < c->logprob_count; i++)
        json_w_u64(w, c->logprobs[i].text_offset);
    json_w_end(w, ']');
    json_w_karr(w, "token_logprobs");
    for (uint32_t i = 0; i < c->logprob_count; i++) {
        if (isnan(c->logprobs[i].logprob)) /* the first prompt token of an echo */
            json_w_null(w);
        else
            put_logprob(w, c->logprobs[i].logprob);
    }
    json_w_end(w, ']');
    json_w_karr(w, "tokens");
    for (uint32_t i = 0; i < c->logprob_count; i++)
        json_w_str(w, c->logprobs[i].token);
    json_w_end(w, ']');
    json_w_karr(w, "top_logprobs");
    for (uint32_t i = 0; i < c->logprob_count; i++) {
        if (isnan(c->logprobs[i].logprob))
            json_w_null(w);
        else
            put_top_map(w, &c->logprobs[i]);
    }
    json_w_end(w, ']');
    json_w_end(w, '}');
}

static void put_kz_or_null(struct json_w *w, const char *key, const char *z)
{
    if (z != NULL)
        json_w_kz(w, key, z);
    else
        json_w_knull(w, key);
}

static void put_raw_or_null(struct json_w *w, const char *key, struct str s)
{
    if (s.p != NULL)
        json_w_kraw(w, key, s);
    else
        json_w_knull(w, key);
}

static void put_ids(struct json_w *w, const char *key, const uint32_t *ids, uint32_t count)
{
    json_w_karr(w, key);
    for (uint32_t i = 0; i < count; i++)
        json_w_u64(w, ids[i]);
    json_w_end(w, ']');
}

static void put_ids_or_null(struct json_w *w, const char *key, const uint32_t *ids, uint32_t count)
{
    if (ids != NULL)
        put_ids(w, key, ids, count);
    else
        json_w_knull(w, key);
}

static void put_finish(struct json_w *w, const struct oai_choice *c)
{
    put_kz_or_null(w, "finish_reason", c->finish_reason);
    if (c->stop_reason.p != NULL)
        json_w_kstr(w, "stop_reason", c->stop_reason);
    else if (c->stop_reason_id >= 0 && c->finish_reason != NULL)
        json_w_ki64(w, "stop_reason", c->stop_reason_id);
    else
        json_w_knull(w, "stop_reason");
}

static void put_usage(struct json_w *w, const struct oai_usage *u)
{
    json_w_kobj(w, "usage");
    json_w_ku64(w, "prompt_tokens", u->prompt_tokens);
    json_w_ku64(w, "total_tokens", (uint64_t)u->prompt_tokens + u->completion_tokens);
    json_w_ku64(w, "completion_tokens", u->completion_tokens);
    if (u->cached_tokens > 0) {
        json_w_kobj(w, "prompt_tokens_details");
        json_w_ku64(w, "cached_tokens", u->cached_tokens);
        json_w_end(w, '}');
    } else {
        json_w_knull(w, "prompt_tokens_details");
    }
    json_w_end(w, '}');
}

static void put_head(struct json_w *w, const struct oai_reply_meta *m, const char *object)
{
    json_w_kstr(w, "id", m->id);
    json_w_kz(w, "object", object);
    json_w_ki64(w, "created", m->created);
    json_w_kstr(w, "model", m->model);
}

void oai_chat_reply(struct buf *out, const struct oai_reply_meta *m, const struct oai_choice *c,
                    uint32_t count, const struct oai_usage *u)
{
    static const char *const unset[] = { "refusal", "annotations", "audio", "function_call",
                                         "reasoning" };
    struct json_w w;

    json_w_init(&w, out);
    json_w_obj(&w);
    put_head(&w, m, "chat.completion");
    json_w_karr(&w, "choices");
    for (uint32_t i = 0; i < count; i++) {
        json_w_obj(&w);
        json_w_ku64(&w, "index", c[i].index);
        json_w_kobj(&w, "message");
        json_w_kz(&w, "role", "assistant");
        json_w_kstr(&w, "content", c[i].text);
        for (size_t k = 0; k < COUNT(unset); k++)
            json_w_knull(&w, unset[k]);
        json_w_end(&w, '}');
        put_chat_logprobs(&w, &c[i]);
        put_finish(&w, &c[i]);
        put_ids_or_null(&w, "token_ids", c[i].token_ids, c[i].token_id_count);
        json_w_end(&w, '}');
    }
    json_w_end(&w, ']');
    json_w_knull(&w, "service_tier");
    json_w_kz(&w, "system_fingerprint", FINGERPRINT);
    put_usage(&w, u);
    put_raw_or_null(&w, "prompt_logprobs", count > 0 ? c[0].prompt_logprobs : STR_NONE);
    put_ids_or_null(&w, "prompt_token_ids", count > 0 ? c[0].prompt_ids : NULL,
                    count > 0 ? c[0].prompt_id_count : 0);
    put_raw_or_null(&w, "kv_transfer_params", m->kv_transfer_params);
    json_w_end(&w, '}');
}

void oai_completion_reply(struct buf *out, const struct oai_reply_meta *m,
                          const struct oai_choice *c, uint32_t count, const struct oai_usage *u)
{
    struct json_w w;

    json_w_init(&w, out);
    json_w_obj(&w);
    put_head(&w, m, "text_completion");
    json_w_karr(&w, "choices");
    for (uint32_t i = 0; i < count; i++) {
        json_w_obj(&w);
        json_w_ku64(&w, "index", c[i].index);
        json_w_kstr(&w, "text", c[i].text);
        put_completion_logprobs(&w, &c[i]);
        put_finish(&w, &c[i]);
        put_ids_or_null(&w, "token_ids", c[i].token_ids, c[i].token_id_count);
        put_raw_or_null(&w, "prompt_logprobs", c[i].prompt_logprobs);
        put_ids_or_null(&w, "prompt_token_ids", c[i].prompt_ids, c[i].prompt_id_count);
        json_w_end(&w, '}');
    }
    json_w_end(&w, ']');
    json_w_knull(&w, "service_tier");
    json_w_kz(&w, "system_fingerprint", FINGERPRINT);
    put_usage(&w, u);
    put_raw_or_null(&w, "kv_transfer_params", m->kv_transfer_params);
    json_w_end(&w, '}');
}

static void put_chat_choice(struct json_w *w, const struct oai_choice *c, bool first)
{
    json_w_obj(w);
    json_w_ku64(w, "index", c->index);
    json_w_kobj(w, "delta");
    if (first)
        json_w_kz(w, "role", "assistant");
    json_w_kstr(w, "content", c->text);
    json_w_end(w, '}');
    if (first && c->logprob_count == 0)
        json_w_knull(w, "logprobs");
    else
        put_chat_logprobs(w, c);
    if (c->finish_reason != NULL)
        put_finish(w, c);
    else
        json_w_knull(w, "finish_reason");
    if (c->token_ids != NULL)
        put_ids(w, "token_ids", c->token_ids, c->token_id_count);
    json_w_end(w, '}');
}

void oai_chat_chunk(struct buf *out, const struct oai_reply_meta *m, const struct oai_choice *c,
                    bool first, const struct oai_usage *u)
{
    bool last = c != NULL && c->finish_reason != NULL;
    struct json_w w;

    buf_z(out, "data: ");
    json_w_init(&w, out);
    json_w_obj(&w);
    put_head(&w, m, "chat.completion.chunk");
    json_w_karr(&w, "choices");
    if (c != NULL)
        put_chat_choice(&w, c, first);
    json_w_end(&w, ']');
    if (c != NULL && first && c->prompt_ids != NULL)
        put_ids(&w, "prompt_token_ids", c->prompt_ids, c->prompt_id_count);
    if (last)
        json_w_kz(&w, "system_fingerprint", FINGERPRINT);
    if (u != NULL)
        put_usage(&w, u);
    if (last && m->kv_transfer_params.p != NULL)
        json_w_kraw(&w, "kv_transfer_params", m->kv_transfer_params);
    json_w_end(&w, '}');
    buf_z(out, "\n\n");
}

void oai_completion_chunk(struct buf *out, const struct oai_reply_meta *m,
                          const struct oai_choice *c, const struct oai_usage *u)
{
    struct json_w w;

    buf_z(out, "data: ");
    json_w_init(&w, out);
    json_w_obj(&w);
    put_head(&w, m, "text_completion");
    json_w_karr(&w, "choices");
    if (c != NULL) {
        json_w_obj(&w);
        json_w_ku64(&w, "index", c->index);
        json_w_kstr(&w, "text", c->text);
        put_completion_logprobs(&w, c);
        put_finish(&w, c);
        put_ids_or_null(&w, "prompt_token_ids", c->prompt_ids, c->prompt_id_count);
        put_ids_or_null(&w, "token_ids", c->token_ids, c->token_id_count);
        json_w_end(&w, '}');
    }
    json_w_end(&w, ']');
    if (u != NULL)
        put_usage(&w, u);
    else
        json_w_knull(&w, "usage");
    if (c != NULL && c->finish_reason != NULL && m->kv_transfer_params.p != NULL)
        json_w_kraw(&w, "kv_transfer_params", m->kv_transfer_params);
    json_w_end(&w, '}');
    buf_z(out, "\n\n");
}

static void put_permission(struct json_w *w, struct str id, int64_t created)
{
    static const struct {
        const char *name;
        bool allowed;
    } rights[] = {
        { "allow_create_engine", false }, { "allow_sampling", true },
        { "allow_logprobs", true },       { "allow_search_indices", false },
        { "allow_view", true },           { "allow_fine_tuning", false },
    };
    char name[64];

    /* Derived from the name: the list of one configuration never changes. */
    (void)snprintf(name, sizeof(name), "modelperm-%016" PRIx64, str_hash(id));
    json_w_karr(w, "permission");
    json_w_obj(w);
    json_w_kz(w, "id", name);
    json_w_kz(w, "object", "model_permission");
    json_w_ki64(w, "created", created);
    for (size_t i = 0; i < COUNT(rights); i++)
        json_w_kbool(w, rights[i].name, rights[i].allowed);
    json_w_kz(w, "organization", "*");
    json_w_knull(w, "group");
    json_w_kbool(w, "is_blocking", false);
    json_w_end(w, '}');
    json_w_end(w, ']');
}

void oai_models_reply(struct buf *out, const struct str *ids, uint32_t count, int64_t created,
                      uint32_t max_model_len)
{
    struct json_w w;

    json_w_init(&w, out);
    json_w_obj(&w);
    json_w_kz(&w, "object", "list");
    json_w_karr(&w, "data");
    for (uint32_t i = 0; i < count; i++) {
        json_w_obj(&w);
        json_w_kstr(&w, "id", ids[i]);
        json_w_kz(&w, "object", "model");
        json_w_ki64(&w, "created", created);
        json_w_kz(&w, "owned_by", "llmd");
        json_w_kstr(&w, "root", ids[i]);
        json_w_knull(&w, "parent");
        if (max_model_len > 0)
            json_w_ku64(&w, "max_model_len", max_model_len);
        else
            json_w_knull(&w, "max_model_len");
        put_permission(&w, ids[i], created);
        json_w_end(&w, '}');
    }
    json_w_end(&w, ']');
    json_w_end(&w, '}');
}
