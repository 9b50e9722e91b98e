/* The compute pool: few parallel regions, dynamic tickets, bounded spin, then futex.
 *
 *   caller:  job fields, left = count, ticket = (epoch, 0) --> takes tickets --> waits left == 0
 *   worker:  spins on ticket --> CAS (epoch, i) -> (epoch, i + 1) --> fn(ctx, i) --> left - 1
 *
 * Epoch and next index are one 64-bit word.  A worker reads the job's fields first and then takes
 * its ticket by compare-and-swap: it succeeds only while that very ticket of that very region is
 * free, and a region cannot end with a free ticket, so the fields belong to it.  A worker that was
 * preempted at any other moment delays nobody.
 *
 * Waiting costs at most SPIN_NS of a core, then the thread sleeps; SPIN_BUSY_NS while other
 * processes compete for our cores (involuntary context switches grow), where spinning would only
 * burn the time slice that the other thread needs. */
// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"
#include "base/cpus.h"
#include "base/mem.h"
#include "kernels/kern_priv.h"
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPIN_NS        40000
#define SPIN_BUSY_NS   2000
#define CONTENTION_RUN 256 /* regions between two looks at the context switches */
#define THREADS_MAX    256
#define LINE           64

typedef void pool_fn(void *ctx, uint32_t i, uint32_t thread);

struct worker {
    pthread_t thread;
    struct kern_pool *pool;
    uint32_t index;
};

struct kern_pool {
    /* Written by the caller before a region, read by workers. */
    _Atomic(pool_fn *) fn;
    _Atomic(void *) ctx;
    _Atomic uint32_t count;
    _Atomic uint32_t spin_ns; /* 0 = park at once */
    atomic_bool stop;
    /* Epoch in the high half, next index in the low half. */
    _Alignas(LINE) _Atomic uint64_t ticket;
    /* Tickets not finished yet.  Futex of a caller that gave up spinning. */
    _Alignas(LINE) _Atomic uint32_t left;
    atomic_bool caller_asleep;
    /* Region counter as a futex word, and how many workers sleep on it. */
    _Alignas(LINE) _Atomic uint32_t bell;
    _Atomic uint32_t asleep;
    _Alignas(LINE) struct worker *worker;
    uint32_t threads, regions;
    long switches;
    void *base; /* what was allocated; the pool itself is aligned */
    char *scratch_base, *scratch;
    void *work[2];
    size_t work_size[2];
};

static void relax(void)
{
#ifdef KERN_X86
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/* Takes and runs tickets of whatever region is open; returns when none is free. */
static void take_tickets(struct kern_pool *p, uint32_t thread)
{
    /* acquire: pairs with the caller's release in kern_pool_run, so the fields are its job's */
    uint64_t t = atomic_load_explicit(&p->ticket, memory_order_acquire);

    for (;;) {
        pool_fn *fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
        void *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);
        uint32_t i = (uint32_t)t;

        /* acquire: pairs with the release of count, so that a new count is never seen together
         * with the ticket of the region before */
        if (i >= atomic_load_explicit(&p->count, memory_order_acquire)) {
            uint64_t again = atomic_load_explicit(&p->ticket, memory_order_acquire);

            if (again == t)
                return;
            t = again;
            continue;
        }
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &t, t + 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        fn(ctx, i, thread);
        /* seq_cst: results are visible before the count, and the count before caller_asleep is
         * read; the caller does the mirror image */
        if (atomic_fetch_sub(&p->left, 1) == 1 && atomic_load(&p->caller_asleep))
            futex_wake(&p->left, 1);
        t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    }
}

/* Waits for a region other than the `seen` one: spins, then sleeps.  Returns the bell's value. */
static uint32_t wait_for_region(struct kern_pool *p, uint32_t seen)
{
    uint64_t start = clock_ns();
    uint32_t now;

    for (uint32_t i = 0;; i++) {
        now = atomic_load_explicit(&p->bell, memory_order_acquire);
        if (now != seen)
            return now;
        relax();
        if (i % 16 == 15 &&
            clock_ns() - start >= atomic_load_explicit(&p->spin_ns, memory_order_relaxed))
            break;
    }
    atomic_fetch_add(&p->asleep, 1); /* seq_cst: counted before the bell is looked at again */
    while ((now = atomic_load(&p->bell)) == seen)
        futex_wait(&p->bell, seen);
    atomic_fetch_sub(&p->asleep, 1);
    return now;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct kern_pool *p = w->pool;
    uint32_t seen = 0;

    for (;;) {
        seen = wait_for_region(p, seen);
        if (atomic_load_explicit(&p->stop, memory_order_acquire))
            return NULL;
        take_tickets(p, w->index);
    }
}

struct kern_pool *kern_pool_new(uint32_t threads)
{
    char *base = mem_zalloc(sizeof(struct kern_pool) + LINE);
    struct kern_pool *p = (void *)(base + LINE - (uintptr_t)base % LINE);
    sigset_t all, old;

    p->base = base;
    if (threads == 0)
        threads = cpus_allowed();
    threads = MIN(threads, THREADS_MAX);
    atomic_store(&p->spin_ns, SPIN_NS);
    p->scratch_base = mem_alloc(threads * KERN_SCRATCH + 4096);
    p->scratch = p->scratch_base + 4096 - (uintptr_t)p->scratch_base % 4096;
    p->worker = mem_zalloc(threads * sizeof(*p->worker));
    p->threads = 1;
    /* Signals belong to the daemon's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (uint32_t i = 1; i < threads; i++) {
        struct worker *w = &p->worker[i];

        w->pool = p;
        w->index = i;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
            break; /* fewer threads compute the same */
        (void)pthread_setname_np(w->thread, "llmd-compute");
        p->threads++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return p;
}

static void ring(struct kern_pool *p)
{
    atomic_fetch_add(&p->bell, 1); /* seq_cst: before asleep is read */
    if (atomic_load(&p->asleep) != 0)
        futex_wake(&p->bell, THREADS_MAX);
}

void kern_pool_free(struct kern_pool *p)
{
    if (p == NULL)
        return;
    atomic_store_explicit(&p->stop, true, memory_order_release);
    ring(p);
    for (uint32_t i = 1; i < p->threads; i++)
        pthread_join(p->worker[i].thread, NULL);
    mem_free(p->work[0]);
    mem_free(p->work[1]);
    mem_free(p->worker);
    mem_free(p->scratch_base);
    mem_free(p->base);
}

uint32_t kern_pool_threads(const struct kern_pool *p)
{
    return p->threads;
}

void *kern_pool_scratch(struct kern_pool *p, uint32_t thread)
{
    return p->scratch + thread * KERN_SCRATCH;
}

void *kern_pool_work(struct kern_pool *p, uint32_t which, size_t size)
{
    if (p->work_size[which] < size) {
        mem_free(p->work[which]);
        p->work[which] = mem_alloc(size + size / 2);
        p->work_size[which] = size + size / 2;
    }
    return p->work[which];
}

/* Now and then: are other processes taking our cores away? */
static void watch_contention(struct kern_pool *p)
{
    struct rusage ru;

    if (++p->regions % CONTENTION_RUN != 0 || getrusage(RUSAGE_THREAD, &ru) != 0)
        return;
    atomic_store_explicit(&p->spin_ns, ru.ru_nivcsw > p->switches + 1 ? SPIN_BUSY_NS : SPIN_NS,
                          memory_order_relaxed);
    p->switches = ru.ru_nivcsw;
}

static void wait_for_workers(struct kern_pool *p)
{
    uint64_t start = 0;
    uint32_t left;

    for (uint32_t i = 0; atomic_load_explicit(&p->left, memory_order_acquire) != 0; i++) {
        relax();
        if (i % 16 != 15)
            continue;
        if (start == 0)
            start = clock_ns();
        if (clock_ns() - start < SPIN_NS)
            continue;
        /* A worker lost its core with a ticket in hand: give it ours. */
        atomic_store(&p->caller_asleep, true);
        while ((left = atomic_load(&p->left)) != 0)
            futex_wait(&p->left, left);
        atomic_store(&p->caller_asleep, false);
        return;
    }
}

void kern_pool_run(struct kern_pool *p, uint32_t count,
                   void (*fn)(void *ctx, uint32_t i, uint32_t thread), void *ctx)
{
    uint64_t epoch;

    if (count <= 1 || p->threads == 1) {
        for (uint32_t i = 0; i < count; i++)
            fn(ctx, i, 0);
        return;
    }
    watch_contention(p);
    if (atomic_load_explicit(&p->spin_ns, memory_order_relaxed) == 0)
        atomic_store_explicit(&p->spin_ns, SPIN_NS, memory_order_relaxed);
    epoch = (atomic_load_explicit(&p->ticket, memory_order_relaxed) >> 32) + 1;
    /* Between regions no ticket is free: close the old epoch before its fields change, so that
     * a larger count cannot reopen it. */
    atomic_store_explicit(&p->ticket, epoch << 32 | UINT32_MAX, memory_order_relaxed);
    atomic_store_explicit(&p->fn, fn, memory_order_release);
    atomic_store_explicit(&p->ctx, ctx, memory_order_release);
    atomic_store_explicit(&p->count, count, memory_order_release);
    atomic_store_explicit(&p->left, count, memory_order_relaxed);
    /* release: pairs with the acquire in take_tickets */
    atomic_store_explicit(&p->ticket, (epoch + 1) << 32, memory_order_release);
    ring(p);
    take_tickets(p, 0);
    wait_for_workers(p);
}

void kern_pool_quiet(struct kern_pool *p)
{
    atomic_store_explicit(&p->spin_ns, 0, memory_order_relaxed);
}
