//! Which element of an array a field of a vmdesc describes.
//!
//! # The rule
//!
//! Fields of one name in a row are the elements of one array, in the order of the stream. QEMU writes
//! elements in three ways (`migration/vmstate.c`):
//!
//! * All elements have one size: a single field with `array_len`, which describes the first element.
//! * Elements can differ (`vmsd_can_compress()` is false: something in them is conditional, or has
//!   subsections): a field for each element. Up to 9.2 each of these has its `index`, in 10.0 all but the
//!   last, from 11.1 on none: the number of elements that `vmsd_desc_field_start()` is given, and only above
//!   1 takes for an array, is that of the whole array, then that of the elements still to come, and then 1
//!   (`vmstate_save_state_v()`, which is `vmstate_save_vmsd_v()` in 11.1).
//! * An array of pointers of which some are NULL, from 10.0 on: runs of NULL and of others, each described in
//!   one of the two ways. A NULL is a field of type `nullptr`, or `ptr-marker` from 11.1 on.
//!
//! Two fields of a `VMStateDescription` that have one name are no array, and cannot be mistaken for one: QEMU
//! numbers them (`vmfield_name_is_unique()`, `vmfield_name_num()`), so that their names are `x[0]` and
//! `x[1]`. What is equal and not in a row is therefore none of QEMU's; its fields stay apart.
//!
//! An array whose pointers the destination allocates (`VMS_ARRAY_OF_POINTER_AUTO_ALLOC`, 11.1: the queues of
//! `nvme`) has a `ptr-marker` in front of each element, one byte: `0` for NULL, `1` before an object, which
//! is a field of the same name. Marker and object are one element. Only the byte sets this apart from a NULL
//! before another element.

use super::vmdesc::{Array, Field};

/// Type of the byte that says whether a pointer is NULL (11.1).
pub(super) const POINTER_MARKER: &str = "ptr-marker";
/// The marker of a NULL (`VMS_MARKER_PTR_NULL`); from 2.11 to 10.0 the only one, of type `nullptr`.
pub(super) const MARKER_NULL: u8 = b'0';
/// The marker in front of an object (`VMS_MARKER_PTR_VALID`).
pub(super) const MARKER_VALID: u8 = b'1';

/// What a field is to the fields around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A field by itself; with [`Array::Len`] a whole array.
    Alone,
    /// The element with this index; with [`Array::Len`] that one and those behind it.
    Element(u64),
}

/// Numbers the fields of one state, which are asked for in their order.
#[derive(Debug)]
pub struct Elements<'a> {
    fields: &'a [Field],
    at: usize,
    /// Index of the next element, should the next field go on with the array.
    next: u64,
}

impl<'a> Elements<'a> {
    /// Of these fields, which are all of one state.
    #[must_use]
    pub fn new(fields: &'a [Field]) -> Self {
        Self { fields, at: 0, next: 0 }
    }

    /// The place of the next field, whose first byte is `first`. [`Place::Alone`] behind the last one.
    pub fn place(&mut self, first: Option<u8>) -> Place {
        let Some(field) = self.fields.get(self.at) else { return Place::Alone };
        let is_same = |other: Option<&Field>| other.is_some_and(|other| other.name == field.name);
        let goes_on = is_same(self.at.checked_sub(1).and_then(|before| self.fields.get(before)));
        let following = self.fields.get(self.at + 1).filter(|other| other.name == field.name);
        self.at += 1;
        if !goes_on {
            self.next = 0;
        }
        let index = match field.array {
            Array::Index(index) => index,
            Array::Single | Array::Len(_) if !goes_on && following.is_none() => return Place::Alone,
            Array::Single | Array::Len(_) => self.next,
        };
        let has_its_object_behind_it = field.type_name == POINTER_MARKER
            && first == Some(MARKER_VALID)
            && following.is_some_and(|other| other.type_name != POINTER_MARKER);
        self.next = match field.array {
            _ if has_its_object_behind_it => index,
            Array::Len(count) => index.saturating_add(count),
            Array::Single | Array::Index(_) => index.saturating_add(1),
        };
        Place::Element(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    fn places(fields: &[(&str, &str, Array)], bytes: &[u8]) -> Vec<Option<u64>> {
        let fields: Vec<Field> = fields
            .iter()
            .map(|&(name, type_name, array)| Field {
                name: name.to_owned(),
                type_name: type_name.to_owned(),
                array,
                size: 1,
                nested: Vec::new(),
            })
            .collect();
        let mut elements = Elements::new(&fields);
        (0..fields.len())
            .map(|at| match elements.place(bytes.get(at).copied()) {
                Place::Alone => None,
                Place::Element(index) => Some(index),
            })
            .collect()
    }

    fn of_structs(fields: &[(&str, Array)]) -> Vec<Option<u64>> {
        let fields: Vec<_> = fields.iter().map(|&(name, array)| (name, "struct", array)).collect();
        places(&fields, &[])
    }

    const ONE: Array = Array::Single;

    #[test]
    fn elements_are_numbered_whether_all_some_or_none_have_an_index() {
        let index = Array::Index;
        let expected = [Some(0), Some(1), Some(2), None];
        assert_eq!(of_structs(&[("a", index(0)), ("a", index(1)), ("a", index(2)), ("b", ONE)]), expected);
        assert_eq!(of_structs(&[("a", index(0)), ("a", index(1)), ("a", ONE), ("b", ONE)]), expected);
        assert_eq!(of_structs(&[("a", ONE), ("a", ONE), ("a", ONE), ("b", ONE)]), expected);
        // Some that were left out, and an index at the end of all indices.
        assert_eq!(of_structs(&[("a", ONE), ("a", index(5)), ("a", ONE)]), [Some(0), Some(5), Some(6)]);
        assert_eq!(of_structs(&[("a", index(u64::MAX)), ("a", ONE)]), [Some(u64::MAX); 2]);
    }

    #[test]
    fn arrays_beside_each_other_and_equal_names_apart_are_not_one_array() {
        let expected = [Some(0), Some(1), Some(0), Some(1), None];
        assert_eq!(of_structs(&[("a", ONE), ("a", ONE), ("b", ONE), ("b", ONE), ("a", ONE)]), expected);
        // QEMU's own numbers are parts of names.
        assert_eq!(of_structs(&[("x[0]", ONE), ("x[1]", ONE)]), [None, None]);
        assert_eq!(of_structs(&[("x[0]", Array::Len(3)), ("x[1]", ONE)]), [None, None]);
    }

    #[test]
    fn runs_of_null_count_as_many_elements_as_they_have() {
        let fields = [
            ("a", "nullptr", Array::Len(3)),
            ("a", "struct", Array::Len(2)),
            ("a", "nullptr", ONE),
            ("a", "struct", ONE),
        ];
        assert_eq!(places(&fields, b"0000"), [Some(0), Some(3), Some(5), Some(6)]);
        // 11.1 has another name for them; those that are NULL have no object behind them.
        let fields = [("a", POINTER_MARKER, ONE), ("a", "struct", ONE), ("a", POINTER_MARKER, ONE)];
        assert_eq!(places(&fields, b"0x0"), [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn a_marker_and_the_object_behind_it_are_one_element() {
        let fields = [
            ("sq", POINTER_MARKER, ONE),
            ("sq", "struct", ONE),
            ("sq", POINTER_MARKER, ONE),
            ("sq", POINTER_MARKER, ONE),
            ("sq", "struct", ONE),
        ];
        assert_eq!(places(&fields, b"1x01x"), [Some(0), Some(0), Some(1), Some(2), Some(2)]);
        // A marker without its object is an element all the same.
        assert_eq!(
            places(&[("sq", POINTER_MARKER, ONE), ("sq", POINTER_MARKER, ONE)], b"11"),
            [Some(0), Some(1)]
        );
    }

    #[test]
    fn behind_the_last_field_there_is_none() {
        let mut elements = Elements::new(&[]);
        assert_eq!(elements.place(None), Place::Alone);
    }
}
