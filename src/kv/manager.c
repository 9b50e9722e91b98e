/* The cache manager put together: one loop, one index, its sources, its HTTP server.
 *
 * A tick of 100 ms moves replays on and sends the streams' heartbeats.  Ready
 * means that 95 of 100 sources were there and replayed, or that 30 s passed: the
 * index is a hint, and waiting longer for a dead worker would help nobody. */
// SPDX-License-Identifier: Apache-2.0
#include "kv/manager.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "kv/manager_priv.h"
#include <string.h>

#define READY_PERCENT  95
#define READY_MS       30000
#define BLOCKS_DEFAULT ((size_t)4 << 20)

static const double lookup_buckets[] = { 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4,
                                         1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2,   0.1 };

#define COUNTER(n, h)                                                                              \
    {                                                                                              \
        .kind = METRIC_COUNTER, .name = (n), .help = (h)                                           \
    }
#define COUNTER_BY(n, h, ...)                                                                      \
    {                                                                                              \
        .kind = METRIC_COUNTER, .name = (n), .help = (h), .labels = { __VA_ARGS__ }                \
    }
#define GAUGE(n, h)                                                                                \
    {                                                                                              \
        .kind = METRIC_GAUGE, .name = (n), .help = (h)                                             \
    }
#define GAUGE_BY(n, h, ...)                                                                        \
    {                                                                                              \
        .kind = METRIC_GAUGE, .name = (n), .help = (h), .labels = { __VA_ARGS__ }                  \
    }
#define EVENTS "llm_d_epp_kv_cache_events_"
#define INDEX  "llm_d_epp_kv_cache_index_"
static const struct metric_desc families[KM_COUNT] = {
    [KM_MESSAGES] =
        COUNTER_BY(EVENTS "messages_received_total", "Event messages received.", "pod_identifier"),
    [KM_RECONNECTS] = COUNTER_BY(EVENTS "subscriber_reconnections_total",
                                 "Event connections made again.", "pod_identifier"),
    [KM_ZMQ_ERRORS] =
        COUNTER(EVENTS "zmq_errors_total", "Messages that are not topic, sequence, payload."),
    [KM_SUBSCRIBERS] = GAUGE(EVENTS "active_subscribers", "Event connections that are up."),
    [KM_QUEUE_DEPTH] = GAUGE(EVENTS "pool_queue_depth", "Messages that wait for a replay."),
    [KM_QUEUE_CAP] = GAUGE(EVENTS "pool_capacity", "Messages that may wait, all sources."),
    [KM_STORES_SKIPPED] = COUNTER_BY(EVENTS "stores_skipped_total",
                                     "BlockStored events not indexed.", "cache_kind", "reason"),
    [KM_REMOVALS_SKIPPED] = COUNTER_BY(EVENTS "removals_skipped_total",
                                       "BlockRemoved events not applied.", "cache_kind", "reason"),
    [KM_SUPPRESSED] = COUNTER(EVENTS "dedup_removed_hashes_suppressed_total",
                              "Removals that left another reference."),
    [KM_FORWARDED] = COUNTER(EVENTS "dedup_removed_hashes_forwarded_total",
                             "Removals that took the last reference."),
    [KM_ADMISSIONS] = COUNTER(INDEX "admissions_total", "Blocks announced and indexed."),
    [KM_EVICTIONS] = COUNTER(INDEX "evictions_total", "Blocks removed by their workers."),
    [KM_LOOKUPS] = COUNTER(INDEX "lookup_requests_total", "Look-ups answered."),
    [KM_LOOKUP_HITS] = COUNTER(INDEX "lookup_hits_total",
                               "Leading blocks found, by the best endpoint of each look-up."),
    [KM_MAX_HIT] = COUNTER(INDEX "max_pod_hit_count_total",
                           "Sum of the best endpoint's blocks over look-ups."),
    [KM_LOOKUP_SECONDS] = { .kind = METRIC_HISTOGRAM,
                            .name = INDEX "lookup_latency_seconds",
                            .help = "Hashing and matching of one look-up.",
                            .buckets = lookup_buckets,
                            .bucket_count = COUNT(lookup_buckets) },
    [KM_BLOCKS] = GAUGE("llmd_kv_index_blocks", "Pairs of block and endpoint in the index."),
    [KM_BYTES] = GAUGE("llmd_kv_index_bytes", "Memory of the index."),
    [KM_ENDPOINT_BLOCKS] =
        GAUGE_BY("llmd_kv_endpoint_blocks", "Blocks an endpoint holds.", "endpoint"),
    [KM_SOURCES] = GAUGE("llmd_kv_sources", "Publishers of KV events that are known."),
    [KM_SOURCE_UP] =
        GAUGE_BY("llmd_kv_source_up", "1 = the source's event connection is up.", "source"),
    [KM_GAP] = COUNTER("llmd_kv_events_gap_total", "Holes in the sequence of a source."),
    [KM_ORPHAN] = COUNTER("llmd_kv_events_orphan_total",
                          "Blocks stored under an unknown parent: not indexed."),
    [KM_DUPLICATE] =
        COUNTER("llmd_kv_events_duplicate_total", "Messages that came twice: dropped."),
    [KM_LAG] = GAUGE_BY("llmd_kv_events_lag_seconds",
                        "Age of a source's last batch when it was applied.", "source"),
    [KM_RESYNC] = COUNTER_BY("llmd_kv_resync_total",
                             "Sources whose blocks were dropped, by reason.", "reason"),
    [KM_STREAMS] = GAUGE("llmd_kv_index_streams", "Schedulers that follow the index."),
    [KM_STREAM_OVERFLOWS] = COUNTER("llmd_kv_index_stream_overflows_total",
                                    "Followers cut off because they read too slowly."),
    [KM_FOLLOWED] = GAUGE_BY("llmd_kube_followed",
                             "1 while the objects of the kind are followed; 0: the last view is "
                             "used.",
                             "resource"),
    [KM_FOLLOW_ERRORS] =
        COUNTER_BY("llmd_kube_errors_total", "Lists and watches that failed.", "resource"),
};

/* Cells that shall exist from the start, at zero. */
static const char *const resync_reasons[] = { "disconnect", "restart",   "gap",
                                              "parse",      "uncertain", "replay_failed" };

struct metric_cell *kv_metric(struct kv_manager *m, enum kv_metric f, const char *value)
{
    return metrics_cell(m->metrics, f, &value);
}

void kv_manager_gauges(struct kv_manager *m)
{
    size_t up = 0, depth = 0;

    for (size_t i = 0; i < m->source_count; i++) {
        const struct kv_source *s = m->source[i];

        up += s->is_up;
        depth += s->queue_count;
        metric_set(kv_metric(m, KM_SOURCE_UP, s->name), s->is_up);
        metric_set(kv_metric(m, KM_LAG, s->name), s->lag_s);
    }
    for (uint32_t i = 0; i < kv_index_endpoint_count(m->index); i++)
        metric_set(kv_metric(m, KM_ENDPOINT_BLOCKS, kv_index_address(m->index, i).p),
                   (double)kv_index_blocks(m->index, i));
    metric_set(m->cell[KM_SUBSCRIBERS], (double)up);
    metric_set(m->cell[KM_SOURCES], (double)m->source_count);
    metric_set(m->cell[KM_QUEUE_DEPTH], (double)depth);
    metric_set(m->cell[KM_QUEUE_CAP], (double)KV_QUEUE_COUNT_MAX * (double)m->source_count);
    metric_set(m->cell[KM_BLOCKS], (double)kv_index_total(m->index));
    metric_set(m->cell[KM_BYTES], (double)kv_index_bytes(m->index));
}

void kv_manager_check_ready(struct kv_manager *m)
{
    size_t whole = 0;

    if (m->is_ready)
        return;
    for (size_t i = 0; i < m->source_count; i++)
        whole += m->source[i]->is_up && m->source[i]->replay == KV_REPLAY_NONE;
    if (whole * 100 < m->source_count * READY_PERCENT &&
        loop_now_ms(m->loop) - m->start_ms < READY_MS)
        return;
    m->is_ready = true;
    LOG_INFO("cache manager ready sources=%zu of=%zu blocks=%llu", whole, m->source_count,
             (unsigned long long)kv_index_total(m->index));
}

static void on_tick(void *ctx)
{
    struct kv_manager *m = ctx;
    uint64_t now = loop_now_ms(m->loop);

    for (size_t i = 0; i < m->source_count; i++)
        kv_source_tick(m->source[i], now);
    kv_manager_check_ready(m);
    if (now - m->beat_ms >= KV_STREAM_BEAT_MS) {
        m->beat_ms = now;
        kv_publish_beat(m);
    }
}

static int check_sources(const struct kv_source_opts *list, size_t count, struct err *e)
{
    if (count > KV_SOURCES_MAX)
        return err_set(e, ERR_LIMIT, "%zu endpoints, at most %d", count, KV_SOURCES_MAX);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < i; k++) {
            if (str_eq(list[i].name, list[k].name))
                return err_set(e, ERR_INVAL, "two endpoints are named '%.*s'",
                               STR_ARG(list[i].name));
            if (list[i].address.p != NULL && str_eq(list[i].address, list[k].address))
                return err_set(e, ERR_INVAL, "two endpoints have the address %.*s",
                               STR_ARG(list[i].address));
        }
    return 0;
}

/* The source that was opened with the very same words, or SIZE_MAX. */
static size_t find_source(const struct kv_manager *m, const char *spec)
{
    for (size_t i = 0; i < m->source_count; i++)
        if (strcmp(m->source[i]->spec, spec) == 0)
            return i;
    return SIZE_MAX;
}

static char *spec_of(const struct kv_source_opts *o)
{
    struct buf b;
    size_t n;

    buf_init(&b, 4096);
    buf_f(&b, "%.*s=%.*s@%.*s@%.*s", STR_ARG(o->name), STR_ARG(o->address), STR_ARG(o->events),
          STR_ARG(o->replay));
    buf_c(&b, 0);
    return buf_take(&b, &n);
}

static int add_source(struct kv_manager *m, const struct kv_source_opts *o, struct err *e)
{
    struct kv_source *s = mem_zalloc(sizeof(*s));

    s->m = m;
    s->spec = spec_of(o);
    m->source = mem_realloc(m->source, (m->source_count + 1) * sizeof(struct kv_source *));
    m->source[m->source_count++] = s;
    return kv_source_open(s, o, e);
}

/* What it held is forgotten: nobody says any more what becomes of it. */
static void drop_source(struct kv_manager *m, size_t i)
{
    struct kv_source *s = m->source[i];

    LOG_INFO("cache manager: source left name=%s", s->name);
    if (s->has_endpoint)
        kv_index_clear(m->index, s->endpoint);
    kv_publish(m);
    metrics_drop(m->metrics, KM_SOURCE_UP, 0, s->name);
    metrics_drop(m->metrics, KM_LAG, 0, s->name);
    kv_source_close(s);
    m->source[i] = m->source[--m->source_count];
}

int kv_manager_set_sources(struct kv_manager *m, const struct kv_source_opts *list, size_t count,
                           struct err *e)
{
    int rc = check_sources(list, count, e);
    bool *keep;

    if (rc != 0)
        return rc;
    keep = mem_zalloc(m->source_count + count + 1);
    for (size_t i = 0; i < count; i++) {
        char *spec = spec_of(&list[i]);
        size_t at = find_source(m, spec);

        if (at != SIZE_MAX)
            keep[at] = true;
        mem_free(spec);
    }
    for (size_t i = m->source_count; i-- > 0;)
        if (!keep[i])
            drop_source(m, i);
    mem_free(keep);
    for (size_t i = 0; i < count && rc == 0; i++) {
        char *spec = spec_of(&list[i]);

        if (find_source(m, spec) == SIZE_MAX) {
            LOG_INFO("cache manager: source found name=%.*s events=%.*s", STR_ARG(list[i].name),
                     STR_ARG(list[i].events));
            rc = add_source(m, &list[i], e);
        }
        mem_free(spec);
    }
    return rc;
}

int kv_manager_open(struct loop *l, const struct kv_manager_opts *o, struct kv_manager **out,
                    struct err *e)
{
    struct http_server_opts http = { .host = o->host,
                                     .port = o->port,
                                     .server_name = "llmd-cache" };
    struct kv_manager *m;
    int rc = check_sources(o->sources, o->source_count, e);

    *out = NULL;
    if (rc != 0)
        return rc;
    m = mem_zalloc(sizeof(*m));
    m->loop = l;
    m->model = mem_strdup(o->model != NULL ? o->model : "");
    m->seed = mem_strdup(o->index.seed != NULL ? o->index.seed : "");
    m->index_opts = o->index;
    m->index_opts.seed = m->seed;
    if (m->index_opts.block_tokens == 0)
        m->index_opts.block_tokens = BLOCKKEY_TOKENS_DEFAULT;
    if (m->index_opts.blocks_max == 0)
        m->index_opts.blocks_max = BLOCKS_DEFAULT;
    m->index = kv_index_new(&m->index_opts);
    m->metrics = metrics_new(families, KM_COUNT);
    for (size_t f = 0; f < KM_COUNT; f++)
        if (families[f].labels[0] == NULL)
            m->cell[f] = metrics_cell(m->metrics, f, NULL);
    for (size_t i = 0; i < COUNT(resync_reasons); i++)
        (void)kv_metric(m, KM_RESYNC, resync_reasons[i]);
    kv_publish_init(m);
    m->start_ms = m->beat_ms = loop_now_ms(l);
    rc = http_server_open(l, &http, kv_manager_handle, m, &m->http, e);
    for (size_t i = 0; rc == 0 && i < o->source_count; i++)
        rc = add_source(m, &o->sources[i], e);
    if (rc != 0) {
        kv_manager_close(m);
        return rc;
    }
    m->is_ready = o->source_count == 0;
    m->tick = loop_timer_new(l, on_tick, m);
    loop_timer_arm(m->tick, KV_TICK_MS, KV_TICK_MS);
    *out = m;
    return 0;
}

void kv_manager_discovery(struct kv_manager *m, const char *what, bool is_followed, uint64_t errors)
{
    metric_set(kv_metric(m, KM_FOLLOWED, what), is_followed);
    metric_add(kv_metric(m, KM_FOLLOW_ERRORS, what), (double)errors);
}

size_t kv_manager_sources_up(const struct kv_manager *m)
{
    size_t up = 0;

    for (size_t i = 0; i < m->source_count; i++)
        up += m->source[i]->is_up;
    return up;
}

uint16_t kv_manager_port(const struct kv_manager *m)
{
    return http_server_port(m->http);
}

const struct kv_index *kv_manager_index(const struct kv_manager *m)
{
    return m->index;
}

void kv_manager_close(struct kv_manager *m)
{
    if (m == NULL)
        return;
    loop_timer_free(m->tick);
    for (size_t i = 0; i < m->source_count; i++)
        kv_source_close(m->source[i]);
    kv_publish_fini(m);
    if (m->http != NULL)
        http_server_close(m->http);
    kv_index_free(m->index);
    metrics_free(m->metrics);
    mem_free(m->source);
    mem_free(m->model);
    mem_free(m->seed);
    mem_free(m);
}
