//! How much of what no one waits for may be ahead of a page that is asked for.
//!
//! Large pieces bring all of RAM sooner: each one costs a section, a system call and a wake-up at
//! the destination. Small ones bring a requested page sooner. A guest that goes through its memory
//! in order, or asks for nothing, gains by large ones; one that touches it at random, by small
//! ones. So this looks at where requests come from, as a file system's read-ahead does.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// Handed out at once, in bytes: from the least to the most.
const BATCH_BYTES: RangeInclusive<u64> = 4 << 10..=64 << 10;
/// The same before anything is known.
const FIRST_BATCH_BYTES: u64 = 16 << 10;
/// What may pile up between us and the destination, in bytes, with small pieces and with large ones.
const PILE_BYTES: RangeInclusive<usize> = 16 << 10..=64 << 10;
/// A request is in order if it is up to so many bytes behind a recent one.
const IN_ORDER_BYTES: u64 = 256 << 10;
/// Requests that are remembered: a guest may go through its memory at several places.
const RECENT: usize = 16;
/// A guest that has not asked for anything while so many bytes were sent asks rarely.
const QUIET_BYTES: u64 = 1 << 20;

/// See the module's words.
#[derive(Debug)]
pub(crate) struct Pace {
    batch: u64,
    pile: usize,
    /// Bytes sent since the last request.
    quiet: u64,
    /// Numbers of host pages, the latest last.
    recent: VecDeque<u64>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { batch: FIRST_BATCH_BYTES, pile: *PILE_BYTES.start(), quiet: 0, recent: VecDeque::new() }
    }
}

impl Pace {
    /// How much is handed out at once, and while the driver has less than that.
    pub(crate) fn batch_bytes(&self) -> u64 {
        self.batch
    }

    /// What may pile up on the way to the destination.
    pub(crate) fn pile_bytes(&self) -> usize {
        self.pile
    }

    /// The destination waits for host page number `page`, of `bytes` bytes.
    pub(crate) fn requested(&mut self, page: u64, bytes: u64) {
        self.quiet = 0;
        let reach = (IN_ORDER_BYTES / bytes).max(1);
        let behind = |recent: &u64| (*recent..=recent.saturating_add(reach)).contains(&page);
        let (least, most) = (*BATCH_BYTES.start(), *BATCH_BYTES.end());
        if let Some(at) = self.recent.iter().rposition(behind) {
            self.recent.remove(at);
            self.batch = (self.batch * 2).min(most);
        } else {
            self.batch = (self.batch / 2).max(least);
        }
        self.recent.push_back(page);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    /// So many bytes were sent that no one waits for.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.quiet = self.quiet.saturating_add(bytes);
        if self.quiet >= QUIET_BYTES {
            self.batch = *BATCH_BYTES.end();
        }
    }

    /// What may pile up from now on, if that has changed.
    pub(crate) fn change_of_pile(&mut self) -> Option<usize> {
        // Between the two ends it stays what it was: to change it is a system call.
        let pile = match self.batch {
            batch if batch == *BATCH_BYTES.start() => *PILE_BYTES.start(),
            batch if batch == *BATCH_BYTES.end() => *PILE_BYTES.end(),
            _ => self.pile,
        };
        (std::mem::replace(&mut self.pile, pile) != pile).then_some(pile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    #[test]
    fn a_guest_that_goes_in_order_gets_large_pieces() {
        let mut pace = Pace::default();
        pace.requested(70_000, PAGE);
        for page in [1000, 1016, 1017, 1081] {
            pace.requested(page, PAGE);
        }
        assert_eq!((pace.batch_bytes(), pace.change_of_pile()), (32 << 10, None));
        pace.requested(1100, PAGE);
        assert_eq!((pace.batch_bytes(), pace.change_of_pile()), (64 << 10, Some(64 << 10)));
        pace.requested(1099, PAGE);
        assert_eq!(
            (pace.batch_bytes(), pace.change_of_pile()),
            (32 << 10, None),
            "backwards is not in order"
        );
    }

    #[test]
    fn a_guest_that_touches_memory_at_random_gets_small_pieces() {
        let mut pace = Pace::default();
        pace.sent(QUIET_BYTES);
        assert_eq!((pace.batch_bytes(), pace.change_of_pile()), (64 << 10, Some(64 << 10)));
        for number in 1..100_u64 {
            pace.requested(number * 7919 % 131_072, PAGE);
        }
        assert_eq!((pace.batch_bytes(), pace.change_of_pile()), (4 << 10, Some(16 << 10)));
        pace.sent(QUIET_BYTES - 1);
        assert_eq!(pace.batch_bytes(), 4 << 10);
    }

    #[test]
    fn it_follows_several_places_at_once_and_remembers_few() {
        let mut pace = Pace::default();
        for step in 0..10 {
            for place in 0..RECENT as u64 {
                pace.requested(place * 10_000 + step, PAGE);
            }
        }
        assert_eq!(pace.batch_bytes(), 64 << 10);
        assert_eq!(pace.recent.len(), RECENT);
    }

    #[test]
    fn large_host_pages_are_in_order_one_after_another() {
        let mut pace = Pace::default();
        pace.requested(5, 1 << 30);
        pace.requested(6, 1 << 30);
        assert_eq!(pace.batch_bytes(), FIRST_BATCH_BYTES);
        pace.requested(8, 1 << 30);
        assert_eq!(pace.batch_bytes(), FIRST_BATCH_BYTES / 2);
    }
}
