//! `compat`: one line for judgements of one cause.

use super::output::{Output, coloured};
use crate::cli::{CompatArgs, FailOn, Format};
use crate::compat::{AllowList, Cause, Shape, Verdict, causes, judge};
use crate::error::Error;
use crate::escape::{github_message, github_property, json_line, terminal, terminal_words};
use crate::text::{Layout, plural};
use crate::walk::Level;

/// Where the words of a line begin.
const WORDS_COLUMN: usize = 31;

pub(super) fn run(args: &CompatArgs) -> Result<u8, Error> {
    let options = args.input.options();
    let mut allow = match &args.allow {
        Some(path) => {
            let name = terminal(path.as_os_str().as_encoded_bytes());
            let text = std::fs::read_to_string(path).map_err(Error::io(&name))?;
            AllowList::parse(&text).map_err(|error| Error::Input { what: name, why: error.to_string() })?
        }
        None => AllowList::default(),
    };
    let source = Shape::read(&args.source, &options)?;
    let target = Shape::read(&args.target, &options.without_channels())?;
    let judgements = judge(&source, &target);
    let today = today();
    let mut output = Output::stdout();
    let judgements: Vec<_> = judgements
        .into_iter()
        .map(|judgement| {
            let reason = allow.accepts(&judgement, &today).map(ToOwned::to_owned);
            (judgement, reason)
        })
        .collect();
    let open = judgements.iter().filter(|(_, reason)| reason.is_none());
    let worst = open.map(|(judgement, _)| judgement.verdict).max().unwrap_or(Verdict::Safe);
    let differences = judgements.iter().filter(|(judgement, _)| judgement.is_difference()).count();
    let not_compared = judgements.len() - differences;
    let allowed = judgements.iter().filter(|(_, reason)| reason.is_some()).count();
    for cause in causes(judgements) {
        output.line(&line(&cause, args))?;
    }
    for text in allow.leftovers(&today) {
        eprintln!("snapinspect: allow-list: {}", terminal_words(&text));
    }
    match args.format {
        Format::Text => {
            let more = match not_compared {
                0 => String::new(),
                count => format!("; {} could not be compared", plural(count as u64, "thing")),
            };
            let worst = worst.name();
            let differences = plural(differences as u64, "difference");
            output.line(&format!("{worst}: {differences}, {allowed} of them allowed{more}"))?;
        }
        Format::Json => output.line(
            &serde_json::json!({
                "type": "summary", "verdict": worst, "differences": differences, "not_compared": not_compared,
                "allowed": allowed,
            })
            .to_string(),
        )?,
        Format::Github => {}
    }
    output.flush()?;
    let limit = match args.fail_on {
        FailOn::MayBreak => Verdict::MayBreak,
        FailOn::Breaks => Verdict::Breaks,
    };
    Ok(u8::from(worst >= limit))
}

fn line(cause: &Cause, args: &CompatArgs) -> String {
    let Cause { verdict, rule, text, allowed: reason, paths } = cause;
    let path = cause.path();
    let allowed = reason.as_ref().map_or_else(String::new, |reason| format!(" (allowed: {reason})"));
    let times = if paths.len() > 1 { format!("x{} ", paths.len()) } else { String::new() };
    match args.format {
        Format::Text => {
            let words = format!("{times}{path}: {text}{allowed}");
            let level = match verdict {
                _ if reason.is_some() => Level::Note,
                Verdict::Safe => Level::Note,
                Verdict::MayBreak => Level::Warning,
                Verdict::Breaks => Level::Error,
            };
            let plain = format!("{:<9}", verdict.name());
            let words = terminal_words(&words);
            let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
            let lines = Layout::new().wrapped(format!("{plain} {rule:<19}"), WORDS_COLUMN, &words, " ");
            // Colours have no columns.
            lines.join("\n").replacen(&plain, &coloured(&plain, level), 1)
        }
        Format::Json => {
            let json = serde_json::json!({
                "type": "judgement", "verdict": verdict, "rule": rule, "path": path, "text": text,
                "allowed": reason, "count": paths.len(), "paths": paths,
            });
            json_line(&json.to_string()).into_owned()
        }
        Format::Github => {
            let command = match verdict {
                Verdict::Breaks if reason.is_none() => "error",
                Verdict::MayBreak if reason.is_none() => "warning",
                _ => "notice",
            };
            let file = github_property(args.source.as_os_str().as_encoded_bytes());
            let message = github_message(&format!("{rule}: {times}{path}: {text}{allowed}"));
            format!("::{command} file={file},title=snapinspect compat::{message}")
        }
    }
}

/// Today in UTC, as `YYYY-MM-DD`.
fn today() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    day(now.map_or(0, |since| since.as_secs() / 86400))
}

/// The day that is so many days behind 1970-01-01, by whole cycles of 400 years from March on.
fn day(days: u64) -> String {
    let days = days + 719_468;
    let of_cycle = days % 146_097;
    let year = (of_cycle - of_cycle / 1460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = days / 146_097 * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::day;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_088, "2024-12-31"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(day(days), expected);
        }
    }
}
