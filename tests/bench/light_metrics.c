/* The page is written once; every sample has a field of fixed width, and a scrape only writes the
 * fields whose value has changed since the last one. */
// SPDX-License-Identifier: Apache-2.0
#include "light_metrics.h"
#include "base/buf.h"
#include "base/check.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

#define PAGE_MAX   ((size_t)64 << 10)
#define FIELDS_MAX 256
#define WIDTH      15 /* of "%.9e" */
#define BOUNDS_MAX 20

static const struct {
    const char *name, *kind, *label; /* label: beyond engine and model_name */
    enum light_value value;
} singles[] = {
    { "vllm:num_requests_running", "gauge", "", LV_RUNNING },
    { "vllm:num_requests_waiting", "gauge", "", LV_WAITING },
    { "vllm:num_requests_waiting_by_reason", "gauge", ",reason=\"capacity\"", LV_WAITING },
    { "vllm:num_requests_waiting_by_reason", "", ",reason=\"deferred\"", LV_ZERO },
    { "vllm:engine_sleep_state", "gauge", ",sleep_state=\"awake\"", LV_ONE },
    { "vllm:engine_sleep_state", "", ",sleep_state=\"weights_offloaded\"", LV_ZERO },
    { "vllm:engine_sleep_state", "", ",sleep_state=\"discard_all\"", LV_ZERO },
    { "vllm:kv_cache_usage_perc", "gauge", "", LV_KV_USAGE },
    { "vllm:prefix_cache_queries_total", "counter", "", LV_QUERIED },
    { "vllm:prefix_cache_hits_total", "counter", "", LV_HITS },
    { "vllm:external_prefix_cache_queries_total", "counter", "", LV_ZERO },
    { "vllm:external_prefix_cache_hits_total", "counter", "", LV_ZERO },
    { "vllm:mm_cache_queries_total", "counter", "", LV_ZERO },
    { "vllm:mm_cache_hits_total", "counter", "", LV_ZERO },
    { "vllm:num_preemptions_total", "counter", "", LV_ZERO },
    { "vllm:prompt_tokens_total", "counter", "", LV_PROMPT_TOKENS },
    { "vllm:prompt_tokens_by_source_total", "counter", ",source=\"local_compute\"",
      LV_COMPUTED_TOKENS },
    { "vllm:prompt_tokens_by_source_total", "", ",source=\"local_cache_hit\"", LV_HITS },
    { "vllm:prompt_tokens_by_source_total", "", ",source=\"external_kv_transfer\"", LV_ZERO },
    { "vllm:prompt_tokens_cached_total", "counter", "", LV_HITS },
    { "vllm:generation_tokens_total", "counter", "", LV_OUTPUT_TOKENS },
    { "vllm:request_success_total", "counter", ",finished_reason=\"stop\"", LV_ZERO },
    { "vllm:request_success_total", "", ",finished_reason=\"length\"", LV_LENGTH },
    { "vllm:request_success_total", "", ",finished_reason=\"abort\"", LV_ABORT },
    { "vllm:request_success_total", "", ",finished_reason=\"error\"", LV_ERROR },
    { "vllm:admission_rejections_total", "counter", ",reason=\"max_num_queued_reqs\"", LV_ERROR },
};

static const struct {
    const char *name;
    double bound[BOUNDS_MAX]; /* ends with 0 */
} hists[LH_COUNT] = {
    [LH_TTFT] = { "vllm:time_to_first_token_seconds",
                  { .001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20,
                    40, 80 } },
    [LH_ITL] = { "vllm:inter_token_latency_seconds",
                 { .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40,
                   80 } },
    [LH_E2E] = { "vllm:e2e_request_latency_seconds",
                 { .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480,
                   960 } },
    [LH_QUEUE] = { "vllm:request_queue_time_seconds",
                   { .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480,
                     960 } },
    [LH_PROMPT] = { "vllm:request_prompt_tokens",
                    { 1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5 } },
    [LH_OUTPUT] = { "vllm:request_generation_tokens",
                    { 1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5 } },
};

struct field {
    const double *value;
    double shown;
    size_t at;
};

struct light_metrics {
    double value[LV_COUNT];
    double bucket[LH_COUNT][BOUNDS_MAX + 1], sum[LH_COUNT]; /* buckets are cumulative */
    uint32_t bounds[LH_COUNT];
    struct field field[FIELDS_MAX];
    size_t fields;
    struct buf page;
};

static void add_field(struct light_metrics *m, const double *value)
{
    ASSERT(m->fields < FIELDS_MAX);
    m->field[m->fields++] = (struct field) { .value = value, .shown = -1, .at = m->page.len };
    buf_f(&m->page, "%.9e\n", 0.0);
}

static void add_hist(struct light_metrics *m, int h, const char *model)
{
    const char *name = hists[h].name;
    uint32_t n = 0;

    buf_f(&m->page, "# HELP %s Histogram of a simulated engine.\n# TYPE %s histogram\n", name,
          name);
    for (; n < BOUNDS_MAX && hists[h].bound[n] > 0; n++) {
        buf_f(&m->page, "%s_bucket{engine=\"0\",le=\"%g\",model_name=\"%s\"} ", name,
              hists[h].bound[n], model);
        add_field(m, &m->bucket[h][n]);
    }
    m->bounds[h] = n;
    buf_f(&m->page, "%s_bucket{engine=\"0\",le=\"+Inf\",model_name=\"%s\"} ", name, model);
    add_field(m, &m->bucket[h][n]);
    buf_f(&m->page, "%s_count{engine=\"0\",model_name=\"%s\"} ", name, model);
    add_field(m, &m->bucket[h][n]);
    buf_f(&m->page, "%s_sum{engine=\"0\",model_name=\"%s\"} ", name, model);
    add_field(m, &m->sum[h]);
}

struct light_metrics *light_metrics_new(const char *model, uint32_t kv_blocks)
{
    struct light_metrics *m = mem_zalloc(sizeof(*m));

    m->value[LV_ONE] = 1;
    buf_init(&m->page, PAGE_MAX);
    for (size_t i = 0; i < COUNT(singles); i++) {
        if (singles[i].kind[0] != '\0')
            buf_f(&m->page, "# HELP %s Of a simulated engine.\n# TYPE %s %s\n", singles[i].name,
                  singles[i].name, singles[i].kind);
        buf_f(&m->page, "%s{engine=\"0\",model_name=\"%s\"%s} ", singles[i].name, model,
              singles[i].label);
        add_field(m, &m->value[singles[i].value]);
    }
    buf_f(&m->page,
          "# HELP vllm:cache_config_info Of a simulated engine.\n"
          "# TYPE vllm:cache_config_info gauge\n"
          "vllm:cache_config_info{block_size=\"16\",cache_dtype=\"auto\","
          "enable_prefix_caching=\"True\",engine=\"0\",num_gpu_blocks=\"%u\","
          "prefix_caching_hash_algo=\"sha256\"} 1.0\n",
          kv_blocks);
    for (int h = 0; h < LH_COUNT; h++)
        add_hist(m, h, model);
    ASSERT(!m->page.failed);
    return m;
}

void light_metrics_free(struct light_metrics *m)
{
    buf_fini(&m->page);
    mem_free(m);
}

double *light_value(struct light_metrics *m, enum light_value v)
{
    return &m->value[v];
}

void light_observe(struct light_metrics *m, enum light_hist h, double v)
{
    for (uint32_t i = m->bounds[h]; i-- > 0 && v <= hists[h].bound[i];)
        m->bucket[h][i]++;
    m->bucket[h][m->bounds[h]]++;
    m->sum[h] += v;
}

struct str light_page(struct light_metrics *m)
{
    for (size_t i = 0; i < m->fields; i++) {
        struct field *f = &m->field[i];
        char text[32];

        if (*f->value == f->shown)
            continue;
        f->shown = *f->value;
        (void)snprintf(text, sizeof(text), "%.9e", f->shown);
        memcpy(m->page.p + f->at, text, WIDTH);
    }
    return buf_view(&m->page);
}
