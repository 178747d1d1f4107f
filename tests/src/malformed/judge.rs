//! What the toolkit does with a file.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::{Command, Output},
};

use super::{Kind, Malformed, walked};
use crate::{image::run_tool, tool::snapinspect};

/// What each reader does with a file.
#[derive(Debug)]
pub struct Said {
    /// A line for each reader, without wording: exit status, kind of error where the parser knows
    /// it, offset, numbers.
    pub reasons: String,
    /// The messages that repeat no other reader's, with `N` for each number.
    pub words: Vec<String>,
}

impl Said {
    fn line(&mut self, reader: &str, reason: &str) {
        writeln!(self.reasons, "{reader}: {reason}").expect("a String takes everything");
    }

    /// A line for a program that ended with `output` and printed `message`; `others` are the
    /// readers that may have said it before.
    fn program(&mut self, reader: &str, output: &Output, message: &str, others: &[(&str, &str)]) {
        let cause = if output.status.success() { String::new() } else { self.cause(reader, message, others) };
        self.line(reader, &format!("{}{cause}", status(output)));
    }

    /// ` as READER` if the message contains what another reader said; otherwise its numbers, and
    /// the message is kept.
    fn cause(&mut self, reader: &str, message: &str, others: &[(&str, &str)]) -> String {
        if let Some((other, _)) = others.iter().find(|(_, text)| !text.is_empty() && message.contains(text)) {
            return format!(" as {other}");
        }
        let (words, numbers) = walked::split_numbers(message);
        self.words.push(format!("{reader}: {words}"));
        numbers
    }
}

fn status(output: &Output) -> String {
    output.status.code().map_or_else(|| "killed".to_owned(), |code| format!("status {code}"))
}

/// What the toolkit does with `file`. `folder` is for temporary files, `stream` a valid stream, for
/// images that one may be saved into.
///
/// # Panics
///
/// If the readers disagree, or a refused image was changed.
#[must_use]
pub fn said(file: &Malformed, stream: &Path, folder: &Path) -> Said {
    let reasons = format!("base: {}\nchange: {}\n", file.base, file.change);
    let mut said = Said { reasons, words: Vec::new() };
    let path = folder.join("file");
    fs::write(&path, &file.bytes).expect("a small file");
    let mut walked_text = String::new();
    let mut revert_text = String::new();
    if file.kind != Kind::Image {
        let result = walked::read(file.base, &file.bytes);
        said.line("walk", &walked::kind(&result));
        walked_text = result.err().map(|error| error.kind.to_string()).unwrap_or_default();
    }
    match file.kind {
        Kind::Stream => {
            let image = folder.join("image");
            let _ = fs::remove_file(&image);
            let output = run_tool(["--create".as_ref(), image.as_os_str()], Some(&path));
            assert_eq!(output.status.success(), image.exists(), "{}: success and image differ", file.name);
            said.program("save", &output, &stderr(&output, &image), &[("walk", &walked_text)]);
        }
        Kind::Answers | Kind::Multifd => {}
        Kind::Image => {
            let output = run_tool(["--revert".as_ref(), path.as_os_str()], None);
            revert_text = stderr(&output, &path);
            said.program("revert", &output, &revert_text, &[]);
            let output = run_tool([path.as_os_str()], Some(stream));
            let replaced = fs::read(&path).expect("still there") != file.bytes;
            assert_eq!(replaced, output.status.success(), "{}: changed", file.name);
            let text = stderr(&output, &path);
            let known = if revert_text.contains(&text) { &text } else { "" };
            said.program("save", &output, &text, &[("revert", known)]);
            fs::write(&path, &file.bytes).expect("a small file");
        }
    }
    check(&mut said, &path, &walked_text, &revert_text);
    said
}

/// The findings of `snapinspect check` with their severities and offsets, without its notes on the
/// file as a whole.
fn check(said: &mut Said, path: &Path, walked: &str, reverted: &str) {
    let output = Command::new(snapinspect()).arg("check").arg(path).output().expect("the program runs");
    let mut reasons = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some((at, rest)) = line.split_once(' ') else { continue };
        let Some((severity, text)) = rest.trim_start().split_once(' ') else { continue };
        let is_finding = matches!(severity, "error" | "warning" | "note");
        let is_of_the_whole_file = at == "-" && severity == "note";
        if !is_finding || is_of_the_whole_file {
            continue;
        }
        let text = text.trim_start();
        let image = text.strip_prefix("image: ").unwrap_or(text);
        let known = if reverted.contains(image) { image } else { "" };
        let place = if at == "-" { String::new() } else { format!(" at {at}") };
        let cause = said.cause("check", text, &[("walk", walked), ("revert", known)]);
        reasons.push(format!("{severity}{place}{cause}"));
    }
    let trouble = stderr(&output, path);
    if !trouble.is_empty() {
        reasons.push(format!("refused{}", said.cause("check", &trouble, &[])));
    }
    let separator = if reasons.is_empty() { "" } else { ": " };
    said.line("check", &format!("{}{separator}{}", status(&output), reasons.join(", ")));
}

/// What a program printed to stderr, without the path.
fn stderr(output: &Output, path: &Path) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.replace(&path.display().to_string(), "FILE").trim_end().replace('\n', " / ")
}
