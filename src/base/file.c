// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"
#include "base/check.h"
#include "base/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_read(const char *path, int *fd, struct stat *st, struct err *e)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return err_set(e, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "%s: cannot open: %s", path,
                       strerror(errno));
    if (fstat(*fd, st) != 0 || !S_ISREG(st->st_mode)) {
        close(*fd);
        *fd = -1;
        return err_set(e, ERR_IO, "%s: not a regular file", path);
    }
    return 0;
}

int file_map_open(struct file_map *out, const char *path, struct err *e)
{
    struct stat st;
    void *p;
    int fd, rc;

    *out = (struct file_map) { 0 };
    rc = open_read(path, &fd, &st, e);
    if (rc != 0)
        return rc;
    if (st.st_size == 0) {
        close(fd);
        return err_set(e, ERR_PARSE, "%s: the file is empty", path);
    }
    p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED)
        return err_set(e, ERR_IO, "%s: cannot map: %s", path, strerror(errno));
    *out = (struct file_map) { p, (size_t)st.st_size };
    return 0;
}

void file_map_close(struct file_map *m)
{
    if (m->p != NULL)
        munmap((void *)(uintptr_t)m->p, m->size);
    *m = (struct file_map) { 0 };
}

int file_read(const char *path, struct buf *b, struct err *e)
{
    struct stat st;
    int fd, rc;

    rc = open_read(path, &fd, &st, e);
    if (rc != 0)
        return rc;
    for (;;) {
        size_t room = MIN((size_t)65536, b->max - MIN(b->len, b->max));
        char beyond;
        ssize_t got;

        /* At the ceiling one byte more tells a file that fits from one that does not. */
        if (room != 0 && !buf_reserve(b, room)) {
            rc = err_set(e, ERR_NOMEM, "%s: no memory to read it", path);
            break;
        }
        got = room != 0 ? read(fd, b->p + b->len, room) : read(fd, &beyond, 1);
        if (got < 0) {
            rc = err_set(e, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
            break;
        }
        if (got == 0)
            break;
        if (room == 0) {
            rc = err_set(e, ERR_LIMIT, "%s: larger than %zu bytes", path, b->max);
            break;
        }
        b->len += (size_t)got;
    }
    close(fd);
    return rc;
}

int file_write(const char *path, struct str bytes, struct err *e)
{
    char tmp[4096];
    size_t at = 0;
    int fd, rc = 0;

    if ((size_t)snprintf(tmp, sizeof(tmp), "%s.%d.tmp", path, (int)getpid()) >= sizeof(tmp))
        return err_set(e, ERR_INVAL, "%s: path too long", path);
    fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(e, ERR_IO, "%s: cannot create: %s", tmp, strerror(errno));
    while (rc == 0 && at < bytes.n) {
        ssize_t put = write(fd, bytes.p + at, bytes.n - at);

        if (put < 0)
            rc = err_set(e, ERR_IO, "%s: cannot write: %s", tmp, strerror(errno));
        else
            at += (size_t)put;
    }
    close(fd);
    if (rc == 0 && rename(tmp, path) != 0)
        rc = err_set(e, ERR_IO, "%s: cannot rename: %s", path, strerror(errno));
    if (rc != 0)
        unlink(tmp);
    return rc;
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

int file_mkdirs(const char *path, struct err *e)
{
    char *copy = mem_strdup(path);
    int rc = 0;

    for (char *p = copy + 1; rc == 0; p++) {
        char c = *p;

        if (c != '/' && c != 0)
            continue;
        *p = 0;
        if (mkdir(copy, 0700) != 0 && errno != EEXIST)
            rc = err_set(e, ERR_IO, "%s: cannot create: %s", copy, strerror(errno));
        *p = c;
        if (c == 0)
            break;
    }
    mem_free(copy);
    return rc;
}
