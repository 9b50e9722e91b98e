/* net/tls.h - who we are and whom we trust, for connections that are encrypted (OpenSSL 3).
 *
 * A struct tls_server or tls_client is given to listener_open, conn_open, http_server_open or
 * http_call_start; net/conn.h keeps its meaning on top of it.  TLS 1.3, and 1.2 with ECDHE and AEAD
 * only; no renegotiation, compression, 0-RTT, tickets; chains of at most 5, certificates of at
 * most 64 KiB.
 *
 * Files are watched (net/watch.h) and read again 250 ms after the last change: a new pair is
 * taken when the key fits the certificate and its time is now, else the old one stays, an error is
 * logged and counted.  Connections keep the certificate that they began with.
 *
 * Threads: open, info and close on the loop that was given (none: any one thread, and nothing is
 * watched); connections of any loop may use it meanwhile.  Close it after them. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_TLS_H
#define NET_TLS_H
#include "base/err.h"
#include "net/loop.h"
#include <stdbool.h>
#include <stdint.h>

struct tls_server;
struct tls_client;

struct tls_server_opts {
    const char *dir;       /* with tls.crt (PEM chain, leaf first) and tls.key; or: */
    const char *cert_file; /* PEM chain */
    const char *key_file;  /* PEM, without a passphrase */
    /* Neither: a fresh ECDSA P-256 key signed by itself, organisation "llmd", for localhost and
     * these names (comma-separated names and addresses, may be NULL). */
    bool self_signed;
    const char *self_signed_names;
    /* Clients must show a certificate of one of these authorities (PEM).  NULL: none is asked. */
    const char *client_ca_file;
    /* By preference, comma-separated: "h2,http/1.1".  A client that offers others only is refused,
     * one that offers none is taken.  NULL: no ALPN. */
    const char *alpn;
};

struct tls_client_opts {
    const char *ca_file;              /* PEM; NULL: the system's store */
    const char *cert_file, *key_file; /* our own, for mutual TLS; NULL: none */
    const char *server_name;          /* what to ask for and check; NULL: the connection's host */
    const char *alpn;                 /* as above */
    bool skip_verify;                 /* takes any certificate: logged as a warning */
};

struct tls_info {
    int64_t not_before, not_after; /* seconds since 1970; 0: no certificate of our own */
    uint64_t reloads, reload_failures;
};

/* Strings are copied.  ERR_IO, ERR_PARSE (no PEM), ERR_MISMATCH (key, or time), ERR_INVAL. */
int tls_server_open(struct loop *l, const struct tls_server_opts *o, struct tls_server **out,
                    struct err *e) MUST_CHECK;
void tls_server_info(const struct tls_server *s, struct tls_info *out);
void tls_server_close(struct tls_server *s); /* NULL is fine */

int tls_client_open(struct loop *l, const struct tls_client_opts *o, struct tls_client **out,
                    struct err *e) MUST_CHECK;
void tls_client_info(const struct tls_client *c, struct tls_info *out);
void tls_client_close(struct tls_client *c); /* NULL is fine */
#endif
