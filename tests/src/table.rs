//! Lines of figures, each beside what it is meant to be.

use std::fmt;

/// What a figure is meant to be (`ARCHITECTURE.md` does not promise it: a loaded machine misses anything).
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// It is compared with others.
    None,
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::None => true,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "<= {limit}"),
            Self::AtLeast(limit) => write!(f, ">= {limit}"),
            Self::None => write!(f, "-"),
        }
    }
}

/// The figures printed so far.
#[derive(Debug, Default)]
pub struct Table {
    missed: usize,
}

impl Table {
    /// Prints a line that names the columns.
    pub fn head(title: &str) {
        println!("\n{title}");
        println!("{:<66} {:>9} {:<10} {:>8}", "", "median", "", "target");
    }

    /// Prints one figure.
    pub fn line(&mut self, what: &str, value: f64, unit: &str, target: Target) {
        let verdict = match target {
            Target::None => "",
            _ if target.is_met(value) => "met",
            _ => "MISSED",
        };
        self.missed += usize::from(!target.is_met(value));
        println!("{what:<66} {value:>9.3} {unit:<10} {:>8} {verdict}", target.to_string());
    }

    /// Prints the last line.
    pub fn end(&self) {
        match self.missed {
            0 => println!("\nall targets met"),
            missed => println!("\n{missed} figures missed their target"),
        }
    }
}

/// The middle one (of an even number: the upper one of the middle two).
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
