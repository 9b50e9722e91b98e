/* A fetch from lock to rename:
 *
 *   lock --> there already? --> source fills NAME.partial --> fsync, SHA-256, GGUF --> rename
 *                                  `- interrupted: stays, with NAME.note on how to go on
 *
 * The hash is computed while writing; what an earlier run left is read once to
 * hash it.  A file that fails its check is removed: it would fail again. */
// SPDX-License-Identifier: Apache-2.0
#include "cmd/fetch.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cmd/fetch_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES_MAX 4096

static volatile sig_atomic_t interrupted; /* written by the handler only */

static void on_signal(int sig)
{
    interrupted = sig;
}

bool fetch_is_interrupted(void)
{
    return interrupted != 0;
}

/* ---- progress ---- */

static void bar(const struct fetch *f, uint64_t done)
{
    char cells[31];
    uint64_t ms = MAX(clock_ms() - f->began_ms, 1);
    double mb = (double)done / 1e6,
           rate = (double)(done - MIN(done, f->began_bytes)) / 1e3 / (double)ms;
    size_t full = f->total != 0 ? (size_t)(done * (sizeof(cells) - 1) / f->total) : 0;

    for (size_t i = 0; i + 1 < sizeof(cells); i++)
        cells[i] = i < full ? '=' : i == full ? '>' : ' ';
    cells[sizeof(cells) - 1] = 0;
    if (f->total != 0)
        fprintf(stderr, "\r%.40s [%s] %.1f / %.1f MB  %.1f MB/s  ", f->name, cells, mb,
                (double)f->total / 1e6, rate);
    else
        fprintf(stderr, "\r%.40s %.1f MB  %.1f MB/s  ", f->name, mb, rate);
}

void fetch_progress(struct fetch *f, uint64_t done)
{
    uint64_t now = clock_ms();
    unsigned tenth;

    if (f->opts->quiet)
        return;
    if (f->total != 0)
        done = MIN(done, f->total);
    if (f->is_tty) {
        if (now - f->shown_at_ms < 200 && done != f->total)
            return;
        bar(f, done);
    } else {
        /* Lines in a log: one every tenth, or every 10 s when the end is unknown. */
        tenth = f->total != 0 ? (unsigned)(done * 10 / f->total) : f->shown_tenth;
        if (f->total != 0 ? tenth <= f->shown_tenth : now - f->shown_at_ms < 10000)
            return;
        f->shown_tenth = tenth;
        if (f->total != 0)
            fprintf(stderr, "%s: %.0f of %.0f MB\n", f->name, (double)done / 1e6,
                    (double)f->total / 1e6);
        else
            fprintf(stderr, "%s: %.0f MB\n", f->name, (double)done / 1e6);
    }
    f->shown_at_ms = now;
}

/* ---- the partial file ---- */

uint64_t fetch_partial_bytes(const struct fetch *f)
{
    struct stat st;

    return stat(f->partial.p, &st) == 0 && st.st_size > 0 ? (uint64_t)st.st_size : 0;
}

static int hash_prefix(struct fetch *f, uint64_t keep, struct err *e)
{
    size_t piece = 1 << 20;
    char *p = mem_alloc(piece);
    int rc = 0;

    while (rc == 0 && f->done < keep) {
        ssize_t got = pread(f->fd, p, (size_t)MIN(keep - f->done, piece), (off_t)f->done);

        if (got <= 0)
            rc = err_set(e, ERR_IO, "%s: cannot read: %s", f->partial.p,
                         got < 0 ? strerror(errno) : "it became shorter");
        else if (EVP_DigestUpdate(f->sha, p, (size_t)got) != 1)
            rc = err_set(e, ERR_INTERNAL, "SHA-256 failed");
        else
            f->done += (uint64_t)got;
    }
    mem_free(p);
    return rc;
}

int fetch_start(struct fetch *f, uint64_t keep, struct err *e)
{
    int rc;

    if (f->fd < 0)
        f->fd = open(f->partial.p, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (f->fd < 0 || ftruncate(f->fd, (off_t)keep) != 0)
        return err_set(e, ERR_IO, "%s: cannot write: %s", f->partial.p, strerror(errno));
    f->done = 0;
    if (EVP_DigestInit_ex(f->sha, EVP_sha256(), NULL) != 1)
        return err_set(e, ERR_INTERNAL, "SHA-256 is not available");
    rc = hash_prefix(f, keep, e);
    if (rc == 0 && lseek(f->fd, (off_t)keep, SEEK_SET) < 0)
        rc = err_set(e, ERR_IO, "%s: cannot seek: %s", f->partial.p, strerror(errno));
    f->began_ms = clock_ms();
    f->began_bytes = keep;
    return rc;
}

int fetch_put(struct fetch *f, const void *p, size_t n, struct err *e)
{
    const char *at = p;

    if (EVP_DigestUpdate(f->sha, p, n) != 1)
        return err_set(e, ERR_INTERNAL, "SHA-256 failed");
    while (n > 0) {
        ssize_t put = write(f->fd, at, n);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_set(e, ERR_IO, "%s: cannot write: %s", f->partial.p,
                           errno == ENOSPC ? "the disk is full" : strerror(errno));
        at += put;
        n -= (size_t)put;
        f->done += (uint64_t)put;
    }
    return 0;
}

void fetch_note_read(const struct fetch *f, struct buf *out)
{
    struct err ignored;
    struct buf whole;

    /* file_read() asks for room in pieces larger than any note. */
    buf_init(&whole, 1 << 20);
    if (file_read(f->note.p, &whole, &ignored) != 0 || !buf_str(out, buf_view(&whole)))
        buf_reset(out);
    buf_fini(&whole);
}

int fetch_note_write(const struct fetch *f, struct str s, struct err *e)
{
    return file_write(f->note.p, s, e);
}

static int discard(struct fetch *f, int rc)
{
    unlink(f->partial.p);
    unlink(f->note.p);
    return rc;
}

static int check_sha(struct fetch *f, const char *want, struct err *e)
{
    uint8_t hash[EVP_MAX_MD_SIZE];
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    unsigned n = 0;

    if (EVP_DigestFinal_ex(f->sha, hash, &n) != 1)
        return err_set(e, ERR_INTERNAL, "SHA-256 failed");
    for (unsigned i = 0; i < n; i++)
        snprintf(hex + 2 * i, 3, "%02x", hash[i]);
    if (want == NULL) {
        if (!f->opts->quiet)
            fprintf(stderr, "%s: SHA-256 %s (nothing to compare it with)\n", f->name, hex);
        return 0;
    }
    if (!str_ieq(str_of(want), str_of(hex)))
        return err_set(e, ERR_MISMATCH,
                       "%s: what arrived is not the file that was asked for and was "
                       "removed: SHA-256 is %s, expected %s; try again, or check the source",
                       f->name, hex, want);
    return 0;
}

int fetch_finish(struct fetch *f, const char *sha256, struct err *e)
{
    struct gguf *g;
    struct err inner = { 0 };
    int rc;

    if (fsync(f->fd) != 0)
        return err_set(e, ERR_IO, "%s: cannot write: %s", f->partial.p, strerror(errno));
    rc = check_sha(f, sha256, e);
    if (rc != 0)
        return discard(f, rc);
    rc = gguf_open(&g, f->partial.p, &inner);
    if (rc != 0)
        return discard(f, err_set(e, rc, "%s was fetched but is no model and was removed: %s",
                                  f->name, inner.msg));
    gguf_close(g);
    if (rename(f->partial.p, f->target.p) != 0)
        return err_set(e, ERR_IO, "%s: cannot rename: %s", f->target.p, strerror(errno));
    unlink(f->note.p);
    return 0;
}

/* ---- begin and end ---- */

static void path_init(struct buf *b, const struct buf *dir, const char *prefix, struct str file,
                      const char *suffix)
{
    buf_init(b, PATH_BYTES_MAX);
    buf_f(b, "%.*s/%s%.*s%s", STR_ARG(buf_view(dir)), prefix, STR_ARG(file), suffix);
    if (buf_c(b, 0))
        b->len--;
}

static int take_lock(struct fetch *f, const char *path, struct err *e)
{
    bool said = false;

    f->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (f->lock_fd < 0)
        return err_set(e, ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    while (flock(f->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return err_set(e, ERR_IO, "%s: cannot lock: %s", path, strerror(errno));
        if (fetch_is_interrupted())
            return err_set(e, ERR_CANCELLED, "interrupted");
        if (!said)
            fprintf(stderr, "%s: another fetch of it is running; waiting for that\n", f->name);
        said = true;
        clock_sleep_ms(200);
    }
    return 0;
}

static int begin(struct fetch *f, struct str file, struct err *e)
{
    struct buf lock;
    int rc;

    buf_init(&f->dir, PATH_BYTES_MAX);
    catalogue_dir(&f->dir);
    path_init(&f->target, &f->dir, "", file, "");
    path_init(&f->partial, &f->dir, "", file, ".partial");
    path_init(&f->note, &f->dir, ".", file, ".note");
    path_init(&f->work, &f->dir, ".", file, ".work");
    path_init(&lock, &f->dir, ".", file, ".lock");
    f->fd = f->lock_fd = -1;
    f->is_tty = isatty(STDERR_FILENO) != 0;
    f->sha = EVP_MD_CTX_new();
    if (f->sha == NULL || lock.failed)
        rc = err_set(e, ERR_LIMIT, "the path of the cache folder is too long");
    else
        rc = file_mkdirs(f->dir.p, e);
    if (rc == 0)
        rc = take_lock(f, lock.p, e);
    buf_fini(&lock);
    return rc;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

void fetch_work_clear(struct fetch *f)
{
    if (f->lock_fd >= 0 && !f->work.failed)
        (void)nftw(f->work.p, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void finish(struct fetch *f)
{
    fetch_work_clear(f);
    if (f->fd >= 0 && f->done == 0)
        unlink(f->partial.p);
    if (f->is_tty && f->shown_at_ms != 0)
        fputc('\n', stderr);
    if (f->fd >= 0)
        close(f->fd);
    if (f->lock_fd >= 0)
        close(f->lock_fd);
    EVP_MD_CTX_free(f->sha);
    buf_fini(&f->dir);
    buf_fini(&f->target);
    buf_fini(&f->partial);
    buf_fini(&f->note);
    buf_fini(&f->work);
}

/* Two signals become a flag while a fetch runs; what was there before comes back after it. */
struct signals {
    struct sigaction on_int, on_term;
};

static void signals_take(struct signals *s)
{
    struct sigaction sa = { .sa_handler = on_signal };

    interrupted = 0;
    sigaction(SIGINT, &sa, &s->on_int);
    sigaction(SIGTERM, &sa, &s->on_term);
}

static void signals_give_back(const struct signals *s)
{
    sigaction(SIGINT, &s->on_int, NULL);
    sigaction(SIGTERM, &s->on_term, NULL);
}

/* ---- the three sources ---- */

static int from_entry(struct fetch *f, const struct catalogue_entry *c, struct err *e)
{
    struct stat st;
    int rc;

    if (!f->opts->force && stat(f->target.p, &st) == 0 && (uint64_t)st.st_size == c->bytes)
        return 0;
    if (f->opts->sha256 != NULL && !str_ieq(str_of(f->opts->sha256), str_of(c->sha256)))
        return err_set(e, ERR_INVAL, "--sha256: %s has its own, %s", c->name, c->sha256);
    rc = fetch_from_packages(f, c, e);
    return rc != 0 ? rc : fetch_finish(f, c->sha256, e);
}

static int from_name(struct fetch *f, const char *name, struct err *e)
{
    const char *sha = f->opts->sha256;
    struct catalogue_hf hf;
    struct buf found;
    int rc;

    if (!f->opts->force && file_exists(f->target.p))
        return 0;
    buf_init(&found, 256);
    if (catalogue_is_url(str_of(name))) {
        rc = fetch_from_url(f, name, NULL, sha != NULL, e);
    } else {
        ASSERT(catalogue_parse_hf(str_of(name), &hf));
        rc = fetch_from_hf(f, &hf, &found, e);
        if (sha == NULL && found.len != 0)
            sha = found.p;
    }
    if (rc == 0)
        rc = fetch_finish(f, sha, e);
    buf_fini(&found);
    return rc;
}

static int run(const char *name, const struct catalogue_entry *c, const struct fetch_opts *opts,
               struct buf *path, struct err *e)
{
    struct fetch f = { .name = name, .opts = opts };
    struct signals signals;
    struct buf file;
    int rc;

    buf_init(&file, 512);
    if (c != NULL)
        buf_z(&file, c->file);
    else if (!catalogue_file(str_of(name), &file)) {
        buf_fini(&file);
        return err_set(e, ERR_NOTFOUND,
                       "%s: not a model of the catalogue (`llmd model list`), nor "
                       "a URL, nor a Hugging Face name like org/repo or org/repo/file.gguf",
                       name);
    }
    signals_take(&signals);
    rc = begin(&f, buf_view(&file), e);
    if (rc == 0)
        rc = c != NULL ? from_entry(&f, c, e) : from_name(&f, name, e);
    if (rc == 0)
        buf_str(path, buf_view(&f.target));
    if (rc == 0 && buf_c(path, 0))
        path->len--;
    finish(&f);
    signals_give_back(&signals);
    buf_fini(&file);
    return rc;
}

int fetch_entry(const struct catalogue_entry *c, const struct fetch_opts *opts, struct buf *path,
                struct err *e)
{
    return run(c->name, c, opts, path, e);
}

int fetch_model(const char *name, const struct fetch_opts *opts, struct buf *path, struct err *e)
{
    const struct catalogue_entry *c = catalogue_find(str_of(name));

    return run(c != NULL ? c->name : name, c, opts, path, e);
}
