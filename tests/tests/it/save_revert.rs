//! The main job with real QEMU: a guest is saved into an image and reverted from it, goes on from
//! the saved moment, and itself verifies every page of its memory.

use std::{ffi::OsStr, fs, path::Path};

use snapshot_tests::{
    Binary, Config, Guest, Outcome, Qemu, Ram, ToImage, Version, Workload, exec_uri,
    image::{assert_size, run_tool},
    with_each_qemu,
};

/// How QEMU and the tool are connected.
#[derive(Clone, Copy, Debug)]
enum How {
    BackgroundSnapshot,
    Precopy,
}

/// Saves a guest that has verified its memory once; gives it with the number of its passes before
/// the save. [`None`] where this machine cannot do it.
fn saved(binary: &Binary, guest: &Guest, config: Config, how: How, image: &Path) -> Option<(Qemu, u32)> {
    let mut source = Qemu::start(binary, guest, config);
    source.console().wait_ready();
    source.console().wait_passes(1);
    source.set_fast();
    if matches!(how, How::BackgroundSnapshot) && !source.background_snapshot_or_skip() {
        return None;
    }
    let passes = source.console().passes();
    assert_eq!(
        source.save_image(&ToImage { options: "--create", image, stream: None }),
        Outcome::Completed,
        "{}",
        source.stderr()
    );
    Some((source, passes))
}

/// Reverts `image` into a new QEMU; the guest completes two whole passes, later ones than `after`.
fn reverts(binary: &Binary, guest: &Guest, config: &Config, options: &str, image: &Path, after: u32) {
    let mut destination = Qemu::start(binary, guest, config.incoming());
    let outcome = destination.revert(&exec_uri(&format!("--revert {options}"), image));
    assert_eq!(outcome, Outcome::Completed, "{}", destination.stderr());
    assert_eq!(destination.run_state(), "running");
    destination.console().wait_passes(3);
    assert!(destination.console().passes() >= after + 3, "goes on from the saved moment");
    destination.quit();
}

fn round_trip(binary: &Binary, guest: &Guest, config: Config, how: How, options: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("vm.qcow2");
    let Some((mut source, passes)) = saved(binary, guest, config.clone(), how, &image) else { return };
    match how {
        How::BackgroundSnapshot => {
            assert_eq!(source.run_state(), "running");
            source.console().wait_passes(2);
        }
        How::Precopy => assert_eq!(source.run_state(), "postmigrate"),
    }
    let output = run_tool([OsStr::new("--revert"), image.as_os_str()], None);
    let bytes = std::fs::read(&image).expect("the image is there");
    assert_eq!(bytes[20..24], [0, 0, 0, 16], "clusters of 64 KiB for a small guest");
    assert_size(&image, &output.stdout);
    reverts(binary, guest, &config, options, &image, passes);
}

#[test]
fn background_snapshot_of_a_running_guest_reverts() {
    with_each_qemu(|binary, guest| {
        round_trip(binary, guest, Config::of_mib(48), How::BackgroundSnapshot, "");
    });
}

#[test]
fn background_snapshot_of_a_busy_q35_reverts_into_fresh_ram() {
    with_each_qemu(|binary, guest| {
        let config = Config { machine: "q35".to_owned(), workload: Workload::BUSY, ..Config::of_mib(48) };
        round_trip(binary, guest, config, How::BackgroundSnapshot, "--fresh-ram");
    });
}

#[test]
fn precopy_reverts() {
    with_each_qemu(|binary, guest| {
        round_trip(
            binary,
            guest,
            Config { workload: Workload::IDLE, ..Config::of_mib(48) },
            How::Precopy,
            "",
        );
    });
}

/// Pages are sent many times, zero after normal and normal after zero. QEMU itself may lose some of them: see
/// [`Workload::IDLE`]. Loading the stream without the tool shows whether the loss is ours.
#[test]
fn precopy_of_a_busy_guest_reverts() {
    let Some(guest) = Guest::built_or_skip() else { return };
    let Some(binary) = Version::V10_0.binary_or_skip() else { return };
    for workload in
        [Workload { dirty_pages: 2_000, ..Workload::BUSY }, Workload { used_percent: 10, ..Workload::STEADY }]
    {
        let config = Config { workload, ..Config::of_mib(48) };
        let whole = (0..5).any(|_| busy_precopy_comes_back(&binary, guest, &config));
        assert!(whole, "QEMU lost dirty pages five times");
    }
}

/// False if QEMU has lost pages that the guest had written.
fn busy_precopy_comes_back(binary: &Binary, guest: &Guest, config: &Config) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (image, stream) = (folder.path().join("vm.qcow2"), folder.path().join("stream"));
    let mut source = Qemu::start(binary, guest, config.clone());
    source.console().wait_passes(1);
    source.set_fast();
    // The image is compared with the stream, page by page, when the source has completed.
    let save = ToImage { options: "--create", image: &image, stream: Some(&stream) };
    assert_eq!(source.save_image(&save), Outcome::Completed, "{}", source.stderr());
    drop(source);
    let goes_on = |uri: &str| {
        let mut destination = Qemu::start(binary, guest, config.incoming());
        assert_eq!(destination.revert(uri), Outcome::Completed, "{}", destination.stderr());
        destination.console().is_sound_for(3)
    };
    if goes_on(&exec_uri("--revert --fresh-ram", &image)) {
        return true;
    }
    assert!(!goes_on(&format!("exec:cat {}", stream.display())), "lost by the tool: the stream is right");
    false
}

/// Most of the device's block is unplugged: its pages are never sent. From 8.1 on, its state comes
/// before RAM.
#[test]
fn guest_with_virtio_mem_reverts() {
    with_each_qemu(|binary, guest| {
        let more = [
            "-m",
            "size=48M,maxmem=1G,slots=2",
            "-object",
            "memory-backend-ram,id=more,size=256M",
            "-device",
            "virtio-mem-pci,memdev=more,requested-size=64M",
        ];
        let config = Config { more: more.map(str::to_owned).to_vec(), ..Config::of_mib(48) };
        for how in [How::BackgroundSnapshot, How::Precopy] {
            let workload = if matches!(how, How::Precopy) { Workload::IDLE } else { config.workload };
            round_trip(binary, guest, Config { workload, ..config.clone() }, how, "");
        }
    });
}

#[test]
fn snapshot_of_7_2_reverts_into_10_0() {
    let Some(guest) = Guest::built_or_skip() else { return };
    let (Some(old), Some(new)) = (Version::V7_2.binary_or_skip(), Version::V10_0.binary_or_skip()) else {
        return;
    };
    for kind in ["pc", "q35"] {
        let config = Config { machine: Binary::common_machine(kind), ..Config::of_mib(48) };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("vm.qcow2");
        let saved = saved(&old, guest, config.clone(), How::BackgroundSnapshot, &image);
        let Some((source, passes)) = saved else { return };
        drop(source);
        reverts(&new, guest, &config, "", &image, passes);
    }
}

/// Zero pages have to be sent: the destination's memory may hold something already.
#[test]
fn revert_overwrites_old_contents_of_a_shared_ram_file() {
    with_each_qemu(|binary, guest| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("vm.qcow2");
        let workload = Workload { used_percent: 50, ..Workload::STEADY };
        let config = Config { workload, ..Config::of_mib(48) };
        let Some((source, passes)) = saved(binary, guest, config.clone(), How::BackgroundSnapshot, &image)
        else {
            return;
        };
        drop(source);
        let ram = folder.path().join("ram");
        fs::write(&ram, vec![0xa5; (config.memory_mib as usize) << 20]).expect("the RAM fits on disk");
        let config = Config { ram: Ram::SharedFile(ram), ..config };
        reverts(binary, guest, &config, "", &image, passes);
    });
}
