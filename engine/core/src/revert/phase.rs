//! Where a revert is, with what belongs to that phase only.

use super::metadata::{Image, MetadataReads, OpeningImage};
use super::postcopy::{Postcopy, PostcopySummary};
use super::precopy::Precopy;
use crate::machine::IoId;
use crate::pool::Pool;
use snapshot_image::{HostOffset, Verification};

#[derive(Debug)]
pub(super) enum Phase {
    Open(Box<OpeningImage>),
    Precopy(Box<Image>, Precopy),
    Postcopy(Box<Image>, Box<Postcopy>),
    /// All pages are out; the rest of the image's metadata is verified before the end mark follows.
    Close(Box<Image>, Precopy),
    /// Everything has been handed out; a read of metadata may still be under way.
    Drain(MetadataReads),
    Finished,
}

impl Phase {
    /// The image, where it is open.
    pub(super) fn image(&self) -> Option<&Image> {
        match self {
            Self::Precopy(image, _) | Self::Postcopy(image, _) | Self::Close(image, _) => Some(image),
            Self::Open(_) | Self::Drain(_) | Self::Finished => None,
        }
    }

    /// An operation has ended: the place of the metadata that it read, or block and offset of the pages.
    pub(super) fn done(
        &mut self,
        id: IoId,
        arrived: bool,
        pool: &mut Pool,
    ) -> (Option<HostOffset>, Option<(usize, u64)>) {
        match self {
            Self::Open(opening) => (opening.done(id, arrived, pool), None),
            Self::Precopy(image, precopy) => (image.done(id, arrived, pool), precopy.read_done(id)),
            Self::Postcopy(image, postcopy) => (image.done(id, arrived, pool), postcopy.read_done(id)),
            Self::Close(image, _) => (image.done(id, arrived, pool), None),
            Self::Drain(reads) => (reads.done(id, arrived, pool, |_, _| ()), None),
            Self::Finished => (None, None),
        }
    }

    /// What is under way when nothing more is sent.
    pub(super) fn into_reads(self) -> MetadataReads {
        match self {
            Self::Open(opening) => opening.reads,
            Self::Precopy(image, _) | Self::Postcopy(image, _) | Self::Close(image, _) => image.reads,
            Self::Drain(reads) => reads,
            Self::Finished => MetadataReads::default(),
        }
    }

    /// As [`Progress`](crate::Progress) names it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Precopy(..) => "precopy",
            Self::Postcopy(..) => "postcopy",
            Self::Close(..) => "verify",
            Self::Drain(_) => "close",
            Self::Finished => "end",
        }
    }

    /// How far it is; `before` is how far it was when the image was closed.
    pub(super) fn so_far(&self, before: &Done) -> Done {
        match self {
            Self::Open(_) | Self::Drain(_) | Self::Finished => before.clone(),
            Self::Precopy(image, precopy) | Self::Close(image, precopy) => {
                let layout = image.reader.layout();
                let (normal_pages, zero_pages) = precopy.emitter.counts();
                Done {
                    uuid: image.reader.snapshot().uuid,
                    verification: Some(image.reader.snapshot().verification.clone()),
                    normal_pages,
                    zero_pages,
                    mapped_bytes: precopy.sent.left_out_bytes(layout),
                    done_bytes: precopy.done_pages * u64::from(layout.page_size()),
                    total_bytes: layout.blocks().iter().map(|block| block.used_length).sum::<u64>()
                        - precopy.sent.left_out_bytes(layout),
                    postcopy: None,
                }
            }
            Self::Postcopy(image, postcopy) => {
                let page_bytes = u64::from(image.reader.layout().page_size());
                let (normal_pages, zero_pages) = postcopy.emitter.counts();
                Done {
                    uuid: image.reader.snapshot().uuid,
                    verification: Some(image.reader.snapshot().verification.clone()),
                    normal_pages,
                    zero_pages,
                    mapped_bytes: 0,
                    done_bytes: normal_pages * page_bytes,
                    total_bytes: postcopy.nonzero_pages().max(normal_pages) * page_bytes,
                    postcopy: Some(postcopy.summary()),
                }
            }
        }
    }
}

/// How far it is, or was when it ended.
#[derive(Debug, Default, Clone)]
pub(super) struct Done {
    pub(super) uuid: Option<[u8; 16]>,
    /// Where the image was opened.
    pub(super) verification: Option<Verification>,
    pub(super) normal_pages: u64,
    pub(super) zero_pages: u64,
    pub(super) mapped_bytes: u64,
    pub(super) done_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) postcopy: Option<PostcopySummary>,
}
