//! Takes over after a server that died: asks the destination what it has, then lets it go on.

use crate::failure::{Failure, ReturnPathErrorKind};
use crate::machine::{Header, Lane};
use crate::revert::output::Output;
use migration_stream::{Command, put_command};
use snapshot_image::{RamLayout, Snapshot};

/// A recovery of `uuid` may use this snapshot.
///
/// # Errors
///
/// It is another one, or may be another one: two guests must never mix.
pub fn check_recovery(uuid: &[u8; 16], snapshot: &Snapshot) -> Result<(), Failure> {
    match snapshot.uuid {
        Some(found) if found == *uuid => Ok(()),
        found => Err(Failure::OtherSnapshot { wanted: *uuid, found }),
    }
}

/// Which bitmaps have come.
#[derive(Debug)]
pub(crate) struct Recovery {
    missing: Vec<bool>,
}

impl Recovery {
    /// Asks for the bitmaps of all blocks, if this is the right snapshot.
    pub(crate) fn start(
        uuid: [u8; 16],
        snapshot: &Snapshot,
        layout: &RamLayout,
        out: &mut Vec<u8>,
    ) -> Result<Self, Failure> {
        check_recovery(&uuid, snapshot)?;
        for block in layout.blocks() {
            put_command(out, &Command::RecvBitmap(&block.name));
        }
        Ok(Self { missing: vec![true; layout.blocks().len()] })
    }

    /// The bitmap of this block has come. After the last one the destination may go on.
    pub(crate) fn received(&mut self, block: usize, output: &mut Output) -> Result<(), Failure> {
        if !std::mem::take(&mut self.missing[block]) {
            return Err(ReturnPathErrorKind::SecondBitmap { block }.into());
        }
        if self.may_resume() {
            let mut out = Vec::new();
            put_command(&mut out, &Command::PostcopyResume);
            output.send(Lane::Main, Header::Long(out), None);
        }
        Ok(())
    }

    /// Everything is known.
    pub(crate) fn may_resume(&self) -> bool {
        !self.missing.contains(&true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Action;
    use snapshot_image::{ImageBlock, Verification};

    fn snapshot(uuid: Option<[u8; 16]>) -> Snapshot {
        Snapshot {
            leader: Vec::new(),
            third: Vec::new(),
            tail: Vec::new(),
            uuid,
            root_checksum: None,
            created_unix_s: None,
            normal_pages: 0,
            nonzero_pages: None,
            verification: Verification::Verified,
        }
    }

    #[test]
    fn only_the_same_snapshot_is_taken_over() {
        let check = |uuid| check_recovery(&[1; 16], &snapshot(uuid)).map_err(|error| error.to_string());
        let wanted = "recovery of snapshot 01010101-0101-0101-0101-010101010101";
        assert_eq!(check(Some([1; 16])), Ok(()));
        let other = check(Some([2; 16])).unwrap_err();
        let found = "the image holds snapshot 02020202-0202-0202-0202-020202020202; two guests must not mix";
        assert!(other.contains(&format!("{wanted}: {found}")), "{other}");
        let none = check(None).unwrap_err();
        assert!(none.contains(&format!("{wanted}: the image's snapshot has no UUID")), "{none}");
    }

    #[test]
    fn it_goes_on_after_the_last_bitmap_and_none_may_come_twice() {
        let block =
            |name: &[u8]| ImageBlock { name: name.to_vec(), used_length: 1 << 20, host_page_size: None };
        let layout = RamLayout::new(vec![block(b"a"), block(b"b")], 4096).unwrap();
        let (mut asked, mut expected) = (Vec::new(), Vec::new());
        let mut recovery = Recovery::start([1; 16], &snapshot(Some([1; 16])), &layout, &mut asked).unwrap();
        [b"a", b"b"].iter().for_each(|name| put_command(&mut expected, &Command::RecvBitmap(&name[..])));
        assert_eq!(asked, expected);
        let mut output = Output::default();
        recovery.received(1, &mut output).unwrap();
        assert!(!recovery.may_resume() && output.actions.is_empty());
        let again = recovery.received(1, &mut output).unwrap_err().to_string();
        assert!(again.contains("a second bitmap of block number 1"), "{again}");
        recovery.received(0, &mut output).unwrap();
        assert!(recovery.may_resume());
        let mut resume = Vec::new();
        put_command(&mut resume, &Command::PostcopyResume);
        let Some(Action::Send { lane: Lane::Main, header, body: None }) = output.actions.pop_front() else {
            panic!("nothing is sent");
        };
        assert_eq!(header.bytes(), resume);
    }
}
