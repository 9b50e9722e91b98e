// SPDX-License-Identifier: Apache-2.0
#include "base/str.h"
#include <stdio.h>

int main(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    printf("llmd %s\n", LLMD_VERSION);
    return 0;
}
