//! What is wrong with an image, in words for people who do not know that it is one.

use snapshot_engine::{Failure, error_text};
use snapshot_image::ImageError;

/// What an image is that holds no snapshot, or what is wrong with it.
pub(crate) fn image_text(error: &ImageError) -> String {
    match error {
        ImageError::Interrupted => {
            "what an interrupted save of qemu-snapshot has left; there is no snapshot in it".to_owned()
        }
        ImageError::NoVmState => "a qcow2 disk without a snapshot of a VM".to_owned(),
        ImageError::Foreign(what) => format!("a qcow2 disk without a snapshot of a VM (it has {what})"),
        error => error_text(error),
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
    fn the_cause_is_said() {
        let cause = migration_stream::Decoder::new(Default::default()).step(b"not a stream").unwrap_err();
        let text = format!("the snapshot's preamble is wrong: {cause}");
        assert_eq!(image_text(&ImageError::Leader(cause)), text);
        assert_eq!(image_text(&ImageError::TooShort { found: 3 }), "not a qcow2 image: 3 bytes long");
        assert_eq!(failure_text(&Failure::Interrupted), error_text(&Failure::Interrupted));
    }
}
