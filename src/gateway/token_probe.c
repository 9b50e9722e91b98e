/* Whether a worker makes of a text the ids that we make of it.
 *
 * Prefixes are found by ids, so other ids find nothing and prompts look longer or shorter than they
 * are.  A worker that came into rotation is asked once: its chat (POST /tokenize as vLLM has it),
 * else plain text, else plain text as llama.cpp's server has it.  As long as one of a model's
 * workers answers other ids, prompts for it are estimated, as without a --model, and the log, the
 * status page and the metrics say so. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/gateway_priv.h"
#include "text/tokenizer.h"
#include <inttypes.h>
#include <string.h>

#define REPLY_BYTES_MAX ((size_t)256 << 10)
#define BODY_BYTES_MAX  ((size_t)4 << 10)
#define TIMEOUT_MS      2000
#define AGAIN_MS        2000
#define TRIES           3
/* Letters of several scripts, digits, runs of blanks, code, an emoji: where tokenizers differ. */
#define TEXT                                                                                       \
    "In 2024, na\u00efve Gr\u00f6\u00dfe was 1234567.89 \u2014 don't you think?\\n\\n    if (x "   \
    "!= 0) {\\treturn f(x);  }\\n\u4f60\u597d, \u043f\u0440\u0438\u0432\u0435\u0442 \U0001F642"

enum { ASK_CHAT, ASK_PROMPT, ASK_CONTENT, ASK_COUNT };

static const char *const questions[ASK_COUNT] = {
    [ASK_CHAT] = "\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}],"
                 "\"add_generation_prompt\":true",
    [ASK_PROMPT] = "\"prompt\":\"" TEXT "\"",
    [ASK_CONTENT] = "\"content\":\"" TEXT "\",\"add_special\":true,\"parse_special\":true",
};

static const char *const result_names[] = { [TOKENS_NOT_ASKED] = "not_asked",
                                            [TOKENS_UNKNOWN] = "unknown",
                                            [TOKENS_SAME] = "same",
                                            [TOKENS_DIFFERENT] = "different" };

const char *token_probe_name(enum token_verdict v)
{
    return result_names[v];
}

/* The names of all models that some worker tokenizes otherwise. */
static void tell_readers(struct gateway *g)
{
    struct str name[READER_DISTRUSTED_MAX];
    size_t n = 0;

    for (uint32_t i = 0; i < g->endpoint_count; i++) {
        const struct endpoint *ep = g->endpoints[i];

        for (uint32_t k = 0; ep->tokens.verdict == TOKENS_DIFFERENT && k < ep->model_count; k++)
            if (n < COUNT(name))
                name[n++] = ep->models_list[k];
    }
    for (uint32_t i = 0; i < g->front_count; i++)
        reader_distrust(g->front[i].reader, name, n);
}

static void conclude(struct endpoint *ep, enum token_verdict v)
{
    enum token_verdict before = ep->tokens.verdict;

    ep->tokens.verdict = v;
    ep->tokens.is_due = false;
    metric_add(gateway_cell(ep->g, M_L_TOKEN_PROBES, token_probe_name(v), NULL), 1);
    if (v == TOKENS_DIFFERENT || before == TOKENS_DIFFERENT)
        tell_readers(ep->g);
}

static bool take_ids(struct str body, struct token_list *out)
{
    struct arena a;
    const struct json *root, *list;
    struct err e;
    uint64_t id;
    bool well = false;

    arena_init(&a, (size_t)4 << 20);
    if (json_parse(&a, body, NULL, &root, &e) == 0 &&
        json_is(list = json_get(root, "tokens"), JSON_ARRAY)) {
        well = true;
        for (const struct json *j = list->first; j != NULL && well; j = j->next)
            well = json_u64(j, &id) && id <= UINT32_MAX && token_list_add(out, (uint32_t)id);
    }
    arena_fini(&a);
    return well && out->count != 0;
}

static size_t first_difference(const struct token_list *a, const struct token_list *b)
{
    size_t i = 0;

    while (i < a->count && i < b->count && a->id[i] == b->id[i])
        i++;
    return i;
}

static void put_body(const struct endpoint *ep, unsigned question, struct buf *out)
{
    struct json_w w;

    buf_z(out, "{\"model\":");
    json_w_init(&w, out);
    json_w_str(&w, ep->models_list[0]);
    buf_f(out, ",%s}", questions[question]);
}

/* Our ids, or nothing: no such model here, or no template. */
static bool own_ids(const struct endpoint *ep, struct token_list *out)
{
    bool is_chat = ep->tokens.stage == ASK_CHAT;
    struct buf body;
    struct err e;
    int rc;

    buf_init(&body, BODY_BYTES_MAX);
    put_body(ep, is_chat ? ASK_CHAT : ASK_PROMPT, &body);
    rc = reader_tokens(ep->g->front[0].reader, is_chat ? READING_CHAT : READING_COMPLETION,
                       buf_view(&body), ep->models_list[0], out, &e);
    buf_fini(&body);
    return rc == 0;
}

static void compare(struct endpoint *ep, const struct token_list *theirs,
                    const struct token_list *own)
{
    size_t at = first_difference(theirs, own);

    if (at == theirs->count && at == own->count) {
        LOG_INFO("endpoint tokenizes as we do endpoint=%s model=%.*s tokens=%zu", ep->address,
                 STR_ARG(ep->models_list[0]), at);
        conclude(ep, TOKENS_SAME);
        return;
    }
    LOG_ERROR("endpoint tokenizes otherwise than --model, whose prompts are estimated from now on: "
              "give the file, and the chat template, that the workers have endpoint=%s "
              "model=%.*s theirs=%zu ours=%zu first_difference=%zu",
              ep->address, STR_ARG(ep->models_list[0]), theirs->count, own->count, at);
    conclude(ep, TOKENS_DIFFERENT);
}

static void on_head(void *ctx, int status, const struct http_headers *h)
{
    struct endpoint *ep = ctx;

    (void)h;
    ep->tokens.status = status;
}

static void on_body(void *ctx, struct str bytes)
{
    struct endpoint *ep = ctx;

    (void)buf_str(&ep->tokens.body, bytes);
}

/* What could not be asked (busy, no answer) is asked again; what is not understood otherwise. */
static void unanswered(struct endpoint *ep, bool may_come)
{
    struct token_probe *p = &ep->tokens;

    if (may_come && ++p->tries < TRIES) {
        p->due_ms = clock_ms() + AGAIN_MS;
        return;
    }
    p->tries = 0;
    if (!may_come && ++p->stage < ASK_COUNT)
        return;
    LOG_INFO("endpoint does not say how it tokenizes, it is taken to be as --model "
             "endpoint=%s status=%d",
             ep->address, p->status);
    conclude(ep, TOKENS_UNKNOWN);
}

static void on_end(void *ctx, int rc, bool sent, bool got)
{
    struct endpoint *ep = ctx;
    struct token_list theirs = { 0 }, own = { 0 };

    (void)sent;
    (void)got;
    ep->tokens.call = NULL;
    gateway_lock(ep->g);
    if (rc != 0 || ep->tokens.status >= 500)
        unanswered(ep, true);
    else if (ep->tokens.status != 200 || ep->tokens.body.failed || ep->model_count == 0 ||
             !own_ids(ep, &own) || !take_ids(buf_view(&ep->tokens.body), &theirs))
        unanswered(ep, false);
    else
        compare(ep, &theirs, &own);
    gateway_unlock(ep->g);
    token_list_fini(&theirs);
    token_list_fini(&own);
}

static const struct http_call_ops ops = { on_head, on_body, on_end };

static void ask(struct endpoint *ep)
{
    struct token_probe *p = &ep->tokens;
    struct http_header type = { STR("Content-Type"), STR("application/json") };
    struct buf body;
    struct err e;
    struct http_call_opts o = { .host = ep->host,
                                .port = ep->port,
                                .method = STR("POST"),
                                .path = STR("/tokenize"),
                                .tls = ep->g->upstream.tls,
                                .headers = { &type, 1 },
                                .connect_ms = TIMEOUT_MS,
                                .first_byte_ms = TIMEOUT_MS,
                                .gap_ms = TIMEOUT_MS,
                                .total_ms = TIMEOUT_MS,
                                .body_bytes_max = REPLY_BYTES_MAX };

    buf_reset(&p->body);
    p->status = 0;
    buf_init(&body, BODY_BYTES_MAX);
    put_body(ep, p->stage, &body);
    o.body = buf_view(&body);
    if (http_call_start(ep->g->probes, &o, &ops, ep, &p->call, &e) != 0) {
        p->call = NULL;
        unanswered(ep, true);
    }
    buf_fini(&body);
}

void token_probe_due(struct endpoint *ep)
{
    ep->tokens.is_due = true;
    ep->tokens.stage = ep->tokens.tries = 0;
    ep->tokens.due_ms = 0;
}

void token_probe_tick(struct endpoint *ep, uint64_t now)
{
    struct token_probe *p = &ep->tokens;
    struct token_list own = { 0 };

    if (!p->is_due || p->call != NULL || p->due_ms > now || ep->use != SCHED_USED ||
        !reader_has_model(ep->g->front[0].reader))
        return;
    while (p->stage < ASK_COUNT && !own_ids(ep, &own))
        p->stage++;
    token_list_fini(&own);
    if (p->stage < ASK_COUNT)
        ask(ep);
    else
        p->is_due = false; /* a model that is not ours to tokenize */
}

void token_probe_stop(struct endpoint *ep)
{
    if (ep->tokens.call != NULL)
        http_call_cancel(ep->tokens.call);
    ep->tokens.call = NULL;
}

void token_probe_left(struct endpoint *ep)
{
    if (ep->tokens.verdict != TOKENS_DIFFERENT)
        return;
    ep->tokens.verdict = TOKENS_NOT_ASKED;
    tell_readers(ep->g);
}
