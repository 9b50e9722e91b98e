/* One walk over the page for all names of an engine: several specs may ask the same family for
 * different labels, so a sample is held against each of them. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/engine.h"
#include "base/check.h"
#include "gateway/prom_text.h"
#include "sched/plugins_data.h"
#include <string.h>

#define LABEL_NAME_MAX 128

enum { S_WAITING, S_RUNNING, S_KV_USAGE, S_BLOCK_TOKENS, S_BLOCKS, S_LORA, S_CACHE_INFO, S_COUNT };

#define SPECS_MAX (S_COUNT + METRIC_CUSTOM_MAX)

struct walk {
    const struct metric_engine *m;
    struct engine_page *out;
    const struct metric_spec *spec[SPECS_MAX]; /* custom ones from S_COUNT on */
    struct str name[SPECS_MAX];
    bool found[SPECS_MAX];
    size_t count;
};

/* ---- whose names ---- */

static const struct data_core_metrics_params *extractor_of(const struct sched_config *c)
{
    for (uint32_t i = 0; c != NULL && i < c->plugin_count; i++)
        if (strcmp(c->plugin[i].type->type, "core-metrics-extractor") == 0)
            return c->plugin[i].params;
    return NULL;
}

static struct str label_of(const struct sched_label *label, uint32_t count, struct str key)
{
    for (uint32_t i = 0; i < count; i++)
        if (str_eq(label[i].key, key))
            return label[i].value;
    return STR("");
}

const struct metric_engine *engine_of(const struct sched_config *c, const struct sched_label *label,
                                      uint32_t label_count)
{
    const struct data_core_metrics_params *p = extractor_of(c);
    const struct metric_engine *m;
    struct str name;

    if (p == NULL)
        return NULL;
    name = label_of(label, label_count, p->engine_label_key);
    if (name.n == 0)
        name = label_of(label, label_count, STR(DATA_ENGINE_LABEL_LEGACY));
    m = data_engine(p, name);
    for (uint32_t i = 0; i < p->engine_count; i++)
        if (m == &p->engine[i])
            return m;
    if (name.n != 0 && str_eq(m->name, name))
        return m;
    return str_eqz(m->name, "vllm") ? NULL : m; /* vllm is the default of who says nothing */
}

/* ---- the page ---- */

static bool label_value(struct str labels, struct str name, struct str *out)
{
    char z[LABEL_NAME_MAX];

    if (name.n == 0 || name.n >= sizeof(z))
        return false;
    memcpy(z, name.p, name.n);
    z[name.n] = 0;
    return prom_label(labels, z, out);
}

static bool is_of(const struct metric_spec *spec, struct str labels)
{
    for (uint32_t i = 0; i < spec->label_count; i++) {
        struct str value;

        if (!label_value(labels, spec->label[i].name, &value) ||
            !str_eq(value, spec->label[i].value))
            return false;
    }
    return true;
}

static void take_number(struct str labels, struct str name, double *out)
{
    struct str text;
    uint64_t n;

    if (label_value(labels, name, &text) && str_u64(text, &n))
        *out = (double)n;
}

static void take_lora(struct engine_page *o, struct str labels, double value)
{
    if (o->has_lora && value <= o->lora_at)
        return;
    o->has_lora = true;
    o->lora_at = value;
    o->lora_running = o->lora_waiting = o->lora_max = STR_NONE;
    (void)prom_label(labels, "running_lora_adapters", &o->lora_running);
    (void)prom_label(labels, "waiting_lora_adapters", &o->lora_waiting);
    (void)prom_label(labels, "max_lora", &o->lora_max);
}

static void take(struct walk *w, size_t spec, struct str labels, double value)
{
    struct engine_page *o = w->out;

    switch (spec) {
    case S_WAITING: o->waiting += value; return;
    case S_RUNNING: o->running += value; return;
    case S_KV_USAGE: o->kv_usage = MAX(o->kv_usage, value); return;
    case S_BLOCK_TOKENS: o->block_tokens = value; return;
    case S_BLOCKS: o->blocks = value; return;
    case S_LORA: take_lora(o, labels, value); return;
    case S_CACHE_INFO:
        take_number(labels, w->m->cache_block_size_label, &o->block_tokens);
        take_number(labels, w->m->cache_blocks_label, &o->blocks);
        return;
    default: break;
    }
    spec -= S_COUNT;
    if (!o->has_custom[spec])
        o->custom[spec] = value;
    o->has_custom[spec] = true;
}

static void on_sample(void *ctx, size_t which, struct str labels, double value)
{
    struct walk *w = ctx;

    for (size_t i = which; i < w->count; i++) /* `which` is the first of its name */
        if (str_eq(w->name[i], w->name[which]) && is_of(w->spec[i], labels)) {
            w->found[i] = true;
            take(w, i, labels, value);
        }
}

void engine_read(const struct metric_engine *m, struct str page, struct engine_page *out)
{
    struct walk w = {
        .m = m,
        .out = out,
        .spec = { [S_WAITING] = &m->waiting,
                  [S_RUNNING] = &m->running,
                  [S_KV_USAGE] = &m->kv_usage,
                  [S_BLOCK_TOKENS] = &m->cache_block_size,
                  [S_BLOCKS] = &m->cache_blocks,
                  [S_LORA] = &m->lora,
                  [S_CACHE_INFO] = &m->cache_info },
        .count = S_COUNT + m->custom_count,
    };

    ASSERT(m->custom_count <= METRIC_CUSTOM_MAX);
    for (uint32_t i = 0; i < m->custom_count; i++)
        w.spec[S_COUNT + i] = &m->custom[i].spec;
    for (size_t i = 0; i < w.count; i++)
        w.name[i] = w.spec[i]->name;
    *out = (struct engine_page) { 0 };
    (void)prom_scan(page, w.name, w.count, on_sample, &w);
    for (size_t i = 0; i < w.count; i++)
        out->missing += w.name[i].n != 0 && !w.found[i];
}
