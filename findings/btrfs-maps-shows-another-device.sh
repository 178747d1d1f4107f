#!/usr/bin/env bash
# On btrfs the device number in /proc/PID/maps is not the one that stat(2) gives for the same file, and it is the same for a file
# and for its copy in a snapshot of the subvolume, as is the inode number: (device, inode) of a mapping neither matches stat's nor
# tells two different files apart.
#
# Linux 6.18, btrfs-progs 6.2-1 (Debian bookworm) on a loop device; needs root.
set -euo pipefail
source "$(dirname "$0")/packages.sh"

unpack_debian btrfs bookworm 'btrfs-progs=6.2-1*'
uname -r
btrfs() {
    local loader=$work/btrfs/lib64/ld-linux-x86-64.so.2 program=$1
    shift
    "$loader" --library-path "$work/btrfs/lib/x86_64-linux-gnu:$work/btrfs/usr/lib/x86_64-linux-gnu" "$(find "$work/btrfs" -path "*bin/$program" | head -n 1)" "$@"
}
truncate -s 256M "$work/disk"
btrfs mkfs.btrfs -q "$work/disk" > "$work/log" 2>&1
mkdir "$work/mount"
mount -o loop "$work/disk" "$work/mount" 2> "$work/why" || skip "no btrfs here: $(cat "$work/why")"
trap 'umount "$work/mount"; end' EXIT
btrfs btrfs subvolume create "$work/mount/volume" > "$work/log"
head -c 8192 /dev/zero | tr '\0' x > "$work/mount/volume/file"
sync
btrfs btrfs subvolume snapshot "$work/mount/volume" "$work/mount/copy" > "$work/log"
printf y | dd of="$work/mount/copy/file" conv=notrunc status=none
python3 - "$work/mount/volume/file" "$work/mount/copy/file" <<'PYTHON' || changed "see above"
import mmap, os, sys
def pair(path):
    """(device, inode) by stat, and as /proc/self/maps prints them."""
    with open(path, "rb") as file:
        with mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ):
            line = next(line for line in open("/proc/self/maps") if line.rstrip().endswith(path))
        state = os.fstat(file.fileno())
    device, inode = line.split()[3:5]
    return f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x} {state.st_ino}", f"{device} {inode}"
pairs = [pair(path) for path in sys.argv[1:]]
for stat, maps in pairs:
    print(f"stat: {stat}, maps: {maps}")
(stat_file, maps_file), (stat_copy, maps_copy) = pairs
differ = open(sys.argv[1], "rb").read() != open(sys.argv[2], "rb").read()
sys.exit(not (differ and stat_file != stat_copy and maps_file == maps_copy and stat_file != maps_file))
PYTHON
seen "maps has another device than stat, and one pair for two different files"
