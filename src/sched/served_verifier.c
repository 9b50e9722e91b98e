/* destination-endpoint-served-verifier: tells the client which endpoint answered, for conformance
 * tests.  Behind Envoy that is what Envoy says, not what was picked. */
// SPDX-License-Identifier: Apache-2.0
#include "sched/plugin_types_priv.h"

#define SERVED_HEADER "x-conformance-test-served-endpoint"

static struct sched_header served(const struct plugin *p, const struct sched_served *s)
{
    (void)p;
    if (!s->is_reported)
        return (struct sched_header) { STR(SERVED_HEADER), STR("fail: missing envoy lb metadata") };
    if (s->endpoint.p == NULL)
        return (struct sched_header) { STR(SERVED_HEADER),
                                       STR("fail: missing destination endpoint served metadata") };
    return (struct sched_header) { STR(SERVED_HEADER), s->endpoint };
}

const struct plugin_type plugin_served_verifier = {
    .type = "destination-endpoint-served-verifier",
    .roles = ROLE_RESPONSE,
    .served = served,
};
