//! Clones with MACs of their own, on real QEMU: the NICs answer to them, and nothing else is
//! different.

mod bench;
mod hooks;
mod linux;
mod traffic;

use bench::{Clones, NICS, Nic};
use serde_json::json;
use snapshot_tests::{Outcome, Qemu, exec_uri, with_each_qemu};
use std::fs;

/// Seven NICs of all kinds that are rewritten, on all kinds of buses.
#[test]
fn a_clone_has_its_own_macs_and_nothing_else_is_different() {
    with_each_qemu(|binary, guest| {
        let clones = Clones::saved(binary, guest, &NICS);
        let reference = clones.stream_of_a_revert(binary, guest, "--keep-identity", &clones.config);
        let orders: Vec<String> =
            NICS.iter().map(|nic| format!("--mac {}={}", nic.device, nic.new)).collect();
        let orders = orders.join(" ");
        let clone = clones.stream_of_a_revert(binary, guest, &orders, &clones.of_destination());
        let mut differ = bench::differences(&reference.path, &clone.path);
        differ.sort_unstable();
        let mut expected: Vec<String> = NICS.iter().flat_map(Nic::fields).collect();
        expected.sort_unstable();
        assert_eq!(differ, expected, "{}", binary.version());
        // QEMU tells the addresses of virtio-net alone.
        let of = |nic: &Nic| nic.kind.starts_with("virtio").then(|| nic.new.to_owned());
        assert_eq!(clone.macs, NICS.iter().filter_map(of).collect::<Vec<_>>());
    });
}

#[test]
fn seeds_and_indices_give_the_same_addresses_in_every_mode() {
    with_each_qemu(|binary, guest| {
        let nics = &NICS[..2];
        let clones = Clones::saved(binary, guest, nics);
        let mut seen = Vec::new();
        for index in [0, 1, 77] {
            let orders = format!("--identity-seed=7 --identity-index={index}");
            let precopy = clones.macs_of_a_revert(binary, guest, &orders);
            let postcopy = clones.macs_of_a_revert(binary, guest, &format!("{orders} --postcopy=0"));
            assert_eq!(precopy, postcopy, "{}", binary.version());
            seen.extend(precopy);
        }
        // By the words of docs/clones.md, computed elsewhere.
        assert_eq!(seen, ["d2:8e:31:32:9e:c4", "e2:16:27:ae:b2:44", "ba:cf:0d:f7:5e:fb"]);
        let [first, second] = [(), ()].map(|()| clones.macs_of_a_revert(binary, guest, "--new-identity"));
        let byte = u8::from_str_radix(&first[0][..2], 16).expect("hexadecimal");
        assert!(first != second && byte & 3 == 2, "{first:?} {second:?}");
    });
}

/// A reset gives virtio-net the address of the command line, whatever was loaded.
#[test]
fn a_destination_that_was_started_with_the_new_mac_keeps_it_over_a_reset() {
    with_each_qemu(|binary, guest| {
        let nics = &NICS[..1];
        let clones = Clones::saved(binary, guest, nics);
        let options = format!("--revert --mac {}={}", nics[0].device, nics[0].new);
        for (mac, expected) in [(nics[0].new, nics[0].new), (nics[0].old, nics[0].old)] {
            let mut destination = Qemu::start(binary, guest, clones.with_macs(|_| mac));
            assert_eq!(destination.revert(&exec_uri(&options, &clones.image())), Outcome::Completed);
            assert_eq!(bench::macs(&mut destination), [nics[0].new]);
            destination.execute("system_reset", json!({}));
            bench::wait_until(|| bench::macs(&mut destination) == [expected]);
        }
    });
}

/// What cannot be proved is refused by name, before QEMU has anything that it could run.
#[test]
fn a_nic_that_is_not_rewritten_is_named_and_may_be_kept() {
    with_each_qemu(|binary, guest| {
        let nics = [NICS[0], Nic { kind: "pcnet", ..NICS[1] }];
        let clones = Clones::saved(binary, guest, &nics);
        for (orders, words) in [
            ("--new-identity", "NIC \"0000:00:04.0/pcnet\" cannot be given a new MAC: devices of the kind"),
            ("--mac 0000:00:03=02:00:00:00:00:01", "NIC \"0000:00:04.0/pcnet\" is given no new MAC"),
            (
                "--mac 0000:00:0=02:00:00:00:00:01",
                "may be any of \"0000:00:03.0/virtio-net\", \"0000:00:04.0/pcnet\"",
            ),
            ("--mac eth0=02:00:00:00:00:01", "the snapshot has no NIC \"eth0\""),
        ] {
            let mut destination = Qemu::start(binary, guest, clones.config.incoming());
            let uri = exec_uri(&format!("--revert {orders}"), &clones.image());
            let Outcome::Failed(said) = destination.revert(&uri) else { panic!("{orders}: it was reverted") };
            assert!(said.contains(words), "{orders}: {said}");
        }
        let orders = "--new-identity --keep-identity=0000:00:04.0";
        let [mac] = &clones.macs_of_a_revert(binary, guest, orders)[..] else { panic!("one virtio-net") };
        assert!(mac != NICS[0].old, "{mac}");
    });
}

/// The address of vmxnet3 is the destination's own, which has to know it.
#[test]
fn a_vmxnet3_that_was_started_with_another_mac_is_refused_by_qemu() {
    with_each_qemu(|binary, guest| {
        let nics: Vec<Nic> = NICS.iter().filter(|nic| nic.kind == "vmxnet3").copied().collect();
        let clones = Clones::saved(binary, guest, &nics);
        let mut destination = Qemu::start(binary, guest, clones.config.incoming());
        let options = format!("--revert --mac {}={}", nics[0].device, nics[0].new);
        let Outcome::Failed(said) = destination.revert(&exec_uri(&options, &clones.image())) else {
            panic!("it was reverted")
        };
        assert!(said.contains("Bad config data"), "{said}");
        let mut destination = Qemu::start(binary, guest, clones.config.incoming());
        let uri = exec_uri("--revert --new-identity", &clones.image());
        let Outcome::Failed(said) = destination.revert(&uri) else { panic!("it was reverted") };
        assert!(said.contains("has the MAC that its destination was started with"), "{said}");
        assert!(fs::metadata(clones.image()).is_ok());
    });
}
