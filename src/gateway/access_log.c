/* Two buffers: requests append to one while the thread writes the other. */
// SPDX-License-Identifier: Apache-2.0
#include "gateway/access_log.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define LINES_BYTES_MAX ((size_t)4 << 20)

struct access_log {
    char *path;
    int fd; /* the thread's */
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    struct buf lines;
    uint64_t dropped;
    bool stop, reopen;
};

static int log_fd(const char *path)
{
    if (strcmp(path, "-") == 0)
        return dup(STDOUT_FILENO);
    return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

static void write_all(struct access_log *a, struct str s)
{
    while (s.n > 0) {
        ssize_t n = write(a->fd, s.p, s.n);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            LOG_WARN("access log cannot be written path=%s error=\"%s\"", a->path, strerror(errno));
            return;
        }
        s = str_sub(s, (size_t)n, SIZE_MAX);
    }
}

static void open_anew(struct access_log *a)
{
    int fd = log_fd(a->path);

    if (fd < 0) {
        LOG_WARN("access log cannot be opened again path=%s error=\"%s\"", a->path,
                 strerror(errno));
        return;
    }
    (void)close(a->fd);
    a->fd = fd;
}

static void *log_main(void *ctx)
{
    struct access_log *a = ctx;
    bool stop = false;

    while (!stop) {
        struct buf out;
        bool reopen;

        pthread_mutex_lock(&a->lock);
        while (a->lines.len == 0 && !a->stop && !a->reopen)
            pthread_cond_wait(&a->wake, &a->lock);
        out = a->lines;
        buf_init(&a->lines, LINES_BYTES_MAX);
        stop = a->stop;
        reopen = a->reopen;
        a->reopen = false;
        pthread_mutex_unlock(&a->lock);
        if (reopen)
            open_anew(a);
        write_all(a, buf_view(&out));
        buf_fini(&out);
    }
    return NULL;
}

int access_log_open(struct access_log **out, const char *path, struct err *e)
{
    struct access_log *a;
    int fd = log_fd(path);

    *out = NULL;
    if (fd < 0)
        return err_set(e, ERR_IO, "access log %s: %s", path, strerror(errno));
    a = mem_zalloc(sizeof(*a));
    a->path = mem_strdup(path);
    a->fd = fd;
    buf_init(&a->lines, LINES_BYTES_MAX);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->wake, NULL);
    if (pthread_create(&a->thread, NULL, log_main, a) != 0) {
        (void)close(fd);
        mem_free(a->path);
        mem_free(a);
        return err_set(e, ERR_NOMEM, "cannot start the access log's thread");
    }
    *out = a;
    return 0;
}

void access_log_close(struct access_log *a)
{
    if (a == NULL)
        return;
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    (void)close(a->fd);
    buf_fini(&a->lines);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->wake);
    mem_free(a->path);
    mem_free(a);
}

void access_log_write(struct access_log *a, struct str line)
{
    pthread_mutex_lock(&a->lock);
    if (a->lines.len + line.n > LINES_BYTES_MAX || !buf_str(&a->lines, line))
        a->dropped++;
    else
        pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
}

void access_log_reopen(struct access_log *a)
{
    pthread_mutex_lock(&a->lock);
    a->reopen = true;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
}

uint64_t access_log_dropped(struct access_log *a)
{
    uint64_t n;

    pthread_mutex_lock(&a->lock);
    n = a->dropped;
    pthread_mutex_unlock(&a->lock);
    return n;
}
