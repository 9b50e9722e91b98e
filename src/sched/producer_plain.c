/* Producers whose data come with the request or with the endpoints: they give a key and have
 * parameters, but little or nothing is left for them to do in a decision.
 *
 *   token-producer           tokens are made when the request is read, by the model's own tokenizer
 *                            where there is one and else by the estimate of its bytes
 *   inflight-load-producer   counted by whoever dispatches; here only what of this request would
 *                            have to be computed
 *   session-id-producer      a header or a cookie as an attribute of the request */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/plugin_types_priv.h"
#include "sched/producer.h"
#include <stddef.h>

/* ---- token-producer ---- */

struct token_params {
    struct str model_name;
};

static const struct plugin_param TOKEN_PARAMS[] = {
    { .name = "modelName",
      .kind = PARAM_STR,
      .at = offsetof(struct token_params, model_name),
      .help = "accepted; the request's model picks the tokenizer here" },
    { .name = "estimate", .kind = PARAM_IGNORED, .help = "accepted: what is used without a model" },
    { .name = "vllm",
      .kind = PARAM_IGNORED,
      .help = "accepted: prompts are rendered here instead" },
    { .name = "udsTokenizerConfig",
      .kind = PARAM_IGNORED,
      .help = "deprecated; accepted: prompts are tokenized here instead" },
};

static const char *const TOKEN_GIVES[] = { "TokenizedPrompt", NULL };

#define TOKEN_TYPE(name)                                                                           \
    .type = name, .roles = ROLE_PRODUCER, .params_size = sizeof(struct token_params),              \
    .params = TOKEN_PARAMS, .param_count = COUNT(TOKEN_PARAMS), .gives = TOKEN_GIVES

const struct plugin_type plugin_token_producer = { TOKEN_TYPE("token-producer") };
const struct plugin_type plugin_tokenizer_producer = {
    TOKEN_TYPE("tokenizer"),
    .deprecated = "tokenizer is the older name of token-producer",
};

/* ---- inflight-load-producer ---- */

struct inflight_params {
    bool adds_output, syncs;
    double output_ratio;
    uint32_t output_max;
    struct str prefix_producer;
};

static const struct plugin_param INFLIGHT_PARAMS[] = {
    { .name = "addEstimatedOutputTokens",
      .kind = PARAM_BOOL,
      .at = offsetof(struct inflight_params, adds_output),
      .value = "false",
      .help = "count tokens of the answer, too" },
    { .name = "outputRatio",
      .kind = PARAM_F64,
      .at = offsetof(struct inflight_params, output_ratio),
      .value = "1.5",
      .max = 1e6,
      .help = "tokens of the answer by token of the prompt" },
    { .name = "maxEstimatedOutputTokens",
      .kind = PARAM_U32,
      .at = offsetof(struct inflight_params, output_max),
      .help = "most that are counted" },
    { .name = "prefixMatchInfoProducerName",
      .kind = PARAM_STR,
      .at = offsetof(struct inflight_params, prefix_producer),
      .help = "whose matches say what need not be computed" },
    { .name = "syncCrossReplicaState",
      .kind = PARAM_BOOL,
      .at = offsetof(struct inflight_params, syncs),
      .value = "true",
      .help = "accepted; replicas count for themselves" },
};

double producer_uncached(const struct sched_view *v, const struct sched_prefix *f, uint32_t i)
{
    double tokens = v->r->prompt_tokens, whole;

    if (f == NULL)
        return tokens;
    whole = (double)f->total_blocks * f->block_tokens;
    return ((double)f->total_blocks - MIN(f->match_blocks[i], f->total_blocks)) * f->block_tokens +
           MAX(0, tokens - whole);
}

static void produce_uncached(struct plugin *p, struct sched_view *v)
{
    const struct inflight_params *c = p->params;
    const struct sched_prefix *f = sched_view_prefix(v, c->prefix_producer);
    double *tokens = arena_alloc(v->arena, ((size_t)v->count + 1) * sizeof(*tokens));

    for (uint32_t i = 0; i < v->count; i++)
        tokens[i] = producer_uncached(v, f, i);
    v->uncached_tokens = tokens;
}

static const char *const INFLIGHT_USES[] = { "PrefixCacheMatchInfo", NULL };
static const char *const INFLIGHT_GIVES[] = { "InFlightLoad", "UncachedRequestTokens", NULL };

const struct plugin_type plugin_inflight_producer = {
    .type = "inflight-load-producer",
    .roles = ROLE_PRODUCER,
    .params_size = sizeof(struct inflight_params),
    .params = INFLIGHT_PARAMS,
    .param_count = COUNT(INFLIGHT_PARAMS),
    .gives = INFLIGHT_GIVES,
    .uses = INFLIGHT_USES,
    .produce = produce_uncached,
};

/* ---- session-id-producer ---- */

struct session_params {
    struct str header, cookie;
};

static const struct plugin_param SESSION_PARAMS[] = {
    { .name = "headerName",
      .kind = PARAM_STR,
      .at = offsetof(struct session_params, header),
      .help = "header that holds the session's id" },
    { .name = "cookieName",
      .kind = PARAM_STR,
      .at = offsetof(struct session_params, cookie),
      .help = "cookie that does" },
};

static int check_session(const void *params, struct err *e)
{
    const struct session_params *c = params;

    if ((c->header.n != 0) == (c->cookie.n != 0))
        return err_set(e, ERR_INVAL, "needs exactly one of headerName and cookieName");
    return 0;
}

/* name=value; name="value"; ... */
static struct str cookie_of(struct str list, struct str name)
{
    while (list.n != 0) {
        struct str value = str_trim(str_cut(&list, ';')), key = str_cut(&value, '=');

        if (value.p == NULL || !str_eq(str_trim(key), name))
            continue;
        value = str_trim(value);
        if (value.n >= 2 && value.p[0] == '"' && value.p[value.n - 1] == '"')
            value = str_sub(value, 1, value.n - 2);
        return value;
    }
    return STR_NONE;
}

static void produce_session(struct plugin *p, struct sched_view *v)
{
    const struct session_params *c = p->params;
    struct str id = c->header.n != 0 ? sched_view_header_any(v, c->header)
                                     : cookie_of(sched_view_header(v, "cookie"), c->cookie);

    if (id.n != 0)
        sched_view_attribute_set(v, STR("SessionID"), p->name, id);
}

static const char *const SESSION_GIVES[] = { "SessionID", NULL };

const struct plugin_type plugin_session_id_producer = {
    .type = "session-id-producer",
    .roles = ROLE_PRODUCER,
    .params_size = sizeof(struct session_params),
    .params = SESSION_PARAMS,
    .param_count = COUNT(SESSION_PARAMS),
    .check = check_session,
    .gives = SESSION_GIVES,
    .produce = produce_session,
};

/* ---- mm-embeddings-cache-producer ---- */

struct media_params {
    uint32_t cache_mb;
};

static const struct plugin_param MEDIA_PARAMS[] = {
    { .name = "cacheSizeInMBPerServer",
      .kind = PARAM_U32,
      .at = offsetof(struct media_params, cache_mb),
      .value = "4096",
      .min = 1,
      .max = 1 << 24,
      .help = "accepted" },
};

static const char *const MEDIA_GIVES[] = { "MultiModalEncoderCacheMatchInfo", NULL };

const struct plugin_type plugin_media_producer = {
    .type = "mm-embeddings-cache-producer",
    .roles = ROLE_PRODUCER,
    .params_size = sizeof(struct media_params),
    .params = MEDIA_PARAMS,
    .param_count = COUNT(MEDIA_PARAMS),
    .gives = MEDIA_GIVES,
    .deprecated = "mm-embeddings-cache-producer: media are not hashed here, so nobody holds any",
};
