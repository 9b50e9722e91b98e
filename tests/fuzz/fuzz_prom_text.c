/* Scraped metrics: any bytes, every sample within them. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "gateway/engine.h"
#include "gateway/prom_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct str names[] = { { "vllm:num_requests_running", 25 },
                                    { "vllm:kv_cache_usage_perc", 24 },
                                    { "vllm:cache_config_info", 22 },
                                    { "llmd_blocks_in_use", 18 },
                                    { "a", 1 } };

struct bounds {
    const char *from, *to;
};

static void check(const struct bounds *b, struct str s)
{
    ASSERT(s.n == 0 || (s.p >= b->from && s.p + s.n <= b->to));
}

static void on_sample(void *ctx, size_t which, struct str labels, double value)
{
    static const char *const keys[] = { "block_size", "engine", "a", "" };

    ASSERT(which < COUNT(names));
    ASSERT(value == value);
    check(ctx, labels);
    for (size_t i = 0; i < COUNT(keys); i++) {
        struct str v = STR_NONE;

        if (prom_label(labels, keys[i], &v))
            check(ctx, v);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = { (const char *)data, size };
    struct bounds b = { text.p, text.p + size };
    const struct metric_engine *m;
    struct engine_page page;

    (void)prom_scan(text, names, COUNT(names), on_sample, &b);
    for (size_t i = 0; (m = metric_engine_built_in(i)) != NULL; i++) {
        engine_read(m, text, &page);
        ASSERT(page.waiting == page.waiting && page.kv_usage == page.kv_usage);
        check(&b, page.lora_running);
        check(&b, page.lora_waiting);
        check(&b, page.lora_max);
    }
    return 0;
}
