/* Models over HTTP, by libcurl: a URL, or a Hugging Face repository.
 *
 * A broken transfer is tried again a few times and goes on where it stopped:
 * Range with If-Range, so that bytes of two versions are never joined.  The
 * validator (ETag, else Last-Modified) is kept in the note for a later run.
 * A Hugging Face name is first turned into a commit, a file and its SHA-256. */
// SPDX-License-Identifier: Apache-2.0
#include "base/arena.h"
#include "base/check.h"
#include "base/clock.h"
#include "codec/json.h"
#include "cmd/fetch_priv.h"
#include <curl/curl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRIES_MAX       5   /* without a byte in between */
#define RESUMES_MAX     200 /* of one fetch */
#define REDIRECTS_MAX   10L
#define LISTING_BYTES   ((size_t)16 << 20)
#define VALIDATOR_BYTES 512

struct transfer {
    struct fetch *f; /* NULL: into `text` */
    struct buf *text;
    CURL *curl;
    uint64_t keep; /* asked for from here */
    bool is_first; /* no byte of the body yet */
    char validator[VALIDATOR_BYTES];
    uint64_t range_from; /* of Content-Range */
    int rc;              /* our own failure inside a callback */
    struct err *e;
};

/* ---- callbacks ---- */

static void header_text(struct str line, const char *name, char *out, size_t size)
{
    struct str n = str_of(name), v;

    if (line.n <= n.n || !str_ieq(str_sub(line, 0, n.n), n))
        return;
    v = str_trim(str_sub(line, n.n, SIZE_MAX));
    if (v.n < size && memchr(v.p, '\n', v.n) == NULL && memchr(v.p, '\r', v.n) == NULL) {
        memcpy(out, v.p, v.n);
        out[v.n] = 0;
    }
}

static size_t on_header(char *p, size_t size, size_t n, void *ctx)
{
    struct transfer *t = ctx;
    struct str line = { p, size * n };
    char range[64] = "";
    struct str from;

    if (str_starts(line, STR("HTTP/"))) /* of a redirect before: forget it */
        t->validator[0] = 0;
    header_text(line, "Last-Modified:", t->validator, t->validator[0] != '"' ? VALIDATOR_BYTES : 0);
    header_text(line, "ETag:", t->validator, VALIDATOR_BYTES);
    header_text(line, "Content-Range: bytes", range, sizeof(range));
    if (range[0] != 0) {
        from = str_of(range);
        if (!str_u64(str_cut(&from, '-'), &t->range_from))
            t->range_from = UINT64_MAX;
    }
    return size * n;
}

/* The first bytes decide: 206 goes on, 200 begins anew. */
static int first_bytes(struct transfer *t)
{
    curl_off_t length = -1;
    long status = 0;
    int rc = 0;

    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(t->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    if (status == 206 && t->range_from != t->keep)
        return err_set(t->e, ERR_PARSE, "%s: the server sent another range than asked for",
                       t->f->name);
    if (status != 206 && t->keep != 0) {
        t->keep = 0;
        rc = fetch_start(t->f, 0, t->e);
    }
    t->f->total = length >= 0 ? t->keep + (uint64_t)length : 0;
    if (rc == 0)
        rc = fetch_note_write(t->f, str_of(t->validator), t->e);
    return rc;
}

static size_t on_body(char *p, size_t size, size_t n, void *ctx)
{
    struct transfer *t = ctx;

    if (t->f == NULL)
        return buf_add(t->text, p, size * n) ? size * n : 0;
    if (t->is_first)
        t->rc = first_bytes(t);
    t->is_first = false;
    if (t->rc == 0)
        t->rc = fetch_put(t->f, p, size * n, t->e);
    if (t->rc == 0)
        fetch_progress(t->f, t->f->done);
    return t->rc == 0 ? size * n : 0;
}

static int on_time(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)ctx;
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    return fetch_is_interrupted();
}

/* ---- one request ---- */

static void set_options(struct transfer *t, const char *url, const char *token)
{
    CURL *c = t->curl;

    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR,
                     strncmp(url, "https:", 6) == 0 ? "https" : "http,https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, REDIRECTS_MAX);
    curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, 30L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, 60L);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "llmd/" LLMD_VERSION);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_time);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    if (token != NULL) { /* libcurl does not pass it on to another host */
        curl_easy_setopt(c, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
        curl_easy_setopt(c, CURLOPT_XOAUTH2_BEARER, token);
    }
}

static int http_error(long status, CURLcode code, const char *detail, const char *url,
                      struct err *e)
{
    if (status == 401 || status == 403)
        return err_set(e, ERR_IO,
                       "%.300s: access refused (HTTP %ld); for a gated Hugging Face model "
                       "accept its terms there and set HF_TOKEN",
                       url, status);
    if (status == 404)
        return err_set(e, ERR_NOTFOUND, "%.400s: not found (HTTP 404)", url);
    if (code == CURLE_HTTP_RETURNED_ERROR)
        return err_set(e, ERR_IO, "%.400s: HTTP %ld", url, status);
    return err_set(e, ERR_IO, "%.300s: %.150s", url,
                   detail[0] != 0 ? detail : curl_easy_strerror(code));
}

/* *again: the failure may pass. */
static int request(struct transfer *t, const char *url, const char *token, const char *if_range,
                   bool *again, struct err *e)
{
    struct curl_slist *headers = NULL;
    char detail[CURL_ERROR_SIZE] = "", line[VALIDATOR_BYTES + 32];
    long status = 0;
    CURLcode code;

    *again = false;
    t->curl = curl_easy_init();
    if (t->curl == NULL)
        return err_set(e, ERR_INTERNAL, "libcurl is not available");
    t->is_first = true;
    t->range_from = UINT64_MAX;
    t->rc = 0;
    t->e = e;
    set_options(t, url, token);
    curl_easy_setopt(t->curl, CURLOPT_ERRORBUFFER, detail);
    if (t->keep != 0) {
        snprintf(line, sizeof(line), "Range: bytes=%" PRIu64 "-", t->keep);
        headers = curl_slist_append(headers, line);
        if (if_range[0] != 0) {
            snprintf(line, sizeof(line), "If-Range: %s", if_range);
            headers = curl_slist_append(headers, line);
        }
        curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, headers);
    }
    code = curl_easy_perform(t->curl);
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(t->curl);
    curl_slist_free_all(headers);
    if (t->rc != 0)
        return t->rc;
    if (code == CURLE_OK)
        return 0;
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return err_set(e, ERR_CANCELLED, "interrupted");
    if (code == CURLE_WRITE_ERROR && t->f == NULL)
        return err_set(e, ERR_LIMIT, "%.300s: the answer is larger than %zu bytes", url,
                       t->text->max);
    *again = code != CURLE_HTTP_RETURNED_ERROR || status >= 500 || status == 429 || status == 416;
    if (status == 416) /* shorter than what we have: begin anew */
        t->keep = 0;
    else if (t->f != NULL)
        t->keep = t->f->done;
    return http_error(status, code, detail, url, e);
}

static void wait_before(unsigned attempt)
{
    for (unsigned i = 0; i < (4u << attempt) && !fetch_is_interrupted(); i++)
        clock_sleep_ms(50); /* 0.2, 0.4, 0.8, 1.6 s */
}

int fetch_from_url(struct fetch *f, const char *url, const char *token, bool is_pinned,
                   struct err *e)
{
    struct transfer t = { .f = f };
    struct buf note;
    bool again = true;
    unsigned tries = 0, resumes = 0;
    int rc;

    /* Without a validator only a known hash can tell two versions apart. */
    buf_init(&note, VALIDATOR_BYTES);
    fetch_note_read(f, &note);
    if (!f->opts->force && (note.len != 0 || is_pinned))
        t.keep = fetch_partial_bytes(f);
    snprintf(t.validator, sizeof(t.validator), "%.*s", STR_ARG(str_trim(buf_view(&note))));
    buf_fini(&note);
    rc = fetch_start(f, t.keep, e);
    while (rc == 0 && again) {
        char if_range[VALIDATOR_BYTES];
        uint64_t before;

        snprintf(if_range, sizeof(if_range), "%s",
                 strncmp(t.validator, "W/", 2) != 0 ? t.validator : "");
        if (if_range[0] == 0 && !is_pinned)
            t.keep = 0;
        if (t.keep != f->done)
            rc = fetch_start(f, t.keep, e);
        before = f->done;
        if (rc == 0)
            rc = request(&t, url, token, if_range, &again, e);
        tries = f->done > before ? 1 : tries + 1;
        if (rc == 0 || !again || tries == TRIES_MAX || ++resumes == RESUMES_MAX)
            break;
        wait_before(tries - 1);
        rc = fetch_is_interrupted() ? err_set(e, ERR_CANCELLED, "interrupted") : 0;
    }
    return rc;
}

/* ---- Hugging Face ---- */

static bool has_word(struct str name, const char *word)
{
    struct str w = str_of(word);

    for (size_t i = 0; i + w.n <= name.n; i++)
        if (str_ieq(str_sub(name, i, w.n), w))
            return true;
    return false;
}

static bool is_candidate(const struct json *file, struct str *name)
{
    return json_str(json_get(file, "rfilename"), name) && str_ends(*name, STR(".gguf")) &&
           !has_word(*name, "mmproj") && !has_word(*name, "-of-0");
}

/* The file named, or the one that suits most machines, or the only one. */
static const struct json *choose(const struct json *files, struct str wanted)
{
    static const char *const best[] = { "q4_k_m", "q4_k_s", "q5_k_m", "q4_1", "q4_0",
                                        "q6_k",   "q8_0",   "bf16",   "f16" };
    const struct json *only = NULL;
    struct str name;
    size_t count = 0;

    for (const struct json *j = files != NULL ? files->first : NULL; j != NULL; j = j->next) {
        if (wanted.p != NULL) {
            if (json_str(json_get(j, "rfilename"), &name) && str_eq(name, wanted))
                return j;
        } else if (is_candidate(j, &name)) {
            only = j;
            count++;
        }
    }
    if (wanted.p != NULL)
        return NULL;
    for (size_t i = 0; i < COUNT(best); i++)
        for (const struct json *j = files != NULL ? files->first : NULL; j != NULL; j = j->next)
            if (is_candidate(j, &name) && has_word(name, best[i]))
                return j;
    return count == 1 ? only : NULL;
}

static int list_repo(const char *url, const char *token, struct buf *text, struct err *e)
{
    struct transfer t = { .text = text };
    bool again = true;
    int rc = 0;

    for (unsigned i = 0; again && i < TRIES_MAX; i++) {
        if (i != 0)
            wait_before(i - 1);
        buf_reset(text);
        rc = fetch_is_interrupted() ? err_set(e, ERR_CANCELLED, "interrupted")
                                    : request(&t, url, token, "", &again, e);
        if (rc == ERR_CANCELLED)
            break;
    }
    return rc;
}

/* Every word of the listing that goes into a URL must be as plain as our own names. */
static int file_url(const struct catalogue_hf *hf, const char *endpoint, const struct json *listing,
                    struct buf *url, struct buf *sha256, struct err *e)
{
    const struct json *file = choose(json_get(listing, "siblings"), hf->file);
    struct str commit = STR_NONE, name, sha = STR_NONE;
    struct catalogue_hf check;
    struct buf full;
    bool ok;

    if (file == NULL)
        return err_set(e, ERR_NOTFOUND,
                       "%.*s/%.*s has no %s; look for a repository whose name ends "
                       "in -GGUF, and name the file: org/repo/file.gguf",
                       STR_ARG(hf->org), STR_ARG(hf->repo),
                       hf->file.p != NULL ? "file of that name" : "single GGUF file to choose");
    (void)json_str(json_get(file, "rfilename"), &name);
    if (!json_str(json_get(listing, "sha"), &commit))
        commit = hf->rev;
    buf_init(&full, 2048);
    buf_f(&full, "%.*s/%.*s@%.*s/%.*s", STR_ARG(hf->org), STR_ARG(hf->repo), STR_ARG(commit),
          STR_ARG(name));
    ok = !full.failed && catalogue_parse_hf(buf_view(&full), &check);
    buf_fini(&full);
    if (!ok)
        return err_set(e, ERR_UNSUPPORTED,
                       "%.*s/%.*s: the file's name has characters that are not "
                       "supported; download it by hand",
                       STR_ARG(hf->org), STR_ARG(hf->repo));
    buf_f(url, "%s/%.*s/%.*s/resolve/%.*s/%.*s", endpoint, STR_ARG(hf->org), STR_ARG(hf->repo),
          STR_ARG(commit), STR_ARG(name));
    buf_c(url, 0);
    if (json_str(json_get(json_get(file, "lfs"), "sha256"), &sha) && sha.n == 64) {
        buf_str(sha256, sha);
        buf_c(sha256, 0);
    }
    return url->failed ? err_set(e, ERR_LIMIT, "the model's URL is too long") : 0;
}

int fetch_from_hf(struct fetch *f, const struct catalogue_hf *hf, struct buf *sha256, struct err *e)
{
    const char *endpoint = getenv("HF_ENDPOINT"), *token = getenv("HF_TOKEN");
    const struct json *listing;
    struct buf url, text;
    struct arena arena;
    int rc;

    if (endpoint == NULL || endpoint[0] == 0)
        endpoint = "https://huggingface.co";
    if (token != NULL && token[0] == 0)
        token = NULL;
    buf_init(&url, 4096);
    buf_init(&text, LISTING_BYTES);
    arena_init(&arena, 8 * LISTING_BYTES);
    buf_f(&url, "%s/api/models/%.*s/%.*s/revision/%.*s?blobs=true", endpoint, STR_ARG(hf->org),
          STR_ARG(hf->repo), STR_ARG(hf->rev));
    buf_c(&url, 0);
    rc = url.failed ? err_set(e, ERR_LIMIT, "the model's URL is too long")
                    : list_repo(url.p, token, &text, e);
    if (rc == 0)
        rc = json_parse(&arena, buf_view(&text), NULL, &listing, e);
    if (rc == 0) {
        buf_reset(&url);
        rc = file_url(hf, endpoint, listing, &url, sha256, e);
    }
    if (rc == 0) {
        fprintf(stderr, "%s: %s\n", f->name, url.p);
        rc = fetch_from_url(f, url.p, token, sha256->len != 0, e);
    }
    arena_fini(&arena);
    buf_fini(&text);
    buf_fini(&url);
    return rc;
}
