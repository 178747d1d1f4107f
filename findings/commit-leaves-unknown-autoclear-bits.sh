#!/usr/bin/env bash
# `qemu-img commit` writes into a backing file without clearing the backing file's unknown autoclear feature bits. By the QCOW2
# specification (docs/interop/qcow2.txt, bytes 88 - 95) a program that opens an image for writing and does not know such a bit
# clears it, so that the bit tells whether something that its owner keeps beside the data is still valid. `qemu-io`'s write
# into the same image does clear it.
#
# qemu-img 10.0.2 (Debian bookworm-backports), autoclear bit 62.
set -euo pipefail
source "$(dirname "$0")/packages.sh"

unpack_debian qemu bookworm-backports 'qemu-utils=1:10.0.2+ds-2+deb13u1~bpo12+1'
(run_in qemu qemu-img --version | head -n 1)
image() { (run_in qemu qemu-img "$@"); }
io() { (run_in qemu qemu-io "$@"); }
# The autoclear features of file "$1": a big-endian number of 64 bits at 88.
bits() { od -An -tx1 -j 88 -N 8 "$1" | tr -d ' \n'; }

cd "$work"
image create -q -f qcow2 base.qcow2 1M
printf '\100' | dd of=base.qcow2 bs=1 seek=88 conv=notrunc status=none
cp base.qcow2 other.qcow2
image create -q -f qcow2 -F qcow2 -b base.qcow2 overlay.qcow2
io -c 'write -P 7 0 64k' overlay.qcow2 > /dev/null
image commit -q overlay.qcow2
io -r -c 'read -P 7 0 64k' base.qcow2 | grep -q 'read 65536/65536' || changed "the commit did not arrive"
io -c 'write -P 7 0 64k' other.qcow2 > /dev/null
echo "autoclear bits: after commit $(bits base.qcow2), after a write $(bits other.qcow2)"
[[ $(bits base.qcow2) == 4000000000000000 && $(bits other.qcow2) == 0000000000000000 ]] || changed "other bits"
seen "commit leaves the bit, a write clears it"
