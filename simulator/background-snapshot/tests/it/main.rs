//! The tests of write protection: one program, since linking each file's own takes longer than its tests.

mod equality;
mod guest;
mod refusal;
