//! Device sections by means of the vmdesc: what their bytes are called, and what they say.
//!
//! The body of a device section is the concatenation of its fields, without names, tags or lengths. The vmdesc at the end
//! of the stream tells the names, types and sizes of what was written. [`Description`] reads it, [`walk`] cuts a tail
//! into devices with it, and [`decode()`] names the bytes of one of them.

mod decode;
mod description;
mod elements;
mod guess;
mod walk;

pub use decode::{Decoded, DecodedField, Value, decode};
pub use description::{Array, Description, Device, Field, State};
pub use elements::{Elements, Place};
pub use guess::{Guess, guess};
pub use walk::{Piece, Walked, find_vmdesc, oversized_vmdesc, walk};
