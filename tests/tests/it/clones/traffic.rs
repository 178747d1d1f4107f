//! Clones of a Linux guest that talk with each other, by the guest's own driver, ARP and ICMP.

use super::linux::{Kit, Linux};
use serde_json::json;
use snapshot_tests::{Binary, Version, exec_uri};
use std::process::Command;
use test_support::not_run;

const SAVED: &str = "52:54:00:00:00:01";
/// By the words of docs/clones.md, computed elsewhere.
const DERIVED: [&str; 2] = ["d2:a2:b8:6c:98:c9", "f2:da:72:b4:14:9d"];

/// QEMU 10.0, for booting takes its time, or those that `QEMU_VERSIONS` names; `-netdev stream` is of 7.2.
fn is_wanted(version: Version) -> bool {
    let named = std::env::var_os("QEMU_VERSIONS").is_some();
    version == Version::V10_0 || (named && version != Version::V5_2)
}

fn netdev(text: &str) -> String {
    text.to_owned()
}

/// Saves a guest that runs and has the address 10.0.2.15.
fn save(kit: &Kit, binary: &Binary) {
    let mut source = kit.start(binary, "source", &[], &[netdev("hubport,hubid=0,id=n0")], false);
    assert_eq!(source.says("who"), SAVED);
    assert_eq!(source.says("ip 10.0.2.15"), "done");
    source.execute("migrate-set-parameters", json!({ "max-bandwidth": 8_u64 << 30 }));
    source.migrate("migrate", &exec_uri("--create", &kit.path("vm.qcow2")));
}

/// Two clones and a third guest on one segment: each reaches each, under its own address.
#[test]
fn clones_with_new_macs_talk_on_one_segment() {
    for binary in Version::each_that(is_wanted) {
        let Some(kit) = Kit::built_or_skip() else { return };
        save(&kit, &binary);
        let image = kit.path("vm.qcow2");
        // The third guest is the hub.
        let mut hub = vec![netdev("hubport,hubid=0,id=n0")];
        for port in [1, 2] {
            let socket = kit.path(&format!("port{port}"));
            let address = format!("addr.type=unix,addr.path={}", socket.display());
            hub.push(format!("stream,id=s{port},server=on,{address}"));
            hub.push(format!("hubport,hubid=0,id=h{port},netdev=s{port}"));
        }
        let mut third = kit.start(&binary, "third", &[], &hub, true);
        third.migrate("migrate-incoming", &exec_uri("--revert --keep-identity", &image));
        assert_eq!((&third.says("who")[..], &third.says("ip 10.0.2.3")[..]), (SAVED, "done"));
        let clone = |number: usize, mode: &str| {
            let name = format!("clone{number}");
            let socket = kit.path(&format!("port{number}"));
            let nic = format!("stream,id=n0,server=off,addr.type=unix,addr.path={}", socket.display());
            let mut clone = kit.start(&binary, &name, &[], &[nic], true);
            let postcopy = json!([{ "capability": "postcopy-ram", "state": !mode.is_empty() }]);
            clone.execute("migrate-set-capabilities", json!({ "capabilities": postcopy }));
            let serial = kit.path(&format!("{name}.in"));
            let hook = format!("printf \"mac %s\\nip 10.0.2.1{number}\\n\" $NEW_MAC >{}", serial.display());
            let orders = format!("--identity-seed=5 --identity-index={number} --mac-hook '{hook}'");
            clone.migrate("migrate-incoming", &exec_uri(&format!("--revert {mode} {orders}"), &image));
            assert_eq!([clone.line(), clone.line()], ["done", "done"], "{}", clone.stderr());
            assert_eq!(clone.says("who"), DERIVED[number - 1]);
            clone
        };
        let (mut first, mut second) = (clone(1, ""), clone(2, "--postcopy=0"));
        let reaches = |from: &mut Linux, to: &str, mac: &str| {
            assert_eq!(from.says("forget"), "done");
            assert_eq!(from.says(&format!("ping {to}")), mac, "{}: {to}", binary.version());
        };
        for _ in 0..2 {
            reaches(&mut third, "10.0.2.11", DERIVED[0]);
            reaches(&mut third, "10.0.2.12", DERIVED[1]);
            reaches(&mut first, "10.0.2.3", SAVED);
            reaches(&mut first, "10.0.2.12", DERIVED[1]);
            reaches(&mut second, "10.0.2.3", SAVED);
            reaches(&mut second, "10.0.2.11", DERIVED[0]);
        }
        // Nobody has the address that all were saved with.
        assert_eq!(third.says("ping 10.0.2.15"), "lost");
    }
}

/// A network namespace with a TAP device; gone when dropped.
struct Namespace(String);

fn ip(words: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(words).output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

impl Namespace {
    fn with_tap(number: usize) -> Result<Self, String> {
        let name = format!("qemu-snapshot-{}-{number}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self(name);
        let name = &namespace.0[..];
        ip(&["-n", name, "tuntap", "add", "tap0", "mode", "tap"])?;
        ip(&["-n", name, "address", "add", "10.0.2.1/24", "dev", "tap0"])?;
        ip(&["-n", name, "link", "set", "tap0", "up"])?;
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.0]);
    }
}

/// The recipe of docs/clones.md: two twins, each alone in a namespace.
#[test]
fn clones_with_kept_macs_talk_behind_namespaces() {
    let Some(kit) = Kit::built_or_skip() else { return };
    let namespaces: Result<Vec<Namespace>, String> = (0..2).map(Namespace::with_tap).collect();
    let namespaces = match namespaces {
        Ok(namespaces) => namespaces,
        Err(why) => return not_run(&format!("no right to make network namespaces with TAP devices: {why}")),
    };
    let Some(binary) = Version::V10_0.binary_or_skip() else { return };
    save(&kit, &binary);
    let twin = |(number, namespace): (usize, &Namespace)| {
        let before = ["ip", "netns", "exec", &namespace.0];
        let tap = netdev("tap,id=n0,ifname=tap0,script=no,downscript=no");
        let mut clone = kit.start(&binary, &format!("twin{number}"), &before, &[tap], true);
        let uri = exec_uri("--revert --keep-identity", &kit.path("vm.qcow2"));
        clone.migrate("migrate-incoming", &uri);
        clone
    };
    let mut twins: Vec<Linux> = namespaces.iter().enumerate().map(twin).collect();
    for (twin, namespace) in twins.iter_mut().zip(&namespaces) {
        assert_eq!(twin.says("who"), SAVED);
        let link = ip(&["-n", &namespace.0, "-brief", "link", "show", "tap0"]).expect("it is there");
        let gateway = link.split_whitespace().nth(2).expect("its address").to_owned();
        assert_eq!(twin.says("ping 10.0.2.1"), gateway, "{}", twin.stderr());
        let neighbours = ip(&["-n", &namespace.0, "neighbour", "show", "10.0.2.15"]).expect("a table");
        assert!(neighbours.contains(SAVED), "{neighbours}");
    }
}
