//! A delta does no harm: no panic, whatever it is; and `decode(encode(old, new))` makes `new` of `old`.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use migration_stream::{compressed, xbzrle};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    page_bits: u8,
    /// Pages that are like each other: the second is the first with changes.
    fill: u8,
    changes: Vec<(u16, u8)>,
    delta: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let size = 1usize << (10 + input.page_bits % 7);
    let old: Vec<u8> = (0..size).map(|at| (at / 251).to_le_bytes()[0] ^ input.fill).collect();
    let mut new = old.clone();
    for (at, value) in &input.changes {
        new[usize::from(*at) % size] = *value;
    }
    let delta = xbzrle::encode(&old, &new);
    let mut page = old.clone();
    if size <= 1 << 14 {
        // Two bytes of a number reach as far as that.
        xbzrle::decode(&delta, &mut page).expect("our own delta");
        assert!(page == new);
    }
    // What an error leaves does not count; that nothing behind the page is touched is the compiler's word.
    if xbzrle::decode(input.delta, &mut page).is_ok() {
        assert_eq!(page.len(), size);
    }
    let _ = compressed::inflate(input.delta, &mut page);
});
