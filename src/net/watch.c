// SPDX-License-Identifier: Apache-2.0
#include "net/watch.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

#define LOOK_MS   250
#define SETTLE_MS 250

struct watch {
    char *path;
    loop_fn *fn;
    void *ctx;
    struct loop_timer *timer;
    uint64_t told, seen; /* stamps; 0: no file */
    uint64_t changed_ms;
};

static void look(void *ctx)
{
    struct watch *w = ctx;
    uint64_t now = file_stamp(w->path);

    if (now != w->seen) {
        w->seen = now;
        w->changed_ms = clock_ms();
    }
    if (w->seen == 0 || w->seen == w->told || clock_ms() - w->changed_ms < SETTLE_MS)
        return;
    w->told = w->seen;
    w->fn(w->ctx);
}

struct watch *watch_new(struct loop *l, const char *path, loop_fn *fn, void *ctx)
{
    struct watch *w = mem_zalloc(sizeof(*w));

    w->path = mem_strdup(path);
    w->fn = fn;
    w->ctx = ctx;
    w->told = w->seen = file_stamp(path);
    w->timer = loop_timer_new(l, look, w);
    loop_timer_arm(w->timer, LOOK_MS, LOOK_MS);
    return w;
}

void watch_free(struct watch *w)
{
    if (w == NULL)
        return;
    loop_timer_free(w->timer);
    mem_free(w->path);
    mem_free(w);
}
