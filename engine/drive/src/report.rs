//! What the program says on stderr: words for people, or one JSON object per line (`--progress=json`).

use crate::block_options::{ImageSpec, SpecError};
use crate::cli::Cli;
use crate::command::UnpackArgs;
use crate::hint::{hint, is_damage};
use crate::progress_mode::ProgressMode;
use crate::unpack::UnpackSummary;
use crate::words::{json_line, say};
use serde_json::json;
use snapshot_engine::identity::Assigned;
use snapshot_engine::{Class, Failure, RevertSummary, SaveSummary, error_text, size_text, uuid_text};
use snapshot_image::{ImageError, Verification};
use std::cell::Cell;
use std::time::Instant;

/// The voice of one job.
#[derive(Debug)]
pub struct Report {
    json: bool,
    image: String,
    start: Instant,
    /// There are new MACs of which nothing has been said since the guest runs.
    new_macs: Cell<bool>,
}

impl Report {
    /// For the job that the command line asks for, which begins now.
    #[must_use]
    pub fn new(cli: &Cli) -> Self {
        Self::about(cli.progress, cli.image_spec())
    }

    /// For an unpack, which begins now.
    #[must_use]
    pub fn of_unpack(args: &UnpackArgs) -> Self {
        Self::about(args.progress, ImageSpec::parse(&args.image))
    }

    fn about(progress: ProgressMode, image: Result<ImageSpec, SpecError>) -> Self {
        let image = image.map_or_else(|_| String::new(), |spec| spec.path.display().to_string());
        Self {
            json: progress == ProgressMode::Json,
            image,
            start: Instant::now(),
            new_macs: Cell::new(false),
        }
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
        if !summary.untouched_blocks.is_empty() {
            let name = |name: &Vec<u8>| format!("\"{}\"", name.escape_ascii());
            let names: Vec<_> = summary.untouched_blocks.iter().map(name).collect();
            self.warning(&format!(
                "no page of RAM block {} arrived (virtio-mem and a balloon's free page hints leave pages \
                 out): it is zero in the image",
                names.join(", ")
            ));
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

    /// NICs of the guest have new addresses.
    pub fn identity(&self, assigned: &[Assigned]) {
        self.new_macs.set(!assigned.is_empty());
        for Assigned { device, old, new } in assigned {
            if self.json {
                let (old, new) = (old.to_string(), new.to_string());
                json_line(&json!({"type": "identity", "device": device, "old_mac": old, "new_mac": new}));
            } else {
                self.info(&format!("NIC {device}: MAC {old} -> {new}"));
            }
        }
    }

    /// The guest runs, and no one is known to have told its drivers of their new addresses.
    pub fn drivers_use_old_macs(&self) {
        if self.new_macs.take() {
            self.warning(
                "the guest's drivers use their old MACs until they are told of the new ones (docs/clones.md)",
            );
        }
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
                "mapped_bytes": summary.mapped_bytes,
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

    /// RAM files that are whole.
    pub fn unpacked(&self, summary: &UnpackSummary) {
        let folder = summary.folder.display().to_string();
        if self.json {
            return json_line(&json!({
                "type": "end",
                "result": "unpacked",
                "exit_status": 0,
                "image": self.image,
                "uuid": uuid_text(&summary.uuid),
                "folder": folder,
                "files": summary.files,
                "ram_bytes": summary.ram_bytes,
                "nonzero_bytes": summary.nonzero_bytes,
                "seconds": self.seconds(),
            }));
        }
        self.info(&format!(
            "unpacked {} of {} RAM (the rest is zero), each page verified, from {} to {} files in {}, UUID {}, in {}",
            size_text(summary.nonzero_bytes),
            size_text(summary.ram_bytes),
            self.image.escape_debug(),
            summary.files,
            folder.escape_debug(),
            uuid_text(&summary.uuid),
            self.time(),
        ));
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

/// The failure with its causes, and what can be done about it.
fn text_of(failure: &Failure) -> String {
    let text = match failure {
        Failure::WrongImage(ImageError::Damaged { .. }) => failure.to_string(),
        Failure::WrongImage(error) if is_damage(error) => {
            format!("the image is damaged: {}", error_text(error))
        }
        failure => error_text(failure),
    };
    match hint(failure) {
        // A hint of two clauses would run together with the text.
        Some(hint) if hint.contains(';') => format!("{text} ({hint})"),
        Some(hint) => format!("{text}; {hint}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_engine::{HostPagesError, IoError, Unsupported};

    #[test]
    fn damage_is_called_that_and_other_images_are_not() {
        let page = ImageError::Page { block: b"pc.ram".to_vec(), offset: 0x1000, found: 1, expected: 2 };
        assert_eq!(
            text_of(&Failure::WrongImage(page.clone())),
            "the image is damaged: ram block \"pc.ram\" offset 0x1000: page checksum 0x00000001, expected 0x00000002 \
             (`snapinspect check IMAGE` lists all damage; revert from a copy, or save again)"
        );
        assert!(!text_of(&Failure::UnfitImage(page)).contains("damaged"));
        assert!(!text_of(&Failure::WrongImage(ImageError::TooShort { found: 3 })).contains("damaged"));
    }

    #[test]
    fn a_failure_is_told_with_its_cause_and_with_what_can_be_done() {
        let check = |failure: Failure, expected: &str| assert_eq!(text_of(&failure), expected);
        let uuid = "11111111-1111-1111-1111-111111111111";
        check(
            Failure::SnapshotExists { uuid: Some([0x11; 16]) },
            &format!("the image holds a snapshot ({uuid}); --overwrite replaces it"),
        );
        check(
            Failure::InterruptedThenWritten,
            "the image holds an interrupted save, and another program has written to it since; --overwrite replaces it",
        );
        check(
            Unsupported::NoVmdesc.into(),
            "the stream has no vmdesc, so its end cannot be verified; a source with suppress-vmdesc=on needs --no-vmdesc",
        );
        let text = "changed by another program, or damaged: why";
        check(
            Failure::WrongImage(ImageError::Unverifiable("why")),
            &format!("{text}; --unverified reads it without checks"),
        );
        check(Failure::UnfitImage(ImageError::Unverifiable("why")), text);
        check(
            Failure::UnfitImage(ImageError::TooSmall { found: 1, needed: 1 << 20 }),
            "the image is too small: virtual size 1 bytes, this guest needs 1048576; \
             `qemu-img create -o size=1048576` makes one that fits",
        );
        check(
            Failure::UnfitImage(ImageError::Foreign(snapshot_image::Feature::Dirty)),
            "the image has inexact refcounts after a crash; it was not made for a snapshot and is left alone; \
             `qemu-img check -r all IMAGE` may repair it",
        );
        check(
            Failure::PeerClosed { sent: 7, source: IoError::from_raw_os_error(32) },
            "the destination closed the connection after 7 bytes: Broken pipe (os error 32)",
        );
        let recover = "; a guest in postcopy-paused can be recovered with --recover";
        for (recoverable, hint) in [(true, recover), (false, "")] {
            check(
                Failure::DestinationFailed { recoverable },
                &format!("the destination reports failure; its own messages say why{hint}"),
            );
            check(
                Failure::DestinationGone { running: true, recoverable },
                &format!("the destination closed the return path{hint}"),
            );
        }
        check(
            Failure::OtherSnapshot { wanted: [0x11; 16], found: None },
            &format!(
                "recovery of snapshot {uuid}: the image's snapshot has no UUID, so it may be another one; two guests must \
                 not mix; --recover names the snapshot that the paused guest was started from"
            ),
        );
        check(
            HostPagesError::Length { block: b"pc.ram".to_vec(), length: 4096, bytes: 8192 }.into(),
            "host page size of block \"pc.ram\": 4096 bytes are not whole host pages of 8192 bytes; \
             --host-page=BLOCK:SIZE gives the destination's",
        );
    }
}
