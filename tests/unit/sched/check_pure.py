#!/usr/bin/env python3
"""A decision reads no clock and does no I/O: the library may not even name such a function.

usage: check_pure.py NM LIBSCHED"""
import subprocess
import sys

BANNED = """clock_ms clock_us clock_ns clock_gettime gettimeofday time localtime gmtime nanosleep usleep sleep
rng_secure rng_secure_u64 getrandom rand random getenv open open64 openat read write pread pwrite fopen fopen64
fread fwrite fprintf printf __printf_chk __fprintf_chk puts stat fstat mmap unlink rename socket connect accept
bind listen send sendto recv recvfrom poll ppoll select epoll_wait eventfd pthread_create fork execve system
getaddrinfo file_read file_write file_map_open log_write""".split()


def main():
    out = subprocess.run([sys.argv[1], "-u", sys.argv[2]], check=True, capture_output=True, text=True).stdout
    used = {line.split()[1] for line in out.splitlines() if line.strip().startswith("U ")}
    if "arena_alloc" not in used or "rng_below" not in used:
        print("nm told nothing of %s" % sys.argv[2])
        return 1
    bad = sorted(u for u in used if u in BANNED or u.startswith(("clock_", "uv_", "conn_", "loop_")))
    for name in bad:
        print("src/sched uses %s" % name)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
