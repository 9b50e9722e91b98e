/* ZMTP greeting, commands and messages: byte 0 chooses the cuts.  The same events at every cut,
 * within the ceiling, and what was read reads the same when written out again. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/mem.h"
#include "net/zmtp_priv.h"
#include <string.h>

#define BYTES_MAX 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Writes the events to `log` and the stream anew to `again`. */
static enum zmtp_event watch(struct str bytes, size_t step, struct buf *log, struct buf *again)
{
    enum zmtp_event ev = ZMTP_MORE;
    struct zmtp_reader r;
    struct zmtp_msg m;

    zmtp_reader_init(&r, BYTES_MAX);
    for (size_t at = 0; at < bytes.n && ev != ZMTP_BAD;) {
        size_t n = MIN(step, bytes.n - at);
        char *copy = mem_dup(bytes.p + at, n);
        struct str in = { copy, n };

        at += n;
        while ((ev = zmtp_next(&r, &in, &m)) != ZMTP_MORE && ev != ZMTP_BAD) {
            buf_f(log, "%d:", (int)ev);
            for (size_t i = 0; i < m.count; i++) {
                buf_f(log, "%zu=", m.frame[i].n);
                buf_str(log, m.frame[i]);
            }
            if (ev == ZMTP_GREETED) {
                buf_add(again, zmtp_greeting, ZMTP_GREETING_BYTES);
            } else if (ev == ZMTP_MESSAGE) {
                zmtp_put(again, &m);
            } else if (m.frame[0].n < 64) {
                char name[64];

                memcpy(name, m.frame[0].p, m.frame[0].n);
                name[m.frame[0].n] = 0;
                (void)zmtp_property(m.frame[1], "Socket-Type");
                if (strlen(name) == m.frame[0].n)
                    zmtp_put_command(again, name, m.frame[1]);
                else
                    again->failed = true; /* a name with NULs: ours never have one */
            } else {
                again->failed = true;
            }
        }
        ASSERT(r.bytes.len <= BYTES_MAX && r.count <= ZMTP_FRAMES_MAX);
        mem_free(copy);
    }
    zmtp_reader_fini(&r);
    return ev;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf log[3], again[3];
    struct str bytes;
    enum zmtp_event ev;

    if (size < 1)
        return 0;
    bytes = (struct str) { (const char *)data + 1, size - 1 };
    for (int i = 0; i < 3; i++) {
        buf_init(&log[i], 16 << 20);
        buf_init(&again[i], 16 << 20);
    }
    ev = watch(bytes, bytes.n, &log[0], &again[0]);
    ASSERT(watch(bytes, (size_t)data[0] % 40 + 1, &log[1], &again[1]) == ev);
    ASSERT(str_eq(buf_view(&log[0]), buf_view(&log[1])));
    if (!again[0].failed) {
        ASSERT(watch(buf_view(&again[0]), 7, &log[2], &again[2]) != ZMTP_BAD);
        ASSERT(str_eq(buf_view(&log[0]), buf_view(&log[2])));
    }
    for (int i = 0; i < 3; i++) {
        buf_fini(&log[i]);
        buf_fini(&again[i]);
    }
    return 0;
}
