/* Fuzz: batches are decoded, applied to an index that is checked against a copy fed by its changes,
 * and what we encode again decodes. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "kv/events.h"
#include "kv/index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_add(void *ctx, uint32_t endpoint, uint64_t key)
{
    kv_index_add(ctx, endpoint, key);
}

static void on_del(void *ctx, uint32_t endpoint, uint64_t key)
{
    kv_index_del(ctx, endpoint, key);
}

static void on_clear(void *ctx, uint32_t endpoint)
{
    kv_index_clear(ctx, endpoint);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kv_index_opts o = { .block_tokens = 4, .blocks_max = 64 };
    struct kv_index *x = kv_index_new(&o), *copy = kv_index_new(&o);
    struct kv_batch b, again;
    struct kv_apply_stats s;
    struct arena a;
    struct buf out;
    struct err e;
    uint32_t id;

    arena_init(&a, (size_t)16 << 20);
    buf_init(&out, (size_t)16 << 20);
    ASSERT(kv_index_endpoint(x, STR("e"), STR("m"), &id) == 0 &&
           kv_index_endpoint(copy, STR("e"), STR("m"), &id) == 0);
    kv_index_set_watch(x, &(struct kv_index_watch) { on_add, on_del, on_clear, copy });
    if (kv_batch_decode(&a, (struct str) { (const char *)data, size }, &b, &e) == 0) {
        for (int i = 0; i < 2; i++) {
            kv_index_apply(x, id, &b, &s);
            ASSERT(kv_index_total(x) <= o.blocks_max && kv_index_total(x) == kv_index_total(copy));
        }
        kv_batch_encode(&out, &b);
        ASSERT(out.failed || kv_batch_decode(&a, buf_view(&out), &again, &e) != 0 ||
               again.count == b.count);
    }
    buf_fini(&out);
    arena_fini(&a);
    kv_index_free(x);
    kv_index_free(copy);
    return 0;
}
