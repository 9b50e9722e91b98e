/* Every plugin type in one table: the rows of each file, joined.
 *
 * A new type is a row in one of these arrays and nothing else. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/opt.h"
#include "sched/plugin.h"
#include <string.h>

#define TYPES_MAX 192

static const struct plugin_type *const *const rows[] = {
    plugin_filters,   plugin_scorers,  plugin_pickers, plugin_handlers,
    plugin_producers, plugin_requests, plugin_flow,    plugin_data,
};

const struct plugin_type *plugin_type_at(size_t i)
{
    for (size_t k = 0; k < COUNT(rows); k++)
        for (const struct plugin_type *const *t = rows[k]; *t != NULL; t++)
            if (i-- == 0)
                return *t;
    return NULL;
}

size_t plugin_type_count(void)
{
    size_t n = 0;

    for (size_t k = 0; k < COUNT(rows); k++)
        for (const struct plugin_type *const *t = rows[k]; *t != NULL; t++)
            n++;
    return n;
}

const struct plugin_type *plugin_type_find(struct str type)
{
    for (size_t k = 0; k < COUNT(rows); k++)
        for (const struct plugin_type *const *t = rows[k]; *t != NULL; t++)
            if (str_eqz(type, (*t)->type))
                return *t;
    return NULL;
}

const char *plugin_type_nearest(struct str type)
{
    const char *names[TYPES_MAX], *near;
    size_t count = plugin_type_count();

    ASSERT(count <= TYPES_MAX);
    for (size_t i = 0; i < count; i++)
        names[i] = plugin_type_at(i)->type;
    near = opt_nearest(type, names, count);
    if (near != NULL || type.n < 4)
        return near;
    for (size_t i = 0; i < count; i++) { /* "prefix-cache", "queue-scorer-v2" */
        struct str name = str_of(names[i]);

        if (str_starts(name, type) || str_starts(type, name))
            return names[i];
    }
    return NULL;
}
