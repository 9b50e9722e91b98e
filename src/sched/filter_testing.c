/* header-based-testing-filter: the request names who may serve it.  For conformance tests only.
 *
 * The header is a list of IP or IP:port.  Of endpoints with one IP only the first that is named
 * stays; without the header nobody does. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/address.h"
#include "sched/plugin_types_priv.h"
#include <string.h>

static bool is_ip_taken(const struct sched_view *v, const bool *chosen, struct str ip)
{
    for (uint32_t i = 0; i < v->count; i++)
        if (chosen[i] && str_eq(sched_address_host(v->ep[i].address), ip))
            return true;
    return false;
}

static void filter(struct plugin *p, const struct sched_view *v, bool *keep)
{
    struct str list = sched_view_header(v, "test-epp-endpoint-selection");
    bool *chosen = arena_alloc(v->arena, v->count + 1);

    (void)p;
    memset(chosen, 0, v->count + 1);
    while (list.p != NULL) {
        struct str one = str_trim(str_cut(&list, ','));

        for (uint32_t i = 0; i < v->count && one.n != 0; i++) {
            struct str ip = sched_address_host(v->ep[i].address);

            if (!keep[i] || !(str_eq(v->ep[i].address, one) || str_eq(ip, one)) ||
                is_ip_taken(v, chosen, ip))
                continue;
            chosen[i] = true;
            break;
        }
    }
    memcpy(keep, chosen, v->count);
}

const struct plugin_type plugin_testing_filter = {
    .type = "header-based-testing-filter",
    .roles = ROLE_FILTER,
    .filter = filter,
};
