/* Two flat lists: what a name becomes, and what an objective is worth.  Both are short. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/objects.h"
#include "base/check.h"
#include "base/mem.h"
#include "codec/yaml.h"
#include <string.h>

#define RULES_BYTES_MAX ((size_t)8 << 20)
#define WEIGHT_MAX      1000000

struct target {
    struct target *next;
    struct str name;
    uint64_t weight;
    bool has_weight;
};

struct rule {
    struct rule *next;
    struct str name;  /* of the rewrite */
    struct str model; /* p == NULL: all */
    const struct target *first;
    uint64_t weights; /* sum of those given */
    uint32_t targets;
};

struct objective {
    struct objective *next;
    struct str name;
    int32_t priority;
};

struct objects {
    struct arena arena;
    struct rule *first_exact, **last_exact, *first_any, **last_any;
    struct objective *first_objective, **last_objective;
};

static void *take(struct objects *r, size_t bytes)
{
    return arena_try_zero(&r->arena, 1, bytes);
}

static int no_memory(struct err *e)
{
    return err_set(e, ERR_LIMIT, "too many rules: more than %zu MiB", RULES_BYTES_MAX >> 20);
}

static int read_targets(struct objects *r, const struct yaml_node *list, struct rule *rule,
                        struct err *e)
{
    struct target **last = (struct target **)&rule->first;

    if (!yaml_is(list, YAML_LIST) || list->count == 0)
        return list == NULL ? err_set(e, ERR_PARSE, "a rule needs targets")
                            : yaml_err(list, e, "targets: must be a list with at least one entry");
    for (const struct yaml_node *n = list->first; n != NULL; n = n->next) {
        const struct yaml_node *weight = yaml_get(n, "weight");
        struct target *t = take(r, sizeof(*t));

        if (t == NULL)
            return no_memory(e);
        if (!yaml_str(yaml_get(n, "modelRewrite"), &t->name) || t->name.n == 0)
            return yaml_err(n, e, "a target needs modelRewrite, the name it becomes");
        if (weight != NULL) {
            t->has_weight = true;
            if (!yaml_u64(weight, &t->weight) || t->weight > WEIGHT_MAX)
                return yaml_err(weight, e, "weight: must be 0..%d", WEIGHT_MAX);
            rule->weights += t->weight;
        }
        rule->targets++;
        *last = t;
        last = &t->next;
    }
    return 0;
}

static int add_rule(struct objects *r, const struct rule *like, struct str model, struct err *e)
{
    struct rule *rule = take(r, sizeof(*rule));

    if (rule == NULL)
        return no_memory(e);
    *rule = *like;
    rule->model = model;
    rule->next = NULL;
    if (model.p != NULL) {
        *r->last_exact = rule;
        r->last_exact = &rule->next;
    } else {
        *r->last_any = rule;
        r->last_any = &rule->next;
    }
    return 0;
}

static int read_rule(struct objects *r, const struct yaml_node *n, struct str name, struct err *e)
{
    const struct yaml_node *matches = yaml_get(n, "matches");
    struct rule rule = { .name = name };
    int rc = read_targets(r, yaml_get(n, "targets"), &rule, e);

    if (rc != 0)
        return rc;
    if (matches == NULL || matches->count == 0)
        return add_rule(r, &rule, STR_NONE, e);
    for (const struct yaml_node *m = matches->first; m != NULL && rc == 0; m = m->next) {
        const struct yaml_node *model = yaml_get(m, "model");
        struct str type, value;

        if (yaml_str(yaml_get(model, "type"), &type) && !str_eqz(type, "Exact"))
            return yaml_err(yaml_get(model, "type"), e, "type: only Exact is known");
        if (!yaml_str(yaml_get(model, "value"), &value) || value.n == 0)
            return yaml_err(m, e, "a match needs model.value");
        rc = add_rule(r, &rule, value, e);
    }
    return rc;
}

static int read_rewrite(struct objects *r, const struct yaml_node *doc, struct str name,
                        struct err *e)
{
    const struct yaml_node *rules = yaml_get(yaml_get(doc, "spec"), "rules");
    int rc = 0;

    if (!yaml_is(rules, YAML_LIST))
        return yaml_err(doc, e, "InferenceModelRewrite needs spec.rules");
    for (const struct yaml_node *n = rules->first; n != NULL && rc == 0; n = n->next)
        rc = read_rule(r, n, name, e);
    return rc;
}

static int read_objective(struct objects *r, const struct yaml_node *doc, struct str name,
                          struct err *e)
{
    const struct yaml_node *priority = yaml_get(yaml_get(doc, "spec"), "priority");
    struct objective *o = take(r, sizeof(*o));
    int64_t v = 0;
    int32_t known;

    if (o == NULL)
        return no_memory(e);
    if (objects_priority(r, name, &known))
        return yaml_err(doc, e, "InferenceObjective %.*s comes twice", STR_ARG(name));
    if (priority != NULL && (!yaml_i64(priority, &v) || v < INT32_MIN || v > INT32_MAX))
        return yaml_err(priority, e, "priority: must be a whole number of 32 bits");
    o->name = name;
    o->priority = (int32_t)v;
    *r->last_objective = o;
    r->last_objective = &o->next;
    return 0;
}

static int read_doc(struct objects *r, const struct yaml_node *doc, struct err *e)
{
    struct str kind, name;

    if (yaml_is_null(doc))
        return 0;
    if (!yaml_str(yaml_get(doc, "kind"), &kind))
        return yaml_err(doc, e, "kind: must be InferenceModelRewrite or InferenceObjective");
    if (!yaml_str(yaml_get(yaml_get(doc, "metadata"), "name"), &name) || name.n == 0)
        return yaml_err(doc, e, "metadata.name is needed");
    if (str_eqz(kind, "InferenceModelRewrite"))
        return read_rewrite(r, doc, name, e);
    if (str_eqz(kind, "InferenceObjective"))
        return read_objective(r, doc, name, e);
    return yaml_err(yaml_get(doc, "kind"), e,
                    "kind: must be InferenceModelRewrite or InferenceObjective, not %.*s",
                    STR_ARG(kind));
}

/* The documents of a file, one after the other.  Each is given as many empty lines in front as the
 * file has above it, so that complaints name the file's lines. */
static int read_file(struct objects *r, struct str text, const char *file, struct err *e)
{
    struct buf doc;
    size_t line = 0;
    bool more = text.p != NULL;
    int rc = 0;

    while (more && rc == 0) {
        const struct yaml_node *root;
        size_t skipped = line;

        buf_init(&doc, YAML_BYTES_MAX + line);
        for (size_t i = 0; i < skipped; i++)
            buf_c(&doc, '\n');
        for (more = false; text.n > 0 && !more; line++) {
            struct str one = str_cut(&text, '\n');

            more = str_eqz(str_trim(one), "---");
            if (!more) {
                buf_str(&doc, one);
                buf_c(&doc, '\n');
            }
            if (text.p == NULL)
                break;
        }
        rc = doc.failed ? err_set(e, ERR_LIMIT, "%s: too large", file)
                        : yaml_parse(&r->arena, buf_view(&doc), file, &root, e);
        if (rc == 0)
            rc = read_doc(r, root, e);
        buf_fini(&doc);
    }
    return rc;
}

static int read_alias(struct objects *r, const char *text, struct err *e)
{
    struct str target = str_of(text), name = str_cut(&target, '=');
    struct target *t = take(r, sizeof(*t));
    struct rule rule = { .name = STR("alias"), .first = t, .targets = 1 };

    if (t == NULL)
        return no_memory(e);
    if (name.n == 0 || target.p == NULL || target.n == 0)
        return err_set(e, ERR_INVAL, "--model-alias %s: must be NAME=TARGET", text);
    t->name = target;
    return add_rule(r, &rule, name, e);
}

int objects_load(struct objects **out, struct str text, const char *file,
                 const char *const *aliases, size_t count, struct err *e)
{
    struct objects *r = mem_zalloc(sizeof(*r));
    int rc = 0;

    *out = NULL;
    arena_init(&r->arena, RULES_BYTES_MAX);
    r->last_exact = &r->first_exact;
    r->last_any = &r->first_any;
    r->last_objective = &r->first_objective;
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = read_alias(r, aliases[i], e);
    if (rc == 0)
        rc = read_file(r, text, file, e);
    if (rc != 0)
        objects_free(r);
    else
        *out = r;
    return rc;
}

void objects_free(struct objects *r)
{
    if (r == NULL)
        return;
    arena_fini(&r->arena);
    mem_free(r);
}

/* By weight; uniform when no target has one; those without one lose against those with. */
static struct str draw(const struct rule *rule, struct rng *rng)
{
    uint64_t at = rng_below(rng, rule->weights != 0 ? rule->weights : rule->targets);

    for (const struct target *t = rule->first; t != NULL; t = t->next) {
        uint64_t share = rule->weights != 0 ? t->weight : 1;

        if (at < share)
            return t->name;
        at -= share;
    }
    return rule->first->name;
}

bool objects_rewrite(const struct objects *r, struct str model, struct rng *rng, struct str *target,
                     struct str *rule)
{
    const struct rule *found = r->first_exact;

    while (found != NULL && !str_eq(found->model, model))
        found = found->next;
    if (found == NULL)
        found = r->first_any;
    if (found == NULL)
        return false;
    *target = draw(found, rng);
    *rule = found->name;
    return true;
}

bool objects_priority(const struct objects *r, struct str objective, int32_t *priority)
{
    for (const struct objective *o = r->first_objective; o != NULL; o = o->next)
        if (str_eq(o->name, objective)) {
            *priority = o->priority;
            return true;
        }
    return false;
}

size_t objects_names(const struct objects *r)
{
    size_t n = 0;

    for (const struct rule *at = r->first_exact; at != NULL; at = at->next)
        n++;
    return n;
}

static const struct rule *nth(const struct objects *r, size_t i)
{
    const struct rule *at = r->first_exact;

    while (i-- > 0)
        at = at->next;
    return at;
}

struct str objects_name(const struct objects *r, size_t i)
{
    return nth(r, i)->model;
}

void objects_targets(const struct objects *r, size_t i, void (*fn)(void *ctx, struct str target),
                     void *ctx)
{
    for (const struct target *t = nth(r, i)->first; t != NULL; t = t->next)
        fn(ctx, t->name);
}
