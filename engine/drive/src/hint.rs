//! What a user of this program can do about a failure: the engine's errors name none of its options.

use crate::mapped::NotMapped;
use snapshot_engine::identity::IdentityError;
use snapshot_engine::{Failure, HostPagesError, Unsupported};
use snapshot_image::{Feature, ImageError};

/// What can be done, if something can: it goes behind the failure's own text.
pub(crate) fn hint(failure: &Failure) -> Option<String> {
    let hint = match failure {
        Failure::SnapshotExists { .. } | Failure::InterruptedThenWritten => "--overwrite replaces it",
        Failure::Unsupported(Unsupported::NoVmdesc) => "a source with suppress-vmdesc=on needs --no-vmdesc",
        Failure::Stream(error) if error.kind.may_be_of_page_size() => "is --page-size right?",
        Failure::Stream(error) if error.kind.is_ram_limit() => "--max-ram sets the limit",
        Failure::Silent { .. } => "--timeout sets how long it may be",
        Failure::NoReturnPath => "exec: (stdin), a socket and unix: have one",
        Failure::DestinationFailed { recoverable: true }
        | Failure::DestinationGone { recoverable: true, .. } => {
            "a guest in postcopy-paused can be recovered with --recover"
        }
        Failure::OtherSnapshot { .. } => {
            "--recover names the snapshot that the paused guest was started from"
        }
        Failure::HostPages(HostPagesError::UnknownBlock { .. }) => "--host-page=BLOCK:SIZE names a RAM block",
        Failure::Identity(error) => identity_hint(error)?,
        Failure::HostPages(_) => "--host-page=BLOCK:SIZE gives the destination's",
        Failure::WrongImage(error) if is_damage(error) => {
            "`snapinspect check IMAGE` lists all damage; revert from a copy, or save again"
        }
        Failure::Refused(error) => return error.downcast_ref::<NotMapped>()?.hint().map(str::to_owned),
        Failure::WrongImage(ImageError::Unverifiable(_)) => "--unverified reads it without checks",
        Failure::WrongImage(error) | Failure::UnfitImage(error) => return image_hint(error),
        _ => return None,
    };
    Some(hint.to_owned())
}

/// What can be ordered instead for NICs.
fn identity_hint(error: &IdentityError) -> Option<&'static str> {
    Some(match error {
        IdentityError::NoVmdesc | IdentityError::Sections(_) => {
            "--keep-identity reverts with the MACs as they are"
        }
        IdentityError::Undecided { .. } => {
            "--mac=DEVICE=MAC, --new-identity or --keep-identity=DEVICE decides"
        }
        IdentityError::Unproved { .. } => "--keep-identity=DEVICE reverts with the MAC as it is",
        IdentityError::OfTheDestination { .. } => {
            "--mac=DEVICE=MAC names it, --keep-identity=DEVICE keeps the saved one"
        }
        _ => return None,
    })
}

/// What `qemu-img` can do for an image that it made.
fn image_hint(error: &ImageError) -> Option<String> {
    Some(match error {
        ImageError::Version { .. } => "`qemu-img amend -o compat=1.1 IMAGE` converts it".to_owned(),
        ImageError::TooSmall { needed, .. } => {
            format!("`qemu-img create -o size={needed}` makes one that fits")
        }
        ImageError::Foreign(Feature::Corrupt | Feature::Dirty) => {
            "`qemu-img check -r all IMAGE` may repair it".to_owned()
        }
        _ => return None,
    })
}

/// Whether bytes of a snapshot are not what was written; any other error is about an image that is
/// whole, or something else.
pub(crate) fn is_damage(error: &ImageError) -> bool {
    matches!(
        error,
        ImageError::Damaged { .. }
            | ImageError::Checksum { .. }
            | ImageError::Page { .. }
            | ImageError::Value { .. }
            | ImageError::NotLinear { .. }
            | ImageError::Leader(_)
    )
}
