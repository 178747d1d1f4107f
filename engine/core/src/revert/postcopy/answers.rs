//! What the destination says, cut into messages and checked against the block list.

use super::host_pages::HostPages;
use crate::failure::{Failure, ReturnPathError, ReturnPathErrorKind};
use migration_stream::protocol::ReceivedBitmap;
use migration_stream::return_path::{ReturnPathMessage, return_path_message};
use snapshot_image::RamLayout;
use std::ops::Range;

/// A message that makes sense.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The destination is done, or has given up.
    Shut(u32),
    /// It has come to this PING.
    Pong(u32),
    /// It waits for these host pages.
    Wants(Range<u64>),
    /// What it has of this block.
    Received(usize, ReceivedBitmap),
    /// The interrupted postcopy can go on.
    ResumeAck,
    /// Nothing for us.
    Other,
}

/// The return path.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Bytes that are no whole message yet, and their offset.
    pending: Vec<u8>,
    offset: u64,
    /// The block of the last request.
    last_block: Option<usize>,
    receiving: Option<(usize, ReceivedBitmap)>,
}

impl Answers {
    /// These bytes came.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next message, if it is all there.
    pub(crate) fn next(&mut self, layout: &RamLayout, pages: &HostPages) -> Result<Option<Answer>, Failure> {
        if let Some((block, mut bitmap)) = self.receiving.take() {
            let length = bitmap.take(&self.pending).map_err(|error| self.wrong(error.into()))?;
            self.consume(length);
            if bitmap.is_complete() {
                return Ok(Some(Answer::Received(block, bitmap)));
            }
            self.receiving = Some((block, bitmap));
            return Ok(None);
        }
        let pending = std::mem::take(&mut self.pending);
        let message = return_path_message(&pending, self.offset).map_err(ReturnPathErrorKind::Message)?;
        let Some((length, message)) = message else {
            self.pending = pending;
            return Ok(None);
        };
        let answer = self.understand(&message, layout, pages)?;
        self.pending = pending;
        self.consume(length);
        match answer {
            Some(answer) => Ok(Some(answer)),
            // The bitmap follows.
            None => self.next(layout, pages),
        }
    }

    fn consume(&mut self, length: usize) {
        self.pending.drain(..length);
        self.offset += length as u64;
    }

    fn wrong(&self, kind: ReturnPathErrorKind) -> Failure {
        ReturnPathError { offset: Some(self.offset), kind }.into()
    }

    fn understand(
        &mut self,
        message: &ReturnPathMessage<'_>,
        layout: &RamLayout,
        pages: &HostPages,
    ) -> Result<Option<Answer>, Failure> {
        let named = |name: &[u8]| {
            let found = layout.blocks().iter().position(|block| block.name == name);
            found.ok_or_else(|| self.wrong(ReturnPathErrorKind::UnknownBlock { name: name.to_vec() }))
        };
        Ok(Some(match message {
            ReturnPathMessage::Shut(status) => Answer::Shut(*status),
            ReturnPathMessage::Pong(value) => Answer::Pong(*value),
            ReturnPathMessage::ResumeAck(1) => Answer::ResumeAck,
            ReturnPathMessage::ResumeAck(found) => {
                return Err(self.wrong(ReturnPathErrorKind::ResumeAck { found: *found }));
            }
            ReturnPathMessage::SwitchoverAck => Answer::Other,
            ReturnPathMessage::ReceivedBitmap(name) => {
                let block = named(name)?;
                let total = layout.blocks()[block].used_length / u64::from(layout.page_size());
                self.receiving = Some((block, ReceivedBitmap::new(total)));
                return Ok(None);
            }
            ReturnPathMessage::RequestPages { block, start, length } => {
                let block = match block {
                    Some(name) => named(name)?,
                    None => self.last_block.ok_or_else(|| self.wrong(ReturnPathErrorKind::NoBlock))?,
                };
                self.last_block = Some(block);
                Answer::Wants(self.range(block, *start, u64::from(*length), layout, pages)?)
            }
            _ => return Err(self.wrong(ReturnPathErrorKind::Unexpected)),
        }))
    }

    /// The host pages of a request, which must be whole ones of the block.
    fn range(
        &self,
        block: usize,
        start: u64,
        length: u64,
        layout: &RamLayout,
        pages: &HostPages,
    ) -> Result<Range<u64>, Failure> {
        let used_length = layout.blocks()[block].used_length;
        let bytes = pages.of_block(block).bytes;
        let end = start.checked_add(length).filter(|&end| end <= used_length);
        let Some(end) =
            end.filter(|_| length > 0 && start.is_multiple_of(bytes) && length.is_multiple_of(bytes))
        else {
            return Err(self.wrong(ReturnPathErrorKind::Range {
                block: layout.blocks()[block].name.clone(),
                start,
                length,
                host_page_bytes: bytes,
                block_bytes: used_length,
            }));
        };
        Ok(pages.at(block, start).0..pages.at(block, end - bytes).0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use migration_stream::protocol::put_received_bitmap;
    use migration_stream::return_path::put_return_path_message;
    use snapshot_image::ImageBlock;

    fn bed() -> (RamLayout, HostPages) {
        let block =
            |name: &[u8]| ImageBlock { name: name.to_vec(), used_length: 1 << 20, host_page_size: None };
        let layout = RamLayout::new(vec![block(b"a"), block(b"b")], 4096).unwrap();
        let pages = HostPages::new(&layout, 4096, &[]).unwrap();
        (layout, pages)
    }

    fn request(block: Option<&[u8]>, start: u64, length: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_return_path_message(&mut bytes, &ReturnPathMessage::RequestPages { block, start, length });
        bytes
    }

    #[test]
    fn messages_come_in_any_pieces() {
        let (layout, pages) = bed();
        let mut bytes = request(Some(b"b"), 4096, 8192);
        bytes.extend(request(None, 0, 4096));
        put_return_path_message(&mut bytes, &ReturnPathMessage::ReceivedBitmap(b"a"));
        put_received_bitmap(&mut bytes, 256, |page| page == 3);
        put_return_path_message(&mut bytes, &ReturnPathMessage::Shut(0));
        for piece in [1, 5, 1000] {
            let mut answers = Answers::default();
            let mut all = Vec::new();
            for part in bytes.chunks(piece) {
                answers.push(part);
                while let Some(answer) = answers.next(&layout, &pages).unwrap() {
                    all.push(answer);
                }
            }
            assert_eq!(all[..2], [Answer::Wants(257..259), Answer::Wants(256..257)]);
            assert!(matches!(&all[2], Answer::Received(0, bitmap) if bitmap.has(3) && !bitmap.has(4)));
            assert_eq!(all[3..], [Answer::Shut(0)]);
        }
    }

    #[test]
    fn an_error_says_where_its_message_begins() {
        let (layout, pages) = bed();
        let mut answers = Answers::default();
        for (message, wanted) in [
            (ReturnPathMessage::Pong(3), Answer::Pong(3)),
            (ReturnPathMessage::ResumeAck(1), Answer::ResumeAck),
            (ReturnPathMessage::SwitchoverAck, Answer::Other),
        ] {
            let mut bytes = Vec::new();
            put_return_path_message(&mut bytes, &message);
            answers.push(&bytes);
            assert_eq!(answers.next(&layout, &pages).unwrap(), Some(wanted));
        }
        let mut bytes = Vec::new();
        put_return_path_message(&mut bytes, &ReturnPathMessage::ResumeAck(2));
        answers.push(&bytes);
        let error = answers.next(&layout, &pages).unwrap_err();
        assert_eq!(error.to_string(), "return path: offset 0x14: RESUME_ACK 2, expected 1");
    }

    #[test]
    fn impossible_requests_are_refused() {
        let (layout, pages) = bed();
        let check = |bytes: &[u8], expected: &str| {
            let mut answers = Answers::default();
            answers.push(bytes);
            let error = answers.next(&layout, &pages).unwrap_err();
            assert_eq!(error.to_string(), format!("return path: offset 0x0: {expected}"));
        };
        check(&request(Some(b"x\x1b"), 0, 4096), "unknown RAM block \"x\\x1b\"");
        check(&request(None, 0, 4096), "a request that names no block, before one that does");
        let whole = "of block \"a\", expected whole host pages of 0x1000 bytes below 0x100000";
        check(&request(Some(b"a"), 1, 4096), &format!("request for 0x1000 bytes at 0x1 {whole}"));
        check(&request(Some(b"a"), 0, 4095), &format!("request for 0xfff bytes at 0x0 {whole}"));
        check(&request(Some(b"a"), 0, 0), &format!("request for 0x0 bytes at 0x0 {whole}"));
        check(&request(Some(b"a"), 1 << 20, 4096), &format!("request for 0x1000 bytes at 0x100000 {whole}"));
        let far = u64::MAX - 4095;
        check(&request(Some(b"a"), far, 8192), &format!("request for 0x2000 bytes at {far:#x} {whole}"));
        check(&[0, 9, 0, 0], "return path: return path message type 9 of length 0");
    }
}
