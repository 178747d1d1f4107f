//! `docs/ci-verdict.md` does what it says: its machines, its known differences and its workflow,
//! taken out of it and run in a repository as it describes, with both QEMUs.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use snapshot_tests::{Version, image::text, tool::snapinspect};

/// The fenced blocks of this language in the guide.
fn blocks(guide: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    guide.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

/// A repository whose build has just made QEMU 10.0, and that has a copy of this one.
struct Repository {
    folder: tempfile::TempDir,
    path: std::ffi::OsString,
}

impl Repository {
    fn new(emulator: &Path, machines: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["tools", "build", "tests/golden", "bin"] {
            fs::create_dir_all(at(name)).expect("our own folder");
        }
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        symlink(here.canonicalize().expect("this repository"), at("tools/qemu-snapshot"))
            .expect("our own folder");
        symlink(emulator, at("build/qemu-system-x86_64")).expect("our own folder");
        symlink(snapinspect(), at("bin/snapinspect")).expect("our own folder");
        fs::write(at("tests/golden/machines"), machines).expect("our own folder");
        let search = env::var_os("PATH").unwrap_or_default();
        let search = [at("bin")].into_iter().chain(env::split_paths(&search));
        let path = env::join_paths(search).expect("no folder of ours has a colon in its name");
        Self { folder, path }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As a workflow runs a step.
    fn run(&self, step: &str, variables: &[(&str, &str)]) -> Output {
        let mut bash = Command::new("bash");
        bash.args(["-e", "-c", step]).current_dir(self.folder.path()).env("PATH", &self.path);
        bash.env_remove("QEMU").env_remove("FORMAT").envs(variables.iter().copied());
        bash.output().expect("bash is on every Linux system")
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_guide_to_a_verdict_in_ci_does_what_it_says() {
    let (Some(old), Some(new)) = (Version::V7_2.binary_or_skip(), Version::V10_0.binary_or_skip()) else {
        return;
    };
    let guide = include_str!("../../../docs/ci-verdict.md");
    let [machines, allow] = &blocks(guide, "text")[..] else { panic!("machines, and what is known of them") };
    let [first, _, last] = &blocks(guide, "console")[..] else { panic!("two verdicts, QEMU's between them") };
    let workflow = &blocks(guide, "yaml")[0];
    let step =
        workflow.lines().find_map(|line| line.trim().strip_prefix("- run: tools/")).expect("a verdict");
    let step = format!("tools/{step}");
    let variables = workflow.lines().find_map(|line| line.trim().strip_prefix("env: {")?.strip_suffix('}'));
    let variables: Vec<(&str, &str)> = variables
        .expect("the step's environment")
        .split(',')
        .map(|pair| pair.trim().split_once(": ").expect("name: value"))
        .collect();
    let repository = Repository::new(new.path(), machines);

    let emulator = old.path().to_str().expect("a UTF-8 path");
    let made = repository.run(&step.replace(" judge ", " make "), &[("QEMU", emulator)]);
    assert!(made.status.success(), "{}", text(&made));

    let judged = repository.run(&step, &variables);
    assert_eq!(judged.status.code(), Some(1), "{}", text(&judged));
    let marks = stdout(&judged);
    for kind in ["notice file=tests/golden/pc.zst,", "error file=tests/golden/microvm.zst,"] {
        assert!(marks.contains(&format!("\n::{kind}")), "{marks}");
    }

    let in_text: Vec<(&str, &str)> =
        variables.iter().copied().filter(|(name, _)| *name != "FORMAT").collect();
    for (known, verdict, status) in [(None, first, 1), (Some(allow), last, 0)] {
        if let Some(known) = known {
            fs::write(repository.at("tests/golden/allow"), known).expect("our own folder");
        }
        let judged = repository.run(&step, &in_text);
        assert_eq!(judged.status.code(), Some(status), "{}", text(&judged));
        let words = stdout(&judged);
        for line in verdict.lines().filter(|line| *line != "…") {
            assert!(words.lines().any(|said| said == line), "not said: {line}\n{words}");
        }
    }

    // Without the machine that is broken the job is green; without its golden stream it cannot tell.
    let good: String =
        machines.lines().filter(|line| !line.starts_with("microvm")).flat_map(|l| [l, "\n"]).collect();
    fs::write(repository.at("tests/golden/machines"), good).expect("our own folder");
    let judged = repository.run(&step, &variables);
    assert!(judged.status.success(), "{}", text(&judged));
    fs::remove_file(repository.at("tests/golden/q35.zst")).expect("just made");
    let judged = repository.run(&step, &variables);
    assert_eq!(judged.status.code(), Some(2), "{}", text(&judged));
}
