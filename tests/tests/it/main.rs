//! The tests with real QEMU: one program, since linking each file's own takes longer than its tests.

mod bed;
mod channels;
mod ci_verdict;
mod clones;
mod conformance;
mod cores;
mod corpus;
mod elsewhere;
mod expectations;
mod failing_disk;
mod failures;
mod guests;
mod inspect_analyzer;
mod inspect_compat;
mod inspect_convert;
mod inspect_streams;
mod kills;
mod malformed;
mod pairing;
mod postcopy;
mod publish;
mod readme;
mod save_revert;
mod snapsim;
mod snapsim_tool;
mod unpack;
