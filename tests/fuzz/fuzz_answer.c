/* Streamed answers, cut anywhere: the pieces that go on join to the same bytes, and what is seen in
 * them does not depend on the cut. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "gateway/answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str all = { (const char *)data, size };
    size_t whole = answer_whole_events(all), cut = size > 0 ? data[0] % (size + 1) : 0;
    size_t first = answer_whole_events((struct str) { all.p, cut });
    struct answer_seen once = { 0 }, twice = { 0 };
    struct answer_usage u = { 0 }, v = { 0 };

    ASSERT(whole <= size && first <= whole);
    ASSERT(whole == 0 || all.p[whole - 1] == '\n');
    answer_inspect((struct str) { all.p, whole }, &once, &u);
    answer_inspect((struct str) { all.p, first }, &twice, &v);
    answer_inspect((struct str) { all.p + first, whole - first }, &twice, &v);
    ASSERT(once.events == twice.events && once.done == twice.done && once.error == twice.error);
    answer_find_usage(all, &u);
    return 0;
}
