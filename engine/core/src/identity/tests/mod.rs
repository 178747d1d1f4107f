//! Over generated tails: what is found, what changes, and what is refused.

mod properties;
mod tail;

use super::*;
use tail::{DeviceBuilder, Made, e1000, e1000e, filler, igb, rtl8139, virtio_net, vmxnet3};

fn mac(last: u8) -> Mac {
    Mac::new([0x52, 0x54, 0, 0x12, 0x34, last]).unwrap()
}

fn derived() -> IdentityConfig {
    IdentityConfig { macs: Vec::new(), keep: Vec::new(), others: Others::Derive { seed: 1, index: 2 } }
}

fn only(macs: &[(&str, u8)]) -> IdentityConfig {
    let macs = macs.iter().map(|&(device, last)| (device.to_owned(), mac(last))).collect();
    IdentityConfig { macs, keep: Vec::new(), others: Others::Refuse }
}

/// Rewrites what `devices` make, and gives the offsets of the bytes that differ.
fn changed(
    devices: &[DeviceBuilder],
    config: &IdentityConfig,
) -> Result<(Vec<Assigned>, Vec<usize>), IdentityError> {
    let Made { tail, decoder, .. } = Made::of(devices);
    let mut after = tail.clone();
    let assigned = rewrite(&mut after, &decoder, config)?;
    assert_eq!(after.len(), tail.len());
    Ok((assigned, (0..tail.len()).filter(|&at| tail[at] != after[at]).collect()))
}

fn refusal(devices: &[DeviceBuilder], config: &IdentityConfig) -> String {
    crate::error_text(&changed(devices, config).unwrap_err())
}

/// Every byte of a MAC changes with this one: not a bit is as before.
fn inverse(old: Mac) -> Mac {
    Mac::new(old.bytes().map(|byte| !byte)).unwrap_or_else(|| {
        let [first, rest @ ..] = old.bytes().map(|byte| !byte);
        let [a, b, c, d, e] = rest;
        Mac::new([first & 0xfe, a, b, c, d, e]).unwrap()
    })
}

#[test]
fn each_kind_has_its_address_changed_in_all_places_and_nothing_else() {
    // Places of six bytes, and two of the EEPROM's checksum.
    let kinds: [(DeviceBuilder, usize); 9] = [
        (virtio_net("0000:00:03.0", mac(1), 256, 3, true), 12),
        (virtio_net("0000:00:03.0", mac(1), 256, 0, false), 6),
        (virtio_net("0000:00:1c.0:00.0", mac(1), 4096, 67, true), 12),
        (virtio_net("virtio-mmio@00000000feb02e00", mac(1), 0, 0, true), 12),
        (e1000("0000:00:03.0", mac(1), true), 18 + 2),
        (e1000("0000:00:03.0", mac(1), false), 12 + 2),
        (e1000e("0000:00:03.0", mac(1)), 18 + 2),
        (igb("0000:01:00.0", mac(1), &[]), 18 + 2),
        (rtl8139("0000:00:03.0", mac(1)), 18),
    ];
    for (device, bytes) in kinds {
        let new = inverse(mac(1));
        let config = IdentityConfig { macs: vec![(device.idstr.clone(), new)], ..only(&[]) };
        let (assigned, differ) = changed(&[filler(1), device.clone(), filler(2)], &config).unwrap();
        assert_eq!(assigned, [Assigned { device: device.idstr.clone(), old: mac(1), new }]);
        assert_eq!(differ.len(), bytes, "{}: {differ:x?}", device.idstr);
        // What is found in what was written is the new address.
        let Made { mut tail, decoder, .. } = Made::of(&[filler(1), device.clone(), filler(2)]);
        rewrite(&mut tail, &decoder, &config).unwrap();
        let again = nics::nics(&tail, &decoder).unwrap();
        assert_eq!(again[0].card.as_ref().unwrap().mac, new);
    }
}

#[test]
fn an_address_of_the_destination_has_to_be_named() {
    let device = || [vmxnet3("0000:01:00.0", mac(1), true)];
    let (assigned, differ) = changed(&device(), &only(&[("0000:01", 9)])).unwrap();
    assert_eq!(assigned[0].new, mac(9));
    assert_eq!(differ.len(), 1);
    assert_eq!(
        refusal(&device(), &derived()),
        "NIC \"0000:01:00.0/vmxnet3\" has the MAC that its destination was started with (mac=…): it has to be the \
         same there and here, so it cannot be chosen here"
    );
    assert_eq!(
        refusal(&[vmxnet3("0000:01:00.0", mac(1), false)], &only(&[("0000:01", 9)])),
        "NIC \"0000:01:00.0/vmxnet3\" cannot be given a new MAC: its MAC is not in the stream: it is the one that \
         the destination is started with (mac=…)"
    );
}

#[test]
fn every_nic_needs_an_order_that_is_for_it_alone() {
    let devices = || {
        [
            rtl8139("0000:00:03.0", mac(1)),
            virtio_net("0000:00:13.0", mac(2), 256, 3, true),
            rtl8139("0000:00:14.0", mac(3)),
        ]
    };
    let keep =
        |config: IdentityConfig, device: &str| IdentityConfig { keep: vec![device.to_owned()], ..config };
    let names = r#""0000:00:03.0/rtl8139", "0000:00:13.0/virtio-net", "0000:00:14.0/rtl8139""#;
    for (config, expected) in [
        (only(&[]), "NIC \"0000:00:03.0/rtl8139\" is given no new MAC, and is not said to keep its own".to_owned()),
        (only(&[("0000:00:03.0", 9)]), "NIC \"0000:00:13.0/virtio-net\" is given no new MAC, and is not said to keep its own".to_owned()),
        (only(&[("0000:00:1", 9)]), format!("\"0000:00:1\" may be any of {}", names.split_once(", ").unwrap().1)),
        (only(&[("", 9)]), format!("\"\" may be any of {names}")),
        (only(&[("0000:00:03.0/rtl8139x", 9)]), format!("the snapshot has no NIC \"0000:00:03.0/rtl8139x\"; it has {names}")),
        (only(&[("0000:00:03", 9), ("0000:00:03.0", 8)]), "NIC \"0000:00:03.0/rtl8139\" is named twice".to_owned()),
        (keep(only(&[("0000:00:03", 9)]), "0000:00:03.0"), "NIC \"0000:00:03.0/rtl8139\" is named twice".to_owned()),
        (
            IdentityConfig { macs: only(&[("0000:00:03", 9), ("0000:00:14", 9)]).macs, ..derived() },
            "NIC \"0000:00:14.0/rtl8139\" would have the MAC 52:54:00:12:34:09, which \"0000:00:03.0/rtl8139\" has".to_owned(),
        ),
        (
            keep(IdentityConfig { macs: only(&[("0000:00:03", 2)]).macs, ..derived() }, "0000:00:13.0"),
            "NIC \"0000:00:03.0/rtl8139\" would have the MAC 52:54:00:12:34:02, which \"0000:00:13.0/virtio-net\" in the snapshot has".to_owned(),
        ),
    ] {
        assert_eq!(refusal(&devices(), &config), expected);
    }
    let config = keep(IdentityConfig { macs: only(&[("0000:00:14", 9)]).macs, ..derived() }, "0000:00:13.0");
    let (assigned, _) = changed(&devices(), &config).unwrap();
    let new: Vec<_> = assigned.iter().map(|it| (&it.device[..12], it.new)).collect();
    assert_eq!(new, [("0000:00:03.0", derive::derive(1, 2, 0)), ("0000:00:14.0", mac(9))]);
    // A kept NIC has its number all the same.
    let (assigned, _) = changed(&devices(), &derived()).unwrap();
    assert_eq!(assigned[2].new, derive::derive(1, 2, 2));
    let all = IdentityConfig { others: Others::Keep, ..only(&[("0000:00:14", 9)]) };
    assert_eq!(changed(&devices(), &all).unwrap().0.len(), 1);
}

#[test]
fn what_cannot_be_proved_is_refused_by_name_and_may_be_kept() {
    let group = Mac::new([0x52; 6]).unwrap();
    let of = |device: DeviceBuilder| device;
    let damaged = |device: DeviceBuilder, at: usize, byte: u8| {
        let mut device = of(device);
        device.body[at] = byte;
        device
    };
    let find = |device: &DeviceBuilder, bytes: &[u8]| {
        device.body.windows(bytes.len()).position(|window| window == bytes).unwrap()
    };
    let rtl = rtl8139("0000:00:03.0", group);
    let virtio = virtio_net("0000:00:03.0", group, 256, 3, true);
    let intel = e1000e("0000:00:03.0", group);
    let first = |device: &DeviceBuilder| find(device, &[0x52; 6]);
    let last = |device: &DeviceBuilder| {
        let mut starts = device.body.windows(6).enumerate().filter(|(_, window)| *window == [0x52; 6]);
        starts.next_back().unwrap().0
    };
    let mut cut = virtio.clone();
    cut.fields[0].size -= 1;
    cut.body.pop();
    let cases = [
        (damaged(rtl.clone(), first(&rtl), 1), "phys holds 015252525252, which is no MAC of one NIC"),
        (damaged(rtl.clone(), find(&rtl, &[0x81, 0x29]), 0), "the EEPROM is not as QEMU writes it"),
        (damaged(virtio.clone(), last(&virtio), 1), "mac holds 015252525252, which is no MAC of one NIC"),
        (
            damaged(virtio.clone(), first(&virtio), 1),
            "the copy of the configuration holds 015252525252, which is no MAC of one NIC",
        ),
        (
            damaged(virtio.clone(), 3, 3),
            "it is connected by neither PCI nor MMIO, or its state is not as QEMU writes it",
        ),
        (damaged(intel.clone(), first(&intel), 0x54), "the checksum of the EEPROM is wrong"),
        (
            igb("0000:01:00.0", group, &[3]),
            "the list of receive addresses, of which the first alone is the NIC's, is not as QEMU writes it",
        ),
        (
            DeviceBuilder::new("0000:00:03.0", "pcnet").field("prom", "buffer", &[0x52; 16]),
            "devices of the kind \"pcnet\" are not rewritten",
        ),
        (
            DeviceBuilder::new("0000:00:03.0", "brandnew").field("core.perm_mac", "buffer", &[0x52; 6]),
            "this kind of device is not known, and its field core.perm_mac may be a MAC",
        ),
        (
            DeviceBuilder::new("0000:00:03.0", "rtl8139").field("phys", "buffer", &[0x52; 6]),
            "its field conf.macaddr is missing, there twice, or of another size",
        ),
    ];
    for (device, expected) in cases {
        let name = device.idstr.clone();
        let text = refusal(&[filler(1), device.clone()], &derived());
        assert_eq!(text, format!("NIC \"{name}\" cannot be given a new MAC: {expected}"));
        let keeps = IdentityConfig { keep: vec![name], ..derived() };
        assert_eq!(changed(&[filler(1), device], &keeps).unwrap(), (vec![], vec![]));
    }
}

#[test]
fn without_a_description_only_what_changes_nothing_is_done() {
    let Made { tail, decoder, eof } = Made::of(&[rtl8139("0000:00:03.0", mac(1))]);
    let mut bare = tail[..=eof].to_vec();
    assert_eq!(rewrite(&mut bare, &decoder, &derived()), Err(IdentityError::NoVmdesc));
    let keep = IdentityConfig { others: Others::Keep, ..only(&[]) };
    assert_eq!(rewrite(&mut bare, &decoder, &keep), Ok(vec![]));
    assert_eq!(bare, tail[..=eof]);
    // A keeper with a name has to be there.
    let keep = IdentityConfig { keep: vec!["0000:00:03.0".to_owned()], ..only(&[]) };
    assert_eq!(rewrite(&mut bare, &decoder, &keep), Err(IdentityError::NoVmdesc));
}

#[test]
fn names_of_sections_are_printable_and_different() {
    let twice = |instance| DeviceBuilder {
        instance,
        ..DeviceBuilder::new("", "ne2000").field("phys", "buffer", &[2; 6])
    };
    let hostile = DeviceBuilder::new("a \"$(b)\n", "rtl8139");
    let Made { tail, decoder, .. } = Made::of(&[twice(0), hostile, twice(1)]);
    let names: Vec<_> = nics::nics(&tail, &decoder).unwrap().into_iter().map(|nic| nic.device).collect();
    assert_eq!(names, ["ne2000/0", "a\\u{20}\\u{22}\\u{24}(b)\\u{a}/rtl8139", "ne2000/1"]);
}
