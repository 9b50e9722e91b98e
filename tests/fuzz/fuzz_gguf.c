/* GGUF: whatever opens can be read to its last byte, and described when it is a model. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "model/model.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t touch(const uint8_t *p, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum = sum * 31 + p[i];
    return sum;
}

static volatile uint64_t sink; /* what is summed here was really read */

static void walk(const struct gguf *g)
{
    float row[256];

    for (size_t i = 0; i < gguf_kv_count(g); i++) {
        const struct gguf_value *v = gguf_kv_value(g, i);
        double f;

        sink += touch(v->p, (size_t)(v->end - v->p));
        for (uint64_t k = 0; v->strings != NULL && k < v->count; k++)
            sink += touch((const uint8_t *)v->strings[k].p, v->strings[k].n);
        (void)gguf_value_f64(v, v->type == GGUF_ARRAY && v->count > 0 ? v->count - 1 : 0, &f);
    }
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);

        sink += touch(t->data, t->size);
        tensor_dequant_row(t->type, t->data, row, tensor_block_elems(t->type));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g;
    struct model *m;
    struct buf out;
    struct err e;

    if (gguf_open_bytes(&g, (struct str) { (const char *)data, size }, &e) != 0) {
        ASSERT(strchr(e.msg, '\n') == NULL);
        return 0;
    }
    walk(g);
    if (model_from_gguf(&m, g, &e) != 0) {
        ASSERT(strchr(e.msg, '\n') == NULL);
        return 0;
    }
    buf_init(&out, 1 << 20);
    model_describe(m, &out);
    buf_fini(&out);
    model_close(m);
    return 0;
}
