//! Untrusted names in every sink: none of them can do anything there. One input per sink.

use crate::common::{program, stdout};
use migration_stream::{
    BlockList, Configuration, RamBlock, SectionHeader, SectionId, put_configuration, put_file_header,
    put_ram_blocks, put_section_end, put_section_footer, put_section_header, put_section_part,
};
use std::path::{Path, PathBuf};
use std::process::Output;

/// A stream in which every name is `hostile`: machine, block, device, description, field, subsection.
fn stream(hostile: &[u8], page: u8) -> Vec<u8> {
    let mut out = Vec::new();
    put_file_header(&mut out);
    put_configuration(&mut out, &Configuration { machine: hostile.to_vec(), ..Configuration::default() });
    let header = SectionHeader { section_id: SectionId(1), idstr: b"ram", instance_id: 0, version_id: 4 };
    put_section_header(&mut out, false, &header);
    let block = RamBlock {
        idstr: hostile.to_vec(),
        used_length: 8192,
        host_page_size: None,
        guest_physical_address: None,
    };
    put_ram_blocks(&mut out, &BlockList { blocks: vec![block] });
    migration_stream::ram::put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(1));
    put_section_part(&mut out, SectionId(1));
    migration_stream::ram::put_page_header(&mut out, Some(hostile), 0);
    out.extend_from_slice(&[page; 4096]);
    migration_stream::ram::put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(1));
    put_section_end(&mut out, SectionId(1));
    migration_stream::ram::put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(1));
    let header = SectionHeader { section_id: SectionId(2), idstr: hostile, instance_id: 0, version_id: 1 };
    put_section_header(&mut out, true, &header);
    out.push(page);
    put_section_footer(&mut out, SectionId(2));
    let name = serde_json::to_string(std::str::from_utf8(hostile).expect("UTF-8")).expect("a text");
    let json = format!(
        "{{\"page_size\": 4096, \"devices\": [{{\"name\": {name}, \"instance_id\": 0, \"vmsd_name\": {name}, \
         \"version\": 1, \"fields\": [{{\"name\": {name}, \"type\": {name}, \"size\": 1}}]}}]}}"
    );
    out.extend_from_slice(&[0, 6]);
    out.extend_from_slice(&u32::try_from(json.len()).expect("short").to_be_bytes());
    out.extend_from_slice(json.as_bytes());
    out
}

/// Two such streams that differ, in files whose names are no better.
struct Files {
    _folder: tempfile::TempDir,
    a: PathBuf,
    b: PathBuf,
    folder: PathBuf,
}

fn files(hostile: &str) -> Files {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |number: &str| folder.path().join(format!("{}{number}", hostile.replace('/', "_")));
    let (a, b) = (path("a"), path("b"));
    std::fs::write(&a, stream(hostile.as_bytes(), 1)).expect("a file");
    std::fs::write(&b, stream(hostile.as_bytes(), 2)).expect("a file");
    Files { a, b, folder: folder.path().to_owned(), _folder: folder }
}

fn run(arguments: &[&str], paths: &[&Path]) -> Output {
    program().args(arguments).args(paths).output().expect("the program runs")
}

#[test]
fn a_terminal_gets_printable_ascii_only() {
    let files = files("x\u{1b}]0;title\u{7}\u{1b}[2J\r\u{9b}31m\u{202e}é\n0x0 error fake");
    for (arguments, paths) in [
        (&["dump"][..], vec![&*files.a]),
        (&["dump", "--hex", "--pages"], vec![&files.a]),
        (&["check"], vec![&files.a]),
        (&["stat"], vec![&files.a]),
        (&["diff"], vec![&files.a, &files.b]),
        (&["dump", "--format=line"], vec![&files.a]),
        (&["diff", "--format=line"], vec![&files.a, &files.b]),
        (&["info"], vec![&files.a]),
        (&["compat"], vec![&files.a, &files.b]),
        (&["extract", "--block", "none", "-o", "-"], vec![&files.a]),
        (&["extract", "--device", "\u{1b}[2J", "-o", "-"], vec![&files.a]),
        (&["check"], vec![Path::new("/nowhere/\u{1b}[2J")]),
    ] {
        let output = run(arguments, &paths);
        for stream in [&output.stdout, &output.stderr] {
            let wrong = stream.iter().find(|&&byte| byte != b'\n' && !(0x20..0x7f).contains(&byte));
            assert_eq!(wrong, None, "{arguments:?}: {}", stream.escape_ascii());
            let text = String::from_utf8_lossy(stream);
            assert!(!text.lines().any(|line| line.starts_with("0x0 error fake")), "{arguments:?}: {text}");
        }
    }
}

/// What turns the direction of a text, ends a line or is not seen: such a name looks like another one.
#[test]
fn no_sink_gets_a_character_that_changes_how_others_look() {
    let hidden = [
        '\u{202e}', '\u{2066}', '\u{2069}', '\u{200f}', '\u{61c}', '\u{2028}', '\u{2029}', '\u{feff}',
        '\u{1b}',
    ];
    let files = files(&format!("pc{}ram", hidden.iter().collect::<String>()));
    let picture = |ending: &str| files.folder.join(format!("picture.{ending}"));
    for ending in ["html", "svg"] {
        let output = run(&["map", "-o"], &[&picture(ending), &files.a]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let mut texts =
        ["html", "svg"].map(|ending| std::fs::read_to_string(picture(ending)).expect("written")).to_vec();
    for (arguments, paths) in [
        (&["dump", "--json"][..], vec![&*files.a]),
        (&["check", "--format", "json"], vec![&files.a]),
        (&["check", "--format", "github"], vec![&files.a]),
        (&["stat", "--json"], vec![&files.a]),
        (&["diff", "--json"], vec![&files.a, &files.b]),
        (&["compat", "--format", "json"], vec![&files.a, &files.b]),
        (&["compat", "--format", "github"], vec![&files.a, &files.b]),
    ] {
        let output = run(arguments, &paths);
        texts.extend([stdout(&output), String::from_utf8_lossy(&output.stderr).into_owned()]);
    }
    for text in texts {
        let found = hidden.iter().find(|&&c| text.contains(c));
        assert_eq!(found, None, "{}", text.escape_unicode().take(2000).collect::<String>());
    }
}

#[test]
fn json_has_one_object_per_line_and_the_names_in_it() {
    let files = files("x\"}\n{\"type\":\"summary\",\u{1b}\u{2028}");
    for (arguments, paths) in [
        (&["dump", "--json"][..], vec![&*files.a]),
        (&["check", "--format", "json"], vec![&files.a]),
        (&["stat", "--json"], vec![&files.a]),
        (&["diff", "--json"], vec![&files.a, &files.b]),
        (&["compat", "--format", "json"], vec![&files.a, &files.b]),
    ] {
        let output = run(arguments, &paths);
        let text = stdout(&output);
        assert!(!text.is_empty());
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).expect("one JSON value per line");
            assert!(value.is_object(), "{line}");
        }
        let summaries = text.lines().filter(|line| line.contains(r#""type":"summary""#)).count();
        assert!(summaries <= 1, "{arguments:?}: {text}");
    }
}

#[test]
fn a_workflow_of_ci_gets_one_command_per_finding() {
    let files = files("x\n::error::fake,line=1::%0A\r::set-output name=a::b");
    for (arguments, paths) in [
        (&["check", "--format", "github"][..], vec![&*files.a]),
        (&["compat", "--format", "github"], vec![&files.a, &files.b]),
    ] {
        let text = stdout(&run(arguments, &paths));
        for line in text.lines() {
            let expected = ["::error file=", "::warning file=", "::notice file="];
            assert!(expected.iter().any(|start| line.starts_with(start)), "{line}");
            assert!(!line.contains('\r'), "{line}");
            let (properties, _) = line[2..].split_once("::").expect("properties and a message");
            assert!(
                properties.ends_with(",title=snapinspect")
                    || properties.ends_with(",title=snapinspect compat")
            );
            assert_eq!(properties.matches(',').count(), 1, "{properties}");
        }
    }
    assert!(!stdout(&run(&["check", "--format", "github"], &[&files.a])).is_empty(), "names are reported");
}

#[test]
fn a_page_of_html_and_a_picture_hold_names_as_text() {
    let hostile = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&";
    let files = files(hostile);
    for ending in ["html", "svg"] {
        let output_path = files.folder.join(format!("map.{ending}"));
        let output = run(&["map", "-o"], &[&output_path, &files.a]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(&output_path).expect("written");
        assert!(!text.contains("<img") && !text.contains("<script>document"), "{ending}");
        assert!(!text.contains("</script><script>document"), "{ending}");
        // Nothing is loaded from anywhere.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http:") && !text.contains("https:"), "{ending}");
    }
}

#[test]
fn no_name_of_a_stream_becomes_the_name_of_a_file() {
    let files = files("../../escaped");
    let before = std::fs::read_dir(&files.folder).expect("a folder").count();
    let target = files.folder.join("out.bin");
    let output = run(&["extract", "--block", "../../escaped", "-o"], &[&target, &files.a]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read(&target).expect("written").len(), 8192);
    assert_eq!(std::fs::read_dir(&files.folder).expect("a folder").count(), before + 1);
}
