/* Calls: macros, loops, and the functions that a template finds by name. */
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_priv.h"
#include "base/check.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

#define TIME_TEXT_MAX 256

/* ---- macros ---- */

static const struct jv *take_kw(struct jargs *args, bool *used, struct str name)
{
    for (size_t i = 0; i < args->kw_count; i++)
        if (!used[i] && str_eq(args->kw[i].name, name)) {
            used[i] = true;
            return &args->kw[i].v;
        }
    return NULL;
}

/* Parameters from positions, then keywords, then defaults, which may read earlier parameters. */
static bool bind_params(struct jinja *j, const struct jmacro *m, struct jargs *args, bool *used,
                        size_t *taken)
{
    *taken = 0;
    for (const struct jnode *p = m->node->list2; p != NULL; p = p->next) {
        const struct jv *given =
            *taken < args->count ? &args->v[(*taken)++] : take_kw(args, used, p->name);
        struct jv v = jv_undef(p->name);

        if (given != NULL)
            v = *given;
        else if (p->a != NULL && !jeval(j, p->a, &v))
            return false;
        if (!jframe_put(j, j->frame, p->name.p, &v))
            return false;
    }
    return true;
}

/* caller, varargs and kwargs; what is left over and not asked for is an error. */
static bool bind_rest(struct jinja *j, const struct jmacro *m, struct jargs *args, bool *used,
                      size_t taken)
{
    const struct jv *caller = take_kw(args, used, str_of(jname_caller));
    struct jv list, dict;

    if (caller != NULL && !m->node->flag)
        return jfail(j, ERR_INVAL, "a macro that has no use for it was given a caller");
    if (!jlist_new(j, 0, &list) || !jdict_new(j, &dict))
        return false;
    for (size_t i = taken; i < args->count; i++)
        if (!jlist_add(j, list.list, &args->v[i]))
            return false;
    for (size_t i = 0; i < args->kw_count; i++) {
        struct jv key = jv_str(args->kw[i].name);

        if (!used[i] && !jdict_put(j, dict.dict, &key, &args->kw[i].v))
            return false;
    }
    if (!m->node->flag2 && (list.list->count > 0 || dict.dict->count > 0))
        return jfail(j, ERR_INVAL, "a macro was given an argument that it does not take");
    list.type = J_TUPLE;
    return (caller == NULL || jframe_put(j, j->frame, jname_caller, caller)) &&
           (!m->node->flag2 || (jframe_put(j, j->frame, jname_varargs, &list) &&
                                jframe_put(j, j->frame, jname_kwargs, &dict)));
}

static bool enter_call(struct jinja *j)
{
    if (j->calls >= JINJA_CALLS_MAX)
        return jfail(j, ERR_LIMIT, "macros call each other too deeply");
    j->calls++;
    return true;
}

bool jcall_macro(struct jinja *j, struct jmacro *m, struct jargs *args, struct jv *out)
{
    struct jframe *around = j->frame;
    struct jsb *into = j->out, text;
    bool *used = arena_try_zero(j->a, args->kw_count, sizeof(*used)), ok;
    size_t taken;

    if (used == NULL)
        return jfail_memory(j);
    if (!enter_call(j) || !jsb_init(&text, j, into->max))
        return false;
    j->frame = jframe_new(j, m->frame);
    if (j->frame == NULL)
        return false;
    j->out = &text;
    ok = bind_params(j, m, args, used, &taken) && bind_rest(j, m, args, used, taken) &&
         jexec(j, m->node->list);
    j->out = into;
    j->frame = around;
    j->calls--;
    *out = jv_text(jsb_done(&text));
    return ok;
}

/* ---- loops ---- */

/* The items for which the loop's condition holds. */
static bool filter_items(struct jinja *j, const struct jnode *n, struct jv **items, size_t *count)
{
    struct jframe *around = j->frame;
    struct jv *kept = arena_try_zero(j->a, *count, sizeof(*kept));
    size_t k = 0;
    bool ok = true;

    if (kept == NULL)
        return jfail_memory(j);
    j->frame = jframe_new(j, around);
    if (j->frame == NULL)
        return false;
    for (size_t i = 0; i < *count && ok; i++) {
        struct jv v;

        ok = jassign(j, n->b, &(*items)[i]) && jeval(j, n->c, &v);
        if (ok && jv_truth(&v))
            kept[k++] = (*items)[i];
    }
    j->frame = around;
    *items = kept;
    *count = k;
    return ok;
}

/* One turn in a fresh frame; the old one serves again when no macro looks into it. */
static bool turn(struct jinja *j, const struct jnode *n, struct jloop *l)
{
    struct jv loop = { .type = J_LOOP, .loop = l };

    if (j->frame->captured) {
        j->frame = jframe_new(j, l->frame);
        if (j->frame == NULL)
            return false;
    }
    j->frame->count = 0;
    return jassign(j, n->b, &l->item[l->index]) && jframe_put(j, j->frame, jname_loop, &loop) &&
           jexec(j, n->list);
}

bool jrun_loop(struct jinja *j, const struct jnode *n, const struct jv *over, struct jframe *frame,
               unsigned depth)
{
    struct jframe *around = j->frame;
    struct jloop *l = arena_try_zero(j->a, 1, sizeof(*l));
    bool ok = true, finished = false;

    if (l == NULL)
        return jfail_memory(j);
    l->node = n;
    l->frame = frame;
    l->depth = depth;
    j->frame = frame;
    if (!jv_items(j, over, &l->item, &l->count) ||
        (n->c != NULL && !filter_items(j, n, &l->item, &l->count)))
        return false;
    j->frame = jframe_new(j, frame);
    if (j->frame == NULL)
        return false;
    for (; l->index < l->count && ok; l->index++) {
        ok = jstep(j, 1) && turn(j, n, l);
        finished = finished || j->flow == JFLOW_NEXT;
        if (j->flow == JFLOW_BREAK) {
            j->flow = JFLOW_NEXT;
            break;
        }
        j->flow = JFLOW_NEXT;
    }
    /* as jinja2 has it: also when every turn ended in break or continue */
    if (ok && !finished && n->list2 != NULL) {
        j->frame->count = 0;
        ok = jexec(j, n->list2);
    }
    j->frame = around;
    return ok;
}

static bool call_loop(struct jinja *j, struct jloop *l, struct jargs *args, struct jv *out)
{
    struct jsb *into = j->out, text;
    bool ok;

    if (!l->node->flag)
        return jfail(j, ERR_INVAL, "the loop must have the 'recursive' marker to be called");
    if (args->count != 1 || args->kw_count > 0)
        return jfail(j, ERR_INVAL, "loop() takes one argument");
    if (!enter_call(j) || !jsb_init(&text, j, into->max))
        return false;
    j->out = &text;
    ok = jrun_loop(j, l->node, &args->v[0], l->frame, l->depth + 1);
    j->out = into;
    j->calls--;
    *out = jv_text(jsb_done(&text));
    return ok;
}

bool jloop_attr(const struct jloop *l, struct str name, struct jv *out)
{
    int64_t i = (int64_t)l->index, n = (int64_t)l->count;
    const struct {
        const char *name;
        struct jv v;
    } attrs[] = {
        { "index", jv_int(i + 1) },
        { "index0", jv_int(i) },
        { "revindex", jv_int(n - i) },
        { "revindex0", jv_int(n - i - 1) },
        { "first", jv_bool(i == 0) },
        { "last", jv_bool(i == n - 1) },
        { "length", jv_int(n) },
        { "depth", jv_int(l->depth + 1) },
        { "depth0", jv_int(l->depth) },
        { "previtem", i > 0 ? l->item[i - 1] : jv_undef(STR("previtem")) },
        { "nextitem", i + 1 < n ? l->item[i + 1] : jv_undef(STR("nextitem")) },
    };

    for (size_t k = 0; k < COUNT(attrs); k++)
        if (str_eqz(name, attrs[k].name)) {
            *out = attrs[k].v;
            return true;
        }
    return false;
}

/* ---- functions ---- */

static bool raise_exception(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jtext t = { 0 };

    *out = jv_none();
    if (args->count > 0 && !jv_to_text(j, &args->v[0], &t))
        return false;
    if (j->rc == 0) /* the template's own sentence, nothing of ours around it */
        j->rc = err_set(j->e, ERR_INVAL, "%.*s", (int)MIN(t.n, (size_t)ERR_MSG_MAX),
                        t.n > 0 ? t.p : "");
    return false;
}

static bool strftime_now(struct jinja *j, struct jargs *args, struct jv *out)
{
    char format[TIME_TEXT_MAX], text[TIME_TEXT_MAX];
    const struct jv *f = jarg(args, 0, "format");
    time_t at = j->now_s > 0 && j->now_s < 2.5e11 ? (time_t)j->now_s : 0;
    struct jtext all = { 0 };
    struct tm tm;
    const char *copy;
    size_t n;

    if (f == NULL || f->type != J_STR)
        return jfail(j, ERR_INVAL, "strftime_now() takes a format");
    if (f->s.n + 1 >= sizeof(format))
        return jfail(j, ERR_LIMIT, "strftime_now(): the format is too long");
    *out = jv_text(all);
    if (f->s.n == 0 || localtime_r(&at, &tm) == NULL)
        return true;
    memcpy(format, f->s.p, f->s.n);
    format[f->s.n] = 0;
    n = strftime(text, sizeof(text), format, &tm);
    copy = arena_str(j->a, (struct str) { text, n }).p;
    if (copy == NULL)
        return jfail_memory(j);
    *out = jv_text(
        (struct jtext) { .p = copy, .n = n, .tainted = f->s.tainted || f->s.taint != NULL });
    return true;
}

static bool range_bound(struct jinja *j, const struct jv *v, int64_t *out)
{
    return jv_as_int(v, out) ||
           jfail(j, ERR_INVAL, "'%s' object cannot be interpreted as an integer", jv_type_name(v));
}

static bool range(struct jinja *j, struct jargs *args, struct jv *out)
{
    int64_t start = 0, stop = 0, step = 1, span, count;

    if (args->count < 1 || args->count > 3 || args->kw_count > 0)
        return jfail(j, ERR_INVAL, "range() takes 1 to 3 arguments");
    if (args->count == 1) {
        if (!range_bound(j, &args->v[0], &stop))
            return false;
    } else if (!range_bound(j, &args->v[0], &start) || !range_bound(j, &args->v[1], &stop) ||
               (args->count == 3 && !range_bound(j, &args->v[2], &step))) {
        return false;
    }
    if (step == 0)
        return jfail(j, ERR_INVAL, "range() arg 3 must not be zero");
    if (step == INT64_MIN || __builtin_sub_overflow(stop, start, &span))
        return jfail(j, ERR_LIMIT, "range() is too long");
    if ((span > 0) != (step > 0))
        count = 0;
    else
        count = span == 0 ? 0 : (step > 0 ? (span - 1) / step : (-(span + 1)) / -step) + 1;
    if (count > JINJA_RANGE_MAX)
        return jfail(j, ERR_LIMIT, "range() is longer than %d", JINJA_RANGE_MAX);
    if (!jstep(j, (size_t)count / 8) || !jlist_new(j, (size_t)count, out))
        return false;
    for (int64_t i = 0; i < count; i++)
        out->list->v[out->list->count++] = jv_int(start + i * step);
    return true;
}

/* dict(a=1), dict(other, b=2), dict([(k, v)]); namespace() the same. */
static bool make_dict(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jv *items;
    size_t count;

    if (args->count > 1)
        return jfail(j, ERR_INVAL, "dict() takes at most one positional argument");
    if (!jdict_new(j, out))
        return false;
    if (args->count == 1 && args->v[0].type == J_DICT) {
        for (size_t i = 0; i < args->v[0].dict->count; i++)
            if (!jstep(j, 1) ||
                !jdict_put(j, out->dict, &args->v[0].dict->e[i].key, &args->v[0].dict->e[i].value))
                return false;
    } else if (args->count == 1) {
        if (!jv_items(j, &args->v[0], &items, &count))
            return false;
        for (size_t i = 0; i < count; i++) {
            struct jv *pair;
            size_t two;

            if (!jstep(j, 1) || !jv_items(j, &items[i], &pair, &two))
                return false;
            if (two != 2)
                return jfail(j, ERR_INVAL, "dict(): an item is not a pair");
            if (!jdict_put(j, out->dict, &pair[0], &pair[1]))
                return false;
        }
    }
    for (size_t i = 0; i < args->kw_count; i++) {
        struct jv key = jv_str(args->kw[i].name);

        if (!jdict_put(j, out->dict, &key, &args->kw[i].v))
            return false;
    }
    return true;
}

static bool make_namespace(struct jinja *j, struct jargs *args, struct jv *out)
{
    bool ok = make_dict(j, args, out);

    out->type = ok ? J_NAMESPACE : J_NONE;
    return ok;
}

static bool make_cycler(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jcycler *c = arena_try_zero(j->a, 1, sizeof(*c));
    struct jv list;

    if (c == NULL)
        return jfail_memory(j);
    if (args->count == 0)
        return jfail(j, ERR_INVAL, "cycler() takes at least one item");
    if (!jlist_new(j, args->count, &list))
        return false;
    for (size_t i = 0; i < args->count; i++)
        if (!jlist_add(j, list.list, &args->v[i]))
            return false;
    c->items = list.list;
    *out = (struct jv) { .type = J_CYCLER, .cycler = c };
    return true;
}

static bool make_joiner(struct jinja *j, struct jargs *args, struct jv *out)
{
    struct jcycler *c = arena_try_zero(j->a, 1, sizeof(*c));
    const struct jv *sep = jarg(args, 0, "sep");

    if (c == NULL)
        return jfail_memory(j);
    c->sep = (struct jtext) { .p = ", ", .n = 2 };
    if (sep != NULL && !jv_to_text(j, sep, &c->sep))
        return false;
    *out = (struct jv) { .type = J_JOINER, .cycler = c };
    return true;
}

static const struct {
    const char *name;
    jcallee *run;
} functions[] = {
    { "raise_exception", raise_exception },
    { "strftime_now", strftime_now },
    { "range", range },
    { "dict", make_dict },
    { "namespace", make_namespace },
    { "cycler", make_cycler },
    { "joiner", make_joiner },
};

uint16_t jfunc_id(struct str name)
{
    for (size_t i = 0; i < COUNT(functions); i++)
        if (str_eqz(name, functions[i].name))
            return (uint16_t)(i + 1);
    return 0;
}

static bool call_joiner(struct jcycler *c, struct jv *out)
{
    *out = jv_text(c->used ? c->sep : (struct jtext) { 0 });
    c->used = true;
    return true;
}

bool jcall(struct jinja *j, const struct jv *f, struct jargs *args, struct jv *out)
{
    switch (f->type) {
    case J_FUNC: return functions[f->fn.id - 1].run(j, args, out);
    case J_MACRO: return jcall_macro(j, f->macro, args, out);
    case J_LOOP: return call_loop(j, f->loop, args, out);
    case J_JOINER: return call_joiner(f->cycler, out);
    case J_METHOD: {
        struct jargs with = { .count = args->count + 1,
                              .kw = args->kw,
                              .kw_count = args->kw_count };

        with.v = arena_try_zero(j->a, with.count, sizeof(*with.v));
        if (with.v == NULL)
            return jfail_memory(j);
        with.v[0] = *f->fn.self;
        for (size_t i = 0; i < args->count; i++)
            with.v[i + 1] = args->v[i];
        return jmethod_run(j, f->fn.id, &with, out);
    }
    default: return jfail(j, ERR_INVAL, "'%s' object is not callable", jv_type_name(f));
    }
}
