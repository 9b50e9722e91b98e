/* Statements: tokens to a tree.
 *
 * Names are interned, so that looking a variable up compares pointers; filters, tests
 * and methods are found by name once, here, so that a template that needs one we do
 * not have is refused when it is loaded, not in the middle of a conversation; unless it
 * stands in a branch, which may be meant for another engine and never run. */
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_priv.h"
#include "base/check.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static bool body(struct jparser *p, const char *const *ends, const struct jnode **out);

const char jname_loop[] = "loop", jname_caller[] = "caller", jname_varargs[] = "varargs",
           jname_kwargs[] = "kwargs";

/* ---- tokens ---- */

void *jparse_fail(struct jparser *p, const char *fmt, ...)
{
    char what[256];
    va_list ap;

    if (p->rc != 0)
        return NULL;
    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    p->rc = err_set(p->e, ERR_PARSE, "chat template, line %u: %s", jparse_peek(p)->line, what);
    return NULL;
}

struct jnode *jparse_node(struct jparser *p, enum jkind kind)
{
    struct jnode *n = p->rc == 0 ? arena_try_zero(p->a, 1, sizeof(*n)) : NULL;

    if (n == NULL) {
        if (p->rc == 0)
            p->rc = err_set(p->e, ERR_LIMIT, "chat template: it needs too much memory");
        return NULL;
    }
    n->kind = kind;
    n->line = jparse_peek(p)->line;
    return n;
}

struct str jparse_intern(struct jparser *p, struct str s)
{
    struct jname **at = &p->names[str_hash(s) % JNAMES], *n;

    for (n = *at; n != NULL; n = n->next)
        if (str_eq(n->text, s))
            return n->text;
    n = arena_try_zero(p->a, 1, sizeof(*n));
    if (n == NULL) {
        if (p->rc == 0)
            p->rc = err_set(p->e, ERR_LIMIT, "chat template: it needs too much memory");
        return s;
    }
    n->text = s; /* tokens point into the arena */
    n->next = *at;
    *at = n;
    return s;
}

const struct jtoken *jparse_peek(const struct jparser *p)
{
    return &p->tok.t[p->at];
}

const struct jtoken *jparse_next(struct jparser *p)
{
    const struct jtoken *t = &p->tok.t[p->at];

    if (t->type != JT_EOF) /* the last one, which stays */
        p->at++;
    return t;
}

bool jparse_is_name(const struct jparser *p, const char *name)
{
    const struct jtoken *t = jparse_peek(p);

    return t->type == JT_NAME && str_eqz(t->text, name);
}

bool jparse_is_op(const struct jparser *p, int op)
{
    const struct jtoken *t = jparse_peek(p);

    return t->type == JT_OP && t->op == op;
}

bool jparse_take_name(struct jparser *p, const char *name)
{
    bool is = jparse_is_name(p, name);

    if (is)
        (void)jparse_next(p);
    return is;
}

bool jparse_take_op(struct jparser *p, int op)
{
    bool is = jparse_is_op(p, op);

    if (is)
        (void)jparse_next(p);
    return is;
}

bool jparse_want_op(struct jparser *p, int op)
{
    if (jparse_take_op(p, op))
        return true;
    (void)jparse_fail(p, "'%c' was expected", op);
    return false;
}

static bool want(struct jparser *p, enum jtok type, const char *what)
{
    if (jparse_peek(p)->type == type) {
        (void)jparse_next(p);
        return true;
    }
    (void)jparse_fail(p, "%s was expected", what);
    return false;
}

static bool block_end(struct jparser *p)
{
    return want(p, JT_BLOCK_END, "the end of the tag");
}

static bool want_name(struct jparser *p, struct str *out)
{
    if (jparse_peek(p)->type != JT_NAME) {
        (void)jparse_fail(p, "a name was expected");
        return false;
    }
    *out = jparse_intern(p, jparse_next(p)->text);
    return p->rc == 0;
}

/* ---- statements ---- */

/* Up to one of `ends`, whose word is taken as well, then the end of that tag unless the word
 * is one that goes on (elif, else). */
static bool body_to(struct jparser *p, const char *end, const struct jnode **out)
{
    const char *const ends[] = { end, NULL };

    return body(p, ends, out) && jparse_take_name(p, end) && block_end(p);
}

/* A name, ns.attr, or several of them with commas, in parentheses or not. */
static struct jnode *target_one(struct jparser *p, bool with_namespace)
{
    struct jnode *n = jparse_node(p, JN_NAME);

    if (n == NULL || !want_name(p, &n->name))
        return NULL;
    if (with_namespace && jparse_take_op(p, '.')) {
        struct jnode *ns = jparse_node(p, JN_NSREF);

        if (ns == NULL || !want_name(p, &ns->name))
            return NULL;
        ns->a = n;
        return ns;
    }
    return n;
}

static struct jnode *target(struct jparser *p, bool with_namespace)
{
    bool parenthesis = jparse_take_op(p, '(');
    struct jnode *n = target_one(p, with_namespace), *all, *tail = n;

    if (n == NULL || (!jparse_is_op(p, ',') && !parenthesis))
        return n;
    all = jparse_node(p, JN_TUPLE);
    if (all == NULL)
        return NULL;
    all->list = n;
    while (jparse_take_op(p, ',')) {
        if (jparse_peek(p)->type != JT_NAME || jparse_is_name(p, "in"))
            break;
        n = target_one(p, with_namespace);
        if (n == NULL)
            return NULL;
        tail->next = n;
        tail = n;
    }
    if (parenthesis && !jparse_want_op(p, ')'))
        return NULL;
    return all->list->next == NULL && parenthesis ? (struct jnode *)all->list : all;
}

static struct jnode *parse_if(struct jparser *p)
{
    static const char *const ends[] = { "elif", "else", "endif", NULL };
    struct jnode *n = jparse_node(p, JN_IF), *tail = NULL;
    bool has_else = false;

    while (n != NULL) {
        struct jnode *branch = jparse_node(p, JN_BRANCH);

        if (branch == NULL)
            return NULL;
        if (!has_else) {
            branch->a = jparse_exprs(p, false); /* no `a if b else c` here without parentheses */
            if (branch->a == NULL)
                return NULL;
        }
        p->branches++;
        if (!block_end(p) || !body(p, ends, &branch->list))
            return NULL;
        p->branches--;
        if (tail != NULL)
            tail->next = branch;
        else
            n->list = branch;
        tail = branch;
        if (jparse_take_name(p, "endif"))
            return block_end(p) ? n : NULL;
        if (has_else)
            return jparse_fail(p, "endif was expected");
        has_else = jparse_take_name(p, "else");
        if (!has_else)
            (void)jparse_take_name(p, "elif");
    }
    return NULL;
}

static struct jnode *parse_for(struct jparser *p)
{
    static const char *const ends[] = { "else", "endfor", NULL };
    struct jnode *n = jparse_node(p, JN_FOR);
    bool ok;

    if (n == NULL)
        return NULL;
    n->b = target(p, false);
    if (n->b == NULL || (!jparse_take_name(p, "in") && jparse_fail(p, "'in' was expected") == NULL))
        return NULL;
    n->a = jparse_exprs(p, false);
    if (n->a == NULL)
        return NULL;
    if (jparse_take_name(p, "if")) {
        n->c = jparse_expr(p, true);
        if (n->c == NULL)
            return NULL;
    }
    n->flag = jparse_take_name(p, "recursive");
    if (!block_end(p))
        return NULL;
    p->loops++;
    ok = body(p, ends, &n->list);
    p->loops--;
    if (!ok)
        return NULL;
    if (jparse_take_name(p, "endfor"))
        return block_end(p) ? n : NULL;
    (void)jparse_take_name(p, "else");
    return block_end(p) && body_to(p, "endfor", &n->list2) ? n : NULL;
}

static struct jnode *parse_set(struct jparser *p)
{
    struct jnode *t = target(p, true), *n;

    if (t == NULL)
        return NULL;
    if (jparse_take_op(p, '=')) {
        n = jparse_node(p, JN_SET);
        if (n == NULL)
            return NULL;
        n->b = t;
        n->a = jparse_exprs(p, true);
        return n->a != NULL && block_end(p) ? n : NULL;
    }
    n = jparse_node(p, JN_SET_BLOCK);
    if (n == NULL)
        return NULL;
    n->b = t;
    if (jparse_is_op(p, '|')) {
        n->a = jparse_filters(p, NULL, false);
        if (n->a == NULL)
            return NULL;
    }
    return block_end(p) && body_to(p, "endset", &n->list) ? n : NULL;
}

/* (a, b=1): after the opening parenthesis. */
static bool parameters(struct jparser *p, const struct jnode **out)
{
    struct jnode *tail = NULL;

    *out = NULL;
    while (!jparse_take_op(p, ')')) {
        struct jnode *n;

        if (tail != NULL && !jparse_want_op(p, ','))
            return false;
        if (tail != NULL && jparse_take_op(p, ')'))
            break;
        n = jparse_node(p, JN_PARAM);
        if (n == NULL || !want_name(p, &n->name))
            return false;
        if (jparse_take_op(p, '=')) {
            n->a = jparse_expr(p, true);
            if (n->a == NULL)
                return false;
        }
        if (tail != NULL)
            tail->next = n;
        else
            *out = n;
        tail = n;
    }
    return true;
}

/* The body of a macro, of which loops outside are no part. */
static bool macro_body(struct jparser *p, struct jnode *n, const char *end)
{
    struct jnode *around = p->macro;
    unsigned loops = p->loops;
    bool ok;

    p->macro = n;
    p->loops = 0;
    ok = block_end(p) && body_to(p, end, &n->list);
    p->macro = around;
    p->loops = loops;
    /* what an inner caller block reads, the macro around it must have */
    if (around != NULL && n->kind == JN_MACRO && str_eqz(str_of(end), "endcall"))
        around->flag = around->flag || n->flag;
    return ok;
}

static struct jnode *parse_macro(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_MACRO);

    if (n == NULL || !want_name(p, &n->name) || !jparse_want_op(p, '(') ||
        !parameters(p, &n->list2))
        return NULL;
    return macro_body(p, n, "endmacro") ? n : NULL;
}

static struct jnode *parse_call(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_CALL_BLOCK), *m = jparse_node(p, JN_MACRO);

    if (n == NULL || m == NULL)
        return NULL;
    m->name = jparse_intern(p, str_of(jname_caller));
    if (jparse_take_op(p, '(') && !parameters(p, &m->list2))
        return NULL;
    n->a = jparse_expr(p, true);
    if (n->a == NULL)
        return NULL;
    if (n->a->kind != JN_CALL)
        return jparse_fail(p, "a call was expected");
    n->c = m;
    return macro_body(p, m, "endcall") ? n : NULL;
}

static struct jnode *parse_filter(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_FILTER_BLOCK);

    if (n == NULL)
        return NULL;
    n->a = jparse_filters(p, NULL, true);
    return n->a != NULL && block_end(p) && body_to(p, "endfilter", &n->list) ? n : NULL;
}

static struct jnode *parse_with(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_SCOPE), *tail = NULL;

    while (n != NULL && jparse_peek(p)->type != JT_BLOCK_END) {
        struct jnode *set = jparse_node(p, JN_SET);

        if (set == NULL || (tail != NULL && !jparse_want_op(p, ',')))
            return NULL;
        set->b = target(p, false);
        if (set->b == NULL || !jparse_want_op(p, '='))
            return NULL;
        set->a = jparse_expr(p, true);
        if (set->a == NULL)
            return NULL;
        if (tail != NULL)
            tail->next = set;
        else
            n->list2 = set;
        tail = set;
    }
    return n != NULL && block_end(p) && body_to(p, "endwith", &n->list) ? n : NULL;
}

/* Hugging Face's marker of what the model wrote: its body is rendered. */
static struct jnode *parse_generation(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_SCOPE);

    return n != NULL && block_end(p) && body_to(p, "endgeneration", &n->list) ? n : NULL;
}

static struct jnode *parse_jump(struct jparser *p, enum jkind kind)
{
    if (p->loops == 0)
        return jparse_fail(p, "break or continue outside of a loop");
    return block_end(p) ? jparse_node(p, kind) : NULL;
}

static struct jnode *parse_break(struct jparser *p)
{
    return parse_jump(p, JN_BREAK);
}

static struct jnode *parse_continue(struct jparser *p)
{
    return parse_jump(p, JN_CONTINUE);
}

static struct jnode *statement(struct jparser *p)
{
    static const struct {
        const char *name;
        struct jnode *(*parse)(struct jparser *);
    } statements[] = {
        { "if", parse_if },       { "for", parse_for },
        { "set", parse_set },     { "macro", parse_macro },
        { "call", parse_call },   { "filter", parse_filter },
        { "with", parse_with },   { "generation", parse_generation },
        { "break", parse_break }, { "continue", parse_continue },
    };
    const struct jtoken *t = jparse_next(p);
    struct jnode *n = NULL;

    if (t->type != JT_NAME)
        return jparse_fail(p, "a statement was expected");
    if (p->depth >= JINJA_NESTING_MAX) {
        p->rc = err_set(p->e, ERR_LIMIT, "chat template, line %u: nested too deeply", t->line);
        return NULL;
    }
    for (size_t i = 0; i < COUNT(statements); i++)
        if (str_eqz(t->text, statements[i].name)) {
            p->depth++;
            n = statements[i].parse(p);
            p->depth--;
            return n;
        }
    return jparse_fail(p, "the statement '%.*s' is not known here",
                       STR_ARG(str_sub(t->text, 0, 64)));
}

/* Statements up to a tag that begins with one of `ends` (NULL: up to the end of the template);
 * the tag's beginning is taken, its word is not. */
static bool body(struct jparser *p, const char *const *ends, const struct jnode **out)
{
    struct jnode *tail = NULL;

    *out = NULL;
    for (;;) {
        const struct jtoken *t = jparse_next(p);
        struct jnode *n = NULL;

        if (t->type == JT_EOF) {
            if (ends != NULL)
                (void)jparse_fail(p, "%s was expected before the end", ends[0]);
            return ends == NULL;
        } else if (t->type == JT_DATA) {
            n = jparse_node(p, JN_DATA);
            if (n != NULL)
                n->name = t->text;
        } else if (t->type == JT_OUT_BEGIN) {
            n = jparse_node(p, JN_OUT);
            if (n != NULL)
                n->a = jparse_exprs(p, true);
            if (n == NULL || n->a == NULL || !want(p, JT_OUT_END, "'}}'"))
                return false;
        } else {
            for (size_t i = 0; ends != NULL && ends[i] != NULL; i++)
                if (jparse_is_name(p, ends[i]))
                    return true;
            n = statement(p);
        }
        if (n == NULL)
            return false;
        if (tail != NULL)
            tail->next = n;
        else
            *out = n;
        tail = n;
    }
}

int jinja_compile(struct arena *a, struct str source, const struct jnode **out, struct err *e)
{
    struct jname *names[JNAMES] = { NULL };
    struct jparser p = { .a = a, .e = e, .names = names };
    int rc = jinja_lex(a, source, &p.tok, e);

    *out = NULL;
    if (rc != 0)
        return rc;
    (void)jparse_intern(&p, str_of(jname_loop));
    (void)jparse_intern(&p, str_of(jname_caller));
    (void)jparse_intern(&p, str_of(jname_varargs));
    (void)jparse_intern(&p, str_of(jname_kwargs));
    if (!body(&p, NULL, out))
        return p.rc != 0 ? p.rc : err_set(e, ERR_PARSE, "chat template: it cannot be read");
    return p.rc;
}
