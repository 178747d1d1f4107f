//! A multifd channel of a guest with pages of 64 KiB, whose packets are short.

use super::{Kind, Recipes, base::Base};

/// Bytes of a page, and how many fit into a packet.
const PAGE: u32 = 64 << 10;
const PAGES: u32 = 8;

fn words(base: &mut Base, words: &[u32]) {
    words.iter().for_each(|word| {
        base.put(&word.to_be_bytes());
    });
}

fn packet(base: &mut Base, mark: &'static str, flags: u32, normal: u32, zero: u32, number: u64) {
    base.mark(mark);
    words(base, &[0x1122_3344, 1, flags, PAGES, normal, normal * PAGE]);
    base.put(&number.to_be_bytes()).put(&zero.to_be_bytes()).put(&[0; 28]);
    base.put(b"pc.ram").put(&[0; 250]);
    for page in 0..u64::from(PAGES) {
        let offset = if page < u64::from(normal + zero) { page * u64::from(PAGE) } else { 0 };
        base.put(&offset.to_be_bytes());
    }
    base.put(&vec![b'p'; (normal * PAGE) as usize]);
}

fn base() -> Base {
    let mut base = Base::new("multifd");
    base.mark("hello");
    words(&mut base, &[0x1122_3344, 1]);
    base.put(&[0x5a; 16]).mark("channel").put(&[1]).put(&[0; 39]);
    packet(&mut base, "packet", 0, 1, 2, 1);
    packet(&mut base, "sync", 1, 0, 0, 2);
    base.mark("device state");
    words(&mut base, &[0x1122_3344, 1, 0x40]);
    base.mark("idstr").put(b"0000:00:02.0/vfio").put(&[0; 239]);
    words(&mut base, &[0, 4]);
    base.put(b"data");
    base
}

pub(super) fn recipes() -> Recipes {
    let mut r = Recipes::new(Kind::Multifd, base());
    let be32 = |value: u32| value.to_be_bytes();
    r.set("hello-magic", "a channel of another magic", ("hello", 0), b"QEVM");
    r.set("hello-version", "a channel of version 2", ("hello", 4), &be32(2));
    r.cut("hello-cut", "cut inside the start of the channel", ("channel", 0));
    r.set("packet-magic", "a packet of another magic", ("packet", 0), &be32(0));
    r.set("packet-version", "a packet of version 2", ("packet", 4), &be32(2));
    r.set("flags-unknown", "unknown flags", ("packet", 8), &be32(0x80));
    r.set("allocated-9", "more pages allocated than fit a packet", ("packet", 12), &be32(9));
    r.set("allocated-max", "4 billion pages allocated", ("packet", 12), &be32(u32::MAX));
    r.set("normal-9", "more pages than fit a packet", ("packet", 16), &be32(9));
    r.set("normal-max", "4 billion pages", ("packet", 16), &be32(u32::MAX));
    r.set("zero-8", "more zero pages than are left", ("packet", 32), &be32(8));
    r.set("zero-max", "4 billion zero pages", ("packet", 32), &be32(u32::MAX));
    r.set("data-other", "data of another length than the pages", ("packet", 20), &be32(PAGE + 1));
    r.set("data-max", "data of 4 GiB", ("packet", 20), &be32(u32::MAX));
    r.set(
        "zlib-data-max",
        "zlib data of 4 GiB",
        ("packet", 8),
        &[0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
    );
    r.set("name-unterminated", "a block's name without an end", ("packet", 64), &[b'x'; 256]);
    r.set("offset-unaligned", "a page at 1", ("packet", 320), &1_u64.to_be_bytes());
    r.set(
        "sync-stale-length",
        "a stale length without pages, which is no error (7.2)",
        ("sync", 20),
        &be32(PAGE),
    );
    r.set("state-length-max", "device state of 4 GiB", ("idstr", 260), &be32(u32::MAX));
    r.set("state-name-unterminated", "an idstr without an end", ("idstr", 0), &[b'x'; 256]);
    r.cut("packet-cut", "cut inside a packet", ("packet", 100));
    r.cut("data-cut", "cut inside a packet's data", ("packet", 5000));
    r.cut("state-cut", "cut inside device state", ("idstr", 100));
    r
}
