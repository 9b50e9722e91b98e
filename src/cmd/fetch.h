/* cmd/fetch.h - getting a model's file into the cache folder, by any name it may have.
 *
 * One fetch of a name runs at a time on a machine (a lock file).  What arrived
 * before an interruption is kept and built on.  Nothing appears under its final
 * name before it was checked: SHA-256 where one is known, else that it is a
 * whole GGUF file.  Blocks; shows progress on standard error. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CMD_FETCH_H
#define CMD_FETCH_H
#include "base/buf.h"
#include "base/err.h"
#include "model/model.h"

struct fetch_opts {
    const char *sha256; /* hex, NULL = none or the catalogue's */
    bool force;         /* again, though it is there */
    bool quiet;         /* no progress */
};

/* name: of the catalogue, a URL, or org/repo[@rev][/file.gguf] of Hugging Face (HF_ENDPOINT,
 * HF_TOKEN).  path gets the file's path.  ERR_CANCELLED after an interrupt: run it again. */
int fetch_model(const char *name, const struct fetch_opts *opts, struct buf *path,
                struct err *e) MUST_CHECK;
/* The same for a row of the catalogue (tests bring their own). */
int fetch_entry(const struct catalogue_entry *c, const struct fetch_opts *opts, struct buf *path,
                struct err *e) MUST_CHECK;
#endif
