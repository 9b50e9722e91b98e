/* sched/config.h - llm-d's EndpointPickerConfig, read strictly.
 *
 * YAML or JSON text in, an immutable configuration out: plugins with their parameters, profiles,
 * what the data layer scrapes, flow control, feature gates; what upstream adds by itself (handler,
 * picker, parsers, detectors, producers) is added here too and marked.  Every refusal names file,
 * line and what to write instead.
 * Source: the project's scheduler page, section 4.
 * Threads: pure; a loaded configuration is immutable and may be shared. */
// SPDX-License-Identifier: Apache-2.0
#ifndef SCHED_CONFIG_H
#define SCHED_CONFIG_H
#include "sched/plugin.h"

#define SCHED_PLUGINS_MAX 128

struct sched_plugin_conf {
    struct str name;
    const struct plugin_type *type;
    const void *params;
    uint32_t line;   /* 0: made by default */
    bool is_default; /* not in the file */
};

struct sched_scorer_ref {
    uint32_t plugin;
    double weight;
};

struct sched_profile_conf {
    struct str name;
    uint32_t filter[32], filter_count;
    struct sched_scorer_ref scorer[32];
    uint32_t scorer_count;
    uint32_t picker;
};

struct sched_band_conf {
    int32_t priority;
    uint64_t bytes_max, requests_max;
    uint32_t fairness, ordering; /* plugins */
};

#define SCHED_BANDS_MAX 32

struct sched_flow_conf {
    bool enabled;                        /* the gate flowControl */
    uint64_t bytes_max, requests_max;    /* all bands; 0 = none */
    uint32_t ttl_ms, no_endpoint_ttl_ms; /* 0 = none */
    struct sched_band_conf default_band, negative_band;
    struct sched_band_conf band[SCHED_BANDS_MAX];
    uint32_t band_count;
    uint32_t usage_limit, saturation; /* plugins */
    bool eviction;
};

struct sched_source_conf {
    uint32_t plugin;
    uint32_t extractor[8], extractor_count;
};

struct sched_config {
    struct arena arena;
    struct sched_plugin_conf plugin[SCHED_PLUGINS_MAX];
    uint32_t plugin_count;
    uint32_t order[SCHED_PLUGINS_MAX]; /* producers in the order they run */
    uint32_t order_count;
    struct sched_profile_conf profile[SCHED_PROFILES_MAX];
    uint32_t profile_count;
    uint32_t handler;
    uint32_t parser[16], parser_count;
    struct sched_source_conf source[8];
    uint32_t source_count;
    int discovery; /* plugin, or -1 */
    struct sched_flow_conf flow;
    bool ha_populate_non_leader;
};

struct sched_config_opts {
    const char *file; /* for messages */
    bool allow_experimental;
    /* Called for each warning (deprecated names, ignored fields); may be NULL. */
    void (*warn)(void *ctx, const char *text);
    void *ctx;
};

/* Errors begin with FILE:LINE:COL and say what to do.  Blank text: the built-in configuration. */
int sched_config_load(struct sched_config **out, struct str text, const struct sched_config_opts *o,
                      struct err *e) MUST_CHECK;
void sched_config_free(struct sched_config *c);
/* The built-in configuration as text, for those who print it or start from it. */
struct str sched_config_built_in(void);
/* Index of the plugin with that name, or -1. */
int sched_config_find(const struct sched_config *c, struct str name);
int sched_config_profile(const struct sched_config *c, struct str name);
/* The documented list: one line a plugin: name, type, roles, (default). */
void sched_config_print(const struct sched_config *c, struct buf *out);

/* ---- running it ---- */

/* The instances of one configuration with their state.  c is borrowed. */
struct sched_pipeline *sched_pipeline_new(const struct sched_config *c);
void sched_pipeline_free(struct sched_pipeline *p);
const struct sched_config *sched_pipeline_config(const struct sched_pipeline *p);
struct plugin *sched_pipeline_plugin(struct sched_pipeline *p, uint32_t index);
/* Producers, admitters, profiles.  run->v is the caller's, filled but for prefix[].  On a refusal
 * run->status is set.  Nothing is remembered until sched_pipeline_dispatched. */
void sched_pipeline_run(struct sched_pipeline *p, struct sched_run *run);
void sched_pipeline_dispatched(struct sched_pipeline *p, struct sched_run *run);
void sched_pipeline_responded(struct sched_pipeline *p, struct sched_run *run);
/* Whether any plugin makes requests wait for others; sched_pipeline_hold says how long: v as of
 * plugin_type.hold. */
bool sched_pipeline_holds(const struct sched_pipeline *p);
uint32_t sched_pipeline_hold(struct sched_pipeline *p, const struct sched_view *v);
/* Headers for the client by who answered; returns how many, at most max. */
uint32_t sched_pipeline_served(struct sched_pipeline *p, const struct sched_served *s,
                               struct sched_header *out, uint32_t max);
/* What is reported of an answer's usage; returns how many, at most max. */
uint32_t sched_pipeline_report(struct sched_pipeline *p, const struct usage_values *u,
                               struct sched_report *out, uint32_t max);
/* Which agent the request is from, by its headers (borrowed); p == NULL: nobody says.  Any thread.
 */
struct str sched_pipeline_identity(struct sched_pipeline *p, const struct sched_request *r);
void sched_pipeline_endpoint_gone(struct sched_pipeline *p, uint64_t uid);
void sched_pipeline_dump(const struct sched_pipeline *p, struct buf *out);
#endif
