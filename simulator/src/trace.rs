//! A number for everything that a machine asked for in one run.
//!
//! Two runs with the same number did the same: the same operations, in the same order, on the same
//! bytes. So a change of the engine that is to change nothing is seen to change nothing.

use crate::rng::mix;
use snapshot_engine::{Action, Pool};
use snapshot_image::crc32c;

/// Takes in one action after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trace(u64);

impl Trace {
    /// The number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// Another run follows.
    pub(crate) fn and(&mut self, next: Self) {
        self.0 = mix(self.0 ^ next.0);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0 = mix(self.0.rotate_left(1) ^ u64::from(crc32c(bytes)) ^ (bytes.len() as u64) << 32);
    }

    /// Which buffer an action uses does not count, but what is in it does.
    pub(crate) fn action(&mut self, action: &Action, pool: &Pool) {
        match action {
            Action::ReadInput { range, .. } => self.bytes(format!("input {range:?}").as_bytes()),
            Action::Read { id, pieces, .. } => self.bytes(format!("read {id:?} {pieces:?}").as_bytes()),
            Action::Write { id, buffer, pieces } => {
                self.bytes(format!("write {id:?} {pieces:?}").as_bytes());
                pieces.iter().for_each(|piece| self.bytes(&pool.bytes(*buffer)[piece.range.clone()]));
            }
            Action::Send { lane, header, body } => {
                self.bytes(format!("send {lane:?}").as_bytes());
                self.bytes(header.bytes());
                body.iter().for_each(|body| self.bytes(&pool.bytes(body.buffer)[body.range.clone()]));
            }
            other => self.bytes(format!("{other:?}").as_bytes()),
        }
    }
}
