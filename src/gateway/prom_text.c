/* A sample is NAME[{LABELS}] VALUE [TIMESTAMP].  The end of LABELS is the first brace outside of
 * quotes, where a backslash takes the next byte with it. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/prom_text.h"
#include "base/check.h"
#include <string.h>

#define VALUE_BYTES_MAX 64

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static struct str skip_blanks(struct str s)
{
    while (s.n > 0 && is_blank(s.p[0]))
        s = str_sub(s, 1, SIZE_MAX);
    return s;
}

/* Bytes of a quoted text with its quotes, or 0 when it does not end. */
static size_t quoted(struct str s)
{
    for (size_t i = 1; i < s.n; i++) {
        if (s.p[i] == '\\')
            i++;
        else if (s.p[i] == '"')
            return i + 1;
    }
    return 0;
}

/* rest begins behind the opening brace; on success *labels is what is inside. */
static bool cut_labels(struct str *rest, struct str *labels)
{
    size_t i = 0;

    while (i < rest->n && rest->p[i] != '}') {
        size_t n = rest->p[i] == '"' ? quoted(str_sub(*rest, i, SIZE_MAX)) : 1;

        if (n == 0)
            return false;
        i += n;
    }
    if (i >= rest->n)
        return false;
    *labels = str_sub(*rest, 0, i);
    *rest = str_sub(*rest, i + 1, SIZE_MAX);
    return true;
}

static bool value_of(struct str s, double *out)
{
    size_t n = 0;

    s = skip_blanks(s);
    while (n < s.n && !is_blank(s.p[n]) && s.p[n] != '\r')
        n++;
    s.n = n;
    if (n == 0 || n > VALUE_BYTES_MAX || !str_f64(s, out))
        return false;
    return *out == *out; /* NaN says nothing */
}

static bool sample(struct str rest, struct str *labels, double *value)
{
    *labels = STR("");
    rest = skip_blanks(rest);
    if (rest.n > 0 && rest.p[0] == '{') {
        rest = str_sub(rest, 1, SIZE_MAX);
        if (!cut_labels(&rest, labels))
            return false;
    }
    return value_of(rest, value);
}

static bool names_it(struct str line, struct str name)
{
    return line.n > name.n && line.p[0] == name.p[0] && memcmp(line.p, name.p, name.n) == 0 &&
           (line.p[name.n] == '{' || is_blank(line.p[name.n]));
}

size_t prom_scan(struct str text, const struct str *names, size_t count, prom_sample_fn *fn,
                 void *ctx)
{
    size_t broken = 0;

    while (text.n > 0) {
        struct str line = str_cut(&text, '\n'), labels;
        double value;

        if (line.n == 0 || line.p[0] == '#')
            continue;
        for (size_t i = 0; i < count; i++) {
            if (names[i].n == 0 || !names_it(line, names[i]))
                continue;
            if (sample(str_sub(line, names[i].n, SIZE_MAX), &labels, &value))
                fn(ctx, i, labels, value);
            else
                broken++;
            break;
        }
    }
    return broken;
}

bool prom_label(struct str labels, const char *name, struct str *value)
{
    while (labels.n > 0) {
        struct str key;
        size_t eq = str_chr(labels, '='), n;

        if (eq == SIZE_MAX)
            return false;
        key = str_trim(str_sub(labels, 0, eq));
        labels = skip_blanks(str_sub(labels, eq + 1, SIZE_MAX));
        if (labels.n == 0 || labels.p[0] != '"' || (n = quoted(labels)) == 0)
            return false;
        if (str_eqz(key, name)) {
            *value = str_sub(labels, 1, n - 2);
            return true;
        }
        labels = skip_blanks(str_sub(labels, n, SIZE_MAX));
        if (labels.n > 0 && labels.p[0] != ',')
            return false;
        labels = skip_blanks(str_sub(labels, 1, SIZE_MAX));
    }
    return false;
}
