/* Parsing by precedence into nodes of one array; a node's operands stand before it.
 *
 * Invariants: nesting of parentheses, conditions and signs is counted (DEPTH_MAX), and so are nodes
 * (NODES_MAX), which bounds the depth of a chain such as a + a + ...: both recursions end. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/usage_expr.h"
#include "base/check.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NODES_MAX 256
#define DEPTH_MAX 32
#define FAILED    (-1)

enum kind { K_NUMBER, K_BOOL, K_FIELD, K_HAS, K_NOT, K_MINUS, K_IF, K_BINARY };
enum op { OP_OR, OP_AND, OP_LE, OP_GE, OP_EQ, OP_NE, OP_LT, OP_GT, OP_ADD, OP_SUB, OP_MUL, OP_DIV };

/* A word that begins another stands after it. */
static const struct {
    const char *word;
    int level; /* a higher one binds closer */
    enum usage_type takes, gives;
} ops[] = {
    [OP_OR] = { "||", 1, USAGE_BOOL, USAGE_BOOL },
    [OP_AND] = { "&&", 2, USAGE_BOOL, USAGE_BOOL },
    [OP_LE] = { "<=", 3, USAGE_NUMBER, USAGE_BOOL },
    [OP_GE] = { ">=", 3, USAGE_NUMBER, USAGE_BOOL },
    [OP_EQ] = { "==", 3, USAGE_NUMBER, USAGE_BOOL },
    [OP_NE] = { "!=", 3, USAGE_NUMBER, USAGE_BOOL },
    [OP_LT] = { "<", 3, USAGE_NUMBER, USAGE_BOOL },
    [OP_GT] = { ">", 3, USAGE_NUMBER, USAGE_BOOL },
    [OP_ADD] = { "+", 4, USAGE_NUMBER, USAGE_NUMBER },
    [OP_SUB] = { "-", 4, USAGE_NUMBER, USAGE_NUMBER },
    [OP_MUL] = { "*", 5, USAGE_NUMBER, USAGE_NUMBER },
    [OP_DIV] = { "/", 5, USAGE_NUMBER, USAGE_NUMBER },
};

static const struct {
    const char *path;
    enum usage_field field;
    bool only_has; /* a map: it can only be asked for */
} fields[] = {
    { "prompt_tokens", USAGE_PROMPT, false },
    { "completion_tokens", USAGE_COMPLETION, false },
    { "total_tokens", USAGE_TOTAL, false },
    { "prompt_tokens_details.cached_tokens", USAGE_CACHED, false },
    { "prompt_tokens_details", USAGE_CACHED, true },
};

#define KNOWN                                                                                      \
    "usage.prompt_tokens, .completion_tokens, .total_tokens, .prompt_tokens_details.cached_tokens"

struct node {
    enum kind kind;
    enum usage_type type;
    enum op op;
    enum usage_field field;
    int a, b, c; /* operands */
    double value;
};

struct usage_expr {
    struct node node[NODES_MAX];
    int count, root;
};

struct parse {
    struct str text;
    size_t at;
    unsigned depth;
    struct usage_expr *x;
    struct err *e;
};

/* ---- parsing ---- */

static int bad(struct parse *p, size_t at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int bad(struct parse *p, size_t at, const char *fmt, ...)
{
    char what[ERR_MSG_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    (void)err_set(p->e, ERR_PARSE, "character %zu: %s", at + 1, what);
    return FAILED;
}

static int too_much(struct parse *p, const char *what)
{
    (void)err_set(p->e, ERR_LIMIT, "character %zu: %s", p->at + 1, what);
    return FAILED;
}

static int add(struct parse *p, struct node n)
{
    if (p->x->count == NODES_MAX)
        return too_much(p, "the expression is too long");
    p->x->node[p->x->count] = n;
    return p->x->count++;
}

static char look(const struct parse *p, size_t ahead)
{
    return p->at + ahead < p->text.n ? p->text.p[p->at + ahead] : 0;
}

static void skip(struct parse *p)
{
    for (;;) {
        while (p->at < p->text.n && strchr(" \t\r\n", look(p, 0)) != NULL && look(p, 0) != 0)
            p->at++;
        if (look(p, 0) != '/' || look(p, 1) != '/')
            return;
        while (p->at < p->text.n && look(p, 0) != '\n')
            p->at++;
    }
}

static bool take(struct parse *p, const char *word)
{
    skip(p);
    if (!str_starts(str_sub(p->text, p->at, SIZE_MAX), str_of(word)))
        return false;
    p->at += strlen(word);
    return true;
}

static int want(struct parse *p, const char *word)
{
    if (take(p, word))
        return 0;
    return bad(p, p->at, p->at == p->text.n ? "%s is missing at the end" : "must be %s", word);
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

static struct str word(struct parse *p)
{
    size_t from;

    skip(p);
    from = p->at;
    while (is_word(look(p, 0)))
        p->at++;
    return str_sub(p->text, from, p->at - from);
}

static const char *type_name(enum usage_type t)
{
    return t == USAGE_BOOL ? "a condition" : "a number";
}

static int check(struct parse *p, int n, enum usage_type t, size_t at)
{
    if (n == FAILED || p->x->node[n].type == t)
        return n;
    return bad(p, at, "must be %s, and is %s", type_name(t), type_name(p->x->node[n].type));
}

static int expression(struct parse *p);

static int number(struct parse *p)
{
    size_t from = p->at;
    double v;

    while (isdigit((unsigned char)look(p, 0)) || look(p, 0) == '.')
        p->at++;
    if (look(p, 0) == 'e' || look(p, 0) == 'E') {
        p->at++;
        if (look(p, 0) == '+' || look(p, 0) == '-')
            p->at++;
        while (isdigit((unsigned char)look(p, 0)))
            p->at++;
    }
    if (is_word(look(p, 0)) || !str_f64(str_sub(p->text, from, p->at - from), &v))
        return bad(p, from, "is no number; write it as 2, 0.5 or 1e3");
    return add(p, (struct node) { .kind = K_NUMBER, .type = USAGE_NUMBER, .value = v });
}

/* After `usage`; has: whether only its presence is asked. */
static int field(struct parse *p, size_t from, bool has)
{
    char path[64] = "";
    size_t len = 0;

    while (take(p, ".")) {
        struct str w = word(p);

        if (w.n == 0 || len + w.n + 2 > sizeof(path))
            return bad(p, from, "no such field; known are " KNOWN);
        if (len != 0)
            path[len++] = '.';
        memcpy(path + len, w.p, w.n);
        len += w.n;
        path[len] = 0;
    }
    for (size_t i = 0; i < COUNT(fields); i++)
        if (strcmp(path, fields[i].path) == 0 && (has || !fields[i].only_has))
            return add(p, (struct node) { .kind = has ? K_HAS : K_FIELD,
                                          .type = has ? USAGE_BOOL : USAGE_NUMBER,
                                          .field = fields[i].field });
    return bad(p, from, "no such field; known are " KNOWN);
}

static int name(struct parse *p)
{
    size_t from = p->at;
    struct str w = word(p);
    int n;

    if (str_eqz(w, "true") || str_eqz(w, "false"))
        return add(p, (struct node) { .kind = K_BOOL,
                                      .type = USAGE_BOOL,
                                      .value = str_eqz(w, "true") ? 1 : 0 });
    if (str_eqz(w, "usage"))
        return field(p, from, false);
    if (!str_eqz(w, "has"))
        return bad(p, from, "unknown name; known are has(), true, false, " KNOWN);
    if (want(p, "(") != 0)
        return FAILED;
    skip(p);
    from = p->at;
    if (!str_eqz(word(p), "usage"))
        return bad(p, from, "has() takes a field of usage, such as usage.prompt_tokens");
    n = field(p, from, true);
    return n == FAILED || want(p, ")") != 0 ? FAILED : n;
}

static int primary(struct parse *p)
{
    char c;
    int n;

    skip(p);
    c = look(p, 0);
    if (isdigit((unsigned char)c) || (c == '.' && isdigit((unsigned char)look(p, 1))))
        return number(p);
    if (is_word(c))
        return name(p);
    if (take(p, "(")) {
        n = expression(p);
        return n == FAILED || want(p, ")") != 0 ? FAILED : n;
    }
    if (p->at == p->text.n)
        return bad(p, p->at, "a number or a condition is missing at the end");
    if (strchr("\"'[{", c) != NULL)
        return bad(p, p->at, "text, lists and maps are not taken, only numbers of usage");
    return bad(p, p->at, "must be a number, a field of usage, has(), true, false or (");
}

static int unary(struct parse *p)
{
    bool is_not;
    size_t at;
    int n;

    skip(p);
    if (look(p, 0) != '-' && (look(p, 0) != '!' || look(p, 1) == '='))
        return primary(p);
    if (++p->depth > DEPTH_MAX)
        return too_much(p, "nested too deep");
    is_not = look(p, 0) == '!';
    p->at++;
    at = p->at;
    n = check(p, unary(p), is_not ? USAGE_BOOL : USAGE_NUMBER, at);
    p->depth--;
    return n == FAILED
               ? n
               : add(p, (struct node) {
                            .kind = is_not ? K_NOT : K_MINUS, .type = p->x->node[n].type, .a = n });
}

/* The operator that follows, or -1; not taken yet. */
static int operator_ahead(struct parse *p)
{
    skip(p);
    for (size_t i = 0; i < COUNT(ops); i++)
        if (str_starts(str_sub(p->text, p->at, SIZE_MAX), str_of(ops[i].word)))
            return (int)i;
    return -1;
}

static int binary(struct parse *p, int level)
{
    size_t at = p->at, right_at;
    int left = unary(p), op;

    while (left != FAILED && (op = operator_ahead(p)) >= 0 && ops[op].level >= level) {
        bool any = op == OP_EQ || op == OP_NE; /* of both types, but not mixed */
        enum usage_type takes = any ? p->x->node[left].type : ops[op].takes;
        int right;

        if (check(p, left, takes, at) == FAILED)
            return FAILED;
        p->at += strlen(ops[op].word);
        right_at = p->at;
        right = check(p, binary(p, ops[op].level + 1), takes, right_at);
        if (right == FAILED)
            return FAILED;
        left = add(p, (struct node) { .kind = K_BINARY,
                                      .type = ops[op].gives,
                                      .op = (enum op)op,
                                      .a = left,
                                      .b = right });
    }
    return left;
}

static int expression(struct parse *p)
{
    size_t at = p->at, a_at, b_at;
    int c, a, b;

    if (++p->depth > DEPTH_MAX)
        return too_much(p, "nested too deep");
    c = binary(p, 1);
    if (c != FAILED && take(p, "?")) {
        if (check(p, c, USAGE_BOOL, at) == FAILED)
            return FAILED;
        a_at = p->at;
        a = binary(p, 1);
        if (a == FAILED || want(p, ":") != 0)
            return FAILED;
        b_at = p->at;
        b = expression(p);
        if (b != FAILED && p->x->node[a].type != p->x->node[b].type)
            return bad(p, b_at, "must be %s, as the other branch at character %zu",
                       type_name(p->x->node[a].type), a_at + 1);
        c = b == FAILED
                ? b
                : add(p, (struct node) {
                             .kind = K_IF, .type = p->x->node[a].type, .a = c, .b = a, .c = b });
    }
    p->depth--;
    return c;
}

static int rest(struct parse *p)
{
    skip(p);
    if (p->at == p->text.n)
        return 0;
    if (look(p, 0) == '%')
        return bad(p, p->at, "%% is for whole numbers, and those of usage are fractions");
    if (look(p, 0) == '=')
        return bad(p, p->at, "write == to compare");
    return bad(p, p->at, "must be an operator: + - * / == != < <= > >= && || ? :");
}

int usage_expr_parse(const struct usage_expr **out, struct str text, enum usage_type type,
                     struct arena *a, struct err *e)
{
    struct parse p = { .text = text, .e = e };

    *out = NULL;
    p.x = arena_try_zero(a, 1, sizeof(*p.x));
    if (p.x == NULL)
        return err_set(e, ERR_NOMEM, "no memory for an expression");
    p.x->root = expression(&p);
    if (p.x->root == FAILED || rest(&p) != 0 || check(&p, p.x->root, type, 0) == FAILED)
        return e->code;
    *out = p.x;
    return 0;
}

/* ---- evaluation ---- */

static bool eval(const struct usage_expr *x, int at, const struct usage_values *u, double *out);

/* An error on one side does not matter when the other one decides. */
static bool eval_logic(const struct usage_expr *x, const struct node *n,
                       const struct usage_values *u, double *out)
{
    double decides = n->op == OP_OR ? 1 : 0, a, b;
    bool has_a = eval(x, n->a, u, &a), has_b = eval(x, n->b, u, &b);

    *out = decides;
    if ((has_a && a == decides) || (has_b && b == decides))
        return true;
    *out = 1 - decides;
    return has_a && has_b;
}

static bool eval_binary(const struct usage_expr *x, const struct node *n,
                        const struct usage_values *u, double *out)
{
    double a, b;

    if (n->op == OP_OR || n->op == OP_AND)
        return eval_logic(x, n, u, out);
    if (!eval(x, n->a, u, &a) || !eval(x, n->b, u, &b))
        return false;
    switch (n->op) {
    case OP_OR:
    case OP_AND: break;
    case OP_LE: *out = a <= b; break;
    case OP_GE: *out = a >= b; break;
    case OP_EQ: *out = a == b; break;
    case OP_NE: *out = a != b; break;
    case OP_LT: *out = a < b; break;
    case OP_GT: *out = a > b; break;
    case OP_ADD: *out = a + b; break;
    case OP_SUB: *out = a - b; break;
    case OP_MUL: *out = a * b; break;
    case OP_DIV: *out = a / b; break;
    }
    return true;
}

static bool eval(const struct usage_expr *x, int at, const struct usage_values *u, double *out)
{
    const struct node *n = &x->node[at];

    *out = n->value;
    switch (n->kind) {
    case K_NUMBER:
    case K_BOOL: return true;
    case K_FIELD: *out = u->value[n->field]; return u->known[n->field];
    case K_HAS: *out = u->known[n->field]; return true;
    case K_NOT:
        if (!eval(x, n->a, u, out))
            return false;
        *out = 1 - *out;
        return true;
    case K_MINUS:
        if (!eval(x, n->a, u, out))
            return false;
        *out = -*out;
        return true;
    case K_IF:
        if (!eval(x, n->a, u, out))
            return false;
        return eval(x, *out != 0 ? n->b : n->c, u, out);
    case K_BINARY: return eval_binary(x, n, u, out);
    }
    return false;
}

bool usage_expr_eval(const struct usage_expr *x, const struct usage_values *u, double *out)
{
    return eval(x, x->root, u, out);
}
