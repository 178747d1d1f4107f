//! Names from a stream are untrusted input: how they are written for each sink.

use std::fmt::Write;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Whether a character shows as itself, and changes nothing around it. Controls, formats (which
/// turn the direction of what follows, or are not seen), line and paragraph separators, and what
/// Unicode has not assigned do not.
fn is_plain(c: char) -> bool {
    !matches!(c.general_category_group(), GeneralCategoryGroup::Other)
        && !matches!(c, '\u{2028}' | '\u{2029}')
}

/// For a terminal or a text file: printable ASCII as it is, everything else escaped; nothing can
/// move the cursor.
#[must_use]
pub fn terminal(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Words of ours with names in them that were escaped for JSON: printable ASCII as it is, quotes
/// too, everything else escaped.
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

/// For JSON and for paths that go there: UTF-8 in which every character shows as itself stays, and
/// anything else is escaped as in [`terminal`], so that no two names become one.
#[must_use]
pub fn json_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(|c| is_plain(c) && c != '\\') => text.to_owned(),
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
            c if !is_plain(c) => {
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
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '%' => out.push_str("%25"),
            '\r' => out.push_str("%0D"),
            '\n' => out.push_str("%0A"),
            c if is_plain(c) => out.push(c),
            c => out.extend(c.escape_unicode()),
        }
    }
    out
}

/// For a property of such a command (`file=…`), which ends at a comma or a colon. What is no UTF-8
/// is escaped as in [`terminal`].
#[must_use]
pub fn github_property(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).map_or_else(|_| terminal(bytes), ToOwned::to_owned);
    github_message(&text).replace(':', "%3A").replace(',', "%2C")
}

/// A line of JSON in which only characters that show as themselves stand as they are. Others can be
/// in its texts alone, and mean the same there when they are escaped.
#[must_use]
pub fn json_line(json: &str) -> std::borrow::Cow<'_, str> {
    if json.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || json.chars().all(is_plain) {
        return json.into();
    }
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_plain(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out.into()
}

/// For JSON that is embedded in a page's script: no `</script>` and no comment can appear in it.
#[must_use]
pub fn script_json(json: &str) -> String {
    json_line(json).replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
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
    fn what_turns_the_direction_or_is_not_seen_is_escaped_for_every_sink() {
        let hidden = [
            "\u{202e}",
            "\u{2066}",
            "\u{200f}",
            "\u{61c}",
            "\u{2028}",
            "\u{2029}",
            "\u{feff}",
            "\u{ad}",
            "\u{e0041}",
            "\u{fff9}",
            "\u{180e}",
            "\u{85}",
            "\u{e000}",
            "\u{378}",
        ];
        for c in hidden {
            let name = format!("a{c}b");
            let json = serde_json::json!({ "name": name }).to_string();
            for (sink, escaped) in [
                ("terminal", terminal(name.as_bytes())),
                ("words", terminal_words(&name)),
                ("name", json_text(name.as_bytes())),
                ("JSON", json_line(&json).into_owned()),
                ("HTML", html(&name)),
                ("script", script_json(&json)),
                ("message", github_message(&name)),
                ("property", github_property(name.as_bytes())),
            ] {
                assert!(!escaped.contains(c), "{sink}: {}", escaped.escape_unicode());
                assert!(escaped.contains('a') && escaped.contains('b'), "{sink}");
            }
            let read: serde_json::Value = serde_json::from_str(&json_line(&json)).unwrap();
            assert_eq!(read["name"], name, "JSON says the same");
        }
        let plain = "pc.räm \u{5e9}\u{4e2d}\u{1f600} e\u{301}";
        assert_eq!(json_text(plain.as_bytes()), plain);
        assert_eq!(json_line(plain), plain);
        assert_eq!(html(plain), plain);
    }

    #[test]
    fn a_workflow_command_stays_one_line_and_one_property() {
        assert_eq!(github_message("a\n::error::b%"), "a%0A::error::b%25");
        assert_eq!(github_property(b"x,title=y:z\x1b\n"), "x%2Ctitle=y%3Az\\u{1b}%0A");
    }
}
