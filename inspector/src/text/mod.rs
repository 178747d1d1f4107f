//! Text for people: columns, widths, numbers and dates.

pub(crate) mod values;

use rustix::termios::tcgetwinsize;
use std::time::{Duration, UNIX_EPOCH};

/// Columns where no terminal and no `COLUMNS` says otherwise.
const DEFAULT_WIDTH: usize = 100;
/// A narrower terminal gets lines that it has to break; a wider one gets no wider lines.
const WIDTHS: std::ops::RangeInclusive<usize> = 60..=200;
/// Columns of an offset and what separates it from the rest.
const OFFSET_COLUMNS: usize = 12;
/// Where values begin.
const VALUE_COLUMN: usize = 40;

/// How many columns a line may have: what `COLUMNS` says, or the terminal on stdout, or 100.
pub(crate) fn width() -> usize {
    let variable = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let columns = variable.or_else(terminal).filter(|&columns| columns > 0);
    columns.unwrap_or(DEFAULT_WIDTH).clamp(*WIDTHS.start(), *WIDTHS.end())
}

/// A number with separators: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// `1 page`, `2 pages`; the plural is formed with an s.
pub(crate) fn plural(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A moment in UTC, from seconds since 1970-01-01; none behind the year 9999.
pub(crate) fn date(unix_s: u64) -> Option<String> {
    const END: u64 = 253_402_300_800;
    let time = (unix_s < END).then(|| UNIX_EPOCH + Duration::from_secs(unix_s))?;
    Some(humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").replace('Z', " UTC"))
}

/// Lines in columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) width: usize,
}

impl Layout {
    pub(crate) fn new() -> Self {
        Self { width: width() }
    }

    /// A line that begins with an offset: a name, indented by `depth`, and items behind it, which
    /// go on in further lines where they do not fit.
    pub(crate) fn row(
        self,
        offset: Option<u64>,
        depth: usize,
        name: &str,
        items: &[String],
        separator: &str,
    ) -> Vec<String> {
        let offset = offset.map_or_else(String::new, |offset| format!("{offset:#010x}"));
        let start = format!("{offset:<OFFSET_COLUMNS$}{:depth$}{name}", "", depth = 2 * depth);
        self.wrapped(start, VALUE_COLUMN, items, separator)
    }

    /// `start`, and items behind it from `column` on; each line has no more than the width.
    pub(crate) fn wrapped(
        self,
        start: String,
        column: usize,
        items: &[String],
        separator: &str,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = String::new();
        // What does not fit into the first line goes on below its words.
        let indent = column.min(OFFSET_COLUMNS + 2);
        let (first, rest) = cut(&start, self.width);
        line.push_str(first);
        for piece in pieces(rest, self.width - indent) {
            lines.push(std::mem::replace(&mut line, format!("{:indent$}{piece}", "")));
        }
        let mut fresh = true;
        for (at, item) in items.iter().enumerate() {
            let separator = if at + 1 < items.len() { separator.trim_end() } else { "" };
            let item = format!("{item}{separator}");
            if fresh && line.len() + 2 > column && line.len() + 2 + item.len() > self.width {
                lines.push(std::mem::take(&mut line));
            }
            if !fresh && line.len() + 1 + item.len() > self.width {
                lines.push(std::mem::take(&mut line));
                fresh = true;
            }
            if fresh {
                let gap = if line.is_empty() { 0 } else { 2 };
                line = format!("{:<column$}", format!("{line}{:gap$}", ""));
            } else {
                line.push(' ');
            }
            fresh = false;
            let mut parts = pieces(&item, self.width.saturating_sub(line.len()).max(20)).into_iter();
            line.push_str(&parts.next().unwrap_or_default());
            for part in parts {
                lines.push(std::mem::replace(&mut line, format!("{:column$}{part}", "")));
            }
        }
        lines.push(line.trim_end().to_owned());
        lines
    }
}

/// The first piece of an ASCII text, of at most `width`, which ends at a space where there is one;
/// and the rest.
fn cut(text: &str, width: usize) -> (&str, &str) {
    if text.len() <= width {
        return (text, "");
    }
    let at = text[..=width].rfind(' ').filter(|&at| at > width / 2).unwrap_or(width);
    (&text[..at], text[at..].trim_start())
}

/// All pieces of a text.
fn pieces(text: &str, width: usize) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, left) = cut(rest, width);
        pieces.push(piece.to_owned());
        rest = left;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_on_below_their_values() {
        let items: Vec<_> = (0..12).map(|number| format!("item{number}=0x{number:x}")).collect();
        let lines = Layout { width: 100 }.row(Some(0x2c70d), 1, "env.regs", &items, " ");
        assert_eq!(lines.len(), 3);
        assert_eq!(
            lines[0],
            "0x0002c70d    env.regs                  item0=0x0 item1=0x1 item2=0x2 item3=0x3 item4=0x4 item5=0x5"
        );
        assert!(lines.iter().skip(1).all(|line| line.starts_with(&" ".repeat(VALUE_COLUMN))));
        assert!(lines.iter().all(|line| line.len() <= 100));
    }

    #[test]
    fn what_has_no_place_to_break_is_cut() {
        let long = "x".repeat(1000);
        for (name, items) in [(&long[..], vec![]), ("a", vec![long.clone()]), (&long[..], vec![long.clone()])]
        {
            let lines = Layout { width: 100 }.row(None, 0, name, &items, ", ");
            assert!(lines.iter().all(|line| line.len() <= 100), "{lines:?}");
            let shown: usize = lines.iter().map(|line| line.matches('x').count()).sum();
            assert_eq!(shown, name.matches('x').count() + items.len() * 1000);
        }
    }

    #[test]
    fn dates_are_utc_and_end_with_the_year_9999() {
        assert_eq!(date(0).as_deref(), Some("1970-01-01 00:00:00 UTC"));
        assert_eq!(date(1_795_852_119).as_deref(), Some("2026-11-28 07:48:39 UTC"));
        assert_eq!(date(u64::MAX), None);
        assert_eq!(plural(1, "page"), "1 page");
        assert_eq!(plural(98_304, "page"), "98,304 pages");
    }
}
