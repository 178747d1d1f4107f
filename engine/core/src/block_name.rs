//! Names of RAM blocks as names of files, and as text: for whoever keeps a guest's RAM in files.

/// What a folder of RAM files has beside them: what says which snapshot they are.
pub const RAM_FILES_MANIFEST: &str = "manifest.json";

/// The longest name of a file, in bytes: room for what a file system or a program adds.
const FILE_NAME_LIMIT_BYTES: usize = 200;
/// How much of a name that is too long is kept, in bytes.
const KEPT_BYTES: usize = 160;

/// A name for the file of RAM block number `number`, whatever the block's name is: letters, digits, `.`,
/// `_`, `-`, and `%` with two digits for any other byte. It does not begin with a dot, is not
/// [`RAM_FILES_MANIFEST`], and no other name of a block has the same.
///
/// A name that becomes too long is cut, and ends with `%-` and the block's number.
#[must_use]
pub fn ram_file_name(block: &[u8], number: usize) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let mut name = escape(block, is_plain);
    if name.starts_with('.') || name == RAM_FILES_MANIFEST {
        name = format!("%{:02x}{}", name.as_bytes()[0], &name[1..]);
    }
    if name.len() > FILE_NAME_LIMIT_BYTES {
        name.truncate(KEPT_BYTES);
        name.push_str(&format!("%-{number}"));
    }
    name
}

/// A block's name as text: `%` and two digits stand for what is no printable character of ASCII, and for
/// `%` itself.
#[must_use]
pub fn block_name_text(block: &[u8]) -> String {
    escape(block, |byte| byte.is_ascii_graphic() && byte != b'%')
}

/// Reads what [`block_name_text`] writes.
#[must_use]
pub fn parse_block_name(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut name = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        name.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let digits = std::str::from_utf8(&digits).ok().filter(|digits| !digits.starts_with('+'))?;
                u8::from_str_radix(digits, 16).ok()?
            }
            byte if byte.is_ascii_graphic() => byte,
            _ => return None,
        });
    }
    Some(name)
}

fn escape(bytes: &[u8], is_plain: impl Fn(u8) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if is_plain(byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_of_a_block_is_a_name_of_a_file() {
        for (block, wanted) in [
            (&b"pc.ram"[..], "pc.ram"),
            (b"0000:00:02.0/vga.vram", "0000%3a00%3a02.0%2fvga.vram"),
            (b"/rom@etc/acpi/tables", "%2from%40etc%2facpi%2ftables"),
            (b"..", "%2e."),
            (b".", "%2e"),
            (b".pc.ram.partial", "%2epc.ram.partial"),
            (b"manifest.json", "%6danifest.json"),
            (b"%6danifest.json", "%256danifest.json"),
            (b"a\0\n\xff", "a%00%0a%ff"),
            (b"-rf", "-rf"),
        ] {
            assert_eq!(ram_file_name(block, 0), wanted);
        }
        // As long as a name in the stream can be, with nothing in it that a file may be called.
        let long = [b'/'; 255];
        let names = [ram_file_name(&long, 3), ram_file_name(&long[..254], 4), ram_file_name(&[b'a'; 255], 5)];
        assert!(names.iter().all(|name| name.len() <= FILE_NAME_LIMIT_BYTES));
        assert_eq!(names[0][KEPT_BYTES..], *"%-3");
        assert_ne!(names[0], names[1]);
    }

    #[test]
    fn a_name_survives_as_text() {
        let every: Vec<u8> = (0..=255).collect();
        for name in [&every[..], b"pc.ram", b"", b"%", b"%41"] {
            assert_eq!(parse_block_name(&block_name_text(name)).as_deref(), Some(name));
        }
        assert_eq!(block_name_text(b"0000:00:02.0/vga.vram"), "0000:00:02.0/vga.vram");
        for wrong in ["%", "%4", "%+4", "%4g", "a b", "\u{e4}"] {
            assert_eq!(parse_block_name(wrong), None, "{wrong}");
        }
    }
}
