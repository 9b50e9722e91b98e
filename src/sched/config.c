/* llm-d's EndpointPickerConfig into an immutable configuration.
 *
 *   text -> tree -> envelope, gates -> plugins with parameters -> what is missing
 * (config_defaults.c)
 *        -> profiles, data layer, flow control, parsers: names become indices
 *        -> producers and their order -> experimental types
 *
 * The tree and everything decoded live in the configuration's arena, so that parameters may borrow
 * text of the file.  Plugins of the file come first, in its order; those made by default follow.
 *
 * Invariant: an index stored anywhere in the configuration is below plugin_count and has the role
 * its place asks for. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/config.h"
#include "base/check.h"
#include "base/mem.h"
#include "base/opt.h"
#include "sched/config_priv.h"
#include "sched/params.h"
#include "sched/plugin_params.h"
#include <stdio.h>
#include <string.h>

#define API_VERSION     "llm-d.ai/v1alpha1"
#define API_VERSION_OLD "inference.networking.x-k8s.io/v1alpha1"
#define API_VERSION_NEW "llm-d.ai/v1"

/* The built-in configuration: upstream's. */
static const char BUILT_IN[] = "apiVersion: " API_VERSION "\n"
                               "kind: EndpointPickerConfig\n"
                               "plugins:\n"
                               "- type: queue-scorer\n"
                               "- type: kv-cache-utilization-scorer\n"
                               "- type: prefix-cache-scorer\n"
                               "- type: metrics-data-source\n"
                               "- type: core-metrics-extractor\n"
                               "schedulingProfiles:\n"
                               "- name: default\n"
                               "  plugins:\n"
                               "  - pluginRef: queue-scorer\n"
                               "    weight: 2\n"
                               "  - pluginRef: kv-cache-utilization-scorer\n"
                               "    weight: 2\n"
                               "  - pluginRef: prefix-cache-scorer\n"
                               "    weight: 3\n"
                               "dataLayer:\n"
                               "  sources:\n"
                               "  - pluginRef: metrics-data-source\n"
                               "    extractors:\n"
                               "    - pluginRef: core-metrics-extractor\n";

struct str sched_config_built_in(void)
{
    return STR(BUILT_IN);
}

static const struct {
    const char *name; /* as "is no ..." says it */
    uint32_t role;
} role_names[] = {
    { "filter", ROLE_FILTER },
    { "scorer", ROLE_SCORER },
    { "picker", ROLE_PICKER },
    { "profile handler", ROLE_HANDLER },
    { "decider", ROLE_DECIDER },
    { "producer", ROLE_PRODUCER },
    { "admitter", ROLE_ADMITTER },
    { "pre-request", ROLE_PRE_REQUEST },
    { "response", ROLE_RESPONSE },
    { "request-header", ROLE_REQUEST_HEADER },
    { "parser", ROLE_PARSER },
    { "data source", ROLE_SOURCE },
    { "extractor", ROLE_EXTRACTOR },
    { "discovery", ROLE_DISCOVERY },
    { "ordering policy", ROLE_ORDERING },
    { "fairness policy", ROLE_FAIRNESS },
    { "usage limit policy", ROLE_USAGE_LIMIT },
    { "saturation detector", ROLE_SATURATION },
    { "screener", ROLE_SCREENER },
    { "eviction policy", ROLE_EVICTION },
};

static const char *role_name(uint32_t roles)
{
    for (size_t i = 0; i < COUNT(role_names); i++)
        if ((roles & role_names[i].role) != 0)
            return role_names[i].name;
    return "plugin";
}

/* ---- complaints ---- */

const char *config_nearest(struct str word, const char *const *names, size_t count)
{
    const char *near;

    for (size_t i = 0; i < count; i++) /* wrong case is no distance */
        if (str_ieq(word, str_of(names[i])))
            return names[i];
    near = opt_nearest(word, names, count);
    /* of words this short everything is near */
    return near != NULL && MIN(word.n, strlen(near)) >= 3 ? near : NULL;
}

void config_warn(struct loader *l, const struct yaml_node *at, const char *fmt, ...)
{
    char what[ERR_MSG_MAX], line[2 * ERR_MSG_MAX];
    va_list ap;

    if (l->o.warn == NULL)
        return;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    if (at != NULL)
        snprintf(line, sizeof(line), "%s:%u:%u: %s", l->o.file, at->line, at->column, what);
    else
        snprintf(line, sizeof(line), "%s: %s", l->o.file, what);
    l->o.warn(l->o.ctx, line);
}

int config_known(struct loader *l, const struct yaml_node *n, const char *path,
                 const char *const *known)
{
    const struct yaml_node *m;
    const char *near;
    size_t count = 0;

    if (!yaml_is(n, YAML_MAP))
        return yaml_err(n, l->e, "%s: must be a map", *path != 0 ? path : "the configuration");
    m = yaml_unknown(n, known);
    if (m == NULL)
        return 0;
    while (known[count] != NULL)
        count++;
    near = config_nearest(m->key, known, count);
    return yaml_err_key(m, l->e, "%s%s%.*s: unknown field%s%s%s", path, *path != 0 ? "." : "",
                        (int)MIN(m->key.n, (size_t)60), m->key.p,
                        near != NULL ? "; did you mean " : "", near != NULL ? near : "",
                        near != NULL ? "?" : "");
}

/* Member of a map, NULL when it is absent or null. */
static const struct yaml_node *member(const struct yaml_node *n, const char *key)
{
    const struct yaml_node *m = yaml_get(n, key);

    return yaml_is_null(m) ? NULL : m;
}

static int list_of(struct loader *l, const struct yaml_node *n, const char *path, uint32_t max)
{
    if (!yaml_is(n, YAML_LIST))
        return yaml_err(n, l->e, "%s: must be a list", path);
    if (n->count > max) {
        yaml_err(n, l->e, "%s: %u entries; at most %u are taken", path, n->count, max);
        return l->e->code = ERR_LIMIT;
    }
    return 0;
}

/* ---- references ---- */

int sched_config_find(const struct sched_config *c, struct str name)
{
    for (uint32_t i = 0; i < c->plugin_count; i++)
        if (str_eq(c->plugin[i].name, name))
            return (int)i;
    return -1;
}

int sched_config_profile(const struct sched_config *c, struct str name)
{
    for (uint32_t i = 0; i < c->profile_count; i++)
        if (str_eq(c->profile[i].name, name))
            return (int)i;
    return -1;
}

static int unknown_ref(struct loader *l, const struct yaml_node *n, const char *path,
                       struct str name)
{
    const char *names[SCHED_PLUGINS_MAX], *near;

    if (plugin_type_find(name) != NULL)
        return yaml_err(n, l->e,
                        "%s: no plugin is named \"%.*s\"; add \"- type: %.*s\" under plugins", path,
                        STR_ARG(name), STR_ARG(name));
    for (uint32_t i = 0; i < l->c->plugin_count; i++)
        names[i] = l->c->plugin[i].name.p;
    near = config_nearest(name, names, l->c->plugin_count);
    return yaml_err(n, l->e, "%s: no plugin is named \"%.*s\"%s%s%s", path,
                    (int)MIN(name.n, (size_t)80), name.p, near != NULL ? "; did you mean " : "",
                    near != NULL ? near : "", near != NULL ? "?" : "");
}

/* The plugin that text node n names; roles: it must have one of them (0: any will do). */
static int ref(struct loader *l, const struct yaml_node *n, const char *path, uint32_t roles,
               uint32_t *out)
{
    struct str name;
    int rc = params_text(n, path, &name, l->e), at;

    *out = 0;
    if (rc != 0)
        return rc;
    at = sched_config_find(l->c, name);
    if (at < 0)
        return unknown_ref(l, n, path, name);
    if (roles != 0 && (l->c->plugin[at].type->roles & roles) == 0)
        return yaml_err(n, l->e, "%s: plugin \"%.*s\" (type %s) is no %s", path, STR_ARG(name),
                        l->c->plugin[at].type->type, role_name(roles));
    *out = (uint32_t)at;
    return 0;
}

/* The map {pluginRef: NAME}. */
static int ref_map(struct loader *l, const struct yaml_node *n, const char *path, uint32_t roles,
                   uint32_t *out)
{
    static const char *const known[] = { "pluginRef", NULL };
    char at[CONFIG_PATH_MAX + 16];
    int rc = config_known(l, n, path, known);

    *out = 0;
    if (rc != 0)
        return rc;
    snprintf(at, sizeof(at), "%s.pluginRef", path);
    if (member(n, "pluginRef") == NULL)
        return yaml_err(n, l->e, "%s: missing", at);
    return ref(l, yaml_get(n, "pluginRef"), at, roles, out);
}

/* ---- envelope ---- */

static int take_envelope(struct loader *l)
{
    static const char *const known[] = {
        "apiVersion", "kind",        "plugins",        "dataLayer",          "featureGates",
        "parser",     "flowControl", "requestHandler", "saturationDetector", "schedulingProfiles",
        NULL
    };
    const struct yaml_node *version = yaml_get(l->root, "apiVersion");
    const struct yaml_node *kind = yaml_get(l->root, "kind");
    struct str s;
    int rc = config_known(l, l->root, "", known);

    if (rc != 0)
        return rc;
    if (version == NULL || !yaml_str(version, &s))
        return yaml_err(version != NULL ? version : l->root, l->e,
                        "apiVersion: missing; write apiVersion: " API_VERSION);
    if (str_eqz(s, API_VERSION_OLD))
        config_warn(l, version,
                    "apiVersion: " API_VERSION_OLD " is deprecated; write " API_VERSION);
    else if (!str_eqz(s, API_VERSION) && !str_eqz(s, API_VERSION_NEW))
        return yaml_err(version, l->e, "apiVersion: must be " API_VERSION);
    if (kind == NULL || !yaml_str(kind, &s) || !str_eqz(s, "EndpointPickerConfig"))
        return yaml_err(kind != NULL ? kind : l->root, l->e, "kind: must be EndpointPickerConfig");
    return 0;
}

static bool gate_value(struct str s, bool *out)
{
    static const char *const words[] = { "0", "f", "false", "1", "t", "true" };

    for (size_t i = 0; i < COUNT(words); i++)
        if (str_ieq(str_trim(s), str_of(words[i]))) {
            *out = i >= 3;
            return true;
        }
    return false;
}

static int take_gate(struct loader *l, const struct yaml_node *n, const char *path)
{
    static const char *const names[] = { "flowControl", "haPopulateNonLeaderDatastore" };
    bool *gates[] = { &l->c->flow.enabled, &l->c->ha_populate_non_leader };
    struct str name, value;
    const char *near;
    bool on = true;
    int rc = params_text(n, path, &value, l->e);

    if (rc != 0)
        return rc;
    name = str_cut(&value, '=');
    if (value.p != NULL && !gate_value(value, &on))
        return yaml_err(n, l->e, "%s: must be %.*s=true or %.*s=false", path, STR_ARG(name),
                        STR_ARG(name));
    for (size_t i = 0; i < COUNT(names); i++)
        if (str_eqz(name, names[i])) {
            *gates[i] = on;
            return 0;
        }
    near = config_nearest(name, names, COUNT(names));
    return yaml_err(n, l->e, "%s: unknown feature gate \"%.*s\"; known: %s, %s%s%s%s", path,
                    (int)MIN(name.n, (size_t)60), name.p, names[0], names[1],
                    near != NULL ? "; did you mean " : "", near != NULL ? near : "",
                    near != NULL ? "?" : "");
}

static int take_gates(struct loader *l)
{
    const struct yaml_node *n = member(l->root, "featureGates");
    char path[CONFIG_PATH_MAX];
    uint32_t i = 0;
    int rc = n != NULL ? list_of(l, n, "featureGates", 64) : 0;

    l->c->ha_populate_non_leader = true;
    if (rc != 0 || n == NULL)
        return rc;
    for (const struct yaml_node *m = n->first; m != NULL; m = m->next, i++) {
        snprintf(path, sizeof(path), "featureGates[%u]", i);
        rc = take_gate(l, m, path);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* ---- plugins ---- */

int config_plugin_add(struct loader *l, struct str name, const struct plugin_type *t,
                      const struct yaml_node *node, uint32_t *out)
{
    struct sched_config *c = l->c;
    uint32_t i = c->plugin_count;

    if (i == SCHED_PLUGINS_MAX)
        return err_set(l->e, ERR_LIMIT, "%s: more than %d plugins", l->o.file, SCHED_PLUGINS_MAX);
    c->plugin[i] = (struct sched_plugin_conf) {
        .name = name,
        .type = t,
        .line = node != NULL ? node->line : 0,
        .is_default = node == NULL,
    };
    l->node[i] = node;
    c->plugin_count++;
    *out = i;
    if (t->deprecated != NULL)
        config_warn(l, node, "plugin \"%.*s\": %s", STR_ARG(name), t->deprecated);
    return config_params(l, i, yaml_get(node, "parameters"), &c->plugin[i].params);
}

static int take_plugin(struct loader *l, const struct yaml_node *n, uint32_t index)
{
    static const char *const known[] = { "name", "type", "parameters", NULL };
    const struct yaml_node *type = member(n, "type"), *named = member(n, "name");
    const struct plugin_type *t;
    char path[CONFIG_PATH_MAX], at[CONFIG_PATH_MAX + 8];
    const char *near;
    struct str name, word;
    int rc, other;

    snprintf(path, sizeof(path), "plugins[%u]", index);
    rc = config_known(l, n, path, known);
    if (rc != 0)
        return rc;
    snprintf(at, sizeof(at), "%s.type", path);
    if (type == NULL)
        return yaml_err(n, l->e, "%s: missing", at);
    rc = params_text(type, at, &word, l->e);
    if (rc != 0)
        return rc;
    t = plugin_type_find(word);
    if (t == NULL) {
        near = plugin_type_nearest(word);
        return yaml_err(type, l->e, "%s: unknown plugin type \"%.*s\"%s%s%s", at,
                        (int)MIN(word.n, (size_t)80), word.p, near != NULL ? "; did you mean " : "",
                        near != NULL ? near : "", near != NULL ? "?" : "");
    }
    name = word;
    snprintf(at, sizeof(at), "%s.name", path);
    if (named != NULL) {
        rc = params_text(named, at, &name, l->e);
        if (rc != 0)
            return rc;
        if (name.n == 0)
            name = word;
    }
    other = sched_config_find(l->c, name);
    if (other >= 0)
        return yaml_err(named != NULL ? named : n, l->e,
                        "%s: plugin \"%.*s\" is declared twice (first in line %u)%s", at,
                        STR_ARG(name), l->c->plugin[other].line,
                        named == NULL ? "; give one of them a name" : "");
    return config_plugin_add(l, name, t, n, &index);
}

static int take_plugins(struct loader *l)
{
    const struct yaml_node *n = member(l->root, "plugins");
    int rc = n != NULL ? list_of(l, n, "plugins", SCHED_PLUGINS_MAX - 28) : 0;
    uint32_t i = 0;

    for (const struct yaml_node *m = n != NULL ? n->first : NULL; m != NULL && rc == 0; m = m->next)
        rc = take_plugin(l, m, i++);
    l->declared = l->c->plugin_count;
    return rc;
}

static const struct yaml_node *member_ignoring_case(const struct yaml_node *n, const char *key)
{
    if (yaml_is(n, YAML_MAP))
        for (const struct yaml_node *m = n->first; m != NULL; m = m->next)
            if (str_ieq(m->key, str_of(key)) && !yaml_is_null(m))
                return m;
    return NULL;
}

/* Parameters that name other plugins: their targets must be there and be what is asked for. */
static int check_plugin_refs(struct loader *l)
{
    static const struct {
        const char *type, *group, *param;
        const char *value; /* the parameter's default */
    } refs[] = {
        { "disagg-profile-handler", "deciders", "prefill", NULL },
        { "disagg-profile-handler", "deciders", "encode", NULL },
        { "disagg-profile-handler", NULL, "prefillDeciderPluginName", NULL },
        { "disagg-profile-handler", NULL, "deciderPluginName", NULL },
        { "disagg-profile-handler", NULL, "encodeDeciderPluginName", NULL },
        { "pd-profile-handler", NULL, "deciderPluginName", "prefix-based-pd-decider" },
    };

    for (uint32_t i = 0; i < l->declared; i++)
        for (size_t k = 0; k < COUNT(refs); k++) {
            const struct yaml_node *n = yaml_get(l->node[i], "parameters");
            char path[CONFIG_PATH_MAX];
            uint32_t target;
            int rc = 0;

            if (strcmp(l->c->plugin[i].type->type, refs[k].type) != 0)
                continue;
            if (refs[k].group != NULL)
                n = member_ignoring_case(n, refs[k].group);
            n = member_ignoring_case(n, refs[k].param);
            snprintf(path, sizeof(path), "plugins[%u].parameters.%s%s%s", i,
                     refs[k].group != NULL ? refs[k].group : "", refs[k].group != NULL ? "." : "",
                     refs[k].param);
            if (n != NULL && n->text.n != 0)
                rc = ref(l, n, path, ROLE_DECIDER, &target);
            else if (refs[k].value != NULL && sched_config_find(l->c, str_of(refs[k].value)) < 0)
                rc = yaml_err(l->node[i], l->e,
                              "%s: its default \"%s\" is not declared; add \"- type: %s\" under "
                              "plugins or name another decider",
                              path, refs[k].value, refs[k].value);
            if (rc != 0)
                return rc;
        }
    return 0;
}

/* ---- profiles ---- */

static int profile_use(struct loader *l, struct sched_profile_conf *p, uint32_t plugin,
                       double weight, const struct yaml_node *n, const char *path)
{
    const struct sched_plugin_conf *pc = &l->c->plugin[plugin];
    uint32_t roles = pc->type->roles;

    if ((roles & (ROLE_FILTER | ROLE_SCORER | ROLE_PICKER)) == 0)
        config_warn(l, n, "%s: plugin \"%.*s\" (type %s) has no effect in a profile", path,
                    STR_ARG(pc->name), pc->type->type);
    if ((roles & ROLE_FILTER) != 0) {
        if (p->filter_count == COUNT(p->filter))
            return yaml_err(n, l->e, "%s: more than %zu filters", path, COUNT(p->filter));
        p->filter[p->filter_count++] = plugin;
    }
    if ((roles & ROLE_SCORER) != 0) {
        if (p->scorer_count == COUNT(p->scorer))
            return yaml_err(n, l->e, "%s: more than %zu scorers", path, COUNT(p->scorer));
        p->scorer[p->scorer_count++] = (struct sched_scorer_ref) { plugin, weight };
    }
    if ((roles & ROLE_PICKER) != 0) {
        if (p->picker != SCHED_NONE)
            return yaml_err(n, l->e, "%s: a second picker, \"%.*s\" beside \"%.*s\"", path,
                            STR_ARG(pc->name), STR_ARG(l->c->plugin[p->picker].name));
        p->picker = plugin;
    }
    return 0;
}

static int take_profile_plugin(struct loader *l, struct sched_profile_conf *p,
                               const struct yaml_node *n, const char *path)
{
    static const char *const known[] = { "pluginRef", "weight", NULL };
    const struct yaml_node *weighted = member(n, "weight");
    char at[CONFIG_PATH_MAX + 16];
    double weight = 1;
    uint32_t plugin;
    int rc = config_known(l, n, path, known);

    if (rc != 0)
        return rc;
    snprintf(at, sizeof(at), "%s.pluginRef", path);
    if (member(n, "pluginRef") == NULL)
        return yaml_err(n, l->e, "%s: missing", at);
    rc = ref(l, yaml_get(n, "pluginRef"), at, 0, &plugin);
    if (rc != 0)
        return rc;
    snprintf(at, sizeof(at), "%s.weight", path);
    if (weighted != NULL && !yaml_f64(weighted, &weight))
        return yaml_err(weighted, l->e, "%s: must be a number", at);
    if (weighted != NULL && (l->c->plugin[plugin].type->roles & ROLE_SCORER) == 0)
        config_warn(l, weighted, "%s: only scorers have a weight; \"%.*s\" is none", at,
                    STR_ARG(l->c->plugin[plugin].name));
    return profile_use(l, p, plugin, weight, n, path);
}

/* Profiles without a picker share the first one declared, or the one made by default. */
static void profile_picker(struct loader *l, struct sched_profile_conf *p)
{
    for (uint32_t i = 0; p->picker == SCHED_NONE; i++) {
        ASSERT(i < l->c->plugin_count);
        if ((l->c->plugin[i].type->roles & ROLE_PICKER) != 0)
            p->picker = i;
    }
}

static int take_profile(struct loader *l, const struct yaml_node *n, uint32_t index)
{
    static const char *const known[] = { "name", "plugins", NULL };
    struct sched_profile_conf *p = &l->c->profile[index];
    const struct yaml_node *plugins = member(n, "plugins");
    char path[64], at[CONFIG_PATH_MAX];
    uint32_t i = 0;
    int rc;

    snprintf(path, sizeof(path), "schedulingProfiles[%u]", index);
    rc = config_known(l, n, path, known);
    if (rc != 0)
        return rc;
    snprintf(at, sizeof(at), "%s.name", path);
    if (member(n, "name") == NULL)
        return yaml_err(n, l->e, "%s: missing", at);
    rc = params_text(yaml_get(n, "name"), at, &p->name, l->e);
    if (rc != 0)
        return rc;
    if (p->name.n == 0 || sched_config_profile(l->c, p->name) >= 0)
        return yaml_err(yaml_get(n, "name"), l->e, "%s: %s", at,
                        p->name.n == 0 ? "empty" : "another profile has this name");
    p->picker = SCHED_NONE;
    snprintf(at, sizeof(at), "%s.plugins", path);
    rc = plugins != NULL ? list_of(l, plugins, at, 64) : 0;
    for (const struct yaml_node *m = plugins != NULL ? plugins->first : NULL; m != NULL && rc == 0;
         m = m->next) {
        snprintf(at, sizeof(at), "%s.plugins[%u]", path, i++);
        rc = take_profile_plugin(l, p, m, at);
    }
    if (rc != 0)
        return rc;
    profile_picker(l, p);
    l->c->profile_count++;
    return 0;
}

static int take_profiles(struct loader *l)
{
    const struct yaml_node *n = member(l->root, "schedulingProfiles");
    struct sched_profile_conf *p = &l->c->profile[0];
    uint32_t roles = ROLE_FILTER | ROLE_SCORER | ROLE_PICKER, i = 0;
    int rc = n != NULL ? list_of(l, n, "schedulingProfiles", SCHED_PROFILES_MAX) : 0;

    for (const struct yaml_node *m = n != NULL ? n->first : NULL; m != NULL && rc == 0; m = m->next)
        rc = take_profile(l, m, i++);
    if (rc != 0 || l->c->profile_count != 0)
        return rc;
    *p = (struct sched_profile_conf) { .name = STR("default"), .picker = SCHED_NONE };
    for (i = 0; i < l->declared && rc == 0; i++)
        if ((l->c->plugin[i].type->roles & roles) != 0)
            rc = profile_use(l, p, i, 1, l->node[i], "the profile made of all plugins");
    if (rc != 0)
        return rc;
    profile_picker(l, p);
    l->c->profile_count = 1;
    return 0;
}

/* A handler that splits runs the decode profile for every request. */
static int check_decode_profile(struct loader *l, uint32_t at)
{
    const struct sched_plugin_conf *p = &l->c->plugin[at];
    struct str decode = STR_NONE;

    if (strcmp(p->type->type, "disagg-profile-handler") == 0)
        decode = ((const struct disagg_params *)p->params)->decode;
    else if (strcmp(p->type->type, "pd-profile-handler") == 0)
        decode = ((const struct pd_params *)p->params)->decode;
    else
        return 0;
    if (decode.n == 0)
        decode = STR("decode");
    if (sched_config_profile(l->c, decode) >= 0)
        return 0;
    return yaml_err(l->node[at], l->e,
                    "plugins[%u]: %s runs the profile \"%.*s\" for every request, but "
                    "schedulingProfiles has none of that name",
                    at, p->type->type, STR_ARG(decode));
}

static int check_handler(struct loader *l)
{
    static const char *const single[] = { "single-profile-handler",
                                          "data-parallel-profile-handler" };
    struct sched_config *c = l->c;
    int at = -1;

    for (uint32_t i = 0; i < c->plugin_count; i++) {
        if ((c->plugin[i].type->roles & ROLE_HANDLER) == 0)
            continue;
        if (at >= 0)
            return yaml_err(l->node[i], l->e,
                            "plugins[%u]: a second profile handler, \"%.*s\" beside \"%.*s\"; only "
                            "one is allowed",
                            i, STR_ARG(c->plugin[i].name), STR_ARG(c->plugin[at].name));
        at = (int)i;
    }
    if (at < 0)
        return yaml_err(yaml_get(l->root, "schedulingProfiles"), l->e,
                        "schedulingProfiles: %u profiles need a profile handler under plugins, "
                        "such as disagg-profile-handler",
                        c->profile_count);
    c->handler = (uint32_t)at;
    for (size_t i = 0; i < COUNT(single); i++)
        if (strcmp(c->plugin[at].type->type, single[i]) == 0 && c->profile_count > 1)
            return yaml_err(l->node[at], l->e, "plugins[%d]: %s cannot run %u profiles", at,
                            single[i], c->profile_count);
    return check_decode_profile(l, c->handler);
}

/* ---- data layer ---- */

static int take_source(struct loader *l, const struct yaml_node *n, const char *path)
{
    static const char *const known[] = { "pluginRef", "extractors", NULL };
    struct sched_source_conf *s = &l->c->source[l->c->source_count];
    const struct yaml_node *extractors = member(n, "extractors");
    uint32_t roles = ROLE_EXTRACTOR | ROLE_PRODUCER | ROLE_SCREENER, i = 0;
    char at[CONFIG_PATH_MAX + 40];
    int rc = config_known(l, n, path, known);

    if (rc != 0)
        return rc;
    *s = (struct sched_source_conf) { 0 };
    snprintf(at, sizeof(at), "%s.pluginRef", path);
    if (member(n, "pluginRef") == NULL)
        return yaml_err(n, l->e, "%s: missing", at);
    rc = ref(l, yaml_get(n, "pluginRef"), at, ROLE_SOURCE, &s->plugin);
    if (rc != 0)
        return rc;
    for (uint32_t k = 0; k < l->c->source_count; k++)
        if (l->c->source[k].plugin == s->plugin)
            return yaml_err(n, l->e, "%s: source \"%.*s\" is listed twice", path,
                            STR_ARG(l->c->plugin[s->plugin].name));
    /* Notifications of endpoints and objects go to producers and screeners as well. */
    if (strstr(l->c->plugin[s->plugin].type->type, "notification") == NULL)
        roles = ROLE_EXTRACTOR;
    snprintf(at, sizeof(at), "%s.extractors", path);
    rc = extractors != NULL ? list_of(l, extractors, at, COUNT(s->extractor)) : 0;
    for (const struct yaml_node *m = extractors != NULL ? extractors->first : NULL;
         m != NULL && rc == 0; m = m->next) {
        snprintf(at, sizeof(at), "%s.extractors[%u]", path, i++);
        rc = ref_map(l, m, at, roles, &s->extractor[s->extractor_count++]);
    }
    l->c->source_count += rc == 0;
    return rc;
}

/* What no plugin type provides here, as upstream: named and refused. */
static int refuse_peers(struct loader *l, const struct yaml_node *data)
{
    static const struct {
        const char *group, *key;
    } fields[] = { { NULL, "peerDiscovery" },
                   { "discovery", "peers" },
                   { NULL, "crossReplicaSyncerPluginRef" },
                   { "crossReplica", "syncerPluginRef" } };

    for (size_t i = 0; i < COUNT(fields); i++) {
        const struct yaml_node *n = data;

        if (fields[i].group != NULL)
            n = member(n, fields[i].group);
        n = member(n, fields[i].key);
        if (n != NULL)
            return yaml_err_key(n, l->e,
                                "dataLayer.%s%s%s: no plugin type provides this; remove it",
                                fields[i].group != NULL ? fields[i].group : "",
                                fields[i].group != NULL ? "." : "", fields[i].key);
    }
    return 0;
}

static int take_sync(struct loader *l, const struct yaml_node *data)
{
    static const char *const known[] = { "syncerPluginRef", "syncInterval", "publishTimeout",
                                         NULL };
    const struct yaml_node *group = member(data, "crossReplica");
    const struct yaml_node *times[] = { member(data, "crossReplicaSyncInterval"),
                                        member(data, "crossReplicaPublishTimeout"),
                                        member(group, "syncInterval"),
                                        member(group, "publishTimeout") };
    uint32_t ms;
    int rc = group != NULL ? config_known(l, group, "dataLayer.crossReplica", known) : 0;

    for (size_t i = 0; i < COUNT(times) && rc == 0; i++) {
        char path[CONFIG_PATH_MAX];

        if (times[i] == NULL)
            continue;
        snprintf(path, sizeof(path), "dataLayer%s.%s", i >= 2 ? ".crossReplica" : "",
                 times[i]->key.p);
        rc = params_duration(times[i], path, &ms, l->e);
        if (rc == 0)
            config_warn(l, times[i], "%s: has no effect without a syncer", path);
    }
    return rc;
}

static int take_discovery(struct loader *l, const struct yaml_node *n)
{
    static const char *const known[] = { "pluginRef", "endpoints", "peers", NULL };
    const struct yaml_node *endpoints = member(n, "endpoints");
    uint32_t plugin = 0;
    int rc;

    if (n == NULL)
        return 0;
    rc = config_known(l, n, "dataLayer.discovery", known);
    if (rc != 0)
        return rc;
    if (endpoints != NULL)
        rc = ref_map(l, endpoints, "dataLayer.discovery.endpoints", ROLE_DISCOVERY, &plugin);
    else if (member(n, "pluginRef") != NULL)
        rc = ref(l, yaml_get(n, "pluginRef"), "dataLayer.discovery.pluginRef", ROLE_DISCOVERY,
                 &plugin);
    else
        return yaml_err(n, l->e, "dataLayer.discovery.pluginRef: missing");
    l->c->discovery = rc == 0 ? (int)plugin : -1;
    return rc;
}

/* The metrics source with its extractor, unless it is listed or defaults are off. */
static int add_metrics_source(struct loader *l, const struct yaml_node *data)
{
    struct sched_config *c = l->c;
    struct sched_source_conf *s = &c->source[c->source_count];
    bool inject = true;
    int rc = 0, source = sched_config_find(c, STR("metrics-data-source"));

    if (member(data, "injectDefaults") != NULL)
        rc = params_bool(yaml_get(data, "injectDefaults"), "dataLayer.injectDefaults", &inject,
                         l->e);
    if (rc != 0 || !inject)
        return rc;
    for (uint32_t i = 0; i < c->source_count; i++)
        if ((int)c->source[i].plugin == source)
            return 0;
    if (c->source_count == COUNT(c->source))
        return yaml_err(data, l->e, "dataLayer.sources: no room for metrics-data-source");
    *s = (struct sched_source_conf) { .extractor_count = 1 };
    rc = config_default_plugin(l, "metrics-data-source", &s->plugin);
    if (rc == 0)
        rc = config_default_plugin(l, "core-metrics-extractor", &s->extractor[0]);
    if (rc == 0 && ((c->plugin[s->plugin].type->roles & ROLE_SOURCE) == 0 ||
                    (c->plugin[s->extractor[0]].type->roles & ROLE_EXTRACTOR) == 0))
        return err_set(l->e, ERR_PARSE,
                       "%s: plugins named metrics-data-source and core-metrics-extractor must be "
                       "of these types",
                       l->o.file);
    c->source_count += rc == 0;
    return rc;
}

static int take_data_layer(struct loader *l)
{
    static const char *const known[] = { "injectDefaults",
                                         "sources",
                                         "discovery",
                                         "peerDiscovery",
                                         "crossReplicaSyncerPluginRef",
                                         "crossReplicaSyncInterval",
                                         "crossReplicaPublishTimeout",
                                         "crossReplica",
                                         NULL };
    const struct yaml_node *data = member(l->root, "dataLayer"), *sources;
    uint32_t i = 0;
    int rc;

    if (data == NULL)
        return add_metrics_source(l, NULL);
    sources = member(data, "sources");
    rc = config_known(l, data, "dataLayer", known);
    if (rc == 0)
        rc = refuse_peers(l, data);
    if (rc == 0)
        rc = take_sync(l, data);
    if (rc == 0)
        rc = take_discovery(l, member(data, "discovery"));
    if (rc == 0 && sources != NULL)
        rc = list_of(l, sources, "dataLayer.sources", COUNT(l->c->source));
    for (const struct yaml_node *m = rc == 0 && sources != NULL ? sources->first : NULL;
         m != NULL && rc == 0; m = m->next) {
        char path[CONFIG_PATH_MAX];

        snprintf(path, sizeof(path), "dataLayer.sources[%u]", i++);
        rc = take_source(l, m, path);
    }
    return rc != 0 ? rc : add_metrics_source(l, data);
}

/* ---- parsers ---- */

static int take_parser(struct loader *l, const struct yaml_node *n, const char *path)
{
    struct sched_config *c = l->c;
    const struct plugin_type *t = NULL;
    struct str name;
    uint32_t plugin;
    int rc;

    if (yaml_is(n, YAML_MAP) && yaml_str(yaml_get(n, "pluginRef"), &name) &&
        sched_config_find(c, name) < 0)
        t = plugin_type_find(name);
    if (t != NULL && (t->roles & ROLE_PARSER) != 0) {
        rc = config_default_plugin(l, t->type, &plugin);
        if (rc != 0)
            return rc;
    }
    rc = ref_map(l, n, path, ROLE_PARSER, &plugin);
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i < c->parser_count; i++)
        if (c->plugin[c->parser[i]].type == c->plugin[plugin].type) {
            config_warn(l, n, "%s: a parser of type %s is listed already; this one is ignored",
                        path, c->plugin[plugin].type->type);
            return 0;
        }
    if (c->parser_count == COUNT(c->parser))
        return yaml_err(n, l->e, "%s: more than %zu parsers", path, COUNT(c->parser));
    c->parser[c->parser_count++] = plugin;
    return 0;
}

static int take_parsers(struct loader *l)
{
    static const char *const known[] = { "parsers", NULL };
    static const char *const defaults[] = { "openai-parser", "anthropic-parser", "vllmhttp-parser",
                                            "passthrough-parser" };
    const struct yaml_node *n = member(l->root, "requestHandler"), *list = member(n, "parsers");
    const struct yaml_node *old = member(l->root, "parser");
    uint32_t i = 0;
    int rc = n != NULL ? config_known(l, n, "requestHandler", known) : 0;

    if (rc == 0 && list != NULL)
        rc = list_of(l, list, "requestHandler.parsers", COUNT(l->c->parser));
    for (const struct yaml_node *m = rc == 0 && list != NULL ? list->first : NULL;
         m != NULL && rc == 0; m = m->next) {
        char path[CONFIG_PATH_MAX];

        snprintf(path, sizeof(path), "requestHandler.parsers[%u]", i++);
        rc = take_parser(l, m, path);
    }
    if (rc == 0 && old != NULL) {
        config_warn(l, old, "parser: is deprecated; write requestHandler.parsers");
        if (l->c->parser_count == 0)
            rc = take_parser(l, old, "parser");
    }
    if (rc != 0 || l->c->parser_count != 0)
        return rc;
    for (; i < COUNT(defaults) && rc == 0; i++)
        rc = config_default_plugin(l, defaults[i], &l->c->parser[l->c->parser_count++]);
    return rc;
}

/* ---- flow control ---- */

#define BAND_BYTES_MAX    1000000000
#define BAND_REQUESTS_MAX 5000

static int take_amount(struct loader *l, const struct yaml_node *n, const char *path,
                       const char *key, uint64_t *out)
{
    const struct yaml_node *m = member(n, key);
    char at[CONFIG_PATH_MAX + 40];
    uint64_t v = 0;
    int rc;

    if (m == NULL)
        return 0;
    snprintf(at, sizeof(at), "%s.%s", path, key);
    rc = params_quantity(m, at, &v, l->e);
    if (rc == 0 && v != 0) /* 0: the default */
        *out = v;
    return rc;
}

/* A policy by name; looked up only when flow control is on, as upstream does. */
static int take_policy(struct loader *l, const struct yaml_node *n, const char *path,
                       const char *key, uint32_t role, uint32_t *out)
{
    const struct yaml_node *m = member(n, key);
    char at[CONFIG_PATH_MAX + 40];
    struct str name;
    int rc;

    if (m == NULL)
        return 0;
    snprintf(at, sizeof(at), "%s.%s", path, key);
    rc = params_text(m, at, &name, l->e);
    if (rc != 0 || name.n == 0 || !l->c->flow.enabled)
        return rc;
    return ref(l, m, at, role, out);
}

static int take_band(struct loader *l, const struct yaml_node *n, const char *path,
                     struct sched_band_conf *b)
{
    static const char *const known[] = { "priority",          "maxBytes",          "maxRequests",
                                         "fairnessPolicyRef", "orderingPolicyRef", NULL };
    const struct yaml_node *priority = member(n, "priority");
    int64_t value = 0;
    int rc = config_known(l, n, path, known);

    if (rc == 0 && priority != NULL &&
        (!yaml_i64(priority, &value) || value < INT32_MIN || value > INT32_MAX))
        return yaml_err(priority, l->e, "%s.priority: must be a whole number of 32 bits", path);
    b->priority = (int32_t)value;
    if (rc == 0)
        rc = take_amount(l, n, path, "maxBytes", &b->bytes_max);
    if (rc == 0)
        rc = take_amount(l, n, path, "maxRequests", &b->requests_max);
    if (rc == 0)
        rc = take_policy(l, n, path, "fairnessPolicyRef", ROLE_FAIRNESS, &b->fairness);
    if (rc == 0)
        rc = take_policy(l, n, path, "orderingPolicyRef", ROLE_ORDERING, &b->ordering);
    return rc;
}

static int take_bands(struct loader *l, const struct yaml_node *flow,
                      const struct sched_band_conf *plain)
{
    struct sched_flow_conf *f = &l->c->flow;
    const struct yaml_node *n = member(flow, "priorityBands");
    const struct yaml_node *def = member(flow, "defaultPriorityBand");
    const struct yaml_node *neg = member(flow, "defaultNegativePriorityBand");
    int rc = 0;

    if (def != NULL)
        rc = take_band(l, def, "flowControl.defaultPriorityBand", &f->default_band);
    f->negative_band = neg != NULL ? *plain : f->default_band;
    if (rc == 0 && neg != NULL)
        rc = take_band(l, neg, "flowControl.defaultNegativePriorityBand", &f->negative_band);
    if (rc == 0 && n != NULL)
        rc = list_of(l, n, "flowControl.priorityBands", SCHED_BANDS_MAX);
    for (const struct yaml_node *m = rc == 0 && n != NULL ? n->first : NULL; m != NULL && rc == 0;
         m = m->next) {
        struct sched_band_conf b = *plain;
        char path[CONFIG_PATH_MAX];

        snprintf(path, sizeof(path), "flowControl.priorityBands[%u]", f->band_count);
        rc = take_band(l, m, path, &b);
        for (uint32_t i = 0; i < f->band_count && rc == 0; i++)
            if (f->band[i].priority == b.priority)
                return yaml_err(m, l->e, "%s.priority: another band has priority %d", path,
                                b.priority);
        f->band[f->band_count++] = b;
    }
    return rc;
}

static int take_ttl(struct loader *l, const struct yaml_node *flow)
{
    struct sched_flow_conf *f = &l->c->flow;
    const struct yaml_node *ttl = member(flow, "defaultRequestTTL");
    const struct yaml_node *none = member(flow, "noEndpointRequestTTL");
    int rc = 0;

    f->ttl_ms = 60000;
    if (ttl != NULL)
        rc = params_duration(ttl, "flowControl.defaultRequestTTL", &f->ttl_ms, l->e);
    f->no_endpoint_ttl_ms = f->ttl_ms;
    if (rc == 0 && none != NULL)
        rc =
            params_duration(none, "flowControl.noEndpointRequestTTL", &f->no_endpoint_ttl_ms, l->e);
    return rc;
}

/* flowControl.saturationDetector, the deprecated top-level field, or the default. */
static int take_detector(struct loader *l, const struct yaml_node *flow)
{
    static const char *const known[] = { "pluginRef", NULL };
    const struct yaml_node *n = member(flow, "saturationDetector");
    const struct yaml_node *old = member(l->root, "saturationDetector");
    const char *path = "flowControl.saturationDetector";
    struct str name;

    if (old != NULL)
        config_warn(l, old,
                    "saturationDetector: is deprecated; write flowControl.saturationDetector");
    if (n == NULL && old != NULL) {
        n = old;
        path = "saturationDetector";
    }
    if (n != NULL) {
        int rc = config_known(l, n, path, known);

        if (rc != 0)
            return rc;
    }
    if (!yaml_str(yaml_get(n, "pluginRef"), &name) || name.n == 0)
        name = STR("utilization-detector");
    if (str_eqz(name, "utilization-detector")) {
        int rc = config_default_plugin(l, name.p, &l->c->flow.saturation);

        if (rc != 0)
            return rc;
        if (n == NULL || member(n, "pluginRef") == NULL) {
            if ((l->c->plugin[l->c->flow.saturation].type->roles & ROLE_SATURATION) != 0)
                return 0;
            return err_set(
                l->e, ERR_PARSE,
                "%s: the plugin named utilization-detector must be a saturation detector",
                l->o.file);
        }
    }
    return ref_map(l, n, path, ROLE_SATURATION, &l->c->flow.saturation);
}

static int default_policies(struct loader *l, struct sched_band_conf *plain)
{
    struct sched_flow_conf *f = &l->c->flow;
    const struct {
        const char *type;
        uint32_t role, *at;
    } policies[] = {
        { "fcfs-ordering-policy", ROLE_ORDERING, &plain->ordering },
        { "global-strict-fairness-policy", ROLE_FAIRNESS, &plain->fairness },
        { "static-usage-limit-policy", ROLE_USAGE_LIMIT, &f->usage_limit },
    };

    *plain =
        (struct sched_band_conf) { .bytes_max = BAND_BYTES_MAX, .requests_max = BAND_REQUESTS_MAX };
    for (size_t i = 0; i < COUNT(policies); i++) {
        int rc = config_default_plugin(l, policies[i].type, policies[i].at);

        if (rc != 0)
            return rc;
        if ((l->c->plugin[*policies[i].at].type->roles & policies[i].role) == 0)
            return yaml_err(l->node[*policies[i].at], l->e,
                            "plugins[%u]: the name %s is kept for %s", *policies[i].at,
                            policies[i].type, role_name(policies[i].role));
    }
    f->default_band = f->negative_band = *plain;
    return 0;
}

static int take_flow(struct loader *l)
{
    static const char *const known[] = { "maxBytes",
                                         "maxRequests",
                                         "defaultRequestTTL",
                                         "noEndpointRequestTTL",
                                         "defaultPriorityBand",
                                         "defaultNegativePriorityBand",
                                         "priorityBands",
                                         "usageLimitPolicyPluginRef",
                                         "saturationDetector",
                                         "enableEviction",
                                         NULL };
    const struct yaml_node *n = member(l->root, "flowControl");
    struct sched_flow_conf *f = &l->c->flow;
    struct sched_band_conf plain;
    int rc = default_policies(l, &plain);

    if (rc == 0 && n != NULL)
        rc = config_known(l, n, "flowControl", known);
    if (rc == 0)
        rc = take_ttl(l, n);
    if (rc == 0)
        rc = take_amount(l, n, "flowControl", "maxBytes", &f->bytes_max);
    if (rc == 0)
        rc = take_amount(l, n, "flowControl", "maxRequests", &f->requests_max);
    if (rc == 0)
        rc = take_bands(l, n, &plain);
    if (rc == 0)
        rc = take_policy(l, n, "flowControl", "usageLimitPolicyPluginRef", ROLE_USAGE_LIMIT,
                         &f->usage_limit);
    if (rc == 0 && member(n, "enableEviction") != NULL)
        rc = params_bool(yaml_get(n, "enableEviction"), "flowControl.enableEviction", &f->eviction,
                         l->e);
    if (rc == 0)
        rc = take_detector(l, n);
    if (rc == 0 && n != NULL && !f->enabled &&
        (n->count > 1 || member(n, "saturationDetector") == NULL))
        config_warn(l, n,
                    "flowControl: only saturationDetector has an effect while the feature gate "
                    "flowControl is off");
    return rc;
}

/* ---- all of it ---- */

static int check_alpha(struct loader *l)
{
    struct sched_config *c = l->c;

    for (uint32_t i = 0; i < c->plugin_count && !l->o.allow_experimental; i++) {
        const struct sched_plugin_conf *p = &c->plugin[i];

        if (!p->type->alpha)
            continue;
        if (l->node[i] != NULL)
            return yaml_err(l->node[i], l->e,
                            "plugins[%u]: \"%.*s\" (type %s) is experimental (Alpha); start with "
                            "--allow-experimental-plugins to use it",
                            i, STR_ARG(p->name), p->type->type);
        return err_set(l->e, ERR_PARSE,
                       "%s: \"%.*s\" (type %s), made by default, is experimental (Alpha); start "
                       "with --allow-experimental-plugins to use it",
                       l->o.file, STR_ARG(p->name), p->type->type);
    }
    return 0;
}

static int load(struct loader *l, struct str text)
{
    int (*const steps[])(struct loader *) = { take_envelope,     take_gates,       take_plugins,
                                              check_plugin_refs, config_defaults,  take_flow,
                                              take_parsers,      take_data_layer,  take_profiles,
                                              check_handler,     config_producers, check_alpha };
    int rc;

    if (str_trim(text).n == 0)
        text = sched_config_built_in();
    rc = yaml_parse(&l->c->arena, text, l->o.file, &l->root, l->e);
    for (size_t i = 0; i < COUNT(steps) && rc == 0; i++)
        rc = steps[i](l);
    return rc;
}

int sched_config_load(struct sched_config **out, struct str text, const struct sched_config_opts *o,
                      struct err *e)
{
    struct err own;
    struct loader l = { .e = e != NULL ? e : &own };
    int rc;

    *out = NULL;
    if (o != NULL)
        l.o = *o;
    if (l.o.file == NULL)
        l.o.file = "configuration";
    l.c = mem_zalloc(sizeof(*l.c));
    l.c->discovery = -1;
    arena_init(&l.c->arena, CONFIG_ARENA_BYTES);
    rc = load(&l, text);
    if (rc != 0) {
        sched_config_free(l.c);
        return rc;
    }
    *out = l.c;
    return 0;
}

void sched_config_free(struct sched_config *c)
{
    if (c == NULL)
        return;
    arena_fini(&c->arena);
    mem_free(c);
}

void sched_config_print(const struct sched_config *c, struct buf *out)
{
    for (uint32_t i = 0; i < c->plugin_count; i++) {
        const struct sched_plugin_conf *p = &c->plugin[i];
        const char *sep = "";

        buf_f(out, "%.*s %s ", STR_ARG(p->name), p->type->type);
        for (size_t k = 0; k < COUNT(role_names); k++)
            if ((p->type->roles & role_names[k].role) != 0) {
                buf_f(out, "%s%s", sep, role_names[k].name);
                sep = ",";
            }
        if (*sep == 0)
            buf_c(out, '-');
        buf_z(out, p->is_default ? " (default)\n" : "\n");
    }
}
