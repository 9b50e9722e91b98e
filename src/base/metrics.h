/* base/metrics.h - counters, gauges and histograms, and their Prometheus text.
 *
 * A family is a row of a table (name, kind, help, label names, buckets); a cell
 * is one set of label values.  Families exist at zero from the start: a family
 * without labels has its cell at once, one with labels shows its HELP and TYPE.
 * The exposition is Prometheus text format 0.0.4.
 * Threads: cells may be updated and rendered from any thread (relaxed atomics);
 * creating a cell takes a short lock, so keep the pointer. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_METRICS_H
#define BASE_METRICS_H
#include "base/buf.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

#define METRIC_LABELS_MAX 6
#define METRIC_CELLS_MAX  1000 /* label sets a family; more fold into "other" */

struct metric_desc {
    enum metric_kind kind;
    const char *name; /* as exposed, counters with _total */
    const char *help;
    const char *labels[METRIC_LABELS_MAX]; /* NULL-ended names */
    const double *buckets;                 /* histograms: upper bounds, rising, +Inf implied */
    size_t bucket_count;
};

struct metrics;
struct metric_cell;

/* table: static, one row a family, indexed by the caller's enum.  Owned: metrics_free. */
struct metrics *metrics_new(const struct metric_desc *table, size_t count);
void metrics_free(struct metrics *m);
/* values: as many as the family has labels (NULL for none).  Never NULL. */
struct metric_cell *metrics_cell(struct metrics *m, size_t family, const char *const *values);
void metric_add(struct metric_cell *c, double v);
void metric_set(struct metric_cell *c, double v);
void metric_observe(struct metric_cell *c, double v);
double metric_value(const struct metric_cell *c);   /* histograms: the sum */
uint64_t metric_count(const struct metric_cell *c); /* histograms: observations */
/* Sets every cell of a family of gauges to zero: before those that are not are set anew. */
void metrics_zero(struct metrics *m, size_t family);
/* Forgets the cells of a family whose label `label` (from 0) has that value: nobody may hold them.
 */
void metrics_drop(struct metrics *m, size_t family, size_t label, const char *value);
void metrics_render(struct metrics *m, struct buf *out);
#endif
