/* Tests: what may follow `is`. */
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_priv.h"
#include "base/check.h"
#include "codec/utf8.h"
#include <math.h>
#include <utf8proc.h>

typedef bool jtester(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out);

static bool t_defined(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type != J_UNDEF;
    return true;
}

static bool t_undefined(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_UNDEF;
    return true;
}

static bool t_none(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_NONE;
    return true;
}

static bool t_boolean(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_BOOL;
    return true;
}

static bool t_true(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_BOOL && v->b;
    return true;
}

static bool t_false(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_BOOL && !v->b;
    return true;
}

static bool t_integer(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_INT || v->type == J_BIG;
    return true;
}

static bool t_float(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_FLOAT;
    return true;
}

static bool t_number(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = jv_is_number(v);
    return true;
}

static bool t_string(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_STR;
    return true;
}

static bool t_mapping(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_DICT;
    return true;
}

/* Python asks for a length and an index: Undefined has both. */
static bool t_sequence(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_STR || v->type == J_DICT || v->type == J_UNDEF ||
           ((v->type == J_LIST || v->type == J_TUPLE) && v->list->kind == JLIST_PLAIN);
    return true;
}

static bool t_iterable(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_STR || v->type == J_DICT || v->type == J_UNDEF || v->type == J_LIST ||
           v->type == J_TUPLE || v->type == J_LOOP;
    return true;
}

static bool t_callable(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_FUNC || v->type == J_METHOD || v->type == J_MACRO || v->type == J_JOINER ||
           v->type == J_LOOP ||
           v->type == J_UNDEF; /* Undefined has __call__, if only to complain */
    return true;
}

/* islower(), isupper(): at least one letter with case, and all of those of the one case. */
static bool one_case(struct jinja *j, const struct jv *v, bool upper, bool *out)
{
    struct jtext t;
    bool any = false;

    *out = false;
    if (!jv_to_text(j, v, &t) || !jbytes(j, t.n))
        return false;
    for (size_t at = 0, len; at < t.n; at += len) {
        int32_t cp = (int32_t)utf8_next((struct str) { t.p + at, t.n - at }, &len);
        bool is_upper = utf8proc_tolower(cp) != cp, is_lower = utf8proc_toupper(cp) != cp;

        if (upper ? is_lower && !is_upper : is_upper && !is_lower)
            return true;
        any = any || is_upper || is_lower;
    }
    *out = any;
    return true;
}

static bool t_lower(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)arg;
    return one_case(j, v, false, out);
}

static bool t_upper(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)arg;
    return one_case(j, v, true, out);
}

static bool remainder_is(struct jinja *j, const struct jv *v, int64_t by, int64_t want, bool *out)
{
    int64_t i;

    if (!jv_as_int(v, &i)) {
        double d = jv_is_number(v) ? jv_double(v) : NAN;

        *out = false;
        if (isnan(d))
            return jfail(j, ERR_INVAL, "a number was expected, not '%s'", jv_type_name(v));
        *out = fabs(fmod(d, (double)by)) == (double)want;
        return true;
    }
    *out = (by == -1 ? 0 : i % by) == want || i % (by == -1 ? 1 : by) == -want;
    return true;
}

static bool t_even(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)arg;
    return remainder_is(j, v, 2, 0, out);
}

static bool t_odd(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)arg;
    return remainder_is(j, v, 2, 1, out);
}

static bool t_divisibleby(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    int64_t by;

    *out = false;
    if (!jv_as_int(arg, &by) || by == 0)
        return jfail(j, ERR_INVAL, "divisibleby takes an integer other than 0");
    return remainder_is(j, v, by, 0, out);
}

static bool t_sameas(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    *out = false;
    if (v->type != arg->type)
        return true;
    switch (v->type) {
    case J_LIST:
    case J_TUPLE:
    case J_DICT:
    case J_NAMESPACE: *out = v->dict == arg->dict; return true;
    default: return jv_equal(j, v, arg, out);
    }
}

static bool t_eq(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    return jcompare(j, JOP_EQ, v, arg, out);
}

static bool t_ne(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    return jcompare(j, JOP_NE, v, arg, out);
}

static bool t_lt(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    return jcompare(j, JOP_LT, v, arg, out);
}

static bool t_le(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    return jcompare(j, JOP_LE, v, arg, out);
}

static bool t_gt(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    return jcompare(j, JOP_GT, v, arg, out);
}

static bool t_ge(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    return jcompare(j, JOP_GE, v, arg, out);
}

static bool t_in(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    return jcompare(j, JOP_IN, v, arg, out);
}

static bool t_filter(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_STR && jfilter_find(jv_view(v)) >= 0;
    return true;
}

static bool t_test(struct jinja *j, const struct jv *v, const struct jv *arg, bool *out)
{
    (void)j, (void)arg;
    *out = v->type == J_STR && jtest_find(jv_view(v)) >= 0;
    return true;
}

static const struct {
    const char *name;
    jtester *run;
    bool takes_arg;
} tests[] = {
    { "boolean", t_boolean, false },
    { "callable", t_callable, false },
    { "defined", t_defined, false },
    { "divisibleby", t_divisibleby, true },
    { "eq", t_eq, true },
    { "equalto", t_eq, true },
    { "==", t_eq, true },
    { "even", t_even, false },
    { "false", t_false, false },
    { "filter", t_filter, false },
    { "float", t_float, false },
    { "ge", t_ge, true },
    { ">=", t_ge, true },
    { "gt", t_gt, true },
    { "greaterthan", t_gt, true },
    { ">", t_gt, true },
    { "in", t_in, true },
    { "integer", t_integer, false },
    { "iterable", t_iterable, false },
    { "le", t_le, true },
    { "<=", t_le, true },
    { "lower", t_lower, false },
    { "lt", t_lt, true },
    { "lessthan", t_lt, true },
    { "<", t_lt, true },
    { "mapping", t_mapping, false },
    { "ne", t_ne, true },
    { "!=", t_ne, true },
    { "none", t_none, false },
    { "number", t_number, false },
    { "odd", t_odd, false },
    { "sameas", t_sameas, true },
    { "sequence", t_sequence, false },
    { "string", t_string, false },
    { "test", t_test, false },
    { "true", t_true, false },
    { "undefined", t_undefined, false },
    { "upper", t_upper, false },
};

int jtest_find(struct str name)
{
    for (size_t i = 0; i < COUNT(tests); i++)
        if (str_eqz(name, tests[i].name))
            return (int)i;
    return -1;
}

bool jtest_run(struct jinja *j, unsigned id, struct jargs *args, bool *out)
{
    ASSERT(id < COUNT(tests) && args->count > 0);
    if (args->count != (tests[id].takes_arg ? 2u : 1u) || args->kw_count > 0)
        return jfail(j, ERR_INVAL, "the test '%s' takes %s", tests[id].name,
                     tests[id].takes_arg ? "one argument" : "no argument");
    return tests[id].run(j, &args->v[0], tests[id].takes_arg ? &args->v[1] : NULL, out);
}
