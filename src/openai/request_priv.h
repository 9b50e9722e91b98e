/* openai/request_priv.h - what the files that parse requests share. */
// SPDX-License-Identifier: Apache-2.0
#ifndef OPENAI_REQUEST_PRIV_H
#define OPENAI_REQUEST_PRIV_H
#include "openai/openai.h"

enum { ROUTE_CHAT = 1, ROUTE_COMPLETION = 2, ROUTE_ANY = 3 };

struct request_ctx {
    struct arena *a;
    const struct json *root;
    struct oai_request *r;
    struct oai_error *e;
    unsigned route;
};

#define BAD(c, code, param, ...)                                                                   \
    oai_fail((c)->e, 400, "BadRequestError", (code), (param), __VA_ARGS__)

/* Text of a client inside a message: cut, so that an error stays one short line. */
#define CUT(s) (int)MIN((s).n, (size_t)64), (s).p != NULL ? (s).p : ""

/* A field's path such as "messages[3].content", in the arena. */
const char *request_path(struct arena *a, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* What a JSON value is, in words ("a string"). */
const char *request_type_name(const struct json *j);
int request_no_memory(struct request_ctx *c);
/* The member of root, or NULL when it is absent or null: the two mean the same. */
const struct json *request_field(const struct request_ctx *c, const char *name);
/* An integer in min..max; 5.0 counts as 5, as it does for vLLM. */
int request_int(struct request_ctx *c, const struct json *j, const char *param, int64_t min,
                int64_t max, int64_t *out) MUST_CHECK;

/* Starts a request: parses body, sets every default, reads the fields both routes share. */
int request_begin(struct request_ctx *c, struct str body) MUST_CHECK;
int request_common(struct request_ctx *c) MUST_CHECK;
int request_messages(struct request_ctx *c) MUST_CHECK;
int request_tools(struct request_ctx *c) MUST_CHECK;
int request_tool_choice(struct request_ctx *c) MUST_CHECK; /* after request_tools */
int request_template_args(struct request_ctx *c) MUST_CHECK;
#endif
