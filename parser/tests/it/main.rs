//! The tests of the parser: one program, since linking each file's own takes longer than its tests.

mod captures;
mod damaged;
mod examples;
mod malformed;
mod readers;
mod rules;
mod walked;
