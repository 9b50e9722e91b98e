/* KVX frames: the first byte cuts the rest in two. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "transfer/kvx_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int on_frame(void *ctx, const struct kvx_frame *f)
{
    size_t *sum = ctx;

    for (size_t i = 0; i < f->body.n; i++)
        *sum += (uint8_t)f->body.p[i];
    *sum += f->header.has;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kvx_reader r;
    size_t cut, sum = 0;

    if (size == 0)
        return 0;
    cut = MIN((size_t)data[0], size - 1);
    kvx_reader_init(&r, 4096);
    if (kvx_reader_feed(&r, (struct str) { (const char *)data + 1, cut }, on_frame, &sum) == 0)
        (void)!kvx_reader_feed(&r, (struct str) { (const char *)data + 1 + cut, size - 1 - cut },
                               on_frame, &sum);
    kvx_reader_fini(&r);
    return 0;
}
