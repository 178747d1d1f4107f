//! What both ends of a migration agree on beyond the bytes: who may say what, and when.

mod incoming;
mod received;

pub use incoming::{Incoming, IncomingState, OutOfOrder};
pub use received::{ReceivedBitmap, ReceivedBitmapError, put_received_bitmap};
