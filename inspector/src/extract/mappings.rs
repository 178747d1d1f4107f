//! Virtual addresses and what they are mapped to.

use std::collections::BTreeMap;

/// The most mappings that are kept: as program headers of a core they have 56 MiB.
pub(super) const MAPPINGS_LIMIT: usize = 1 << 20;

/// Consecutive virtual addresses that are mapped to consecutive physical ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) virtual_address: u64,
    pub(super) address: u64,
    pub(super) bytes: u64,
}

/// The mappings of one set of tables, as they come: by virtual address.
#[derive(Debug, Default)]
pub(super) struct Run(Vec<Mapping>);

impl Run {
    /// Adds what follows; false: there are too many.
    pub(super) fn push(&mut self, mapping: Mapping) -> bool {
        if let Some(last) = self.0.last_mut()
            && last.virtual_address.checked_add(last.bytes) == Some(mapping.virtual_address)
            && last.address + last.bytes == mapping.address
        {
            last.bytes += mapping.bytes;
            return true;
        }
        if self.0.len() == MAPPINGS_LIMIT {
            return false;
        }
        self.0.push(mapping);
        true
    }

    /// Adds them to those of other tables, as far as these do not map the same virtual addresses;
    /// false: there are too many.
    pub(super) fn into_mappings(self, all: &mut Mappings) -> bool {
        self.0.into_iter().all(|mapping| all.add(mapping))
    }
}

/// Mappings that do not overlap, by the virtual address of their last byte.
#[derive(Debug, Default)]
pub(super) struct Mappings(BTreeMap<u64, Mapping>);

impl Mappings {
    /// In the order of virtual addresses.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.0.values()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds the parts that are not mapped yet.
    fn add(&mut self, mapping: Mapping) -> bool {
        let mut at = mapping.virtual_address;
        let last = at + (mapping.bytes - 1);
        let covering: Vec<_> = self
            .0
            .range(at..)
            .map(|(&end, there)| (there.virtual_address, end))
            .take_while(|(start, _)| *start <= last)
            .collect();
        for (start, end) in covering {
            if at < start && !self.insert(mapping, at, start - 1) {
                return false;
            }
            let Some(next) = end.checked_add(1) else { return true };
            at = next;
        }
        at > last || self.insert(mapping, at, last)
    }

    fn insert(&mut self, mapping: Mapping, from: u64, last: u64) -> bool {
        let part = Mapping {
            virtual_address: from,
            address: mapping.address + (from - mapping.virtual_address),
            bytes: last - from + 1,
        };
        self.0.insert(last, part);
        self.0.len() <= MAPPINGS_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(virtual_address: u64, address: u64, bytes: u64) -> Mapping {
        Mapping { virtual_address, address, bytes }
    }

    fn all(runs: &[&[Mapping]]) -> Vec<Mapping> {
        let mut all = Mappings::default();
        for mappings in runs {
            let mut run = Run::default();
            assert!(mappings.iter().all(|mapping| run.push(*mapping)) && run.into_mappings(&mut all));
        }
        all.iter().copied().collect()
    }

    #[test]
    fn what_follows_in_both_spaces_is_one_mapping() {
        let pages = [mapping(0, 8, 4), mapping(4, 12, 4), mapping(8, 32, 4), mapping(16, 36, 4)];
        assert_eq!(all(&[&pages]), [mapping(0, 8, 8), mapping(8, 32, 4), mapping(16, 36, 4)]);
        let top = [mapping(u64::MAX - 3, 8, 4)];
        assert_eq!(all(&[&top, &top]), top);
    }

    #[test]
    fn a_second_set_of_tables_adds_what_the_first_does_not_map() {
        let first = [mapping(10, 100, 10), mapping(30, 200, 10)];
        assert_eq!(
            all(&[&first, &[mapping(0, 1000, 50)]]),
            [
                mapping(0, 1000, 10),
                mapping(10, 100, 10),
                mapping(20, 1020, 10),
                mapping(30, 200, 10),
                mapping(40, 1040, 10)
            ]
        );
        assert_eq!(all(&[&first, &[mapping(12, 1000, 4)]]), first);
    }
}
