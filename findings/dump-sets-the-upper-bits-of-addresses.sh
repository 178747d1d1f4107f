#!/usr/bin/env bash
# `dump-guest-memory` with `paging: true` has a wrong virtual address for everything that an x86-64 guest maps into the lower half,
# where programs are: the upper 16 bits are always set. A guest that maps 0x400000 has 0xffff000000400000 in its dump.
#
# QEMU 10.0.2 (Debian bookworm-backports). The guest is a boot sector that enters long mode with two pages of 2 MiB mapped,
# 0 to 0 and 0x400000 to 0x200000, and halts.
set -euo pipefail
source "$(dirname "$0")/packages.sh"

unpack_debian qemu bookworm-backports 'qemu-system-x86=1:10.0.2+ds-2+deb13u1~bpo12+1' 'seabios=1.16.3-2~bpo12+1'

# 16-bit code: zeros and page tables at 0x1000 (PML4), 0x2000, 0x3000 (with pages), CR3, CR4.PAE, EFER.LME, CR0.PG, GDT, far
# jump; 64-bit code: hlt, jmp.
python3 - "$work/disk" <<'PYTHON'
import sys
code = bytes.fromhex("""
    fa 31c0 8ed8 8ec0 8ed0 bf0010 b90018 fc f3ab
    c70600100320 c70600200330 c70610308300 c70612302000 c70600308300
    66b800100000 0f22d8 0f20e0 0c20 0f22e0 66b9800000c0 0f32 0d0001 0f30
    0f20c0 660d01000080 0f22c0 0f0116787c ea647c0800 f4 ebfd""")
code = code.ljust(0x68, b"\x90") + bytes(8) + (0x00209A0000000000).to_bytes(8, "little")
code = code.ljust(0x78, b"\0") + (15).to_bytes(2, "little") + (0x7C68).to_bytes(4, "little")
open(sys.argv[1], "wb").write(code.ljust(510, b"\0") + b"\x55\xaa")
PYTHON
qemu qemu guest -M pc -m 16M -drive "file=$work/disk,format=raw,if=ide"
qmp guest '{"execute": "cont"}' > "$work/answers"
sleep 3
qmp guest '{"execute": "stop"}' \
    "{\"execute\": \"dump-guest-memory\", \"arguments\": {\"paging\": true, \"protocol\": \"file:$work/dump\"}}" > "$work/answers"
! grep error "$work/answers" || skip "no dump"
python3 - "$work/dump" <<'PYTHON' || changed "other addresses"
import struct, sys
data = open(sys.argv[1], "rb").read()
start, = struct.unpack_from("<Q", data, 32)
count, = struct.unpack_from("<H", data, 56)
loads = []
for number in range(count):
    kind, _, _, virtual, physical = struct.unpack_from("<IIQQQ", data, start + 56 * number)
    if kind == 1:
        print(f"virtual {virtual:#x}, physical {physical:#x}")
        loads.append((virtual, physical))
mapped = {physical: virtual for virtual, physical in loads}
sys.exit(mapped.get(0x200000) != 0xFFFF000000400000)
PYTHON
seen "the page at 0x400000 is at 0xffff000000400000 in the dump"
