//! Saves that are refused: where there is no image, and where a second peer connects.

use crate::bed::{check_holds, save_config, stream_of};
use snapshot_engine::{Action, Event, Failure, Machine, Pool, SaveMachine, Unsupported};
use vm_simulator::{Fault, VmConfig, World};

/// A machine to which a second peer is reported behind event number `at`.
struct WithSecondPeer {
    machine: SaveMachine,
    at: usize,
    events: usize,
}

impl Machine for WithSecondPeer {
    fn handle(&mut self, event: Event<'_>, pool: &mut Pool) {
        self.machine.handle(event, pool);
        if self.events == self.at {
            self.machine.handle(Event::AnotherPeer, pool);
        }
        self.events += 1;
    }

    fn poll(&mut self, pool: &mut Pool) -> Option<Action> {
        self.machine.poll(pool)
    }
}

#[test]
fn a_save_without_an_image_is_refused_and_leaves_none() {
    let config = VmConfig::background(6, 1 << 20, 50);
    let (_, stream) = stream_of(&config);
    for live in [false, true] {
        let how = save_config(&config, None).with(|save| {
            save.create = None;
            save.live = live;
        });
        let mut machine = SaveMachine::new(how);
        let mut world = World::new(1, None, stream.clone(), Fault::None);
        world.run(&mut machine);
        assert!(matches!(machine.outcome(), Err(Failure::NoImage)), "{:?}", machine.outcome());
        assert!(world.image.is_none(), "live: {live}");
    }
}

/// The channels of multifd follow the main one, and a snapshot without their pages must not be taken for one.
/// Once the save is decided the newcomer changes nothing.
#[test]
fn a_second_peer_fails_a_save_until_it_is_decided_and_not_after() {
    let mut config = VmConfig::background(6, 1 << 20, 50);
    config.seed = 6; // Live, and with answers.
    let (vm, stream) = stream_of(&config);
    let save = |at: usize| {
        let machine = SaveMachine::new(save_config(&config, None));
        let mut machine = WithSecondPeer { machine, at, events: 0 };
        let mut world = World::new(1, None, stream.clone(), Fault::None);
        world.run(&mut machine);
        (machine.machine.outcome(), machine.events, world.image)
    };
    let (alone, events, _) = save(usize::MAX);
    alone.unwrap();
    let (mut refused, mut saved) = (0, 0);
    for at in 0..events {
        match save(at) {
            (Err(Failure::Unsupported(Unsupported::Multifd)), _, image) => {
                assert_eq!(saved, 0, "decided before event {at}, and not any more behind it");
                let image = image.filter(|image| image.length() > 0);
                assert!(image.is_none_or(|image| check_holds(&image, &vm, 1).is_err()), "event {at}");
                refused += 1;
            }
            (Ok(_), _, image) => {
                check_holds(&image.unwrap(), &vm, 1).unwrap();
                saved += 1;
            }
            (Err(failure), ..) => panic!("event {at}: {failure}"),
        }
    }
    // During the commit and behind it, a few events each.
    assert!(refused > 10 && saved > 0, "{refused} refused, {saved} saved, of {events} events");
}
