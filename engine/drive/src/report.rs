//! What the program says on stderr: words for people, or one JSON object per line (`--progress=json`).

use crate::cli::{Cli, ProgressMode};
use crate::words::say;
use serde_json::{Value, json};
use snapshot_engine::{Class, Failure, RevertSummary, SaveSummary, size_text, uuid_text};
use snapshot_image::{ImageError, Verification};
use std::time::Instant;

/// Writes a line of JSON to stderr.
pub(crate) fn json_line(object: &Value) {
    say(&object.to_string());
}

/// The voice of one job.
#[derive(Debug)]
pub struct Report {
    json: bool,
    image: String,
    start: Instant,
}

impl Report {
    /// For the job that the command line asks for, which begins now.
    #[must_use]
    pub fn new(cli: &Cli) -> Self {
        let image = cli.image_spec().map_or_else(|_| String::new(), |spec| spec.path.display().to_string());
        Self { json: cli.progress == ProgressMode::Json, image, start: Instant::now() }
    }

    fn line(&self, level: &str, text: &str) {
        if self.json {
            json_line(&json!({"type": "message", "level": level, "text": text}));
        } else {
            let level = if level == "info" { String::new() } else { format!("{level}: ") };
            say(&format!("qemu-snapshot: {level}{text}"));
        }
    }

    /// Something worth knowing.
    pub fn info(&self, text: &str) {
        self.line("info", text);
    }

    /// Something that may go wrong.
    pub fn warning(&self, text: &str) {
        self.line("warning", text);
    }

    /// Time since the start, in seconds, to the millisecond.
    fn seconds(&self) -> f64 {
        (self.start.elapsed().as_secs_f64() * 1e3).round() / 1e3
    }

    /// Time since the start, for people.
    fn time(&self) -> String {
        let elapsed = self.start.elapsed();
        match elapsed.as_millis() {
            milliseconds @ 0..1000 => format!("{milliseconds} ms"),
            _ => format!("{:.1} s", elapsed.as_secs_f64()),
        }
    }

    /// A save that is durable.
    pub fn saved(&self, summary: &SaveSummary) {
        if summary.source_could_not_see {
            self.warning(
                "the source opened no return path, so QEMU cannot notice a failure on a socket: \
                 only this program's exit status says whether there is a snapshot",
            );
        }
        let saved_bytes = summary.nonzero_pages * summary.page_bytes;
        if self.json {
            return json_line(&json!({
                "type": "end",
                "result": "saved",
                "exit_status": 0,
                "image": self.image,
                "uuid": uuid_text(&summary.uuid),
                "ram_bytes": summary.ram_bytes,
                "saved_bytes": saved_bytes,
                "channel_bytes": summary.stream_bytes,
                "seconds": self.seconds(),
            }));
        }
        self.info(&format!(
            "saved {} of {} RAM (the rest is zero) to {}, UUID {}, in {}",
            size_text(saved_bytes),
            size_text(summary.ram_bytes),
            self.image.escape_debug(),
            uuid_text(&summary.uuid),
            self.time(),
        ));
    }

    /// A revert of which the destination has taken everything.
    pub fn reverted(&self, summary: &RevertSummary) {
        if let Verification::Unverified(why) = summary.verification {
            self.warning(&format!("unverified: {why}"));
        }
        let verified = summary.verification == Verification::Verified;
        if self.json {
            let postcopy = summary.postcopy.as_ref().map(|postcopy| {
                json!({
                    "requests": postcopy.requests,
                    "requested_host_pages": postcopy.requested_host_pages,
                })
            });
            return json_line(&json!({
                "type": "end",
                "result": "reverted",
                "exit_status": 0,
                "image": self.image,
                "uuid": summary.uuid.as_ref().map(uuid_text),
                "verified": verified,
                "normal_pages": summary.normal_pages,
                "zero_pages": summary.zero_pages,
                "channel_bytes": summary.sent_bytes,
                "postcopy": postcopy,
                "seconds": self.seconds(),
            }));
        }
        if let Some(postcopy) = &summary.postcopy {
            self.info(&format!(
                "all pages sent after {:.1} ms: {} with content, {} zero; {} host pages on {} requests",
                self.seconds() * 1e3,
                summary.normal_pages,
                summary.zero_pages,
                postcopy.requested_host_pages,
                postcopy.requests
            ));
        } else {
            let uuid =
                summary.uuid.as_ref().map_or_else(String::new, |uuid| format!(", UUID {}", uuid_text(uuid)));
            self.info(&format!(
                "reverted from {}{uuid}: sent {} pages with content{} and {} zero pages in {}",
                self.image.escape_debug(),
                summary.normal_pages,
                if verified { ", each verified," } else { "" },
                summary.zero_pages,
                self.time(),
            ));
        }
    }

    /// Why there is no snapshot, or no guest; returns the exit status.
    #[must_use]
    pub fn failed(&self, failure: &Failure) -> u8 {
        let status = match failure.class() {
            Class::InputWrong => 1,
            Class::CouldNot => 2,
        };
        let text = text_of(failure);
        if self.json {
            json_line(&json!({
                "type": "end",
                "result": "failed",
                "exit_status": status,
                "image": self.image,
                "error": text,
                "seconds": self.seconds(),
            }));
        } else {
            self.line("error", &text);
        }
        status
    }
}

/// The failure, and what to do where the image is damaged.
fn text_of(failure: &Failure) -> String {
    const ADVICE: &str = "(`snapinspect check IMAGE` lists all damage; revert from a copy, or save again)";
    match failure {
        Failure::Image { error: error @ ImageError::Damaged { .. }, class: Class::InputWrong } => {
            format!("{error} {ADVICE}")
        }
        Failure::Image { error, class: Class::InputWrong } if is_damage(error) => {
            format!("the image is damaged: {error} {ADVICE}")
        }
        failure => failure.to_string(),
    }
}

/// Whether bytes of a snapshot are not what was written; any other error is about an image that is whole, or something else.
fn is_damage(error: &ImageError) -> bool {
    matches!(
        error,
        ImageError::Checksum { .. }
            | ImageError::Page { .. }
            | ImageError::Value { .. }
            | ImageError::Leader(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_called_that_and_other_images_are_not() {
        let page = ImageError::Page { block: b"pc.ram".to_vec(), offset: 0x1000, found: 1, expected: 2 };
        let of = |error, class| text_of(&Failure::Image { error, class });
        assert_eq!(
            of(page.clone(), Class::InputWrong),
            "the image is damaged: ram block \"pc.ram\" offset 0x1000: page checksum 0x00000001, expected 0x00000002 \
             (`snapinspect check IMAGE` lists all damage; revert from a copy, or save again)"
        );
        assert!(!of(page, Class::CouldNot).contains("damaged"));
        assert!(!of(ImageError::TooShort { found: 3 }, Class::InputWrong).contains("damaged"));
    }
}
