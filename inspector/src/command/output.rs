//! Writes the answer.

use crate::error::Error;
use std::io::{BufWriter, Stdout, Write, stdout};

/// stdout, line by line.
pub(super) struct Output {
    out: BufWriter<Stdout>,
}

impl Output {
    pub(super) fn stdout() -> Self {
        Self { out: BufWriter::with_capacity(1 << 16, stdout()) }
    }

    pub(super) fn line(&mut self, line: &str) -> Result<(), Error> {
        self.out.write_all(line.as_bytes()).and_then(|()| self.out.write_all(b"\n")).map_err(Error::output)
    }

    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(Error::output)
    }
}
