//! `dump` for people: the same records as [`Line`]s of `--format line`, folded, with sizes, times and names.

mod row;

use crate::command::output::Output;
use crate::error::Error;
use crate::escape::{terminal, terminal_words};
use crate::line::{Line, Value, Values};
use crate::text::values::{Field, buffer, hex, items};
use crate::text::{Layout, count, date, plural};
use row::{Row, split};
use snapshot_engine::size_text;
use std::collections::BTreeMap;

/// Runs of pages that are shown of one section.
const RUNS_SHOWN: u64 = 16;
/// Names of sections that are remembered.
const NAMES_LIMIT: usize = 4096;
/// Fields of one device that are folded at once.
const FIELDS_LIMIT: usize = 1 << 16;

/// Takes lines in the order of the file.
pub(super) struct Text {
    layout: Layout,
    file: String,
    /// Every run of pages, because they were asked for.
    all_runs: bool,
    names: BTreeMap<u64, String>,
    /// Name of the vmsd of the device whose fields arrive.
    vmsd: String,
    fields: Vec<Line<'static>>,
    runs: u64,
    hidden: Hidden,
    said_elided: bool,
}

/// Runs that are not shown.
#[derive(Default)]
struct Hidden {
    runs: u64,
    pages: u64,
    zero: u64,
}

impl Text {
    pub(super) fn new(file: &str, all_runs: bool) -> Self {
        Self {
            layout: Layout::new(),
            file: terminal(file.as_bytes()),
            all_runs,
            names: BTreeMap::new(),
            vmsd: String::new(),
            fields: Vec::new(),
            runs: 0,
            hidden: Hidden::default(),
            said_elided: false,
        }
    }

    /// Shows a line, or keeps it until those that belong to it have arrived.
    pub(super) fn line(&mut self, line: Line<'_>, output: &mut Output) -> Result<(), Error> {
        if line.kind == "field" && self.fields.len() < FIELDS_LIMIT {
            self.fields.push(line.into_owned());
            return Ok(());
        }
        self.fields(output)?;
        if line.kind.ends_with("_run") {
            return self.run(&line, output);
        }
        self.hidden_runs(output)?;
        let rows = self.record(&line);
        write(output, rows)?;
        self.bytes(&line, output)
    }

    /// Shows what is kept.
    pub(super) fn finish(&mut self, output: &mut Output) -> Result<(), Error> {
        self.fields(output)?;
        self.hidden_runs(output)?;
        if self.said_elided {
            output.line("(shortened; --format line shows every record and every byte)")?;
        }
        Ok(())
    }

    /// The bytes of a line, where they were asked for.
    fn bytes(&self, line: &Line<'_>, output: &mut Output) -> Result<(), Error> {
        let Some(bytes) = &line.bytes else { return Ok(()) };
        for (number, row) in bytes.chunks(16).enumerate() {
            let at = line.offset.map(|offset| offset + 16 * number as u64);
            let words: Vec<_> = row.chunks(4).map(hex).collect();
            write(output, self.layout.row(at, 2, "", &words, " "))?;
        }
        Ok(())
    }

    fn run(&mut self, line: &Line<'_>, output: &mut Output) -> Result<(), Error> {
        let values = Values(line);
        let pages = values.number("pages");
        self.runs += 1;
        if self.runs > RUNS_SHOWN && !self.all_runs {
            self.hidden.runs += 1;
            self.hidden.pages += pages;
            self.hidden.zero += if line.kind == "zero_run" { pages } else { 0 };
            return Ok(());
        }
        let what = match line.kind {
            "zero_run" => plural(pages, "zero page"),
            "xbzrle_run" => format!("{} as a difference (xbzrle)", plural(pages, "page")),
            "compressed_run" => format!("{}, compressed", plural(pages, "page")),
            _ => format!("{} with content", plural(pages, "page")),
        };
        let name = format!("{} {:#010x}", values.name("block"), values.number("start"));
        write(output, self.layout.row(line.offset, 1, &name, &[what], ""))
    }

    fn hidden_runs(&mut self, output: &mut Output) -> Result<(), Error> {
        self.runs = 0;
        let hidden = std::mem::take(&mut self.hidden);
        if hidden.runs == 0 {
            return Ok(());
        }
        self.said_elided = true;
        let words = format!(
            "and {}: {}, {} of them zero (--section ram shows all)",
            plural(hidden.runs, "more run"),
            plural(hidden.pages, "page"),
            count(hidden.zero)
        );
        write(output, self.layout.row(None, 1, &words, &[], ""))
    }

    /// The rows of a record that is neither a field nor a run.
    fn record(&mut self, line: &Line<'_>) -> Vec<String> {
        let values = Values(line);
        let layout = self.layout;
        let plain = |depth: usize, words: String| layout.row(line.offset, depth, &words, &[], "");
        let id = values.number("id");
        match line.kind {
            // They say only that a section ends; what is behind them shows it.
            "footer" | "ram_end_of_section" => Vec::new(),
            "input" => self.input(&values),
            "libvirt" => self.libvirt(&values),
            "internal_snapshot" => {
                let when = date(values.number("date")).unwrap_or_else(|| "-".to_owned());
                let size = size_text(values.number("vm_state_bytes"));
                let words = vec![format!("id {}", values.name("id")), when, format!("VM state {size}")];
                layout.row(None, 0, &format!("internal snapshot {}", values.quoted("name")), &words, ", ")
            }
            "image" => self.image(&values),
            "image_block" => {
                let words = vec![
                    size_text(values.number("bytes")),
                    format!("at guest offset {:#x}", values.number("guest_offset")),
                ];
                layout.row(None, 1, &values.name("name"), &words, ", ")
            }
            "file_header" => plain(0, format!("migration stream, version {}", values.number("version"))),
            "configuration" => self.configuration(line, &values),
            "section_start" => {
                let name = values.quoted("name");
                if self.names.len() < NAMES_LIMIT {
                    self.names.insert(id, name.clone());
                }
                plain(0, format!("section {id} {name}{}", instance_and_version(&values)))
            }
            "section_part" | "section_end" => {
                let name = self.names.get(&id).cloned().unwrap_or_default();
                let how = if line.kind == "section_end" { "last part" } else { "next part" };
                plain(0, format!("section {id} {name}, {how}"))
            }
            "block_list" => {
                let blocks = match values.present("blocks") {
                    Some(blocks) => plural(blocks, "RAM block"),
                    None => "RAM blocks".to_owned(),
                };
                plain(1, format!("{blocks}, {}", size_text(values.number("bytes"))))
            }
            "block" => {
                let mut words = vec![size_text(values.number("bytes"))];
                words.extend(
                    values.present("host_page_size").map(|bytes| format!("pages of {}", size_text(bytes))),
                );
                words.extend(values.present("physical_address").map(|at| format!("at {at:#x}")));
                words.extend(values.present("pages_offset").map(|at| format!("pages at offset {at:#x}")));
                layout.row(line.offset, 2, &values.name("name"), &words, ", ")
            }
            "device" => {
                self.vmsd = values.name("vmsd");
                let bytes = plural(values.number("body_bytes"), "byte");
                let name = values.quoted("name");
                let packaged = if values.flag("packaged") { ", in the package" } else { "" };
                plain(0, format!("device {id} {name}{}, {bytes}{packaged}", instance_and_version(&values)))
            }
            "opaque" => {
                let mut words = vec![format!("not decoded ({}):", values.name("why"))];
                if let Some(Value::Bytes(bytes)) = values.get("value") {
                    words.extend(buffer(bytes));
                    self.said_elided |= bytes.len() > 32;
                }
                layout.row(line.offset, 1, &plural(line.length, "byte"), &words, " ")
            }
            "eof" => plain(0, "end of the sections".to_owned()),
            "vmdesc" => plain(
                0,
                format!("description of all devices (vmdesc), {}", plural(values.number("bytes"), "byte")),
            ),
            "finding" => {
                let path = values.name("path");
                let path = if path.is_empty() { path } else { format!("{path}: ") };
                plain(0, format!("{}: {path}{}", values.name("level"), terminal_words(&values.name("text"))))
            }
            "command" => generic(layout, line, &format!("command {}", values.name("command")), &["command"]),
            "return_path" => generic(layout, line, &values.name("message"), &["message"]),
            kind => generic(layout, line, &kind.replace('_', " "), &[]),
        }
    }

    fn input(&self, values: &Values<'_>) -> Vec<String> {
        let mut words = vec![values.name("kind")];
        if let Some(Value::List(packed)) = values.get("packed")
            && !packed.is_empty()
        {
            let names: Vec<_> = packed
                .iter()
                .map(|wrapper| if let Value::Word(word) = wrapper { *word } else { "" })
                .collect();
            words.push(format!("packed with {}", names.join(", ")));
        }
        if values.number("start") > 0 {
            words.push(format!("stream at offset {:#x}", values.number("start")));
        }
        self.layout.wrapped(format!("{}: {}", self.file, words.join(", ")), 0, &[], "")
    }

    fn libvirt(&mut self, values: &Values<'_>) -> Vec<String> {
        let yes = |flag| if flag { "yes" } else { "no" };
        let mut words = vec![
            format!("version {}", values.number("version")),
            format!("format {}", values.name("format")),
            format!("guest was running: {}", yes(values.flag("was_running"))),
            format!("complete: {}", yes(values.flag("complete"))),
        ];
        if let Some(Value::Name(xml)) = values.get("xml") {
            words.push(format!("XML of the domain: {}", plural(xml.len() as u64, "byte")));
            self.said_elided = true;
        }
        self.layout.row(Some(0), 0, "libvirt save image", &words, ", ")
    }

    fn image(&self, values: &Values<'_>) -> Vec<String> {
        let created = match values.number("created") {
            0 => "not recorded".to_owned(),
            unix => date(unix).unwrap_or_else(|| unix.to_string()),
        };
        let rows = [
            ("length of the file", size_text(values.number("file_bytes"))),
            ("UUID", values.name("uuid")),
            ("created", created),
            ("verified", values.name("verified")),
            ("page size", size_text(values.number("page_size"))),
            ("pages with content", count(values.number("normal_pages"))),
            ("sections before RAM", size_text(values.number("leader_bytes"))),
            ("other iterable sections", size_text(values.number("third_bytes"))),
            ("device sections", size_text(values.number("tail_bytes"))),
        ];
        rows.into_iter().flat_map(|(name, words)| self.layout.row(None, 0, name, &[words], "")).collect()
    }

    fn configuration(&self, line: &Line<'_>, values: &Values<'_>) -> Vec<String> {
        let mut words = vec![format!("machine {}", values.name("machine"))];
        words.extend(values.present("target_page_bits").map(|bits| {
            format!(
                "pages of {}",
                u32::try_from(bits)
                    .ok()
                    .and_then(|bits| 1u64.checked_shl(bits))
                    .map_or_else(String::new, size_text)
            )
        }));
        if let Some(Value::List(names)) = values.get("capabilities") {
            let names: Vec<_> = names
                .iter()
                .map(|name| if let Value::Name(name) = name { terminal(name) } else { String::new() })
                .collect();
            words.push(format!(
                "capabilities: {}",
                if names.is_empty() { "none".to_owned() } else { names.join(" ") }
            ));
        }
        if let Some(Value::Name(uuid)) = values.get("uuid") {
            words.push(format!("UUID of the VM {}", terminal(uuid)));
        }
        self.layout.row(line.offset, 0, "configuration", &words, ", ")
    }

    /// Shows the fields that have gathered: elements of an array of structures one below the other,
    /// equal ones once.
    fn fields(&mut self, output: &mut Output) -> Result<(), Error> {
        let fields = std::mem::take(&mut self.fields);
        let mut rows: Vec<Row> = Vec::new();
        for line in &fields {
            self.field(line, &mut rows);
        }
        let mut at = 0;
        while at < rows.len() {
            let row = &rows[at];
            let same = rows[at + 1..].iter().take_while(|next| row.folds(next, &self.vmsd)).count();
            let mut name = row.name(&self.vmsd);
            if same > 0 {
                let last = &rows[at + same];
                name = format!("{}{} to {}", row.stem, row.index, last.index);
            }
            write(output, self.layout.row(row.offset, 1, &name, &row.words(), " "))?;
            for line in &row.lines {
                self.bytes(line, output)?;
            }
            at += same + 1;
        }
        Ok(())
    }

    fn field(&mut self, line: &Line<'_>, rows: &mut Vec<Row>) {
        let values = Values(line);
        let path = values.name("path");
        let type_name = values.name("field_type");
        let field = Field { vmsd: &self.vmsd, path: &path, type_name: &type_name };
        let value = values.get("value").unwrap_or(&Value::Null);
        let mut words = match value {
            Value::Bytes(bytes) if type_name.starts_with("unused") => {
                vec![format!("{} unused bytes", bytes.len())]
            }
            value => items(field, value),
        };
        if type_name == "subsection" {
            words = vec![format!("subsection, version {}", words.join(" "))];
        }
        self.said_elided |=
            words.last().is_some_and(|last| last.starts_with("and ") || last.ends_with("more bytes"));
        if let Some(Value::Word(why)) = values.get("why") {
            words.push(format!("(not decoded: {why})"));
        }
        let (stem, index, rest) = split(&path);
        let keep = line.bytes.is_some().then(|| line.clone().into_owned());
        match rows.last_mut() {
            Some(row) if !rest.is_empty() && row.stem == stem && row.index == index && keep.is_none() => {
                row.members.push((rest.to_owned(), words));
            }
            _ => rows.push(Row {
                offset: line.offset,
                stem: stem.to_owned(),
                index: index.to_owned(),
                members: vec![(rest.to_owned(), words)],
                lines: keep.into_iter().collect(),
            }),
        }
    }
}

fn instance_and_version(values: &Values<'_>) -> String {
    let instance = match values.number("instance") {
        0 => String::new(),
        number => format!(", instance {number}"),
    };
    format!("{instance}, version {}", values.number("version"))
}

/// A record that has no words of its own: its keys and values, but for those that are in the name already.
fn generic(layout: Layout, line: &Line<'_>, name: &str, left_out: &[&str]) -> Vec<String> {
    let shown = |key: &str, value: &Value<'_>| *value != Value::Null && !left_out.contains(&key);
    let words: Vec<_> = line
        .values
        .iter()
        .filter(|(key, value)| shown(key, value))
        .map(|(key, value)| {
            let field = Field { vmsd: "", path: "", type_name: "" };
            format!("{} {}", key.replace('_', " "), items(field, value).join(" "))
        })
        .collect();
    layout.row(line.offset, 0, name, &words, ", ")
}

fn write(output: &mut Output, rows: Vec<String>) -> Result<(), Error> {
    rows.iter().try_for_each(|row| output.line(row))
}
