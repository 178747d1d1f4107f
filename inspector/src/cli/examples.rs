//! What `--help` ends with: examples of each command.

pub(super) const EXIT_STATUS: &str = "\
Begin with: snapinspect info FILE
Exit status: 0 asked and fine (check: nothing above a note), 1 the input was
read and is wrong, or differs, or breaks, 2 it could not be done (usage, I/O,
an input that is none of the above).";

pub(super) const INFO_EXAMPLES: &str = "\
Examples:
  snapinspect info vm.qcow2
  snapinspect info --check vm.qcow2
  snapinspect info --json vm.stream | jq .machine";

pub(super) const DUMP_EXAMPLES: &str = "\
Examples:
  snapinspect dump vm.stream
  snapinspect dump --device cpu --format line vm.stream | grep eip
  snapinspect dump --json vm.stream | jq -r 'select(.type==\"field\") | .path'
  snapinspect dump --at 0x1f40 --hex vm.stream
  zcat vm.gz | snapinspect dump --coverage -";

pub(super) const CHECK_EXAMPLES: &str = "\
Examples:
  snapinspect check vm.qcow2
  snapinspect check vm.main --channel vm.0 --channel vm.1
  snapinspect check --format github vm.stream";

pub(super) const COMPAT_EXAMPLES: &str = "\
Examples:
  snapinspect compat vm.stream new.stream
  qemu-system-x86_64 -M pc-i440fx-7.2 -dump-vmstate new.json
  snapinspect compat vm.stream new.json
  snapinspect compat vm.stream new.stream --allow allow --fail-on breaks
The allow-list has one line per rule: RULE \"PATH-PATTERN\" EXPIRY REASON
EXPIRY is YYYY-MM-DD, or - for never; * in a pattern is anything.";

pub(super) const STAT_EXAMPLES: &str = "\
Examples:
  snapinspect stat vm.stream
  snapinspect stat --json vm.qcow2 | jq '.blocks[] | {name, normal, zero}'
Of each block: normal are records with a page's content, repeated those for a
page that had come before, never the pages that did not come at all.";

pub(super) const DIFF_EXAMPLES: &str = "\
Examples:
  snapinspect diff before.qcow2 after.qcow2
  snapinspect diff vm.stream vm.qcow2 --json | jq 'select(.type==\"field\")'
--snapshot, --page-size, --unverified and the limits are for both files,
--channel is for the first.";

pub(super) const MAP_EXAMPLES: &str = "\
Examples:
  snapinspect map vm.qcow2 -o vm.html
  snapinspect map after.qcow2 --against before.qcow2 -o changed.png
  snapinspect map vm.qcow2 --hot vm.qcow2.hot-set -o vm.svg";

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(snapinspect completions bash)
  snapinspect completions zsh >~/.zfunc/_snapinspect";

pub(super) const MAN_EXAMPLES: &str = "\
Examples:
  snapinspect man | man -l -
  snapinspect man check >snapinspect-check.1";

pub(super) const EXTRACT_EXAMPLES: &str = "\
Examples:
  snapinspect extract vm.stream --block pc.ram -o ram.bin
  snapinspect extract vm.stream --core --virtual -o vm.core &&
    gdb -c vm.core -ex 'x/4i $pc' -ex bt
  snapinspect extract vm.stream --core -o vm.core && drgn -c vm.core
  snapinspect extract vm.stream --device 0000:00:01.1/ide -o ide.bin
  snapinspect extract vm.stream --vmdesc -o - | jq .";

pub(super) const CONVERT_EXAMPLES: &str = "\
Examples:
  snapinspect convert vm.stream vm.qcow2 --to image
  snapinspect convert vm.qcow2 vm.mapped --to mapped-ram
  snapinspect convert vm.mapped vm.stream --to stream
  snapinspect convert --salvage vm.mapped vm.qcow2 --to image";

pub(super) const QEMU_ARGS_EXAMPLES: &str = "\
Examples:
  snapinspect qemu-args vm.qcow2 >start.sh
  sh start.sh -display none -qmp unix:qmp,server=on,wait=off -incoming defer
  snapinspect qemu-args --qemu 7.2 --ram-files=/run/vm1.ram vm.qcow2
Each block of main RAM, and hot-plugged memory, is mapped from its place in
the image; the rest of the machine is yours. Then, in QMP:
  {\"execute\": \"migrate-incoming\", \"arguments\": {\"uri\":
    \"exec:/usr/local/bin/qemu-snapshot --revert --mapped /vm/vm.qcow2\"}}
Exit status 1: the image is wrong, or its machine is not known. 2: it cannot
be mapped (a dense image), or the file does not say all.";
