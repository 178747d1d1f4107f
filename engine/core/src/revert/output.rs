//! What goes out: in which order, and which buffers it still needs.

use crate::machine::{Action, Body, Header, Lane};
use crate::pool::{BufferId, Pool};
use std::collections::VecDeque;

/// Everything handed to the driver, and what has become of it.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// What the driver is to do next.
    pub(crate) actions: VecDeque<Action>,
    handed_out: [u64; 2],
    sent: [u64; 2],
    /// Buffers that the channels still have to take, with the positions at which they have.
    leaving: VecDeque<([u64; 2], BufferId)>,
    /// The peer takes no more.
    pub(crate) gone: bool,
}

impl Output {
    /// Sends `header`, then `body`.
    pub(crate) fn send(&mut self, lane: Lane, header: Header, body: Option<Body>) {
        self.handed_out[lane as usize] += output_bytes(&header, body.as_ref());
        self.actions.push_back(Action::Send { lane, header, body });
    }

    /// Bytes that the driver has and the channel has not.
    pub(crate) fn unsent_bytes(&self, lane: Lane) -> u64 {
        self.handed_out[lane as usize] - self.sent[lane as usize]
    }

    /// All that was handed out has left.
    pub(crate) fn is_all_sent(&self) -> bool {
        self.handed_out == self.sent
    }

    /// Bytes that have left.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent.iter().sum()
    }

    /// Nothing was ever handed out.
    pub(crate) fn is_untouched(&self) -> bool {
        self.handed_out == [0, 0]
    }

    /// `buffer` goes back when all that was handed out up to now has left.
    pub(crate) fn release(&mut self, buffer: BufferId, pool: &mut Pool) {
        if self.is_all_sent() {
            pool.release(buffer);
        } else {
            self.leaving.push_back((self.handed_out, buffer));
        }
    }

    /// No buffer is needed any more.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.leaving.is_empty()
    }

    /// The channel has taken `bytes` more.
    pub(crate) fn sent(&mut self, lane: Lane, bytes: u64, pool: &mut Pool) {
        self.sent[lane as usize] += bytes;
        let sent = self.sent;
        while let Some((_, buffer)) =
            self.leaving.pop_front_if(|(end, _)| end.iter().zip(&sent).all(|(end, sent)| end <= sent))
        {
            pool.release(buffer);
        }
    }

    /// Takes back what the driver has not been given yet.
    pub(crate) fn take_back(&mut self) {
        for action in self.actions.drain(..) {
            if let Action::Send { lane, header, body } = action {
                self.handed_out[lane as usize] -= output_bytes(&header, body.as_ref());
            }
        }
    }
}

fn output_bytes(header: &Header, body: Option<&Body>) -> u64 {
    (header.bytes().len() + body.map_or(0, |body| body.range.len())) as u64
}
