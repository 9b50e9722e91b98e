/* Watching files.
 *
 *   directory event --.
 *                      >--> quiet timer, armed anew by each --> does stat say so too? --> fn
 *   stat differs -----'
 *
 * A directory tells of all its files, and may never be quiet: the timer is put off for HURRY_MS at
 * most, and what did not change our files is dropped.
 *
 * libuv keeps its handles a little longer than we do: each path's pair is a struct of its own that
 * is let go (its owner set to NULL) and freed when both are closed. */
// SPDX-License-Identifier: Apache-2.0
#include "net/watch.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/loop_priv.h"
#include <string.h>
#include <sys/stat.h>

#define STAT_MS  2000
#define HURRY_MS 2000

/* What tells one content behind a name from another. */
struct seen {
    bool there;
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec changed;
};

struct watched {
    uv_fs_event_t event;
    uv_fs_poll_t poll;
    struct watch *owner; /* NULL: let go */
    int open;            /* handles that libuv still holds */
    struct seen seen;
    char *path;
};

struct watch {
    struct watched *file[WATCH_FILES_MAX];
    struct loop *loop;
    struct loop_timer *quiet;
    uint64_t since; /* the first event that was not looked at yet; 0: none */
    loop_fn *fn;
    void *ctx;
};

static struct seen look(const char *path)
{
    struct stat st;

    if (stat(path, &st) != 0)
        return (struct seen) { 0 };
    return (struct seen) { true, st.st_dev, st.st_ino, st.st_size, st.st_ctim };
}

static bool same(const struct seen *a, const struct seen *b)
{
    return a->there == b->there && a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
           a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

static void is_quiet(void *ctx)
{
    struct watch *w = ctx;
    bool differs = false;

    w->since = 0;
    for (size_t i = 0; i < COUNT(w->file); i++) {
        struct seen now;

        if (w->file[i] == NULL)
            continue;
        now = look(w->file[i]->path);
        differs |= !same(&now, &w->file[i]->seen);
        w->file[i]->seen = now;
    }
    if (differs)
        w->fn(w->ctx); /* may free the watch */
}

static void changed(void *watched)
{
    struct watch *w = ((struct watched *)watched)->owner;
    uint64_t now;

    if (w == NULL)
        return;
    now = loop_now_ms(w->loop);
    if (w->since == 0)
        w->since = now;
    if (now - w->since < HURRY_MS)
        loop_timer_arm(w->quiet, WATCH_QUIET_MS, 0);
}

static void event_came(uv_fs_event_t *h, const char *name, int events, int status)
{
    (void)name;
    (void)events;
    (void)status;
    changed(h->data);
}

static void stat_differs(uv_fs_poll_t *h, int status, const uv_stat_t *was, const uv_stat_t *is)
{
    (void)was;
    (void)is;
    if (status == 0) /* gone: it may come back, and then this says so */
        changed(h->data);
}

static void handle_closed(uv_handle_t *h)
{
    struct watched *f = h->data;

    if (--f->open != 0)
        return;
    mem_free(f->path);
    mem_free(f);
}

static char *directory_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL   ? mem_strdup(".")
           : slash == path ? mem_strdup("/")
                           : str_dup((struct str) { path, (size_t)(slash - path) });
}

static struct watched *watched_new(struct watch *w, struct loop *l, const char *path)
{
    struct watched *f = mem_zalloc(sizeof(*f));
    char *dir = directory_of(path);

    f->owner = w;
    f->open = 2;
    f->path = mem_strdup(path);
    f->seen = look(path);
    f->event.data = f->poll.data = f;
    uv_fs_event_init(&l->uv, &f->event);
    uv_fs_poll_init(&l->uv, &f->poll);
    if (uv_fs_event_start(&f->event, event_came, dir, 0) != 0)
        LOG_WARN("directory sends no events, stat every %d ms instead dir=%s", STAT_MS, dir);
    (void)uv_fs_poll_start(&f->poll, stat_differs, path, STAT_MS);
    mem_free(dir);
    return f;
}

struct watch *watch_new(struct loop *l, const char *const *path, size_t count, loop_fn *fn,
                        void *ctx)
{
    struct watch *w = mem_zalloc(sizeof(*w));

    ASSERT(count <= WATCH_FILES_MAX);
    w->loop = l;
    w->fn = fn;
    w->ctx = ctx;
    w->quiet = loop_timer_new(l, is_quiet, w);
    for (size_t i = 0; i < count; i++)
        w->file[i] = path[i] != NULL ? watched_new(w, l, path[i]) : NULL;
    return w;
}

void watch_free(struct watch *w)
{
    if (w == NULL)
        return;
    for (size_t i = 0; i < COUNT(w->file); i++) {
        struct watched *f = w->file[i];

        if (f == NULL)
            continue;
        f->owner = NULL;
        uv_close((uv_handle_t *)&f->event, handle_closed);
        uv_close((uv_handle_t *)&f->poll, handle_closed);
    }
    loop_timer_free(w->quiet);
    mem_free(w);
}
