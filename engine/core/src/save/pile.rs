//! How much of the stream may pile up in the pipe.
//!
//! What is in the pipe is written, as far as the source knows: with all of the rest in there, it takes a save for done that can
//! still fail. But to be woken up for a few pages costs more than the pages do, and far more where others want the processor, too. So
//! much piles up while the end is far, and less and less as it comes nearer.

use super::intake::INPUT_BYTES;
use crate::machine::Action;
use std::ops::RangeInclusive;

/// What may pile up for each page that is still to come. Even a zero page is 9 bytes: so the end cannot be in the pipe, not even
/// when half as much more has just been read and counts as still to come.
const BYTES_A_PAGE: u64 = 6;
/// One page, and the most that the kernel gives to everyone (`fs.pipe-max-size`).
const BYTES: RangeInclusive<usize> = 4096..=1 << 20;

/// What was asked for.
#[derive(Debug, Default)]
pub(super) struct Pile {
    bytes: Option<usize>,
    held: bool,
}

impl Pile {
    /// From now on, what the source has written is what we have read.
    pub(super) fn hold(&mut self) -> Option<Action> {
        let action = self.limit(*BYTES.start());
        self.held = true;
        action
    }

    /// The most that is read at once.
    pub(super) fn read_bytes(&self) -> usize {
        self.bytes.map_or(INPUT_BYTES, |bytes| (bytes / 2).max(*BYTES.start()))
    }

    /// As much as can be when so many pages are still to come, none of which we have seen.
    pub(super) fn before(&mut self, pages: u64) -> Option<Action> {
        let room = usize::try_from(pages.saturating_mul(BYTES_A_PAGE)).unwrap_or(usize::MAX);
        // A power of two, as pipes have it.
        self.limit(1 << room.clamp(*BYTES.start(), *BYTES.end()).ilog2())
    }

    /// Asks for it once; who is held back stays so.
    fn limit(&mut self, bytes: usize) -> Option<Action> {
        let stays = self.held || self.bytes == Some(bytes);
        (!stays).then(|| Action::LimitInput { bytes: *self.bytes.insert(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_the_end_the_less_piles_up() {
        let mut pile = Pile::default();
        for (pages, expected) in [
            (u64::MAX, Some(1 << 20)),
            (174_763, None),
            (174_762, Some(1 << 19)),
            (1 << 17, None),
            // The source comes back to what it left out.
            (1 << 18, Some(1 << 20)),
            (1366, Some(8192)),
            (1365, Some(4096)),
            (0, None),
            (1 << 18, Some(1 << 20)),
        ] {
            assert_eq!(pile.before(pages), expected.map(|bytes| Action::LimitInput { bytes }), "{pages}");
        }
        assert_eq!(pile.hold(), Some(Action::LimitInput { bytes: 4096 }));
        assert_eq!(pile.hold(), None);
        assert_eq!(pile.before(1 << 20), None, "held back for good");
    }

    #[test]
    fn what_piles_up_and_what_was_read_is_never_all_that_is_to_come() {
        for pages in (1024..1 << 20).step_by(97) {
            let mut pile = Pile::default();
            let Some(Action::LimitInput { bytes }) = pile.before(pages) else { panic!("{pages}") };
            assert!((bytes + pile.read_bytes()) as u64 <= pages * 9, "{pages}: {bytes}");
        }
    }
}
