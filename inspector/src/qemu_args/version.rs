//! Versions of QEMU.

use std::fmt;
use std::str::FromStr;

/// Major and minor number of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// The first one with `rom=off`, with which a guest's memory can be mapped from a file that is open for
    /// reading only (`offset=` came with 8.1).
    pub(crate) const MAPS_IMAGES: Self = Self { major: 8, minor: 2 };
    /// The first one whose machine types do not name memory backends by their path.
    pub(crate) const PLAIN_NAMES: Self = Self { major: 4, minor: 0 };

    /// The version of a machine type, `pc-q35-10.0`, if it has one.
    pub(crate) fn of_machine(machine: &str) -> Option<Self> {
        machine.rsplit_once('-').and_then(|(_, version)| version.parse().ok())
    }
}

/// What a version is not.
#[derive(Debug, thiserror::Error)]
#[error("expected a version of QEMU, as in 7.2 or 10.0.2")]
pub struct VersionError;

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let numbers: Option<Vec<u32>> = text
            .split('.')
            .map(|number| number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit())))
            .collect();
        match numbers.as_deref() {
            Some(&[major, minor] | &[major, minor, _]) => Ok(Self { major, minor }),
            _ => Err(VersionError),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_and_have_an_order() {
        let version = |text: &str| text.parse::<Version>().map_err(|error| error.to_string());
        assert_eq!(version("10.0.2"), version("10.0"));
        assert!(
            version("7.2").unwrap() < Version::MAPS_IMAGES && version("10.0").unwrap() > Version::MAPS_IMAGES
        );
        for wrong in ["", "10", "10.0.2.1", "v10.0", "+1.0", "1.", "99999999999.1"] {
            assert!(version(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            Version::of_machine("pc-i440fx-3.1").map(|version| version.to_string()).as_deref(),
            Some("3.1")
        );
        assert_eq!(
            Version::of_machine("s390-ccw-virtio-9.0").map(|version| version.to_string()).as_deref(),
            Some("9.0")
        );
        assert_eq!(Version::of_machine("microvm"), None);
        assert_eq!(Version::of_machine("pc-q35"), None);
    }
}
