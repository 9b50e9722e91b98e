/* gateway/budget.h - the retry budget: at most a tenth of the requests of the last ten seconds,
 * but always three a second.  A fleet that is down must not get its load multiplied by retries.
 * Source: the project's reliability page, RTY-05.  Threads: one owner. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_BUDGET_H
#define GATEWAY_BUDGET_H
#include <stdbool.h>
#include <stdint.h>

#define RETRY_WINDOW_S    10
#define RETRY_FLOOR_PER_S 3

/* Zeroed is valid. */
struct retry_budget {
    uint64_t second[RETRY_WINDOW_S];
    uint32_t requests[RETRY_WINDOW_S], retries[RETRY_WINDOW_S];
};

void retry_budget_request(struct retry_budget *b, uint64_t now_ms);
/* Takes one retry; false: the budget is spent. */
bool retry_budget_take(struct retry_budget *b, uint64_t now_ms);
#endif
