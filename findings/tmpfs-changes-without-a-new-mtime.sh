#!/usr/bin/env bash
# On tmpfs a page of a file that was once written through a shared mapping can be written again without a new mtime or ctime,
# even after msync(MS_SYNC): "same inode, size, mtime and ctime" does not mean the same bytes there. On ext4 each write behind
# an msync has a new mtime. (mmap(2) promises an update "at some point"; tmpfs has no writeback that would make a page
# read-only again.)
#
# Linux 6.x, python3 only.
set -euo pipefail
source "$(dirname "$0")/packages.sh"

uname -r
python3 - "$work" /dev/shm <<'PYTHON' || changed "see above"
import mmap, os, subprocess, sys, tempfile, time
def changes(folder):
    """How many of five later writes through one mapping, each behind an msync, change the file's times."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(4096)
        mapping = mmap.mmap(file.fileno(), 4096)
        mapping[0] = 1
        mapping.flush()
        seen = 0
        for value in range(2, 7):
            before = os.fstat(file.fileno())
            time.sleep(0.05)
            mapping[0] = value
            mapping.flush()
            after = os.fstat(file.fileno())
            assert os.pread(file.fileno(), 1, 0) == bytes([value])
            seen += (before.st_mtime_ns, before.st_ctime_ns) != (after.st_mtime_ns, after.st_ctime_ns)
        return seen
kind = lambda folder: subprocess.check_output(["stat", "-f", "-c", "%T", folder], text=True).strip()
counts = {kind(folder): changes(folder) for folder in sys.argv[1:]}
print("writes of five that change mtime or ctime:", counts)
sys.exit(counts.get("tmpfs") != 0 or any(n != 5 for name, n in counts.items() if name.startswith("ext")))
PYTHON
seen "on tmpfs the bytes change and the times do not"
