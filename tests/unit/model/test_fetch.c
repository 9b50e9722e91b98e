/* Fetching models: from an HTTP server of our own that cuts, changes and refuses, from a
 * Hugging Face-like one, and from packages through a stand-in for python3. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "cmd/fetch.h"
#include "codec/blockkey.h"
#include "mkmodel/mkmodel.h"
#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const struct fetch_opts plain = { .quiet = true };

static struct buf content, other; /* two versions of a model */
static char content_sha[65];
static char folder[] = "/tmp/llmd-fetch-XXXXXX";

static void sha_hex(struct str s, char out[65])
{
    uint8_t h[32];

    hash_sha256(s.p, s.n, h);
    for (int i = 0; i < 32; i++)
        snprintf(out + 2 * i, 3, "%02x", h[i]);
}

/* ---- the server: one connection at a time, one request each ---- */

struct server {
    int fd;
    uint16_t port;
    pthread_t thread;
    atomic_bool stopping;
    /* What it does; set before a fetch, read by its thread. */
    struct buf *body;
    const char *etag;     /* NULL = none */
    size_t cut_after;     /* ends the first answers there; 0 = never */
    unsigned cuts;        /* so many of them */
    int status;           /* instead of 200 or 206; 0 = as it should be */
    unsigned status_from; /* from this request on */
    bool ignores_range;
    const char *listing; /* for /api/ paths */
    /* What it saw. */
    unsigned requests, ranges;
    char paths[8][256], range[128], if_range[128], authorization[128];
};

static void header_of(const char *request, const char *name, char out[128])
{
    const char *at = strcasestr(request, name);
    size_t n = 0;

    out[0] = 0;
    if (at == NULL)
        return;
    at += strlen(name);
    while (*at == ' ')
        at++;
    while (at[n] != '\r' && at[n] != 0 && n < 127) {
        out[n] = at[n];
        n++;
    }
    out[n] = 0;
}

static void send_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t put = send(fd, p, n, MSG_NOSIGNAL);

        if (put <= 0)
            return;
        p += put;
        n -= (size_t)put;
    }
}

static void answer(struct server *s, int fd, const char *request)
{
    struct buf head;
    size_t from = 0, n;
    struct str body = buf_view(s->body);
    bool is_api = strncmp(request, "GET /api/", 9) == 0;
    int status = s->requests >= s->status_from ? s->status : 0;

    header_of(request, "\r\nRange:", s->range);
    header_of(request, "\r\nIf-Range:", s->if_range);
    header_of(request, "\r\nAuthorization:", s->authorization);
    snprintf(s->paths[s->requests % 8], 256, "%.*s", (int)strcspn(request + 4, " "), request + 4);
    s->requests++;
    if (is_api)
        body = str_of(s->listing);
    else if (s->range[0] != 0 && !s->ignores_range &&
             (s->if_range[0] == 0 || (s->etag != NULL && strcmp(s->if_range, s->etag) == 0)))
        from = (size_t)strtoull(s->range + strlen("bytes="), NULL, 10);
    if (status == 0)
        status = from > body.n ? 416 : from > 0 ? 206 : 200;
    if (status >= 300)
        body = STR("no");
    s->ranges += status == 206;
    buf_init(&head, 4096);
    buf_f(&head, "HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %zu\r\n", status,
          status == 206 ? body.n - from : body.n);
    if (status == 206)
        buf_f(&head, "Content-Range: bytes %zu-%zu/%zu\r\n", from, body.n - 1, body.n);
    if (s->etag != NULL)
        buf_f(&head, "ETag: %s\r\n", s->etag);
    buf_z(&head, "\r\n");
    send_all(fd, head.p, head.len);
    buf_fini(&head);
    from = status == 206 ? from : 0;
    n = body.n - from;
    if (!is_api && s->cuts > 0 && n > s->cut_after) {
        n = s->cut_after;
        s->cuts--;
    }
    send_all(fd, body.p + from, n);
}

static void *serve(void *ctx)
{
    struct server *s = ctx;

    for (;;) {
        int fd = accept(s->fd, NULL, NULL);
        char request[4096];
        size_t n = 0;

        if (atomic_load(&s->stopping)) {
            if (fd >= 0)
                close(fd);
            return NULL;
        }
        if (fd < 0)
            continue;
        while (n + 1 < sizeof(request)) {
            ssize_t got = recv(fd, request + n, sizeof(request) - 1 - n, 0);

            if (got <= 0)
                break;
            n += (size_t)got;
            request[n] = 0;
            if (strstr(request, "\r\n\r\n") != NULL) {
                answer(s, fd, request);
                break;
            }
        }
        shutdown(fd, SHUT_WR);
        while (recv(fd, request, sizeof(request), 0) > 0)
            ;
        close(fd);
    }
}

static void server_start(struct server *s)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof(at);

    *s = (struct server) { .body = &content, .etag = "\"v1\"" };
    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(s->fd, 8), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&at, &n), 0);
    s->port = ntohs(at.sin_port);
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void server_stop(struct server *s)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                              .sin_port = htons(s->port) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    atomic_store(&s->stopping, true);
    (void)connect(fd, (struct sockaddr *)&at, sizeof(at));
    pthread_join(s->thread, NULL);
    close(fd);
    close(s->fd);
}

/* ---- helpers ---- */

static int get(const char *name, const struct fetch_opts *opts, struct err *e)
{
    struct buf path;
    int rc;

    buf_init(&path, 4096);
    rc = fetch_model(name, opts, &path, e);
    buf_fini(&path);
    return rc;
}

static void url_of(const struct server *s, const char *path, char out[128])
{
    snprintf(out, 128, "http://127.0.0.1:%u/%s", s->port, path);
}

/* What was fetched under a name is exactly `want`, and nothing of the work is left. */
static void check_kept(const char *name, const struct buf *want)
{
    struct buf path, got;
    struct err e;

    buf_init(&path, 4096);
    buf_init(&got, (size_t)16 << 20);
    if (catalogue_resolve(str_of(name), &path, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(file_read(path.p, &got, &e), 0);
    assert_true(str_eq(buf_view(&got), buf_view(want)));
    buf_z(&path, ".partial");
    buf_c(&path, 0);
    assert_false(file_exists(path.p));
    buf_fini(&got);
    buf_fini(&path);
}

static void check_absent(const char *name)
{
    struct buf path;
    struct err e;

    buf_init(&path, 4096);
    assert_int_equal(catalogue_resolve(str_of(name), &path, &e), ERR_NOTFOUND);
    buf_reset(&path);
    catalogue_dir(&path);
    buf_c(&path, '/');
    assert_true(catalogue_file(str_of(name), &path));
    buf_z(&path, ".partial");
    buf_c(&path, 0);
    assert_false(file_exists(path.p));
    buf_fini(&path);
}

/* ---- by URL ---- */

static void a_url_is_fetched_once(void **state)
{
    struct server s;
    struct err e = { 0 };
    char url[128];

    (void)state;
    server_start(&s);
    url_of(&s, "once.gguf", url);
    if (get(url, &plain, &e) != 0)
        fail_msg("%s", e.msg);
    check_kept(url, &content);
    assert_int_equal(get(url, &plain, &e), 0);
    server_stop(&s);
    assert_int_equal(s.requests, 1);
}

static void a_cut_transfer_goes_on_where_it_stopped(void **state)
{
    struct server s;
    struct err e = { 0 };
    char url[128];

    (void)state;
    server_start(&s);
    s.cut_after = content.len / 9;
    s.cuts = 7; /* more than it tries without progress */
    url_of(&s, "cut.gguf", url);
    if (get(url, &plain, &e) != 0)
        fail_msg("%s", e.msg);
    check_kept(url, &content);
    server_stop(&s);
    assert_int_equal(s.requests, 8);
    assert_int_equal(s.ranges, 7);
    assert_string_equal(s.if_range, "\"v1\"");
}

static void a_version_that_changed_is_fetched_anew(void **state)
{
    struct server s;
    struct err e = { 0 };
    char url[128];

    (void)state;
    server_start(&s);
    s.cut_after = 1000;
    s.cuts = 1;
    s.status = 410; /* the second try gives up */
    s.status_from = 1;
    url_of(&s, "changed.gguf", url);
    assert_int_equal(get(url, &plain, &e), ERR_IO);
    s.status = 0;
    s.body = &other;
    s.etag = "\"v2\"";
    if (get(url, &plain, &e) != 0)
        fail_msg("%s", e.msg);
    check_kept(url, &other);
    server_stop(&s);
    assert_string_equal(s.if_range, "\"v1\""); /* it did ask */
}

static void without_a_validator_nothing_is_joined(void **state)
{
    struct fetch_opts pinned = { .quiet = true, .sha256 = content_sha };
    struct server s;
    struct err e = { 0 };
    char url[128];

    (void)state;
    server_start(&s);
    s.etag = NULL;
    s.cut_after = 1000;
    s.cuts = 1;
    url_of(&s, "bare.gguf", url);
    if (get(url, &plain, &e) != 0)
        fail_msg("%s", e.msg);
    check_kept(url, &content);
    assert_int_equal(s.ranges, 0);
    s.cuts = 1; /* a known hash makes it safe */
    url_of(&s, "bare-pinned.gguf", url);
    if (get(url, &pinned, &e) != 0)
        fail_msg("%s", e.msg);
    check_kept(url, &content);
    server_stop(&s);
    assert_int_equal(s.ranges, 1);
}

static void a_server_without_ranges_works_too(void **state)
{
    struct server s;
    struct err e = { 0 };
    char url[128];

    (void)state;
    server_start(&s);
    s.cut_after = 1000;
    s.cuts = 1;
    s.ignores_range = true;
    url_of(&s, "no-ranges.gguf", url);
    if (get(url, &plain, &e) != 0)
        fail_msg("%s", e.msg);
    check_kept(url, &content);
    server_stop(&s);
}

static void what_is_wrong_is_removed(void **state)
{
    struct fetch_opts pinned = { .quiet = true, .sha256 = content_sha };
    struct server s;
    struct buf page;
    struct err e = { 0 };
    char url[128];

    (void)state;
    server_start(&s);
    s.body = &other;
    url_of(&s, "wrong.gguf", url);
    assert_int_equal(get(url, &pinned, &e), ERR_MISMATCH);
    assert_non_null(strstr(e.msg, content_sha));
    check_absent(url);
    buf_init(&page, 4096);
    buf_z(&page, "<!DOCTYPE html><title>log in first</title>");
    s.body = &page;
    assert_int_equal(get(url, &plain, &e), ERR_PARSE);
    assert_non_null(strstr(e.msg, "web page"));
    check_absent(url);
    server_stop(&s);
    buf_fini(&page);
}

static void refusals_say_what_to_do(void **state)
{
    static const struct {
        int status, rc;
        const char *says;
        unsigned requests;
    } cases[] = {
        { 404, ERR_NOTFOUND, "not found", 1 },
        { 403, ERR_IO, "HF_TOKEN", 1 },
        { 410, ERR_IO, "HTTP 410", 1 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct server s;
        struct err e = { 0 };
        char url[128];

        server_start(&s);
        s.status = cases[i].status;
        url_of(&s, "refused.gguf", url);
        assert_int_equal(get(url, &plain, &e), cases[i].rc);
        assert_non_null(strstr(e.msg, cases[i].says));
        check_absent(url);
        server_stop(&s);
        assert_int_equal(s.requests, cases[i].requests);
    }
}

/* ---- Hugging Face ---- */

static void a_repository_is_pinned_and_checked(void **state)
{
    struct server s;
    struct err e = { 0 };
    char endpoint[128], listing[1024];

    (void)state;
    server_start(&s);
    snprintf(listing, sizeof(listing),
             "{\"sha\":\"c0ffee\",\"siblings\":[{\"rfilename\":\"README.md\"},"
             "{\"rfilename\":\"m-Q8_0.gguf\"},{\"rfilename\":\"mmproj-Q4_K_M.gguf\"},"
             "{\"rfilename\":\"dir/m-Q4_K_M.gguf\",\"lfs\":{\"sha256\":\"%s\"}}]}",
             content_sha);
    s.listing = listing;
    url_of(&s, "", endpoint);
    endpoint[strlen(endpoint) - 1] = 0;
    setenv("HF_ENDPOINT", endpoint, 1);
    setenv("HF_TOKEN", "hf_test", 1);
    if (get("org/repo", &plain, &e) != 0)
        fail_msg("%s", e.msg);
    check_kept("org/repo", &content);
    assert_string_equal(s.paths[0], "/api/models/org/repo/revision/main?blobs=true");
    assert_string_equal(s.paths[1], "/org/repo/resolve/c0ffee/dir/m-Q4_K_M.gguf");
    assert_string_equal(s.authorization, "Bearer hf_test");

    assert_int_equal(get("org/repo@v9/no.gguf", &plain, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "no file of that name"));
    s.body = &other; /* the file is not what the listing says */
    assert_int_equal(get("org/repo@v9/dir/m-Q4_K_M.gguf", &plain, &e), ERR_MISMATCH);
    s.listing = "{\"sha\":\"c0ffee\",\"siblings\":[{\"rfilename\":\"../../m-q4_0.gguf\"}]}";
    assert_int_equal(get("org/evil", &plain, &e), ERR_UNSUPPORTED);
    s.listing = "{\"siblings\":[{\"rfilename\":\"model.safetensors\"}]}";
    assert_int_equal(get("org/none", &plain, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "-GGUF"));
    s.listing = "not json";
    assert_int_equal(get("org/broken", &plain, &e), ERR_PARSE);
    server_stop(&s);
    unsetenv("HF_ENDPOINT");
    unsetenv("HF_TOKEN");
}

/* ---- packages ---- */

/* A python3 that answers the two commands we run: it "downloads" by making a wheel that is the
 * part itself, and "unpacks" by writing it out.  Each download leaves a line in `log`. */
static void write_python(const char *path, const char *on_download)
{
    struct buf b;
    struct err e;

    buf_init(&b, 16384);
    buf_f(&b,
          "#!/bin/sh\n"
          "if [ \"$1\" = -m ]; then\n"
          "  while [ $# -gt 2 ]; do [ \"$1\" = -d ] && dest=$2; shift; done\n"
          "  package=$2; part=${package%%%%==*}\n"
          "  echo \"$package\" >>%s/log\n"
          "  %s\n"
          "  cp %s/$part \"$dest/$part-1-py3-none-any.whl\"\n"
          "else\n"
          "  cat \"$4\"\n"
          "fi\n",
          folder, on_download, folder);
    assert_int_equal(file_write(path, buf_view(&b), &e), 0);
    assert_int_equal(chmod(path, 0755), 0);
    buf_fini(&b);
}

static struct buf *log_read(void)
{
    static struct buf log;
    struct err e;
    char path[256];

    buf_fini(&log);
    buf_init(&log, 1 << 20);
    snprintf(path, sizeof(path), "%s/log", folder);
    if (file_read(path, &log, &e) != 0)
        buf_reset(&log);
    remove(path);
    return &log;
}

static void parts_are_joined_and_kept_when_one_fails(void **state)
{
    struct catalogue_entry c = { .name = "two-parts",
                                 .summary = "",
                                 .file = "two-parts.gguf",
                                 .licence = "",
                                 .packages = { "one==1", "two==1" },
                                 .member = { "one/a.bin", "two/b.bin" },
                                 .bytes = content.len,
                                 .sha256 = content_sha };
    size_t half = content.len / 2;
    char python[256], path[256];
    struct buf kept, got;
    struct err e = { 0 };

    (void)state;
    snprintf(python, sizeof(python), "%s/python", folder);
    setenv("LLMD_PYTHON", python, 1);
    snprintf(path, sizeof(path), "%s/one", folder);
    assert_int_equal(file_write(path, (struct str) { content.p, half }, &e), 0);
    snprintf(path, sizeof(path), "%s/two", folder);
    assert_int_equal(file_write(path, str_sub(buf_view(&content), half, SIZE_MAX), &e), 0);

    buf_init(&kept, 4096);
    write_python(python, "[ $part = two ] && { echo 'ERROR: no network' >&2; exit 1; }");
    assert_int_equal(fetch_entry(&c, &plain, &kept, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "pip could not download two==1 (exit 1): ERROR: no network"));
    assert_true(str_eqz(buf_view(log_read()), "one==1\ntwo==1\n"));

    write_python(python, ":");
    buf_reset(&kept);
    if (fetch_entry(&c, &plain, &kept, &e) != 0)
        fail_msg("%s", e.msg);
    assert_true(str_eqz(buf_view(log_read()), "two==1\n")); /* the first was there */
    buf_init(&got, (size_t)16 << 20);
    assert_int_equal(file_read(kept.p, &got, &e), 0);
    assert_true(str_eq(buf_view(&got), buf_view(&content)));

    buf_reset(&kept);
    assert_int_equal(fetch_entry(&c, &plain, &kept, &e), 0);
    assert_int_equal(log_read()->len, 0); /* it is there already */
    buf_fini(&got);
    buf_fini(&kept);
}

static void packages_that_hold_something_else_are_refused(void **state)
{
    struct catalogue_entry c = { .name = "wrong",
                                 .summary = "",
                                 .file = "wrong.gguf",
                                 .licence = "",
                                 .packages = { "one==1" },
                                 .member = { "one/a.bin" },
                                 .bytes = content.len / 2,
                                 .sha256 = content_sha };
    char path[256];
    struct buf kept;
    struct err e = { 0 };

    (void)state;
    buf_init(&kept, 4096);
    snprintf(path, sizeof(path), "%s/wrong.gguf", folder);
    assert_int_equal(fetch_entry(&c, &plain, &kept, &e),
                     ERR_MISMATCH); /* right size, other bytes */
    assert_non_null(strstr(e.msg, "SHA-256"));
    assert_false(file_exists(path));
    c.bytes = 1000; /* and more than was promised */
    assert_int_equal(fetch_entry(&c, &plain, &kept, &e), ERR_MISMATCH);
    assert_non_null(strstr(e.msg, "more than the 1000 bytes"));
    assert_false(file_exists(path));
    buf_fini(&kept);
}

static void a_missing_python_or_pip_is_named(void **state)
{
    struct catalogue_entry c = { .name = "none",
                                 .summary = "",
                                 .file = "none.gguf",
                                 .licence = "",
                                 .packages = { "one==1" },
                                 .member = { "one/a.bin" },
                                 .bytes = 10,
                                 .sha256 = content_sha };
    char python[256];
    struct buf kept;
    struct err e = { 0 };

    (void)state;
    buf_init(&kept, 4096);
    snprintf(python, sizeof(python), "%s/python", folder);
    write_python(python, "echo \"$0: No module named pip\" >&2; exit 1");
    assert_int_equal(fetch_entry(&c, &plain, &kept, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "apt install python3-pip"));
    setenv("LLMD_PYTHON", "/nonexistent/python3", 1);
    assert_int_equal(fetch_entry(&c, &plain, &kept, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "/nonexistent/python3 is not installed"));
    buf_fini(&kept);
}

static void *interrupt_soon(void *ctx)
{
    usleep(300 * 1000);
    kill(getpid(), SIGINT);
    return ctx;
}

static void an_interrupt_ends_the_child_and_is_said(void **state)
{
    struct catalogue_entry c = { .name = "slow",
                                 .summary = "",
                                 .file = "slow.gguf",
                                 .licence = "",
                                 .packages = { "one==1" },
                                 .member = { "one/a.bin" },
                                 .bytes = 10,
                                 .sha256 = content_sha };
    char python[256], path[256];
    struct buf kept;
    pthread_t t;
    struct err e = { 0 };

    (void)state;
    buf_init(&kept, 4096);
    snprintf(python, sizeof(python), "%s/python", folder);
    setenv("LLMD_PYTHON", python, 1);
    write_python(python, "sleep 60");
    assert_int_equal(pthread_create(&t, NULL, interrupt_soon, NULL), 0);
    assert_int_equal(fetch_entry(&c, &plain, &kept, &e), ERR_CANCELLED);
    pthread_join(t, NULL);
    snprintf(path, sizeof(path), "%s/.slow.gguf.work", folder);
    assert_false(file_exists(path));
    buf_fini(&kept);
}

static void names_of_nothing_are_refused(void **state)
{
    static const char *const names[] = { "no-such-model", "models/x.gguf", "ftp://h/x.gguf", "" };

    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        struct err e = { 0 };

        assert_int_equal(get(names[i], &plain, &e), ERR_NOTFOUND);
        assert_non_null(strstr(e.msg, "llmd model list"));
    }
}

static void make(uint64_t seed, struct buf *out)
{
    struct mkmodel o;
    struct err e;

    mkmodel_defaults(&o, "llama");
    o.layers = 1;
    o.embd = o.ff = 32;
    o.heads = o.kv_heads = 1;
    o.head_dim = 32;
    o.merges = 0;
    o.seed = seed;
    buf_init(out, (size_t)16 << 20);
    assert_int_equal(mkmodel_build(&o, out, &e), 0);
}

static int setup(void **state)
{
    (void)state;
    if (mkdtemp(folder) == NULL)
        return -1;
    setenv("LLMD_CACHE", folder, 1);
    setenv("no_proxy", "127.0.0.1", 1);
    make(1, &content);
    make(2, &other);
    sha_hex(buf_view(&content), content_sha);
    return 0;
}

static int teardown(void **state)
{
    char command[128];

    (void)state;
    buf_fini(&content);
    buf_fini(&other);
    buf_fini(log_read());
    snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_url_is_fetched_once),
        cmocka_unit_test(a_cut_transfer_goes_on_where_it_stopped),
        cmocka_unit_test(a_version_that_changed_is_fetched_anew),
        cmocka_unit_test(without_a_validator_nothing_is_joined),
        cmocka_unit_test(a_server_without_ranges_works_too),
        cmocka_unit_test(what_is_wrong_is_removed),
        cmocka_unit_test(refusals_say_what_to_do),
        cmocka_unit_test(a_repository_is_pinned_and_checked),
        cmocka_unit_test(parts_are_joined_and_kept_when_one_fails),
        cmocka_unit_test(packages_that_hold_something_else_are_refused),
        cmocka_unit_test(a_missing_python_or_pip_is_named),
        cmocka_unit_test(an_interrupt_ends_the_child_and_is_said),
        cmocka_unit_test(names_of_nothing_are_refused),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
