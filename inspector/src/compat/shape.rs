//! What can be compared of a stream, or of the file that `-dump-vmstate` writes.

mod sent;

use crate::contents::{Contents, load_opened};
use crate::error::Error;
use crate::escape::{json_text, terminal};
use crate::input::{OpenOptions, Opened, open};
use crate::presence::Presence;
use migration_stream::{RamBlock, UNKNOWN_LENGTH};
use serde_json::Value as Json;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

/// The longest `-dump-vmstate` file that is read; some MB are usual.
const JSON_LIMIT_BYTES: u64 = 256 << 20;
/// The deepest nesting of descriptions that is followed.
const DEPTH_LIMIT: usize = 64;

/// A machine, as far as loading depends on it.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// It describes what can be sent, not what was.
    pub(super) is_dump: bool,
    pub(super) machine: Option<Vec<u8>>,
    /// The stream begins with a configuration section.
    pub(super) has_configuration: bool,
    pub(super) capabilities: Vec<Vec<u8>>,
    pub(super) uuid: Option<[u8; 16]>,
    pub(super) page_size: u32,
    pub(super) footers: bool,
    pub(super) switchover_start: bool,
    pub(super) postcopy_advised: bool,
    pub(super) postcopy: bool,
    pub(super) compressed: bool,
    pub(super) multifd: bool,
    pub(super) blocks: Vec<RamBlock>,
    /// Blocks whose RAM is not in the stream: their names, and where it is.
    pub(super) absent: Vec<(Vec<u8>, Presence)>,
    pub(super) iterables: Vec<(Vec<u8>, u32, u32)>,
    pub(super) devices: Vec<DeviceShape>,
}

/// A device.
#[derive(Debug, Clone)]
pub(super) struct DeviceShape {
    /// Name and instance; of a dump the type's name.
    pub(super) idstr: Vec<u8>,
    pub(super) instance_id: u32,
    pub(super) version: u64,
    /// What was sent.
    pub(super) body: Vec<u8>,
    /// None where nothing describes it.
    pub(super) state: Option<StateShape>,
}

/// A state: of a device, a structure or a subsection.
#[derive(Debug, Clone, Default)]
pub(super) struct StateShape {
    pub(super) name: String,
    pub(super) version: u64,
    /// The oldest version that is loaded, where that is known.
    pub(super) minimum_version: Option<u64>,
    pub(super) fields: Vec<FieldShape>,
    pub(super) subsections: Vec<StateShape>,
}

impl StateShape {
    /// How many bytes its fields are on the wire, which a dump does not say.
    pub(super) fn wire_bytes(&self) -> Option<u64> {
        self.fields.iter().try_fold(0u64, |sum, field| sum.checked_add(field.wire.as_ref()?.total))
    }

    /// Whether the fields of both are as many bytes: they may be the same, cut in another way.
    pub(super) fn is_as_long_as(&self, other: &Self) -> bool {
        self.wire_bytes().is_some_and(|bytes| other.wire_bytes() == Some(bytes))
    }
}

/// A field, or an array of them.
#[derive(Debug, Clone, Default)]
pub(super) struct FieldShape {
    pub(super) name: String,
    /// What was sent; of a dump nothing is known of it.
    pub(super) wire: Option<Wire>,
    /// Bytes of an element in memory.
    pub(super) memory_bytes: Option<u64>,
    /// It is sent under a condition; none: not known.
    pub(super) conditional: Option<bool>,
    /// It is an array of a fixed number of elements, where that is known (dumps from 8.1 on).
    pub(super) is_fixed_array: bool,
    /// It is there since this version.
    pub(super) since: u64,
    /// What is in it: one state, or one for each element.
    pub(super) nested: Vec<StateShape>,
}

/// A field as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wire {
    /// Type of an element, as QEMU calls it.
    pub(super) type_name: String,
    /// Bytes of the first element.
    pub(super) size: u64,
    /// Elements.
    pub(super) count: u64,
    /// Bytes of all elements.
    pub(super) total: u64,
    /// Which elements are NULL.
    pub(super) nulls: Nulls,
    /// Where in the body it begins; none: not known.
    pub(super) at: Option<u64>,
}

impl Wire {
    /// Whether a destination reads the same bytes in the same way.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.type_name, self.size, self.count) == (&other.type_name, other.size, other.count)
            && self.nulls == other.nulls
    }

    /// Bytes of which QEMU reads as many as there are, and checks none.
    pub(super) fn is_buffer(&self) -> bool {
        ["buffer", "unused_buffer"].contains(&&self.type_name[..])
    }

    /// Numbers and buffers: read as they are, without a check.
    pub(super) fn is_plain(&self) -> bool {
        let types = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"];
        self.is_buffer() || types.contains(&&self.type_name[..])
    }
}

/// The elements of an array of pointers that are NULL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Nulls {
    /// None, or it is no array of pointers.
    #[default]
    None,
    /// Those with indices in these ranges. The destination has to have NULL there itself.
    At(Vec<Range<u64>>),
    /// Each element says whether it is NULL; the destination does as it says.
    Marked,
}

impl Nulls {
    /// Those with indices in this range.
    pub(super) fn range(indices: Range<u64>) -> Self {
        Self::At(std::iter::once(indices).collect())
    }
}

impl Shape {
    /// Reads a stream, an image, or a `-dump-vmstate` file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is damaged.
    pub fn read(path: &Path, options: &OpenOptions) -> Result<Self, Error> {
        let name = terminal(path.as_os_str().as_encoded_bytes());
        if path.as_os_str() != "-" {
            let mut first = [0; 1];
            let mut file = File::open(path).map_err(Error::io(&name))?;
            let is_file = file.metadata().map_err(Error::io(&name))?.is_file();
            if is_file && file.read(&mut first).map_err(Error::io(&name))? == 1 && first == *b"{" {
                return Self::of_dump(&name, &dump_text(&name, file, first)?);
            }
        }
        Self::of_opened(open(path, options)?, options)
    }

    /// The shape of a stream or an image that is open.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is damaged.
    pub fn of_opened(opened: Opened, options: &OpenOptions) -> Result<Self, Error> {
        Ok(Self::of(load_opened(opened, options, None, None)?))
    }

    /// The shape of what `-dump-vmstate` wrote: for each type of the device model its `VMStateDescription`.
    ///
    /// # Errors
    ///
    /// When `text` is something else. `name` is what it is called there.
    pub fn of_dump(name: &str, text: &[u8]) -> Result<Self, Error> {
        let wrong = |why: String| Error::Input { what: name.to_owned(), why };
        let json: Json = serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
        let object = json.as_object().ok_or_else(|| wrong("not a JSON object".to_owned()))?;
        let Some(machine) = object.get("vmschkmachine").and_then(|machine| machine.get("Name")?.as_str())
        else {
            return Err(wrong("JSON, but not of -dump-vmstate: no vmschkmachine".to_owned()));
        };
        let mut shape = Self {
            is_dump: true,
            machine: Some(machine.as_bytes().to_vec()),
            footers: true,
            ..Self::default()
        };
        for (type_name, device) in object.iter().filter(|(key, _)| *key != "vmschkmachine") {
            let Some(description) = device.get("Description") else { continue };
            let state = described(description, 0).ok_or_else(|| {
                wrong(format!("\"{}\" is not as QEMU writes it", json_text(type_name.as_bytes())))
            })?;
            shape.devices.push(DeviceShape {
                idstr: type_name.as_bytes().to_vec(),
                instance_id: 0,
                version: state.version,
                body: Vec::new(),
                state: Some(state),
            });
        }
        Ok(shape)
    }

    /// The shape of what was loaded.
    pub(crate) fn of(contents: Contents) -> Self {
        // Channels and connections are how a stream travels, which is judged by itself.
        let travels = [Presence::Multifd, Presence::OtherConnection];
        let absent = contents.absent().filter(|(_, presence)| !travels.contains(presence));
        let absent = absent.map(|(block, presence)| (block.idstr.clone(), presence)).collect();
        let devices = contents.devices.into_iter().map(|device| DeviceShape {
            idstr: device.idstr,
            instance_id: device.instance_id,
            version: device.version_id.into(),
            state: device
                .description
                .filter(|state| !state.vmsd_name.is_empty())
                .map(|state| sent::state(&device.body, &state)),
            body: device.body,
        });
        let devices = devices.collect();
        let blocks = contents.blocks.into_iter().filter(|block| block.used_length != UNKNOWN_LENGTH);
        let mut shape = Self {
            is_dump: false,
            page_size: contents.page_size,
            footers: contents.footers,
            switchover_start: contents.commands.contains(&"SWITCHOVER_START"),
            postcopy_advised: contents.commands.contains(&"POSTCOPY_ADVISE"),
            postcopy: contents.postcopy,
            compressed: contents.compressed,
            multifd: contents.multifd,
            blocks: blocks.collect(),
            absent,
            iterables: contents.iterables,
            devices,
            ..Self::default()
        };
        if let Some(configuration) = contents.configuration {
            shape.has_configuration = true;
            shape.machine = Some(configuration.machine);
            shape.capabilities = configuration.capabilities.unwrap_or_default();
            shape.uuid = configuration.uuid;
        }
        shape
    }
}

/// The name without the number that QEMU adds where a name comes twice.
pub(super) fn plain(name: &str) -> &str {
    match name.strip_suffix(']').and_then(|rest| rest.rsplit_once('[')) {
        Some((plain, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => plain,
        _ => name,
    }
}

/// The text of a `-dump-vmstate` file, of which the first byte was read.
fn dump_text(name: &str, file: File, first: [u8; 1]) -> Result<Vec<u8>, Error> {
    let mut text = first.to_vec();
    file.take(JSON_LIMIT_BYTES).read_to_end(&mut text).map_err(Error::io(name))?;
    if text.len() as u64 > JSON_LIMIT_BYTES {
        let why = format!("more than {JSON_LIMIT_BYTES} bytes of JSON");
        return Err(Error::Input { what: name.to_owned(), why });
    }
    Ok(text)
}

fn described(json: &Json, depth: usize) -> Option<StateShape> {
    if depth > DEPTH_LIMIT {
        return None;
    }
    let list = |key: &str| json.get(key).and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    Some(StateShape {
        name: json.get("name")?.as_str()?.to_owned(),
        version: json.get("version_id")?.as_u64()?,
        minimum_version: Some(json.get("minimum_version_id")?.as_u64()?),
        fields: list("Fields").iter().map(|field| described_field(field, depth)).collect::<Option<_>>()?,
        subsections: list("Subsections")
            .iter()
            .map(|subsection| described(subsection, depth + 1))
            .collect::<Option<_>>()?,
    })
}

fn described_field(json: &Json, depth: usize) -> Option<FieldShape> {
    let nested = match json.get("Description") {
        Some(description) => vec![described(description, depth + 1)?],
        None => Vec::new(),
    };
    Some(FieldShape {
        name: plain(json.get("field")?.as_str()?).to_owned(),
        memory_bytes: json.get("size")?.as_u64(),
        conditional: json.get("field_exists")?.as_bool(),
        is_fixed_array: json.get("num").is_some(),
        since: json.get("version_id")?.as_u64()?,
        nested,
        ..FieldShape::default()
    })
}
