/* sched/params.h - maps and lists inside a plugin's parameters: from YAML through tables.
 *
 * What custom decoders (struct plugin_param) are made of.
 * Keys match without regard to case, unknown ones are refused with the known ones named; null
 * leaves the default.
 * Threads: pure functions. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_PARAMS_H
#define SCHED_PARAMS_H
#include "codec/yaml.h"
#include "sched/plugin_params.h"
#include "sched/plugin.h"

/* Fills in the defaults of the table.  Defaults that do not parse are our own fault: asserted. */
void params_default(const struct plugin_param *table, uint32_t count, void *params);
/* n: a map, or null for nothing.  params holds the defaults.  owner: for the messages ("plugin
 * queue-scorer").  Errors begin with FILE:LINE:COL. */
int params_decode(const struct yaml_node *n, const struct plugin_param *table, uint32_t count,
                  const char *owner, struct arena *a, void *params, struct err *e) MUST_CHECK;

/* A list of text, into the arena. */
int params_list(const struct yaml_node *n, struct arena *a, struct str_list *out,
                struct err *e) MUST_CHECK;
/* A list of maps: count items of item_size bytes, each with the defaults of the table first. */
int params_maps(const struct yaml_node *n, const struct plugin_param *table, uint32_t count,
                const char *owner, size_t item_size, struct arena *a, void **out,
                uint32_t *out_count, struct err *e) MUST_CHECK;
/* matchLabels and matchExpressions. */
int params_selector(const struct yaml_node *n, struct arena *a, struct label_selector *out,
                    struct err *e) MUST_CHECK;

/* Go's notation: "60s", "1m30s", "250ms", "1.5h", "0".  Below a millisecond rounds down; false when
 * it is no duration, negative, or over 2^32 - 1 ms. */
bool params_duration_ms(struct str text, uint32_t *out);
#endif
