// SPDX-License-Identifier: Apache-2.0
#include "base/rng.h"
#include "base/check.h"
#include <sys/random.h>

static uint64_t splitmix(uint64_t *x)
{
    uint64_t z = (*x += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t rotl(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

void rng_seed(struct rng *r, uint64_t seed)
{
    for (size_t i = 0; i < COUNT(r->s); i++)
        r->s[i] = splitmix(&seed);
}

uint64_t rng_u64(struct rng *r)
{
    uint64_t *s = r->s, out = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return out;
}

double rng_f64(struct rng *r)
{
    return (double)(rng_u64(r) >> 11) * 0x1p-53;
}

uint64_t rng_below(struct rng *r, uint64_t n)
{
    __extension__ typedef unsigned __int128 u128;
    u128 wide = (u128)rng_u64(r) * n;

    return (uint64_t)(wide >> 64);
}

void rng_secure(void *p, size_t n)
{
    char *at = p;

    while (n != 0) {
        ssize_t got = getrandom(at, n, 0);

        if (got < 0)
            continue;
        at += got;
        n -= (size_t)got;
    }
}

uint64_t rng_secure_u64(void)
{
    uint64_t v;

    rng_secure(&v, sizeof(v));
    return v;
}
