#!/usr/bin/env bash
# A guest that is loaded through `exec:` does not run until the command has ended, however early it has closed its
# output: QEMU waits for it in its main loop, and its monitor answers no one meanwhile. A command that waits for the
# guest, or asks the monitor, waits for good.
#
# QEMU 10.0.2 (Debian bookworm-backports). The stream is sent, its pipe closed, and the command sleeps three seconds more.
set -euo pipefail
source "$(dirname "$0")/packages.sh"

unpack_debian qemu bookworm-backports 'qemu-system-x86=1:10.0.2+ds-2+deb13u1~bpo12+1' 'seabios=1.16.3-2~bpo12+1'
machine=(-M pc -m 16M)
qemu qemu source "${machine[@]}"
qmp source "$(migrate "file:$work/stream")" migrated | tail -n 1 | grep -qx completed || changed "the save did not complete"
qemu qemu destination "${machine[@]}" -incoming defer
begun=$(date +%s%N)
qmp destination "$(incoming "exec:cat $work/stream; exec >&-; sleep 3")" migrated | tail -n 1 | grep -qx completed ||
    changed "the load did not complete"
took=$((($(date +%s%N) - begun) / 1000000))
echo "completed, and the monitor answers, after $took ms"
((took >= 3000)) || changed "the command was not waited for"
seen "the command was waited for"
