/* llmd model: the models that can be had, one looked at, one fetched. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/file.h"
#include "cmd/cmd.h"
#include "cmd/fetch.h"
#include "model/model.h"
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char usage[] =
    "usage: llmd model list\n"
    "       llmd model inspect NAME|FILE\n"
    "       llmd model fetch NAME|URL|ORG/REPO[@REV][/FILE.gguf] [--sha256 HEX] [--force]";

static bool is_ours(const char *file)
{
    for (size_t i = 0; catalogue_at(i) != NULL; i++)
        if (strcmp(catalogue_at(i)->file, file) == 0)
            return true;
    return false;
}

/* Files in the cache folder that came by URL or from Hugging Face. */
static void list_others(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *d;

    while (dir != NULL && (d = readdir(dir)) != NULL) {
        char path[4400];
        struct stat st;

        if (!str_ends(str_of(d->d_name), STR(".gguf")) || is_ours(d->d_name) ||
            (size_t)snprintf(path, sizeof(path), "%s/%s", folder, d->d_name) >= sizeof(path) ||
            stat(path, &st) != 0)
            continue;
        printf("%-20s %6.0f MB  here     %s\n", "(fetched)", (double)st.st_size / 1e6, path);
    }
    if (dir != NULL)
        closedir(dir);
}

static int list(int argc, char **argv)
{
    struct buf folder, path;
    int status = cmd_options(usage, NULL, NULL, 0, argc, argv, NULL);

    if (status >= 0)
        return status;
    buf_init(&folder, 4096);
    catalogue_dir(&folder);
    printf("%-20s %9s  %-8s %s\n", "NAME", "SIZE", "STATE", "WHAT IT IS");
    for (size_t i = 0; catalogue_at(i) != NULL; i++) {
        const struct catalogue_entry *c = catalogue_at(i);
        struct err e = { 0 };
        int rc;

        buf_init(&path, 4096);
        rc = catalogue_resolve(str_of(c->name), &path, &e);
        printf("%-20s %6.0f MB  %-8s %s (%s)\n", c->name, (double)c->bytes / 1e6,
               rc == 0              ? "here"
               : rc == ERR_MISMATCH ? "damaged"
                                    : "-",
               c->summary, c->licence);
        buf_fini(&path);
    }
    list_others(folder.p);
    printf("\nKept in %s; get one with: llmd model fetch NAME\n", folder.p);
    buf_fini(&folder);
    return 0;
}

static int inspect(int argc, char **argv)
{
    struct opt_list rest = { .count = 0 };
    struct model *m = NULL;
    struct buf path, out;
    struct err e = { 0 };
    int status = cmd_options(usage, NULL, NULL, 0, argc, argv, &rest), rc;

    if (status >= 0)
        return status;
    if (rest.count != 1) {
        fprintf(stderr, "llmd: model inspect takes one file or name\n%s\n", usage);
        return 2;
    }
    buf_init(&path, 4096);
    buf_init(&out, 65536);
    rc = catalogue_resolve(str_of(rest.item[0]), &path, &e);
    if (rc == 0)
        rc = model_open(&m, path.p, &e);
    if (rc == 0) {
        model_describe(m, &out);
        printf("%.*s", STR_ARG(buf_view(&out)));
    }
    model_close(m);
    buf_fini(&out);
    buf_fini(&path);
    return rc != 0 ? cmd_fail(&e) : 0;
}

static const struct opt_desc fetch_table[] = {
    { "sha256", OPT_STR, offsetof(struct fetch_opts, sha256), NULL, "HEX", 0, 0,
      "what the file must hash to (names of the catalogue have theirs)" },
    { "force", OPT_BOOL, offsetof(struct fetch_opts, force), NULL, NULL, 0, 0,
      "fetch it again from the beginning" },
    { "quiet", OPT_BOOL, offsetof(struct fetch_opts, quiet), NULL, NULL, 0, 0, "no progress" },
};

static int fetch(int argc, char **argv)
{
    struct fetch_opts opts = { .sha256 = NULL };
    struct opt_list rest = { .count = 0 };
    struct buf path;
    struct err e = { 0 };
    int status = cmd_options(usage, &opts, fetch_table, COUNT(fetch_table), argc, argv, &rest), rc;

    if (status >= 0)
        return status;
    if (rest.count != 1) {
        fprintf(stderr, "llmd: model fetch takes one name\n%s\n", usage);
        return 2;
    }
    if (opts.sha256 != NULL &&
        (strlen(opts.sha256) != 64 || strspn(opts.sha256, "0123456789abcdefABCDEF") != 64)) {
        fprintf(stderr, "llmd: --sha256: must be 64 hexadecimal digits\n");
        return 2;
    }
    buf_init(&path, 4096);
    rc = fetch_model(rest.item[0], &opts, &path, &e);
    if (rc == 0)
        printf("%s\n", path.p);
    buf_fini(&path);
    if (rc == ERR_CANCELLED) {
        fprintf(stderr, "llmd: interrupted; run it again to go on from here\n");
        return 130;
    }
    return rc != 0 ? cmd_fail(&e) : 0;
}

int cmd_model(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*fn)(int argc, char **argv);
    } verbs[] = { { "list", list }, { "inspect", inspect }, { "fetch", fetch } };

    for (size_t i = 0; argc > 0 && i < COUNT(verbs); i++)
        if (strcmp(argv[0], verbs[i].name) == 0)
            return verbs[i].fn(argc - 1, argv + 1);
    if (argc > 0 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)) {
        printf("%s\n", usage);
        return 0;
    }
    fprintf(stderr, "llmd: model needs one of: list, inspect, fetch\n%s\n", usage);
    return 2;
}
