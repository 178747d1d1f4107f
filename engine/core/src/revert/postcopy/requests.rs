//! What the destination waits for, in memory that does not grow with what it asks.

use super::host_pages::HostPage;
use crate::bits::Bits;
use crate::memory::OutOfMemory;
use std::collections::VecDeque;
use std::ops::Range;

/// Requests that are kept in the order in which they came: a destination has one per thread that
/// waits. Of more than these only the set is kept.
const IN_ORDER: usize = 4096;

/// Requested host pages that are not sent yet.
#[derive(Debug)]
pub(crate) struct Requests {
    in_order: VecDeque<Range<u64>>,
    rest: Bits,
}

impl Requests {
    pub(crate) fn new(total: u64) -> Result<Self, OutOfMemory> {
        Ok(Self { in_order: VecDeque::new(), rest: Bits::new(total)? })
    }

    /// The destination wants these.
    pub(crate) fn push(&mut self, pages: Range<u64>) -> Result<(), OutOfMemory> {
        if self.in_order.len() < IN_ORDER {
            self.in_order.push_back(pages);
            return Ok(());
        }
        self.rest.insert_all(pages)
    }

    /// The next one that is not in `sent`.
    pub(crate) fn pop(&mut self, sent: &Bits) -> Option<HostPage> {
        while let Some(range) = self.in_order.front_mut() {
            match sent.next_missing(range.start).filter(|&page| page < range.end) {
                Some(page) => {
                    range.start = page + 1;
                    return Some(HostPage(page));
                }
                None => {
                    self.in_order.pop_front();
                }
            }
        }
        while let Some(page) = self.rest.next_present(0) {
            self.rest.remove(page);
            if !sent.has(page) {
                return Some(HostPage(page));
            }
        }
        None
    }

    /// A page that [`pop`](Self::pop) gave cannot be looked at yet.
    pub(crate) fn put_back(&mut self, page: HostPage) {
        self.in_order.push_front(page.0..page.0 + 1);
    }

    /// Nothing is waited for, or what is has been sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_order.is_empty() && self.rest.count() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_what_was_sent_is_skipped() {
        let mut requests = Requests::new(100).unwrap();
        requests.push(50..53).unwrap();
        requests.push(7..8).unwrap();
        requests.push(51..52).unwrap();
        let mut sent = Bits::new(100).unwrap();
        sent.insert(52).unwrap();
        let mut next = |sent: &mut Bits| {
            let page = requests.pop(sent)?;
            sent.insert(page.0).unwrap();
            Some(page.0)
        };
        let order: Vec<u64> = std::iter::from_fn(|| next(&mut sent)).collect();
        assert_eq!(order, [50, 51, 7]);
    }

    #[test]
    fn a_page_that_was_put_back_is_the_next_one() {
        let mut requests = Requests::new(10).unwrap();
        requests.push(3..5).unwrap();
        let sent = Bits::new(10).unwrap();
        let page = requests.pop(&sent).unwrap();
        assert_eq!(page, HostPage(3));
        requests.put_back(page);
        assert_eq!(requests.pop(&sent), Some(HostPage(3)));
        assert!(!requests.is_empty());
        assert_eq!(requests.pop(&sent), Some(HostPage(4)));
        assert_eq!(requests.pop(&sent), None);
        assert!(requests.is_empty());
    }

    #[test]
    fn a_flood_is_answered_in_bounded_memory() {
        let total = 200_000;
        let mut requests = Requests::new(total).unwrap();
        for round in 0..3 {
            for page in 0..total {
                requests.push((page * 7 + round) % total..(page * 7 + round) % total + 1).unwrap();
            }
        }
        assert_eq!(requests.in_order.len(), IN_ORDER);
        assert!(!requests.is_empty());
        let mut sent = Bits::new(total).unwrap();
        let mut count = 0;
        while let Some(page) = requests.pop(&sent) {
            assert!(sent.insert(page.0).unwrap());
            count += 1;
        }
        assert_eq!(count, total);
        assert!(requests.is_empty());
    }
}
