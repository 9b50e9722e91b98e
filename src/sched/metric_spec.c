// SPDX-License-Identifier: Apache-2.0
#include "sched/metric_spec.h"
#include "base/check.h"
#include <ctype.h>
#include <string.h>

#define SPEC(text)                                                                                 \
    {                                                                                              \
        .name = { text, sizeof(text) - 1 }                                                         \
    }
#define SPEC1(text, key, word)                                                                     \
    {                                                                                              \
        .name = { text, sizeof(text) - 1 },                                                        \
        .label = (const struct metric_label[]) { { { key, sizeof(key) - 1 },                       \
                                                   { word, sizeof(word) - 1 } } },                 \
        .label_count = 1                                                                           \
    }
#define TEXT(text)                                                                                 \
    {                                                                                              \
        text, sizeof(text) - 1                                                                     \
    }

static const struct metric_engine engines[] = {
    { .name = TEXT("vllm"),
      .waiting = SPEC("vllm:num_requests_waiting"),
      .running = SPEC("vllm:num_requests_running"),
      .kv_usage = SPEC("vllm:kv_cache_usage_perc"),
      .lora = SPEC("vllm:lora_requests_info"),
      .cache_info = SPEC("vllm:cache_config_info"),
      .cache_block_size_label = TEXT("block_size"),
      .cache_blocks_label = TEXT("num_gpu_blocks") },
    { .name = TEXT("sglang"),
      .waiting = SPEC("sglang:num_queue_reqs"),
      .running = SPEC("sglang:num_running_reqs"),
      .kv_usage = SPEC("sglang:token_usage"),
      .cache_info = SPEC("sglang:cache_config_info"),
      .cache_block_size_label = TEXT("page_size"),
      .cache_blocks_label = TEXT("num_pages") },
    { .name = TEXT("trtllm-serve"),
      .waiting = SPEC("trtllm_num_requests_waiting"),
      .running = SPEC("trtllm_num_requests_running"),
      .kv_usage = SPEC("trtllm_kv_cache_utilization"),
      .cache_block_size = SPEC("trtllm_kv_cache_tokens_per_block"),
      .cache_blocks = SPEC("trtllm_kv_cache_max_blocks") },
    { .name = TEXT("triton-tensorrt-llm"),
      .waiting = SPEC1("nv_trt_llm_request_metrics", "request_type", "waiting"),
      .running = SPEC1("nv_trt_llm_request_metrics", "request_type", "scheduled"),
      .kv_usage = SPEC1("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "fraction"),
      .cache_block_size =
          SPEC1("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "tokens_per"),
      .cache_blocks = SPEC1("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "max") },
    { .name = TEXT("triton"),
      /* upstream's running requests, nv_inference_exec_count, count from the start: no load */
      .waiting = SPEC("nv_inference_pending_request_count") },
};

const struct metric_engine *metric_engine_built_in(size_t i)
{
    return i < COUNT(engines) ? &engines[i] : NULL;
}

const struct metric_engine *metric_engine_find(struct str name)
{
    for (size_t i = 0; i < COUNT(engines); i++)
        if (str_eq(engines[i].name, name))
            return &engines[i];
    return NULL;
}

/* Prometheus' names; only families may hold a colon. */
static bool is_name(struct str s, bool colon)
{
    for (size_t i = 0; i < s.n; i++)
        if (!isalpha((unsigned char)s.p[i]) && s.p[i] != '_' && !(colon && s.p[i] == ':') &&
            !(i != 0 && isdigit((unsigned char)s.p[i])))
            return false;
    return s.n != 0;
}

/* The next pair of *rest, cut off with the comma behind it. */
static bool take_pair(struct str *rest, struct metric_label *out)
{
    size_t eq = str_chr(*rest, '='), end;

    if (eq == SIZE_MAX)
        return false;
    out->name = str_trim(str_sub(*rest, 0, eq));
    *rest = str_trim(str_sub(*rest, eq + 1, SIZE_MAX));
    if (rest->n != 0 && rest->p[0] == '"') {
        *rest = str_sub(*rest, 1, SIZE_MAX);
        end = str_chr(*rest, '"');
        if (end == SIZE_MAX)
            return false;
        out->value = str_sub(*rest, 0, end);
        *rest = str_trim(str_sub(*rest, end + 1, SIZE_MAX));
        if (rest->n != 0 && rest->p[0] != ',')
            return false;
        *rest = str_sub(*rest, 1, SIZE_MAX);
    } else {
        out->value = str_trim(str_cut(rest, ','));
    }
    *rest = str_trim(*rest);
    return is_name(out->name, false);
}

static int parse_labels(struct metric_spec *out, struct str rest, struct arena *a, struct str text,
                        struct err *e)
{
    struct metric_label label[METRIC_SPEC_LABELS_MAX], *copy;
    uint32_t count = 0;

    rest = str_trim(rest);
    while (rest.n != 0) {
        if (count == METRIC_SPEC_LABELS_MAX)
            return err_set(e, ERR_LIMIT, "more than %d labels", METRIC_SPEC_LABELS_MAX);
        if (!take_pair(&rest, &label[count]))
            return err_set(e, ERR_PARSE,
                           "\"%.*s\" is no metric; write it as name or name{label=value}",
                           (int)MIN(text.n, (size_t)100), text.p);
        count++;
    }
    if (count == 0)
        return 0;
    copy = arena_try_zero(a, count, sizeof(*copy));
    for (uint32_t i = 0; copy != NULL && i < count; i++) {
        copy[i] =
            (struct metric_label) { arena_str(a, label[i].name), arena_str(a, label[i].value) };
        if (copy[i].name.p == NULL || copy[i].value.p == NULL)
            copy = NULL;
    }
    if (copy == NULL)
        return err_set(e, ERR_NOMEM, "no memory");
    out->label = copy;
    out->label_count = count;
    return 0;
}

int metric_spec_parse(struct metric_spec *out, struct str text, struct arena *a, struct err *e)
{
    struct str s = str_trim(text), name = s;
    size_t open = str_chr(s, '{');
    int rc = 0;

    *out = (struct metric_spec) { 0 };
    if (s.n == 0)
        return 0;
    if (open != SIZE_MAX)
        name = str_trim(str_sub(s, 0, open));
    if (!is_name(name, true) || (open != SIZE_MAX && s.p[s.n - 1] != '}'))
        return err_set(e, ERR_PARSE, "\"%.*s\" is no metric; write it as name or name{label=value}",
                       (int)MIN(s.n, (size_t)100), s.p);
    if (open != SIZE_MAX)
        rc = parse_labels(out, str_sub(s, open + 1, s.n - open - 2), a, s, e);
    if (rc != 0)
        return rc;
    out->name = arena_str(a, name);
    return out->name.p != NULL ? 0 : err_set(e, ERR_NOMEM, "no memory");
}
