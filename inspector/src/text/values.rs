//! Values of device fields for people: strings, times, registers, arrays in few words.

use super::date;
use crate::line::Value;
use std::fmt::Write;

/// Elements of an array that are shown; equal ones in a row count once.
const ELEMENTS_SHOWN: usize = 24;
/// Bytes of a buffer that are shown.
const BYTES_SHOWN: usize = 32;
/// Characters of a text that are shown.
const TEXT_SHOWN: usize = 200;

/// The unit of a field that is a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Seconds since 1970-01-01.
    UnixSeconds,
    /// Nanoseconds of a clock of QEMU.
    Nanoseconds,
}

/// Fields that are times, by the name of their vmsd and the end of their path:
/// `hw/rtc/mc146818rtc.c`, `hw/timer/i8254_common.c`, `softmmu/cpu-timers.c`, `hw/timer/acpi_pm`
/// (`hw/acpi/core.c`).
const TIMES: [(&str, &str, Unit); 8] = [
    ("mc146818rtc", "base_rtc", Unit::UnixSeconds),
    ("mc146818rtc", "last_update", Unit::Nanoseconds),
    ("mc146818rtc", "next_alarm_time", Unit::Nanoseconds),
    ("mc146818rtc", "next_periodic_time", Unit::Nanoseconds),
    ("i8254", "count_load_time", Unit::Nanoseconds),
    ("i8254", "next_transition_time", Unit::Nanoseconds),
    ("timer", "cpu_clock_offset", Unit::Nanoseconds),
    ("apic", "initial_count_load_time", Unit::Nanoseconds),
];

/// Order of the general registers of x86: `R_EAX` and so on in `target/i386/cpu.h`.
const X86: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const I386: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
/// Order of the segments of x86: `R_ES` and so on in `target/i386/cpu.h`.
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];
const ARM: [&str; 16] =
    ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "sp", "lr", "pc"];

/// Which field a value is of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    /// Name of the vmsd of its device.
    pub(crate) vmsd: &'a str,
    /// Its path.
    pub(crate) path: &'a str,
    /// Its type in the vmdesc.
    pub(crate) type_name: &'a str,
}

/// A name for an element of an array that has one: the segments of x86.
pub(crate) fn element_name(vmsd: &str, stem: &str, index: &str) -> Option<&'static str> {
    let number: usize = index.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?;
    (vmsd == "cpu" && stem == "env.segs").then(|| SEGMENTS.get(number).copied())?
}

/// Names for the elements of a list that is a register file.
fn registers(field: Field<'_>, elements: usize) -> Option<Vec<String>> {
    let owned = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    if field.vmsd != "cpu" {
        return None;
    }
    match (field.path, field.type_name, elements) {
        ("env.regs", "uint64", 16) => owned(&X86),
        ("env.regs", "uint32", 8) => owned(&I386),
        ("env.regs", "uint32", 16) => owned(&ARM),
        ("env.xregs", "uint64", 32 | 33) => Some((0..elements).map(|number| format!("x{number}")).collect()),
        ("env.dr", _, 8) => Some((0..8).map(|number| format!("dr{number}")).collect()),
        _ => None,
    }
}

impl<'a> Field<'a> {
    /// An element of it: it has no name of its own.
    pub(crate) fn element(self) -> Field<'a> {
        Field { path: "", ..self }
    }
}

/// What an element of a list is called: the register, or its index.
pub(crate) fn element_of(field: Field<'_>, elements: usize, at: usize) -> String {
    let name = registers(field, elements).and_then(|names| names.get(at).cloned());
    name.unwrap_or_else(|| format!("[{at}]"))
}

/// The words of a value; more than one only where they may be spread over lines.
pub(crate) fn items(field: Field<'_>, value: &Value<'_>) -> Vec<String> {
    if let Some(time) = time(field, value) {
        return vec![time];
    }
    match value {
        Value::Null if field.type_name == "timer" => vec!["not armed".to_owned()],
        Value::List(values) => list(field, values),
        Value::Bytes(bytes) => buffer(bytes),
        Value::Name(name) if name.len() > TEXT_SHOWN => {
            let rest = name.len() - TEXT_SHOWN;
            vec![format!("\"{}\" and {rest} more bytes", crate::escape::terminal(&name[..TEXT_SHOWN]))]
        }
        value => vec![plain(value)],
    }
}

fn plain(value: &Value<'_>) -> String {
    let mut text = String::new();
    value.text(&mut text);
    text
}

fn time(field: Field<'_>, value: &Value<'_>) -> Option<String> {
    let number = match value {
        Value::Decimal(number) | Value::Hex(number) => *number,
        Value::Signed(number) => u64::try_from(*number).ok()?,
        _ => return None,
    };
    if field.type_name == "timer" {
        return Some(nanoseconds(number));
    }
    // A second field of one path has a number behind it.
    let last = field.path.rsplit('.').next()?.split('#').next()?;
    let (.., unit) = TIMES.iter().find(|(vmsd, name, _)| *vmsd == field.vmsd && *name == last)?;
    match unit {
        Unit::UnixSeconds => date(number),
        Unit::Nanoseconds => Some(nanoseconds(number)),
    }
}

/// A moment of one of QEMU's clocks: the host's clock counts from 1970 on, the others from the
/// start of the VM.
fn nanoseconds(number: u64) -> String {
    const YEAR_2001: u64 = 1_000_000_000;
    let (seconds, rest) = (number / 1_000_000_000, number % 1_000_000_000);
    match date(seconds) {
        Some(date) if seconds >= YEAR_2001 && number < i64::MAX.unsigned_abs() => {
            date.replace(" UTC", &format!(".{:03} UTC", rest / 1_000_000))
        }
        _ if number == 0 => "0 s".to_owned(),
        _ => format!("{seconds}.{rest:09} s"),
    }
}

fn list(field: Field<'_>, values: &[Value<'_>]) -> Vec<String> {
    if let Some(names) = registers(field, values.len()) {
        return names.iter().zip(values).map(|(name, value)| format!("{name}={}", plain(value))).collect();
    }
    let mut runs: Vec<(String, usize)> = Vec::new();
    let mut shown = 0;
    for value in values {
        let text = plain(value);
        let full = runs.len() == ELEMENTS_SHOWN;
        match runs.last_mut() {
            Some((last, count)) if *last == text => *count += 1,
            _ if full => break,
            _ => runs.push((text, 1)),
        }
        shown += 1;
    }
    let mut items: Vec<_> = runs
        .into_iter()
        .map(|(text, count)| if count == 1 { text } else { format!("{count} x {text}") })
        .collect();
    if shown < values.len() {
        items.push(format!("and {} more elements", values.len() - shown));
    }
    items
}

/// Bytes: a text if they are one, the first of them in hex otherwise.
pub(crate) fn buffer(bytes: &[u8]) -> Vec<String> {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let rest = &bytes[text.len()..];
    let zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    match bytes {
        [] => vec!["empty".to_owned()],
        _ if zero(bytes) => vec![format!("{} zero bytes", bytes.len())],
        _ if text.len() >= 3 && text.iter().all(|byte| matches!(byte, b' '..=b'~')) && zero(rest) => {
            items(Field { vmsd: "", path: "", type_name: "" }, &Value::Name(text.to_vec()))
        }
        _ => {
            let shown = &bytes[..bytes.len().min(BYTES_SHOWN)];
            let mut items: Vec<_> = shown.chunks(4).map(hex).collect();
            let left = &bytes[shown.len()..];
            if !left.is_empty() {
                let rest = if zero(left) { "zero bytes" } else { "bytes" };
                items.push(format!("and {} more {rest}", left.len()));
            }
            items
        }
    }
}

/// Bytes in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field<'a>(vmsd: &'a str, path: &'a str, type_name: &'a str) -> Field<'a> {
        Field { vmsd, path, type_name }
    }

    #[test]
    fn registers_have_their_names() {
        let values: Vec<_> = (0..16).map(Value::Hex).collect();
        let items = items(field("cpu", "env.regs", "uint64"), &Value::List(values));
        assert_eq!(items[4], "rsp=0x4");
        assert_eq!(items[15], "r15=0xf");
        assert_eq!(element_name("cpu", "env.segs", "[1]"), Some("cs"));
        assert_eq!(element_name("cpu", "env.segs", "[6]"), None);
    }

    #[test]
    fn times_are_times() {
        let of = |vmsd, path, type_name, value| items(field(vmsd, path, type_name), &value).join(" ");
        assert_eq!(
            of("mc146818rtc", "base_rtc", "uint64", Value::Hex(0x6b01_0eb0)),
            "2026-11-21 03:23:28 UTC"
        );
        assert_eq!(
            of("mc146818rtc", "update_timer", "timer", Value::Decimal(1_795_231_409_490_743_000)),
            "2026-11-21 03:23:29.490 UTC"
        );
        assert_eq!(of("hpet", "timer[0].qemu_timer", "timer", Value::Null), "not armed");
        assert_eq!(of("timer", "cpu_clock_offset", "int64", Value::Signed(36_609_456)), "0.036609456 s");
        assert_eq!(of("mc146818rtc", "next_periodic_time", "int64", Value::Signed(-1)), "-1");
        assert_eq!(
            of("i8254", "channels[0].count_load_time", "int64", Value::Signed(i64::MAX)),
            "9223372036.854775807 s"
        );
        assert_eq!(
            of("i8254", "channels[0].next_transition_time#2", "int64", Value::Signed(1)),
            "0.000000001 s"
        );
    }

    #[test]
    fn buffers_are_texts_or_the_beginning_of_their_bytes() {
        assert_eq!(buffer(b"running\0\0\0"), ["\"running\""]);
        assert_eq!(buffer(&[0; 100]), ["100 zero bytes"]);
        assert_eq!(buffer(&[]), ["empty"]);
        let mut bytes = [0; 100];
        bytes[1] = 0x80;
        assert_eq!(buffer(&bytes)[..2], ["00800000", "00000000"]);
        assert_eq!(buffer(&bytes).last().map(String::as_str), Some("and 68 more zero bytes"));
    }

    #[test]
    fn equal_elements_count_once_and_long_lists_end() {
        let list = |values: Vec<u64>| {
            items(field("x", "y", "uint32"), &Value::List(values.into_iter().map(Value::Hex).collect()))
        };
        assert_eq!(list(vec![0, 0, 0, 7]), ["3 x 0x0", "0x7"]);
        assert_eq!(list((0..100).collect()).len(), ELEMENTS_SHOWN + 1);
        assert_eq!(list((0..100).collect()).last().map(String::as_str), Some("and 76 more elements"));
    }
}
