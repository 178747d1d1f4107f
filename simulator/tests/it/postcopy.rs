//! Postcopy reverts under one seed: the real machine, a destination whose guest touches pages in
//! any order, delays, cuts and read errors. Whatever happens, no page is wrong, lost or sent twice,
//! and every request is answered.

use migration_stream::protocol::IncomingState;
use migration_stream::{Command, Entry, Options, PageSize, Record, SliceReader};
use snapshot_engine::{
    Class, Failure, HotSet, PostcopyConfig, RevertMachine, RevertSummary, SaveMachine, error_text,
};
use vm_simulator::explore::{Scenario, Size};
use vm_simulator::{Destination, Fault, Rng, SimFile, VmConfig, World};

/// More in the nightly tier.
fn seeds() -> u64 {
    std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

/// A saved VM.
struct Bed {
    seed: u64,
    scenario: Scenario,
    image: SimFile,
}

fn bed(seed: u64) -> Bed {
    let scenario = Scenario::new(seed, Size::LARGE);
    let mut machine = SaveMachine::new(scenario.save_config(None));
    let mut world = World::new(seed, None, scenario.stream().to_vec(), Fault::None);
    world.run(&mut machine);
    machine.outcome().unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    Bed { seed, scenario, image: world.image.unwrap() }
}

impl Bed {
    fn vm(&self) -> &VmConfig {
        self.scenario.vm().config()
    }

    fn postcopy(&self) -> PostcopyConfig {
        self.scenario.postcopy().clone()
    }

    fn destination(&self) -> Destination {
        self.scenario.destination()
    }

    fn machine(&self, postcopy: PostcopyConfig) -> RevertMachine {
        RevertMachine::new(self.scenario.revert_config(&self.image, Some(postcopy)))
    }

    /// One server; what became of it, unless it was killed, and of the destination.
    fn serve(
        &self,
        postcopy: PostcopyConfig,
        image: &SimFile,
        destination: Destination,
        seed: u64,
        fault: Fault,
    ) -> (Destination, RevertMachine, World) {
        let mut machine = self.machine(postcopy);
        let mut world =
            World::new(seed, Some(image.clone()), Vec::new(), fault).with_destination(destination);
        world.run(&mut machine);
        if let Some(violation) = &world.violation {
            panic!("seed {}, {fault:?}: {violation} ({:?})", self.seed, self.postcopy());
        }
        let mut destination = world.destination.take().unwrap();
        // A destination that has the end mark needs no server any more.
        while destination.state() == IncomingState::End && destination.can_step() {
            destination.step().unwrap_or_else(|violation| panic!("seed {}: {violation}", self.seed));
        }
        (destination, machine, world)
    }

    fn revert(&self, postcopy: PostcopyConfig) -> (RevertSummary, Option<HotSet>, Destination) {
        let seed = self.seed;
        let (destination, machine, _) =
            self.serve(postcopy, &self.image, self.destination(), seed, Fault::None);
        let summary = machine.outcome().unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        assert!(destination.is_done(), "seed {seed}: the destination is not done");
        (summary, machine.hot_set().cloned(), destination)
    }
}

/// The destination itself verifies every page, refuses what comes twice, and ends only when it has
/// everything.
#[test]
fn everything_arrives_once_and_in_order() {
    let (mut requests, mut wanted) = (0, 0);
    for seed in 0..seeds() {
        let bed = bed(seed);
        let (summary, _, destination) = bed.revert(bed.postcopy());
        assert_eq!(summary.postcopy.unwrap().requests, destination.requests, "seed {seed}");
        assert_eq!(destination.has_third_region(), bed.vm().dirty_bitmap, "seed {seed}");
        requests += destination.requests;
        wanted += summary.postcopy.unwrap().requested_host_pages;
    }
    assert!(requests > seeds() && wanted > seeds() / 2, "{requests} requests: the guests hardly wait");
}

/// What one guest had to ask for is there when the next one runs.
#[test]
fn a_recorded_hot_set_is_never_requested_again() {
    let mut recorded = 0;
    for seed in 0..seeds() / 5 {
        let bed = bed(seed);
        let recording = bed.postcopy().with(|config| {
            config.record_ms = Some(1000);
        });
        let (_, hot, first) = bed.revert(recording);
        let hot = hot.unwrap();
        let hot = HotSet::parse(&hot.to_bytes()).unwrap();
        let using = bed.postcopy().with(|config| {
            config.hot_set = Some(hot);
            config.record_ms = None;
        });
        let (.., second) = bed.revert(using);
        // One host page is always held back: the last one.
        let last = bed.vm().blocks.len() - 1;
        let held_back =
            (last, bed.vm().blocks[last].1 - bed.scenario.destination_config().host_page_bytes[last]);
        let again: Vec<_> =
            first.requested.intersection(&second.requested).filter(|page| **page != held_back).collect();
        assert!(again.is_empty(), "seed {seed}: requested again: {again:x?}");
        recorded += first.requested.len();
    }
    assert!(recorded as u64 > seeds() / 5, "{recorded} recorded");
}

/// QEMU gives up huge pages with its first discard: one comes before the pages of a hot set, which
/// are scattered.
#[test]
fn a_hot_set_begins_with_a_discard() {
    let mut pages = 0;
    for seed in 0..seeds() / 20 {
        let bed = bed(seed);
        let (_, hot, _) = bed.revert(bed.postcopy().with(|config| {
            config.record_ms = Some(1000);
        }));
        let using = bed.postcopy().with(|config| {
            config.hot_set = hot;
            config.record_ms = None;
            config.percent = 0;
        });
        let (.., world) = bed.serve(using, &bed.image, bed.destination(), seed, Fault::None);
        let options = Options::default().with_page_size(PageSize::new(bed.vm().page_size.into()));
        let mut reader = SliceReader::new(&world.output, options);
        let mut discards = 0;
        while let Some(Entry { record, .. }) = reader.advance().unwrap() {
            match record {
                Record::Command(Command::PostcopyRamDiscard { ranges, .. }) => discards += ranges.len(),
                Record::Page(_) => {
                    assert_eq!(discards, 1, "seed {seed}: discards before the first page");
                    pages += 1;
                    break;
                }
                Record::Command(Command::Packaged(_)) => break,
                _ => {}
            }
        }
    }
    assert!(pages > seeds() / 100, "{pages} sent before the guest ran: no use");
}

/// A profile is bound to its snapshot, and to record one again leaves nothing out.
#[test]
fn a_hot_set_is_used_for_its_snapshot_only_and_not_while_another_is_recorded() {
    let mut recorded = 0;
    for seed in 0..seeds() / 20 {
        let (bed, other) = (bed(seed), bed(seed + 1));
        let recording = |hot_set| {
            bed.postcopy().with(|config| {
                config.record_ms = Some(1000);
                config.hot_set = hot_set;
            })
        };
        let (plain, hot, first) = bed.revert(recording(None));
        let (again, hot_again, _) = bed.revert(recording(hot.clone()));
        assert_eq!((&plain, &hot), (&again, &hot_again), "seed {seed}");
        recorded += first.requested.len();
        let unused = other.postcopy().with(|config| {
            config.record_ms = None;
        });
        let (without, ..) = other.revert(unused.clone());
        let (with, ..) = other.revert(unused.with(|config| {
            config.hot_set = hot;
        }));
        assert_eq!(without, with, "seed {seed}: a profile of another snapshot was used");
    }
    assert!(recorded > 20, "{recorded} recorded: no use");
}

/// Tables that no page needs are verified as well, and before a guest could be hurt by what comes of it.
#[test]
fn damaged_tables_are_found_before_the_guest_runs() {
    for seed in 0..seeds() / 20 {
        let bed = bed(seed);
        let mut image = bed.image.clone();
        let mut header = [0; 56];
        image.read(0, &mut header);
        // Offset of the refcount table in the QCOW2 header: a revert does not need it.
        let refcount_table = u64::from_be_bytes(*header.last_chunk().unwrap());
        image.flip_bit(refcount_table + 7, 4);
        let (destination, machine, _) =
            bed.serve(bed.postcopy(), &image, bed.destination(), seed, Fault::None);
        let failure = machine.outcome().unwrap_err();
        assert_eq!(failure.class(), Class::InputWrong, "seed {seed}: {failure}");
        assert!(destination.state() < IncomingState::Listening, "seed {seed}: {failure}");
    }
}

/// Servers die again and again; each is replaced, and in the end everything is there.
#[test]
fn killed_servers_are_replaced_until_everything_is_there() {
    let (mut recovered, mut ended) = (0, 0);
    for seed in 0..seeds() / 3 {
        let bed = bed(seed);
        let mut rng = Rng::new(seed);
        let mut destination = bed.destination();
        let mut postcopy = bed.postcopy();
        for round in 0..20 {
            let fault = if round < 12 { Fault::Killed(rng.below(150)) } else { Fault::None };
            let (back, machine, _) = bed.serve(postcopy, &bed.image, destination, seed + round, fault);
            destination = back;
            if destination.is_done() {
                break;
            }
            if fault == Fault::None {
                panic!("seed {seed}: the last server did not finish: {:?}", machine.outcome());
            }
            if !destination.broken() {
                ended += 1;
                break;
            }
            recovered += 1;
            postcopy = bed.scenario.recovery();
        }
        // Behind the end mark QEMU cannot be recovered any more, should it still wait for zero
        // pages (from 8.0 on).
        let lost = match destination.state() {
            IncomingState::Running => true,
            IncomingState::End => !destination.is_done() && !bed.postcopy().preempt,
            _ => false,
        };
        assert!(!lost, "seed {seed}: still {}", destination.describe());
    }
    assert!(recovered > seeds() / 10 && ended > 0, "{recovered} recoveries, {ended} ends before RUN");
}

/// A read error ends the server before anything wrong is sent; a healthy disk lets the next one finish.
#[test]
fn read_errors_end_the_server_and_lose_nothing() {
    let mut failed = 0;
    for seed in 0..seeds() / 3 {
        let bed = bed(seed);
        let fault = if seed % 2 == 0 { Fault::Error(seed % 40) } else { Fault::Dead(seed % 40) };
        let (mut destination, machine, _) =
            bed.serve(bed.postcopy(), &bed.image, bed.destination(), seed, fault);
        let Err(failure) = machine.outcome() else { continue };
        failed += 1;
        assert!(!destination.is_done(), "seed {seed}: the destination believes that all is well");
        assert!(error_text(&failure).contains("Input/output error"), "seed {seed}: {failure}");
        if destination.broken() {
            let (destination, machine, _) =
                bed.serve(bed.scenario.recovery(), &bed.image, destination, seed, Fault::None);
            machine.outcome().unwrap();
            assert!(destination.is_done());
        }
    }
    assert!(failed > seeds() / 20, "{failed} failures");
}

/// A damaged page is named, and never sent.
#[test]
fn damaged_pages_are_never_sent() {
    let mut named = 0;
    for seed in 0..seeds() / 5 {
        let bed = bed(seed);
        let mut image = bed.image.clone();
        let sectors: Vec<u64> = image.sectors().collect();
        let mut rng = Rng::new(seed);
        let at = sectors[rng.index(sectors.len())] + rng.below(4096);
        image.flip_bit(at, u32::try_from(rng.below(8)).unwrap());
        let (destination, machine, _) =
            bed.serve(bed.postcopy(), &image, bed.destination(), seed, Fault::None);
        // A bit that does not count changes nothing: the destination has verified everything.
        let Err(failure) = machine.outcome() else { continue };
        assert!(!destination.is_done(), "seed {seed}: the destination believes that all is well");
        assert_eq!(failure.class(), Class::InputWrong, "seed {seed}: {failure}");
        named += u64::from(error_text(&failure).contains("block \""));
    }
    assert!(named > seeds() / 40, "{named} pages named");
}

/// A destination that goes away is noticed.
#[test]
fn a_destination_that_goes_away_is_noticed() {
    for seed in 0..seeds() / 10 {
        let bed = bed(seed);
        let fault = Fault::PeerGone(seed % 30);
        let (destination, machine, _) = bed.serve(bed.postcopy(), &bed.image, bed.destination(), seed, fault);
        match machine.outcome() {
            Ok(_) => assert!(destination.is_done(), "seed {seed}: lost without a word"),
            Err(failure) => assert!(matches!(failure, Failure::PeerClosed { .. }), "seed {seed}: {failure}"),
        }
    }
}

/// Another snapshot, or one that cannot be told from others, is not mixed into a running guest.
#[test]
fn only_the_same_snapshot_recovers() {
    let bed = bed(3);
    let other = bed.postcopy().with(|config| {
        config.recover = Some([0xee; 16]);
    });
    let (_, machine, world) = bed.serve(other, &bed.image, bed.destination(), 1, Fault::None);
    let text = machine.outcome().unwrap_err().to_string();
    assert!(text.contains("two guests must not mix"), "{text}");
    assert!(world.output.is_empty(), "something was sent");
}

/// Without a return path no page could be requested.
#[test]
fn postcopy_needs_a_return_path() {
    let bed = bed(1);
    let mute = bed.postcopy().with(|config| {
        config.can_answer = false;
    });
    let mut machine = bed.machine(mute);
    let mut world = World::new(1, Some(bed.image.clone()), Vec::new(), Fault::None);
    world.run(&mut machine);
    let text = machine.outcome().unwrap_err().to_string();
    assert_eq!(text, "postcopy needs a return path");
    assert_eq!(world.output, b"X");
}

/// A destination that takes everything and says nothing is not waited for without end.
#[test]
fn a_silent_destination_is_given_up() {
    let bed = bed(2);
    let postcopy = bed.postcopy().with(|config| {
        config.preempt = false;
        config.record_ms = None;
    });
    let mut machine =
        RevertMachine::new(bed.scenario.revert_config(&bed.image, Some(postcopy)).with(|config| {
            config.timeout_ms = Some(3000);
        }));
    let mut world = World::new(2, Some(bed.image.clone()), Vec::new(), Fault::None);
    world.run(&mut machine);
    let text = machine.outcome().unwrap_err().to_string();
    assert!(
        text.starts_with("the destination took and said nothing for 3 s") && text.contains("multifd"),
        "{text}"
    );
}
