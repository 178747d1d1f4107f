#!/usr/bin/env bash
# `-object memory-backend-file,share=off` maps its file privately, so that what the guest writes does not reach the file. An
# incoming migration with the capability `postcopy-ram` (also one that never enters postcopy) punches the whole file all the
# same: it discards RAM by fallocate(PUNCH_HOLE) on the descriptor. A template that other guests map becomes zeros under them;
# 10.0 warns of it in its log. With readonly=on,rom=off (10.0) QEMU has no descriptor that it could write to, and the migration
# fails instead.
#
# QEMU 7.2.22 (Debian bookworm) and 10.0.2 (its backports), a file of 16 MiB on tmpfs.
set -euo pipefail
source "$(dirname "$0")/packages.sh"

unpack_debian old bookworm 'qemu-system-x86=1:7.2+dfsg-7+deb12u18*' 'seabios=1.16.2-1'
unpack_debian new bookworm-backports 'qemu-system-x86=1:10.0.2+ds-2+deb13u1~bpo12+1' 'seabios=1.16.3-2~bpo12+1'
files=$(mktemp -d /dev/shm/finding.XXXXXX)
trap 'rm -rf "$files"; end' EXIT

# round FOLDER OPTIONS NAME: loads a migration, and prints its end, and how many bytes of the file are not zero.
round() {
    local options=$2 name=$3 status
    local machine=(-M pc,memory-backend=pc.ram -m 16M)
    head -c 16M /dev/zero | tr '\0' x > "$files/$name"
    qemu "$1" "$name.source" "${machine[@]}" -object memory-backend-ram,id=pc.ram,size=16M >&2
    qemu "$1" "$name" "${machine[@]}" -incoming defer \
        -object "memory-backend-file,id=pc.ram,size=16M,share=off,mem-path=$files/$name$options" >&2
    qmp "$name" "$(capabilities postcopy-ram)" "$(incoming "unix:$work/$name.sock")" > "$work/answers"
    ! grep -q error "$work/answers" || changed "$(cat "$work/answers")"
    status=$(qmp "$name.source" "$(capabilities postcopy-ram)" "$(migrate "unix:$work/$name.sock")" migrated | tail -n 1)
    echo "$status, $(tr -d '\0' < "$files/$name" | wc -c) bytes of 16777216 left"
}

# expect WHAT FOLDER OPTIONS NAME
expect() {
    local found
    round "$2" "$3" "$4" > "$work/found"
    found=$(< "$work/found")
    echo "$2, share=off$3: $found"
    [[ $found == "$1" ]] || changed "expected: $1"
}
expect "completed, 0 bytes of 16777216 left" old '' first
expect "completed, 0 bytes of 16777216 left" new '' second
expect "failed, 16777216 bytes of 16777216 left" new ,readonly=on,rom=off third
seen "share=off does not keep the file whole"
