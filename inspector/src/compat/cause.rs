//! Judgements that have one cause are one line with a count.

use super::{Judgement, Verdict};
use std::collections::HashMap;

/// Rules whose text says all there is to say, so that their judgements are one wherever they are.
const ONE_EVERYWHERE: [&str; 5] =
    ["not-described", "field-conditional", "field-empty", "subsection-not-sent", "section-missing"];
/// Paths that are shown of those that differ in more than the index of an element.
const SHOWN: usize = 3;

/// Judgements of one cause, in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// What they mean.
    pub verdict: Verdict,
    /// The rule that says so.
    pub rule: &'static str,
    /// How things differ.
    pub text: String,
    /// Why they are allowed, if they are.
    pub allowed: Option<String>,
    /// What differs, one for each judgement.
    pub paths: Vec<String>,
}

/// Puts judgements, each with the reason for which it is allowed, together by their causes: the
/// same rule, verdict, text and reason, and the same path, but for indices of elements.
#[must_use]
pub fn causes(judgements: Vec<(Judgement, Option<String>)>) -> Vec<Cause> {
    let mut causes: Vec<Cause> = Vec::new();
    let mut known: HashMap<(Verdict, &str, String, Option<String>, String), usize> = HashMap::new();
    for (judgement, allowed) in judgements {
        let Judgement { verdict, rule, path, text } = judgement;
        let place = if ONE_EVERYWHERE.contains(&rule) { String::new() } else { folded(&path) };
        let key = (verdict, rule, text.clone(), allowed.clone(), place);
        let at = *known.entry(key).or_insert_with(|| {
            causes.push(Cause { verdict, rule, text, allowed, paths: Vec::new() });
            causes.len() - 1
        });
        causes[at].paths.push(path);
    }
    causes
}

impl Cause {
    /// What differs, as one text: `device fdc/0: state: drives[*]`.
    #[must_use]
    pub fn path(&self) -> String {
        if let [path] = &self.paths[..] {
            return path.clone();
        }
        let mut places: Vec<String> = Vec::new();
        for path in &self.paths {
            let place = folded(path);
            // Neighbours are equal, mostly; of the others a few more than are shown are enough to
            // know that there are more.
            if places.last() != Some(&place) && !places[..places.len().min(SHOWN)].contains(&place) {
                places.push(place);
            }
        }
        let more = places.len().saturating_sub(SHOWN);
        places.truncate(SHOWN);
        let shown = places.join(", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    }
}

/// A path without the indices of elements: `drives[*].head`.
fn folded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 && after[digits..].starts_with(']') {
            out.push_str("[*]");
            rest = &after[digits + 1..];
        } else {
            out.push('[');
            rest = after;
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judgement(verdict: Verdict, rule: &'static str, path: &str) -> (Judgement, Option<String>) {
        (Judgement { verdict, rule, path: path.to_owned(), text: "a text".to_owned() }, None)
    }

    fn shown(judgements: Vec<(Judgement, Option<String>)>) -> Vec<String> {
        causes(judgements)
            .iter()
            .map(|cause| format!("x{} {} {}", cause.paths.len(), cause.rule, cause.path()))
            .collect()
    }

    #[test]
    fn elements_of_an_array_are_one_cause_and_other_places_are_not() {
        let breaks = |path: &str| judgement(Verdict::Breaks, "field-unknown", path);
        let all = vec![
            breaks("device pm/0: status[0]"),
            breaks("device pm/0: status[255]"),
            breaks("device pm/0: status[1][2].up"),
            breaks("device pm/1: status[0]"),
            judgement(Verdict::MayBreak, "field-unknown", "device pm/0: status[0]"),
            breaks("device pm/0: status[0x0]"),
        ];
        assert_eq!(
            shown(all),
            [
                "x2 field-unknown device pm/0: status[*]",
                "x1 field-unknown device pm/0: status[1][2].up",
                "x1 field-unknown device pm/1: status[0]",
                "x1 field-unknown device pm/0: status[0]",
                "x1 field-unknown device pm/0: status[0x0]",
            ]
        );
    }

    #[test]
    fn what_is_allowed_is_apart_from_what_is_not() {
        let mut all = vec![judgement(Verdict::Breaks, "uuid", "machine"); 3];
        all[1].1 = Some("a reason".to_owned());
        let causes = causes(all);
        assert_eq!(causes.iter().map(|cause| cause.paths.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(causes[1].allowed.as_deref(), Some("a reason"));
    }

    #[test]
    fn what_is_not_described_is_one_cause_with_some_of_its_places() {
        let of = |names: &[&str]| {
            names
                .iter()
                .map(|name| judgement(Verdict::MayBreak, "not-described", &format!("device {name}/0")))
                .collect()
        };
        assert_eq!(shown(of(&["a", "b"])), ["x2 not-described device a/0, device b/0"]);
        assert_eq!(
            shown(of(&["a", "b", "c", "d", "e"])),
            ["x5 not-described device a/0, device b/0, device c/0 and 2 more"]
        );
    }
}
