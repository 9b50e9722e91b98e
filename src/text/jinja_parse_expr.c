/* Expressions, by precedence, from loose to tight:
 *
 *   a if c else b   or   and   not   == != < <= > >= in, not in   + -   ~   * / // %   **
 *   unary - +   primary, then .name [index] (call), then |filter and `is test`
 *
 * as Jinja 3 has them: the sign binds tighter than a filter, a comparison chain is one node. */
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_priv.h"
#include "base/check.h"
#include <stdlib.h>

static struct jnode *unary(struct jparser *p, bool with_filter);

static bool enter(struct jparser *p)
{
    if (p->depth < JINJA_NESTING_MAX) {
        p->depth++;
        return true;
    }
    p->rc =
        err_set(p->e, ERR_LIMIT, "chat template, line %u: nested too deeply", jparse_peek(p)->line);
    return false;
}

static struct jnode *pair(struct jparser *p, enum jkind kind, enum jop op, struct jnode *a,
                          struct jnode *b)
{
    struct jnode *n = b != NULL ? jparse_node(p, kind) : NULL;

    if (n == NULL)
        return NULL;
    n->op = (uint16_t)op;
    n->a = a;
    n->b = b;
    return n;
}

struct list {
    struct jnode *head, *tail;
};

static void append(struct list *l, struct jnode *n)
{
    if (l->tail != NULL)
        l->tail->next = n;
    else
        l->head = n;
    l->tail = n;
}

/* ---- primaries ---- */

static struct jnode *constant(struct jparser *p, struct jv v)
{
    struct jnode *n = jparse_node(p, JN_CONST);

    if (n != NULL)
        n->value = v;
    return n;
}

static struct jnode *name(struct jparser *p)
{
    static const struct {
        const char *name;
        enum jtype type;
        bool b;
    } words[] = {
        { "true", J_BOOL, true },   { "True", J_BOOL, true },  { "false", J_BOOL, false },
        { "False", J_BOOL, false }, { "none", J_NONE, false }, { "None", J_NONE, false },
    };
    const struct jtoken *t = jparse_next(p);
    struct jnode *n;

    for (size_t i = 0; i < COUNT(words); i++)
        if (str_eqz(t->text, words[i].name))
            return constant(p, words[i].type == J_NONE ? jv_none() : jv_bool(words[i].b));
    n = jparse_node(p, JN_NAME);
    if (n == NULL)
        return NULL;
    n->name = jparse_intern(p, t->text);
    n->op = jfunc_id(t->text);
    if (p->macro != NULL) {
        p->macro->flag = p->macro->flag || str_eqz(t->text, "caller");
        p->macro->flag2 =
            p->macro->flag2 || str_eqz(t->text, "varargs") || str_eqz(t->text, "kwargs");
    }
    return n;
}

/* Adjacent literals are one. */
static struct jnode *string(struct jparser *p)
{
    struct str s = jparse_next(p)->text;

    while (jparse_peek(p)->type == JT_STRING) {
        struct str t = jparse_next(p)->text;
        char *both = arena_try(p->a, s.n + t.n + 1);

        if (both == NULL)
            return jparse_fail(p, "it needs too much memory");
        for (size_t i = 0; i < s.n + t.n; i++)
            both[i] = i < s.n ? s.p[i] : t.p[i - s.n];
        s = (struct str) { both, s.n + t.n };
    }
    return constant(p, jv_str(s));
}

static struct jnode *number(struct jparser *p)
{
    const struct jtoken *t = jparse_next(p);
    int64_t i;
    double d;

    if (t->type == JT_INT && str_i64(t->text, &i))
        return constant(p, jv_int(i));
    if (t->type == JT_INT || !str_f64(t->text, &d))
        return jparse_fail(p, "a number is out of range");
    return constant(p, jv_float(d));
}

/* Expressions up to `close`; `comma` says whether one was seen. */
static bool items(struct jparser *p, int close, struct list *l, bool *comma)
{
    *comma = false;
    while (!jparse_take_op(p, close)) {
        struct jnode *n;

        if (l->head != NULL && !jparse_want_op(p, ','))
            return false;
        *comma = *comma || l->head != NULL;
        if (l->head != NULL && jparse_take_op(p, close))
            return true;
        n = jparse_expr(p, true);
        if (n == NULL)
            return false;
        append(l, n);
    }
    return true;
}

static struct jnode *list_literal(struct jparser *p)
{
    struct list l = { 0 };
    struct jnode *n = jparse_node(p, JN_LIST);
    bool comma;

    if (n == NULL || !items(p, ']', &l, &comma))
        return NULL;
    n->list = l.head;
    return n;
}

static struct jnode *parentheses(struct jparser *p)
{
    struct list l = { 0 };
    struct jnode *n = jparse_node(p, JN_TUPLE);
    bool comma;

    if (n == NULL || !items(p, ')', &l, &comma))
        return NULL;
    if (l.head != NULL && !comma)
        return l.head;
    n->list = l.head;
    return n;
}

static struct jnode *dict_literal(struct jparser *p)
{
    struct list l = { 0 };
    struct jnode *n = jparse_node(p, JN_DICT);

    while (n != NULL && !jparse_take_op(p, '}')) {
        struct jnode *k, *e;

        if (l.head != NULL && !jparse_want_op(p, ','))
            return NULL;
        if (l.head != NULL && jparse_take_op(p, '}'))
            break;
        k = jparse_expr(p, true);
        if (k == NULL || !jparse_want_op(p, ':'))
            return NULL;
        e = pair(p, JN_PAIR, JOP_ADD, k, jparse_expr(p, true));
        if (e == NULL)
            return NULL;
        append(&l, e);
    }
    if (n != NULL)
        n->list = l.head;
    return n;
}

static struct jnode *primary(struct jparser *p)
{
    const struct jtoken *t = jparse_peek(p);

    switch (t->type) {
    case JT_NAME: return name(p);
    case JT_STRING: return string(p);
    case JT_INT:
    case JT_FLOAT: return number(p);
    default: break;
    }
    if (jparse_take_op(p, '('))
        return parentheses(p);
    if (jparse_take_op(p, '['))
        return list_literal(p);
    if (jparse_take_op(p, '{'))
        return dict_literal(p);
    return jparse_fail(p, "an expression was expected");
}

/* ---- what follows a primary ---- */

static struct jnode *slice(struct jparser *p, struct jnode *start)
{
    struct jnode *n = jparse_node(p, JN_SLICE);

    if (n == NULL)
        return NULL;
    n->a = start;
    if (!jparse_is_op(p, ']') && !jparse_is_op(p, ':')) {
        n->b = jparse_expr(p, true);
        if (n->b == NULL)
            return NULL;
    }
    if (jparse_take_op(p, ':') && !jparse_is_op(p, ']')) {
        n->c = jparse_expr(p, true);
        if (n->c == NULL)
            return NULL;
    }
    return n;
}

static struct jnode *subscript(struct jparser *p, struct jnode *base)
{
    struct jnode *n = jparse_node(p, JN_ITEM), *index = NULL;

    if (n == NULL)
        return NULL;
    if (jparse_take_op(p, ':')) {
        index = slice(p, NULL);
    } else {
        index = jparse_exprs(p, true);
        if (index != NULL && jparse_take_op(p, ':'))
            index = slice(p, index);
    }
    if (index == NULL || !jparse_want_op(p, ']'))
        return NULL;
    n->a = base;
    n->b = index;
    return n;
}

static struct jnode *attribute(struct jparser *p, struct jnode *base)
{
    const struct jtoken *t = jparse_next(p);
    struct jnode *n;
    int64_t i;

    if (t->type == JT_INT && str_i64(t->text, &i))
        return pair(p, JN_ITEM, JOP_ADD, base, constant(p, jv_int(i)));
    if (t->type != JT_NAME)
        return jparse_fail(p, "a name was expected after '.'");
    n = jparse_node(p, JN_ATTR);
    if (n == NULL)
        return NULL;
    n->a = base;
    n->name = jparse_intern(p, t->text);
    n->op = jmethod_id(t->text);
    return n;
}

static struct jnode *argument(struct jparser *p)
{
    struct jnode *n, *v;

    if (jparse_is_op(p, '*') || jparse_is_op(p, JC_POW)) {
        n = jparse_node(p, jparse_is_op(p, '*') ? JN_STAR : JN_STAR2);
        (void)jparse_next(p);
        v = jparse_expr(p, true);
    } else if (jparse_peek(p)->type == JT_NAME && p->tok.t[p->at + 1].type == JT_OP &&
               p->tok.t[p->at + 1].op == '=') {
        n = jparse_node(p, JN_KWARG);
        if (n != NULL)
            n->name = jparse_intern(p, jparse_peek(p)->text);
        (void)jparse_next(p);
        (void)jparse_next(p);
        v = jparse_expr(p, true);
    } else {
        return jparse_expr(p, true);
    }
    if (n == NULL || v == NULL)
        return NULL;
    n->a = v;
    return n;
}

/* After the opening parenthesis. */
static bool arguments(struct jparser *p, const struct jnode **out)
{
    struct list l = { 0 };

    while (!jparse_take_op(p, ')')) {
        struct jnode *n;

        if (l.head != NULL && !jparse_want_op(p, ','))
            return false;
        if (l.head != NULL && jparse_take_op(p, ')'))
            break;
        n = argument(p);
        if (n == NULL)
            return false;
        append(&l, n);
    }
    *out = l.head;
    return true;
}

static struct jnode *call(struct jparser *p, struct jnode *base)
{
    struct jnode *n = jparse_node(p, JN_CALL);

    if (n == NULL || !arguments(p, &n->list))
        return NULL;
    n->a = base;
    return n;
}

static struct jnode *postfix(struct jparser *p, struct jnode *n)
{
    /* A long chain nests as deeply in the tree as parentheses would. */
    for (unsigned i = 0; n != NULL; i++) {
        if (i == JINJA_NESTING_MAX)
            return jparse_fail(p, "too many subscripts in a row");
        if (jparse_take_op(p, '.'))
            n = attribute(p, n);
        else if (jparse_take_op(p, '['))
            n = subscript(p, n);
        else if (jparse_take_op(p, '('))
            n = call(p, n);
        else
            break;
    }
    return n;
}

static struct jnode *filter(struct jparser *p, struct jnode *base)
{
    const struct jtoken *t = jparse_next(p);
    struct jnode *n;
    int id;

    if (t->type != JT_NAME)
        return jparse_fail(p, "a filter's name was expected");
    id = jfilter_find(t->text);
    if (id < 0 && p->branches == 0)
        return jparse_fail(p, "there is no filter '%.*s'", STR_ARG(str_sub(t->text, 0, 64)));
    n = jparse_node(p, JN_FILTER);
    if (n == NULL)
        return NULL;
    n->name = t->text;
    n->op = id < 0 ? JUNKNOWN : (uint16_t)id;
    n->a = base;
    if (jparse_take_op(p, '(') && !arguments(p, &n->list))
        return NULL;
    return n;
}

/* What may begin the one argument that a test takes without parentheses. */
static bool begins_argument(const struct jparser *p)
{
    const struct jtoken *t = jparse_peek(p);

    if (t->type == JT_OP)
        return t->op == '[' || t->op == '{';
    if (t->type == JT_NAME)
        return !jparse_is_name(p, "else") && !jparse_is_name(p, "or") &&
               !jparse_is_name(p, "and") && !jparse_is_name(p, "if") && !jparse_is_name(p, "is") &&
               !jparse_is_name(p, "not") && !jparse_is_name(p, "in") &&
               !jparse_is_name(p, "recursive");
    return t->type == JT_STRING || t->type == JT_INT || t->type == JT_FLOAT;
}

static struct jnode *test(struct jparser *p, struct jnode *base)
{
    bool negated = jparse_take_name(p, "not");
    const struct jtoken *t = jparse_next(p);
    struct jnode *n, *outer;
    int id;

    if (t->type != JT_NAME)
        return jparse_fail(p, "a test's name was expected");
    id = jtest_find(t->text);
    if (id < 0 && p->branches == 0)
        return jparse_fail(p, "there is no test '%.*s'", STR_ARG(str_sub(t->text, 0, 64)));
    n = jparse_node(p, JN_TEST);
    if (n == NULL)
        return NULL;
    n->name = t->text;
    n->op = id < 0 ? JUNKNOWN : (uint16_t)id;
    n->a = base;
    if (jparse_take_op(p, '(')) {
        if (!arguments(p, &n->list))
            return NULL;
    } else if (begins_argument(p)) {
        struct jnode *arg = primary(p);

        arg = arg != NULL ? postfix(p, arg) : NULL;
        if (arg == NULL)
            return NULL;
        n->list = arg;
    }
    if (!negated)
        return n;
    outer = jparse_node(p, JN_NOT);
    if (outer != NULL)
        outer->a = n;
    return outer;
}

struct jnode *jparse_filters(struct jparser *p, struct jnode *base, bool need_first)
{
    struct jnode *n = base;

    if (need_first)
        n = filter(p, base);
    for (unsigned i = 0; n != NULL || (base == NULL && !need_first); i++) {
        if (i == JINJA_NESTING_MAX)
            return jparse_fail(p, "too many filters in a row");
        if (jparse_take_op(p, '|'))
            n = filter(p, n);
        else if (base != NULL && jparse_take_name(p, "is"))
            n = test(p, n);
        else if (base != NULL && jparse_take_op(p, '('))
            n = call(p, n);
        else
            break;
        if (n == NULL)
            return NULL;
    }
    return n;
}

/* ---- operators ---- */

static struct jnode *signed_operand(struct jparser *p, enum jkind kind)
{
    struct jnode *n = jparse_node(p, kind), *v = NULL;

    (void)jparse_next(p);
    if (n != NULL && enter(p)) {
        v = unary(p, false);
        p->depth--;
    }
    if (v == NULL)
        return NULL;
    n->a = v;
    return n;
}

static struct jnode *unary(struct jparser *p, bool with_filter)
{
    struct jnode *n;

    if (jparse_is_op(p, '-'))
        n = signed_operand(p, JN_NEG);
    else if (jparse_is_op(p, '+'))
        n = signed_operand(p, JN_POS);
    else
        n = primary(p);
    if (n != NULL)
        n = postfix(p, n);
    return n != NULL && with_filter ? jparse_filters(p, n, false) : n;
}

struct binary {
    int op;
    enum jop jop;
};

/* A left-associative level: `next` is the tighter one.  Its length is bounded like its depth, for
 * the tree leans to the left. */
static struct jnode *level(struct jparser *p, const struct binary *ops, size_t count,
                           struct jnode *(*next)(struct jparser *))
{
    struct jnode *n = next(p);

    for (unsigned length = 0; n != NULL; length++) {
        size_t i = 0;

        while (i < count && !jparse_is_op(p, ops[i].op))
            i++;
        if (i == count)
            return n;
        if (length == 4 * JINJA_NESTING_MAX)
            return jparse_fail(p, "an expression is too long");
        (void)jparse_next(p);
        n = pair(p, JN_BIN, ops[i].jop, n, next(p));
    }
    return NULL;
}

static struct jnode *operand(struct jparser *p)
{
    return unary(p, true);
}

static struct jnode *power(struct jparser *p)
{
    static const struct binary ops[] = { { JC_POW, JOP_POW } };

    return level(p, ops, COUNT(ops), operand);
}

static struct jnode *product(struct jparser *p)
{
    static const struct binary ops[] = {
        { '*', JOP_MUL },
        { '/', JOP_DIV },
        { JC_FLOORDIV, JOP_FLOORDIV },
        { '%', JOP_MOD },
    };

    return level(p, ops, COUNT(ops), power);
}

static struct jnode *concat(struct jparser *p)
{
    struct jnode *n = product(p), *all;
    struct list l = { 0 };

    if (n == NULL || !jparse_is_op(p, '~'))
        return n;
    all = jparse_node(p, JN_CONCAT);
    append(&l, n);
    while (jparse_take_op(p, '~')) {
        n = product(p);
        if (n == NULL)
            return NULL;
        append(&l, n);
    }
    if (all != NULL)
        all->list = l.head;
    return all;
}

static struct jnode *sum(struct jparser *p)
{
    static const struct binary ops[] = { { '+', JOP_ADD }, { '-', JOP_SUB } };

    return level(p, ops, COUNT(ops), concat);
}

static bool take_comparison(struct jparser *p, enum jop *op)
{
    static const struct binary ops[] = {
        { JC_EQ, JOP_EQ }, { JC_NE, JOP_NE }, { '<', JOP_LT },
        { JC_LE, JOP_LE }, { '>', JOP_GT },   { JC_GE, JOP_GE },
    };
    const struct jtoken *after;

    for (size_t i = 0; i < COUNT(ops); i++)
        if (jparse_take_op(p, ops[i].op)) {
            *op = ops[i].jop;
            return true;
        }
    if (jparse_take_name(p, "in")) {
        *op = JOP_IN;
        return true;
    }
    if (!jparse_is_name(p, "not"))
        return false;
    after = &p->tok.t[p->at + 1]; /* a name is never the last token */
    if (after->type != JT_NAME || !str_eqz(after->text, "in"))
        return false;
    (void)jparse_next(p);
    (void)jparse_next(p);
    *op = JOP_NOT_IN;
    return true;
}

static struct jnode *comparison(struct jparser *p)
{
    struct jnode *n = sum(p), *all = NULL;
    struct list l = { 0 };
    enum jop op;

    while (n != NULL && take_comparison(p, &op)) {
        struct jnode *o = jparse_node(p, JN_OPERAND), *v = sum(p);

        if (all == NULL)
            all = jparse_node(p, JN_CMP);
        if (o == NULL || v == NULL || all == NULL)
            return NULL;
        o->op = (uint16_t)op;
        o->a = v;
        append(&l, o);
    }
    if (all == NULL)
        return n;
    all->a = n;
    all->list = l.head;
    return all;
}

static struct jnode *negation(struct jparser *p)
{
    struct jnode *n, *v = NULL;

    if (!jparse_take_name(p, "not"))
        return comparison(p);
    n = jparse_node(p, JN_NOT);
    if (n != NULL && enter(p)) {
        v = negation(p);
        p->depth--;
    }
    if (v == NULL)
        return NULL;
    n->a = v;
    return n;
}

static struct jnode *words(struct jparser *p, const char *word, enum jkind kind,
                           struct jnode *(*next)(struct jparser *))
{
    struct jnode *n = next(p);

    for (unsigned length = 0; n != NULL && jparse_take_name(p, word); length++) {
        if (length == 4 * JINJA_NESTING_MAX)
            return jparse_fail(p, "an expression is too long");
        n = pair(p, kind, JOP_ADD, n, next(p));
    }
    return n;
}

static struct jnode *conjunction(struct jparser *p)
{
    return words(p, "and", JN_AND, negation);
}

static struct jnode *disjunction(struct jparser *p)
{
    return words(p, "or", JN_OR, conjunction);
}

struct jnode *jparse_expr(struct jparser *p, bool with_cond)
{
    struct jnode *n = NULL;

    if (!enter(p))
        return NULL;
    n = disjunction(p);
    for (unsigned length = 0; with_cond && n != NULL && jparse_take_name(p, "if"); length++) {
        struct jnode *c = jparse_node(p, JN_COND), *t = disjunction(p), *otherwise = NULL;

        if (length == JINJA_NESTING_MAX)
            return jparse_fail(p, "an expression is too long");
        if (c == NULL || t == NULL)
            return NULL;
        if (jparse_take_name(p, "else")) {
            otherwise = jparse_expr(p, true);
            if (otherwise == NULL)
                return NULL;
        }
        c->a = t;
        c->b = n;
        c->c = otherwise;
        n = c;
    }
    p->depth--;
    return n;
}

struct jnode *jparse_exprs(struct jparser *p, bool with_cond)
{
    struct jnode *n = jparse_expr(p, with_cond), *all;
    struct list l = { 0 };

    if (n == NULL || !jparse_is_op(p, ','))
        return n;
    all = jparse_node(p, JN_TUPLE);
    append(&l, n);
    while (jparse_take_op(p, ',')) {
        const struct jtoken *t = jparse_peek(p);

        if (t->type == JT_BLOCK_END || t->type == JT_OUT_END || jparse_is_op(p, ']') ||
            jparse_is_name(p, "in") || jparse_is_name(p, "recursive"))
            break;
        n = jparse_expr(p, with_cond);
        if (n == NULL)
            return NULL;
        append(&l, n);
    }
    if (all != NULL)
        all->list = l.head;
    return all;
}
