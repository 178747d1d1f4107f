//! How much of the stream may pile up in the pipe.
//!
//! What is in the pipe is written, as far as the source knows: with all of the rest in there, it
//! takes a save for done that can still fail. But to be woken up for a few pages costs more than
//! the pages do, and far more where others want the processor, too. So much piles up while the end
//! is far, and less and less as it comes nearer.
//!
//! A pipe cannot become smaller than what is in it (`F_SETPIPE_SZ`: EBUSY), and a source that is
//! faster than we are has it full most of the time. So each read takes all there is, the pipe is
//! resized before the source has been woken up, and each size is asked for so early that several
//! attempts can come too late.

use super::intake::INPUT_BYTES;
use crate::machine::Action;
use crate::size::to_usize;
use std::ops::RangeInclusive;

/// What may pile up for each page that is still to come. Even a zero page is 9 bytes, so there is
/// room for a read that has just emptied a larger pipe, and for attempts that failed.
const BYTES_A_PAGE: u64 = 2;
/// One page; and what one read takes, whatever was left of the last one.
const BYTES: RangeInclusive<usize> = 4096..=INPUT_BYTES / 2;

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

    /// No less can pile up.
    pub(super) fn is_at_its_least(&self) -> bool {
        self.bytes == Some(*BYTES.start())
    }

    /// As much as can be when so many pages are still to come, none of which we have seen.
    pub(super) fn before(&mut self, pages: u64) -> Option<Action> {
        let room = to_usize(pages.saturating_mul(BYTES_A_PAGE));
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
            (u64::MAX, Some(1 << 19)),
            (1 << 18, None),
            ((1 << 18) - 1, Some(1 << 18)),
            (1 << 17, None),
            // The source comes back to what it left out.
            (1 << 18, Some(1 << 19)),
            (4096, Some(8192)),
            (4095, Some(4096)),
            (0, None),
            (1 << 18, Some(1 << 19)),
        ] {
            assert_eq!(pile.before(pages), expected.map(|bytes| Action::LimitInput { bytes }), "{pages}");
        }
        assert_eq!(pile.hold(), Some(Action::LimitInput { bytes: 4096 }));
        assert_eq!(pile.hold(), None);
        assert_eq!(pile.before(1 << 20), None, "held back for good");
    }

    /// A source that sends nothing but zero pages, and writes faster than we read: the pipe is full
    /// whenever we look. Every second attempt to make it smaller comes too late.
    #[test]
    fn the_end_is_never_in_the_pipe_even_if_attempts_fail() {
        for pages in [1 << 15, 100_000, 1 << 17, 1 << 20, 1 << 23_u64] {
            let (mut pile, mut size, mut wanted) = (Pile::default(), 64 << 10, None);
            let mut to_come = pages * 9;
            for read in 0.. {
                if let Some(Action::LimitInput { bytes }) = pile.before(to_come / 9) {
                    wanted = Some(bytes);
                }
                assert!(size == *BYTES.start() || to_come > size as u64, "{pages}: {to_come} in {size}");
                if to_come <= size as u64 {
                    break;
                }
                to_come -= size as u64;
                // A larger one is there at once, a smaller one at each second attempt.
                size = wanted.take_if(|wanted| *wanted > size || read % 2 == 1).unwrap_or(size);
            }
            assert_eq!(size, *BYTES.start(), "{pages}");
        }
    }
}
