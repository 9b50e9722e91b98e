/* What goes back to Envoy, as bytes.
 *
 * A head's answer sets the destination, the length of the body that follows, and every header of
 * the request that is not the picker's own.  Setting what is there already changes nothing at the
 * proxy, but it is what llm-d's picker does, and others in the chain may read it.  A name that
 * occurs twice is left out: to set it would cut it to one value (cookies). */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "codec/proto.h"
#include "codec/proto/ext_proc.pb-c.h"
#include "gateway/extproc_priv.h"
#include <stdio.h>
#include <string.h>

#define STRUCT_MAX ((size_t)512 << 10)
#define OWN_MAX    4 /* headers a head's answer begins with */

static const char *const owned[] = {
    "x-llm-d-inference-objective",
    "x-gateway-inference-objective",
    "x-llm-d-inference-fairness-id",
    "x-gateway-inference-fairness-id",
    "x-llm-d-model-name-rewrite",
    "x-gateway-model-name-rewrite",
    "x-llm-d-slo-ttft-ms",
    "x-slo-ttft-ms",
    "x-llm-d-slo-tpot-ms",
    "x-slo-tpot-ms",
    "x-llm-d-video-fps",
    "x-llm-d-video-duration-seconds",
    "x-llm-d-video-resolution",
    "x-gateway-destination-endpoint-subset",
    EXTPROC_DESTINATION,
    "x-gateway-destination-endpoint-served",
    EXTPROC_REASON_HEADER,
    "content-length",
};

bool extproc_owned(struct str name)
{
    for (size_t i = 0; i < COUNT(owned); i++)
        if (str_ieq(name, str_of(owned[i])))
            return true;
    return false;
}

static bool occurs(struct extproc_set set, struct str name, size_t but)
{
    for (size_t i = 0; i < set.count; i++)
        if (i != but && str_eq(set.header[i].name, name))
            return true;
    return false;
}

/* ---- lists of headers ---- */

struct setter {
    struct arena *a;
    Pb__Ext__HeaderValueOption **list;
    size_t count, room;
    bool failed;
};

static void setter_init(struct setter *w, struct arena *a, size_t room)
{
    *w = (struct setter) { .a = a, .room = room };
    w->list = arena_try_zero(a, room, sizeof(*w->list));
    w->failed = w->list == NULL;
}

static void set_header(struct setter *w, struct str name, struct str value)
{
    struct {
        Pb__Ext__HeaderValueOption option;
        Pb__Ext__HeaderValue header;
    } *one = arena_try(w->a, sizeof(*one));
    struct str key = arena_str(w->a, name);

    if (w->failed || one == NULL || key.p == NULL) {
        w->failed = true;
        return;
    }
    ASSERT(w->count < w->room);
    one->option = (Pb__Ext__HeaderValueOption)PB__EXT__HEADER_VALUE_OPTION__INIT;
    one->header = (Pb__Ext__HeaderValue)PB__EXT__HEADER_VALUE__INIT;
    one->header.key = (char *)(uintptr_t)key.p;
    one->header.raw_value.data = (uint8_t *)(uintptr_t)value.p;
    one->header.raw_value.len = value.n;
    one->option.header = &one->header;
    w->list[w->count++] = &one->option;
}

static void set_echoed(struct setter *w, struct extproc_set from, struct extproc_set changed)
{
    for (size_t i = 0; i < from.count; i++) {
        const struct extproc_header *h = &from.header[i];

        if (!extproc_owned(h->name) && !occurs(from, h->name, i) &&
            !occurs(changed, h->name, SIZE_MAX))
            set_header(w, h->name, h->value);
    }
}

static void set_all(struct setter *w, struct extproc_set set)
{
    for (size_t i = 0; i < set.count; i++)
        set_header(w, set.header[i].name, set.header[i].value);
}

/* ---- messages ---- */

static bool put(struct buf *out, const Pb__Ext__ProcessingResponse *m)
{
    return proto_pack(&m->base, out);
}

/* {"envoy.lb": {"x-gateway-destination-endpoint": "...", "...-scores": {endpoint: score}}} */
static bool put_metadata(struct buf *out, const struct extproc_pick *pick)
{
    struct buf lb, scores;
    bool ok;

    buf_init(&lb, STRUCT_MAX);
    buf_init(&scores, STRUCT_MAX);
    proto_struct_put_string(&lb, STR(EXTPROC_DESTINATION), pick->destination);
    for (size_t i = 0; i < pick->score_count; i++)
        proto_struct_put_number(&scores, pick->score[i].endpoint, pick->score[i].score);
    if (pick->score_count != 0)
        proto_struct_put_struct(&lb, STR("x-gateway-destination-endpoint-scores"),
                                buf_view(&scores));
    proto_struct_put_struct(out, STR("envoy.lb"), buf_view(&lb));
    ok = !lb.failed && !scores.failed && !out->failed;
    buf_fini(&lb);
    buf_fini(&scores);
    return ok;
}

static void set_metadata(Pb__Ext__ProcessingResponse *m, struct str metadata)
{
    m->dynamic_metadata.data = (uint8_t *)(uintptr_t)metadata.p;
    m->dynamic_metadata.len = metadata.n;
}

static bool put_request_head(struct buf *out, struct setter *w, const struct extproc_pick *pick,
                             struct str metadata)
{
    Pb__Ext__HeaderMutation mutation = PB__EXT__HEADER_MUTATION__INIT;
    Pb__Ext__CommonResponse common = PB__EXT__COMMON_RESPONSE__INIT;
    Pb__Ext__HeadersResponse head = PB__EXT__HEADERS_RESPONSE__INIT;
    Pb__Ext__ProcessingResponse m = PB__EXT__PROCESSING_RESPONSE__INIT;

    mutation.n_set_headers = w->count;
    mutation.set_headers = w->list;
    mutation.n_remove_headers = pick->remove_count;
    mutation.remove_headers = (char **)(uintptr_t)pick->remove;
    common.header_mutation = &mutation;
    common.clear_route_cache = 1;
    head.response = &common;
    m.response_case = PB__EXT__PROCESSING_RESPONSE__RESPONSE_REQUEST_HEADERS;
    m.request_headers = &head;
    set_metadata(&m, metadata);
    return !w->failed && put(out, &m);
}

bool extproc_put_request_head(struct buf *out, struct arena *a, const struct extproc_pick *pick,
                              struct extproc_set client, struct str request_id, size_t body_bytes)
{
    struct extproc_set changed = { pick->set, pick->set_count };
    struct str id_name = STR("x-request-id");
    char length[24];
    struct setter w;
    struct buf metadata;
    bool ok;

    setter_init(&w, a, OWN_MAX + client.count + changed.count);
    set_header(&w, STR(EXTPROC_DESTINATION), pick->destination);
    if (body_bytes != 0) {
        int n = snprintf(length, sizeof(length), "%zu", body_bytes);

        set_header(&w, STR("Content-Length"), (struct str) { length, (size_t)n });
    }
    if (!occurs(client, id_name, SIZE_MAX) && !occurs(changed, id_name, SIZE_MAX))
        set_header(&w, id_name, request_id);
    set_echoed(&w, client, changed);
    set_all(&w, changed);
    buf_init(&metadata, 2 * STRUCT_MAX);
    ok = put_metadata(&metadata, pick) && put_request_head(out, &w, pick, buf_view(&metadata));
    buf_fini(&metadata);
    return ok;
}

bool extproc_put_response_head(struct buf *out, struct arena *a, struct extproc_set added,
                               struct extproc_set server)
{
    Pb__Ext__HeaderMutation mutation = PB__EXT__HEADER_MUTATION__INIT;
    Pb__Ext__CommonResponse common = PB__EXT__COMMON_RESPONSE__INIT;
    Pb__Ext__HeadersResponse head = PB__EXT__HEADERS_RESPONSE__INIT;
    Pb__Ext__ProcessingResponse m = PB__EXT__PROCESSING_RESPONSE__INIT;
    struct setter w;

    setter_init(&w, a, OWN_MAX + added.count + server.count);
    set_header(&w, STR("x-went-into-resp-headers"), STR("true"));
    set_echoed(&w, server, added);
    set_all(&w, added);
    mutation.n_set_headers = w.count;
    mutation.set_headers = w.list;
    common.header_mutation = &mutation;
    head.response = &common;
    m.response_case = PB__EXT__PROCESSING_RESPONSE__RESPONSE_RESPONSE_HEADERS;
    m.response_headers = &head;
    return !w.failed && put(out, &m);
}

bool extproc_put_numbers(struct buf *out, const struct extproc_number *list, size_t count)
{
    bool ok = true;

    for (size_t i = 0; i < count; i++) {
        struct buf one;
        bool is_first = true;

        for (size_t k = 0; k < i; k++)
            is_first = is_first && !str_eq(list[k].space, list[i].space);
        if (!is_first)
            continue;
        buf_init(&one, STRUCT_MAX);
        for (size_t k = i; k < count; k++)
            if (str_eq(list[k].space, list[i].space))
                proto_struct_put_number(&one, list[k].name, list[k].value);
        proto_struct_put_struct(out, list[i].space, buf_view(&one));
        ok = ok && !one.failed;
        buf_fini(&one);
    }
    return ok && !out->failed;
}

bool extproc_put_body(struct buf *out, enum extproc_side side, struct str bytes, bool end,
                      struct str metadata)
{
    Pb__Ext__StreamedBody streamed = PB__EXT__STREAMED_BODY__INIT;
    Pb__Ext__BodyMutation mutation = PB__EXT__BODY_MUTATION__INIT;
    Pb__Ext__CommonResponse common = PB__EXT__COMMON_RESPONSE__INIT;
    Pb__Ext__BodyResponse body = PB__EXT__BODY_RESPONSE__INIT;
    Pb__Ext__ProcessingResponse m = PB__EXT__PROCESSING_RESPONSE__INIT;

    streamed.body.data = (uint8_t *)(uintptr_t)bytes.p;
    streamed.body.len = bytes.n;
    streamed.end_of_stream = end;
    mutation.mutation_case = PB__EXT__BODY_MUTATION__MUTATION_STREAMED_RESPONSE;
    mutation.streamed_response = &streamed;
    common.body_mutation = &mutation;
    body.response = &common;
    if (side == EXTPROC_REQUEST) {
        m.response_case = PB__EXT__PROCESSING_RESPONSE__RESPONSE_REQUEST_BODY;
        m.request_body = &body;
    } else {
        m.response_case = PB__EXT__PROCESSING_RESPONSE__RESPONSE_RESPONSE_BODY;
        m.response_body = &body;
    }
    set_metadata(&m, metadata);
    return put(out, &m);
}

bool extproc_put_trailers(struct buf *out, enum extproc_side side, struct str metadata)
{
    Pb__Ext__TrailersResponse trailers = PB__EXT__TRAILERS_RESPONSE__INIT;
    Pb__Ext__ProcessingResponse m = PB__EXT__PROCESSING_RESPONSE__INIT;

    if (side == EXTPROC_REQUEST) {
        m.response_case = PB__EXT__PROCESSING_RESPONSE__RESPONSE_REQUEST_TRAILERS;
        m.request_trailers = &trailers;
    } else {
        m.response_case = PB__EXT__PROCESSING_RESPONSE__RESPONSE_RESPONSE_TRAILERS;
        m.response_trailers = &trailers;
    }
    set_metadata(&m, metadata);
    return put(out, &m);
}

bool extproc_put_immediate(struct buf *out, struct arena *a, int status, struct str body,
                           struct extproc_set headers)
{
    Pb__Ext__HttpStatus code = PB__EXT__HTTP_STATUS__INIT;
    Pb__Ext__HeaderMutation mutation = PB__EXT__HEADER_MUTATION__INIT;
    Pb__Ext__ImmediateResponse now = PB__EXT__IMMEDIATE_RESPONSE__INIT;
    Pb__Ext__ProcessingResponse m = PB__EXT__PROCESSING_RESPONSE__INIT;
    struct setter w;

    setter_init(&w, a, OWN_MAX + headers.count);
    set_all(&w, headers);
    code.code = status;
    mutation.n_set_headers = w.count;
    mutation.set_headers = w.list;
    now.status = &code;
    now.headers = &mutation;
    now.body.data = (uint8_t *)(uintptr_t)body.p;
    now.body.len = body.n;
    m.response_case = PB__EXT__PROCESSING_RESPONSE__RESPONSE_IMMEDIATE_RESPONSE;
    m.immediate_response = &now;
    return !w.failed && put(out, &m);
}
