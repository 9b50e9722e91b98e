/* gateway/extproc_priv.h - the parts of ext_proc that stand alone: answers as bytes, and the change
 * of a model's name in a response that comes in pieces. */
// SPDX-License-Identifier: Apache-2.0
#ifndef GATEWAY_EXTPROC_PRIV_H
#define GATEWAY_EXTPROC_PRIV_H
#include "base/arena.h"
#include "base/buf.h"
#include "gateway/extproc.h"

/* ---- answers (extproc_answer.c) ---- */

enum extproc_side { EXTPROC_REQUEST, EXTPROC_RESPONSE };

/* A header that is neither echoed to the model server nor to the client. */
bool extproc_owned(struct str name);

struct extproc_set {
    const struct extproc_header *header;
    size_t count;
};

/* Each appends one ProcessingResponse; false: over the ceiling of `out` or of the arena. */
bool extproc_put_request_head(struct buf *out, struct arena *a, const struct extproc_pick *pick,
                              struct extproc_set client, struct str request_id, size_t body_bytes);
bool extproc_put_response_head(struct buf *out, struct arena *a, struct extproc_set added,
                               struct extproc_set server);
/* metadata: a Struct's bytes, may be none. */
bool extproc_put_body(struct buf *out, enum extproc_side side, struct str bytes, bool end,
                      struct str metadata);
bool extproc_put_trailers(struct buf *out, enum extproc_side side, struct str metadata);
/* {space: {name: value}}, each space once. */
bool extproc_put_numbers(struct buf *out, const struct extproc_number *list, size_t count);
bool extproc_put_immediate(struct buf *out, struct arena *a, int status, struct str body,
                           struct extproc_set headers);

/* ---- the model's name (extproc_rename.c) ---- */

/* Replaces "model":"<from>" by "model":"<to>" (with or without a blank after the colon), also where
 * a piece ends inside of it.  A zeroed one passes everything. */
struct extproc_rename {
    struct buf pattern[2], to[2]; /* whole members, as they stand in JSON */
    struct buf held;              /* the end of the last piece: the begin of a pattern, perhaps */
    bool on;
};

void extproc_rename_init(struct extproc_rename *r, struct str from, struct str to);
void extproc_rename_fini(struct extproc_rename *r);
/* Appends what can leave now; end: all of it. */
bool extproc_rename_feed(struct extproc_rename *r, struct str bytes, bool end, struct buf *out);
#endif
