/* One bucket a second; a bucket that is met with another second in it starts anew. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/budget.h"
#include "base/check.h"

static uint32_t bucket(struct retry_budget *b, uint64_t now_ms)
{
    uint64_t s = now_ms / 1000;
    uint32_t i = (uint32_t)(s % RETRY_WINDOW_S);

    if (b->second[i] != s) {
        b->second[i] = s;
        b->requests[i] = 0;
        b->retries[i] = 0;
    }
    return i;
}

void retry_budget_request(struct retry_budget *b, uint64_t now_ms)
{
    b->requests[bucket(b, now_ms)]++;
}

bool retry_budget_take(struct retry_budget *b, uint64_t now_ms)
{
    uint64_t now_s = now_ms / 1000, requests = 0, retries = 0;
    uint32_t here = bucket(b, now_ms);

    for (uint32_t i = 0; i < RETRY_WINDOW_S; i++)
        if (b->second[i] + RETRY_WINDOW_S > now_s) {
            requests += b->requests[i];
            retries += b->retries[i];
        }
    if (retries >= MAX(requests / 10, (uint64_t)RETRY_FLOOR_PER_S * RETRY_WINDOW_S))
        return false;
    b->retries[here]++;
    return true;
}
