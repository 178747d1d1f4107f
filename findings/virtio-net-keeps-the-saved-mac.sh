#!/usr/bin/env bash
# A destination's `-device virtio-net-pci,mac=` is silently overridden by the migration stream, and `info network` does not
# show it: two guests that are loaded from one stream have one MAC address, whatever their command lines say.
#
# QEMU 10.0.2 (Debian bookworm-backports). Source: mac 52:54:00:00:00:01. Destination: mac 52:54:00:00:00:02. After loading
# `query-rx-filter` names :01 (what the device answers to), `info network` still :02.
set -euo pipefail
source "$(dirname "$0")/packages.sh"

unpack_debian qemu bookworm-backports 'qemu-system-x86=1:10.0.2+ds-2+deb13u1~bpo12+1' 'seabios=1.16.3-2~bpo12+1'
machine=(-M pc -m 16M -netdev hubport,id=n,hubid=0)
qemu qemu source "${machine[@]}" -device virtio-net-pci,netdev=n,id=nic,romfile=,mac=52:54:00:00:00:01
qmp source "$(migrate "file:$work/stream")" migrated | tail -n 1 | grep -qx completed || changed "the save did not complete"
qemu qemu destination "${machine[@]}" -device virtio-net-pci,netdev=n,id=nic,romfile=,mac=52:54:00:00:00:02 -incoming defer
qmp destination "$(incoming "file:$work/stream")" migrated | tail -n 1 | grep -qx completed || changed "the load did not complete"
answers=$(qmp destination '{"execute": "query-rx-filter"}' \
    '{"execute": "human-monitor-command", "arguments": {"command-line": "info network"}}')
filter=$(grep -o '"main-mac": "[^"]*"' <<< "$answers")
shown=$(grep -o 'macaddr=[0-9a-f:]*' <<< "$answers")
echo "query-rx-filter: $filter; info network: $shown"
[[ $filter == '"main-mac": "52:54:00:00:00:01"' && $shown == macaddr=52:54:00:00:00:02 ]] || changed "other addresses"
seen "the device has the saved MAC, info network shows that of the command line"
