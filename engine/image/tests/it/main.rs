//! The tests of images: one program, since linking each file's own takes longer than its tests.
//! Those in `tests/hostile` have a limit on all memory that their program takes.

#[path = "../bed/mod.rs"]
mod bed;
mod bit_flips;
mod limits;
mod linear;
mod protocol;
mod reading;
