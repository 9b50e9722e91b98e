/* net/zmtp_priv.h - ZMTP 3.0 bytes: pure, incremental, bounded. */
// SPDX-License-Identifier: Apache-2.0
#ifndef NET_ZMTP_PRIV_H
#define NET_ZMTP_PRIV_H
#include "base/buf.h"
#include "net/zmtp.h"

#define ZMTP_GREETING_BYTES 64

enum zmtp_event {
    ZMTP_MORE,    /* all bytes used up */
    ZMTP_GREETED, /* the peer's greeting is complete and acceptable */
    ZMTP_COMMAND, /* name and data of a command frame */
    ZMTP_MESSAGE, /* a whole message */
    ZMTP_BAD      /* not ZMTP 3 with NULL, or over a ceiling; the reader stays there */
};

struct zmtp_reader {
    size_t bytes_max; /* of one message or command */
    enum { ZMTP_AT_GREETING, ZMTP_AT_FLAGS, ZMTP_AT_LENGTH, ZMTP_AT_BODY, ZMTP_AT_BAD } state;
    unsigned char greeting[ZMTP_GREETING_BYTES];
    size_t have; /* bytes of greeting or length so far */
    unsigned flags;
    uint64_t length, left;
    struct buf bytes; /* of the frames so far */
    size_t end[ZMTP_FRAMES_MAX], count;
    bool delivered; /* bytes belong to what was just handed out */
};

extern const unsigned char zmtp_greeting[ZMTP_GREETING_BYTES];

void zmtp_reader_init(struct zmtp_reader *r, size_t bytes_max);
void zmtp_reader_fini(struct zmtp_reader *r);
/* Consumes from *in.  A command is m->frame[0] = name, m->frame[1] = data.  m borrows from the
 * reader until the next call. */
enum zmtp_event zmtp_next(struct zmtp_reader *r, struct str *in, struct zmtp_msg *m);
/* Appends a message or a command as frames. */
bool zmtp_put(struct buf *b, const struct zmtp_msg *m);
bool zmtp_put_command(struct buf *b, const char *name, struct str data);
bool zmtp_put_ready(struct buf *b, const char *socket_type);
/* The value of a property in READY's data (names in any case); p == NULL when it is not there or
 * the data are malformed. */
struct str zmtp_property(struct str data, const char *name);
#endif
