//! The tests of `snapinspect`: one program, since linking each file's own takes longer than its tests.

mod arrays;
mod browser;
mod channels;
mod cli;
mod common;
mod compat_pairs;
mod cores;
mod corpus;
mod costs;
mod damage;
mod device_tail;
mod image;
mod io_errors;
mod lazy_refcounts;
mod libvirt;
mod linear;
mod nodes;
mod output_files;
mod people;
mod pictures;
mod presence;
mod refcounts;
mod salvage;
mod schema;
mod sinks;
