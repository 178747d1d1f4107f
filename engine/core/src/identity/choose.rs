//! Which NIC gets which address.

use super::derive::{NIC_LIMIT, derive};
use super::error::IdentityError;
use super::mac::Mac;
use super::nics::Nic;
use super::{Assigned, IdentityConfig, Others};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Keep,
    Mac(Mac),
}

/// What each NIC gets: none if it keeps what it has.
///
/// # Errors
///
/// An order that no NIC, or more than one, is meant by; a NIC without an order; one that cannot be
/// rewritten; an address that is not new.
pub(crate) fn choose(nics: &[Nic], config: &IdentityConfig) -> Result<Vec<Option<Assigned>>, IdentityError> {
    if nics.len() > NIC_LIMIT {
        return Err(IdentityError::TooMany { found: nics.len(), limit: NIC_LIMIT });
    }
    let mut orders: Vec<Option<Order>> = vec![None; nics.len()];
    let keeps = config.keep.iter().map(|device| (device, Order::Keep));
    let macs = config.macs.iter().map(|(device, mac)| (device, Order::Mac(*mac)));
    for (given, order) in keeps.chain(macs) {
        let number = named(nics, given)?;
        if orders[number].replace(order).is_some() {
            return Err(IdentityError::NamedTwice { device: nics[number].device.clone() });
        }
    }
    let chosen = nics.iter().zip(orders).enumerate();
    let chosen: Vec<Option<Assigned>> =
        chosen.map(|(number, (nic, order))| assign(nic, number, order, config)).collect::<Result<_, _>>()?;
    check_new(nics, &chosen)?;
    Ok(chosen)
}

/// The NIC that `given` means: its whole name, or the beginning of no other's.
fn named(nics: &[Nic], given: &str) -> Result<usize, IdentityError> {
    if let Some(number) = nics.iter().position(|nic| nic.device == given) {
        return Ok(number);
    }
    let matches: Vec<usize> = (0..nics.len()).filter(|&nic| nics[nic].device.starts_with(given)).collect();
    let names =
        |numbers: &mut dyn Iterator<Item = usize>| numbers.map(|nic| nics[nic].device.clone()).collect();
    match matches[..] {
        [number] if !given.is_empty() => Ok(number),
        [] | [_] => {
            Err(IdentityError::UnknownDevice { given: given.to_owned(), found: names(&mut (0..nics.len())) })
        }
        [..] => Err(IdentityError::Ambiguous {
            given: given.to_owned(),
            matches: names(&mut matches.iter().copied()),
        }),
    }
}

fn assign(
    nic: &Nic,
    number: usize,
    order: Option<Order>,
    config: &IdentityConfig,
) -> Result<Option<Assigned>, IdentityError> {
    let device = || nic.device.clone();
    let new = match (order, config.others) {
        (Some(Order::Keep), _) | (None, Others::Keep) => return Ok(None),
        (None, Others::Refuse) => return Err(IdentityError::Undecided { device: device() }),
        (Some(Order::Mac(mac)), _) => Some(mac),
        (None, Others::Derive { .. }) => None,
    };
    let card =
        nic.card.as_ref().map_err(|why| IdentityError::Unproved { device: device(), why: why.clone() })?;
    let new = match (new, config.others) {
        (Some(mac), _) => mac,
        (None, Others::Derive { .. }) if card.of_the_destination => {
            return Err(IdentityError::OfTheDestination { device: device() });
        }
        (None, Others::Derive { seed, index }) => derive(seed, index, number),
        (None, Others::Keep | Others::Refuse) => return Ok(None),
    };
    Ok(Some(Assigned { device: device(), old: card.mac, new }))
}

/// No new address is one that a NIC of the snapshot has, and no two are equal.
fn check_new(nics: &[Nic], chosen: &[Option<Assigned>]) -> Result<(), IdentityError> {
    let mut taken: BTreeMap<Mac, String> = BTreeMap::new();
    for nic in nics {
        if let Ok(card) = &nic.card {
            taken.insert(card.mac, format!("\"{}\" in the snapshot", nic.device));
        }
    }
    for Assigned { device, new, .. } in chosen.iter().flatten() {
        if let Some(of) = taken.insert(*new, format!("\"{device}\"")) {
            return Err(IdentityError::Taken { device: device.clone(), mac: *new, of });
        }
    }
    Ok(())
}
