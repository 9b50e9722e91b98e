/* codec/b64.h - base64 (RFC 4648 section 4): the standard alphabet with padding.
 * Threads: pure functions of their arguments. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CODEC_B64_H
#define CODEC_B64_H
#include "base/arena.h"

struct str base64_encode(struct arena *a, struct str bytes);
/* p == NULL: it is none, or over the arena's ceiling. */
struct str base64_decode(struct arena *a, struct str text);
#endif
