/* gateway/extproc.h - Envoy's external processing, spoken as an endpoint picker does.
 *
 * One gRPC stream is one HTTP request.  Envoy must be set to SEND for headers and trailers and to
 * FULL_DUPLEX_STREAMED for bodies, in both directions.  The whole request is gathered, a picker is
 * asked once, now or later it names the destination or refuses, and the response flows through.
 * Nothing here knows how a destination is chosen.
 *
 * Differences from llm-d's picker, all invisible in the bytes a client gets: a response is passed
 * on chunk by chunk even when it is no event stream, header fields that occur twice are left to the
 * proxy's own copy instead of being cut to one, a model name that is split over two chunks is
 * replaced too, and a request that ends with trailers is scheduled.
 * Threads: the loop of the server. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_EXTPROC_H
#define GATEWAY_EXTPROC_H
#include "net/grpc.h"

#define EXTPROC_SERVICE       "envoy.service.ext_proc.v3.ExternalProcessor"
#define EXTPROC_DESTINATION   "x-gateway-destination-endpoint"
#define EXTPROC_FRAME_MAX     62000 /* body bytes in one answer */
#define EXTPROC_SUBSET_MAX    4096  /* endpoints in a subset hint */
#define EXTPROC_MODEL_MAX     1024  /* bytes of a model name that is replaced in responses */
#define EXTPROC_REASON_HEADER "x-llm-d-request-dropped-reason"

struct extproc;
struct extproc_stream;

struct extproc_header {
    struct str name, value; /* name in lower case */
};

/* Borrowed until the answer, or until done. */
struct extproc_request {
    const struct extproc_header *header; /* as received, pseudo-fields too */
    size_t header_count;
    struct str
        path; /* without query; of :path, x-original-path, x-forwarded-path, or the default */
    struct str request_id; /* the client's, or made here and then sent on */
    struct str body;       /* all of it */
    bool bodyless;         /* the head was the whole request: any endpoint of the pool will do */
    bool has_subset;       /* then only these may be picked, even when there are none */
    const struct str *subset;
    size_t subset_count;
};

struct extproc_score {
    struct str endpoint;
    double score;
};

/* Borrowed for the call of extproc_continue. */
struct extproc_pick {
    struct str destination; /* "ip:port", or several joined by ',' in order of preference */
    const struct extproc_header *set; /* added, or put in place of the client's */
    size_t set_count;
    const char *const *remove; /* taken from the request */
    size_t remove_count;
    bool has_body; /* body replaces what was received */
    struct str body;
    const struct extproc_score *score; /* for the proxy's log; may be none */
    size_t score_count;
    struct str model_sent,
        model_shown;    /* in responses the second replaces the first; may be none */
    bool skip_response; /* close after the request: Envoy goes on alone */
};

/* An entry of the response's dynamic metadata. */
struct extproc_number {
    struct str space, name;
    double value;
};

struct extproc_response { /* borrowed for the call */
    const struct extproc_header *header;
    size_t header_count;
    struct str status; /* ":status" */
    struct str served; /* the endpoint that answered, if the proxy says */
    bool has_lb;       /* the proxy says something of its load balancing */
    bool event_stream, end;
};

enum extproc_cause { EXTPROC_NATURAL, EXTPROC_CLIENT_DISCONNECT, EXTPROC_ERROR };

struct extproc_ops {
    /* Answer now or later, by extproc_continue or extproc_refuse. */
    void (*request)(void *ctx, struct extproc_stream *s, const struct extproc_request *q);
    /* Only of requests that were continued.  extproc_response_set may be called here. */
    void (*response_headers)(void *ctx, struct extproc_stream *s, const struct extproc_response *r);
    /* bytes as the model server sent them, borrowed.  end may come with none; then extproc_report
     * may be called here. */
    void (*response_body)(void *ctx, struct extproc_stream *s, struct str bytes, bool end);
    /* Exactly once for each request, refused ones too, never inside of a call to this module.  The
     * stream is not to be used afterwards. */
    void (*done)(void *ctx, struct extproc_stream *s, enum extproc_cause cause);
};

struct extproc_opts {
    size_t body_bytes_max;   /* of a request; 0 = 16 MiB; more is 413 */
    size_t buffer_bytes_max; /* request bodies of all streams; 0 = 256 MiB; more is 503 */
};

struct extproc *extproc_open(const struct extproc_opts *opts, const struct extproc_ops *ops,
                             void *ctx);
/* After the server that has its row is closed.  NULL is fine. */
void extproc_close(struct extproc *x);
struct grpc_method extproc_method(struct extproc *x); /* a row for grpc_server_open */

void extproc_set(struct extproc_stream *s, void *user);
void *extproc_get(const struct extproc_stream *s);

void extproc_continue(struct extproc_stream *s, const struct extproc_pick *pick);
/* An answer without an endpoint.  Until the response is complete it may also take back one that was
 * continued.  body: text, as it goes to the client.  False: it is too late for one. */
bool extproc_refuse(struct extproc_stream *s, int http_status, struct str body,
                    const struct extproc_header *header, size_t header_count);
/* Goes out with the last frame of the response.  Once. */
void extproc_report(struct extproc_stream *s, const struct extproc_number *list, size_t count);
void extproc_response_set(struct extproc_stream *s, struct str name, struct str value);
#endif
