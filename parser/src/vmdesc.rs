//! The vmdesc: what QEMU tells of the device sections it wrote.

use serde_json::Value;

/// A FULL section, as described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DescribedDevice {
    pub(crate) idstr: Vec<u8>,
    pub(crate) instance_id: u64,
    /// Length of its body in bytes; none where the description does not add up.
    pub(crate) payload_bytes: Option<u64>,
}

/// What is used of a vmdesc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VmDescription {
    pub(crate) page_size: Option<u64>,
    pub(crate) devices: Vec<DescribedDevice>,
}

impl VmDescription {
    /// Reads the JSON; `None` if it is none, or no description. Keys that are given twice, which QEMU writes for the
    /// elements of queues, are tolerated: only sizes at the top level of a device matter here.
    pub(crate) fn parse(json: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(json).ok()?;
        let devices = value.get("devices")?.as_array()?;
        Some(Self {
            page_size: value.get("page_size").and_then(Value::as_u64),
            devices: devices.iter().map(device).collect::<Option<_>>()?,
        })
    }
}

fn device(value: &Value) -> Option<DescribedDevice> {
    Some(DescribedDevice {
        idstr: value.get("name")?.as_str()?.as_bytes().to_vec(),
        instance_id: value.get("instance_id")?.as_u64()?,
        payload_bytes: payload(value),
    })
}

/// Sum of the fields' sizes, and of the subsections with their headers: mark, name (str8), version (be32).
fn payload(value: &Value) -> Option<u64> {
    let mut sum = 0u64;
    for field in value.get("fields").and_then(Value::as_array).into_iter().flatten() {
        let count = field.get("array_len").map_or(Some(1), Value::as_u64)?;
        sum = sum.checked_add(field.get("size")?.as_u64()?.checked_mul(count)?)?;
    }
    for subsection in value.get("subsections").and_then(Value::as_array).into_iter().flatten() {
        let name = subsection.get("vmsd_name")?.as_str()?.len() as u64;
        sum = sum.checked_add(1 + 1 + name + 4)?.checked_add(payload(subsection)?)?;
    }
    Some(sum)
}
