//! For all tails.

use super::tail::{DeviceBuilder, Made, e1000, e1000e, filler, igb, rtl8139, virtio_net, vmxnet3};
use super::{IdentityConfig, Mac, Others, nics, rewrite};
use proptest::prelude::*;

fn a_mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_filter_map("no MAC of one NIC", Mac::new)
}

fn a_device() -> impl Strategy<Value = DeviceBuilder> {
    let place = "0000:00:[0-9a-f]{2}\\.[0-7]";
    (place, a_mac(), 0..9, any::<(bool, u8)>()).prop_map(|(place, mac, kind, (switch, number))| match kind {
        0 => rtl8139(&place, mac),
        1 => e1000(&place, mac, switch),
        2 => e1000e(&place, mac),
        3 => igb(&place, mac, &[]),
        4 => vmxnet3(&place, mac, true),
        5 => virtio_net(&place, mac, 256, usize::from(number), switch),
        6 => virtio_net(&place, mac, 4096, usize::from(number), switch),
        7 => virtio_net("virtio-mmio@0a003e00", mac, 0, 0, switch),
        _ => filler(number),
    })
}

/// All NICs are kept but those that can have derived addresses.
fn config(tail: &[u8], made: &Made, seed: u64) -> Option<IdentityConfig> {
    let nics = nics::nics(tail, &made.decoder).ok()?;
    let kept = nics.iter().filter(|nic| nic.card.as_ref().map_or(true, |card| card.of_the_destination));
    let keep = kept.map(|nic| nic.device.clone()).collect();
    Some(IdentityConfig { macs: Vec::new(), keep, others: Others::Derive { seed, index: 0 } })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a tail has, bytes outside the places of addresses and checksums are as before, and a
    /// second rewrite finds exactly what the first one wrote.
    #[test]
    fn only_addresses_change(devices in prop::collection::vec(a_device(), 0..5), seed: u64) {
        let made = Made::of(&devices);
        let Some(config) = config(&made.tail, &made, seed) else { return Err(TestCaseError::fail("NICs")) };
        let mut after = made.tail.clone();
        let Ok(assigned) = rewrite(&mut after, &made.decoder, &config) else {
            // Two sections of one name, or two NICs of one address.
            return Err(TestCaseError::reject("ambiguous"));
        };
        prop_assert_eq!(&after[made.eof..], &made.tail[made.eof..]);
        let before = nics::nics(&made.tail, &made.decoder).unwrap();
        let found = nics::nics(&after, &made.decoder).unwrap();
        let mut new = assigned.iter();
        let mut allowed = vec![false; after.len()];
        for (before, after) in before.iter().zip(&found) {
            prop_assert_eq!((&before.device, &before.body), (&after.device, &after.body));
            let (Ok(card), Ok(now)) = (&before.card, &after.card) else { continue };
            if card.of_the_destination {
                prop_assert_eq!(card, now);
                continue;
            }
            let assigned = new.next().unwrap();
            prop_assert_eq!((card.mac, now.mac), (assigned.old, assigned.new));
            prop_assert_eq!(&card.places, &now.places);
            for place in &card.places {
                place.bytes().into_iter().for_each(|at| allowed[before.body.start + at] = true);
            }
        }
        prop_assert!(new.next().is_none());
        for (at, allowed) in allowed.into_iter().enumerate() {
            prop_assert!(allowed || after[at] == made.tail[at], "byte {:#x}", at);
        }
    }

    /// Damaged anywhere, cut anywhere: no panic, and what is refused is unchanged.
    #[test]
    fn damage_is_survived(
        devices in prop::collection::vec(a_device(), 1..3),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        cuts: bool,
    ) {
        let made = Made::of(&devices);
        let mut tail = made.tail.clone();
        for (at, byte) in damage {
            let at = at.index(tail.len());
            tail[at] = byte;
        }
        if cuts {
            tail.truncate(cut.index(tail.len()));
        }
        let derived = IdentityConfig {
            macs: Vec::new(),
            keep: Vec::new(),
            others: Others::Derive { seed: 3, index: 4 },
        };
        let mut after = tail.clone();
        if rewrite(&mut after, &made.decoder, &derived).is_err() {
            prop_assert_eq!(after, tail);
        } else {
            prop_assert_eq!(after.len(), tail.len());
        }
    }
}
