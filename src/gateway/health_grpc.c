/* gRPC health: two unary calls, each answered when its one message is there. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/health_grpc.h"
#include "base/check.h"
#include "codec/proto.h"
#include "codec/proto/health.pb-c.h"
#include "net/grpc.h"

#define REQUEST_ARENA ((size_t)32 << 10)
#define ANSWER_MAX    ((size_t)16 << 10)
#define NAMES_MAX     16

static void answer(struct grpc_stream *s, const ProtobufCMessage *m)
{
    struct buf b;

    buf_init(&b, ANSWER_MAX);
    if (proto_pack(m, &b) && grpc_send(s, buf_view(&b)) == 0)
        grpc_finish(s, GRPC_OK, NULL, NULL);
    else
        grpc_finish(s, GRPC_INTERNAL, "no answer", "internal");
    buf_fini(&b);
}

static void on_check(void *ctx, struct grpc_stream *s, struct str bytes)
{
    const struct health_grpc *h = ctx;
    Pb__Health__CheckResponse out = PB__HEALTH__CHECK_RESPONSE__INIT;
    ProtobufCMessage *m;
    struct arena a;

    arena_init(&a, REQUEST_ARENA);
    if (proto_unpack(&pb__health__check_request__descriptor, bytes, &a, &m) != 0) {
        grpc_finish(s, GRPC_INVALID_ARGUMENT, "not a HealthCheckRequest", "bad_message");
    } else {
        out.status = (Pb__Health__ServingStatus)h->status(
            h->ctx, str_of(((Pb__Health__CheckRequest *)m)->service));
        answer(s, &out.base);
    }
    arena_fini(&a);
}

static void on_list(void *ctx, struct grpc_stream *s, struct str bytes)
{
    const struct health_grpc *h = ctx;
    Pb__Health__ListResponse out = PB__HEALTH__LIST_RESPONSE__INIT;
    Pb__Health__ListEntry entry[NAMES_MAX], *list[NAMES_MAX];
    Pb__Health__CheckResponse value[NAMES_MAX];

    (void)bytes; /* HealthListRequest has no fields */
    ASSERT(h->name_count <= NAMES_MAX);
    for (size_t i = 0; i < h->name_count; i++) {
        value[i] = (Pb__Health__CheckResponse)PB__HEALTH__CHECK_RESPONSE__INIT;
        value[i].status = (Pb__Health__ServingStatus)h->status(h->ctx, str_of(h->names[i]));
        entry[i] = (Pb__Health__ListEntry)PB__HEALTH__LIST_ENTRY__INIT;
        entry[i].key = (char *)(uintptr_t)h->names[i];
        entry[i].value = &value[i];
        list[i] = &entry[i];
    }
    out.n_statuses = h->name_count;
    out.statuses = list;
    answer(s, &out.base);
}

static void on_half_close(void *ctx, struct grpc_stream *s)
{
    (void)ctx; /* answered already */
    (void)s;
}

void health_grpc_methods(const struct health_grpc *h, struct grpc_method out[HEALTH_GRPC_METHODS])
{
    out[0] = (struct grpc_method) { .path = "/grpc.health.v1.Health/Check",
                                    .unary = true,
                                    .ctx = (void *)(uintptr_t)h,
                                    .on_message = on_check,
                                    .on_half_close = on_half_close };
    out[1] = out[0];
    out[1].path = "/grpc.health.v1.Health/List";
    out[1].on_message = on_list;
}
