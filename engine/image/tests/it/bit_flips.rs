//! One bit of an image is wrong: a reader refuses it, or reads what was saved.

use crate::bed::{Content, File, Places, content, inspect, read, write, write_linear};
use snapshot_image::{Geometry, Inspection, Verification};

fn small() -> Geometry {
    Geometry::new(64 << 10, 16).unwrap()
}

/// Flips that were noticed, and flips that did not matter.
#[derive(Debug, Default)]
struct Tally {
    noticed: u64,
    harmless: u64,
}

fn try_flips(content: &Content, file: &File, bits: impl Iterator<Item = u64>) -> Tally {
    let mut tally = Tally::default();
    let mut file = file.clone();
    for bit in bits {
        file.flip(bit);
        match read(&file, false) {
            Ok((found, verification)) => {
                assert!(found == *content, "bit {bit}: read something else");
                assert_eq!(verification, Verification::Verified, "bit {bit}");
                tally.harmless += 1;
            }
            Err(_) => tally.noticed += 1,
        }
        let inspected = inspect(&file);
        assert!(!matches!(inspected, Ok(Inspection::Empty(_))), "bit {bit}: taken for empty space");
        file.flip(bit);
    }
    tally
}

#[test]
fn each_flipped_bit_of_what_counts_is_noticed() {
    for (third, write) in [
        (&b""[..], write as fn(&Content, Geometry) -> File),
        (b"PART of something", write),
        (b"PART of something", write_linear),
    ] {
        let content = content(third);
        let file = write(&content, small());
        for part in Places::of(&file).parts {
            // Reading does not depend on refcounts, yet their checksums are in the root; a page's
            // every bit counts.
            let step = (part.length * 8 / 400).max(1) | 1;
            let bits = (part.at * 8..(part.at + part.length) * 8).step_by(usize::try_from(step).unwrap());
            let tally = try_flips(&content, &file, bits);
            assert_eq!(tally.harmless, 0, "{part:?}");
            assert!(tally.noticed > 50, "{part:?}: {tally:?}");
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_or_harmless() {
    let content = content(b"");
    let file = write(&content, small());
    let bits = file.length() * 8;
    // A step that has no factor in common with the sizes of things.
    let tally = try_flips(&content, &file, (0..bits).step_by(997));
    assert!(tally.noticed > 500 && tally.harmless > 500, "{tally:?}");
}

/// Every bit of two whole images, 6.8 million each, or one of `FLIP_STEP` of these: nightly.
#[test]
#[ignore = "takes an hour"]
#[allow(clippy::disallowed_methods, reason = "the environment says how much the test does")]
fn every_flipped_bit_is_noticed_or_harmless() {
    let step = std::env::var("FLIP_STEP").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for third in [&b""[..], b"PART of something"] {
        let content = content(third);
        let file = write(&content, small());
        let tally = try_flips(&content, &file, (0..file.length() * 8).step_by(step));
        println!("{} bytes of image: {tally:?}", file.length());
        assert!(tally.noticed > 1_000_000 / step as u64, "{tally:?}");
    }
}
