/* gateway/health_grpc.h - the service grpc.health.v1.Health: Check and List.
 *
 * Watch and everything else is UNIMPLEMENTED, by not being in the table.  A service nobody knows
 * gets the status SERVICE_UNKNOWN, not an error of the call.
 * Threads: the loop of the server. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_HEALTH_GRPC_H
#define GATEWAY_HEALTH_GRPC_H
#include "net/grpc.h"

#define HEALTH_GRPC_METHODS 2

enum health_status { HEALTH_SERVING = 1, HEALTH_NOT_SERVING = 2, HEALTH_SERVICE_UNKNOWN = 3 };

struct health_grpc {
    enum health_status (*status)(void *ctx, struct str service);
    void *ctx;
    const char *const *names; /* what List tells of */
    size_t name_count;        /* at most 16 */
};

/* Rows for grpc_server_open; h is borrowed as long as the server lives. */
void health_grpc_methods(const struct health_grpc *h, struct grpc_method out[HEALTH_GRPC_METHODS]);
#endif
