/* base/clock.h - the one home of time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H
#include <stdint.h>

uint64_t clock_ns(void);          /* monotonic */
uint64_t clock_ms(void);          /* monotonic */
double clock_wall_s(void);        /* seconds since 1970 */
void clock_sleep_ms(uint32_t ms); /* never on a loop */
#endif
