use super::*;

fn hello() -> Vec<u8> {
    let mut bytes = vec![0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1];
    bytes.resize(HELLO_BYTES, 0);
    bytes[24] = 2;
    bytes
}

fn packet(flags: u32, normal: u32, data: u32, zero: u32) -> Vec<u8> {
    let mut bytes = vec![0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1];
    for word in [flags, 128, normal, data] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.extend_from_slice(&9u64.to_be_bytes());
    bytes.extend_from_slice(&zero.to_be_bytes());
    bytes.resize(64, 0);
    bytes.extend_from_slice(b"pc.ram");
    bytes.resize(HEADER_BYTES + 8 * 128, 0);
    for index in 0..(normal + zero).min(128) as usize {
        let offset = index as u64 * 4096;
        bytes[HEADER_BYTES + 8 * index..][..8].copy_from_slice(&offset.to_be_bytes());
    }
    bytes
}

fn second(bytes: &[u8]) -> Result<Option<(usize, Message<'_>)>, Error> {
    let mut channel = Channel::new(4096);
    let hello = hello();
    channel.step(&hello).unwrap().unwrap();
    channel.step(bytes)
}

#[test]
fn hello_and_packet_are_read_and_a_cut_one_waits() {
    let mut channel = Channel::new(4096);
    let expected = Message::Hello(Hello { uuid: [0; 16], channel: 2 });
    assert_eq!(channel.step(&hello()).unwrap(), Some((64, expected)));
    let bytes = packet(1, 2, 8192, 1);
    assert_eq!(channel.step(&bytes[..1000]).unwrap(), None);
    let Some((length, Message::Packet(packet))) = channel.step(&bytes).unwrap() else { panic!() };
    assert_eq!((length, packet.block, packet.number, packet.sync), (1344, &b"pc.ram"[..], 9, true));
    assert_eq!((packet.normal, packet.zero, packet.data_bytes), (vec![0, 4096], vec![8192], 8192));
    assert_eq!(channel.offset(), 64 + 1344 + 8192);
}

#[test]
fn a_stale_length_without_pages_announces_no_data() {
    let bytes = packet(1, 0, 0x8000, 0);
    let Some((_, Message::Packet(packet))) = second(&bytes).unwrap() else { panic!() };
    assert_eq!((packet.data_bytes, packet.block), (0, &b""[..]));
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let check = |bytes: &[u8], expected: &str| {
        assert_eq!(second(bytes).unwrap_err().to_string(), expected);
    };
    check(
        &packet(0, 2, 4096, 0),
        "offset 0x54: multifd channel: multifd data length 0x1000, expected one page for each normal one",
    );
    check(
        &packet(0, 100, 100 * 4096, 100),
        "offset 0x50: multifd channel: multifd page count 0xc8, expected what fits a packet",
    );
    check(
        &packet(0x100, 0, 0, 0),
        "offset 0x48: multifd channel: multifd flags 0x100, expected SYNC and a compression",
    );
    check(&[0; 64], "offset 0x40: multifd channel: multifd magic 0x0, expected 0x11223344");
}

#[test]
fn the_state_of_a_device_has_a_name_and_a_length() {
    let bytes = |name: &[u8], data: u32| {
        let mut bytes = vec![0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0, 0x40];
        bytes.extend_from_slice(name);
        bytes.resize(12 + 256, 0);
        bytes.extend_from_slice(&7u32.to_be_bytes());
        bytes.extend_from_slice(&data.to_be_bytes());
        bytes
    };
    let device = bytes(b"dev", 16 << 20);
    let mut channel = Channel::new(4096);
    channel.step(&hello()).unwrap().unwrap();
    assert_eq!(channel.step(&device[..275]).unwrap(), None);
    let state = DeviceState { idstr: b"dev", instance_id: 7, data_bytes: 16 << 20 };
    assert_eq!(channel.step(&device).unwrap(), Some((276, Message::DeviceState(state))));
    assert_eq!(channel.offset(), 64 + 276 + (16 << 20));
    let error = second(&bytes(&[b'n'; 256], 0)).unwrap_err().to_string();
    assert!(error.starts_with("offset 0x4c: multifd channel: multifd idstr length 0x100, "), "{error}");
    let error = second(&bytes(b"dev", (16 << 20) + 1)).unwrap_err().to_string();
    assert!(error.starts_with("offset 0x150: multifd channel: multifd data length 0x1000001, "), "{error}");
}

fn set(mut bytes: Vec<u8>, at: usize, word: u32) -> Vec<u8> {
    bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
    bytes
}

fn error_of(bytes: &[u8]) -> String {
    second(bytes).unwrap_err().to_string().replace("multifd channel: multifd ", "")
}

fn packet_of(bytes: &[u8]) -> Packet<'_> {
    let Ok(Some((_, Message::Packet(packet)))) = second(bytes) else { panic!("a packet") };
    packet
}

#[test]
fn a_packet_has_pages_for_512_kib() {
    assert_eq!(packet_of(&packet(0, 128, 128 * 4096, 0)).normal.len(), 128);
    assert_eq!(packet_of(&packet(0, 0, 0, 128)).zero.len(), 128);
    let both = packet(0, 100, 100 * 4096, 28);
    assert_eq!((packet_of(&both).normal.len(), packet_of(&both).zero.len()), (100, 28));
    assert_eq!(packet_of(&both).zero[27], 127 * 4096);
    for (normal, zero) in [(129, 0), (0, 129), (100, 29)] {
        let said = error_of(&packet(0, normal, normal * 4096, zero));
        assert_eq!(said, "offset 0x50: page count 0x81, expected what fits a packet");
    }
    assert!(second(&set(packet(0, 0, 0, 0), 12, 0)).is_ok());
    let said = error_of(&set(packet(0, 0, 0, 0), 12, 129));
    assert_eq!(said, "offset 0x4c: pages allocated 0x81, expected no more than 512 KiB of them");
}

#[test]
fn the_header_has_room_for_the_pages_of_its_size() {
    for (page_size, bytes) in [(1 << 10, 320 + 8 * 512), (4096, 1344), (1 << 16, 320 + 8 * 8)] {
        let channel = Channel::new(page_size);
        assert_eq!((channel.header_bytes(), channel.offset()), (bytes, 0), "{page_size}");
    }
    assert_eq!(second(&packet(0, 0, 0, 0)[..1343]).unwrap(), None);
    assert_eq!(second(&packet(0, 0, 0, 0)[..63]).unwrap(), None);
}

#[test]
fn packed_data_is_as_long_as_it_says_up_to_16_mib() {
    for (flags, compression) in [
        (2, Compression::Zlib),
        (4, Compression::Zstd),
        (8, Compression::Hardware(8)),
        (0x3e, Compression::Hardware(0x3e)),
    ] {
        let bytes = packet(flags, 1, 16 << 20, 0);
        let packet = packet_of(&bytes);
        assert_eq!((packet.compression, packet.data_bytes, packet.sync), (compression, 16 << 20, false));
    }
    let said = error_of(&packet(2, 1, (16 << 20) + 1, 0));
    assert_eq!(said, "offset 0x54: data length 0x1000001, expected at most 16 MiB");
    assert_eq!(packet_of(&packet(0, 1, 4096, 0)).compression, Compression::None);
    for length in [4095, 4097] {
        let said = error_of(&packet(0, 1, length, 0));
        assert_eq!(
            said,
            format!("offset 0x54: data length {length:#x}, expected one page for each normal one")
        );
    }
}

#[test]
fn pages_begin_at_multiples_of_their_size() {
    for index in [0, 1] {
        let bytes = set(packet(0, 1, 4096, 1), HEADER_BYTES + 8 * index + 4, 0x1800);
        assert_eq!(
            error_of(&bytes),
            "offset 0x180: page offset 0x1800, expected a multiple of the page size"
        );
    }
    let bytes = set(packet(0, 1, 4096, 1), HEADER_BYTES, 0x12);
    assert_eq!((packet_of(&bytes).normal, packet_of(&bytes).zero), (vec![0x12_0000_0000], vec![4096]));
}

#[test]
fn a_name_has_room_for_255_bytes() {
    let mut bytes = packet(0, 1, 4096, 0);
    bytes[64..319].fill(b'n');
    assert_eq!(packet_of(&bytes).block, [b'n'; 255]);
    bytes[319] = b'n';
    assert_eq!(error_of(&bytes), "offset 0x80: block name length 0x100, expected a NUL at its end");
    assert_eq!(packet_of(&packet(0, 0, 0, 1)).block, b"pc.ram");
}

#[test]
fn the_hello_is_the_first_and_has_uuid_and_number() {
    let mut bytes = set(hello(), 8, 0x0102_0304);
    bytes[23] = 5;
    let mut channel = Channel::new(4096);
    assert_eq!(channel.step(&bytes[..63]).unwrap(), None);
    assert_eq!(channel.offset(), 0);
    let uuid = [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
    let expected = Message::Hello(Hello { uuid, channel: 2 });
    assert_eq!(channel.step(&bytes).unwrap(), Some((64, expected)));
    assert_eq!(error_of(&set(packet(0, 0, 0, 0), 4, 2)), "offset 0x44: version 0x2, expected 1");
}

#[test]
fn the_name_of_a_device_has_room_for_255_bytes() {
    let mut bytes = set(packet(FLAG_DEVICE_STATE, 0, 0, 0), 268, 7);
    bytes[12..267].fill(b'n');
    bytes[267] = 0;
    let bytes = set(bytes, 272, 5);
    let state = DeviceState { idstr: &[b'n'; 255], instance_id: 7, data_bytes: 5 };
    assert_eq!(second(&bytes[..276]).unwrap(), Some((276, Message::DeviceState(state))));
}
