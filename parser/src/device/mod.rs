//! Device sections by means of the vmdesc: what their bytes are called, and what they say.
//!
//! The body of a device section is the concatenation of its fields, without names, tags or lengths. The
//! vmdesc at the end of the stream has the names, types and sizes of what was written. [`Vmdesc`] reads it,
//! [`Walker`](crate::device_tail::Walker) cuts a tail into devices with it, and [`decode()`] names the bytes
//! of one of them.

mod decode;
mod elements;
mod guess;
#[cfg(feature = "vmdesc")]
mod repeated_keys;
mod vmdesc;

pub use decode::{Decoded, DecodedField, Value, decode};
pub use elements::{Elements, Place};
pub use guess::{Guess, guess};
#[cfg(feature = "vmdesc")]
pub use repeated_keys::{RepeatedKey, repeated_keys};
pub use vmdesc::{Array, Device, Field, State, Vmdesc};
