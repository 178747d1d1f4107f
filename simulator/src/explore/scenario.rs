//! What one seed decides: a VM, its image's form, its destination, and how it is reverted.

use crate::destination::{Destination, DestinationConfig, PreemptEnd};
use crate::disk::SimFile;
use crate::generate::{Vm, VmConfig};
use crate::rng::Rng;
use migration_stream::{Options, PageSize};
use snapshot_engine::{PostcopyConfig, RevertConfig, SaveConfig};
use snapshot_image::{Geometry, Identity, Layout};

/// How much a scenario may hold. Small worlds have more seeds in a minute.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Host pages of a RAM block.
    pub host_pages: u64,
    /// What the guest touches at its destination.
    pub touches: u64,
}

impl Size {
    /// For campaigns.
    pub const SMALL: Self = Self { host_pages: 24, touches: 150 };
    /// For tests.
    pub const LARGE: Self = Self { host_pages: 1000, touches: 300 };
}

/// A VM that has sent its stream, and what is to become of it.
#[derive(Debug)]
pub struct Scenario {
    vm: Vm,
    stream: Vec<u8>,
    destination: DestinationConfig,
    postcopy: PostcopyConfig,
    geometry: Geometry,
    uuid: [u8; 16],
}

impl Scenario {
    /// The scenario of this seed.
    #[must_use]
    pub fn new(seed: u64, size: Size) -> Self {
        let mut rng = Rng::new(seed ^ 0x9057);
        let mut config = VmConfig::random(seed);
        // Host pages are never smaller than target pages; most are of 4 KiB.
        config.page_size = if rng.chance(80) { 4096 } else { config.page_size };
        config.device_bytes = config.device_bytes.min(500);
        let smallest = u64::from(config.page_size.max(4096));
        let host_page_bytes: Vec<u64> = config
            .blocks
            .iter()
            .map(|_| if rng.chance(70) { smallest } else { smallest << rng.below(4) })
            .collect();
        for ((_, length), bytes) in config.blocks.iter_mut().zip(&host_page_bytes) {
            *length = length.next_multiple_of(*bytes).min(bytes * (1 + rng.below(size.host_pages)));
        }
        let mut vm = Vm::new(config);
        let mut stream = Vec::new();
        let sent = vm.send(&mut stream);
        assert!(sent.is_ok(), "memory takes everything");
        let preempt = rng.chance(30);
        let names = vm.config().blocks.iter().map(|(name, _)| name.clone());
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&rng.next_u64().to_be_bytes());
        let postcopy = PostcopyConfig::new(4096).with(|config| {
            config.percent = [0, 0, 1, 30, 60, 99, 100][rng.index(7)];
            config.host_pages = names.zip(host_page_bytes.iter().copied()).collect();
            config.preempt = preempt;
            config.record_ms = rng.chance(30).then_some(1000);
        });
        let destination = DestinationConfig {
            seed,
            host_page_bytes,
            vcpus: 1 + rng.index(4),
            touches: rng.below(size.touches),
            device_touches: rng.below(6),
            preempt,
            // A destination that knows a machine type of 8.0 or later is one; any other may be either.
            preempt_end: if vm.config().configuration && vm.config().machine_version() >= 8
                || seed >> 2 & 1 == 0
            {
                PreemptEnd::Requests
            } else {
                PreemptEnd::Mark
            },
        };
        let geometry = Geometry::new((64 << 10) << rng.below(3), 1 << rng.below(7)).unwrap_or_default();
        Self { vm, stream, destination, postcopy, geometry, uuid }
    }

    /// The layout of its image.
    #[must_use]
    pub fn layout(&self) -> Layout {
        // Not drawn: what a seed brings otherwise stays the same.
        if self.uuid[1].is_multiple_of(2) { Layout::Linear } else { Layout::Dense }
    }

    /// The VM, as it was saved.
    #[must_use]
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// What it sent.
    #[must_use]
    pub fn stream(&self) -> &[u8] {
        &self.stream
    }

    /// How it is reverted in postcopy.
    #[must_use]
    pub fn postcopy(&self) -> &PostcopyConfig {
        &self.postcopy
    }

    /// The same after a server has died.
    #[must_use]
    pub fn recovery(&self) -> PostcopyConfig {
        self.postcopy.clone().with(|config| {
            config.recover = Some(self.uuid);
            config.record_ms = None;
        })
    }

    /// What its destination is like.
    #[must_use]
    pub fn destination_config(&self) -> &DestinationConfig {
        &self.destination
    }

    /// A destination for it.
    #[must_use]
    pub fn destination(&self) -> Destination {
        Destination::new(self.destination.clone(), &self.vm, self.vm.devices().to_vec())
    }

    fn options(&self) -> Options {
        Options::default().with_page_size(PageSize::new(self.vm.config().page_size.into()))
    }

    /// A save, over what an earlier one left: nothing, or an interrupted save.
    #[must_use]
    pub fn save_config(&self, left: Option<&SimFile>) -> SaveConfig {
        SaveConfig::new(Identity { uuid: self.uuid, created_unix_s: 1 }).with(|config| {
            config.stream = self.options();
            config.no_vmdesc = !self.vm.config().vmdesc;
            config.existing_length_bytes = left.map(SimFile::length);
            config.create = Some(self.geometry.into());
            config.layout = Some(self.layout());
            config.live = self.uuid[0].is_multiple_of(2);
            config.can_answer = self.uuid[0].is_multiple_of(3);
            config.memory_bytes = 4 << 20;
        })
    }

    /// A revert of this image.
    #[must_use]
    pub fn revert_config(&self, image: &SimFile, postcopy: Option<PostcopyConfig>) -> RevertConfig {
        RevertConfig::new(image.length()).with(|config| {
            config.stream = self.options();
            config.postcopy = postcopy;
        })
    }
}
