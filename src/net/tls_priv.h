/* net/tls_priv.h - sessions for the connections of net/. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_TLS_PRIV_H
#define NET_TLS_PRIV_H
#include "net/tls.h"
#include <openssl/ssl.h>

/* A session in its first state, without BIOs; SSL_free.  NULL: no memory.  Any thread. */
SSL *tls_server_session(struct tls_server *s);
/* host: the connection's, a name or an address, unless the options say another. */
SSL *tls_client_session(struct tls_client *c, const char *host);
/* Reads the files again now, as the watch does after its quiet time.  On the owner's loop. */
void tls_server_reload(struct tls_server *s);
/* Never the same for two clients of a process. */
uint64_t tls_client_id(const struct tls_client *c);
#endif
