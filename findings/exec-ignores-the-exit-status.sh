#!/usr/bin/env bash
# A migration into `exec:COMMAND` is "completed" although COMMAND ends with exit status 1: QEMU waits for the end of the
# command, and does not look at its status. Who saves through `exec:` learns of a failure only while QEMU has bytes to send.
#
# QEMU 7.2.22 (Debian bookworm) and 10.0.2 (its backports), a stopped guest of 16 MiB, a command that reads all and fails.
set -euo pipefail
source "$(dirname "$0")/packages.sh"

unpack_debian old bookworm 'qemu-system-x86=1:7.2+dfsg-7+deb12u18*' 'seabios=1.16.2-1'
unpack_debian new bookworm-backports 'qemu-system-x86=1:10.0.2+ds-2+deb13u1~bpo12+1' 'seabios=1.16.3-2~bpo12+1'
for folder in old new; do
    qemu $folder $folder -M pc -m 16M
    status=$(qmp $folder "$(migrate "exec:cat > $work/$folder.stream; echo ended > $work/$folder.end; exit 1")" migrated | tail -n 1)
    [[ -s $work/$folder.stream && -s $work/$folder.end ]] || changed "the command did not run to its end"
    echo "exit status 1, query-migrate: $status"
    [[ $status == completed ]] || changed "not completed"
done
seen "completed, whatever the exit status"
