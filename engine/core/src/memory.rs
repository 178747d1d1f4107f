//! Memory that grows with the input, or with what the user allows: always asked for in a way that
//! can be refused.
//!
//! What is refused is a [`Failure`](crate::Failure) like any other: a live source is drained, and
//! its QEMU sees the failure. An allocation that cannot be refused ends the process, and with it a
//! guest of QEMU 7.2 in a background snapshot.

/// The system gives no more memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "out of memory: {bytes} bytes for {what} were refused (a limit of the process or of its control group?)"
)]
pub struct OutOfMemory {
    /// What it was for.
    pub what: &'static str,
    /// How much was asked for.
    pub bytes: u64,
}

impl OutOfMemory {
    pub(crate) fn new(what: &'static str, bytes: usize) -> Self {
        Self { what, bytes: bytes as u64 }
    }
}

/// Appends bytes.
pub(crate) fn append(to: &mut Vec<u8>, bytes: &[u8], what: &'static str) -> Result<(), OutOfMemory> {
    if bytes.len() > to.capacity() - to.len() {
        // Not as much again, as a vector takes by itself: one list can be the most of what is held.
        let more = bytes.len().max(to.len() / 8);
        to.try_reserve_exact(more).map_err(|_| OutOfMemory::new(what, to.len() + bytes.len()))?;
    }
    to.extend_from_slice(bytes);
    Ok(())
}

/// So much memory can be had, for a step whose many parts cannot be refused one by one. Nothing
/// else takes memory meanwhile.
pub(crate) fn probe(bytes: usize, what: &'static str) -> Result<(), OutOfMemory> {
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| OutOfMemory::new(what, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error_that_says_what_it_was_for() {
        let mut bytes = vec![1];
        append(&mut bytes, &[2, 3], "a test").unwrap();
        assert_eq!(bytes, [1, 2, 3]);
        let error = probe(usize::MAX / 4, "a test").unwrap_err();
        assert_eq!(error, OutOfMemory { what: "a test", bytes: (usize::MAX / 4) as u64 });
        assert!(
            error.to_string().starts_with("out of memory: 4611686018427387903 bytes for a test"),
            "{error}"
        );
        probe(1 << 20, "a test").unwrap();
    }
}
