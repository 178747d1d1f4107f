//! Device fields that differ, and fields and subsections that only one side has.

use super::{Emit, line};
use crate::contents::{Contents, Device};
use crate::error::Error;
use crate::line::{Value, fields};
use migration_stream::device::{self, DecodedField};
use std::collections::BTreeMap;

pub(super) fn devices(a: &Contents, b: &Contents, emit: &mut Emit<'_>) -> Result<(), Error> {
    let key = |device: &Device| (device.idstr.clone(), device.instance_id);
    let of_b: BTreeMap<_, _> = b.devices.iter().map(|device| (key(device), device)).collect();
    let of_a: BTreeMap<_, _> = a.devices.iter().map(|device| (key(device), device)).collect();
    let label = |device: &Device| Value::Name(device.label().into_bytes());
    for here in &a.devices {
        match of_b.get(&key(here)) {
            None => emit(line("device").with("device", label(here)).with("only", Value::Word("a")))?,
            Some(there) => device(here, there, emit)?,
        }
    }
    for there in &b.devices {
        if !of_a.contains_key(&key(there)) {
            emit(line("device").with("device", label(there)).with("only", Value::Word("b")))?;
        }
    }
    Ok(())
}

fn device(a: &Device, b: &Device, emit: &mut Emit<'_>) -> Result<(), Error> {
    let of = |kind| line(kind).with("device", Value::Name(a.label().into_bytes()));
    if a.version_id != b.version_id {
        let line = of("device").with("version_a", Value::Decimal(a.version_id.into()));
        emit(line.with("version_b", Value::Decimal(b.version_id.into())))?;
    }
    let (Some(of_a), Some(of_b)) = (a.decode(), b.decode()) else {
        if a.body != b.body {
            let count = a.body.iter().zip(&b.body).filter(|(x, y)| x != y).count();
            emit(
                of("device_bytes")
                    .with("bytes_a", Value::Decimal(a.body.len() as u64))
                    .with("bytes_b", Value::Decimal(b.body.len() as u64))
                    .with("differ", Value::Decimal(count as u64))
                    .with("why", Value::Word("no vmdesc describes it on both sides")),
            )?;
        }
        return Ok(());
    };
    let (keyed_a, keyed_b) = (keyed(&of_a.fields), keyed(&of_b.fields));
    for (key, here) in &keyed_a.0 {
        let line = of("field").with("path", Value::Name(here.path.clone().into_bytes()));
        match keyed_b.1.get(key) {
            None => emit(line.with("only", Value::Word("a")))?,
            Some(there) if here.bytes != there.bytes || here.value != there.value => {
                emit(line.with("a", shown(here)).with("b", shown(there)))?;
            }
            Some(_) => {}
        }
    }
    for (key, there) in &keyed_b.0 {
        if !keyed_a.1.contains_key(key) {
            let line = of("field").with("path", Value::Name(there.path.clone().into_bytes()));
            emit(line.with("only", Value::Word("b")))?;
        }
    }
    Ok(())
}

type Key<'a> = (&'a str, usize);
type Keyed<'a> = (Vec<(Key<'a>, &'a DecodedField<'a>)>, BTreeMap<Key<'a>, &'a DecodedField<'a>>);

/// Fields by path; the marks of a queue have one path, so they are numbered.
fn keyed<'a>(fields: &'a [DecodedField<'a>]) -> Keyed<'a> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut list = Vec::with_capacity(fields.len());
    for field in fields {
        let count = counts.entry(&field.path).or_default();
        list.push(((&field.path[..], *count), field));
        *count += 1;
    }
    let map = list.iter().copied().collect();
    (list, map)
}

fn shown<'a>(field: &DecodedField<'a>) -> Value<'a> {
    match &field.value {
        device::Value::Subsection(version) => Value::Decimal((*version).into()),
        value => fields::value(value, field.bytes, field.type_name).0,
    }
}
