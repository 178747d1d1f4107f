//! What surrounds the pages in a source's stream.

use super::SourceConfig;
use super::bitmaps::{BITMAPS, put_starts};
use crate::real::memory::{GuestMemory, TARGET_PAGE_BYTES};
use migration_stream::{
    BlockList, Command, Configuration, PostcopyAdvise, RAM_SECTION_VERSION, RamBlock, SectionHeader,
    SectionId, put_command, put_configuration, put_end_of_section, put_file_header, put_ram_blocks,
    put_section_end, put_section_footer, put_section_header,
};

/// The section of RAM.
pub(super) const RAM: SectionId = SectionId(2);

pub(super) fn footer(out: &mut Vec<u8>, id: SectionId) {
    put_section_footer(out, id);
}

fn start(out: &mut Vec<u8>, id: SectionId, idstr: &[u8], version_id: u32) {
    put_section_header(out, false, &SectionHeader { section_id: id, idstr, instance_id: 0, version_id });
}

/// Which kind of postcopy is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    /// None.
    None,
    /// Of dirty bitmaps only.
    Bitmaps,
    /// Of RAM.
    Ram,
}

/// Everything up to the first page. A return path is opened with the advice of RAM.
pub(super) fn leader(config: &SourceConfig, memory: &GuestMemory, advice: Advice) -> Vec<u8> {
    let mut out = Vec::new();
    put_file_header(&mut out);
    let machine = b"snapsim-1.0".to_vec();
    put_configuration(
        &mut out,
        &Configuration { machine, target_page_bits: None, capabilities: None, uuid: None },
    );
    match advice {
        Advice::None => {}
        Advice::Bitmaps => put_command(&mut out, &Command::PostcopyAdvise(None)),
        Advice::Ram => {
            let page_size_summary = memory.blocks().iter().fold(0, |sum, block| sum | block.host_page as u64);
            let advise = PostcopyAdvise { page_size_summary, target_page_size: TARGET_PAGE_BYTES as u64 };
            put_command(&mut out, &Command::OpenReturnPath);
            put_command(&mut out, &Command::Ping(1));
            put_command(&mut out, &Command::PostcopyAdvise(Some(advise)));
        }
    }
    start(&mut out, RAM, b"ram", RAM_SECTION_VERSION);
    let blocks = memory.blocks().iter().map(|block| RamBlock {
        idstr: block.name.clone(),
        used_length: block.mapping.length() as u64,
        host_page_size: (advice == Advice::Ram && block.host_page != TARGET_PAGE_BYTES)
            .then_some(block.host_page as u64),
        guest_physical_address: None,
    });
    put_ram_blocks(&mut out, &BlockList { blocks: blocks.collect() });
    put_end_of_section(&mut out);
    footer(&mut out, RAM);
    if !config.bitmaps.is_empty() {
        start(&mut out, BITMAPS, b"dirty-bitmap", 1);
        put_starts(&mut out, &config.bitmaps);
        footer(&mut out, BITMAPS);
    }
    out
}

/// An END of RAM without pages.
pub(super) fn put_ram_end(out: &mut Vec<u8>) {
    put_section_end(out, RAM);
    put_end_of_section(out);
    footer(out, RAM);
}
