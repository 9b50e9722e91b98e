/* Names of models become paths, and only safe ones. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/file.h"
#include "model/model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void the_rows_are_complete(void **state)
{
    size_t i;

    (void)state;
    for (i = 0; catalogue_at(i) != NULL; i++) {
        const struct catalogue_entry *c = catalogue_at(i);
        size_t parts = 0;

        assert_true(c->bytes > 1000000);
        assert_int_equal(strlen(c->sha256), 64);
        assert_int_equal(strspn(c->sha256, "0123456789abcdef"), 64);
        assert_null(strchr(c->file, '/'));
        while (parts < COUNT(c->packages) && c->packages[parts] != NULL) {
            assert_non_null(strstr(c->packages[parts], "=="));
            assert_non_null(c->member[parts]);
            parts++;
        }
        assert_true(parts > 0);
        assert_true(parts == COUNT(c->member) || c->member[parts] == NULL);
        assert_ptr_equal(catalogue_find(str_of(c->name)), c);
    }
    assert_int_equal(i, 3);
    assert_string_equal(catalogue_find(STR("default"))->name, "qwen2.5-coder-0.5b");
    assert_string_equal(catalogue_find(STR("SmolLM2-135M"))->name, "smollm2-135m");
    assert_null(catalogue_find(STR("smollm")));
    assert_null(catalogue_find(STR_NONE));
}

static void the_folder_follows_the_environment(void **state)
{
    static const struct {
        const char *own, *xdg, *home, *want;
    } cases[] = {
        { "/c", "/x", "/h", "/c" },
        { NULL, "/x", "/h", "/x/llmd/models" },
        { "", "", "/h", "/h/.cache/llmd/models" },
        { NULL, "relative", "/h", "/h/.cache/llmd/models" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf b;

        (cases[i].own != NULL ? setenv("LLMD_CACHE", cases[i].own, 1) : unsetenv("LLMD_CACHE"));
        setenv("XDG_CACHE_HOME", cases[i].xdg, 1);
        setenv("HOME", cases[i].home, 1);
        buf_init(&b, 4096);
        catalogue_dir(&b);
        assert_string_equal(b.p, cases[i].want);
        buf_fini(&b);
    }
}

static void hugging_face_names_are_told_from_paths(void **state)
{
    static const struct {
        const char *name, *rev, *file;
        bool is_hf;
    } cases[] = {
        { "org/repo", "main", NULL, true },
        { "org/repo@v1.0", "v1.0", NULL, true },
        { "org/repo/file.gguf", "main", "file.gguf", true },
        { "org/repo@abc/dir/file.gguf", "abc", "dir/file.gguf", true },
        { "models/file.gguf", NULL, NULL, false }, /* a path */
        { "org/repo/file.bin", NULL, NULL, false },
        { "/org/repo", NULL, NULL, false },
        { "./repo", NULL, NULL, false },
        { "../repo", NULL, NULL, false },
        { "org/..", NULL, NULL, false },
        { "org/repo/../../x.gguf", NULL, NULL, false },
        { "org/repo//x.gguf", NULL, NULL, false },
        { "org/re po", NULL, NULL, false },
        { "org/repo@", NULL, NULL, false },
        { "org/repo@a?b", NULL, NULL, false },
        { "word", NULL, NULL, false },
        { "", NULL, NULL, false },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct catalogue_hf hf;

        assert_int_equal(catalogue_parse_hf(str_of(cases[i].name), &hf), cases[i].is_hf);
        if (!cases[i].is_hf)
            continue;
        assert_true(str_eqz(hf.org, "org") && str_eqz(hf.repo, "repo"));
        assert_true(str_eqz(hf.rev, cases[i].rev));
        assert_true(cases[i].file != NULL ? str_eqz(hf.file, cases[i].file) : hf.file.p == NULL);
    }
}

static void a_kept_file_s_name_is_plain_and_its_own(void **state)
{
    static const char *const names[] = {
        "https://host/a/model.gguf",
        "https://host/b/model.gguf",
        "http://h/../../etc/passwd",
        "https://host/x?token=secret&b=/\n",
        "https://u:secret@host",
        "org/repo",
        "org/repo@v2",
        "org/repo/x.gguf",
    };
    struct buf seen[COUNT(names)];

    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        buf_init(&seen[i], 512);
        assert_true(catalogue_file(str_of(names[i]), &seen[i]));
        assert_int_equal(strspn(seen[i].p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                           "0123456789._-"),
                         seen[i].len);
        assert_true(str_ends(buf_view(&seen[i]), STR(".gguf")));
        assert_null(strstr(seen[i].p, "secret"));
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(seen[i].p, seen[k].p);
    }
    for (size_t i = 0; i < COUNT(names); i++)
        buf_fini(&seen[i]);
}

static int resolve(const char *name, struct buf *path, struct err *e)
{
    buf_reset(path);
    return catalogue_resolve(str_of(name), path, e);
}

static void resolving_finds_files_or_says_what_to_run(void **state)
{
    char dir[] = "/tmp/llmd-catalogue-XXXXXX", file[128];
    struct buf path;
    struct err e;

    (void)state;
    assert_non_null(mkdtemp(dir));
    setenv("LLMD_CACHE", dir, 1);
    buf_init(&path, 4096);

    assert_int_equal(resolve("smollm2-135m", &path, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "run: llmd model fetch smollm2-135m"));
    assert_int_equal(resolve("https://h/m.gguf", &path, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "run: llmd model fetch https://h/m.gguf"));
    assert_int_equal(resolve("no-such-model", &path, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "llmd model list"));
    assert_int_equal(resolve("./no/such/file.gguf", &path, &e), ERR_NOTFOUND);

    snprintf(file, sizeof(file), "%s/%s", dir, catalogue_find(STR("smollm2"))->file);
    assert_int_equal(file_write(file, STR("short"), &e), 0);
    assert_int_equal(resolve("smollm2", &path, &e), ERR_MISMATCH);
    assert_non_null(strstr(e.msg, "damaged"));
    assert_int_equal(truncate(file, (off_t)catalogue_find(STR("smollm2"))->bytes), 0);
    assert_int_equal(resolve("smollm2", &path, &e), 0);
    assert_string_equal(path.p, file);
    assert_int_equal(resolve(file, &path, &e), 0); /* a file by its path */
    assert_string_equal(path.p, file);
    remove(file);
    rmdir(dir);
    buf_fini(&path);
}

static void names_too_long_are_refused(void **state)
{
    struct buf name, path;
    struct err e;

    (void)state;
    buf_init(&name, 16384);
    while (name.len < 8000)
        buf_z(&name, "abcdefgh");
    buf_init(&path, 4096);
    assert_int_not_equal(catalogue_resolve(buf_view(&name), &path, &e), 0);
    buf_fini(&path);
    buf_fini(&name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rows_are_complete),
        cmocka_unit_test(the_folder_follows_the_environment),
        cmocka_unit_test(hugging_face_names_are_told_from_paths),
        cmocka_unit_test(a_kept_file_s_name_is_plain_and_its_own),
        cmocka_unit_test(resolving_finds_files_or_says_what_to_run),
        cmocka_unit_test(names_too_long_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
