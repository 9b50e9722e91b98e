/* gateway/prom_text.h - reader of the Prometheus text format, for the few families one wants.
 *
 * Lines of other families are skipped at their first differing byte; nothing is allocated and
 * nothing is copied.  A broken line of a wanted family is left out and counted.
 * Source: Prometheus' text exposition format 0.0.4.  Threads: pure functions. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_PROM_TEXT_H
#define GATEWAY_PROM_TEXT_H
#include "base/str.h"

/* which: index into names.  labels: the text between the braces, or empty. */
typedef void prom_sample_fn(void *ctx, size_t which, struct str labels, double value);

/* Calls fn for every sample whose whole name is one of names.  Returns the broken lines among them.
 */
size_t prom_scan(struct str text, const struct str *names, size_t count, prom_sample_fn *fn,
                 void *ctx);
/* The value of a label, as written (escapes kept).  false: absent or the labels are broken. */
bool prom_label(struct str labels, const char *name, struct str *value);
#endif
