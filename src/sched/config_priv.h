/* sched/config_priv.h - what the files that load a configuration share.
 *
 *   config.c           envelope, sections, order of the steps
 *   config_params.c    parameters of one plugin by its table (params.c)
 *   config_defaults.c  what is added by itself: plugins, producers; the order producers run in
 *
 * Each fallible call returns 0 or an error code with loader.e filled. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_CONFIG_PRIV_H
#define SCHED_CONFIG_PRIV_H
#include "codec/yaml.h"
#include "sched/config.h"

#define CONFIG_PATH_MAX    192
#define CONFIG_ARENA_BYTES ((size_t)64 << 20) /* the tree of a file of full size fits */

struct loader {
    struct sched_config *c;
    struct sched_config_opts o;
    struct err *e;
    const struct yaml_node *root;
    const struct yaml_node *node[SCHED_PLUGINS_MAX]; /* of each plugin; NULL: made by default */
    uint32_t declared;                               /* plugins in the file: the first ones */
};

/* ---- config.c ---- */

/* n must be a map with no other members than known; the path of the root is empty. */
int config_known(struct loader *l, const struct yaml_node *n, const char *path,
                 const char *const *known) MUST_CHECK;
void config_warn(struct loader *l, const struct yaml_node *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The nearest of names for a suggestion, or NULL. */
const char *config_nearest(struct str word, const char *const *names, size_t count);
/* Appends an instance.  node: its item under `plugins`, or NULL when it is made by default. */
int config_plugin_add(struct loader *l, struct str name, const struct plugin_type *t,
                      const struct yaml_node *node, uint32_t *out) MUST_CHECK;

/* ---- config_params.c ---- */

/* The parameters of plugin `index` from its `parameters` node (may be absent). */
int config_params(struct loader *l, uint32_t index, const struct yaml_node *n,
                  const void **out) MUST_CHECK;

/* ---- config_defaults.c ---- */

/* Instances the file leaves out, before references are looked up. */
int config_defaults(struct loader *l) MUST_CHECK;
/* The instance named like its type, made when it is not there. */
int config_default_plugin(struct loader *l, const char *type, uint32_t *out) MUST_CHECK;
/* Producers for keys nobody gives, then the order they run in. */
int config_producers(struct loader *l) MUST_CHECK;
#endif
