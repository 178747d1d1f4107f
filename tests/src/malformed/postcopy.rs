//! A stream that ends in postcopy, with each command that only it has; and the iterables beside RAM.

use migration_stream::{
    BlockList, BlockMigration, Command, Configuration, DiscardRange, Htab, PostcopyAdvise, RamBlock,
    StorageAttributes, put_block_migration, put_command, put_configuration, put_end_of_section,
    put_file_header, put_htab, put_page_header, put_ram_blocks, put_storage_attributes, put_zero_page,
};

use super::{Kind, Recipes, base::Base};

const PAGE: u64 = 4096;

fn start(base: &mut Base) {
    base.put_with(put_file_header);
    base.put_with(|out| {
        put_configuration(out, &Configuration { machine: b"pc".to_vec(), ..Configuration::default() });
    });
}

fn command(base: &mut Base, mark: &'static str, command: &Command<'_>) {
    base.mark(mark).put_with(|out| put_command(out, command));
}

fn ram_start(base: &mut Base) {
    base.mark("ram start").section(false, 2, b"ram", 4);
    let block = RamBlock {
        idstr: b"pc.ram".to_vec(),
        used_length: 2 * PAGE,
        host_page_size: None,
        guest_physical_address: None,
    };
    base.put_with(|out| put_ram_blocks(out, &BlockList { blocks: vec![block] }));
    base.put_with(put_end_of_section).footer(2);
}

fn postcopy() -> Base {
    let mut base = Base::new("postcopy");
    start(&mut base);
    command(&mut base, "open", &Command::OpenReturnPath);
    command(&mut base, "ping", &Command::Ping(1));
    let advise = PostcopyAdvise { page_size_summary: PAGE, target_page_size: PAGE };
    command(&mut base, "advise", &Command::PostcopyAdvise(Some(advise)));
    ram_start(&mut base);
    let ranges = vec![DiscardRange { start: 0, length: 2 * PAGE }];
    command(&mut base, "discard", &Command::PostcopyRamDiscard { block: b"pc.ram", ranges });
    let mut package = Base::new("package");
    command(&mut package, "listen", &Command::PostcopyListen);
    package.section(true, 10, b"timer", 2).put(&[0x11; 16]).footer(10);
    command(&mut package, "ping", &Command::Ping(3));
    command(&mut package, "run", &Command::PostcopyRun);
    command(&mut base, "packaged", &Command::Packaged(&package.bytes));
    base.mark("part").put(&[2, 0, 0, 0, 2]);
    base.put_with(|out| put_page_header(out, Some(b"pc.ram"), 0)).put(&[b'p'; 4096]);
    base.put_with(|out| put_zero_page(out, None, PAGE)).put_with(put_end_of_section).footer(2);
    base.put(&[3, 0, 0, 0, 2]).put_with(put_end_of_section).footer(2).mark("eof").put(&[0]);
    base
}

fn iterables() -> Base {
    let mut base = Base::new("iterables");
    start(&mut base);
    ram_start(&mut base);
    base.mark("block").section(false, 5, b"block", 1).mark("block body");
    let chunk = BlockMigration::Chunk { sector: 8, device: b"disk0", data: None };
    base.put_with(|out| put_block_migration(out, &chunk));
    base.mark("block end").put_with(|out| put_block_migration(out, &BlockMigration::EndOfSection)).footer(5);
    base.section(false, 6, b"spapr/htab", 1).mark("htab shift");
    base.put_with(|out| put_htab(out, &Htab::Shift(16))).footer(6);
    base.put(&[3, 0, 0, 0, 6]).mark("htab header").put_with(|out| put_htab(out, &Htab::Header));
    let entries = Htab::Entries { index: 4, valid: 1, invalid: 0, data: &[0x44; 16] };
    base.mark("htab entries").put_with(|out| put_htab(out, &entries));
    base.put_with(|out| put_htab(out, &Htab::EndOfSection)).footer(6);
    base.section(false, 7, b"s390-storage_attributes", 0).mark("attributes");
    let values = StorageAttributes::Values { frame: 1, values: &[9; 8] };
    base.put_with(|out| put_storage_attributes(out, &values));
    base.mark("attributes end");
    base.put_with(|out| put_storage_attributes(out, &StorageAttributes::EndOfSection)).footer(7);
    base.put(&[3, 0, 0, 0, 2]).put_with(|out| put_page_header(out, Some(b"pc.ram"), 0)).put(&[b'p'; 4096]);
    base.put_with(put_end_of_section).footer(2);
    base.timer_and_end();
    base
}

pub(super) fn recipes() -> Recipes {
    let mut r = Recipes::new(Kind::Stream, postcopy());
    // A command: type (1), number (2), length (2), payload.
    r.set("command-length", "OPEN_RETURN_PATH with a payload", ("open", 4), &[1]);
    r.set("ping-length", "PING of three bytes", ("ping", 4), &[3]);
    r.set("advise-length-8", "ADVISE of eight bytes", ("advise", 4), &[8]);
    r.set("advise-length-17", "ADVISE of 17 bytes", ("advise", 4), &[17]);
    r.set("advise-summary-0", "ADVISE of no page size", ("advise", 5), &[0; 8]);
    r.set("advise-page-size", "ADVISE of pages of 3000 bytes", ("advise", 13), &3000_u64.to_be_bytes());
    r.make("advise-twice", "ADVISE twice", |bytes, base| {
        let (from, to) = (base.at("advise"), base.at("ram start"));
        let advise = bytes[from..to].to_vec();
        bytes.splice(to..to, advise);
    });
    r.make("advise-missing", "no ADVISE", |bytes, base| {
        bytes.drain(base.at("advise")..base.at("ram start"));
    });
    // DISCARD: version (1), name (7), 0 (1), start (8), length (8).
    r.set("discard-version", "DISCARD of version 1", ("discard", 5), &[1]);
    r.set("discard-short", "DISCARD without a range", ("discard", 4), &[9]);
    r.set("discard-part-of-a-range", "DISCARD of a range and a half", ("discard", 4), &[33]);
    r.set("discard-no-nul", "a block's name without its end", ("discard", 13), &[1]);
    r.set("discard-name-long", "a block's name longer than the command", ("discard", 6), &[200]);
    r.set("discard-length-0", "a range of no bytes", ("discard", 22), &[0; 8]);
    r.set("discard-unaligned", "a range from 1 on", ("discard", 14), &1_u64.to_be_bytes());
    r.set("discard-wraps", "a range that wraps", ("discard", 14), &(u64::MAX - 4095).to_be_bytes());
    r.set("discard-outside", "a range past its block", ("discard", 22), &(4 * PAGE).to_be_bytes());
    r.set("discard-unknown-block", "a range of an unknown block", ("discard", 7), b"PC.RAM");
    // PACKAGED: length of the package (4), LISTEN (5), device, PING (9), RUN (5).
    r.set("package-0", "a package of no bytes", ("packaged", 5), &[0; 4]);
    r.set("package-4-gib", "a package of 4 GiB", ("packaged", 5), &[0xff; 4]);
    r.set("package-short", "a package that ends in a command", ("packaged", 8), &[3]);
    r.set("package-nested", "a package in a package", ("packaged", 9), &[8, 0, 7, 0, 0]);
    r.set("package-eof", "EOF in a package", ("packaged", 9), &[0]);
    r.set("package-ram", "a RAM section in a package", ("packaged", 9), &[2, 0, 0, 0, 2]);
    r.set("package-no-listen", "no LISTEN", ("packaged", 9), &[8, 0, 1, 0, 0]);
    r.make("package-no-run", "no RUN", |bytes, base| {
        let run = base.at("part") - 5;
        bytes[run + 2] = 1;
    });
    r.make("package-run-twice", "RUN twice", |bytes, base| {
        let part = base.at("part");
        bytes[base.at("packaged") + 8] += 5;
        bytes.splice(part..part, [8, 0, 5, 0, 0]);
    });
    r.make("package-listen-twice", "LISTEN twice", |bytes, base| {
        let at = base.at("packaged") + 9;
        bytes[at - 1] += 5;
        bytes.splice(at..at, [8, 0, 4, 0, 0]);
    });
    r.make("package-twice", "two packages", |bytes, base| {
        let (from, to) = (base.at("packaged"), base.at("part"));
        let package = bytes[from..to].to_vec();
        bytes.splice(to..to, package);
    });
    r.make("package-missing", "no package: pages that no one listens for", |bytes, base| {
        bytes.drain(base.at("packaged")..base.at("part"));
    });
    r.make("discard-late", "DISCARD behind the package", |bytes, base| {
        let (from, to) = (base.at("discard"), base.at("packaged"));
        let discard = bytes[from..to].to_vec();
        bytes.splice(base.at("part")..base.at("part"), discard);
    });
    r.make("page-twice", "a page twice behind RUN", |bytes, base| {
        let from = base.at("part") + 5;
        let page = bytes[from..from + 15 + 4096].to_vec();
        bytes.splice(from..from, page);
    });
    r.insert("listen-outside", "LISTEN outside of a package", "packaged", &[8, 0, 4, 0, 0]);
    r.insert("recv-bitmap-name", "RECV_BITMAP with a longer name", "packaged", b"\x08\0\x0a\0\x07\x09pc.ram");
    r.insert("resume-early", "RESUME before there is something", "packaged", &[8, 0, 9, 0, 0]);
    r.insert("colo", "COLO", "packaged", &[8, 0, 8, 0, 0]);
    r.cut("eof-missing", "cut before EOF", ("eof", 0));
    r.cut("package-cut", "cut inside the package", ("packaged", 20));
    let mut more = Recipes::new(Kind::Stream, iterables());
    more.set("block-flags", "unknown flags of a block record", ("block body", 7), &[0x03]);
    more.set("block-data-missing", "a chunk without its data", ("block body", 7), &[0x01]);
    more.set("block-version", "block of version 2", ("block", 18), &[2]);
    more.set("htab-header", "a PART of htab with another header", ("htab header", 3), &[1]);
    more.set("htab-entries", "more entries than there are", ("htab entries", 4), &[0xff, 0xff]);
    more.set("attributes-count", "2^63 attributes (CVE-2013-4535)", ("attributes", 8), &[0x80]);
    more.set("attributes-error", "an error of the source", ("attributes", 7), &[4]);
    more.set("attributes-flags", "unknown flags", ("attributes end", 6), &[0x0f, 0xff]);
    more.cut("eof-missing", "cut before EOF", ("eof", 0));
    r.files.extend(more.files);
    r
}
