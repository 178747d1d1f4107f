//! The tests of the simulator: one program, since linking each file's own takes longer than its tests.

mod bad_input;
mod bed;
mod blocking;
mod explore;
mod faults;
mod identity;
mod independent_reader;
mod mapped;
mod original_tool;
mod postcopy;
mod real;
mod real_streams;
mod refusals;
mod save_revert;
mod snapsim;
mod stream_properties;
mod traces;
