/* sched/usage_expr.h - expressions over the usage of an answer: the part of CEL that is numbers.
 *
 *   c ? a : b   || && !   == != < <= > >=   + - * /   numbers, true, false, // comments
 *   usage.prompt_tokens  usage.completion_tokens  usage.total_tokens
 *   usage.prompt_tokens_details.cached_tokens     has(usage.FIELD)
 *
 * Every number is a fraction, as CEL has those of JSON; whole and fractional ones may be mixed,
 * which CEL refuses.  Types are checked when it is parsed.  A field that the answer does not have
 * makes the result an error, unless && or || do not need it.
 * Source: the Common Expression Language's definition (syntax, evaluation, logical operators).
 * Threads: an expression is immutable. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_USAGE_EXPR_H
#define SCHED_USAGE_EXPR_H
#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

enum usage_field { USAGE_PROMPT, USAGE_COMPLETION, USAGE_TOTAL, USAGE_CACHED, USAGE_FIELDS };

struct usage_values {
    bool known[USAGE_FIELDS];
    double value[USAGE_FIELDS];
};

enum usage_type { USAGE_NUMBER, USAGE_BOOL };

struct usage_expr;
/* An expression that gives a `want`, in the arena.  Errors say at which character (from 1) what is
 * wrong and what may stand there: ERR_PARSE, ERR_LIMIT (too long or nested too deep), ERR_NOMEM. */
int usage_expr_parse(const struct usage_expr **out, struct str text, enum usage_type want,
                     struct arena *a, struct err *e) MUST_CHECK;
/* A boolean is 0 or 1.  False: an error, such as a field that is not there. */
bool usage_expr_eval(const struct usage_expr *x, const struct usage_values *u, double *out);
#endif
