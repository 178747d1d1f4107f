#!/usr/bin/env bash
# The stream of a `background-snapshot` has no SECTION_END (type 3) for `ram`, although its device sections, EOF and vmdesc
# follow: a reader that waits for the END of each section that it saw the START of waits for ever. An ordinary migration has it.
# And with `mapped-ram`, whose page bitmaps are written by that END, such a save is "completed", with the page data in the
# file and empty bitmaps: loading it fails.
#
# QEMU 10.0.2 (Debian bookworm-backports), a guest of 16 MiB that SeaBIOS has run in for a second. Needs userfaultfd write
# protection (root).
set -euo pipefail
source "$(dirname "$0")/packages.sh"

unpack_debian qemu bookworm-backports 'qemu-system-x86=1:10.0.2+ds-2+deb13u1~bpo12+1' 'seabios=1.16.3-2~bpo12+1'

# save NAME CAPABILITY...: a guest of its own, saved into $work/NAME.
save() {
    local name=$1
    shift
    qemu qemu "$name" -M pc -m 16M
    qmp "$name" '{"execute": "cont"}' > "$work/answers"
    sleep 1
    [[ $# == 0 ]] || qmp "$name" "$(capabilities "$@")" > "$work/answers"
    grep -q error "$work/answers" && skip "$(cat "$work/answers")"
    qmp "$name" "$(migrate "file:$work/$name")" migrated | tail -n 1 | grep -qx completed || changed "$name: not completed"
}

# ends FILE: how many sections of type 3 have the id of `ram` and lie behind a footer of it (mark 0x7e, id), or behind a command.
ends() {
    python3 - "$1" <<'PYTHON'
import re, sys
data = open(sys.argv[1], "rb").read()
start = re.search(rb"\x01(....)\x03ram", data, re.S)
ident = start.group(1)
print(len(re.findall(rb"\x7e" + ident + rb"(?:\x08....)?\x03" + ident, data, re.S)))
PYTHON
}

save plain
save background background-snapshot
save both background-snapshot mapped-ram
echo "SECTION_END of ram behind a footer: ordinary $(ends "$work/plain"), background-snapshot $(ends "$work/background")"
[[ $(ends "$work/plain") == 1 && $(ends "$work/background") == 0 ]] || changed "other numbers"

python3 - "$work/both" <<'PYTHON' || changed "the file has bitmaps"
import struct, sys
data = open(sys.argv[1], "rb").read()
at = data.index(b"\x06pc.ram") + 7
used, version, page, bitmap, pages = struct.unpack(">QIQQQ", data[at:at + 36])
bits = data[bitmap:bitmap + used // page // 8]
content = sum(any(data[pages + n * page:pages + (n + 1) * page]) for n in range(used // page))
print(f"mapped-ram, pc.ram: {bits.count(0)} of {len(bits)} bytes of the bitmap are 0; {content} pages of the file are not zero")
sys.exit(any(bits) or not content)
PYTHON
qemu qemu destination -M pc -m 16M -incoming defer
qmp destination "$(capabilities mapped-ram)" > "$work/answers"
status=$( (qmp destination "$(incoming "file:$work/both")" migrated 2> /dev/null || echo failed) | tail -n 1)
echo "loading it: $status: $(tail -n 1 "$work/destination.log")"
[[ $status == failed ]] || changed "it loads"
seen "no END of ram, and with mapped-ram no bitmaps"
