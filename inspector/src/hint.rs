//! Which option of this program helps: the library's errors and findings name none.

use crate::advice::Advice;
use crate::error::Error;
use crate::presence::Presence;
use crate::walk::Finding;

/// An error with its causes, and what can be done about it.
#[must_use]
pub fn error_text(error: &Error) -> String {
    with(snapshot_engine::error_text(error), error.advice().as_ref())
}

/// What a finding says, without its place, and what can be done about it.
pub(crate) fn finding_text(finding: &Finding) -> String {
    with(finding.text.clone(), finding.advice.as_ref())
}

/// Why a block is not in the input, and what can be done about it.
pub(crate) fn presence_text(presence: Presence) -> String {
    with(presence.reason().to_owned(), presence.advice().as_ref())
}

/// A text, and what can be done.
pub(crate) fn with(text: String, advice: Option<&Advice>) -> String {
    match advice {
        Some(advice) => format!("{text}; {}", words(advice)),
        None => text,
    }
}

fn words(advice: &Advice) -> String {
    let words = match advice {
        Advice::PageSize => "is --page-size right?",
        Advice::RamLimit => "--max-ram sets it",
        Advice::UnpackLimit => "--max-unpacked sets the limit",
        Advice::Channels => "--channel adds them",
        Advice::Salvage => "snapinspect convert --salvage takes the pages from their places",
        Advice::Unverified => "--unverified reads it without checks",
        Advice::Repair => "`qemu-img check -r all IMAGE` may repair it",
        Advice::ChooseSnapshot => "--snapshot chooses one",
        Advice::Replace => "--force replaces it",
        Advice::SingleBlocks => "use --block",
        Advice::NodeOrder => "give the blocks of main RAM in the order of -numa: --nodes NAME,NAME",
        Advice::PhysicalAddresses => "use --core without --virtual",
        Advice::PlaceBlock(block) => {
            return format!(
                "give each, as QEMU's query-memory-devices reports it: --place {block}=ADDRESS, or leave it out: \
                 --place {block}=none"
            );
        }
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SourceError;
    use snapshot_engine::Failure;
    use snapshot_image::ImageError;
    use std::io;

    #[test]
    fn what_helps_is_said_behind_what_is_wrong() {
        let doubt = || ImageError::Unverifiable("the header's checksum does not fit");
        let text = "changed by another program, or damaged: the header's checksum does not fit";
        let error = Error::Wrong(text.to_owned()).advised(Advice::of_image(&doubt()));
        assert_eq!(error.to_string(), text);
        assert_eq!(error.exit_status(), 1);
        assert_eq!(error_text(&error), format!("{text}; --unverified reads it without checks"));
        let source = SourceError::Revert(Box::new(Failure::WrongImage(doubt())));
        assert_eq!(source.to_string(), text);
        let error = Error::io("vm.qcow2: offset 0x0")(io::Error::from(source));
        let hint = "; --unverified reads it without checks";
        assert_eq!(error_text(&error), format!("vm.qcow2: offset 0x0: {text}{hint}"));
    }

    #[test]
    fn no_error_without_advice_has_a_hint() {
        let error = Error::Usage("nothing".to_owned());
        assert_eq!(error_text(&error), "nothing");
        assert_eq!(error_text(&error.advised(None)), "nothing");
    }
}
