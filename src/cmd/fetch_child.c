/* One child program, its two outputs read in turns with a tick in between.
 * It gets no standard input and a process group of its own, so that whatever it
 * started in turn (python3 may be a script) ends with it. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cmd/fetch_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TICK_MS       250
#define STALL_MS      300000
#define KILL_AFTER_MS 5000
#define PIECE         65536

extern char **environ;

/* Our environment with TMPDIR replaced; the entries stay ours, the array is the caller's. */
static char **environment(const char *tmp_dir, char *tmp_entry, size_t size)
{
    size_t n = 0, at = 0;
    char **env;

    while (environ[n] != NULL)
        n++;
    env = mem_alloc((n + 2) * sizeof(*env));
    for (size_t i = 0; i < n; i++)
        if (tmp_dir == NULL || strncmp(environ[i], "TMPDIR=", 7) != 0)
            env[at++] = environ[i];
    if (tmp_dir != NULL) {
        snprintf(tmp_entry, size, "TMPDIR=%s", tmp_dir);
        env[at++] = tmp_entry;
    }
    env[at] = NULL;
    return env;
}

static int spawn(const struct child_run *r, const int out[2], const int errs[2], pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t defaults;
    char tmp_entry[4200];
    char **env = environment(r->tmp_dir, tmp_entry, sizeof(tmp_entry));
    int rc;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, errs[1], 2);
    posix_spawnattr_init(&attr);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigdefault(&attr, &defaults);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    rc = posix_spawnp(pid, r->argv[0], &actions, &attr, (char *const *)(uintptr_t)r->argv, env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    mem_free(env);
    return rc;
}

static void keep_end(struct buf *b, const char *p, size_t n)
{
    if (b == NULL)
        return;
    n = MIN(n, b->max / 2);
    if (b->len + n > b->max / 2)
        buf_drop(b, MIN(b->len, b->len + n - b->max / 2));
    buf_add(b, p, n);
}

/* Reads one piece of whichever output has some.  Both at their end: fds become -1. */
static int read_some(const struct child_run *r, struct pollfd fd[2], char *piece, struct err *e)
{
    if (poll(fd, 2, TICK_MS) <= 0)
        return 0;
    for (int i = 0; i < 2; i++) {
        ssize_t got;
        int rc;

        if (fd[i].fd < 0 || fd[i].revents == 0)
            continue;
        got = read(fd[i].fd, piece, PIECE);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            fd[i].fd = -1;
        } else if (i == 1) {
            keep_end(r->errors, piece, (size_t)got);
        } else if (r->on_output != NULL) {
            rc = r->on_output(r->ctx, piece, (size_t)got, e);
            if (rc != 0)
                return rc;
        }
    }
    return 0;
}

static int watch(const struct child_run *r, struct pollfd fd[2], struct err *e)
{
    uint64_t last = 0, moved_ms = clock_ms(), ticked_ms = 0;
    char *piece = mem_alloc(PIECE);
    int rc = 0;

    while (rc == 0 && (fd[0].fd >= 0 || fd[1].fd >= 0)) {
        uint64_t now;

        rc = read_some(r, fd, piece, e);
        now = clock_ms();
        if (rc == 0 && fetch_is_interrupted())
            rc = err_set(e, ERR_CANCELLED, "interrupted");
        if (rc == 0 && r->on_tick != NULL && now - ticked_ms >= TICK_MS) {
            uint64_t at = r->on_tick(r->ctx);

            ticked_ms = now;
            if (at != last)
                moved_ms = now;
            last = at;
            if (now - moved_ms > STALL_MS)
                rc = err_set(e, ERR_TIMEOUT, "no progress for %d minutes", STALL_MS / 60000);
        }
    }
    mem_free(piece);
    return rc;
}

/* After a failure: asks, waits a little, then insists.  Always reaps. */
static int reap(pid_t pid, bool is_failed)
{
    uint64_t began = clock_ms();
    int status = 0;

    if (is_failed)
        kill(-pid, SIGTERM);
    for (;;) {
        pid_t got = waitpid(pid, &status, is_failed ? WNOHANG : 0);

        if (got == pid || (got < 0 && errno != EINTR))
            break;
        if (is_failed && clock_ms() - began > KILL_AFTER_MS)
            kill(-pid, SIGKILL);
        if (is_failed)
            clock_sleep_ms(20);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int child_run(const struct child_run *r, int *status, struct err *e)
{
    int out[2] = { -1, -1 }, errs[2] = { -1, -1 }, rc;
    struct pollfd fd[2];
    pid_t pid;

    *status = 127;
    if (pipe2(out, O_CLOEXEC) != 0 || pipe2(errs, O_CLOEXEC) != 0) {
        rc = err_set(e, ERR_IO, "cannot make a pipe: %s", strerror(errno));
        goto out;
    }
    rc = spawn(r, out, errs, &pid);
    if (rc != 0) {
        rc = rc == ENOENT ? 0 : err_set(e, ERR_IO, "cannot run %s: %s", r->argv[0], strerror(rc));
        goto out;
    }
    close(out[1]);
    close(errs[1]);
    out[1] = errs[1] = -1;
    fd[0] = (struct pollfd) { .fd = out[0], .events = POLLIN };
    fd[1] = (struct pollfd) { .fd = errs[0], .events = POLLIN };
    rc = watch(r, fd, e);
    *status = reap(pid, rc != 0);
out:
    for (int i = 0; i < 2; i++) {
        if (out[i] >= 0)
            close(out[i]);
        if (errs[i] >= 0)
            close(errs[i]);
    }
    return rc;
}
