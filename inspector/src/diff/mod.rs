//! Compares what two inputs leave in a destination: machine, RAM, device fields, structure.

mod devices;
mod ram;

pub(crate) use ram::blocks;

use crate::contents::Contents;
use crate::error::Error;
use crate::escape::json_text;
use crate::line::{Line, Value};
use std::collections::HashMap;

/// Takes one difference after the other.
pub(crate) type Emit<'a> = dyn FnMut(Line) -> Result<(), Error> + 'a;

fn line(kind: &'static str) -> Line<'static> {
    Line { offset: None, ..Line::new(0, 0, kind) }
}

/// Compares two contents; every difference goes to `emit`.
pub(crate) fn diff(a: &Contents, b: &Contents, emit: &mut Emit<'_>) -> Result<(), Error> {
    machine(a, b, emit)?;
    ram::blocks(a, b, emit)?;
    sections(a, b, emit)?;
    devices::devices(a, b, emit)
}

/// A difference of one property.
fn property(emit: &mut Emit<'_>, property: &'static str, a: Value<'_>, b: Value<'_>) -> Result<(), Error> {
    if a == b {
        return Ok(());
    }
    emit(line("machine").with("property", Value::Word(property)).with("a", a).with("b", b))
}

fn machine(a: &Contents, b: &Contents, emit: &mut Emit<'_>) -> Result<(), Error> {
    let both = |of: &dyn Fn(&Contents) -> Value| (of(a), of(b));
    let configuration = |of: &dyn Fn(&migration_stream::Configuration) -> Value| {
        both(&|contents: &Contents| Value::optional(contents.configuration.as_ref().map(of)))
    };
    let (of_a, of_b) = configuration(&|configuration| Value::name(&configuration.machine));
    property(emit, "machine", of_a, of_b)?;
    let (of_a, of_b) = configuration(&|configuration| {
        let uuid = configuration.uuid.map(|uuid| snapshot_engine::uuid_text(&uuid).into_bytes());
        Value::optional(uuid.map(Value::Name))
    });
    property(emit, "uuid", of_a, of_b)?;
    let (of_a, of_b) = configuration(&|configuration| {
        let names = configuration.capabilities.as_ref();
        Value::optional(names.map(|names| Value::List(names.iter().map(|name| Value::name(name)).collect())))
    });
    property(emit, "capabilities", of_a, of_b)?;
    let (of_a, of_b) = both(&|contents| Value::Decimal(contents.page_size.into()));
    property(emit, "page_size", of_a, of_b)?;
    let (of_a, of_b) = both(&|contents| Value::Bool(contents.vmdesc.is_some()));
    property(emit, "vmdesc", of_a, of_b)?;
    let (of_a, of_b) =
        both(&|contents| Value::List(contents.commands.iter().map(|command| Value::Word(command)).collect()));
    property(emit, "commands", of_a, of_b)
}

fn sections(a: &Contents, b: &Contents, emit: &mut Emit<'_>) -> Result<(), Error> {
    for (here, there, side) in [(a, b, "a"), (b, a, "b")] {
        let versions: HashMap<_, _> = there
            .iterables
            .iter()
            .rev()
            .map(|(idstr, instance, version)| ((idstr, instance), version))
            .collect();
        for (idstr, instance, version) in &here.iterables {
            let other = versions.get(&(idstr, instance));
            let label = Value::Name(format!("{}/{instance}", json_text(idstr)).into_bytes());
            match other {
                None => emit(line("section").with("name", label).with("only", Value::Word(side)))?,
                Some(other) if side == "a" && *other != version => emit(
                    line("section")
                        .with("name", label)
                        .with("version_a", Value::Decimal((*version).into()))
                        .with("version_b", Value::Decimal((**other).into())),
                )?,
                Some(_) => {}
            }
        }
    }
    Ok(())
}
