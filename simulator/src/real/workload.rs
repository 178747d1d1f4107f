//! What a guest touches, and in which order.

use crate::rng::{Rng, mix};
use crate::size::to_usize;
use std::path::Path;
use std::sync::Arc;

/// Part of all accesses that go to the hot pages, and part of the pages that are hot, in percent.
const HOT_ACCESSES: u64 = 90;
const HOT_PAGES: u64 = 10;
/// The longest trace file.
const TRACE_LIMIT: usize = 16 << 20;

/// A pattern of accesses.
#[derive(Debug, Clone, PartialEq)]
pub enum Workload {
    /// None.
    Idle,
    /// Page after page.
    Sequential,
    /// Any page.
    Random,
    /// Few pages often, many seldom (Zipf's law with exponent 0.9).
    Zipf,
    /// 90 % of the accesses to 10 % of the pages.
    HotCold,
    /// These pages, again and again.
    Trace(Arc<[u64]>),
}

impl Workload {
    /// The pattern of this name; `trace FILE` (or `trace:FILE`) reads the numbers of pages, one per line.
    ///
    /// # Errors
    ///
    /// An unknown name, or a file that is no trace.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "idle" => Self::Idle,
            "sequential" => Self::Sequential,
            "random" => Self::Random,
            "zipf" => Self::Zipf,
            "hot-cold" => Self::HotCold,
            _ => match text.strip_prefix("trace").and_then(|rest| rest.strip_prefix([':', ' '])) {
                Some(file) => Self::Trace(trace(Path::new(file))?),
                None => {
                    return Err("expected idle, sequential, random, zipf, hot-cold or trace:FILE".to_owned());
                }
            },
        })
    }

    /// The `count`th access of thread `thread` of `threads`, of `pages` pages; `None` when it is idle.
    #[must_use]
    pub fn page(&self, count: u64, thread: u64, threads: u64, pages: u64, rng: &mut Rng) -> Option<u64> {
        // Hot pages lie anywhere.
        let scattered = |rank: u64| mix(rank) % pages;
        Some(match self {
            Self::Idle => return None,
            Self::Sequential => (count * threads + thread) % pages,
            Self::Random => rng.below(pages),
            Self::Zipf => scattered(zipf_rank(rng, pages)),
            Self::HotCold if rng.chance(HOT_ACCESSES) => {
                scattered(rng.below((pages * HOT_PAGES / 100).max(1)))
            }
            Self::HotCold => rng.below(pages),
            Self::Trace(trace) => {
                let length = trace.len() as u64;
                let index = to_usize((count * threads + thread) % length);
                trace[index] % pages
            }
        })
    }
}

/// A rank below `pages`; the continuous law inverted, which is close enough.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rough distribution"
)]
fn zipf_rank(rng: &mut Rng, pages: u64) -> u64 {
    let uniform = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    ((pages as f64 * uniform.powf(10.0)) as u64).min(pages - 1)
}

fn trace(path: &Path) -> Result<Arc<[u64]>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if text.len() > TRACE_LIMIT {
        return Err(format!("{}: {} bytes, at most {TRACE_LIMIT} can be", path.display(), text.len()));
    }
    let mut pages = Vec::new();
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let page = match line.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => line.parse(),
        };
        pages.push(
            page.map_err(|_| format!("{}: line {}: not the number of a page", path.display(), number + 1))?,
        );
    }
    if pages.is_empty() {
        return Err(format!("{}: no pages in it", path.display()));
    }
    Ok(pages.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn pages(workload: &Workload, count: u64) -> Vec<u64> {
        let mut rng = Rng::new(1);
        (0..count).map(|n| workload.page(n, 0, 1, 1000, &mut rng).unwrap()).collect()
    }

    /// How much of all accesses go to the most frequent tenth of the pages, in percent.
    fn hottest_tenth(pages: &[u64]) -> usize {
        let mut counts: HashMap<u64, usize> = HashMap::new();
        pages.iter().for_each(|page| *counts.entry(*page).or_default() += 1);
        let mut counts: Vec<usize> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts.iter().take(100).sum::<usize>() * 100 / pages.len()
    }

    #[test]
    fn workloads_are_what_their_names_say() {
        assert_eq!(pages(&Workload::Sequential, 3), [0, 1, 2]);
        assert_eq!(Workload::Sequential.page(1, 1, 2, 1000, &mut Rng::new(1)), Some(3));
        assert_eq!(Workload::Idle.page(0, 0, 1, 1000, &mut Rng::new(1)), None);
        assert_eq!(pages(&Workload::Trace([5, 1007].into()), 3), [5, 7, 5]);
        let share = |workload| hottest_tenth(&pages(&workload, 100_000));
        assert!((10..15).contains(&share(Workload::Random)), "{}", share(Workload::Random));
        assert!((88..95).contains(&share(Workload::HotCold)), "{}", share(Workload::HotCold));
        assert!((70..95).contains(&share(Workload::Zipf)), "{}", share(Workload::Zipf));
    }

    #[test]
    fn a_trace_is_read_and_what_is_wrong_in_it_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        std::fs::write(file.path(), "# pages\n1\n0x10\n\n").unwrap();
        assert_eq!(Workload::parse(&format!("trace {path}")), Ok(Workload::Trace([1, 16].into())));
        std::fs::write(file.path(), "1\nx\n").unwrap();
        assert_eq!(
            Workload::parse(&format!("trace:{path}")),
            Err(format!("{path}: line 2: not the number of a page"))
        );
        assert!(Workload::parse("busy").is_err());
    }
}
