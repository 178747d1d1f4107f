//! What is wrong with an image, and which option of this program helps: the libraries name none.

use snapshot_engine::{Failure, error_text};
use snapshot_image::{Feature, ImageError};

/// What an image is that holds no snapshot, or what is wrong with it, and what can be done about it.
pub(crate) fn image_text(error: &ImageError) -> String {
    let text = match error {
        ImageError::Interrupted => {
            "what an interrupted save of qemu-snapshot has left; there is no snapshot in it".to_owned()
        }
        ImageError::NoVmState => "a qcow2 disk without a snapshot of a VM".to_owned(),
        ImageError::Foreign(what) => format!("a qcow2 disk without a snapshot of a VM (it has {what})"),
        error => error_text(error),
    };
    match error {
        ImageError::Unverifiable(_) => format!("{text}; --unverified reads it without checks"),
        ImageError::Foreign(Feature::Corrupt | Feature::Dirty) => {
            format!("{text}; `qemu-img check -r all IMAGE` may repair it")
        }
        _ => text,
    }
}

/// Why the snapshot of an image cannot be read as a revert reads it.
pub(crate) fn failure_text(failure: &Failure) -> String {
    match failure {
        Failure::WrongImage(error) => image_text(error),
        failure => error_text(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_is_said_behind_what_is_wrong() {
        let doubt = ImageError::Unverifiable("the header's checksum does not fit");
        let text = "changed by another program, or damaged: the header's checksum does not fit; \
                    --unverified reads it without checks";
        assert_eq!(image_text(&doubt), text);
        assert_eq!(failure_text(&Failure::WrongImage(doubt)), text);
        assert_eq!(image_text(&ImageError::TooShort { found: 3 }), "not a qcow2 image: 3 bytes long");
        assert_eq!(failure_text(&Failure::Interrupted), error_text(&Failure::Interrupted));
    }

    #[test]
    fn the_cause_is_said() {
        let cause = migration_stream::Decoder::new(Default::default()).step(b"not a stream").unwrap_err();
        let text = format!("the snapshot's preamble is wrong: {cause}");
        assert_eq!(image_text(&ImageError::Leader(cause)), text);
    }
}
