//! Rows of device fields.

use crate::line::Line;
use crate::text::values::element_name;

/// A row of fields: one field, or all members of an element of an array.
pub(super) struct Row {
    pub(super) offset: Option<u64>,
    pub(super) stem: String,
    pub(super) index: String,
    pub(super) members: Vec<(String, Vec<String>)>,
    pub(super) lines: Vec<Line<'static>>,
}

impl Row {
    pub(super) fn name(&self, vmsd: &str) -> String {
        let member = match &self.members[..] {
            [(rest, _)] if !rest.is_empty() => format!(".{rest}"),
            _ => String::new(),
        };
        let known = element_name(vmsd, &self.stem, &self.index);
        format!(
            "{}{}{member}{}",
            self.stem,
            self.index,
            known.map_or_else(String::new, |name| format!(" ({name})"))
        )
    }

    pub(super) fn words(&self) -> Vec<String> {
        match &self.members[..] {
            [(_, words)] => words.clone(),
            members => members.iter().map(|(rest, words)| format!("{rest}={}", words.join(" "))).collect(),
        }
    }

    /// The next row is another element of the same array, with the same content.
    pub(super) fn folds(&self, next: &Self, vmsd: &str) -> bool {
        !self.index.is_empty()
            && self.stem == next.stem
            && self.members == next.members
            && next.lines.is_empty()
            && element_name(vmsd, &self.stem, &self.index).is_none()
    }
}

/// Splits a path into the structure that a field is a member of, and the member: at its first
/// array, or before the last name of a structure inside of another.
pub(super) fn split(path: &str) -> (&str, &str, &str) {
    let Some(start) = path.find('[') else {
        return match path.rsplit_once('.') {
            Some((parent, member)) if parent.contains('.') => (parent, "", member),
            _ => (path, "", ""),
        };
    };
    let mut end = start;
    while path[end..].starts_with('[') {
        match path[end..].find(']') {
            Some(length) => end += length + 1,
            None => break,
        }
    }
    (&path[..start], &path[start..end], path[end..].trim_start_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_at_their_first_array() {
        assert_eq!(split("env.eip"), ("env.eip", "", ""));
        assert_eq!(split("env.ldt.base"), ("env.ldt", "", "base"));
        assert_eq!(split("env.xmm_regs[0][3]._q_ZMMReg[1]"), ("env.xmm_regs", "[0][3]", "_q_ZMMReg[1]"));
        assert_eq!(split("unused[1]"), ("unused", "[1]", ""));
        assert_eq!(split("odd[1"), ("odd", "", "[1"));
    }
}
