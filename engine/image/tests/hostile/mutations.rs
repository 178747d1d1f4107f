//! Any change anywhere: with honest checksums it is noticed or does not matter, with forged ones it
//! does no harm.

use super::{RIGHT, said, sample};
use crate::bed::{File, Part, Places, inspect, read};
use proptest::prelude::*;
use proptest::sample::Index;
use snapshot_image::{Inspection, Verification};

/// One change to a structure.
#[derive(Debug, Clone)]
enum Mutation {
    Byte(Index, Index, u8),
    Field32(Index, Index, u32),
    Field64(Index, Index, u64),
    /// One part's bytes over another's.
    Copy(Index, Index),
    /// Two entries of a table change places.
    Swap(Index, Index, Index),
    /// The file ends here.
    Truncate(Index),
}

/// Values at which arithmetic or a limit breaks, if anything does.
fn number() -> impl Strategy<Value = u64> {
    let place = prop_oneof![Just(0u64), (0u64..16).prop_map(|cluster| cluster << 16), any::<u64>()];
    prop_oneof![
        any::<u64>(),
        (0u32..64, -1i64..2).prop_map(|(bit, more)| (1u64 << bit).wrapping_add_signed(more)),
        (place, prop_oneof![Just(0u64), Just(1 << 63), Just(1), Just(1 << 62)])
            .prop_map(|(at, flags)| at | flags),
    ]
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        (at(), at(), any::<u8>()).prop_map(|(part, offset, value)| Mutation::Byte(part, offset, value)),
        (at(), at(), number()).prop_map(|(part, offset, value)| Mutation::Field32(
            part,
            offset,
            u32::try_from(value >> 32 ^ value & 0xffff_ffff).unwrap_or(u32::MAX)
        )),
        (at(), at(), number()).prop_map(|(part, offset, value)| Mutation::Field64(part, offset, value)),
        (at(), at()).prop_map(|(from, to)| Mutation::Copy(from, to)),
        (at(), at(), at()).prop_map(|(part, one, other)| Mutation::Swap(part, one, other)),
        at().prop_map(Mutation::Truncate),
    ]
}

fn apply(mutation: &Mutation, file: &mut File, places: &Places) {
    // All fields are at multiples of four in their structures.
    let field = |part: &Part, offset: &Index, size: u64| {
        part.at + offset.index(usize::try_from(part.length.saturating_sub(size) / 4 + 1).unwrap()) as u64 * 4
    };
    match mutation {
        Mutation::Byte(part, offset, value) => {
            let part = part.get(&places.parts);
            file.write(part.at + offset.index(usize::try_from(part.length).unwrap()) as u64, &[*value]);
        }
        Mutation::Field32(part, offset, value) => {
            let at = field(part.get(&places.parts), offset, 4);
            file.put_be32(at, *value);
        }
        Mutation::Field64(part, offset, value) => {
            let at = field(part.get(&places.parts), offset, 8);
            file.put_be64(at, *value);
        }
        Mutation::Copy(from, to) => {
            let (from, to) = (from.get(&places.parts), to.get(&places.parts));
            let mut bytes = file.read_part(from);
            bytes.truncate(usize::try_from(to.length).unwrap());
            file.write(to.at, &bytes);
        }
        Mutation::Swap(part, one, other) => {
            let part = part.get(&places.parts);
            let (one, other) = (field(part, one, 8), field(part, other, 8));
            let (first, second) = (file.be64(one), file.be64(other));
            file.put_be64(one, second);
            file.put_be64(other, first);
        }
        Mutation::Truncate(at) => {
            let length = at.index(usize::try_from(file.length()).unwrap() + 1) as u64;
            file.set_length(length);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_image_is_refused_or_read_right(mutations in prop::collection::vec(mutation(), 1..4)) {
        let (content, mut file, places) = sample();
        mutations.iter().for_each(|mutation| apply(mutation, &mut file, &places));
        match read(&file, false) {
            Ok((found, Verification::Verified)) => prop_assert!(found == content, "{:?}", mutations),
            // Extension and feature bit both gone: it looks like an image of the original tool, and
            // it is said that nothing could be verified.
            Ok((_, Verification::Unverified(why))) => {
                prop_assert_eq!(why, "it was saved by a tool that makes no checksums");
                prop_assert!(mutations.len() > 1);
            }
            Err(_) => {}
        }
        inspect(&file).ok();
    }

    #[test]
    fn a_changed_snapshot_is_not_taken_for_empty_space(mutation in mutation()) {
        let (_, mut file, places) = sample();
        apply(&mutation, &mut file, &places);
        prop_assert!(!matches!(inspect(&file), Ok(Inspection::Empty(_))), "{:?}", mutation);
    }

    #[test]
    fn a_forged_image_does_no_harm(
        mutations in prop::collection::vec(mutation(), 1..4), allow_unverified in any::<bool>()
    ) {
        let (content, mut file, places) = sample();
        mutations.iter().for_each(|mutation| apply(mutation, &mut file, &places));
        places.forge(&mut file);
        // What it holds now is the forger's; that reading it ends, and where it reads, is what counts.
        said(&file, &content, allow_unverified);
        // The same without checksums at all, as in an image of the original tool.
        file.write(312, &[0; 64]);
        file.put_be64(88, 0);
        let [_, unverified] = said(&file, &content, allow_unverified);
        prop_assert!(unverified != RIGHT, "nothing there can be verified");
    }
}
