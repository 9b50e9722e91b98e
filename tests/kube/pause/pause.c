/* Holds a pod's namespaces, or those of the whole test cluster: waits, reaps, ends on SIGTERM. */
// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signum)
{
    (void)signum;
    _exit(0);
}

static void reap(int signum)
{
    (void)signum;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        continue;
}

int main(void)
{
    struct sigaction a = { .sa_handler = reap, .sa_flags = SA_NOCLDSTOP };

    sigaction(SIGCHLD, &a, NULL);
    signal(SIGTERM, end);
    signal(SIGINT, end);
    for (;;)
        pause();
}
