//! Which memory objects the command line of a QEMU makes: `/proc/PID/cmdline`, each argument ended
//! by a zero byte.
//!
//! A list of mappings does not say which RAM block a mapping is. QEMU names the block after the
//! object (`backends/hostmem.c`, `host_memory_backend_get_name`: the id, or `/objects/` and the id
//! where the machine has `x-use-canonical-path-for-ramblock-id`), and maps the file at the object's
//! `offset` (`backends/hostmem-file.c`).

use serde_json::Value;
use std::collections::BTreeMap;

/// Longest command line that is read; the kernel's own limit for one argument is 128 KiB.
pub(crate) const COMMAND_LINE_LIMIT_BYTES: usize = 8 << 20;

/// A `memory-backend-file` object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its id.
    pub id: Vec<u8>,
    /// Where its memory begins in the file, in bytes.
    pub offset: u64,
    /// Length of its memory, in bytes.
    pub size: u64,
    /// The machine, a NUMA node or a DIMM has it as memory.
    pub used: bool,
}

/// Why a command line says nothing certain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// An object that cannot be understood.
    #[error("object \"{}\": {what}", .object.escape_ascii())]
    Object {
        /// The option's value.
        object: Vec<u8>,
        /// What is wrong.
        what: &'static str,
    },
}

/// Properties by name; the last value counts.
type Properties = BTreeMap<Vec<u8>, Vec<u8>>;

/// Reads the `memory-backend-file` objects of a command line.
///
/// # Errors
///
/// Such an object without an id or a size, or with a number that cannot be understood.
pub fn parse_command_line(bytes: &[u8]) -> Result<Vec<Backend>, CommandLineError> {
    let mut arguments = bytes.split(|&byte| byte == 0).peekable();
    let mut backends = Vec::new();
    let mut machine_memory: Option<Vec<u8>> = None;
    let mut used: Vec<Vec<u8>> = Vec::new();
    while let Some(argument) = arguments.next() {
        let name = argument.strip_prefix(b"--").or_else(|| argument.strip_prefix(b"-"));
        let implied: &[u8] = match name {
            Some(b"object") => b"qom-type",
            Some(b"machine" | b"M" | b"numa") => b"type",
            Some(b"device") => b"driver",
            _ => continue,
        };
        let Some(value) = arguments.next() else { break };
        let mut properties = properties(value, implied);
        match name {
            Some(b"object") => backends.extend(backend(value, &properties)?),
            Some(b"machine" | b"M") => {
                machine_memory = properties.remove(&b"memory-backend"[..]).or(machine_memory);
            }
            Some(b"numa") => used.extend(properties.remove(&b"memdev"[..])),
            _ if properties.get(&b"driver"[..]).is_some_and(|driver| driver == b"pc-dimm") => {
                used.extend(properties.remove(&b"memdev"[..]));
            }
            _ => {}
        }
    }
    used.extend(machine_memory);
    for backend in &mut backends {
        backend.used = used.contains(&backend.id);
    }
    Ok(backends)
}

fn backend(value: &[u8], properties: &Properties) -> Result<Option<Backend>, CommandLineError> {
    if properties.get(&b"qom-type"[..]).is_none_or(|kind| kind != b"memory-backend-file") {
        return Ok(None);
    }
    let error = |what| CommandLineError::Object { object: value.to_vec(), what };
    let id = properties.get(&b"id"[..]).ok_or_else(|| error("it has no id"))?.clone();
    let offset = match properties.get(&b"offset"[..]) {
        Some(text) => bytes_of(text).ok_or_else(|| error("its offset cannot be understood"))?,
        None => 0,
    };
    let size = properties.get(&b"size"[..]).ok_or_else(|| error("it has no size"))?;
    let size = bytes_of(size).ok_or_else(|| error("its size cannot be understood"))?;
    Ok(Some(Backend { id, offset, size, used: false }))
}

/// The properties of an option: `key=value,key=value` (`util/keyval.c`: a comma in a value is
/// written twice, a first value without a key has `implied`), or a JSON object.
fn properties(value: &[u8], implied: &[u8]) -> Properties {
    if value.starts_with(b"{") {
        return json(value);
    }
    let mut found = Properties::new();
    for (at, part) in split_at_commas(value).into_iter().enumerate() {
        match part.iter().position(|&byte| byte == b'=') {
            Some(equals) => found.insert(part[..equals].to_vec(), part[equals + 1..].to_vec()),
            None if at == 0 => found.insert(implied.to_vec(), part),
            None => found.insert(part, b"on".to_vec()),
        };
    }
    found
}

fn split_at_commas(value: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = value.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&b',').is_none() {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(byte);
        }
    }
    parts
}

/// What is neither text nor a number has no part in this.
fn json(value: &[u8]) -> Properties {
    let Ok(Value::Object(object)) = serde_json::from_slice(value) else { return Properties::new() };
    object
        .into_iter()
        .filter_map(|(key, value)| match value {
            Value::String(text) => Some((key.into_bytes(), text.into_bytes())),
            Value::Number(number) => Some((key.into_bytes(), number.to_string().into_bytes())),
            _ => None,
        })
        .collect()
}

/// A size as `util/cutils.c`, `qemu_strtosz`, takes it; without fractions.
fn bytes_of(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        return u64::from_str_radix(digits, 16).ok().filter(|_| plain);
    }
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let shift = match unit {
        "" | "b" | "B" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        "p" | "P" => 50,
        "e" | "E" => 60,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Vec<Backend>, String> {
        let bytes: Vec<u8> =
            arguments.iter().flat_map(|argument| [argument.as_bytes(), &[0]].concat()).collect();
        parse_command_line(&bytes).map_err(|error| error.to_string())
    }

    fn backend(id: &str, offset: u64, size: u64, used: bool) -> Backend {
        Backend { id: id.into(), offset, size, used }
    }

    #[test]
    fn objects_are_found_in_each_form() {
        let plain = "memory-backend-file,id=pc.ram,size=64M,mem-path=/a,,b,offset=0x200000,share=off";
        let ram = backend("pc.ram", 2 << 20, 64 << 20, true);
        assert_eq!(
            parsed(&["qemu", "-object", plain, "-machine", "pc,memory-backend=pc.ram"]),
            Ok(vec![ram.clone()])
        );
        assert_eq!(
            parsed(&["qemu", "--object", plain, "-M", "memory-backend=pc.ram"]),
            Ok(vec![ram.clone()])
        );
        let named = plain.replace("memory-backend-file", "qom-type=memory-backend-file");
        assert_eq!(
            parsed(&["-M", "memory-backend=pc.ram,type=pc", "-object", &named]),
            Ok(vec![ram.clone()])
        );
        let json = r#"{"qom-type":"memory-backend-file","id":"pc.ram","size":67108864,"offset":2097152,"share":false}"#;
        assert_eq!(parsed(&["-object", json, "-machine", "pc,memory-backend=pc.ram"]), Ok(vec![ram]));
    }

    #[test]
    fn an_object_counts_as_used_where_it_is_memory() {
        let of = |id: &str| format!("memory-backend-file,id={id},size=1G,mem-path=/a");
        let (a, b, c) = (of("a"), of("b"), of("c"));
        let found = parsed(&[
            "-object",
            &a,
            "-object",
            &b,
            "-object",
            &c,
            "-numa",
            "node,memdev=a",
            "-device",
            "pc-dimm,id=d,memdev=b",
            "-device",
            "ivshmem-plain,memdev=c",
        ]);
        let used: Vec<_> = found.unwrap().iter().map(|backend| backend.used).collect();
        assert_eq!(used, [true, true, false]);
        // The last one counts.
        let found =
            parsed(&["-object", &a, "-object", &b, "-M", "pc,memory-backend=a", "-M", "memory-backend=b"]);
        let used: Vec<_> = found.unwrap().iter().map(|backend| backend.used).collect();
        assert_eq!(used, [false, true]);
        let json = r#"{"driver":"pc-dimm","memdev":"a"}"#;
        assert!(parsed(&["-object", &a, "-device", json]).unwrap()[0].used);
    }

    #[test]
    fn what_is_no_memory_in_a_file_is_left_out() {
        assert_eq!(
            parsed(&[
                "-object",
                "memory-backend-ram,id=pc.ram,size=1G",
                "-name",
                "-object",
                "rng-random,id=x"
            ]),
            Ok(vec![])
        );
        assert_eq!(parsed(&["qemu", "-object"]), Ok(vec![]));
        assert_eq!(parsed(&["-object", "{\"qom-type\": []"]), Ok(vec![]));
    }

    #[test]
    fn an_object_that_cannot_be_understood_is_an_error() {
        let refused = |object: &str| parsed(&["-object", object]).unwrap_err();
        assert!(refused("memory-backend-file,size=1G").ends_with("it has no id"));
        assert!(refused("memory-backend-file,id=a").ends_with("it has no size"));
        assert!(refused("memory-backend-file,id=a,size=1.5G").ends_with("its size cannot be understood"));
        assert!(
            refused("memory-backend-file,id=a,size=1,offset=+1").ends_with("its offset cannot be understood")
        );
        assert!(
            refused("memory-backend-file,id=a,size=99999999999999E")
                .ends_with("its size cannot be understood")
        );
    }
}
