/* What a configuration leaves out is added here, as upstream does, and marked.
 *
 *   handler and picker when there is none -> ... references ... -> producers for keys nobody gives
 *   (each may need others) -> topological order of the producers, those of the file first
 *
 * A key is a type of data and the name of the instance that gives it.  Only the match of prefixes
 * is looked up by that name; of the other types one instance is as good as another. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/config_priv.h"
#include <stdio.h>
#include <string.h>

static const struct key_default {
    const char *key, *type; /* the producer made for it; NULL: none can be */
    bool by_name;           /* consumers ask the instance of that name */
    bool is_live;           /* read when it is asked for: any layer may */
} keys[] = {
    { "TokenizedPrompt", "token-producer", false, false },
    { "PrefixCacheMatchInfo", "approx-prefix-cache-producer", true, false },
    { "InFlightLoad", "inflight-load-producer", false, true },
    { "UncachedRequestTokens", "inflight-load-producer", false, false },
    { "LatencyPredictionInfo", "predicted-latency-producer", false, false },
    { "MultiModalEncoderCacheMatchInfo", "mm-embeddings-cache-producer", false, false },
    { "SessionID", "session-id-producer", false, false },
};

static const struct key_default *key_default(const char *key)
{
    for (size_t i = 0; i < COUNT(keys); i++)
        if (strcmp(keys[i].key, key) == 0)
            return &keys[i];
    return NULL;
}

int config_default_plugin(struct loader *l, const char *type, uint32_t *out)
{
    const struct plugin_type *t = plugin_type_find(str_of(type));
    int at = sched_config_find(l->c, str_of(type));

    if (at >= 0) {
        *out = (uint32_t)at;
        return 0;
    }
    if (t == NULL)
        return err_set(l->e, ERR_UNSUPPORTED,
                       "%s: plugin type %s, made by default, is not built in", l->o.file, type);
    return config_plugin_add(l, str_of(t->type), t, NULL, out);
}

static bool has_role(const struct loader *l, uint32_t role)
{
    for (uint32_t i = 0; i < l->declared; i++)
        if ((l->c->plugin[i].type->roles & role) != 0)
            return true;
    return false;
}

int config_defaults(struct loader *l)
{
    const struct yaml_node *profiles = yaml_get(l->root, "schedulingProfiles");
    bool one = !yaml_is(profiles, YAML_LIST) || profiles->count <= 1;
    uint32_t at;
    int rc = 0;

    if (one && !has_role(l, ROLE_HANDLER))
        rc = config_default_plugin(l, "single-profile-handler", &at);
    if (rc == 0 && !has_role(l, ROLE_PICKER))
        rc = config_default_plugin(l, "max-score-picker", &at);
    return rc;
}

/* ---- data keys ---- */

static bool lists(const char *const *list, const char *key)
{
    for (; list != NULL && *list != NULL; list++)
        if (strcmp(*list, key) == 0)
            return true;
    return false;
}

/* The instance name consumer asks for its k-th key; empty: whoever gives it. */
static struct str wanted_name(const struct sched_plugin_conf *consumer, uint32_t k)
{
    const struct key_default *d = key_default(consumer->type->needs[k]);
    struct str name = { "", 0 };

    if (k == 0 && consumer->type->needs_from != NULL)
        name = consumer->type->needs_from(consumer->params);
    if (name.n == 0 && d != NULL && d->by_name)
        name = str_of(d->type);
    return name;
}

static bool gives(const struct sched_plugin_conf *p, const char *key, struct str name)
{
    return lists(p->type->gives, key) && (name.n == 0 || str_eq(p->name, name));
}

static int who_gives(const struct sched_config *c, const char *key, struct str name)
{
    for (uint32_t i = 0; i < c->plugin_count; i++)
        if (gives(&c->plugin[i], key, name))
            return (int)i;
    return -1;
}

static int complain(struct loader *l, uint32_t plugin, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int complain(struct loader *l, uint32_t plugin, const char *fmt, ...)
{
    char what[ERR_MSG_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    if (l->node[plugin] != NULL)
        return yaml_err(l->node[plugin], l->e, "plugins[%u]: %s", plugin, what);
    return err_set(l->e, ERR_PARSE, "%s: %s", l->o.file, what);
}

static int cannot(struct loader *l, uint32_t consumer, const char *key, struct str name)
{
    const struct sched_plugin_conf *p = &l->c->plugin[consumer];
    int other = sched_config_find(l->c, name);

    if (name.n != 0 && other >= 0)
        return complain(l, consumer,
                        "plugin \"%.*s\" needs %s of \"%.*s\", but that (type %s) does not give it",
                        STR_ARG(p->name), key, STR_ARG(name), l->c->plugin[other].type->type);
    if (name.n != 0)
        return complain(l, consumer,
                        "plugin \"%.*s\" needs %s of \"%.*s\", which is not declared under plugins",
                        STR_ARG(p->name), key, STR_ARG(name));
    return complain(l, consumer,
                    "plugin \"%.*s\" needs %s, which nobody gives and no default exists for",
                    STR_ARG(p->name), key);
}

/* Flow control is asked before producers run, these before profiles. */
static int layer_of(const struct plugin_type *t, bool consumer)
{
    uint32_t scheduling = ROLE_FILTER | ROLE_SCORER | ROLE_PICKER | ROLE_HANDLER;
    uint32_t flow =
        ROLE_ORDERING | ROLE_FAIRNESS | ROLE_USAGE_LIMIT | ROLE_SATURATION | ROLE_EVICTION;

    if ((t->roles & ROLE_PRODUCER) != 0)
        return 1;
    if (consumer && (t->roles & flow) != 0)
        return 0;
    return (t->roles & scheduling) != 0 ? 2 : (t->roles & flow) != 0 ? 0 : 1;
}

static int check_layer(struct loader *l, uint32_t consumer, const char *key, uint32_t producer)
{
    const struct sched_plugin_conf *p = &l->c->plugin[consumer], *from = &l->c->plugin[producer];
    const struct key_default *d = key_default(key);
    int have = layer_of(from->type, false), want = layer_of(p->type, true);

    if (have <= want || (d != NULL && d->is_live))
        return 0;
    return complain(l, consumer, "plugin \"%.*s\" needs %s before \"%.*s\" has made it",
                    STR_ARG(p->name), key, STR_ARG(from->name));
}

/* Every key of one plugin is given by somebody afterwards. */
static int supply(struct loader *l, uint32_t consumer)
{
    const char *const *needs = l->c->plugin[consumer].type->needs;

    for (uint32_t k = 0; needs != NULL && needs[k] != NULL; k++) {
        const struct key_default *d = key_default(needs[k]);
        struct str name = wanted_name(&l->c->plugin[consumer], k);
        int from = who_gives(l->c, needs[k], name), rc;
        uint32_t made;

        if (from < 0) {
            if (d == NULL || (name.n != 0 && !str_eqz(name, d->type)) ||
                sched_config_find(l->c, str_of(d->type)) >= 0)
                return cannot(l, consumer, needs[k], name);
            rc = config_default_plugin(l, d->type, &made);
            if (rc != 0)
                return rc;
            from = who_gives(l->c, needs[k], name);
            if (from < 0)
                return cannot(l, consumer, needs[k], name);
        }
        rc = check_layer(l, consumer, needs[k], (uint32_t)from);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* ---- order ---- */

static bool unmade(const struct sched_config *c, const char *key, struct str name, const bool *done,
                   uint32_t *on)
{
    for (uint32_t j = 0; j < c->plugin_count; j++)
        if (!done[j] && (c->plugin[j].type->roles & ROLE_PRODUCER) != 0 &&
            gives(&c->plugin[j], key, name)) {
            *on = j;
            return true;
        }
    return false;
}

/* Whether producer i waits for one that is not in the order yet. */
static bool waits(const struct sched_config *c, uint32_t i, const bool *done, uint32_t *on)
{
    const char *const *needs = c->plugin[i].type->needs, *const *uses = c->plugin[i].type->uses;

    for (uint32_t k = 0; needs != NULL && needs[k] != NULL; k++)
        if (unmade(c, needs[k], wanted_name(&c->plugin[i], k), done, on))
            return true;
    for (uint32_t k = 0; uses != NULL && uses[k] != NULL; k++)
        if (unmade(c, uses[k], STR(""), done, on))
            return true;
    return false;
}

static int cycle(struct loader *l, const bool *done, uint32_t start)
{
    char names[300];
    uint32_t at = start, on = start;
    size_t len = 0;

    for (uint32_t n = 0; n < l->c->plugin_count; n++) { /* into the cycle, wherever it begins */
        waits(l->c, at, done, &on);
        at = on;
    }
    start = at;
    do {
        if (len < sizeof(names))
            len += (size_t)snprintf(names + len, sizeof(names) - len, "%.*s -> ",
                                    STR_ARG(l->c->plugin[at].name));
        waits(l->c, at, done, &on);
        at = on;
    } while (at != start);
    return err_set(l->e, ERR_PARSE, "%s:%u: producers wait for each other: %s%.*s", l->o.file,
                   l->c->plugin[start].line, names, STR_ARG(l->c->plugin[start].name));
}

int config_producers(struct loader *l)
{
    struct sched_config *c = l->c;
    bool done[SCHED_PLUGINS_MAX] = { false };
    uint32_t left = 0, on = 0;

    for (uint32_t i = 0; i < c->plugin_count; i++) { /* grows on the way */
        int rc = supply(l, i);

        if (rc != 0)
            return rc;
    }
    for (uint32_t i = 0; i < c->plugin_count; i++)
        left += (c->plugin[i].type->roles & ROLE_PRODUCER) != 0;
    while (left != 0) {
        uint32_t i = 0, stuck = 0;

        for (; i < c->plugin_count; i++)
            if (!done[i] && (c->plugin[i].type->roles & ROLE_PRODUCER) != 0) {
                if (!waits(c, i, done, &on))
                    break;
                stuck = i;
            }
        if (i == c->plugin_count)
            return cycle(l, done, stuck);
        done[i] = true;
        c->order[c->order_count++] = i;
        left--;
    }
    return 0;
}
