/* base/file.h - the one home of plain files: mapping, reading whole, writing whole.
 * May block: never on a loop's data path. */
// SPDX-License-Identifier: Apache-2.0
#ifndef BASE_FILE_H
#define BASE_FILE_H
#include "base/buf.h"
#include "base/err.h"

struct file_map {
    const unsigned char *p; /* read-only, shared with the page cache */
    size_t size;
};

int file_map_open(struct file_map *out, const char *path, struct err *e) MUST_CHECK;
void file_map_close(struct file_map *m);
/* Appends the whole file to b (b's ceiling applies: ERR_LIMIT). */
int file_read(const char *path, struct buf *b, struct err *e) MUST_CHECK;
/* Writes beside the target and renames: readers see the old or the new, whole. */
int file_write(const char *path, struct str bytes, struct err *e) MUST_CHECK;
bool file_exists(const char *path);
/* Creates path and its parents, mode 0700 for new ones. */
int file_mkdirs(const char *path, struct err *e) MUST_CHECK;
#endif
