/* Certificates, trust, and their change under way.
 *
 *   files --change--> 250 ms of quiet --> read, check --good--> new SSL_CTX, swapped in
 *                                              `--bad--> the old one stays, counted, logged
 *
 * A store holds the current SSL_CTX behind a short lock; a session takes a reference of it, so a
 * swap never touches connections that stand.  Everything of a context is made anew from the files:
 * there is no half-changed state. */
// SPDX-License-Identifier: Apache-2.0
#include "net/tls.h"
#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "net/tls_priv.h"
#include "net/watch.h"
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define AGE_MS           3600000
#define PEM_BYTES_MAX    ((size_t)256 << 10)
#define PEER_CHAIN_BYTES 65536
#define CHAIN_DEPTH_MAX  5
#define ALPN_MAX         64
#define SELF_SIGNED_DAYS 3650
#define CIPHERS_12       "ECDHE+AESGCM:ECDHE+CHACHA20"
#define GROUPS           "X25519:P-256:P-384"

struct tls_store {
    pthread_mutex_t lock; /* guards ctx */
    SSL_CTX *ctx;
    bool server, self_signed, skip_verify;
    char *cert, *key, *ca, *names;
    unsigned char alpn[ALPN_MAX]; /* wire form: length, name, length, name */
    unsigned alpn_len;
    struct watch *watch;
    struct loop_timer *age;
    _Atomic int64_t not_before, not_after;
    _Atomic uint64_t reloads, reload_failures;
};

struct tls_server {
    struct tls_store store;
};

struct tls_client {
    struct tls_store store;
    char *server_name;
    uint64_t id;
};

/* What OpenSSL has to say, and its queue empty again. */
static const char *openssl_why(void)
{
    const char *why = ERR_reason_error_string(ERR_peek_last_error());

    ERR_clear_error();
    return why != NULL ? why : "no reason given";
}

/* ---- reading PEM ---- */

/* OpenSSL's own would ask on the terminal. */
static int no_passphrase(char *out, int size, int writing, void *ctx)
{
    (void)out;
    (void)size;
    (void)writing;
    (void)ctx;
    return -1;
}

static int pem_open(const char *path, struct buf *bytes, BIO **bio, struct err *e)
{
    int rc;

    buf_init(bytes, PEM_BYTES_MAX);
    rc = file_read(path, bytes, e);
    if (rc != 0)
        return rc;
    *bio = BIO_new_mem_buf(bytes->p, (int)bytes->len);
    return *bio != NULL ? 0 : err_set(e, ERR_NOMEM, "%s: no memory", path);
}

static void pem_close(struct buf *bytes, BIO *bio)
{
    BIO_free(bio);
    if (bytes->p != NULL)
        OPENSSL_cleanse(bytes->p, bytes->cap);
    buf_fini(bytes);
}

static int use_chain(SSL_CTX *ctx, const char *path, struct err *e)
{
    X509 *cert = NULL;
    struct buf bytes;
    BIO *bio = NULL;
    int rc = pem_open(path, &bytes, &bio, e), more = 0;

    if (rc != 0)
        goto out;
    cert = PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL);
    if (cert == NULL || SSL_CTX_use_certificate(ctx, cert) != 1) {
        rc = err_set(e, ERR_PARSE, "%s: no usable certificate: %s", path, openssl_why());
        goto out;
    }
    for (X509 *next; (next = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL)) != NULL; more++)
        if (more == CHAIN_DEPTH_MAX || SSL_CTX_add0_chain_cert(ctx, next) != 1) {
            X509_free(next);
            rc = err_set(e, ERR_LIMIT, "%s: the chain is too long", path);
            goto out;
        }
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        rc = err_set(e, ERR_PARSE, "%s: damaged chain: %s", path, openssl_why());
    ERR_clear_error();
out:
    X509_free(cert);
    pem_close(&bytes, bio);
    return rc;
}

static int use_key(SSL_CTX *ctx, const char *path, struct err *e)
{
    EVP_PKEY *key = NULL;
    struct buf bytes;
    BIO *bio = NULL;
    int rc = pem_open(path, &bytes, &bio, e);

    if (rc == 0) {
        key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
        if (key == NULL)
            rc = err_set(e, ERR_PARSE, "%s: no usable private key: %s", path, openssl_why());
        else if (SSL_CTX_use_PrivateKey(ctx, key) != 1 || SSL_CTX_check_private_key(ctx) != 1)
            rc = err_set(e, ERR_MISMATCH, "%s: the key does not fit the certificate: %s", path,
                         openssl_why());
    }
    EVP_PKEY_free(key);
    pem_close(&bytes, bio);
    return rc;
}

static int64_t seconds_of(const ASN1_TIME *t)
{
    struct tm tm;

    return ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static int check_time(SSL_CTX *ctx, const char *path, struct err *e)
{
    const X509 *cert = SSL_CTX_get0_certificate(ctx);
    int64_t now = (int64_t)clock_wall_s();

    if (seconds_of(X509_get0_notAfter(cert)) <= now)
        return err_set(e, ERR_MISMATCH, "%s: the certificate has expired", path);
    if (seconds_of(X509_get0_notBefore(cert)) > now + 60)
        return err_set(e, ERR_MISMATCH, "%s: the certificate is not valid yet", path);
    return 0;
}

/* ---- a certificate of our own ---- */

static bool name_add(struct buf *san, struct str name)
{
    char text[64];
    struct in6_addr any;

    if (name.n == 0)
        return true;
    for (size_t i = 0; i < name.n; i++) /* the text is a list for OpenSSL: no separators */
        if (strchr(",:;/ @", name.p[i]) != NULL && !(name.p[i] == ':' && name.n < sizeof(text)))
            return false;
    snprintf(text, sizeof(text), "%.*s", STR_ARG(str_sub(name, 0, sizeof(text) - 1)));
    if (inet_pton(AF_INET, text, &any) == 1 || inet_pton(AF_INET6, text, &any) == 1)
        return buf_f(san, ",IP:%.*s", STR_ARG(name));
    return str_chr(name, ':') == SIZE_MAX && buf_f(san, ",DNS:%.*s", STR_ARG(name));
}

static bool extension(X509 *cert, int nid, const char *value)
{
    X509V3_CTX v3;
    X509_EXTENSION *x;
    bool ok;

    X509V3_set_ctx_nodb(&v3);
    X509V3_set_ctx(&v3, cert, cert, NULL, NULL, 0);
    x = X509V3_EXT_conf_nid(NULL, &v3, nid, value);
    ok = x != NULL && X509_add_ext(cert, x, -1) == 1;
    X509_EXTENSION_free(x);
    return ok;
}

static bool self_fill(X509 *cert, EVP_PKEY *key, const char *san)
{
    X509_NAME *name = X509_get_subject_name(cert);
    uint64_t serial = rng_secure_u64() >> 1;

    return X509_set_version(cert, 2) == 1 &&
           ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial) == 1 &&
           X509_gmtime_adj(X509_getm_notBefore(cert), -3600) != NULL &&
           X509_gmtime_adj(X509_getm_notAfter(cert), (long)SELF_SIGNED_DAYS * 86400) != NULL &&
           X509_NAME_add_entry_by_txt(name, "O", MBSTRING_ASC, (const unsigned char *)"llmd", -1,
                                      -1, 0) == 1 &&
           X509_set_issuer_name(cert, name) == 1 && X509_set_pubkey(cert, key) == 1 &&
           extension(cert, NID_basic_constraints, "critical,CA:FALSE") &&
           extension(cert, NID_key_usage, "critical,digitalSignature") &&
           extension(cert, NID_ext_key_usage, "serverAuth") &&
           extension(cert, NID_subject_alt_name, san) && X509_sign(cert, key, EVP_sha256()) != 0;
}

static int use_self_signed(SSL_CTX *ctx, const char *names, struct err *e)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    struct str rest = str_of(names);
    struct buf san;
    int rc = 0;

    buf_init(&san, 4096);
    buf_z(&san, "DNS:localhost,IP:127.0.0.1,IP:::1");
    while (rc == 0 && rest.p != NULL) {
        struct str name = str_trim(str_cut(&rest, ','));

        if (!name_add(&san, name))
            rc = err_set(e, ERR_INVAL, "self-signed certificate: bad name \"%.*s\"", STR_ARG(name));
    }
    buf_c(&san, 0);
    if (rc == 0 &&
        (key == NULL || cert == NULL || san.failed || !self_fill(cert, key, san.p) ||
         SSL_CTX_use_certificate(ctx, cert) != 1 || SSL_CTX_use_PrivateKey(ctx, key) != 1))
        rc = err_set(e, ERR_INTERNAL, "self-signed certificate: %s", openssl_why());
    X509_free(cert);
    EVP_PKEY_free(key);
    buf_fini(&san);
    return rc;
}

/* ---- contexts ---- */

static int pick_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                     const unsigned char *in, unsigned in_len, void *arg)
{
    const struct tls_store *s = arg;
    unsigned char *picked;

    (void)ssl;
    if (SSL_select_next_proto(&picked, out_len, s->alpn, s->alpn_len, in, in_len) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL; /* RFC 7301, 3.2 */
    *out = picked;
    return SSL_TLSEXT_ERR_OK;
}

static int alpn_set(struct tls_store *s, const char *list, struct err *e)
{
    struct str rest = str_of(list);

    while (rest.p != NULL) {
        struct str name = str_trim(str_cut(&rest, ','));

        if (name.n == 0 || s->alpn_len + 1 + name.n > ALPN_MAX)
            return err_set(e, ERR_INVAL, "ALPN: bad list \"%s\"", list);
        s->alpn[s->alpn_len++] = (unsigned char)name.n;
        memcpy(s->alpn + s->alpn_len, name.p, name.n);
        s->alpn_len += (unsigned)name.n;
    }
    return 0;
}

static bool context_rules(struct tls_store *s, SSL_CTX *ctx)
{
    /* No tickets and no cache: nothing to rotate, and no session outlives a reload. */
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_clear_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_LEGACY_SERVER_CONNECT);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_max_cert_list(ctx, PEER_CHAIN_BYTES);
    SSL_CTX_set_verify_depth(ctx, CHAIN_DEPTH_MAX);
    if (s->server && s->alpn_len != 0)
        SSL_CTX_set_alpn_select_cb(ctx, pick_alpn, s);
    if (!s->server && s->alpn_len != 0 && SSL_CTX_set_alpn_protos(ctx, s->alpn, s->alpn_len) != 0)
        return false;
    return SSL_CTX_set_num_tickets(ctx, 0) == 1 && SSL_CTX_set_max_early_data(ctx, 0) == 1 &&
           SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1 &&
           SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) == 1 &&
           SSL_CTX_set_cipher_list(ctx, CIPHERS_12) == 1 &&
           SSL_CTX_set1_groups_list(ctx, GROUPS) == 1;
}

static int context_trust(struct tls_store *s, SSL_CTX *ctx, struct err *e)
{
    STACK_OF(X509_NAME) * names;

    if (s->ca != NULL && SSL_CTX_load_verify_file(ctx, s->ca) != 1)
        return err_set(e, ERR_PARSE, "%s: no usable authorities: %s", s->ca, openssl_why());
    if (s->server) {
        if (s->ca == NULL)
            return 0;
        names = SSL_load_client_CA_file(s->ca);
        if (names == NULL)
            return err_set(e, ERR_PARSE, "%s: no usable authorities: %s", s->ca, openssl_why());
        SSL_CTX_set_client_CA_list(ctx, names);
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        return 0;
    }
    if (s->ca == NULL && !s->skip_verify && SSL_CTX_set_default_verify_paths(ctx) != 1)
        return err_set(e, ERR_IO, "the system's authorities: %s", openssl_why());
    SSL_CTX_set_verify(ctx, s->skip_verify ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    return 0;
}

static int context_new(struct tls_store *s, SSL_CTX **out, struct err *e)
{
    SSL_CTX *ctx = SSL_CTX_new(s->server ? TLS_server_method() : TLS_client_method());
    int rc = 0;

    ERR_clear_error();
    *out = NULL;
    if (ctx == NULL)
        return err_set(e, ERR_NOMEM, "TLS: no memory for a context");
    if (!context_rules(s, ctx))
        rc = err_set(e, ERR_INTERNAL, "TLS: %s", openssl_why());
    if (rc == 0 && s->self_signed)
        rc = use_self_signed(ctx, s->names, e);
    if (rc == 0 && s->cert != NULL)
        rc = use_chain(ctx, s->cert, e);
    if (rc == 0 && s->cert != NULL)
        rc = use_key(ctx, s->key, e);
    if (rc == 0 && s->cert != NULL)
        rc = check_time(ctx, s->cert, e);
    if (rc == 0)
        rc = context_trust(s, ctx, e);
    if (rc != 0)
        SSL_CTX_free(ctx);
    else
        *out = ctx;
    return rc;
}

/* ---- the store ---- */

static void store_take(struct tls_store *s, SSL_CTX *ctx)
{
    const X509 *cert = SSL_CTX_get0_certificate(ctx);
    SSL_CTX *old;

    s->not_before = cert != NULL ? seconds_of(X509_get0_notBefore(cert)) : 0;
    s->not_after = cert != NULL ? seconds_of(X509_get0_notAfter(cert)) : 0;
    pthread_mutex_lock(&s->lock);
    old = s->ctx;
    s->ctx = ctx;
    pthread_mutex_unlock(&s->lock);
    SSL_CTX_free(old);
}

static void look_at_age(void *arg)
{
    const struct tls_store *s = arg;
    int64_t now = (int64_t)clock_wall_s(), life = s->not_after - s->not_before;

    if (s->cert != NULL && s->not_after - now < life / 5)
        LOG_WARN("certificate expires soon file=%s seconds=%lld", s->cert,
                 (long long)(s->not_after - now));
}

static void reload(void *arg)
{
    struct tls_store *s = arg;
    SSL_CTX *ctx;
    struct err e;

    if (context_new(s, &ctx, &e) != 0) {
        s->reload_failures++;
        LOG_ERROR("certificate not taken, the old one stays why=\"%s\"", e.msg);
        return;
    }
    store_take(s, ctx);
    s->reloads++;
    LOG_INFO("certificate reloaded file=%s", s->cert != NULL ? s->cert : s->ca);
    look_at_age(s);
}

static char *copy(const char *s)
{
    return s != NULL ? mem_strdup(s) : NULL;
}

static int store_open(struct tls_store *s, struct loop *l, struct err *e)
{
    const char *const path[] = { s->cert, s->key, s->ca };
    SSL_CTX *ctx;
    int rc;

    if ((s->cert == NULL) != (s->key == NULL))
        return err_set(e, ERR_INVAL, "TLS: a certificate and its key come together");
    rc = context_new(s, &ctx, e);
    if (rc != 0)
        return rc;
    store_take(s, ctx);
    if (l == NULL || (s->cert == NULL && s->ca == NULL))
        return 0;
    s->age = loop_timer_new(l, look_at_age, s);
    loop_timer_arm(s->age, AGE_MS, AGE_MS);
    look_at_age(s);
    s->watch = watch_new(l, path, COUNT(path), reload, s);
    return 0;
}

static void store_close(struct tls_store *s)
{
    watch_free(s->watch);
    loop_timer_free(s->age);
    SSL_CTX_free(s->ctx);
    mem_free(s->cert);
    mem_free(s->key);
    mem_free(s->ca);
    mem_free(s->names);
    pthread_mutex_destroy(&s->lock);
}

static SSL *store_session(struct tls_store *s)
{
    SSL *ssl;

    pthread_mutex_lock(&s->lock);
    ssl = SSL_new(s->ctx); /* takes a reference of its own */
    pthread_mutex_unlock(&s->lock);
    return ssl;
}

static void store_info(const struct tls_store *s, struct tls_info *out)
{
    *out = (struct tls_info) { s->not_before, s->not_after, s->reloads, s->reload_failures };
}

/* ---- servers ---- */

static char *in_dir(const char *dir, const char *name)
{
    struct buf path;
    size_t n;

    buf_init(&path, 8192);
    buf_f(&path, "%s/%s", dir, name);
    buf_c(&path, 0);
    return buf_take(&path, &n);
}

int tls_server_open(struct loop *l, const struct tls_server_opts *o, struct tls_server **out,
                    struct err *e)
{
    struct tls_server *s;
    int kinds = (o->dir != NULL) + (o->cert_file != NULL) + o->self_signed, rc;

    *out = NULL;
    if (kinds != 1)
        return err_set(e, ERR_INVAL, "TLS: want a directory, a certificate file or self-signed");
    s = mem_zalloc(sizeof(*s));
    pthread_mutex_init(&s->store.lock, NULL);
    s->store.server = true;
    s->store.self_signed = o->self_signed;
    s->store.names = copy(o->self_signed_names);
    s->store.cert = o->dir != NULL ? in_dir(o->dir, "tls.crt") : copy(o->cert_file);
    s->store.key = o->dir != NULL ? in_dir(o->dir, "tls.key") : copy(o->key_file);
    s->store.ca = copy(o->client_ca_file);
    rc = alpn_set(&s->store, o->alpn, e);
    if (rc == 0)
        rc = store_open(&s->store, l, e);
    if (rc != 0) {
        tls_server_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void tls_server_info(const struct tls_server *s, struct tls_info *out)
{
    store_info(&s->store, out);
}

void tls_server_reload(struct tls_server *s)
{
    reload(&s->store);
}

void tls_server_close(struct tls_server *s)
{
    if (s == NULL)
        return;
    store_close(&s->store);
    mem_free(s);
}

SSL *tls_server_session(struct tls_server *s)
{
    SSL *ssl = store_session(&s->store);

    if (ssl != NULL)
        SSL_set_accept_state(ssl);
    return ssl;
}

/* ---- clients ---- */

int tls_client_open(struct loop *l, const struct tls_client_opts *o, struct tls_client **out,
                    struct err *e)
{
    static _Atomic uint64_t last_id;
    struct tls_client *c = mem_zalloc(sizeof(*c));
    int rc;

    *out = NULL;
    pthread_mutex_init(&c->store.lock, NULL);
    c->id = ++last_id;
    c->server_name = copy(o->server_name);
    c->store.cert = copy(o->cert_file);
    c->store.key = copy(o->key_file);
    c->store.ca = copy(o->ca_file);
    c->store.skip_verify = o->skip_verify;
    rc = alpn_set(&c->store, o->alpn, e);
    if (rc == 0)
        rc = store_open(&c->store, l, e);
    if (rc != 0) {
        tls_client_close(c);
        return rc;
    }
    if (o->skip_verify)
        LOG_WARN("TLS without verification of the server: anybody may answer in its name");
    *out = c;
    return 0;
}

void tls_client_info(const struct tls_client *c, struct tls_info *out)
{
    store_info(&c->store, out);
}

void tls_client_close(struct tls_client *c)
{
    if (c == NULL)
        return;
    store_close(&c->store);
    mem_free(c->server_name);
    mem_free(c);
}

uint64_t tls_client_id(const struct tls_client *c)
{
    return c->id;
}

SSL *tls_client_session(struct tls_client *c, const char *host)
{
    const char *name = c->server_name != NULL ? c->server_name : host;
    SSL *ssl = store_session(&c->store);
    struct in6_addr any;
    bool ok;

    if (ssl == NULL)
        return NULL;
    SSL_set_connect_state(ssl);
    /* Names of the subject are not looked at: who wants to be known says so in subjectAltName. */
    SSL_set_hostflags(ssl,
                      X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    if (inet_pton(AF_INET, name, &any) == 1 || inet_pton(AF_INET6, name, &any) == 1)
        ok = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1; /* no SNI: RFC 6066 */
    else
        ok = SSL_set_tlsext_host_name(ssl, name) == 1 && SSL_set1_host(ssl, name) == 1;
    if (!ok) {
        SSL_free(ssl);
        return NULL;
    }
    return ssl;
}
