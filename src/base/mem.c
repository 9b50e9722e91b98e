// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "base/check.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_BYTES ((size_t)2 << 20)

static _Atomic uint64_t fail_at;

_Noreturn void check_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "llmd: bug at %s:%d: %s\n", file, line, what);
    abort();
}

static _Noreturn void out_of_memory(size_t size)
{
    fprintf(stderr, "llmd: out of memory (%zu bytes)\n", size);
    abort();
}

void *mem_alloc(size_t size)
{
    void *p = malloc(size != 0 ? size : 1);

    if (p == NULL)
        out_of_memory(size);
    return p;
}

void *mem_zalloc(size_t size)
{
    void *p = calloc(1, size != 0 ? size : 1);

    if (p == NULL)
        out_of_memory(size);
    return p;
}

void *mem_realloc(void *p, size_t size)
{
    void *q = realloc(p, size != 0 ? size : 1);

    if (q == NULL)
        out_of_memory(size);
    return q;
}

void *mem_dup(const void *p, size_t size)
{
    void *q = mem_alloc(size);

    if (size != 0)
        memcpy(q, p, size);
    return q;
}

char *mem_strdup(const char *s)
{
    return mem_dup(s, strlen(s) + 1);
}

void mem_free(void *p)
{
    free(p);
}

static bool refused(void)
{
    uint64_t n = atomic_load_explicit(&fail_at, memory_order_relaxed);

    while (n != 0) /* relaxed: a test's own counter, nothing is published by it */
        if (atomic_compare_exchange_weak_explicit(&fail_at, &n, n - 1, memory_order_relaxed,
                                                  memory_order_relaxed))
            return n == 1;
    return false;
}

void *mem_try(size_t size)
{
    return refused() ? NULL : malloc(size != 0 ? size : 1);
}

void *mem_try_zero(size_t count, size_t size)
{
    size_t all;

    if (!size_mul(count, size, &all) || refused())
        return NULL;
    return calloc(1, all != 0 ? all : 1);
}

void *mem_try_realloc(void *p, size_t size)
{
    return refused() ? NULL : realloc(p, size != 0 ? size : 1);
}

static size_t pages_size(size_t size)
{
    size_t unit = size >= HUGE_BYTES ? HUGE_BYTES : 4096;

    return (size + unit - 1) / unit * unit;
}

void *mem_pages(size_t size)
{
    size_t all = pages_size(size), slack = all >= HUGE_BYTES ? HUGE_BYTES : 0;
    char *p, *q;

    if (size == 0 || all < size || refused())
        return NULL;
    p = mmap(NULL, all + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (slack == 0)
        return p;
    q = (char *)(((uintptr_t)p + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES);
    if (q != p)
        munmap(p, (size_t)(q - p));
    if (q + all != p + all + slack)
        munmap(q + all, (size_t)(p + all + slack - (q + all)));
    (void)madvise(q, all, MADV_HUGEPAGE);
    return q;
}

void mem_pages_free(void *p, size_t size)
{
    if (p != NULL)
        munmap(p, pages_size(size));
}

bool size_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

bool size_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

void mem_fail_at(uint64_t nth)
{
    atomic_store_explicit(&fail_at, nth, memory_order_relaxed);
}
