//! What an input is, by its first bytes.

/// Enough of an input to tell.
pub(super) const HEAD_BYTES: usize = 1 << 20;

/// What an input holds, wrappers aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A migration stream; a mapped-ram file is one, too.
    Stream,
    /// A QCOW2 image with a snapshot in its VM-state area: this project's, or the original tool's.
    Image,
    /// A QCOW2 image with internal snapshots, made by `savevm`.
    Savevm,
    /// A libvirt save image.
    Libvirt,
    /// A channel of multifd.
    Multifd,
    /// What the destination answered.
    ReturnPath,
    /// A connection that resumes an interrupted postcopy.
    Recovery,
    /// The preempt channel of a postcopy.
    Preempt,
}

impl Kind {
    /// What it is called in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "migration stream",
            Self::Image => "snapshot image",
            Self::Savevm => "qcow2 image with internal snapshots",
            Self::Libvirt => "libvirt save image",
            Self::Multifd => "multifd channel",
            Self::ReturnPath => "return path",
            Self::Recovery => "postcopy recovery connection",
            Self::Preempt => "postcopy preempt channel",
        }
    }
}

/// What an input with these first bytes is, and at which offset it begins.
pub(super) fn detect(head: &[u8]) -> Option<(Kind, u64)> {
    let at_start = match head {
        [b'Q', b'E', b'V', b'M', ..] => Some(Kind::Stream),
        [b'Q', b'F', b'I', 0xfb, ..] => Some(Kind::Image),
        [0x11, 0x22, 0x33, 0x44, ..] => Some(Kind::Multifd),
        _ if head.starts_with(b"LibvirtQemudSave") || head.starts_with(b"LibvirtQemudPart") => {
            Some(Kind::Libvirt)
        }
        // COMMAND RECV_BITMAP, or RESUME where there is nothing to ask for.
        [0x08, 0x00, 0x0a, ..] | [0x08, 0x00, 0x09, 0x00, 0x00, ..] => Some(Kind::Recovery),
        [0x00, kind @ 1..=7, length @ ..] if is_message(*kind, length) => Some(Kind::ReturnPath),
        _ if is_page(head) => Some(Kind::Preempt),
        _ => None,
    };
    if let Some(kind) = at_start {
        return Some((kind, 0));
    }
    // `file:NAME,offset=N`: what is before the stream belongs to others.
    let magic = b"QEVM\0\0\0\x03";
    let at = head.windows(magic.len()).position(|window| window == magic)?;
    Some((Kind::Stream, at as u64))
}

fn is_message(kind: u8, rest: &[u8]) -> bool {
    let [high, low, ..] = rest else { return false };
    let length = u16::from_be_bytes([*high, *low]);
    match kind {
        1 | 2 | 6 => length == 4,
        3 => (14..=268).contains(&length),
        4 => length == 12,
        5 => (2..=256).contains(&length),
        _ => length == 0,
    }
}

/// A page record with a name: flags ZERO or PAGE, and a block's name that can be printed.
fn is_page(head: &[u8]) -> bool {
    let Some((word, rest)) = head.split_first_chunk::<8>() else { return false };
    let flags = u64::from_be_bytes(*word) & 0x3ff;
    let Some((&length, rest)) = rest.split_first() else { return false };
    let name = rest.get(..usize::from(length)).unwrap_or_default();
    (flags == 0x8 || flags == 0x2) && !name.is_empty() && name.iter().all(|byte| (0x20..0x7f).contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_by_its_first_bytes() {
        let check = |head: &[u8], expected| assert_eq!(detect(head), expected, "{head:?}");
        check(b"QEVM\0\0\0\x03", Some((Kind::Stream, 0)));
        check(b"QFI\xfb\0\0\0\x03", Some((Kind::Image, 0)));
        check(b"LibvirtQemudPart", Some((Kind::Libvirt, 0)));
        check(b"\x11\x22\x33\x44\0\0\0\x01", Some((Kind::Multifd, 0)));
        check(b"\0\x02\0\x04\0\0\0\x01", Some((Kind::ReturnPath, 0)));
        check(b"\x08\0\x0a\0\x07\x06pc.ram", Some((Kind::Recovery, 0)));
        check(b"\0\0\0\0\0\x0c\0\x08\x06pc.ramU", Some((Kind::Preempt, 0)));
        check(b"another program QEVM\0\0\0\x03", Some((Kind::Stream, 16)));
        check(b"\0\x02\0\x05\0\0\0\x01", None);
        check(b"\x7fELF\x02\x01\x01", None);
        check(b"", None);
    }
}
