//! The tests of the tool's command line: one program, since linking each file's own takes longer
//! than its tests.

mod bed;
mod command_line;
mod costs;
mod full_pipe;
mod last_resort;
mod linear;
mod lock;
mod no_threads;
mod unpack;
mod waits;
mod words;
