/* sched/plugin.h - what a plugin of the scheduling pipeline is: a row of one table.
 *
 * A type is a row (sched/plugins.c joins the rows of every file): its name in llm-d's
 * EndpointPickerConfig, the table of its parameters, and one function per role it plays.  An
 * instance is what the configuration declares: parameters (immutable, shared) and, where the type
 * remembers something between requests, state of its own.
 *
 *   producers -> filters -> scorers -> picker      per profile, as the profile handler asks
 *                                 `-> dispatched   once the pick is final
 *
 * Roles are pure functions of the view they are given and of their own state: no I/O, no clock.
 * Scores are clamped to 0..1 by the caller; NAN means no score (counts as 0).
 * Source: the project's scheduler page, sections 4 to 6.
 * Threads: a pipeline and its instances have one owner at a time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_PLUGIN_H
#define SCHED_PLUGIN_H
#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/rng.h"
#include "sched/sched.h"
#include "sched/usage_expr.h"

struct yaml_node;
struct plugin;
struct sched_run;

/* ---- what a request is decided on ---- */

/* Who holds the request's prefix, as one producer says; arrays are one per endpoint of the view. */
struct sched_prefix {
    struct str producer; /* instance name: the part of the data key after the slash */
    uint32_t total_blocks, block_tokens;
    uint32_t *match_blocks;  /* leading blocks (weighted by tier where the producer does so) */
    uint32_t *cached_blocks; /* leading blocks, unweighted */
};

#define SCHED_PREFIXES_MAX 4

/* An attribute of the request: "key/producer". */
struct sched_request_attribute {
    struct str key, producer, value;
};

#define SCHED_REQUEST_ATTRIBUTES_MAX 8

/* What one endpoint is expected to do with the request (latency types). */
struct sched_prediction {
    double ttft_ms, tpot_ms;
    double ttft_headroom_ms, tpot_headroom_ms; /* objective - expected; < 0: will be missed */
    bool ttft_valid, tpot_valid;
    uint32_t dispatched; /* requests that run there */
};

struct sched_view {
    const struct sched_endpoint *ep; /* the candidates, all of them */
    uint32_t count;
    const struct sched_request *r;
    uint64_t now_ms;
    struct rng *rng;     /* every random choice */
    struct arena *arena; /* lives as long as the decision */
    struct sched_prefix prefix[SCHED_PREFIXES_MAX];
    uint32_t prefix_count;
    uint32_t peer; /* pick of the other side of a split (topology plugins), or SCHED_NONE */
    struct sched_request_attribute attribute[SCHED_REQUEST_ATTRIBUTES_MAX];
    uint32_t attribute_count;
    /* Of producers; one per endpoint each, NULL: no producer ran. */
    const double *uncached_tokens; /* prompt tokens that it would have to compute */
    const struct sched_prediction *prediction;
    const double *media_match; /* share of the request's media that it holds encoded */
};

/* The producer's answer, or NULL; an empty name: the approximate producer's default name. */
const struct sched_prefix *sched_view_prefix(const struct sched_view *v, struct str producer);
/* A header of the request, trimmed; p == NULL: not there.  name in lower case. */
struct str sched_view_header(const struct sched_view *v, const char *name);
/* The same by a configured name, in any case. */
struct str sched_view_header_any(const struct sched_view *v, struct str name);
/* A label of an endpoint; p == NULL: not there. */
struct str sched_endpoint_label(const struct sched_endpoint *ep, struct str key);
/* A numeric attribute; an empty producer: whoever gives it.  false: not there. */
bool sched_endpoint_attribute(const struct sched_endpoint *ep, struct str key, struct str producer,
                              double *out);
/* Sets an attribute of the request (borrowed); more than fit are dropped. */
void sched_view_attribute_set(struct sched_view *v, struct str key, struct str producer,
                              struct str value);
/* An attribute of the request; an empty producer: whoever gives it; p == NULL: not there. */
struct str sched_view_attribute(const struct sched_view *v, struct str key, struct str producer);

/* ---- types ---- */

enum plugin_role {
    ROLE_FILTER = 1 << 0,
    ROLE_SCORER = 1 << 1,
    ROLE_PICKER = 1 << 2,
    ROLE_HANDLER = 1 << 3,  /* profile handler */
    ROLE_DECIDER = 1 << 4,  /* disaggregation decider */
    ROLE_PRODUCER = 1 << 5, /* data producer */
    ROLE_ADMITTER = 1 << 6,
    ROLE_PRE_REQUEST = 1 << 7,
    ROLE_RESPONSE = 1 << 8,
    ROLE_REQUEST_HEADER = 1 << 9,
    ROLE_PARSER = 1 << 10,
    ROLE_SOURCE = 1 << 11, /* data source */
    ROLE_EXTRACTOR = 1 << 12,
    ROLE_DISCOVERY = 1 << 13,
    ROLE_ORDERING = 1 << 14, /* flow control */
    ROLE_FAIRNESS = 1 << 15,
    ROLE_USAGE_LIMIT = 1 << 16,
    ROLE_SATURATION = 1 << 17,
    ROLE_SCREENER = 1 << 18,
    ROLE_EVICTION = 1 << 19, /* flow control; nothing to choose */
};

enum param_kind {
    PARAM_BOOL,        /* bool */
    PARAM_U32,         /* uint32_t, min..max */
    PARAM_I64,         /* int64_t, min..max */
    PARAM_F64,         /* double, min..max */
    PARAM_STR,         /* struct str, in the configuration's arena */
    PARAM_WORD,        /* int: index into words */
    PARAM_DURATION_MS, /* uint32_t from Go's notation ("60s", "250ms"); min..max in ms */
    PARAM_CUSTOM,      /* decode() */
    PARAM_IGNORED      /* accepted, as upstream does, without effect */
};

struct plugin_param {
    const char *name; /* matched without regard to case, as upstream's decoder does */
    enum param_kind kind;
    size_t at;                /* offsetof in the parameters' struct */
    const char *value;        /* default as text; NULL = zero */
    double min, max;          /* numbers; both 0 = no bound beyond the type */
    const char *const *words; /* NULL-ended */
    int (*decode)(const struct yaml_node *n, struct arena *a, void *params, struct err *e);
    bool required;
    const char *help;
};

/* Where a decision is sent besides the destination. */
struct sched_header {
    struct str name, value;
};

/* Who answered, when the answer begins. */
struct sched_served {
    bool is_reported;    /* whoever carries the bytes says something of its load balancing */
    struct str endpoint; /* "ip:port"; p == NULL: not said */
};

/* A number for whoever carries the answer: Envoy's dynamic metadata. */
struct sched_report {
    struct str space, name; /* of the configuration */
    double value;
};

/* The attribute (of no producer) that says which agent a request is from. */
#define SCHED_AGENT_IDENTITY "agent-identity"

struct plugin_type {
    const char *type;
    uint32_t roles;
    bool alpha;             /* needs --allow-experimental-plugins */
    const char *deprecated; /* a sentence for the log, or NULL */
    size_t params_size, state_size;
    const struct plugin_param *params;
    uint32_t param_count;
    /* Whether the parameters fit together.  Errors name the parameter. */
    int (*check)(const void *params, struct err *e);

    /* Data keys as types: "TokenizedPrompt", "PrefixCacheMatchInfo", ...  NULL-ended or NULL. */
    const char *const *needs; /* a default producer is made when nobody gives it */
    const char *const *gives;
    const char *const *uses; /* not needed, but who gives it runs earlier; NULL-ended or NULL */
    /* The producer's instance name that parameters of the consumer chose; empty: the default. */
    struct str (*needs_from)(const void *params);

    /* State of an instance; zeroed memory of state_size comes in. */
    void (*state_init)(struct plugin *p);
    void (*state_fini)(struct plugin *p);

    /* keep: one per endpoint of the view, in and out: only cleared, never set. */
    void (*filter)(struct plugin *p, const struct sched_view *v, bool *keep);
    void (*score)(struct plugin *p, const struct sched_view *v, const bool *keep, double *score);
    /* Picks at most max of those kept, the best first; returns how many. */
    uint32_t (*pick)(struct plugin *p, const struct sched_view *v, const bool *keep,
                     const double *score, uint32_t *out, uint32_t max);
    /* The next profile to run (its index), or -1: no more.  Results so far are in the run. */
    int (*next)(struct plugin *p, struct sched_run *run);
    /* After the last profile: sets run->primary, or fails the run (sched_run_fail). */
    void (*finish)(struct plugin *p, struct sched_run *run);
    /* picked: the decode endpoint, or SCHED_NONE. */
    bool (*decide)(struct plugin *p, const struct sched_view *v, uint32_t picked);
    /* Producers, in their order; request-header types before everything else, and also before the
     * queues: these have no state, and only the request's headers are there. */
    void (*produce)(struct plugin *p, struct sched_view *v);
    /* Once, before the decision: milliseconds that the request waits for others; 0: none.  Of the
     * view only r (with its number r->held), now_ms and arena are there. */
    uint32_t (*hold)(struct plugin *p, const struct sched_view *v);
    bool (*admit)(struct plugin *p, const struct sched_view *v); /* false: refused */
    /* The pick is final: remember it, add headers for the worker (sched_run_header). */
    void (*dispatched)(struct plugin *p, struct sched_run *run);
    /* The worker's answer begins: add headers for the client (sched_run_header). */
    void (*responded)(struct plugin *p, struct sched_run *run);
    /* A header for the client by who answered; its name is static. */
    struct sched_header (*served)(const struct plugin *p, const struct sched_served *s);
    /* What is reported of an answer's usage; false: nothing. */
    bool (*report)(const struct plugin *p, const struct usage_values *u, struct sched_report *out);
    /* An endpoint left for good. */
    void (*endpoint_gone)(struct plugin *p, uint64_t uid);
    /* Its bounded dump for /debug/plugins/state: one JSON value. */
    void (*dump)(const struct plugin *p, struct buf *out);
};

/* An instance. */
struct plugin {
    const struct plugin_type *type;
    struct str name;
    const void *params;              /* params_size bytes, defaults filled in */
    void *state;                     /* state_size bytes, or NULL */
    struct sched_pipeline *pipeline; /* to find others by name (deciders) */
};

/* Every type of llm-d's that is known here; NULL when it is not. */
const struct plugin_type *plugin_type_find(struct str type);
/* The nearest known type name, for suggestions; NULL when nothing is near. */
const char *plugin_type_nearest(struct str type);
size_t plugin_type_count(void);
const struct plugin_type *plugin_type_at(size_t i);

/* Rows by file; plugins.c joins them.  NULL-ended arrays of pointers. */
extern const struct plugin_type *const plugin_filters[],
    *const plugin_scorers[], *const plugin_pickers[], *const plugin_handlers[],
                                                          *const plugin_producers[],
                                                              *const plugin_requests[],
                                                                  *const plugin_flow[],
                                                                      *const plugin_data[];

/* ---- a run: one request through the pipeline ---- */

#define SCHED_PICKS_MAX    8 /* of one profile */
#define SCHED_PROFILES_MAX 16
#define SCHED_HEADERS_MAX  8

struct sched_profile_result {
    bool ran, skipped; /* skipped: a decider said no */
    uint32_t pick[SCHED_PICKS_MAX], pick_count;
    double *score;    /* weighted sums, one per endpoint of the view; NULL: no scorer ran */
    bool no_endpoint; /* filters left nobody */
};

struct sched_run {
    struct sched_view *v;
    const struct sched_config *config;
    struct sched_profile_result profile[SCHED_PROFILES_MAX]; /* by index in the configuration */
    int primary;           /* profile whose pick is the destination; -1: none */
    int prefill, encode;   /* profiles of the other stages that ran; -1: none */
    uint16_t primary_port; /* data parallel: replaces the destination's port; 0 = its own */
    struct sched_header header[SCHED_HEADERS_MAX];
    uint32_t header_count;
    const char *const *drop_headers; /* NULL-ended: of the client's, never forwarded */
    /* a refusal; status 0: none */
    int status;
    const char *reason; /* x-llm-d-request-dropped-reason, or NULL */
    char message[200];
};

/* First pick of a profile, or SCHED_NONE; index may be -1. */
uint32_t sched_run_pick(const struct sched_run *run, int profile);
/* The profile that prefills: as the handler says, else the one named prefill; -1: none. */
int sched_run_prefill(const struct sched_run *run);
/* The client's header is not forwarded.  Name static, in lower case. */
void sched_run_drop(struct sched_run *run, const char *name);
/* Name static, value copied into the view's arena. */
void sched_run_header(struct sched_run *run, const char *name, struct str value);
void sched_run_fail(struct sched_run *run, int status, const char *reason, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
#endif
