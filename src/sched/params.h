/* sched/params.h - parameters of plugins: from YAML through tables.
 *
 * The loader decodes a plugin's own with it, and custom decoders (struct plugin_param) the maps and
 * lists inside.
 * Keys match without regard to case, unknown ones are refused with the known ones named; null
 * leaves the default.
 * Threads: pure functions. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_PARAMS_H
#define SCHED_PARAMS_H
#include "codec/yaml.h"
#include "sched/plugin_params.h"
#include "sched/plugin.h"

#define PARAMS_MAX 64 /* rows of one table */

/* ---- values; errors begin with FILE:LINE:COL, then the path ---- */

/* Text, and nothing that JSON would call a number or a boolean. */
bool params_is_text(const struct yaml_node *n);
int params_text(const struct yaml_node *n, const char *path, struct str *out,
                struct err *e) MUST_CHECK;
int params_bool(const struct yaml_node *n, const char *path, bool *out, struct err *e) MUST_CHECK;
int params_duration(const struct yaml_node *n, const char *path, uint32_t *ms,
                    struct err *e) MUST_CHECK;
int params_quantity(const struct yaml_node *n, const char *path, uint64_t *out,
                    struct err *e) MUST_CHECK;
/* Go's notation, rounded up to whole milliseconds; false: not of it, or negative. */
bool params_parse_duration(struct str s, uint64_t *ms);
/* A Kubernetes quantity, rounded up to a whole number; false: not one, or negative. */
bool params_parse_quantity(struct str s, uint64_t *out);

/* ---- tables ---- */

/* Fills in the defaults of the table.  Defaults that do not parse are our own fault: asserted. */
void params_default(const struct plugin_param *table, uint32_t count, void *params);
/* n: a map.  params holds the defaults; given[i]: row i stood there.  of: after "unknown parameter"
 * (" of type queue-scorer"), may be empty. */
int params_members(const struct yaml_node *n, const struct plugin_param *table, uint32_t count,
                   const char *path, const char *of, struct arena *a, void *params,
                   bool given[PARAMS_MAX], struct err *e) MUST_CHECK;
/* n: a map, or null for nothing; what must be there is.  path: how the map is called. */
int params_decode(const struct yaml_node *n, const struct plugin_param *table, uint32_t count,
                  const char *path, struct arena *a, void *params, struct err *e) MUST_CHECK;

/* A list of text, into the arena. */
int params_list(const struct yaml_node *n, struct arena *a, struct str_list *out,
                struct err *e) MUST_CHECK;
/* A list of maps: count items of item_size bytes, each with the defaults of the table first. */
int params_maps(const struct yaml_node *n, const struct plugin_param *table, uint32_t count,
                const char *path, size_t item_size, struct arena *a, void **out,
                uint32_t *out_count, struct err *e) MUST_CHECK;
/* matchLabels and matchExpressions. */
int params_selector(const struct yaml_node *n, struct arena *a, struct label_selector *out,
                    struct err *e) MUST_CHECK;
#endif
