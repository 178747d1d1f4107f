//! Differences for people: below their block or device, and of arrays only the elements that differ.

use crate::line::{Line, Value, Values};
use crate::text::values::{Field, element_of, hex, items};
use crate::text::{Layout, count, plural};
use std::ops::Range;

/// Ranges of pages that are shown of one block.
const RANGES_SHOWN: usize = 20;
/// Elements or ranges of bytes that are shown of one field.
const ELEMENTS_SHOWN: usize = 12;
/// Bytes of a range that are shown.
const BYTES_SHOWN: usize = 8;
/// Where values begin.
const COLUMN: usize = 40;

/// Takes differences in the order of [`crate::diff`].
pub(super) struct Text {
    layout: Layout,
    /// Ranges of the block whose number of pages has not arrived yet.
    ranges: Vec<(u64, u64)>,
    more_ranges: u64,
    /// The heading that was written last.
    heading: String,
}

impl Text {
    pub(super) fn new() -> Self {
        Self { layout: Layout::new(), ranges: Vec::new(), more_ranges: 0, heading: String::new() }
    }

    fn row(&self, depth: usize, name: &str, words: &[String], separator: &str) -> Vec<String> {
        self.layout.wrapped(format!("{:depth$}{name}", "", depth = 2 * depth), COLUMN, words, separator)
    }

    /// A heading, if it is another one than before.
    fn under(&mut self, heading: &str) -> Vec<String> {
        if self.heading == heading {
            return Vec::new();
        }
        heading.clone_into(&mut self.heading);
        self.row(0, heading, &[], "")
    }

    /// The rows of one difference.
    pub(super) fn line(&mut self, line: Line<'_>) -> Vec<String> {
        let values = Values(&line);
        match line.kind {
            "pages" if self.ranges.len() < RANGES_SHOWN => {
                self.ranges.push((values.number("start"), values.number("pages")));
                Vec::new()
            }
            "pages" => {
                self.more_ranges += 1;
                Vec::new()
            }
            "block_pages" => self.pages(&values),
            "machine" => {
                let mut rows = self.under("machine");
                rows.extend(self.row(1, &values.name("property"), &change("", "", &values), ", "));
                rows
            }
            "block" => {
                let mut rows = self.under("RAM blocks");
                let words = match values.only() {
                    Some(only) => vec![only],
                    None => {
                        let property = values.name("property").replace('_', " ");
                        change("", "", &values)
                            .into_iter()
                            .map(|words| format!("{property} {words}"))
                            .collect()
                    }
                };
                rows.extend(self.row(1, &values.name("name"), &words, ", "));
                rows
            }
            "not_compared" => {
                let mut rows = self.under("RAM blocks");
                let place = |key: &str| match values.name(key).as_str() {
                    "here" => "is here".to_owned(),
                    place => format!("is elsewhere ({})", place.replace('_', " ")),
                };
                let words =
                    [format!("not compared: that of A {}", place("a")), format!("that of B {}", place("b"))];
                rows.extend(self.row(1, &values.name("block"), &words, ", "));
                rows
            }
            "block_order" => self.under("RAM blocks are in another order"),
            "section" => {
                let mut rows = self.under("sections");
                rows.extend(self.row(1, &values.name("name"), &only_or_version(&values), ", "));
                rows
            }
            "device" => {
                let words = only_or_version(&values);
                let name = format!("device {}", values.name("device"));
                if values.get("only").is_some() {
                    self.row(0, &name, &words, ", ")
                } else {
                    let mut rows = self.under(&name);
                    rows.extend(self.row(1, "version of its section", &words, ", "));
                    rows
                }
            }
            "device_bytes" => {
                let mut rows = self.under(&format!("device {}", values.name("device")));
                let words = format!(
                    "{} differ, of {} and {}",
                    plural(values.number("differ"), "byte"),
                    count(values.number("bytes_a")),
                    count(values.number("bytes_b"))
                );
                rows.extend(self.row(1, "its state", &[words, values.name("why")], ", "));
                rows
            }
            "field" => {
                let device = values.name("device");
                let mut rows = self.under(&format!("device {device}"));
                let path = values.name("path");
                let name = device.rsplit_once('/').map_or(&device[..], |(name, _)| name);
                let words = values.only().map_or_else(|| change(name, &path, &values), |only| vec![only]);
                rows.extend(self.row(1, &path, &words, ", "));
                rows
            }
            _ => self.row(0, &line.text(), &[], ""),
        }
    }

    fn pages(&mut self, values: &Values<'_>) -> Vec<String> {
        let mut rows = self.under("pages");
        let words = format!(
            "{} of {} in {}",
            count(values.number("pages")),
            plural(values.number("of"), "page"),
            plural(values.number("ranges"), "range")
        );
        rows.extend(self.row(1, &values.name("block"), &[words], ""));
        let shown = std::mem::take(&mut self.ranges);
        let left = values.number("ranges").saturating_sub(shown.len() as u64);
        self.more_ranges = 0;
        for (start, pages) in shown {
            rows.extend(self.row(2, &format!("{start:#010x}"), &[plural(pages, "page")], ""));
        }
        if left > 0 {
            let words = format!("and {} (--format line shows up to 1000)", plural(left, "more range"));
            rows.extend(self.row(2, &words, &[], ""));
        }
        rows
    }

    /// What is left at the end: nothing, as each block's pages are followed by their number.
    pub(super) fn finish(&mut self) -> Vec<String> {
        Vec::new()
    }
}

fn only_or_version(values: &Values<'_>) -> Vec<String> {
    let versions = || format!("{} -> {}", values.number("version_a"), values.number("version_b"));
    vec![values.only().unwrap_or_else(versions)]
}

/// What was, and what is.
fn change(vmsd: &str, path: &str, values: &Values<'_>) -> Vec<String> {
    let (Some(a), Some(b)) = (values.get("a"), values.get("b")) else { return Vec::new() };
    let field = |type_name| Field { vmsd, path, type_name };
    match (a, b) {
        (Value::List(a), Value::List(b)) if a.len() == b.len() => {
            let differ: Vec<_> = (0..a.len()).filter(|&at| a[at] != b[at]).collect();
            let one = |value: &Value| items(field("").element(), value).join(" ");
            let mut words: Vec<_> = differ
                .iter()
                .take(ELEMENTS_SHOWN)
                .map(|&at| {
                    let name = element_of(field("uint64"), a.len(), at);
                    format!("{name} {} -> {}", one(&a[at]), one(&b[at]))
                })
                .collect();
            if differ.len() > ELEMENTS_SHOWN {
                words.push(format!("and {} more of {} elements", differ.len() - ELEMENTS_SHOWN, a.len()));
            }
            words
        }
        (Value::Bytes(a), Value::Bytes(b)) if a.len() == b.len() => bytes(a, b),
        (a, b) => {
            let type_name = if path.ends_with("timer") { "timer" } else { "" };
            let one = |value: &Value| match value {
                Value::Null if type_name.is_empty() => "none".to_owned(),
                Value::List(values) if values.is_empty() => "none".to_owned(),
                value => items(field(type_name), value).join(" "),
            };
            let (mut of_a, mut of_b) = (one(a), one(b));
            if let (true, Value::Bytes(a), Value::Bytes(b)) = (of_a == of_b, a, b) {
                // The same text in buffers of other lengths.
                of_a = format!("{of_a} in {} bytes", a.len());
                of_b = format!("{of_b} in {} bytes", b.len());
            }
            vec![format!("{of_a} -> {of_b}")]
        }
    }
}

/// The ranges of bytes that differ.
fn bytes(a: &[u8], b: &[u8]) -> Vec<String> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut differ = 0;
    for at in (0..a.len()).filter(|&at| a[at] != b[at]) {
        differ += 1;
        match ranges.last_mut() {
            Some(range) if range.end == at => range.end = at + 1,
            _ => ranges.push(at..at + 1),
        }
    }
    let short = |bytes: &[u8]| match bytes.len() {
        0..=BYTES_SHOWN => hex(bytes),
        _ => format!("{}..", hex(&bytes[..BYTES_SHOWN])),
    };
    let mut words: Vec<_> = ranges
        .iter()
        .take(ELEMENTS_SHOWN)
        .map(|range| {
            format!("[{:#x}] {} -> {}", range.start, short(&a[range.clone()]), short(&b[range.clone()]))
        })
        .collect();
    if ranges.len() > ELEMENTS_SHOWN {
        words.push(format!("and more: {differ} of {} bytes differ", a.len()));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown() {
        assert_eq!(bytes(&[0; 100], &[0; 100]), Vec::<String>::new());
        let mut other = [0; 100];
        (other[3], other[4], other[50]) = (1, 2, 0xff);
        assert_eq!(bytes(&[0; 100], &other), ["[0x3] 0000 -> 0102", "[0x32] 00 -> ff"]);
        let list = |values: [u64; 16]| Value::List(values.map(Value::Hex).to_vec());
        let (a, mut b) = ([0; 16], [0; 16]);
        b[4] = 0x7ff0;
        let line = Line { offset: None, ..Line::new(0, 0, "field") }
            .with("device", Value::name(b"cpu/0"))
            .with("path", Value::name(b"env.regs"))
            .with("a", list(a))
            .with("b", list(b));
        let rows = Text::new().line(line);
        assert_eq!(rows, ["device cpu/0", "  env.regs                              rsp 0x0 -> 0x7ff0"]);
    }
}
