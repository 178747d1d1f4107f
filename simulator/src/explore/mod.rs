//! Campaigns in the simulated world: a VM is saved and reverted under one seed, with faults, until
//! all faults are over.
//!
//! First safety: whatever fails, nothing wrong may come of it. Then the world heals, and the job
//! must come to its end. A [`Finding`] names the seed, which replays it exactly.

mod mapped;
mod scenario;

pub use scenario::{Scenario, Size};

use crate::checks::{Violation, accepted_only_if_complete, mapped_view};
use crate::destination::Destination;
use crate::disk::SimFile;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::world::{Fault, Planted, World};
use migration_stream::protocol::IncomingState;
use snapshot_engine::{PostcopyConfig, RevertConfig, RevertMachine, SaveMachine, error_text};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Servers that may die before the world heals.
const DEATHS: u64 = 4;

/// Something that must never happen has happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}, event {event}: {text}")]
pub struct Finding {
    /// It replays with this seed.
    pub seed: u64,
    /// Event of the run in which it was found.
    pub event: u64,
    /// The rule, and how it was broken.
    pub text: String,
}

/// What a seed brought, where all was well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Explored {
    /// Events of all runs.
    pub events: u64,
    /// Requests of destinations.
    pub requests: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Servers that took over from dead ones.
    pub recoveries: u64,
    /// Everything that the machines asked for.
    pub trace: Trace,
}

/// Explores one seed; `planted` is a fault of the engine's that has to be found.
///
/// # Errors
///
/// What was found.
pub fn explore(seed: u64, planted: Option<Planted>) -> Result<Explored, Finding> {
    let mut run = Run { seed, rng: Rng::new(!seed), planted, explored: Explored::default(), event: 0 };
    let result = catch_unwind(AssertUnwindSafe(|| run.everything()));
    let text = match result {
        Ok(Ok(())) => return Ok(run.explored),
        Ok(Err(text)) => text,
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic".to_owned()),
    };
    Err(Finding { seed, event: run.event, text })
}

struct Run {
    seed: u64,
    rng: Rng,
    planted: Option<Planted>,
    explored: Explored,
    event: u64,
}

fn told(violation: &Violation) -> String {
    violation.to_string()
}

impl Run {
    fn everything(&mut self) -> Result<(), String> {
        let scenario = Scenario::new(self.seed, Size::SMALL);
        let image = self.save(&scenario)?;
        if self.rng.chance(30) {
            self.overwrite(&scenario, &image)?;
        }
        self.precopy(&scenario, &image)?;
        self.postcopy(&scenario, &image)?;
        self.mapped(&scenario, &image)
    }

    /// Runs a machine; a broken rule ends it all.
    fn run(&mut self, world: &mut World, machine: &mut impl snapshot_engine::Machine) -> Result<(), String> {
        world.run(machine);
        self.event = world.event;
        self.explored.events += world.event;
        self.explored.trace.and(world.trace);
        world.violation.as_ref().map_or(Ok(()), |violation| Err(told(violation)))
    }

    /// What may happen to a save.
    fn fault(&mut self) -> Fault {
        let at = self.rng.below(120);
        match self.rng.below(10) {
            0 => Fault::Error(at),
            1 => Fault::Torn(at),
            2 => Fault::Full(at),
            3 => Fault::Dead(at),
            4 => Fault::PowerCut(at),
            5 => Fault::Interrupt(at),
            6 => Fault::Killed(at * 5),
            _ => Fault::None,
        }
    }

    /// Replaces a snapshot under a fault: the old one is there, or the new one, whole.
    fn overwrite(&mut self, scenario: &Scenario, old: &SimFile) -> Result<(), String> {
        // A save that failed with its disk may have left a snapshot of which not everything is durable. By
        // now it is: what a power cut does to it says nothing about the overwrite.
        let mut old = old.clone();
        old.flush();
        let new = Scenario::new(self.seed ^ 0x00d1_d4e5, Size::SMALL);
        let fault = self.fault();
        let config = new.save_config(Some(&old)).with(|config| {
            config.overwrite = true;
        });
        let mut machine = SaveMachine::new(config);
        let stream = new.stream().to_vec();
        let mut world = World::new(self.rng.next_u64(), Some(old.clone()), stream, fault);
        self.run(&mut world, &mut machine)?;
        let killed = world.lost_power || fault == Fault::Killed(world.event);
        let succeeded = !killed && machine.outcome().is_ok();
        let Some(image) = world.image else { return Err("an overwrite left nothing".to_owned()) };
        let is_old = image == old;
        let whole = self.accepts(if is_old { scenario } else { &new }, &image)?;
        match (succeeded, is_old) {
            (true, true) => Err("an overwrite reported success, and the old snapshot is there".to_owned()),
            // Torn: it could not be made durable, nor taken back.
            (false, false) if !killed && !matches!(fault, Fault::Torn(_) | Fault::Interrupt(_)) => {
                Err("an overwrite reported failure, and the old snapshot is gone".to_owned())
            }
            _ if !whole => Err("an overwrite left neither the old snapshot nor the new one".to_owned()),
            _ => Ok(()),
        }
    }

    /// Saves under a fault; then, if that failed, without one.
    fn save(&mut self, scenario: &Scenario) -> Result<SimFile, String> {
        let fault = self.fault();
        let mut left = None;
        for fault in [fault, Fault::None] {
            let mut machine = SaveMachine::new(scenario.save_config(left.as_ref()));
            let mut world = World::new(self.rng.next_u64(), left, scenario.stream().to_vec(), fault);
            self.run(&mut world, &mut machine)?;
            let killed = world.lost_power || fault == Fault::Killed(world.event);
            let outcome = (!killed).then(|| machine.outcome());
            let accepted = match &world.image {
                Some(image) => self.accepts(scenario, image)?,
                None => false,
            };
            // A disk that fails for good keeps what was written last, and nothing can be removed from it.
            let reported = outcome.as_ref().map(Result::is_ok);
            let reported = reported.filter(|well| *well || !matches!(fault, Fault::Dead(_)));
            accepted_only_if_complete(reported, accepted, accepted).map_err(|violation| told(&violation))?;
            if accepted && let Some(image) = world.image {
                return Ok(image);
            }
            self.explored.faults += 1;
            left = world.image;
            if let (Fault::None, Some(Err(failure))) = (fault, outcome) {
                return Err(format!("a save without a fault failed: {failure}"));
            }
        }
        Err("a save without a fault left nothing".to_owned())
    }

    /// Whether a revert accepts the image; it must then bring everything.
    fn accepts(&mut self, scenario: &Scenario, image: &SimFile) -> Result<bool, String> {
        let mut machine = RevertMachine::new(scenario.revert_config(image, None));
        let mut world = World::new(self.rng.next_u64(), Some(image.clone()), Vec::new(), Fault::None)
            .with_destination(scenario.destination());
        self.run(&mut world, &mut machine)?;
        if machine.outcome().is_err() {
            return Ok(false);
        }
        let whole = world.destination.map_or(Ok(()), |it| it.finish_precopy(scenario.vm()));
        let mapped = whole.and_then(|()| mapped_view(image, scenario.vm()));
        let layout = mapped.map_err(|violation| told(&violation))?;
        if layout != scenario.layout() {
            return Err(format!("a {layout} image, and not the one that was asked for"));
        }
        Ok(true)
    }

    /// A precopy revert under a fault: it delivers everything, or fails.
    fn precopy(&mut self, scenario: &Scenario, image: &SimFile) -> Result<(), String> {
        let at = self.rng.below(40);
        let fault = [Fault::Error(at), Fault::Dead(at), Fault::PeerGone(at), Fault::None][self.rng.index(4)];
        self.deliver(scenario, image, scenario.revert_config(image, None), scenario.destination(), fault)
    }

    /// Reverts, and compares all that the destination has then; fails only if there is a fault.
    fn deliver(
        &mut self,
        scenario: &Scenario,
        image: &SimFile,
        config: RevertConfig,
        destination: Destination,
        fault: Fault,
    ) -> Result<(), String> {
        let mut machine = RevertMachine::new(config);
        let mut world = World::new(self.rng.next_u64(), Some(image.clone()), Vec::new(), fault)
            .with_destination(destination);
        self.run(&mut world, &mut machine)?;
        match machine.outcome() {
            Ok(_) => {
                let whole = world.destination.map_or(Ok(()), |it| it.finish_precopy(scenario.vm()));
                whole.map_err(|violation| told(&violation))
            }
            Err(failure) if fault == Fault::None => {
                Err(format!("a revert without a fault failed: {failure}"))
            }
            Err(_) => {
                self.explored.faults += 1;
                Ok(())
            }
        }
    }

    /// Servers die and are replaced; the last one has nothing to fear, and must finish.
    fn postcopy(&mut self, scenario: &Scenario, image: &SimFile) -> Result<(), String> {
        let mut destination = scenario.destination();
        let mut config = scenario.postcopy().clone();
        for round in 0..=DEATHS {
            let at = self.rng.below(150);
            let fault = match (round, self.rng.below(4)) {
                (DEATHS, _) | (_, 0) => Fault::None,
                (_, 1) => Fault::Error(at / 5),
                _ => Fault::Killed(at * 2),
            };
            let (back, failure) = self.serve(scenario, image, config, destination, fault)?;
            destination = back;
            if destination.is_done() {
                self.explored.requests += destination.requests;
                return Ok(());
            }
            if let (Fault::None, Some(failure)) = (fault, failure) {
                return Err(format!("a server without a fault failed: {failure}"));
            }
            self.explored.faults += 1;
            if !destination.broken() {
                // Nothing ran yet: QEMU would end, and be started again.
                if destination.state() == IncomingState::End && !scenario.postcopy().preempt {
                    return Err(format!("lost at the end: {}", destination.describe()));
                }
                destination = scenario.destination();
                config = scenario.postcopy().clone();
                continue;
            }
            self.explored.recoveries += 1;
            config = scenario.recovery();
        }
        Err(format!("no end after {DEATHS} deaths: {}", destination.describe()))
    }

    /// One server. What became of the destination, and why the server failed, unless it was killed.
    fn serve(
        &mut self,
        scenario: &Scenario,
        image: &SimFile,
        config: PostcopyConfig,
        destination: Destination,
        fault: Fault,
    ) -> Result<(Destination, Option<String>), String> {
        let mut machine = RevertMachine::new(scenario.revert_config(image, Some(config)));
        let mut world = World::new(self.rng.next_u64(), Some(image.clone()), Vec::new(), fault)
            .with_destination(destination);
        world.planted = self.planted;
        self.run(&mut world, &mut machine)?;
        let killed = fault == Fault::Killed(world.event);
        let failure =
            (!killed).then(|| machine.outcome().err().map(|failure| error_text(&failure))).flatten();
        let Some(mut destination) = world.destination else { return Err("no destination".to_owned()) };
        // A destination that has the end mark needs no server any more.
        while destination.state() == IncomingState::End && destination.can_step() {
            destination.step().map_err(|violation| told(&violation))?;
        }
        Ok((destination, failure))
    }
}
