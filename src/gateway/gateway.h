/* gateway/gateway.h - the inference scheduler's data path: an OpenAI-compatible front door.
 *
 * A gateway scrapes its endpoints, reads a request once, tokenizes it, looks up who holds its
 * prefix, decides (sched/sched.h), forwards the body as received and streams the answer back.
 * What it promises: a retry only before the first byte, a cut answer never looks finished, a
 * client that leaves frees its worker at once, and every queue, wait and retry has a ceiling.
 * Source: the project's scheduler page, 2.7, 3, 8, 12; its reliability page, 3.7, 3.8, 4.9, 4.10.
 * Threads: calls on the first loop; each loop has one more thread that tokenizes long prompts. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_GATEWAY_H
#define GATEWAY_GATEWAY_H
#include "base/err.h"
#include "net/loop.h"
#include "gateway/objects.h"
#include "sched/config.h"

#define GATEWAY_ENDPOINTS_MAX 4096

struct gateway;
struct tls_client;
struct tls_server;

struct gateway_endpoint_opts {
    const char *address; /* "HOST:PORT", copied */
    enum sched_role role;
    bool role_given; /* stated by the operator: it takes part in splits whatever it runs */
    const char *id;  /* "namespace/name" for plugins; NULL: the address; copied */
    const struct sched_label *label; /* copied */
    uint32_t label_count;
};

struct gateway_opts {
    const char *host; /* to listen on */
    uint16_t port;    /* 0 = any free */
    const struct gateway_endpoint_opts *endpoints;
    uint32_t endpoint_count;
    bool endpoints_follow; /* not known yet: gateway_set_endpoints will say; not ready until then */
    const char *cache;     /* "HOST:PORT" of the cache manager's replica stream, or NULL */
    const char *model;     /* GGUF file whose tokenizer and template workers use; NULL = estimate */
    const char *seed;      /* of index keys; NULL = "" */
    uint32_t block_tokens; /* 0 = 16 */
    uint32_t scrape_ms;    /* 0 = 100 */
    uint32_t stale_ms, frozen_ms;             /* no scrape answered for so long; 0 = 1000, 3000 */
    uint32_t stuck_ms;                        /* busy without progress; 0 = 15000 */
    uint32_t inflight_max;                    /* waiting ones too; 0 = 16384 */
    uint32_t retries_max;                     /* further attempts; UINT32_MAX = none; 0 = 2 */
    uint32_t first_byte_ms, gap_ms, total_ms; /* 0 = 600 s, 120 s, 3600 s */
    uint32_t wait_ms; /* for a worker that was there until lately; 0 = 3 s, UINT32_MAX = none */
    size_t body_bytes_max;   /* 0 = 16 MiB */
    size_t bodies_bytes_max; /* all bodies together; 0 = 512 MiB */
    bool no_split;
    struct tls_client *worker_tls; /* to workers; NULL: plain text; borrowed */
    struct tls_server *tls;        /* of the front door; NULL: plain text; borrowed */
    uint16_t metrics_port; /* a door of its own for /metrics and health, plain text; 0: none */
    bool metrics_open;     /* there without an administrator's key, though there are keys */
    const char *key_file, *admin_key_file; /* API keys (auth.h); NULL: none; both NULL: no keys */
    bool is_picker;                        /* serves ext_proc and health over gRPC, too */
    uint16_t grpc_port, grpc_health_port;  /* UINT16_MAX: no health port of its own */
    struct tls_server *grpc_tls;           /* NULL: plain text; borrowed */
    const char *access_log;                /* file, "-" or NULL */
    const char *traces;                    /* URL of a collector, or NULL */
    double trace_ratio;                    /* of requests without a trace of their own */
    uint32_t conns_max;                    /* client connections; 0 = 20,000 */
    struct sched_config *config;           /* taken over, whatever happens; NULL: our own rules */
    struct objects *objects;               /* likewise; NULL: none */
    enum sched_strategy strategy;
    bool strategy_given;          /* else a configuration decides when there is one */
    uint32_t queue_max, queue_ms; /* that wait for room, and how long; 0 = 5000, 60 s */
    bool allow_special_in_content;
    struct sched_conf conf; /* zeroed = sched_conf_default */
};

/* Listens and begins to scrape.  Opens the model's file: blocks on disk.  Opts are copied.
 * loops: one or more, none of them running yet; each serves connections of its own on the same
 * port (SO_REUSEPORT), the first one scrapes, too. */
int gateway_open(struct gateway **out, struct loop *const *loops, uint32_t count,
                 const struct gateway_opts *o, struct err *e) MUST_CHECK;
/* Makes the endpoints what the list says: new ones are added, missing ones get no further requests,
 * the rest goes on undisturbed.  Copied. */
int gateway_set_endpoints(struct gateway *g, const struct gateway_endpoint_opts *list,
                          uint32_t count, struct err *e) MUST_CHECK;
/* Pods and the like that are known but are no endpoints, for the status page.  Copied. */
struct gateway_unused {
    const char *id, *reason;
};
void gateway_set_unused(struct gateway *g, const struct gateway_unused *list, uint32_t count);
/* For the books, of what discovery follows: whether it is followed now, and requests that failed
 * since the last call.  has_kind >= 0: whether the server knows it. */
void gateway_discovery(struct gateway *g, const char *what, bool is_followed, uint64_t errors,
                       int has_kind);
/* Of several replicas only the one that leads is ready; who is never told leads.  name: of the
 * Lease, for the books. */
void gateway_set_leading(struct gateway *g, bool leads, const char *name);
/* Whether any endpoint answers. */
bool gateway_any_usable(struct gateway *g);
/* From now on; what runs keeps what it began with.  Taken over, whatever happens.  An error (files
 * of certificates): what was there before stays. */
int gateway_set_config(struct gateway *g, struct sched_config *config, struct err *e) MUST_CHECK;
void gateway_set_objects(struct gateway *g, struct objects *objects);
/* The access log was moved away: writes go to a new one of its name. */
void gateway_reopen_log(struct gateway *g);
/* For the books: a file was read again, and taken over or refused. */
void gateway_reloaded(struct gateway *g, const char *file, bool is_taken);
uint16_t gateway_port(const struct gateway *g);
uint16_t gateway_grpc_port(const struct gateway *g); /* 0: no picker */
/* New requests get 503 from now on; fn(ctx) runs once when the last running one has ended, or
 * after timeout_ms, when what still runs was ended with an error event. */
void gateway_drain(struct gateway *g, uint32_t timeout_ms, loop_fn *fn, void *ctx);
/* Breaks what is left.  NULL is fine.  No loop of it may be running, save the calling one when it
 * is the only one; never from one of the gateway's own callbacks but drain's. */
void gateway_close(struct gateway *g);
/* Unfinished requests. */
uint32_t gateway_inflight(const struct gateway *g);
#endif
