/* Runs a fuzz target once over every file of its corpus folder: the target as a unit test. */
// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"
#include "base/mem.h"
#include <dirent.h>
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    size_t runs = 0;
    DIR *dir = argc > 1 ? opendir(argv[1]) : NULL;
    struct dirent *d;

    if (dir == NULL) {
        fprintf(stderr, "usage: %s CORPUS_DIR\n", argv[0]);
        return 1;
    }
    while ((d = readdir(dir)) != NULL) {
        char path[4096];
        struct buf b;
        struct err e;

        if (d->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", argv[1], d->d_name);
        buf_init(&b, (size_t)64 << 20);
        if (file_read(path, &b, &e) != 0) {
            fprintf(stderr, "%s\n", e.msg);
            return 1;
        }
        (void)LLVMFuzzerTestOneInput((const uint8_t *)b.p, b.len);
        buf_fini(&b);
        runs++;
    }
    closedir(dir);
    printf("%zu corpus files\n", runs);
    return runs == 0; /* an empty corpus tests nothing */
}
