//! A processor of an x86 guest, as its section has it (`vmstate_x86_cpu`).

use crate::contents::{Contents, Device};
use migration_stream::device::Value;
use std::collections::HashMap;

/// Bit of EFER: the processor is in long mode.
const LONG_MODE_ACTIVE: u64 = 1 << 10;

/// A segment register, or a table register (`SegmentCache`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SegmentRegister {
    pub(super) selector: u32,
    pub(super) limit: u32,
    pub(super) flags: u32,
    pub(super) base: u64,
}

/// The registers that a core has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Processor {
    /// `cpu_index`, from 0.
    pub(super) index: u32,
    /// In QEMU's order, which is the processor's own: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    pub(super) general: [u64; 16],
    pub(super) rip: u64,
    pub(super) rflags: u64,
    /// es, cs, ss, ds, fs, gs.
    pub(super) segments: [SegmentRegister; 6],
    pub(super) ldt: SegmentRegister,
    pub(super) tr: SegmentRegister,
    pub(super) gdt: SegmentRegister,
    pub(super) idt: SegmentRegister,
    /// cr0 to cr4; there is no cr1.
    pub(super) control: [u64; 5],
    pub(super) efer: u64,
    pub(super) kernel_gs_base: u64,
}

impl Processor {
    pub(super) const fn is_in_long_mode(&self) -> bool {
        self.efer & LONG_MODE_ACTIVE != 0
    }
}

/// The processors in the order of the stream, in which QEMU creates them; those whose fields are
/// not known are missing.
pub(super) fn processors(contents: &Contents) -> Vec<Processor> {
    contents.devices.iter().filter(|device| device.idstr == b"cpu").filter_map(processor).collect()
}

fn processor(device: &Device) -> Option<Processor> {
    let fields = device.decode()?.fields;
    let by_path: HashMap<&str, &Value> = fields.iter().map(|field| (&*field.path, &field.value)).collect();
    let number = |path: &str| match by_path.get(path)? {
        Value::Unsigned(number) => Some(*number),
        _ => None,
    };
    let small = |path: &str| u32::try_from(number(path)?).ok();
    let segment = |name: &str| {
        Some(SegmentRegister {
            selector: small(&format!("{name}.selector"))?,
            limit: small(&format!("{name}.limit"))?,
            flags: small(&format!("{name}.flags"))?,
            base: number(&format!("{name}.base"))?,
        })
    };
    let Value::List(values) = by_path.get("env.regs")? else { return None };
    let mut general = [0; 16];
    for (register, value) in general.iter_mut().zip(values) {
        let Value::Unsigned(value) = value else { return None };
        *register = *value;
    }
    let mut segments = [SegmentRegister::default(); 6];
    for (at, register) in segments.iter_mut().enumerate() {
        *register = segment(&format!("env.segs[{at}]"))?;
    }
    Some(Processor {
        index: device.instance_id,
        general,
        rip: number("env.eip")?,
        rflags: number("env.eflags")?,
        segments,
        ldt: segment("env.ldt")?,
        tr: segment("env.tr")?,
        gdt: segment("env.gdt")?,
        idt: segment("env.idt")?,
        control: [number("env.cr[0]")?, 0, number("env.cr[2]")?, number("env.cr[3]")?, number("env.cr[4]")?],
        // A QEMU for 32-bit guests has neither.
        efer: number("env.efer").unwrap_or(0),
        kernel_gs_base: number("env.kernelgsbase").unwrap_or(0),
    })
}
