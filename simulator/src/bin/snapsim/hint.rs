//! What a user of this program can do about an error: the library's errors name none of its options.

use snapshot_engine::error_text;
use vm_simulator::real::{DigestError, Error};

/// The error with its causes, and what can be done, if something can.
pub(crate) fn text(error: &Error) -> String {
    with(error_text(error), hint(error))
}

/// As [`text`], of a digest that cannot be read.
pub(crate) fn digest_text(error: &DigestError) -> String {
    let hint = matches!(error, DigestError::TooManyPages { .. }).then_some("--max-ram sets the limit");
    with(error.to_string(), hint)
}

fn with(text: String, hint: Option<&str>) -> String {
    match hint {
        Some(hint) => format!("{text}; {hint}"),
        None => text,
    }
}

fn hint(error: &Error) -> Option<&'static str> {
    match error {
        Error::Userfaultfd(_) | Error::Snapshot(background_snapshot::Error::Userfaultfd { .. }) => Some(
            "run as root, give CAP_SYS_PTRACE, or set sysctl vm.unprivileged_userfaultfd=1; the simulated world, \
             snapsim explore, works without",
        ),
        Error::Stream(error) if error.kind.is_ram_limit() => Some("--max-ram sets the limit"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use migration_stream::{
        Options, SectionHeader, SectionId, SliceReader, put_file_header, put_section_header,
    };
    use std::io;

    #[test]
    fn what_helps_is_behind_the_error_and_its_cause() {
        let refused = || io::Error::from_raw_os_error(1);
        let expected = "userfaultfd: Operation not permitted (os error 1); run as root, give CAP_SYS_PTRACE, or set \
                        sysctl vm.unprivileged_userfaultfd=1; the simulated world, snapsim explore, works without";
        assert_eq!(text(&Error::Userfaultfd(refused())), expected);
        let snapshot = background_snapshot::Error::Userfaultfd { source: refused() };
        assert_eq!(text(&Error::Snapshot(snapshot)), expected);
        let error = Error::Io { step: "connect", source: refused() };
        assert_eq!(text(&error), "connect: Operation not permitted (os error 1)");
        let error = DigestError::TooManyPages { line: 7, limit: 8 };
        assert_eq!(digest_text(&error), "line 7: more than 8 pages; --max-ram sets the limit");
        assert_eq!(digest_text(&DigestError::Head), DigestError::Head.to_string());
    }

    #[test]
    fn a_stream_with_more_ram_than_is_allowed_names_the_option() {
        let mut stream = Vec::new();
        put_file_header(&mut stream);
        let header = SectionHeader { section_id: SectionId(2), idstr: b"ram", instance_id: 0, version_id: 4 };
        put_section_header(&mut stream, false, &header);
        // RAM_SAVE_FLAG_MEM_SIZE, with the sum of all blocks.
        stream.extend_from_slice(&0x8004_u64.to_be_bytes());
        let mut options = Options::default();
        options.max_ram_bytes = 0x4000;
        let mut reader = SliceReader::new(&stream, options);
        let error = loop {
            match reader.advance() {
                Ok(entry) => assert!(entry.is_some(), "the list is refused before its end"),
                Err(error) => break error,
            }
        };
        let expected = format!("{error}; --max-ram sets the limit");
        assert_eq!(text(&Error::Stream(error)), expected);
    }
}
