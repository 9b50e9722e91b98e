// SPDX-License-Identifier: Apache-2.0
#include "base/metrics.h"
#include "base/check.h"
#include "base/mem.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct metric_cell {
    struct metric_cell *next;
    const struct metric_desc *desc;
    char *values[METRIC_LABELS_MAX];
    _Atomic uint64_t value; /* bits of a double; histograms: the sum */
    _Atomic uint64_t count;
    _Atomic uint64_t bucket[]; /* not cumulative; the last is +Inf */
};

struct family {
    const struct metric_desc *desc;
    struct metric_cell *first, **tail;
    size_t cells;
};

struct metrics {
    pthread_mutex_t lock; /* guards the lists of cells */
    size_t count;
    struct family family[];
};

static size_t label_count(const struct metric_desc *d)
{
    size_t n = 0;

    while (n < METRIC_LABELS_MAX && d->labels[n] != NULL)
        n++;
    return n;
}

static struct metric_cell *cell_new(struct family *f, const char *const *values)
{
    const struct metric_desc *d = f->desc;
    struct metric_cell *c = mem_zalloc(sizeof(*c) + (d->bucket_count + 1) * sizeof(c->bucket[0]));

    c->desc = d;
    for (size_t i = 0; i < label_count(d); i++)
        c->values[i] = mem_strdup(values[i]);
    *f->tail = c;
    f->tail = &c->next;
    f->cells++;
    return c;
}

struct metrics *metrics_new(const struct metric_desc *table, size_t count)
{
    struct metrics *m = mem_zalloc(sizeof(*m) + count * sizeof(m->family[0]));

    pthread_mutex_init(&m->lock, NULL);
    m->count = count;
    for (size_t i = 0; i < count; i++) {
        m->family[i].desc = &table[i];
        m->family[i].tail = &m->family[i].first;
        if (label_count(&table[i]) == 0)
            cell_new(&m->family[i], NULL);
    }
    return m;
}

static void cell_free(struct metric_cell *c)
{
    for (size_t i = 0; i < METRIC_LABELS_MAX; i++)
        mem_free(c->values[i]);
    mem_free(c);
}

void metrics_free(struct metrics *m)
{
    if (m == NULL)
        return;
    for (size_t i = 0; i < m->count; i++)
        for (struct metric_cell *c = m->family[i].first, *next; c != NULL; c = next) {
            next = c->next;
            cell_free(c);
        }
    pthread_mutex_destroy(&m->lock);
    mem_free(m);
}

static struct metric_cell *cell_find(const struct family *f, const char *const *values)
{
    size_t n = label_count(f->desc);

    for (struct metric_cell *c = f->first; c != NULL; c = c->next) {
        size_t i = 0;

        while (i < n && strcmp(c->values[i], values[i]) == 0)
            i++;
        if (i == n)
            return c;
    }
    return NULL;
}

struct metric_cell *metrics_cell(struct metrics *m, size_t family, const char *const *values)
{
    static const char *const other[METRIC_LABELS_MAX] = { "other", "other", "other",
                                                          "other", "other", "other" };
    struct family *f;
    struct metric_cell *c;

    ASSERT(family < m->count);
    f = &m->family[family];
    pthread_mutex_lock(&m->lock);
    c = cell_find(f, values);
    if (c == NULL && f->cells >= METRIC_CELLS_MAX) {
        values = other;
        c = cell_find(f, values);
    }
    if (c == NULL)
        c = cell_new(f, values);
    pthread_mutex_unlock(&m->lock);
    return c;
}

void metrics_zero(struct metrics *m, size_t family)
{
    pthread_mutex_lock(&m->lock);
    for (struct metric_cell *c = m->family[family].first; c != NULL; c = c->next)
        metric_set(c, 0);
    pthread_mutex_unlock(&m->lock);
}

void metrics_drop(struct metrics *m, size_t family, size_t label, const char *value)
{
    struct family *f = &m->family[family];

    pthread_mutex_lock(&m->lock);
    f->tail = &f->first;
    while (*f->tail != NULL) {
        struct metric_cell *c = *f->tail;

        if (strcmp(c->values[label], value) == 0) {
            *f->tail = c->next;
            f->cells--;
            cell_free(c);
        } else {
            f->tail = &c->next;
        }
    }
    pthread_mutex_unlock(&m->lock);
}

static double from_bits(uint64_t b)
{
    double v;

    memcpy(&v, &b, sizeof(v));
    return v;
}

static uint64_t to_bits(double v)
{
    uint64_t b;

    memcpy(&b, &v, sizeof(b));
    return b;
}

/* All orders are relaxed: a metric publishes nothing but itself. */
void metric_add(struct metric_cell *c, double v)
{
    uint64_t old = atomic_load_explicit(&c->value, memory_order_relaxed);

    while (!atomic_compare_exchange_weak_explicit(&c->value, &old, to_bits(from_bits(old) + v),
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

void metric_set(struct metric_cell *c, double v)
{
    atomic_store_explicit(&c->value, to_bits(v), memory_order_relaxed);
}

void metric_observe(struct metric_cell *c, double v)
{
    size_t i = 0;

    while (i < c->desc->bucket_count && v > c->desc->buckets[i])
        i++;
    atomic_fetch_add_explicit(&c->bucket[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->count, 1, memory_order_relaxed);
    metric_add(c, v);
}

double metric_value(const struct metric_cell *c)
{
    return from_bits(atomic_load_explicit(&c->value, memory_order_relaxed));
}

uint64_t metric_count(const struct metric_cell *c)
{
    return atomic_load_explicit(&c->count, memory_order_relaxed);
}

/* The fewest digits that read back as v: le="0.005" is what dashboards look for. */
static void put_shortest(struct buf *out, double v)
{
    char text[32];

    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    buf_z(out, text);
}

static void put_number(struct buf *out, double v)
{
    if (isinf(v))
        buf_z(out, v > 0 ? "+Inf" : "-Inf");
    else if (v == floor(v) && fabs(v) < 1e15)
        buf_f(out, "%.0f", v);
    else
        put_shortest(out, v);
}

static void put_labels(struct buf *out, const struct metric_cell *c, const double *le)
{
    size_t n = label_count(c->desc);

    if (n == 0 && le == NULL)
        return;
    buf_c(out, '{');
    for (size_t i = 0; i < n; i++) {
        buf_f(out, "%s%s=\"", i != 0 ? "," : "", c->desc->labels[i]);
        for (const char *p = c->values[i]; *p != 0; p++) {
            if (*p == '\\' || *p == '"')
                buf_c(out, '\\');
            if (*p == '\n')
                buf_z(out, "\\n");
            else
                buf_c(out, *p);
        }
        buf_c(out, '"');
    }
    if (le != NULL) {
        buf_f(out, "%sle=\"", n != 0 ? "," : "");
        put_number(out, *le);
        buf_c(out, '"');
    }
    buf_c(out, '}');
}

static void put_cell(struct buf *out, const struct metric_cell *c)
{
    const struct metric_desc *d = c->desc;
    uint64_t sum = 0;

    if (d->kind != METRIC_HISTOGRAM) {
        buf_z(out, d->name);
        put_labels(out, c, NULL);
        buf_c(out, ' ');
        put_number(out, metric_value(c));
        buf_c(out, '\n');
        return;
    }
    for (size_t i = 0; i <= d->bucket_count; i++) {
        double le = i < d->bucket_count ? d->buckets[i] : (double)INFINITY;

        sum += atomic_load_explicit(&c->bucket[i], memory_order_relaxed);
        buf_f(out, "%s_bucket", d->name);
        put_labels(out, c, &le);
        buf_f(out, " %llu\n", (unsigned long long)sum);
    }
    buf_f(out, "%s_sum", d->name);
    put_labels(out, c, NULL);
    buf_c(out, ' ');
    put_number(out, metric_value(c));
    buf_f(out, "\n%s_count", d->name);
    put_labels(out, c, NULL);
    buf_f(out, " %llu\n", (unsigned long long)sum);
}

void metrics_render(struct metrics *m, struct buf *out)
{
    static const char *const kinds[] = { "counter", "gauge", "histogram" };

    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->count; i++) {
        const struct metric_desc *d = m->family[i].desc;

        buf_f(out, "# HELP %s %s\n# TYPE %s %s\n", d->name, d->help, d->name, kinds[d->kind]);
        for (const struct metric_cell *c = m->family[i].first; c != NULL; c = c->next)
            put_cell(out, c);
    }
    pthread_mutex_unlock(&m->lock);
}
