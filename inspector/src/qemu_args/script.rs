//! The plan as a script for `sh`.

use super::plan::{Backend, Dimm, Plan, Role, Source};
use super::version::Version;
use snapshot_engine::size_text;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The descriptor that QEMU inherits: no shell needs more than one digit for it.
const DESCRIPTOR: u32 = 9;

/// A script that starts QEMU in its place; what is given to it goes behind the arguments that it
/// has. `image` is the path of the image.
pub(crate) fn script(plan: &Plan, image: &Path) -> Vec<u8> {
    let from_image = plan.backends.iter().any(|backend| matches!(backend.source, Source::Image(_)));
    let mut out = Vec::new();
    comments(plan, from_image, image, &mut out);
    if from_image {
        let words = [format!("exec {DESCRIPTOR}<").into_bytes(), quoted(image.as_os_str())];
        out.extend(words.concat());
        out.extend(format!(" && qemu-snapshot lock {DESCRIPTOR} && ").bytes());
    }
    out.extend(format!("exec \"${{QEMU:-{}}}\"", plan.emulator).bytes());
    for (option, value) in arguments(plan) {
        out.extend(format!(" \\\n  {option} ").bytes());
        out.extend(quoted(OsStr::from_bytes(&value)));
    }
    out.extend(b" \\\n  \"$@\"\n");
    out
}

/// QEMU's arguments: option and value.
fn arguments(plan: &Plan) -> Vec<(&'static str, Vec<u8>)> {
    let mut machine = plan.machine.clone();
    let main = plan.backends.iter().find(|backend| backend.role == Role::Main);
    if let Some(main) = main {
        machine.push_str(&format!(",memory-backend={}", main.id));
    }
    let mut memory = size(plan.main_bytes);
    if let Some((slots, most)) = plan.slots {
        memory = format!("size={memory},slots={slots},maxmem={}", size(most));
    }
    let mut arguments = vec![("-machine", machine.into_bytes()), ("-m", memory.into_bytes())];
    arguments.extend(plan.processors.map(|count| ("-smp", count.to_string().into_bytes())));
    arguments.extend(plan.backends.iter().map(|backend| ("-object", object(backend))));
    let nodes = plan.backends.iter().filter(|backend| backend.role == Role::Node);
    arguments.extend(nodes.map(|backend| ("-numa", format!("node,memdev={}", backend.id).into_bytes())));
    arguments.extend(plan.backends.iter().filter_map(|backend| match &backend.role {
        Role::Dimm(dimm) => Some(("-device", device(&backend.id, dimm))),
        Role::Main | Role::Node => None,
    }));
    arguments
}

fn object(backend: &Backend) -> Vec<u8> {
    let mut out = format!("memory-backend-file,id={},size={}", backend.id, backend.bytes).into_bytes();
    match &backend.source {
        Source::Image(base) => {
            let part =
                format!(",mem-path=/proc/self/fd/{DESCRIPTOR},offset={base},share=off,readonly=on,rom=off");
            out.extend(part.bytes());
        }
        Source::File(path) => {
            out.extend(b",mem-path=");
            // A comma in a value is written twice (`get_opt_value`, util/qemu-option.c).
            for &byte in path.as_os_str().as_bytes() {
                out.extend(if byte == b',' { &b",,"[..] } else { std::slice::from_ref(&byte) });
            }
            out.extend(b",share=off");
        }
    }
    if let Some(on) = backend.canonical_path {
        let value = if on { "on" } else { "off" };
        out.extend(format!(",x-use-canonical-path-for-ramblock-id={value}").bytes());
    }
    out
}

fn device(id: &str, dimm: &Dimm) -> Vec<u8> {
    let mut out = format!("pc-dimm,id={id}-dimm,memdev={id},slot={}", dimm.slot);
    if let Some(address) = dimm.address {
        out.push_str(&format!(",addr={address:#x}"));
    }
    out.into_bytes()
}

/// A size as `-m` takes it: MiB, or KiB if it is no whole number of those.
fn size(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) { format!("{}M", bytes >> 20) } else { format!("{}K", bytes >> 10) }
}

/// One word of a shell.
fn quoted(word: &OsStr) -> Vec<u8> {
    let bytes = word.as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
        return bytes.to_vec();
    }
    let mut out = vec![b'\''];
    for &byte in bytes {
        out.extend(if byte == b'\'' { &br"'\''"[..] } else { std::slice::from_ref(&byte) });
    }
    out.push(b'\'');
    out
}

/// What a reader has to know, in lines that begin with `#`.
fn comments(plan: &Plan, from_image: bool, image: &Path, out: &mut Vec<u8>) {
    let mut line = |text: String| out.extend(format!("# {text}\n").bytes());
    let shown = crate::escape::terminal(image.as_os_str().as_bytes());
    let mapped: Vec<String> = plan
        .backends
        .iter()
        .map(|backend| format!("{} ({})", backend.id, size_text(backend.bytes)))
        .collect();
    line(format!("{}: {} mapped privately from {shown}", plan.machine, mapped.join(", ")));
    if from_image {
        line("For QEMU 8.2 and later. The lock of descriptor 9 lasts as long as the guest.".to_owned());
    } else {
        if let Some(version) = plan.version.filter(|version| *version < Version::MAPS_IMAGES) {
            line(format!(
                "QEMU {version} maps a file from its start only (offset= came with 8.1), and has it open"
            ));
            line(
                "for writing (readonly=on,rom=off came with 8.2): a guest's balloon punches holes into"
                    .to_owned(),
            );
            line("it. Each guest needs files of its own:".to_owned());
        } else {
            line("From files of this guest alone, which QEMU has open for writing:".to_owned());
        }
        let folder = plan.backends.iter().find_map(|backend| match &backend.source {
            Source::File(path) => path.parent(),
            Source::Image(_) => None,
        });
        let folder = folder.unwrap_or(Path::new(""));
        let words =
            [&b"#   qemu-snapshot unpack --ram-files="[..], &comment(folder), b" ", &comment(image), b"\n"];
        out.extend(words.concat());
    }
    let mut line = |text: String| out.extend(format!("# {text}\n").bytes());
    if !plan.left_out.is_empty() {
        line(format!(
            "Not mapped, and yours to add with the device that has it: {}",
            plan.left_out.join(", ")
        ));
    }
    if plan.backends.iter().any(|backend| matches!(&backend.role, Role::Dimm(dimm) if dimm.address.is_none()))
    {
        line(
            "The DIMM is at the first address; query-memory-devices of the saved guest says if not (--dimm)"
                .into(),
        );
    }
    line(
        "Give this script the guest's other options (-accel, -cpu, devices) and -incoming defer.".to_owned(),
    );
}

/// A word in a comment: a line break would end it.
fn comment(path: &Path) -> Vec<u8> {
    let word = quoted(path.as_os_str());
    if word.contains(&b'\n') { crate::escape::terminal(&word).into_bytes() } else { word }
}
