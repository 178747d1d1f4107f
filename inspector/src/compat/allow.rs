//! Findings that are known and accepted: one rule per line, `RULE PATH-PATTERN EXPIRY REASON`.

use super::{Judgement, Verdict};

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    line: usize,
    rule: String,
    pattern: String,
    /// The last day on which it counts.
    expiry: Option<String>,
    reason: String,
    used: bool,
}

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    entries: Vec<Entry>,
}

/// A day, as `YYYY-MM-DD`: these compare as texts.
fn is_day(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| bytes[range].iter().all(u8::is_ascii_digit);
    bytes.len() == 10 && bytes[4] == b'-' && bytes[7] == b'-' && digits(0..4) && digits(5..7) && digits(8..10)
}

/// Splits off the first word; a pattern may be quoted, as paths have spaces.
fn word(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    if let Some(quoted) = line.strip_prefix('"') {
        return quoted.split_once('"');
    }
    (!line.is_empty()).then(|| line.split_once(char::is_whitespace).unwrap_or((line, "")))
}

/// A line of an allow-list that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct AllowListError {
    /// Its number, from 1 on.
    pub line: usize,
    /// What is wrong.
    pub problem: LineProblem,
}

/// What is wrong with a line of an allow-list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineProblem {
    /// A word is missing.
    #[error("expected RULE \"PATH-PATTERN\" EXPIRY REASON")]
    Shape,
    /// The third word is no day.
    #[error("the expiry is neither - nor a day as YYYY-MM-DD")]
    Expiry,
    /// It ends behind the expiry.
    #[error("a reason is missing")]
    NoReason,
}

impl AllowList {
    /// Reads a list. Empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    ///
    /// The line that is not as it should be.
    pub fn parse(text: &str) -> Result<Self, AllowListError> {
        let mut entries = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |problem| AllowListError { line: number + 1, problem };
            let shape = LineProblem::Shape;
            let (rule, rest) = word(line).ok_or_else(|| wrong(shape))?;
            let (pattern, rest) = word(rest).ok_or_else(|| wrong(shape))?;
            let (expiry, reason) = word(rest).ok_or_else(|| wrong(shape))?;
            if expiry != "-" && !is_day(expiry) {
                return Err(wrong(LineProblem::Expiry));
            }
            if reason.trim().is_empty() {
                return Err(wrong(LineProblem::NoReason));
            }
            entries.push(Entry {
                line: number + 1,
                rule: rule.to_owned(),
                pattern: pattern.to_owned(),
                expiry: (expiry != "-").then(|| expiry.to_owned()),
                reason: reason.trim().to_owned(),
                used: false,
            });
        }
        Ok(Self { entries })
    }

    /// The reason for which a judgement is accepted on this day.
    pub fn accepts(&mut self, judgement: &Judgement, today: &str) -> Option<&str> {
        if judgement.verdict == Verdict::Safe {
            return None;
        }
        let entry = self.entries.iter_mut().find(|entry| {
            (entry.rule == "*" || entry.rule == judgement.rule)
                && matches(&entry.pattern, &judgement.path)
                && entry.expiry.as_ref().is_none_or(|expiry| today <= &expiry[..])
        })?;
        entry.used = true;
        Some(&entry.reason)
    }

    /// Lines that are of no use any more: expired, or nothing matched them.
    #[must_use]
    pub fn leftovers(&self, today: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for entry in &self.entries {
            match &entry.expiry {
                Some(expiry) if today > &expiry[..] => {
                    texts.push(format!("line {}: expired on {expiry}: {}", entry.line, entry.reason));
                }
                _ if !entry.used => texts.push(format!("line {}: nothing matches it", entry.line)),
                _ => {}
            }
        }
        texts
    }
}

/// Whether `text` is as `pattern` says, where `*` is anything. Takes time in proportion to both at most.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judgement(rule: &'static str, path: &str) -> Judgement {
        Judgement { verdict: Verdict::Breaks, rule, path: path.to_owned(), text: String::new() }
    }

    #[test]
    fn a_rule_is_accepted_until_its_day_and_only_where_its_pattern_fits() {
        let text =
            "# known\nfield-size \"device hpet/*: *\" 2026-12-31 the new timer\nmachine * - same thing\n";
        let mut list = AllowList::parse(text).unwrap();
        let found = judgement("field-size", "device hpet/0: num_timers");
        assert_eq!(list.accepts(&found, "2026-12-31"), Some("the new timer"));
        assert_eq!(list.accepts(&found, "2027-01-01"), None);
        assert_eq!(list.accepts(&judgement("field-size", "device rtc/0: a"), "2026-01-01"), None);
        assert_eq!(
            list.leftovers("2027-01-01"),
            ["line 2: expired on 2026-12-31: the new timer", "line 3: nothing matches it"]
        );
    }

    #[test]
    fn lines_without_a_reason_or_with_another_date_are_refused() {
        let error = |text| AllowList::parse(text).unwrap_err().to_string();
        assert_eq!(error("machine * -"), "line 1: a reason is missing");
        assert_eq!(
            error("\nmachine * 31.12.2026 x"),
            "line 2: the expiry is neither - nor a day as YYYY-MM-DD"
        );
        assert_eq!(error("machine"), "line 1: expected RULE \"PATH-PATTERN\" EXPIRY REASON");
    }

    #[test]
    fn stars_match_anything_and_take_no_exponential_time() {
        assert!(matches("a*b*c", "axxbyyc") && matches("*", "") && !matches("a*b", "axc"));
        assert!(!matches(&"a*".repeat(500), &"a".repeat(400)));
    }
}
