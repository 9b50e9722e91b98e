/* gateway/gateway_priv.h - what the gateway's own files share. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_GATEWAY_PRIV_H
#define GATEWAY_GATEWAY_PRIV_H
#include "base/map.h"
#include "base/metrics.h"
#include "base/rng.h"
#include "gateway/admit.h"
#include "gateway/answer.h"
#include "gateway/auth.h"
#include "gateway/budget.h"
#include "gateway/gateway.h"
#include "gateway/reading.h"
#include "gateway/objects.h"
#include "gateway/trace.h"
#include "kv/index.h"
#include "net/http.h"
#include "openai/openai.h"
#include <pthread.h>
#include <stdatomic.h>

#define ENDPOINT_ADAPTERS_MAX 64
#define ENDPOINT_MODELS_MAX   64
#define RECEIPTS_MAX          1000
#define REQUEST_ID_MAX        128
#define FAIRNESS_ID_MAX       128
#define ANSWER_BYTES_MAX      ((size_t)64 << 20) /* of one whole (not streamed) answer */
#define PENDING_BYTES_MAX     ((size_t)1 << 20)  /* of a stream whose client reads slowly */
#define EVENT_BYTES_MAX       ((size_t)1 << 20)  /* of one server-sent event */
#define ATTEMPTS_MAX          16
#define ROUTED_HEADERS_MAX    4
#define ADDRESS_BYTES         272 /* of host and port */
#define CANDIDATES_SHOWN      16  /* in a receipt */
#define RECEIPT_BYTES_MAX     ((size_t)8 << 10)

/* ---- metrics (metrics.c) ---- */

/* Families with upstream's canonical names; the R_ group has one cell a label set {model_name,
 * target_model_name, fairness_id, priority}, the O_ group their older twins. */
enum gateway_metric {
    R_REQUESTS,
    R_ERRORS,
    R_SECONDS,
    R_BYTES_IN,
    R_BYTES_OUT,
    R_INPUT_TOKENS,
    R_CACHED_TOKENS,
    R_OUTPUT_TOKENS,
    R_RUNNING,
    R_NTPOT,
    R_TTFT,
    R_TPOT,
    R_ITL,
    O_REQUESTS,
    O_ERRORS,
    O_SECONDS,
    O_BYTES_IN,
    O_BYTES_OUT,
    O_INPUT_TOKENS,
    O_CACHED_TOKENS,
    O_OUTPUT_TOKENS,
    O_RUNNING,
    O_NTPOT,
    M_READY_ENDPOINTS,
    M_QUEUE_SIZE,
    M_KV_USAGE,
    M_POOL_RUNNING,
    M_DEV_QUEUE,
    M_DEV_KV,
    M_DEV_RUNNING,
    M_ENDPOINT_QUEUE,
    O_READY_PODS,
    O_QUEUE_SIZE,
    O_KV_USAGE,
    O_POOL_RUNNING,
    O_POD_QUEUE,
    M_DECISION,
    O_DECISION,
    M_DECIDE_SECONDS,
    O_DECIDE_SECONDS,
    M_ATTEMPTS,
    M_REQUEST_PROCESSING,
    M_RESPONSE_PROCESSING,
    M_POLL_ERRORS,
    M_EXTRACT_ERRORS,
    M_PREFIX_SIZE,
    M_PREFIX_RATIO,
    M_INFLIGHT_REQUESTS,
    M_INFLIGHT_TOKENS,
    M_REWRITES,
    M_INFO,
    O_INFO,
    M_FLOW_QUEUE_SECONDS,
    M_FLOW_QUEUE_SIZE,
    M_FLOW_QUEUE_BYTES,
    M_FLOW_SATURATION,
    M_FLOW_REQUESTS,
    M_FLOW_USED_REQUESTS,
    M_FLOW_USED_BYTES,
    M_FLOW_REVOCATIONS_ISSUED,
    M_FLOW_REVOCATIONS,
    M_FLOW_RECLAIM_TARGET,
    M_FLOW_PENDING_RECLAIM,
    M_FLOW_REVOCATION_SECONDS,
    M_EXTPROC_STREAMS,
    M_EXTPROC_SECONDS,
    M_EXTPROC_TOTAL,
    M_L_REQUESTS,
    M_L_REJECTED,
    M_L_RETRIES,
    M_L_RETRY_REFUSED,
    M_L_SPLIT,
    M_L_NOT_SPLIT,
    M_L_PREDICTED,
    M_L_REAL,
    M_L_TTFT,
    M_L_INFLIGHT,
    M_L_CUT,
    M_L_CLIENT_GONE,
    M_L_STRIPPED,
    M_L_ESTIMATE,
    M_L_RENDER_FAILED,
    M_L_ENDPOINT_STATE,
    M_L_ENDPOINT_INFLIGHT,
    M_L_ENDPOINT_REQUESTS,
    M_L_PREFILL_RATE,
    M_L_DECODE_RATE,
    M_L_EJECTED,
    M_L_TOKEN_PROBES,
    M_L_INDEX_BLOCKS,
    M_L_REPLICA_UP,
    M_L_READ_SECONDS,
    M_L_WASTED,
    M_L_WAITED,
    M_L_STRATEGY,
    M_L_LOG_DROPPED,
    M_L_SPANS,
    M_L_RELOADS,
    M_L_RELOAD_FAILURES,
    M_CRD_PRESENT,
    M_L_FOLLOWED,
    M_L_FOLLOW_ERRORS,
    M_LEADS,
    M_L_CERT_EXPIRES,
    M_L_AUTH_FAILURES,
    M_COUNT
};

extern const char *const gateway_pool; /* label "name" of the pool */
struct metrics *gateway_metrics_new(void);
/* Cells of one label set, found once a request. */
struct request_cells {
    struct metric_cell *r[R_ITL + 1]; /* R_ERRORS, R_TTFT: by request_error, below */
    struct metric_cell *o[O_NTPOT - O_REQUESTS + 1];
    struct metric_cell *ttft[2];             /* streaming or not */
    struct metric_cell *queued, *dispatched; /* of flow control, outcome Dispatched */
};
struct request_metrics;
struct request_metrics *request_metrics_new(struct metrics *m);
void request_metrics_free(struct request_metrics *rm);
const struct request_cells *request_metrics_cells(struct request_metrics *rm, struct str model,
                                                  struct str target, const char *fairness_id,
                                                  int32_t priority);
/* Counts an error of that status. */
void request_metrics_error(struct request_metrics *rm, struct str model, struct str target,
                           const char *fairness_id, int32_t priority, int status);

/* ---- endpoints (endpoints.c) ---- */

/* What is known of a worker's tokenizer (token_probe.c). */
enum token_verdict { TOKENS_NOT_ASKED, TOKENS_UNKNOWN, TOKENS_SAME, TOKENS_DIFFERENT };

struct token_probe {
    enum token_verdict verdict;
    bool is_due;
    unsigned stage, tries; /* which question, how often without an answer */
    uint64_t due_ms;
    struct http_call *call; /* NULL: none is running */
    struct buf body;
    int status;
};

struct endpoint {
    struct gateway *g;
    struct endpoint *next; /* gone */
    uint64_t uid;
    uint64_t gone_ns;                /* when it left; 0: it is there */
    uint64_t scrape_due_ms, busy_ms; /* busy: when it last had something to do */
    char *address;                   /* as given */
    char *id;                        /* "namespace/name", or the address */
    struct sched_label *label;
    uint32_t label_count;
    char host[256];
    uint16_t port;
    enum sched_role role;
    bool role_given;

    _Atomic(enum sched_use) use;
    const char *reason;       /* a sentence for status, static */
    struct http_call *scrape; /* NULL: none is running */
    struct http_call *models;
    struct http_call *ready;
    struct http_call *props;
    struct buf scrape_body, models_body, props_body;
    int scrape_status, scrape_rc, models_status, ready_status, props_status;
    int scrape_refused;  /* the status of the last scrape that answered, but not with 200; or 0 */
    uint64_t last_ok_ms; /* last scrape answered; 0 = never */
    uint64_t first_try_ms;
    uint64_t models_due_ms, ready_due_ms, props_due_ms;
    uint64_t last_in_ms;        /* last seen in rotation; 0 = never */
    bool refused;               /* the last try could not even connect */
    bool models_known;          /* said since it was last reached anew */
    bool ready_known, is_ready; /* by /health/ready; true for an endpoint that has no such page */

    struct token_probe tokens;
    double waiting, running, kv_usage, blocks_in_use, blocks_total, start_time, prompt_tokens;
    double stalled_s; /* age of its last step while requests run, by its own word */
    bool ours, has_blocks, is_llama_cpp; /* ours: one of our workers, by its metrics */
    bool was_used;                       /* since it was last reached anew */
    uint32_t slots, block_tokens;        /* 0: not said */

    struct str models_list[ENDPOINT_MODELS_MAX]; /* str_dup'd; kept while it is away */
    uint32_t model_count, max_model_len;

    uint64_t bookings;
    uint32_t inflight;
    _Atomic uint32_t decoding;
    uint32_t inflight_peak,
        inflight_peak_before; /* since the last scrape began, and the one before */
    double foreign;           /* requests there that are not ours, by the last scrape */
    double prefill_tokens;
    struct sched_learner learner;
    uint64_t learned_ms; /* when an answer last taught something; 0 = never */

    uint32_t errors_row, ejections;
    uint64_t last_error_ns;
    uint64_t ejected_until_ms, paused_until_ms, slow_until_ms;
    bool on_probe; /* one request is finding out whether it is well again */

    struct metric_cell *m_state[SCHED_CIRCUIT_OPEN + 1], *m_inflight, *m_queue, *m_older_queue,
        *m_inflight_requests, *m_inflight_tokens, *m_requests, *m_prefill, *m_decode, *m_ejected;
    uint32_t cache_blocks;          /* its KV cache holds; 0: not said */
    struct sched_attribute *custom; /* that its engine's configuration asks for; keys are owned */
    uint32_t custom_count;
    char *lora_text; /* what the lists below point into */
    struct str lora_active[ENDPOINT_ADAPTERS_MAX], lora_waiting[ENDPOINT_ADAPTERS_MAX];
    uint32_t lora_active_count, lora_waiting_count, lora_max;
    struct flow_limit limit; /* requests in flight that keep it busy, learned */
};

/* Makes the list what is given: new ones are added, missing ones leave, the rest stays as it is.
 * On an error what came before it in the list has been done. */
int endpoints_set(struct gateway *g, const struct gateway_endpoint_opts *list, uint32_t count,
                  struct err *e) MUST_CHECK;
void endpoints_fini(struct gateway *g);
void endpoints_tick(struct gateway *g);
/* Functions below that say (locked) are called with the gateway's lock held; the others take it. */

/* The model of a request that names none; empty when nothing is known. */
#define MODEL_NAME_MAX 255
struct str endpoints_model(struct gateway *g, char out[MODEL_NAME_MAX + 1]);
bool endpoint_serves(const struct endpoint *ep, struct str model); /* (locked) */
/* Some endpoints have said which models they serve, and none of them serves this one. */
bool endpoints_lack_model(struct gateway *g, struct str model);
/* All endpoints as a request for `model` (p == NULL: any) finds them.  (locked) */
void endpoints_snapshot(struct gateway *g, struct str model, struct sched_endpoint *snap);
/* Sets use and reason from what is known now.  (locked) */
void endpoints_judge(struct endpoint *ep);
/* Nobody serves the model now, but somebody did until lately. */
bool endpoints_may_return(struct gateway *g, struct str model);
/* Some endpoint that leads to an answer is in rotation. */
bool endpoints_any_usable(struct gateway *g);
/* The books of errors: that a request goes there, and what it ended with. */
void endpoint_dispatched(struct endpoint *ep); /* (locked) */
void endpoint_succeeded(struct endpoint *ep);
void endpoint_failed(struct endpoint *ep, uint64_t dispatched_ns);
void endpoint_pause(struct endpoint *ep, uint32_t ms);

/* ---- whether it tokenizes as we do (token_probe.c); (locked), all of it ---- */

const char *token_probe_name(enum token_verdict v);
void token_probe_due(struct endpoint *ep); /* it is another process now: asked when in rotation */
void token_probe_tick(struct endpoint *ep, uint64_t now);
void token_probe_stop(struct endpoint *ep);
void token_probe_left(struct endpoint *ep); /* it is in the list no more */

/* ---- who holds what (prefix.c); (locked), all of it ---- */

struct prefix;
struct prefix *prefix_new(struct gateway *g, const struct gateway_opts *o, struct err *e);
void prefix_free(struct prefix *p);
/* matched: one per endpoint of the gateway. */
void prefix_match(struct prefix *p, const struct reading *r, uint32_t *matched,
                  struct sched_endpoint *snap);
/* The endpoint was sent this prompt: it will hold its blocks. */
void prefix_note(struct prefix *p, const struct endpoint *ep, const struct reading *r);
/* It restarted, or left for good. */
void prefix_forget(struct prefix *p, const struct endpoint *ep);
void prefix_tick(struct prefix *p);
/* Unfinished requests by prefix. */
void prefix_enter(struct prefix *p, const struct reading *r);
void prefix_leave(struct prefix *p, const struct reading *r);
uint32_t prefix_sharers(const struct prefix *p, const struct reading *r, uint32_t blocks);
bool prefix_cache_up(const struct prefix *p);
uint64_t prefix_cache_blocks(const struct prefix *p);
uint64_t prefix_own_blocks(const struct prefix *p);

/* ---- a request on its way (proxy.c) ---- */

enum route_kind { ROUTE_CHAT, ROUTE_COMPLETION, ROUTE_OTHER };

struct candidate {
    const struct endpoint *endpoint;
    uint32_t inflight;
    enum sched_use use;
    struct sched_cost cost;
};

struct routed_header { /* that a plugin adds */
    struct str name;   /* static */
    char value[256];
};

/* A configuration in use (policy.c). */
struct policy {
    struct policy *next;
    struct sched_config *config;     /* NULL: no configuration file */
    struct sched_pipeline *pipeline; /* NULL with it */
    struct admission *admission;
    uint32_t users; /* requests that began with it */
    bool holds;     /* requests wait for others before they are decided */
};

/* What a request knows of its own way; embedded in whoever carries it: an exchange of the proxy, or
 * a stream of Envoy's. */
struct routing {
    struct gateway *g;
    struct front *f; /* whose loop it lives on */
    enum route_kind kind;
    const char *path; /* static */
    char id[REQUEST_ID_MAX + 1];
    struct http_headers headers; /* of the request; borrowed, until it is dispatched */
    char peer[64];
    struct reading reading;
    bool was_read, entered;
    struct auth_identity identity; /* by its key; set == NULL: none is asked for here */
    struct limit_ticket limit;     /* what it holds of its tenant's rates, */
    struct limit_state rates;      /* and how they stood */
    struct trace trace;
    size_t body_bytes, reply_bytes;
    const struct request_cells *cells;     /* once its model is known */
    double slo_ttft_ms;                    /* from a header; 0 = none */
    char fairness_id[FAIRNESS_ID_MAX + 1]; /* tenant, or what the client said it is */
    double weight;                         /* of its share; 0 = 1 */
    int32_t priority;
    enum sched_strategy strategy;

    struct policy *policy; /* from the first look at its headers on */
    uint64_t held;         /* its number among those that waited for others; 0: it did not */
    /* of the last decision by a configuration */
    struct endpoint *other[SCHED_PICKS_MAX - 1]; /* further picks, in order of preference */
    uint32_t other_count;
    uint16_t port; /* in place of the endpoint's own; 0 = none */
    struct routed_header to_worker[ROUTED_HEADERS_MAX], to_client[ROUTED_HEADERS_MAX];
    uint32_t to_worker_count, to_client_count;
    int refused_status; /* 0: it did not refuse */
    const char *refused_reason;
    char refused_text[200];
    const struct str *subset; /* only endpoints at these addresses; has_subset: even when none */
    size_t subset_count;
    bool has_subset;

    const struct endpoint *tried[ATTEMPTS_MAX];
    uint32_t tried_count, attempts;
    struct sched_decision decision;
    struct candidate candidate[CANDIDATES_SHOWN]; /* of the last decision, for the receipt */
    uint32_t candidate_count, candidates_left_out;
    struct endpoint *decode, *prefill; /* who is booked for this attempt; prefill NULL: not split */
    double booked_tokens, uncached_tokens, queued_tokens;
    bool prefill_booked, decode_booked;
    bool alone;       /* nothing else of ours ran there when it was sent */
    uint64_t booking; /* its number at the endpoint: a later one ran beside it */
    uint32_t predicted_cached;
    const char *sent_to, *sent_prefill; /* addresses of the last attempt, for the receipt */

    bool streaming;
    struct answer_usage usage;
    struct answer_seen seen;
    double streams_sum; /* other streams beside it, summed per event */

    uint64_t t_start, t_read, t_dispatch, t_first, t_last; /* clock_ns; 0 = not yet */
    int answered;        /* status given to the client; 0 = none */
    const char *failure; /* why it ended badly, static; NULL = well */
};

struct exchange {
    struct routing rt;
    struct exchange *next, *prev;
    struct http_req *req;     /* NULL: answered, or the client is gone */
    struct http_call *call;   /* NULL: between attempts */
    struct reader_job *job;   /* NULL: not being read by the thread */
    struct loop_timer *timer; /* back-off */
    bool explain, gone, waited;
    struct admit_ticket ticket;
    bool early; /* its head went out while it waited: comments tell its place in the queue */

    uint32_t resets;
    uint32_t last_failure; /* proxy.c's enum attempt_end */

    const char *dropped; /* why flow control refused it, static; NULL: it did not */
    int status;          /* upstream's; 0: no head yet */
    uint32_t retry_after_s;
    bool started;
    bool ended;         /* upstream is done; only pending bytes keep this alive */
    bool cut;           /* ended, and the client must see that something is missing */
    struct buf body;    /* whole answers; streams: an unfinished event */
    struct buf name;    /* of the target model, as JSON */
    struct buf pending; /* bytes that the client was too slow for */
    bool paused;
    char content_type[128];
    uint64_t t_wrote, t_event; /* clock_ns */
};

/* The model that its worker is asked for; p == NULL: none was named. */
static inline struct str routing_model(const struct routing *x)
{
    return x->reading.target.p != NULL ? x->reading.target : x->reading.model;
}

/* Headers (forward.c). */
bool forward_is_steering(struct str name);
/* Those that go on; *stripped counts steering ones that do not. */
/* without_keys: credentials are for us, not for workers. */
size_t forward_headers(const struct http_headers *in, bool without_keys, struct http_header *out,
                       size_t out_max, uint32_t *stripped);
bool forward_id_is_good(struct str id);

/* Where a request goes, and the books of it (route.c). */
/* Decides and books; false: nobody. */
bool route_decide(struct routing *x);
/* No further attempt goes there. */
void route_tried(struct routing *x, const struct endpoint *ep);
/* The first byte came: its prompt is computed. */
void route_first_byte(struct routing *x);
/* Takes the booking of this attempt back. */
void route_release(struct routing *x);
/* The request is over: nobody shares its prefix with it any more. */
void route_leave(struct routing *x);
/* Tells flow control what it cost its tenant: the prompt that was computed, and the answer. */
void route_settle(struct routing *x, struct admit_ticket *t);
/* What a finished request teaches. */
void route_learn(struct routing *x);

void proxy_request(struct front *f, struct http_req *r, enum route_kind kind, const char *path);
/* 401, or 429 after too many of them; it does not tell what was wrong with the key. */
void proxy_refuse_key(struct front *f, struct http_req *r, int status);
/* Streams whose worker is frozen; comments on quiet streams. */
void proxy_sweep(struct front *f);
/* Ends everything that runs on this loop: an error event or an error answer. */
void proxy_break_all(struct front *f, const char *code, const char *message);
void proxy_drop_all(struct front *f);
/* An error answer in OpenAI's shape, with retry advice where the status wants it. */
void proxy_refuse(struct gateway *g, struct http_req *r, int status, const char *type,
                  const char *code, const char *fmt, ...) __attribute__((format(printf, 6, 7)));

/* ---- the books of a request (books.c) ---- */

/* Its model is known: it counts as running. */
void books_open(struct routing *x);
/* A whole event of a stream came. */
void books_event(struct routing *x, uint64_t now_ns, uint64_t last_ns);
/* It ended: metrics, receipt, access log, trace. */
void books_close(struct routing *x, const struct admit_ticket *t, bool client_gone);

/* ---- policies (policy.c) ---- */

#define QUEUE_BYTES_MAX 1000000000 /* of a priority's queue without a configuration file */

/* The policy of requests from now on; config is taken over, NULL: our own rules. */
void policy_set(struct gateway *g, struct sched_config *config);
void policy_enter(struct routing *x);
void policy_leave(struct routing *x);
void policies_pump(struct gateway *g, struct front *f);
void policies_tick(struct gateway *g); /* (locked) */
void policies_fini(struct gateway *g);
void policies_endpoint_gone(struct gateway *g, uint64_t uid); /* (locked) */
/* By the pipeline; fills x->decision.  False: nobody, see refused_*.  (locked) */
bool policy_decide(struct routing *x, struct sched_request *r);
/* Before its first decision: milliseconds that it waits for others; 0: none. */
uint32_t policy_hold(struct routing *x);
/* Which agent the request is from, by the configuration's plugins; p == NULL: nobody says. */
struct str policy_identity(const struct routing *x);
/* The answer begins: adds what plugins tell the client of who gave it. */
void policy_served(struct routing *x, const struct sched_served *s);
/* "ip:port" of its first choice. */
struct str policy_destination(const struct routing *x, char *out, size_t out_bytes);

/* ---- a request's beginning, whoever carries it (begin.c) ---- */

/* x is zeroed, but for the identity of whoever showed a key.  headers: borrowed until it is
 * dispatched. */
void routing_init(struct routing *x, struct front *f, enum route_kind kind, const char *path,
                  const struct http_headers *headers, const char *peer, size_t body_bytes);
/* Reads the body: done runs now, or later from the loop when it is long (then *job is set).
 * False: too many long ones are being read. */
bool routing_read(struct routing *x, struct str body, struct reader_job **job,
                  void (*done)(void *ctx, struct reading *r), void *ctx);
/* Takes it from its tenant's rates; false: over one of them, see x->rates. */
bool routing_limit(struct routing *x);
/* Gives back what the rest of the gateway holds of it. */
void routing_fini(struct routing *x);

/* ---- receipts (receipt.c) ---- */

struct receipts;
struct receipts *receipts_new(void);
void receipts_free(struct receipts *rs);
/* final: what really came of it, too. */
void receipt_write(const struct routing *x, bool final, struct buf *out);
void receipts_keep(struct receipts *rs, const struct routing *x);
/* Appends the kept text to out; false: not kept.  Any thread. */
bool receipts_get(struct receipts *rs, struct str id, struct buf *out);

/* ---- pages (status.c) ---- */

void status_page(struct gateway *g, struct http_req *r);
void status_models(struct gateway *g, struct http_req *r, struct str id); /* id empty: all */
void status_metrics(struct gateway *g, struct http_req *r);
void status_serving(struct gateway *g, struct http_req *r);
void status_ready(struct gateway *g, struct http_req *r);

/* One loop's part: connections, requests and everything they own.  Touched by its loop only, save
 * for oldest_ns. */
struct front {
    struct gateway *g;
    uint32_t index;
    struct loop *loop;
    struct http_server *server;
    struct http_client *client; /* requests */
    struct reader *reader;
    struct request_metrics *request_metrics;
    struct trace_exporter *traces; /* NULL: off */
    struct retry_budget budget;
    struct rng rng;
    struct loop_timer *sweep;
    struct auth *auth;     /* NULL: no keys, everybody may ask */
    struct picker *picker; /* NULL: Envoy is not served */
    struct exchange *live;
    bool is_pumping, pump_is_posted; /* admit.c */
    _Atomic uint64_t oldest_ns;      /* no live request began before it */
};

/* What the loops share.  lock guards the endpoints, their books, the prefixes, the queues and a
 * decision's scratch: a decision sees every other one.  It is held for microseconds and never
 * while bytes are read, parsed, or sent; bodies of answers pass without it.  (docs/design/loops.md)
 */
/* How workers are reached (upstream.c): a page of theirs. */
struct upstream_page {
    char *path;
    uint16_t port;          /* 0: the endpoint's own */
    struct tls_client *tls; /* NULL: plain text */
};

struct upstream {
    struct tls_client *tls; /* of requests, and of what the configuration says nothing of */
    struct upstream_page metrics, models;
    struct upstream_tls *clients; /* linked */
};

struct gateway {
    pthread_mutex_t lock;
    struct front *front;
    uint32_t front_count;
    struct http_server *metrics_door; /* on the first loop, or NULL */
    bool metrics_open;
    struct http_client *probes;            /* scrapes, on the first loop: never behind a request */
    struct loop_timer *tick, *drain_timer; /* on the first loop */
    struct metrics *metrics;
    struct access_log *access_log; /* NULL: off */
    double trace_ratio;
    struct metric_cell *m_decision[2], *m_configured[2], *m_older_decision[2]; /* split or not */
    struct metric_cell *m_strategy[SCHED_STRATEGIES];
    struct metric_cell *m_inflight, *m_decide, *m_older_decide, *m_read, *m_request, *m_response;
    struct metric_cell *m_prefix;
    struct prefix *prefix;
    struct receipts *receipts;

    struct sched_conf conf;
    enum sched_strategy strategy;
    uint64_t turn; /* of round robin */
    uint64_t held; /* of the last request that waited for others */
    bool strategy_given;
    struct policy *policy;    /* the one for new requests; older ones behind it */
    struct limiter *limiter;  /* of tenants' rates; (locked) */
    struct tls_server *tls;   /* of the front door, or NULL; borrowed */
    struct upstream upstream; /* first loop only, but for tls, which stays */
    struct objects *objects;  /* of names and priorities; never NULL */
    uint32_t scrape_ms, stale_ms, frozen_ms, stuck_ms, inflight_max, retries_max, block_tokens;
    uint32_t first_byte_ms, gap_ms, total_ms, wait_ms, queue_ms, queue_max;
    bool no_split;
    char *cache;
    char address[300]; /* where it listens */

    struct endpoint **endpoints; /* in rotation or not; those that left are in gone */
    struct endpoint *gone;       /* linked; kept while a request may still point to them */
    uint32_t endpoint_count, endpoint_cap;
    uint64_t endpoint_uid; /* of the last one made */
    char **unused;         /* "ID" NUL "REASON": known to discovery, and no endpoints */
    uint32_t unused_count;

    /* a decision's scratch, one per endpoint */
    struct sched_endpoint *snap;
    struct sched_cost *costs;
    uint32_t *matched;
    bool *excluded;
    struct sched_endpoint *view; /* candidates alone, and which endpoints they are */
    uint32_t *view_at, *view_matched;
    double *rates;
    double fleet_prefill, fleet_decode; /* medians of what endpoints learned; 0 = nothing yet */
    double best_prefill, best_decode;   /* the smallest of that */
    uint64_t learned_ms;                /* of any endpoint, the last time */
    bool rates_changed;
    struct rng rng;

    _Atomic uint32_t inflight, waiting; /* waiting: in the queues of flow control */
    _Atomic bool draining, standby;     /* standby: another replica leads */
    _Atomic bool knows_pool;            /* has been told which endpoints there are, be it none */

    bool drained, drain_broken;
    uint64_t drain_until_ms; /* by then even unsent bytes are given up */
    loop_fn *drain_fn;
    void *drain_ctx;
    double started_s;
};

static inline void gateway_lock(struct gateway *g)
{
    pthread_mutex_lock(&g->lock);
}

static inline void gateway_unlock(struct gateway *g)
{
    pthread_mutex_unlock(&g->lock);
}

/* What the configuration (NULL: none) says of it; an error changes nothing.  First loop. */
int upstream_set(struct gateway *g, const struct sched_config *c, struct err *e) MUST_CHECK;
void upstream_fini(struct gateway *g); /* after the connections */

struct metric_cell *gateway_cell(struct gateway *g, enum gateway_metric m, const char *a,
                                 const char *b);
/* With as many label values as the family has. */
struct metric_cell *gateway_cell_of(struct gateway *g, enum gateway_metric m,
                                    const char *const *values);
/* After an exchange ended: drain may be over. */
void gateway_exchange_ended(struct gateway *g);
#endif
