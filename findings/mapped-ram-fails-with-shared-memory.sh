#!/usr/bin/env bash
# QEMU 10.0 accepts `mapped-ram` together with `x-ignore-shared`, and the save fails at its end, "Failed to write bitmap to file",
# if any RAM is a shared file: that block has no bitmap. With private RAM the same save is "completed", and the same QEMU does not
# load the file: its writer puts an address before each block's header, and its reader does not expect one.
#
# QEMU 10.0.2 (Debian bookworm-backports), a guest of 16 MiB.
set -euo pipefail
source "$(dirname "$0")/packages.sh"

unpack_debian qemu bookworm-backports 'qemu-system-x86=1:10.0.2+ds-2+deb13u1~bpo12+1' 'seabios=1.16.3-2~bpo12+1'

# save NAME ARGUMENT...: saves a machine into $work/NAME and prints the status.
save() {
    local name=$1
    shift
    qemu qemu "$name" -m 16M "$@" > "$work/version"
    qmp "$name" "$(capabilities mapped-ram x-ignore-shared)" "$(migrate "file:$work/$name")" migrated | tail -n 1
}

shared=$(save shared -M pc,memory-backend=m -object "memory-backend-file,id=m,size=16M,mem-path=$work/memory,share=on")
echo "shared RAM: $shared: $(grep bitmap "$work/shared.log" || true)"
[[ $shared == failed ]] && grep -q 'Failed to write bitmap to file' "$work/shared.log" || changed "it is saved"

private=$(save private -M pc)
qemu qemu destination -M pc -m 16M -incoming defer > "$work/version"
qmp destination "$(capabilities mapped-ram x-ignore-shared)" > "$work/answers"
loaded=$( (qmp destination "$(incoming "file:$work/private")" migrated 2> /dev/null || echo failed) | tail -n 1)
echo "private RAM: $private; loading it: $loaded: $(tail -n 1 "$work/destination.log")"
[[ $private == completed && $loaded == failed ]] || changed "it loads"
seen "mapped-ram with x-ignore-shared fails with shared RAM, and is not loaded without"
