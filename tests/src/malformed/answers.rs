//! What a destination answers on the return path.

use migration_stream::return_path::{ReturnPathMessage, put_return_path_message};

use super::{Kind, Recipes, base::Base};

fn base() -> Base {
    let mut base = Base::new("answers");
    let messages = [
        ("pong", ReturnPathMessage::Pong(1)),
        ("named request", ReturnPathMessage::RequestPages { block: Some(b"pc.ram"), start: 0, length: 4096 }),
        ("request", ReturnPathMessage::RequestPages { block: None, start: 8192, length: 4096 }),
        ("bitmap", ReturnPathMessage::ReceivedBitmap(b"pc.ram")),
    ];
    for (mark, message) in messages {
        base.mark(mark).put_with(|out| put_return_path_message(out, &message));
    }
    base.mark("bitmap size").put(&8_u64.to_be_bytes()).put(&[0x0f; 8]);
    base.mark("bitmap end").put(&0x0123_4567_89ab_cdef_u64.to_be_bytes());
    for (mark, message) in [
        ("ack", ReturnPathMessage::ResumeAck(1)),
        ("switchover", ReturnPathMessage::SwitchoverAck),
        ("shut", ReturnPathMessage::Shut(0)),
    ] {
        base.mark(mark).put_with(|out| put_return_path_message(out, &message));
    }
    base
}

pub(super) fn recipes() -> Recipes {
    let mut r = Recipes::new(Kind::Answers, base());
    // A message: type (2), length (2), payload.
    r.set("type-0", "a message of type 0", ("pong", 0), &[0, 0]);
    r.set("type-8", "a message of type 8", ("pong", 0), &[0, 8]);
    r.set("type-max", "a message of type 65535 (CVE-2017-16845's kin: an index)", ("pong", 0), &[0xff; 2]);
    r.set("length-max", "a message of 65535 bytes", ("named request", 2), &[0xff; 2]);
    r.set("length-513", "a message of 513 bytes", ("named request", 2), &[2, 1]);
    r.set("pong-length", "PONG of eight bytes", ("pong", 2), &[0, 8]);
    r.set("shut-length", "SHUT of no bytes", ("shut", 2), &[0, 0]);
    r.set("request-length", "REQ_PAGES of 13 bytes", ("request", 2), &[0, 13]);
    r.set("request-name-long", "a block's name longer than its message", ("named request", 16), &[7]);
    r.set("request-name-short", "a block's name shorter than its message", ("named request", 16), &[5]);
    r.set("bitmap-name-long", "RECV_BITMAP with a longer name", ("bitmap", 4), &[200]);
    r.set("bitmap-size-max", "a bitmap of 2^64 - 1 bytes", ("bitmap size", 0), &[0xff; 8]);
    r.set("bitmap-size-odd", "a bitmap of 7 bytes", ("bitmap size", 7), &[7]);
    r.set("bitmap-end-mark", "another end mark", ("bitmap end", 0), &[0xff]);
    r.set("switchover-length", "SWITCHOVER_ACK with a payload", ("switchover", 2), &[0, 4]);
    r.cut("bitmap-cut", "cut inside the bitmap", ("bitmap end", 3));
    r.cut("message-cut", "cut inside a message", ("shut", 6));
    r
}
