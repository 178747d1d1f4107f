//! How the preempt channel ends (`postcopy-preempt`), which differs between releases of QEMU.
//!
//! | destination | before its migration completes, it waits |
//! | --- | --- |
//! | 7.2 | for an end-of-section mark on the preempt channel. Whoever still waits for a page then gets a zero page |
//! | 8.0 and later | until no request is outstanding, then closes the channel itself. A mark ends the thread that reads the channel |
//!
//! (`postcopy_ram_incoming_cleanup`, migration/postcopy-ram.c; `x-preempt-pre-7-2`,
//! hw/core/machine.c, tells a source.)
//!
//! Nothing on the wire tells the destination's release. The name of the machine type tells the
//! oldest release that has it: from 8.0 on it is the second rule for certain. With any other type
//! the destination may be either, so the mark has to be sent, and no request may cross it: every
//! page is sent before it, zero pages included, and then none is left to be asked for. That
//! satisfies both rules.

/// The last release whose destinations wait for the mark.
const MARK_UP_TO: (u32, u32) = (7, 2);
/// Families whose versions are those of QEMU releases. The versions of others' (`pc-q35-rhel9.2.0`)
/// say nothing.
const FAMILIES: [&str; 5] = ["pc-i440fx", "pc-q35", "virt", "pseries", "s390-ccw-virtio"];

/// What the server has to do at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreemptEnd {
    /// Send every page, zero pages included, and then the mark. Right for any destination.
    EveryPageThenMark,
    /// Answer requests until the destination reports its end. No mark.
    AnswerBehindEnd,
}

impl PreemptEnd {
    /// For destinations of this machine type, where the stream names one.
    pub(super) fn of(machine: Option<&[u8]>) -> Self {
        match machine.and_then(release) {
            Some(release) if release > MARK_UP_TO => Self::AnswerBehindEnd,
            _ => Self::EveryPageThenMark,
        }
    }
}

/// The QEMU release in the name of a versioned machine type: `pc-q35-10.0`, or `pc-q35-9.0.1`.
fn release(machine: &[u8]) -> Option<(u32, u32)> {
    let (family, version) = std::str::from_utf8(machine).ok()?.rsplit_once('-')?;
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    let release = (numbers.next()??, numbers.next()??);
    (FAMILIES.contains(&family) && numbers.all(|micro| micro.is_some())).then_some(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_release_from_8_0_on_needs_no_mark() {
        for name in [
            "pc-i440fx-8.0",
            "pc-q35-10.0",
            "virt-9.0",
            "pseries-8.1",
            "s390-ccw-virtio-11.1",
            "pc-q35-9.0.1",
        ] {
            assert_eq!(PreemptEnd::of(Some(name.as_bytes())), PreemptEnd::AnswerBehindEnd, "{name}");
        }
        // Names of distributions, of no release, and of machines that may be anyone's.
        for name in [
            "pc-i440fx-7.2",
            "pc-q35-6.0",
            "virt-2.6",
            "pc-0.12",
            "microvm",
            "pc-q35-rhel9.2.0",
            "pc-i440fx-jammy",
            "pseries-2.12-sxxm",
            "pc-q35-9.2+pve1",
            "own-board-12.0",
            "pc-q35-10",
            "pc-q35-10.",
            "pc-q35-10.0.x",
            "",
        ] {
            assert_eq!(PreemptEnd::of(Some(name.as_bytes())), PreemptEnd::EveryPageThenMark, "{name}");
        }
        assert_eq!(PreemptEnd::of(Some(b"pc-q35-\xff.0")), PreemptEnd::EveryPageThenMark);
        assert_eq!(PreemptEnd::of(None), PreemptEnd::EveryPageThenMark);
    }
}
