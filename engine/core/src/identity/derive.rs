//! MAC addresses from a seed, the number of a clone, and the number of a NIC.
//!
//! # The derivation
//!
//! The input is one number of 46 bits: the clone's index (32 bits), then the NIC's number (14 bits),
//! which counts all NICs of the snapshot in the order of their sections. A Feistel network of eight
//! rounds permutes it: with the halves `L` and `R` of 23 bits (`L` the upper one), each round
//! `r = 0..8` is
//!
//! ```text
//! (L, R) := (R, L xor (mix(seed + (r * 2^32 + R + 1) * 0x9e3779b97f4a7c15) mod 2^23))
//! ```
//!
//! all modulo 2^64, where `mix` is the end of `SplitMix64` (Steele, Lea and Flood, "Fast splittable
//! pseudorandom number generators", 2014): `z ^= z >> 30; z *= 0xbf58476d1ce4e5b9; z ^= z >> 27;
//! z *= 0x94d049bb133111eb; z ^= z >> 31`. The 46 bits that come out are those of a locally
//! administered unicast address: the upper six in its first byte, above the two bits that say so.
//!
//! A permutation gives different results for different inputs: under one seed, no two NICs of any
//! clones have the same address. Two addresses under different seeds are equal with a probability
//! of 2^-46.

use super::mac::{FREE_BITS, Mac};

const NIC_BITS: u32 = 14;
/// More NICs than any machine has.
pub(crate) const NIC_LIMIT: usize = 1 << NIC_BITS;
const HALF_BITS: u32 = FREE_BITS / 2;
const HALF: u64 = (1 << HALF_BITS) - 1;
const ROUNDS: u64 = 8;

/// The address of the NIC with this number in the clone with this index.
pub(crate) fn derive(seed: u64, index: u32, nic: usize) -> Mac {
    debug_assert!(nic < NIC_LIMIT);
    Mac::local(permute(seed, u64::from(index) << NIC_BITS | nic as u64))
}

fn permute(seed: u64, number: u64) -> u64 {
    let (mut left, mut right) = (number >> HALF_BITS, number & HALF);
    for round in 0..ROUNDS {
        (left, right) = (right, left ^ scramble(seed, round, right));
    }
    left << HALF_BITS | right
}

fn scramble(seed: u64, round: u64, right: u64) -> u64 {
    let step = (round << 32 | (right + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mix(seed.wrapping_add(step)) & HALF
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Whoever has written an address down finds it again.
    #[test]
    fn addresses_stay_what_they_were() {
        let text = |seed, index, nic| derive(seed, index, nic).to_string();
        assert_eq!(text(0, 0, 0), "4e:aa:a8:8b:8b:7b");
        assert_eq!(text(0, 0, 1), "d6:09:34:d9:f2:b4");
        assert_eq!(text(0, 1, 0), "a6:2f:fe:80:da:4f");
        assert_eq!(text(1, 0, 0), "c6:6d:94:77:db:1b");
        assert_eq!(text(u64::MAX, u32::MAX, NIC_LIMIT - 1), "ce:7f:48:41:e0:a8");
    }

    #[test]
    fn a_thousand_clones_of_four_nics_have_four_thousand_addresses_which_differ_everywhere() {
        let macs: BTreeSet<[u8; 6]> =
            (0..1000).flat_map(|index| (0..4).map(move |nic| derive(7, index, nic).bytes())).collect();
        assert_eq!(macs.len(), 4000);
        let mut ones = [[0u32; 8]; 6];
        for mac in &macs {
            for (byte, counts) in mac.iter().zip(&mut ones) {
                for (bit, count) in counts.iter_mut().enumerate() {
                    *count += u32::from(byte >> bit & 1);
                }
            }
        }
        assert_eq!((ones[0][0], ones[0][1]), (0, 4000), "unicast, locally administered");
        let free = ones.iter().flatten().enumerate().filter(|(at, _)| *at > 1);
        assert!(free.into_iter().all(|(_, count)| (1800..2200).contains(count)), "{ones:?}");
    }

    /// The way back: a permutation loses nothing.
    fn unpermute(seed: u64, number: u64) -> u64 {
        let (mut left, mut right) = (number >> HALF_BITS, number & HALF);
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ scramble(seed, round, left), left);
        }
        left << HALF_BITS | right
    }

    proptest! {
        #[test]
        fn different_numbers_have_different_addresses(seed: u64, number in 0..1u64 << FREE_BITS) {
            let permuted = permute(seed, number);
            prop_assert!(permuted < 1 << FREE_BITS);
            prop_assert_eq!(unpermute(seed, permuted), number);
        }
    }
}
