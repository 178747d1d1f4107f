//! Clones with names of their own: other MAC addresses in the device sections of a snapshot.
//!
//! A MAC is in the device's state, and a NIC whose state is loaded has it, whatever its destination
//! was started with. So a clone gets its own by other bytes in the device tail ([`rewrite`]); every
//! other byte stays, and no length changes. The guest's driver has the old address in RAM until it
//! is told: that is for whoever reverts.
//!
//! 1. `nics`: the vmdesc tells the sections apart, and `cards` knows where each kind of NIC has its
//!    address, and proves that it is there.
//! 2. `choose`: each NIC is named with an address, keeps its own, or gets a derived one (`derive`).
//!    A NIC about which there is no order, or which cannot be rewritten, fails the revert.

mod cards;
mod choose;
mod derive;
mod error;
mod mac;
mod nics;

pub use error::{IdentityError, Unproved};
pub use mac::Mac;

use migration_stream::Decoder;

/// What becomes of the NICs that are not named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// There must be none.
    Refuse,
    /// They keep their addresses.
    Keep,
    /// They get addresses of their own, which follow from these numbers (see `derive.rs`): with one
    /// seed, no two clones have one in common.
    Derive {
        /// The same for clones that are to have different addresses.
        seed: u64,
        /// Which clone it is.
        index: u32,
    },
}

/// The identity of a clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityConfig {
    /// NICs, by name or the beginning of it, and the addresses that they get.
    pub macs: Vec<(String, Mac)>,
    /// NICs that keep their addresses.
    pub keep: Vec<String>,
    /// The other NICs.
    pub others: Others,
}

impl IdentityConfig {
    /// No NIC has to be found, since all keep what they have.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        self.macs.is_empty() && self.keep.is_empty() && self.others == Others::Keep
    }
}

/// A NIC and its new address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// Name of its section, as `0000:00:03.0/virtio-net`.
    pub device: String,
    /// The address that it had, and that the guest's driver still uses.
    pub old: Mac,
    /// The one that it has now.
    pub new: Mac,
}

/// Gives the NICs in `tail`, which follows what `decoder` has walked, the addresses that `config`
/// orders; returns those that have new ones.
///
/// # Errors
///
/// Why not; `tail` is unchanged then.
pub fn rewrite(
    tail: &mut [u8],
    decoder: &Decoder,
    config: &IdentityConfig,
) -> Result<Vec<Assigned>, IdentityError> {
    if config.keeps_all() {
        return Ok(Vec::new());
    }
    let nics = nics::nics(tail, decoder)?;
    let chosen = choose::choose(&nics, config)?;
    let mut assigned = Vec::new();
    for (nic, chosen) in nics.iter().zip(chosen) {
        if let (Some(chosen), Ok(card)) = (chosen, &nic.card) {
            for place in &card.places {
                place.put(&mut tail[nic.body.clone()], chosen.new);
            }
            assigned.push(chosen);
        }
    }
    Ok(assigned)
}

#[cfg(test)]
mod tests;
