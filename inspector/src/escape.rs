//! Names from a stream are bytes of a stranger: how they are written for each sink.

use std::fmt::Write;

/// For a terminal or a text file: printable ASCII as it is, everything else escaped; nothing can move the cursor.
#[must_use]
pub fn terminal(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Words of ours with names in them that were escaped for JSON: printable ASCII as it is, quotes too, everything else
/// escaped.
#[must_use]
pub fn terminal_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' '..='~' => out.push(c),
            c => out.extend(c.escape_unicode()),
        }
    }
    out
}

/// For JSON and for paths that go there: UTF-8 without control characters stays, other bytes are escaped as in
/// [`terminal`], so that no two names become one.
#[must_use]
pub fn json_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() || c == '\\') => text.to_owned(),
        _ => terminal(bytes),
    }
}

/// For HTML and SVG, in text and in quoted attributes.
#[must_use]
pub fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// For the message of a workflow command of GitHub's (`::error …::message`).
#[must_use]
pub fn github_message(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// For a property of such a command (`file=…`), which ends at a comma or a colon.
#[must_use]
pub fn github_property(text: &str) -> String {
    github_message(text).replace(':', "%3A").replace(',', "%2C")
}

/// For JSON that is embedded in a page's script: no `</script>` and no comment can appear in it.
#[must_use]
pub fn script_json(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_terminal_sequence_survives() {
        assert_eq!(terminal(b"pc\x1b[2Jram\xff\n"), "pc\\x1b[2Jram\\xff\\n");
        assert_eq!(terminal("\u{9b}31m".as_bytes()), "\\xc2\\x9b31m");
    }

    #[test]
    fn two_names_do_not_become_one_in_json() {
        assert_ne!(json_text(b"\xff"), json_text(b"\\xff"));
        assert_eq!(json_text("pc.räm".as_bytes()), "pc.räm");
        assert_eq!(json_text(b"a\x00b"), "a\\x00b");
    }

    #[test]
    fn html_and_scripts_cannot_be_left() {
        assert_eq!(html("<b a='x'>\"&\u{1}"), "&lt;b a=&#39;x&#39;&gt;&quot;&amp;\\u{1}");
        assert_eq!(script_json("\"</script><!--\""), "\"\\u003c/script\\u003e\\u003c!--\"");
    }

    #[test]
    fn a_workflow_command_stays_one_line_and_one_property() {
        assert_eq!(github_message("a\n::error::b%"), "a%0A::error::b%25");
        assert_eq!(github_property("x,title=y:z"), "x%2Ctitle=y%3Az");
    }
}
