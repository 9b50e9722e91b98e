/* Endpoint files and metric names: what is taken can be used, everything else has a reason. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sched/discovery.h"
#include "sched/metric_spec.h"
#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct discovery_list *l)
{
    ASSERT(l->reason_count <= l->bad_count && l->reason_count <= DISCOVERY_REASONS_MAX);
    for (uint32_t i = 0; i < l->reason_count; i++)
        ASSERT(str_starts(l->reason[i], STR("f:")));
    for (uint32_t i = 0; i < l->count; i++) {
        const struct discovery_endpoint *ep = &l->endpoint[i];

        ASSERT(ep->name.n != 0 && ep->namespace.n != 0 && ep->address.n != 0);
        ASSERT(ep->port != 0 && ep->metrics_port != 0 && ep->metrics_address.n != 0);
        ASSERT(ep->line != 0 && !(ep->is_ipv4 && ep->is_ipv6));
        ASSERT(ep->is_ipv6 == (memchr(ep->address.p, ':', ep->address.n) != NULL));
        ASSERT(memchr(ep->address.p, 0, ep->address.n) == NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = { (const char *)data, size };
    struct discovery_list list;
    struct metric_spec spec;
    struct arena a;
    struct err e = { 0 };

    arena_init(&a, (size_t)64 << 20);
    if (discovery_parse(&a, text, "f", &list, &e) == 0)
        check(&list);
    else
        ASSERT(e.code < 0 && strncmp(e.msg, "f:", 2) == 0);
    if (metric_spec_parse(&spec, text, &a, &e) == 0)
        ASSERT(spec.label_count <= METRIC_SPEC_LABELS_MAX);
    arena_fini(&a);
    return 0;
}
