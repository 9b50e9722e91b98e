/* gateway/objects.h - names and priorities: InferenceModelRewrite and InferenceObjective without a
 * Kubernetes API.
 *
 * The same objects as in a cluster (kubectl get ... -o yaml), in one file, separated by "---"; only
 * their spec and name are looked at.  Aliases (--model-alias NAME=TARGET) are rewrites with one
 * target.
 *
 *   kind: InferenceModelRewrite          kind: InferenceObjective
 *   metadata: {name: split}              metadata: {name: batch}
 *   spec:                                spec: {priority: -1}
 *     rules:
 *     - matches: [{model: {value: chat}}]
 *       targets: [{modelRewrite: chat-a, weight: 9}, {modelRewrite: chat-b, weight: 1}]
 *
 * A rule that names models comes before one that matches all; then the order of the file.
 * Source: the project's scheduler page, 10.4.
 * Threads: immutable once loaded. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_OBJECTS_H
#define GATEWAY_OBJECTS_H
#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/rng.h"

struct objects;

/* text: the file's content, or p == NULL; aliases: "NAME=TARGET", count of them.  Errors begin with
 * FILE:LINE. */
int objects_load(struct objects **out, struct str text, const char *file,
                 const char *const *aliases, size_t count, struct err *e) MUST_CHECK;
void objects_free(struct objects *r); /* NULL is fine */

/* The target of a model's name; false: no rule matches.  *rule: the rewrite's name.  Results are
 * the rules'. */
bool objects_rewrite(const struct objects *r, struct str model, struct rng *rng, struct str *target,
                     struct str *rule);
/* Priority of an objective; false: there is none of that name. */
bool objects_priority(const struct objects *r, struct str objective, int32_t *priority);
/* Names that rewrites match exactly, with any of their targets, for the list of models. */
size_t objects_names(const struct objects *r);
struct str objects_name(const struct objects *r, size_t i);
/* fn for each target that the i-th name can become. */
void objects_targets(const struct objects *r, size_t i, void (*fn)(void *ctx, struct str target),
                     void *ctx);
#endif
