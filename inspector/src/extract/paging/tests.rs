use super::*;
use crate::contents::RamFile;
use crate::extract::segment::Segment;
use crate::walk::Context;
use migration_stream::{Page, PageContent, RamBlock, Record};

const PAGE: usize = 4096;

/// RAM from address 0 on.
struct Memory {
    ram: RamFile,
    segments: Vec<Segment>,
}

impl Memory {
    fn of(bytes: &[u8]) -> Self {
        let block = RamBlock {
            idstr: b"pc.ram".to_vec(),
            used_length: bytes.len() as u64,
            host_page_size: None,
            guest_physical_address: None,
        };
        let context = Context { blocks: &[block], page_size: 4096, configuration: None, channel: None };
        let mut ram = RamFile::temporary().unwrap();
        for (number, page) in bytes.chunks(PAGE).enumerate() {
            let offset = (number * PAGE) as u64;
            let content = PageContent::Raw(page);
            let page = Page { block: 0, offset, named: true, content };
            ram.take("", 0, &Record::Page(page), context).unwrap();
        }
        ram.flush().unwrap();
        let segments = vec![Segment { address: 0, block: 0, range: 0..bytes.len() as u64 }];
        Self { ram, segments }
    }

    fn mappings(&self, processors: &[Processor]) -> Result<Vec<Mapping>, String> {
        let memory = Physical { ram: &self.ram, segments: &self.segments };
        let mappings = mappings("guest", processors, memory).map_err(|error| error.to_string())?;
        Ok(mappings.iter().copied().collect())
    }
}

fn put(memory: &mut [u8], table: usize, number: usize, entry: u64) {
    memory[table * PAGE + number * 8..][..8].copy_from_slice(&entry.to_le_bytes());
}

fn processor(cr3: u64, cr4: u64, efer: u64) -> Processor {
    Processor { control: [PAGING, 0, 0, cr3, cr4], efer, ..Processor::default() }
}

fn long(cr3: u64) -> Processor {
    processor(cr3, PHYSICAL_ADDRESS_EXTENSION, 1 << 10)
}

fn mapping(virtual_address: u64, address: u64, bytes: u64) -> Mapping {
    Mapping { virtual_address, address, bytes }
}

#[test]
fn four_and_five_levels_have_pages_of_three_sizes() {
    let mut memory = vec![0; 4 << 20];
    put(&mut memory, 1, 511, 0x2000 | PRESENT);
    put(&mut memory, 2, 1, 0x3000 | PRESENT);
    put(&mut memory, 2, 2, LARGE | PRESENT);
    put(&mut memory, 3, 0, 0x20_0000 | LARGE | PRESENT);
    put(&mut memory, 3, 1, 0x4000 | PRESENT);
    put(&mut memory, 4, 5, 0x7000 | PRESENT | 1 << 63);
    put(&mut memory, 4, 6, 0x8000 | PRESENT);
    put(&mut memory, 4, 7, 0xf_f000_0000 | PRESENT);
    let memory_of_5 = {
        let mut memory = memory.clone();
        put(&mut memory, 5, 511, 0x1000 | PRESENT);
        Memory::of(&memory)
    };
    let expected = [
        mapping(0xffff_ff80_4000_0000, 0x20_0000, 0x20_0000),
        mapping(0xffff_ff80_4020_5000, 0x7000, 0x2000),
        // A page of 1 GiB, of which 4 MiB are RAM.
        mapping(0xffff_ff80_8000_0000, 0, 4 << 20),
    ];
    assert_eq!(Memory::of(&memory).mappings(&[long(0x1000)]).unwrap(), expected);
    let five = processor(0x5000, PHYSICAL_ADDRESS_EXTENSION | FIVE_LEVELS, 1 << 10);
    assert_eq!(memory_of_5.mappings(&[five]).unwrap(), expected);
}

#[test]
fn processors_without_long_mode_have_the_older_formats() {
    let mut memory = vec![0; 4 << 20];
    // With the extension, the first table has four entries and can begin at any multiple of 32.
    memory[0x1020 + 3 * 8..][..8].copy_from_slice(&(0x2000 | PRESENT).to_le_bytes());
    put(&mut memory, 2, 1, 0x20_0000 | LARGE | PRESENT);
    let extended = processor(0x1020, PHYSICAL_ADDRESS_EXTENSION, 0);
    let memory_of = Memory::of(&memory);
    assert_eq!(memory_of.mappings(&[extended]).unwrap(), [mapping(0xc020_0000, 0x20_0000, 0x20_0000)]);

    let mut memory = vec![0; 8 << 20];
    memory[0x1000 + 768 * 4..][..4].copy_from_slice(&0x40_0081_u32.to_le_bytes());
    memory[0x1000..][..4].copy_from_slice(&0x2001_u32.to_le_bytes());
    memory[0x2000 + 4..][..4].copy_from_slice(&0x5001_u32.to_le_bytes());
    let old = processor(0x1000, PAGE_SIZE_EXTENSIONS, 0);
    let expected = [mapping(0x1000, 0x5000, 0x1000), mapping(0xc000_0000, 0x40_0000, 0x40_0000)];
    assert_eq!(Memory::of(&memory).mappings(&[old]).unwrap(), expected);
}

#[test]
fn a_processor_without_paging_maps_nothing() {
    let memory = Memory::of(&[0xff; PAGE]);
    assert_eq!(memory.mappings(&[Processor::default()]).unwrap(), []);
    assert!(!is_on(&Processor::default()) && is_on(&long(0)));
}

#[test]
fn tables_that_refer_to_themselves_come_to_an_end() {
    // One entry of the first table is the table itself, as some kernels have it: the tables become pages.
    let mut memory = vec![0; 1 << 20];
    put(&mut memory, 1, 510, 0x1000 | PRESENT);
    let found = Memory::of(&memory).mappings(&[long(0x1000)]).unwrap();
    assert_eq!(found, [mapping(0xffff_ff7f_bfdf_e000, 0x1000, 0x1000)]);
    // All entries of it: 2^36 pages.
    for number in 0..512 {
        put(&mut memory, 1, number, 0x1000 | PRESENT);
    }
    let text = Memory::of(&memory).mappings(&[long(0x1000)]).unwrap_err();
    assert!(text.contains("more than 1048576 mappings"), "{text}");
    // All entries of three of the four tables, and the last has none.
    for number in 0..512 {
        put(&mut memory, 1, number, 0x2000 | PRESENT);
        put(&mut memory, 2, number, 0x3000 | PRESENT);
        put(&mut memory, 3, number, 0x4000 | PRESENT);
    }
    let text = Memory::of(&memory).mappings(&[long(0x1000)]).unwrap_err();
    assert!(text.contains("more than 524288 tables"), "{text}");
}

#[test]
fn any_tables_are_read_without_a_panic() {
    // Numbers of a linear congruential generator, many of them small enough to be tables and pages in RAM.
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 20
    };
    for round in 0..64_u64 {
        let mut memory = vec![0; 32 * PAGE];
        for _ in 0..200 {
            let (table, number, entry) = (next() % 32, next() % 512, next() << 12);
            let entry = if round % 2 == 0 { entry % (40 << 12) } else { entry << 8 };
            let [table, number] = [table, number].map(|number| usize::try_from(number).unwrap());
            put(&mut memory, table, number, entry | (next() % 256));
        }
        let memory = Memory::of(&memory);
        let processors: Vec<_> = (0..8).map(|_| processor(next() << 12, next() << 4, next())).collect();
        let _ = memory.mappings(&processors);
        let near: Vec<_> = (0..8).map(|_| processor(next() % (33 << 12), next() << 4, next())).collect();
        if let Ok(found) = memory.mappings(&near) {
            let apart = |pair: &[Mapping]| pair[0].virtual_address + pair[0].bytes <= pair[1].virtual_address;
            assert!(found.windows(2).all(apart), "round {round}");
        }
    }
}
