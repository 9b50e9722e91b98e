/* llmd chat: a conversation in the terminal, streamed; or one question with --ask. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HISTORY_BYTES_MAX ((size_t)8 << 20)

struct opts {
    const char *url, *model, *system, *ask;
    uint32_t max_tokens;
    double temperature;
    bool stats;
};

#define AT(f) offsetof(struct opts, f)

static const struct opt_desc table[] = {
    { "url", OPT_STR, AT(url), CMD_URL_DEFAULT, "URL", 0, 0, "where llmd answers" },
    { "model", OPT_STR, AT(model), NULL, "NAME", 0, 0, "default: the first of /v1/models" },
    { "system", OPT_STR, AT(system), NULL, "TEXT", 0, 0, "system message" },
    { "ask", OPT_STR, AT(ask), NULL, "TEXT", 0, 0, "one question, then end" },
    { "max-tokens", OPT_U32, AT(max_tokens), "1024", "N", 1, 0, "longest answer" },
    { "temperature", OPT_F64, AT(temperature), "0.7", "T", 0, 0,
      "0 = always the most probable token" },
    { "stats", OPT_BOOL, AT(stats), "true", NULL, 0, 0,
      "a line with tokens and speed after each answer" },
};

/* Appends {"role","content"} to the array text "[...": without its closing bracket. */
static void add_message(struct buf *history, const char *role, struct str content)
{
    struct json_w w;

    buf_z(history, history->len > 1 ? "," : "");
    json_w_init(&w, history);
    json_w_obj(&w);
    json_w_kz(&w, "role", role);
    json_w_kstr(&w, "content", content);
    json_w_end(&w, '}');
}

static int turn(const struct opts *o, const struct endpoint *at, const char *model,
                struct buf *history, struct str question)
{
    struct ask_result r;
    struct err e = { 0 };
    char extra[96];
    size_t before = history->len;
    int rc;

    add_message(history, "user", question);
    buf_c(history, ']');
    snprintf(extra, sizeof(extra), ",\"temperature\":%g,\"max_tokens\":%u", o->temperature,
             o->max_tokens);
    rc = history->failed ? err_set(&e, ERR_LIMIT, "the conversation is too long; start a new one")
                         : ask_chat(at, model, buf_view(history), extra, stdout, &r, &e);
    if (history->failed)
        return cmd_fail(&e);
    history->len--; /* the bracket */
    printf("\n");
    if (rc != 0 || r.error[0] != 0 || !r.done) {
        history->len = before; /* the question can be asked again */
        fprintf(stderr, "llmd: %s\n",
                rc != 0           ? e.msg
                : r.error[0] != 0 ? r.error
                                  : "the answer was cut; ask again");
        rc = 1;
    } else {
        add_message(history, "assistant", buf_view(&r.text));
        if (o->stats)
            fprintf(stderr,
                    "(%u prompt tokens, %u cached; first token %.2f s; %u tokens, %.1f tokens/s)\n",
                    r.prompt_tokens, r.cached_tokens, r.first_token_s, r.completion_tokens,
                    r.total_s > r.first_token_s
                        ? (r.completion_tokens - 1) / (r.total_s - r.first_token_s)
                        : 0);
    }
    ask_result_fini(&r);
    return rc != 0;
}

int cmd_chat(int argc, char **argv)
{
    struct opts o = { 0 };
    struct endpoint at;
    struct err e = { 0 };
    struct buf history;
    char model[256], *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int rc = cmd_options("usage: llmd chat [--url URL] [--ask TEXT] [FLAGS]", &o, table,
                         COUNT(table), argc, argv, NULL);

    if (rc >= 0)
        return rc;
    if (endpoint_parse_url(o.url, &at, &e) != 0)
        return cmd_fail(&e);
    endpoint_take_key(&at);
    if (o.model != NULL)
        snprintf(model, sizeof(model), "%s", o.model);
    else if (ask_model(&at, model, &e) != 0)
        return cmd_fail(&e);
    buf_init(&history, HISTORY_BYTES_MAX);
    buf_c(&history, '[');
    if (o.system != NULL)
        add_message(&history, "system", str_of(o.system));
    rc = 0;
    if (o.ask != NULL) {
        rc = turn(&o, &at, model, &history, str_of(o.ask));
    } else {
        if (isatty(0))
            fprintf(stderr, "%s at %s; an empty line or Ctrl-D ends\n", model, o.url);
        for (;;) {
            if (isatty(0)) {
                printf("> ");
                fflush(stdout);
            }
            n = getline(&line, &cap, stdin);
            if (n <= 0 || str_trim((struct str) { line, (size_t)n }).n == 0)
                break;
            rc = turn(&o, &at, model, &history, str_trim((struct str) { line, (size_t)n }));
        }
    }
    mem_free(line);
    buf_fini(&history);
    return rc;
}
