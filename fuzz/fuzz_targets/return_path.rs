//! Whatever a destination answers: no panic, a message is the same in whatever pieces it comes, and
//! what is understood encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migration_stream::return_path::{
    ReturnPathMessage, put_return_path_message, received_bitmap, return_path_message,
};

fuzz_target!(|answers: &[u8]| {
    let mut at = 0;
    loop {
        let rest = &answers[at..];
        let Ok(whole) = return_path_message(rest, at as u64) else { return };
        let Some((length, message)) = whole else { return };
        for cut in 0..length {
            // An error may show before everything has come; a message may not.
            assert!(
                !matches!(return_path_message(&rest[..cut], at as u64), Ok(Some(_))),
                "{message:?} of {cut}"
            );
        }
        let mut encoded = Vec::new();
        put_return_path_message(&mut encoded, &message);
        assert!(encoded == rest[..length], "{message:?}");
        at += length;
        if let ReturnPathMessage::ReceivedBitmap(_) = message {
            let rest = &answers[at..];
            match received_bitmap(rest, at as u64) {
                Ok(Some((length, bits))) => {
                    assert_eq!(length, bits.len() + 16);
                    assert!(!matches!(received_bitmap(&rest[..length - 1], 0), Ok(Some(_))));
                    at += length;
                }
                Ok(None) | Err(_) => return,
            }
        }
    }
});
