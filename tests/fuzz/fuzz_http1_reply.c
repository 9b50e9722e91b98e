/* HTTP/1.1 replies: byte 0 chooses the cuts, the rest is the message. */
// SPDX-License-Identifier: Apache-2.0
#include "fuzz_http1.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    http1_fuzz(HTTP1_REPLY, data, size);
    return 0;
}
