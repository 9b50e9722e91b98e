// SPDX-License-Identifier: Apache-2.0
#include "base/opt.h"
#include "base/check.h"
#include <string.h>

#define WORD_MAX 63

static size_t distance(struct str a, struct str b)
{
    size_t row[WORD_MAX + 1];

    if (a.n > WORD_MAX || b.n > WORD_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= b.n; j++)
        row[j] = j;
    for (size_t i = 1; i <= a.n; i++) {
        size_t diag = row[0];

        row[0] = i;
        for (size_t j = 1; j <= b.n; j++) {
            size_t up = row[j], change = diag + (a.p[i - 1] != b.p[j - 1]);

            row[j] = MIN(MIN(row[j - 1] + 1, up + 1), change);
            diag = up;
        }
    }
    return row[b.n];
}

const char *opt_nearest(struct str word, const char *const *names, size_t count)
{
    const char *best = NULL;
    size_t best_d = 4;

    for (size_t i = 0; i < count; i++) {
        size_t d = distance(word, str_of(names[i]));

        if (d < best_d) {
            best_d = d;
            best = names[i];
        }
    }
    return best;
}

static int set(void *opts, const struct opt_desc *d, const char *text, struct err *e)
{
    char *at = (char *)opts + d->at;
    uint64_t max = d->max != 0 ? d->max : d->kind == OPT_U32 ? UINT32_MAX : UINT64_MAX, v;
    struct opt_list *list;

    switch (d->kind) {
    case OPT_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            return err_set(e, ERR_INVAL, "--%s: must be true or false, not '%s'", d->name, text);
        *(bool *)at = text[0] == 't';
        return 0;
    case OPT_U32:
    case OPT_U64:
        if (!str_u64(str_of(text), &v))
            return err_set(e, ERR_INVAL, "--%s: '%s' is not a whole number", d->name, text);
        if (v < d->min || v > max)
            return err_set(e, ERR_INVAL, "--%s: must be %llu..%llu, not %llu", d->name,
                           (unsigned long long)d->min, (unsigned long long)max,
                           (unsigned long long)v);
        if (d->kind == OPT_U32)
            *(uint32_t *)(void *)at = (uint32_t)v;
        else
            *(uint64_t *)(void *)at = v;
        return 0;
    case OPT_F64:
        if (!str_f64(str_of(text), (double *)(void *)at))
            return err_set(e, ERR_INVAL, "--%s: '%s' is not a number", d->name, text);
        return 0;
    case OPT_STR: *(const char **)(void *)at = text; return 0;
    case OPT_LIST:
        list = (struct opt_list *)(void *)at;
        if (list->count == OPT_LIST_MAX)
            return err_set(e, ERR_INVAL, "--%s: at most %d times", d->name, OPT_LIST_MAX);
        list->item[list->count++] = text;
        return 0;
    }
    return ERR_INTERNAL;
}

static const struct opt_desc *find(const struct opt_desc *table, size_t count, struct str name)
{
    for (size_t i = 0; i < count; i++)
        if (str_eqz(name, table[i].name))
            return &table[i];
    return NULL;
}

static int unknown(const struct opt_desc *table, size_t count, struct str name, struct err *e)
{
    const char *names[256], *near;
    size_t n = MIN(count, COUNT(names));

    for (size_t i = 0; i < n; i++)
        names[i] = table[i].name;
    near = opt_nearest(name, names, n);
    if (near != NULL)
        return err_set(e, ERR_INVAL, "--%.*s: no such flag; did you mean --%s?", STR_ARG(name),
                       near);
    return err_set(e, ERR_INVAL, "--%.*s: no such flag; --help lists them", STR_ARG(name));
}

int opt_parse(void *opts, const struct opt_desc *table, size_t count, int argc, char **argv,
              struct opt_list *rest, struct err *e)
{
    for (size_t i = 0; i < count; i++) /* fields without a default keep what the caller zeroed */
        if (table[i].value != NULL) {
            int rc = set(opts, &table[i], table[i].value, e);

            if (rc != 0)
                return rc;
        }
    for (int i = 0; i < argc; i++) {
        struct str word = str_of(argv[i]), name, value = STR_NONE;
        const struct opt_desc *d;
        const char *text;
        bool no = false;
        int rc;

        if (str_eqz(word, "-h") || str_eqz(word, "--help"))
            return err_set(e, ERR_CANCELLED, "help");
        if (!str_starts(word, STR("--")) || word.n == 2) {
            if (rest == NULL || (word.n > 1 && word.p[0] == '-'))
                return err_set(e, ERR_INVAL, "'%s': unexpected; --help lists the flags", argv[i]);
            if (rest->count == OPT_LIST_MAX)
                return err_set(e, ERR_INVAL, "too many arguments");
            rest->item[rest->count++] = argv[i];
            continue;
        }
        name = str_sub(word, 2, SIZE_MAX);
        if (str_chr(name, '=') != SIZE_MAX) {
            value = name;
            name = str_cut(&value, '=');
        }
        d = find(table, count, name);
        if (d == NULL && str_starts(name, STR("no-"))) {
            d = find(table, count, str_sub(name, 3, SIZE_MAX));
            no = d != NULL && d->kind == OPT_BOOL;
            d = no ? d : NULL;
        }
        if (d == NULL)
            return unknown(table, count, name, e);
        if (value.p != NULL)
            text = value.p; /* the tail of argv[i], so NUL-ended */
        else if (d->kind == OPT_BOOL)
            text = no ? "false" : "true";
        else if (i + 1 < argc)
            text = argv[++i];
        else
            return err_set(e, ERR_INVAL, "--%s: needs a value (%s)", d->name,
                           d->arg != NULL ? d->arg : "VALUE");
        rc = set(opts, d, text, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

void opt_help(const struct opt_desc *table, size_t count, struct buf *out)
{
    for (size_t i = 0; i < count; i++) {
        const struct opt_desc *d = &table[i];
        size_t start = out->len;

        buf_f(out, "  --%s%s%s", d->name, d->kind != OPT_BOOL ? " " : "",
              d->kind == OPT_BOOL ? ""
              : d->arg != NULL    ? d->arg
                                  : "N");
        do
            buf_c(out, ' ');
        while (!out->failed && out->len - start < 34);
        buf_z(out, d->help);
        if (d->value != NULL && d->value[0] != 0 && d->kind != OPT_BOOL)
            buf_f(out, " [%s]", d->value);
        buf_c(out, '\n');
    }
}
