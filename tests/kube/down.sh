#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# down.sh: ends the holder (the kernel then kills everything in its pid namespace), removes cgroups and state
set -u
CG=kube$(printf %s "$RUN" | tr / -)
P=$(cat "$RUN/holder") || exit 1
# nsenter stops itself with its child; a stopped one would never reap it, and the namespace never end
for f in "$RUN"/*.outer; do p=$(cat "$f"); [ "$(cat "/proc/$p/comm" 2>/dev/null)" != nsenter ] || kill -CONT "$p"; done
kill -9 "$P"; while [ -d "/proc/$P" ]; do sleep 0.05; done
i=0; while [ $i -lt 50 ]; do
 for c in cpu cpuacct cpuset memory devices freezer blkio pids systemd unified; do
  [ ! -d /sys/fs/cgroup/$c/$CG ] || find /sys/fs/cgroup/$c/$CG -depth -type d -exec rmdir {} + 2>/dev/null; done
 ls -d /sys/fs/cgroup/*/$CG >/dev/null 2>&1 || break; i=$((i+1)); sleep 0.1; done
rm -rf --one-file-system "$RUN"
