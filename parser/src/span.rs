//! Bytes that know where in the stream they stand.

use crate::error::ErrorKind;
use crate::prelude::*;
use nom::{Err, IResult, Needed};

/// A piece of the stream with the offset of its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Offset of the first one in the stream.
    pub offset: u64,
}

/// Why a record cannot be read: place and kind. Small, for the hot path; the section's path is added outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reject {
    /// Offset of the field that is wrong.
    pub offset: u64,
    /// What is wrong with it.
    pub kind: Box<ErrorKind>,
}

/// What a record parser returns: the rest and the record, `Incomplete`, or why not.
pub(crate) type Parsed<'a, T> = IResult<Span<'a>, T, Reject>;

impl<'a> Span<'a> {
    /// `bytes`, the first of which is at `offset`.
    #[must_use]
    pub(crate) fn new(bytes: &'a [u8], offset: u64) -> Self {
        Self { bytes, offset }
    }

    /// The error that something at the start of this span is wrong.
    #[must_use]
    pub(crate) fn reject(&self, kind: ErrorKind) -> Err<Reject> {
        Err::Failure(Reject { offset: self.offset, kind: Box::new(kind) })
    }

    /// How many bytes have been taken from `self` to arrive at `rest`.
    #[must_use]
    pub(crate) fn consumed(&self, rest: &Span<'_>) -> usize {
        self.bytes.len() - rest.bytes.len()
    }
}

impl<'a> nom::Input for Span<'a> {
    type Item = u8;
    type Iter = core::iter::Copied<core::slice::Iter<'a, u8>>;
    type IterIndices = core::iter::Enumerate<Self::Iter>;

    fn input_len(&self) -> usize {
        self.bytes.len()
    }
    fn take(&self, index: usize) -> Self {
        Self::new(&self.bytes[..index], self.offset)
    }
    fn take_from(&self, index: usize) -> Self {
        Self::new(&self.bytes[index..], self.offset + index as u64)
    }
    fn take_split(&self, index: usize) -> (Self, Self) {
        (self.take_from(index), self.take(index))
    }
    fn position<P: Fn(Self::Item) -> bool>(&self, predicate: P) -> Option<usize> {
        self.bytes.iter().position(|&byte| predicate(byte))
    }
    fn iter_elements(&self) -> Self::Iter {
        self.bytes.iter().copied()
    }
    fn iter_indices(&self) -> Self::IterIndices {
        self.iter_elements().enumerate()
    }
    fn slice_index(&self, count: usize) -> Result<usize, Needed> {
        match count.checked_sub(self.bytes.len()) {
            None | Some(0) => Ok(count),
            Some(missing) => Err(Needed::new(missing)),
        }
    }
}

/// nom's own parsers fail in no other way than `Incomplete` here; what they would report has a place and no
/// more.
impl nom::error::ParseError<Span<'_>> for Reject {
    fn from_error_kind(input: Span<'_>, _: nom::error::ErrorKind) -> Self {
        Self { offset: input.offset, kind: Box::new(ErrorKind::Malformed) }
    }
    fn append(_: Span<'_>, _: nom::error::ErrorKind, other: Self) -> Self {
        other
    }
}

/// Takes exactly `length` bytes.
///
/// # Errors
///
/// `Incomplete` with the number of missing bytes.
pub(crate) fn take<'a>(input: Span<'a>, length: usize) -> Parsed<'a, &'a [u8]> {
    match input.bytes.split_at_checked(length) {
        Some((head, tail)) => Ok((Span::new(tail, input.offset + length as u64), head)),
        None => Err(Err::Incomplete(Needed::new(length - input.bytes.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nom::Input;

    #[test]
    fn a_piece_that_is_missing_is_told_by_its_length() {
        let span = Span::new(b"abc", 5);
        assert_eq!(take(span, 2), Ok((Span::new(b"c", 7), &b"ab"[..])));
        assert_eq!(take(span, 3), Ok((Span::new(b"", 8), &b"abc"[..])));
        assert_eq!(take(span, 7), Err(Err::Incomplete(Needed::new(4))));
        assert_eq!(span.slice_index(3), Ok(3));
        assert_eq!(span.slice_index(7), Err(Needed::new(4)));
    }

    #[test]
    fn a_span_is_split_and_searched_as_its_bytes_are() {
        let span = Span::new(b"abc", 5);
        assert_eq!((span.input_len(), span.consumed(&span.take_from(2))), (3, 2));
        assert_eq!(span.take_split(1), (Span::new(b"bc", 6), Span::new(b"a", 5)));
        assert_eq!(span.position(|byte| byte == b'c'), Some(2));
        assert_eq!(span.position(|byte| byte == b'd'), None);
        assert!(span.iter_indices().eq([(0, b'a'), (1, b'b'), (2, b'c')]));
    }
}
