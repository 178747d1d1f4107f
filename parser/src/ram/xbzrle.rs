//! XBZRLE: a page as the difference to its content before.

use crate::error::ErrorKind;
use crate::prelude::*;

/// Applies `delta` to `page` (`xbzrle_decode_buffer`, migration/xbzrle.c): pairs of a run of unchanged bytes
/// and a run of new ones, lengths as ULEB128 of at most two bytes.
///
/// # Errors
///
/// What is wrong with the delta; the page is unspecified then.
pub fn decode(delta: &[u8], page: &mut [u8]) -> Result<(), ErrorKind> {
    let wrong = |text| Err(ErrorKind::Xbzrle(text));
    let mut rest = delta;
    let mut at = 0;
    let mut first = true;
    while !rest.is_empty() {
        let (unchanged, after) = uleb128(rest)?;
        if unchanged == 0 && !first {
            return wrong("empty run of unchanged bytes");
        }
        first = false;
        at += unchanged;
        let (changed, after) = uleb128(after)?;
        if changed == 0 {
            return wrong("empty run of new bytes");
        }
        let Some(place) = page.get_mut(at..at + changed) else { return wrong("a run ends behind the page") };
        let Some((bytes, after)) = after.split_at_checked(changed) else { return wrong("a run is cut off") };
        place.copy_from_slice(bytes);
        at += changed;
        rest = after;
    }
    Ok(())
}

fn uleb128(bytes: &[u8]) -> Result<(usize, &[u8]), ErrorKind> {
    match bytes {
        // QEMU wants two bytes before each number: a run of unchanged bytes never comes last.
        [] | [_] => Err(ErrorKind::Xbzrle("a length is cut off")),
        [low, rest @ ..] if low & 0x80 == 0 => Ok((usize::from(*low), rest)),
        [_, high, ..] if high & 0x80 != 0 => Err(ErrorKind::Xbzrle("a length of more than two bytes")),
        [low, high, rest @ ..] => Ok((usize::from(low & 0x7f) | usize::from(*high) << 7, rest)),
    }
}

/// Writes the delta that turns `old` into `new`.
pub fn encode(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(start) = (at..new.len()).find(|&i| old[i] != new[i]) {
        let end = (start..new.len()).find(|&i| old[i] == new[i]).unwrap_or(new.len());
        put_uleb128(&mut out, start - at);
        put_uleb128(&mut out, end - start);
        out.extend_from_slice(&new[start..end]);
        at = end;
    }
    out
}

fn put_uleb128(out: &mut Vec<u8>, value: usize) {
    let byte = |value: usize| value.to_le_bytes()[0] & 0x7f;
    if value < 0x80 {
        out.push(byte(value));
    } else {
        out.extend_from_slice(&[byte(value) | 0x80, byte(value >> 7)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_then_decode_gives_the_new_page() {
        let old: Vec<u8> = (0..4096u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut new = old.clone();
        new[0] = 0xff;
        new[200..500].fill(0xee);
        new[4095] = 0xff;
        let mut page = old.clone();
        decode(&encode(&old, &new), &mut page).unwrap();
        assert_eq!(page, new);
        assert!(encode(&old, &old).is_empty());
    }

    #[test]
    fn decode_refuses_what_qemu_refuses() {
        let check = |delta: &[u8], expected: &str| {
            assert_eq!(
                decode(delta, &mut [0; 4096]).unwrap_err().to_string(),
                format!("XBZRLE delta: {expected}")
            );
        };
        check(&[0], "a length is cut off");
        check(&[1, 0, 0], "empty run of new bytes");
        check(&[0, 1, 7, 0, 1, 7], "empty run of unchanged bytes");
        check(&[0x80, 0x80, 1, 7], "a length of more than two bytes");
        check(&[0xff, 0x1f, 2, 7, 7], "a run ends behind the page");
        check(&[0, 5, 7], "a run is cut off");
    }

    #[test]
    fn a_length_from_128_on_takes_two_bytes() {
        for (unchanged, length) in [(0x7f, &[0x7f][..]), (0x80, &[0x80, 1]), (0x3fff, &[0xff, 0x7f])] {
            let (old, mut new) = (vec![0; unchanged + 1], vec![0; unchanged + 1]);
            new[unchanged] = 9;
            assert_eq!(encode(&old, &new), [length, &[1, 9]].concat(), "{unchanged:#x}");
        }
    }
}
