//! The QCOW2 container (docs/interop/qcow2.txt of QEMU).

pub(crate) mod header;
pub(crate) mod tables;
