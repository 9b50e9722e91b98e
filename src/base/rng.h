/* base/rng.h - random numbers: seeded and repeatable, or from the kernel.
 * xoshiro256** (Blackman, Vigna), seeded through splitmix64. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_RNG_H
#define BASE_RNG_H
#include <stddef.h>
#include <stdint.h>

struct rng {
    uint64_t s[4];
};

void rng_seed(struct rng *r, uint64_t seed);
uint64_t rng_u64(struct rng *r);
double rng_f64(struct rng *r);                 /* [0, 1) */
uint64_t rng_below(struct rng *r, uint64_t n); /* [0, n), n > 0 */
void rng_secure(void *p, size_t n);            /* getrandom; aborts if the kernel refuses */
uint64_t rng_secure_u64(void);
#endif
