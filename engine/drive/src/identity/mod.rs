//! Clones with addresses of their own: options, and the command that tells the guest.

mod hook;

pub(crate) use hook::Hook;

use clap::Args;
use rustix::rand::{GetRandomFlags, getrandom};
use snapshot_engine::Failure;
use snapshot_engine::identity::{IdentityConfig, Mac, Others};

/// Which addresses the NICs of the guest get.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Clones (docs/clones.md)")]
pub struct IdentityArgs {
    /// Give every NIC of the guest a random MAC
    #[arg(long, requires = "revert", conflicts_with = "recover")]
    pub new_identity: bool,

    /// Give this NIC this MAC. DEVICE is the name that `snapinspect dump` shows, or the beginning of it,
    /// as in 0000:00:03.0=52:54:00:12:34:56. May be given several times
    #[arg(long, value_name = "DEVICE=MAC", requires = "revert", conflicts_with = "recover", value_parser = device_mac)]
    pub mac: Vec<(String, Mac)>,

    /// Leave this NIC its MAC; without DEVICE all that --mac does not name. May be given several times
    #[arg(long, value_name = "DEVICE", requires = "revert", conflicts_with = "recover", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub keep_identity: Vec<String>,

    /// Give every NIC the MAC that follows from this number and --identity-index
    #[arg(long, value_name = "NUMBER", requires = "identity_index", conflicts_with = "recover")]
    pub identity_seed: Option<u64>,

    /// Which clone this is: with one seed, no two indices have a MAC in common
    #[arg(long, value_name = "NUMBER", requires_all = ["revert", "identity_seed"])]
    pub identity_index: Option<u32>,

    /// Run this shell command once the guest runs, so that the guest's drivers are told of their new
    /// MACs: OLD_MAC, NEW_MAC and MAC_DEVICE are those of the first NIC, MACS has a line
    /// `DEVICE OLD NEW` for each
    #[arg(long, value_name = "COMMAND", requires = "revert")]
    pub mac_hook: Option<String>,
}

fn device_mac(text: &str) -> Result<(String, Mac), String> {
    let expected = || "expected DEVICE=MAC, as in 0000:00:03.0=52:54:00:12:34:56".to_owned();
    let (device, mac) =
        text.rsplit_once('=').filter(|(device, _)| !device.is_empty()).ok_or_else(expected)?;
    Ok((device.to_owned(), mac.parse()?))
}

/// Orders that contradict each other.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("--keep-identity without a device leaves no NIC for {0}")]
    NoneLeft(&'static str),
    #[error(
        "--mac-hook has nothing to say: no NIC gets a new MAC without --new-identity, --mac or --identity-seed"
    )]
    NothingNew,
}

impl IdentityArgs {
    /// What is to become of the guest's NICs; none if it is no clone.
    ///
    /// # Errors
    ///
    /// Options that contradict each other; the system has no random numbers.
    pub(crate) fn config(&self) -> Result<Option<IdentityConfig>, Failure> {
        let derives = self.new_identity || self.identity_seed.is_some();
        let (rest, keep): (Vec<&String>, Vec<&String>) =
            self.keep_identity.iter().partition(|it| it.is_empty());
        if derives && !rest.is_empty() {
            let option = if self.new_identity { "--new-identity" } else { "--identity-seed" };
            return Err(Failure::refused(UsageError::NoneLeft(option)));
        }
        if self.mac_hook.is_some() && !derives && self.mac.is_empty() {
            return Err(Failure::refused(UsageError::NothingNew));
        }
        if !derives && self.mac.is_empty() && self.keep_identity.is_empty() {
            return Ok(None);
        }
        let others = if derives {
            let index = self.identity_index.unwrap_or(0);
            Others::Derive { seed: self.identity_seed.map_or_else(random, Ok)?, index }
        } else if rest.is_empty() {
            Others::Refuse
        } else {
            Others::Keep
        };
        let keep = keep.into_iter().cloned().collect();
        Ok(Some(IdentityConfig { macs: self.mac.clone(), keep, others }))
    }
}

fn random() -> Result<u64, Failure> {
    let mut seed = [0; 8];
    getrandom(&mut seed, GetRandomFlags::empty()).map_err(Failure::refused)?;
    Ok(u64::from_ne_bytes(seed))
}

#[cfg(test)]
mod tests {
    use crate::Cli;
    use clap::Parser;
    use snapshot_engine::error_text;
    use snapshot_engine::identity::{IdentityConfig, Others};

    fn config(options: &str) -> Result<Option<IdentityConfig>, String> {
        let words = ["qemu-snapshot", "--revert", "image"].into_iter().chain(options.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.identity.config().map_err(|failure| error_text(&failure))
    }

    #[test]
    fn what_becomes_of_nics_that_are_not_named_follows_from_the_options() {
        let others = |options: &str| config(options).unwrap().map(|config| config.others);
        assert_eq!(others(""), None);
        assert_eq!(others("--keep-identity"), Some(Others::Keep));
        assert_eq!(others("--keep-identity=a"), Some(Others::Refuse));
        assert_eq!(others("--mac a=52:54:00:00:00:01"), Some(Others::Refuse));
        assert_eq!(others("--mac a=52:54:00:00:00:01 --keep-identity"), Some(Others::Keep));
        let derived = Some(Others::Derive { seed: 7, index: 9 });
        assert_eq!(others("--identity-seed 7 --identity-index 9"), derived);
        assert_eq!(others("--new-identity --identity-seed 7 --identity-index 9 --keep-identity=b"), derived);
        assert!(others("--new-identity") != others("--new-identity"), "random");
        let all = config("--mac a=b=52:54:00:00:00:01 --keep-identity=c --keep-identity=d").unwrap().unwrap();
        assert_eq!((&all.macs[0].0[..], all.keep), ("a=b", vec!["c".to_owned(), "d".to_owned()]));
    }

    #[test]
    fn orders_that_make_no_sense_are_refused() {
        for (options, expected) in [
            ("--new-identity --keep-identity", "leaves no NIC for --new-identity"),
            ("--identity-seed 1 --identity-index 1 --keep-identity", "leaves no NIC for --identity-seed"),
            ("--mac-hook true", "--mac-hook has nothing to say"),
            ("--mac-hook true --keep-identity", "--mac-hook has nothing to say"),
            ("--identity-seed 1", "--identity-index"),
            ("--identity-index 1", "--identity-seed"),
            ("--mac 52:54:00:00:00:01", "expected DEVICE=MAC"),
            ("--mac =52:54:00:00:00:01", "expected DEVICE=MAC"),
            ("--mac a=01:54:00:00:00:01", "unicast"),
            ("--new-identity --recover 00000000-0000-0000-0000-000000000000", "cannot be used with"),
            ("--keep-identity --recover 00000000-0000-0000-0000-000000000000", "cannot be used with"),
        ] {
            let error = config(options).unwrap_err();
            assert!(error.contains(expected), "{options}: {error}");
        }
        let save = Cli::try_parse_from(["qemu-snapshot", "image", "--new-identity"]);
        assert!(save.unwrap_err().to_string().contains("--revert"));
    }
}
