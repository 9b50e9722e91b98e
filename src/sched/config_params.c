/* A plugin's own parameters: its table, what must be there, whether it fits together. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/config_priv.h"
#include "sched/params.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* Where a complaint of check() points: the parameter it begins with, else the plugin. */
static int complain_of_check(struct loader *l, const struct yaml_node *n, const char *path,
                             int code)
{
    char what[ERR_MSG_MAX];

    snprintf(what, sizeof(what), "%s", l->e->msg);
    for (const struct yaml_node *m = n != NULL ? n->first : NULL; m != NULL; m = m->next)
        if (strncasecmp(what, m->key.p, m->key.n) == 0 && !isalnum((unsigned char)what[m->key.n]))
            return yaml_err_key(m, l->e, "%s.%s", path, what);
    if (n != NULL)
        return yaml_err(n, l->e, "%s: %s", path, what);
    return err_set(l->e, code, "%s: %s: %s", l->o.file, path, what);
}

int config_params(struct loader *l, uint32_t index, const struct yaml_node *n, const void **out)
{
    const struct plugin_type *t = l->c->plugin[index].type;
    const struct yaml_node *item = l->node[index];
    bool given[PARAMS_MAX] = { false };
    char path[CONFIG_PATH_MAX], of[96];
    struct err own = { 0 };
    void *params;
    int rc = 0;

    if (item != NULL)
        snprintf(path, sizeof(path), "plugins[%u].parameters", index);
    else
        snprintf(path, sizeof(path), "%s (made by default)", t->type);
    snprintf(of, sizeof(of), " of type %s", t->type);
    params = arena_try_zero(&l->c->arena, 1, MAX(t->params_size, (size_t)1));
    if (params == NULL)
        return err_set(l->e, ERR_NOMEM, "%s: no memory", l->o.file);
    *out = params;
    params_default(t->params, t->param_count, params);
    if (yaml_is_null(n))
        n = NULL;
    if (n != NULL)
        rc = params_members(n, t->params, t->param_count, path, of, &l->c->arena, params, given,
                            l->e);
    if (rc != 0)
        return rc;
    if (n == NULL)
        n = item;
    for (uint32_t i = 0; i < t->param_count; i++)
        if (t->params[i].required && !given[i])
            return n != NULL ? yaml_err(n, l->e, "%s.%s: missing; type %s needs it", path,
                                        t->params[i].name, t->type)
                             : err_set(l->e, ERR_PARSE,
                                       "%s: type %s is needed but cannot be made by default: "
                                       "declare it under plugins with %s",
                                       l->o.file, t->type, t->params[i].name);
    rc = t->check != NULL ? t->check(params, &own) : 0;
    if (rc == 0)
        return 0;
    *l->e = own;
    return complain_of_check(l, n, path, rc);
}
