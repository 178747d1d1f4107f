//! What cannot be protected is refused before anything happens.

use background_snapshot::{Backing, Error, Mapping, Options, Prepared, Region, Userfault};
use std::sync::Arc;

#[test]
fn memory_of_a_file_is_refused_before_the_guest_is_touched() {
    if let Err(error) = Userfault::open(0) {
        return test_support::not_run(&format!("no userfaultfd: {error}"));
    }
    // A directory on a disk: on tmpfs the memory could be protected.
    let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    file.set_len(16 * 4096).unwrap();
    let file = Arc::new(Mapping::new(16 * 4096, &Backing::File(&file)).unwrap());
    let ram = Arc::new(Mapping::new(16 * 4096, &Backing::Anonymous).unwrap());
    let error = Prepared::new(vec![ram.clone().into(), file.into()], Options::default()).unwrap_err();
    let Error::Unprotectable { region: 1, length: 65536, .. } = &error else { panic!("{error}") };
    assert!(error.to_string().contains("cannot be write-protected"), "{error}");
    // Nothing is left protected: no one would serve the fault.
    ram.store(0, 1);
    assert_eq!(ram.load(0), 1);
}

#[test]
fn regions_must_be_whole_pages_and_apart() {
    let ram = Arc::new(Mapping::new(16 * 4096, &Backing::Anonymous).unwrap());
    let whole = Region::from(ram.clone());
    let error = Prepared::new(vec![whole.clone(), whole], Options::default()).unwrap_err();
    assert!(error.to_string().ends_with("overlaps another region"), "{error}");
    assert!(error.to_string().starts_with("region 1 (65536 bytes at 0x"), "{error}");
}

#[test]
fn a_mapping_is_of_whole_pages() {
    let error = Mapping::new(4097, &Backing::Anonymous).unwrap_err();
    assert_eq!(error.to_string(), "4097 bytes of memory, expected a multiple of its page size 4096");
}
