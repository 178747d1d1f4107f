# Sourced by the scripts beside it: public packages, pinned, unpacked in a temporary folder. Nothing is installed in the
# system, and no program of this repository runs.
#
# A mirror keeps only the newest version of a package in each suite. Where a pinned version has gone, the script stops
# with status 2 ("not tried"): what it states is about the version that it names.

set -euo pipefail
work=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
children=()
end() { local child; for child in "${children[@]}"; do kill -9 "$child" 2> /dev/null || true; done; rm -rf "$work"; }
trap end EXIT

# skip WORDS: this cannot be tried here.
skip() { echo "NOT TRIED: $*" >&2; exit 2; }

# seen WORDS: the behaviour is as stated.  changed WORDS: it is not.
seen() { echo "as stated: $*"; }
changed() { echo "CHANGED: $*" >&2; exit 1; }

# unpack_debian FOLDER SUITE PACKAGE=VERSION...: unpacks these and all that they depend on below $work/FOLDER. apt works on
# lists, an archive and an empty database of its own, and reads from the system only where Debian's archive is, and its keys.
unpack_debian() {
    local root=$work/$1 suite=$2 apt=$work/$1.apt archive
    shift 2
    archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | grep -v security | head -n 1)
    [[ -n $archive ]] || skip "the system's apt sources name no archive of Debian"
    mkdir -p "$root" "$apt/lists/partial" "$apt/archives/partial" "$apt/parts"
    : > "$apt/status"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$archive" "$suite" > "$apt/sources.list"
    case $suite in *-backports) sed "s/-backports / /" "$apt/sources.list" > "$apt/parts/base.list" ;; esac
    local options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/parts"
        -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache::archives=$apt/archives"
        -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o "Debug::NoLocking=true"
        -o "APT::Sandbox::User=" -o "APT::Install-Recommends=false" -o "Acquire::Languages=none")
    apt-get "${options[@]}" update
    apt-get "${options[@]}" --yes --download-only -t "$suite" install "$@" > "$apt/log" 2>&1 ||
        skip "not in $suite any more: $* ($(grep '^E:' "$apt/log" | head -n 1))"
    local package
    for package in "$apt"/archives/*.deb; do dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root" --exclude './dev/*'; done
    rm -rf "$apt"
}

# run_in FOLDER PROGRAM ARGUMENT...: runs a program of such a tree by that tree's own loader and libraries.
run_in() {
    local root=$work/$1 program=$2 loader
    shift 2
    loader=$(find "$root/lib64/" "$root/usr/lib64/" -name 'ld-linux-x86-64.so.2' 2>/dev/null | head -n 1 || true)
    exec env QEMU_MODULE_DIR="$root/usr/lib/x86_64-linux-gnu/qemu" "$loader" \
        --library-path "$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu" "$root/usr/bin/$program" "$@"
}

# qemu FOLDER NAME ARGUMENT...: prints the version of and starts the emulator of such a tree, stopped, with QMP at $work/NAME.qmp.
qemu() {
    local folder=$1 name=$2 share
    shift 2
    share=$work/$folder/usr/share
    (run_in "$folder" qemu-system-x86_64 --version | head -n 1)
    (run_in "$folder" qemu-system-x86_64 -L "$share/qemu" -L "$share/seabios" -accel tcg -display none -nodefaults -S \
        -qmp "unix:$work/$name.qmp,server=on,wait=off" "$@" > "$work/$name.log" 2>&1) &
    children+=($!)
    disown
    local waited
    for waited in {1..600}; do [[ -S $work/$name.qmp ]] && return 0; sleep 0.1; done
    cat "$work/$name.log" >&2
    skip "QEMU did not start within a minute"
}

# qmp NAME COMMAND...: gives each command, a line of JSON, to that emulator and prints the answers, a line each. The
# word "migrated" waits for the end of a migration and prints its status.
qmp() {
    local name=$1
    shift
    python3 - "$work/$name.qmp" "$@" <<'PYTHON'
import json, socket, sys, time
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(60)
peer.connect(sys.argv[1])
lines = peer.makefile("r")
lines.readline()
def ask(command):
    peer.sendall((command + "\n").encode())
    while True:
        answer = json.loads(lines.readline())
        if "return" in answer or "error" in answer:
            return answer
ask('{"execute": "qmp_capabilities"}')
for command in sys.argv[2:]:
    if command != "migrated":
        print(json.dumps(ask(command)))
        continue
    for _ in range(600):
        status = ask('{"execute": "query-migrate"}')["return"].get("status")
        if status in ("completed", "failed", "cancelled"):
            break
        time.sleep(0.1)
    print(status)
PYTHON
}

# capabilities NAME...: the command that switches these migration capabilities on.
capabilities() {
    local name list=
    for name in "$@"; do list+="${list:+, }{\"capability\": \"$name\", \"state\": true}"; done
    printf '{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [%s]}}' "$list"
}

# migrate URI, incoming URI: these commands.
migrate() { printf '{"execute": "migrate", "arguments": {"uri": "%s"}}' "$1"; }
incoming() { printf '{"execute": "migrate-incoming", "arguments": {"uri": "%s"}}' "$1"; }
