//! The lines of what is no record of the stream: devices, mapped-ram, multifd, the return path, and what is
//! around the stream.

use super::records;
use crate::hint::finding_text;
use crate::input::Opened;
use crate::line::{Line, Value, fields};
use crate::walk::{Context, DeviceSection, Event, Finding, Item, PacketPages};
use migration_stream::device::decode;
use migration_stream::ram::mapped::MappedBlock;
use migration_stream::ram::multifd::Message;
use migration_stream::return_path::ReturnPathMessage;

/// A line, and the bytes that `--hex` shows below it.
type Shown<'a> = (Line<'a>, Option<&'a [u8]>);

/// What is around the stream.
pub(super) fn container(opened: &Opened) -> Vec<Line<'static>> {
    let wrappers = opened.wrappers.iter().map(|wrapper| Value::Word(wrapper.name())).collect();
    let mut lines = vec![
        Line { offset: None, ..Line::new(0, 0, "input") }
            .with("kind", Value::Word(opened.kind.name()))
            .with("packed", Value::List(wrappers))
            .with("start", Value::Hex(opened.start)),
    ];
    if let Some((header, xml)) = &opened.libvirt {
        lines.push(
            Line::new(0, 92 + u64::from(header.data_bytes), "libvirt")
                .with("version", Value::Decimal(header.version.into()))
                .with("was_running", Value::Bool(header.was_running))
                .with("format", Value::Word(header.format_name()))
                .with("complete", Value::Bool(header.complete))
                .with("xml", Value::Name(xml.clone())),
        );
    }
    for snapshot in &opened.snapshots {
        lines.push(
            Line { offset: None, ..Line::new(0, snapshot.vm_state_bytes, "internal_snapshot") }
                .with("id", Value::Name(snapshot.id.clone()))
                .with("name", Value::Name(snapshot.name.clone()))
                .with("date", Value::Decimal(snapshot.date_s.into()))
                .with("vm_state_bytes", Value::Decimal(snapshot.vm_state_bytes)),
        );
    }
    lines
}

/// A finding among the records.
pub(super) fn finding_line(finding: &Finding) -> Line<'static> {
    let line = Line { offset: finding.offset, ..Line::new(0, 0, "finding") };
    line.with("level", Value::Word(finding.level.name()))
        .with("path", Value::Name(finding.path.clone().into_bytes()))
        .with("text", Value::Name(finding_text(finding).into_bytes()))
}

/// The lines of an event that is no record.
pub(super) fn lines<'a>(item: &'a Item<'_>, context: &Context<'_>) -> Vec<Shown<'a>> {
    let line = |kind| Line::new(item.offset, item.length, kind).on_channel(context.channel);
    let shown = match &item.event {
        Event::Device(section) => return device(item, section),
        Event::MappedList(total) => {
            (line("block_list").with("blocks", Value::Null).with("bytes", Value::Hex(*total)), None)
        }
        Event::MappedBlock(mapped) => (mapped_block(item, mapped), None),
        Event::MappedBitmap { block, first_page, bits } => {
            let mut line = line("mapped_bitmap").with("block", records::block_name(context, *block));
            if *first_page > 0 {
                line = line.with("start", Value::Hex(first_page * u64::from(context.page_size)));
            }
            (line.with("bits_set", Value::Decimal(records::ones(bits))), Some(*bits))
        }
        Event::MappedRoom { block, offset } => {
            let name = block.map_or(Value::Null, |block| records::block_name(context, block));
            (line("mapped_room").with("block", name).with("start", Value::Hex(*offset)), None)
        }
        Event::Multifd(message) => (multifd_line(line, message), None),
        Event::MultifdPages(pages) if pages.data.is_empty() => return Vec::new(),
        Event::MultifdPages(PacketPages { data, .. }) | Event::MultifdData(data) => {
            (line("multifd_data"), Some(*data))
        }
        Event::ReturnPath(message) => (return_path_line(line("return_path"), message), None),
        Event::ReceivedBitmap(bits) => {
            (line("received_bitmap").with("bits_set", Value::Decimal(records::ones(bits))), Some(*bits))
        }
        Event::Opaque(bytes, why) => {
            (line("opaque").with("value", Value::bytes(bytes)).with("why", Value::Word(why)), None)
        }
        Event::Skipped => (line("skipped"), None),
        Event::Record(_) | Event::ZerosLeftOut => return Vec::new(),
    };
    vec![shown]
}

/// A device section: its header, then its fields, or its bytes where nothing describes them.
fn device<'a>(item: &Item<'_>, section: &'a DeviceSection<'_>) -> Vec<Shown<'a>> {
    let header_bytes = section.header_bytes as u64;
    let mut header = fields::device_line(item.offset, header_bytes, section);
    if item.packaged {
        header.values.push(("packaged", Value::Bool(true)));
    }
    let mut shown = vec![(header, None)];
    let at = item.offset + header_bytes;
    match section.description {
        Some(state) => {
            let decoded = decode(section.body, state);
            shown.extend(fields::field_lines(at, &decoded.fields).map(|line| (line, None)));
        }
        None => {
            let line = Line::new(at, section.body.len() as u64, "opaque");
            let line = line.with("value", Value::bytes(section.body));
            shown.push((line.with("why", Value::Word("no vmdesc describes it")), None));
        }
    }
    shown
}

fn mapped_block(item: &Item<'_>, mapped: &MappedBlock) -> Line<'static> {
    let place = |number: Option<u64>| Value::optional(number.map(Value::Hex));
    records::block_line(item.offset, item.length, &mapped.block)
        .with("bitmap_offset", place(mapped.place.map(|place| place.bitmap_offset)))
        .with("pages_offset", place(mapped.place.map(|place| place.pages_offset)))
}

fn multifd_line(line: impl Fn(&'static str) -> Line<'static>, message: &Message<'_>) -> Line<'static> {
    let name = |bytes: &[u8]| Value::Name(bytes.to_vec());
    match message {
        Message::Hello(hello) => line("multifd_hello")
            .with("channel", Value::Decimal(hello.channel.into()))
            .with("uuid", Value::Name(snapshot_engine::uuid_text(&hello.uuid).into_bytes())),
        Message::Packet(packet) => {
            let offsets = |pages: &[u64]| Value::List(pages.iter().map(|&page| Value::Hex(page)).collect());
            line("multifd_packet")
                .with("number", Value::Decimal(packet.number))
                .with("sync", Value::Bool(packet.sync))
                .with("block", name(packet.block))
                .with("normal", offsets(&packet.normal))
                .with("zero", offsets(&packet.zero))
                .with("data_bytes", Value::Decimal(packet.data_bytes.into()))
        }
        Message::DeviceState(state) => line("multifd_device_state")
            .with("name", name(state.idstr))
            .with("instance", Value::Decimal(state.instance_id.into()))
            .with("data_bytes", Value::Decimal(state.data_bytes.into())),
        other => line("multifd_message").with("data_bytes", Value::Decimal(other.data_bytes().into())),
    }
}

fn return_path_line<'a>(line: Line<'a>, message: &ReturnPathMessage<'_>) -> Line<'a> {
    let named = |text| Value::Word(text);
    match message {
        ReturnPathMessage::Shut(status) => {
            line.with("message", named("SHUT")).with("value", Value::Decimal((*status).into()))
        }
        ReturnPathMessage::Pong(value) => {
            line.with("message", named("PONG")).with("value", Value::Hex((*value).into()))
        }
        ReturnPathMessage::RequestPages { block, start, length } => line
            .with("message", named("REQ_PAGES"))
            .with("block", block.map_or(Value::Null, |block| Value::Name(block.to_vec())))
            .with("start", Value::Hex(*start))
            .with("bytes", Value::Decimal((*length).into())),
        ReturnPathMessage::ReceivedBitmap(block) => {
            line.with("message", named("RECV_BITMAP")).with("block", Value::Name(block.to_vec()))
        }
        ReturnPathMessage::ResumeAck(value) => {
            line.with("message", named("RESUME_ACK")).with("value", Value::Decimal((*value).into()))
        }
        ReturnPathMessage::SwitchoverAck => line.with("message", named("SWITCHOVER_ACK")),
        _ => line.with("message", named("other")),
    }
}
