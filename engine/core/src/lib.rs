//! Placeholder front page; written with the machines.

pub mod machine;
pub mod pool;
