//! What a job reports at its end.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// A distribution of times, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// How many.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// 99 of 100 are not above it.
    pub p99: u64,
    /// 999 of 1,000 are not above it.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

impl From<&Histogram<u64>> for Times {
    fn from(times: &Histogram<u64>) -> Self {
        Self {
            count: times.len(),
            p50: times.value_at_quantile(0.5),
            p99: times.value_at_quantile(0.99),
            p999: times.value_at_quantile(0.999),
            max: times.max(),
        }
    }
}

/// Names and values, in an order that reads well.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report(Vec<(&'static str, Value)>);

impl Report {
    /// Adds a number or a text.
    pub fn add(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.push((name, value.into()));
    }

    /// Adds a time, in milliseconds.
    pub fn add_time(&mut self, name: &'static str, time: Duration) {
        self.add(name, milliseconds(time.as_nanos()));
    }

    /// Adds a distribution, in microseconds.
    pub fn add_times(&mut self, name: &'static str, times: &Times) {
        let us = |nanoseconds| milliseconds(u128::from(nanoseconds) * 1000);
        let value = json!({
            "count": times.count, "p50": us(times.p50), "p99": us(times.p99), "p99.9": us(times.p999),
            "max": us(times.max),
        });
        self.add(name, value);
    }

    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// One JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        Value::Object(
            self.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Map<_, _>>(),
        )
    }

    /// A line for each.
    #[must_use]
    pub fn to_text(&self) -> String {
        let line = |(name, value): &(&'static str, Value)| {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Object(fields) => fields
                    .iter()
                    .map(|(name, value)| format!("{name} {value}"))
                    .collect::<Vec<_>>()
                    .join(", "),
                other => other.to_string(),
            };
            format!("{:<34} {value}\n", name.replace('_', " "))
        };
        self.0.iter().map(line).collect()
    }
}

/// Milliseconds with three digits, of nanoseconds.
#[allow(clippy::cast_precision_loss, reason = "a time to be read by people")]
fn milliseconds(nanoseconds: u128) -> f64 {
    (nanoseconds / 1000) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_text_and_json() {
        let mut report = Report::default();
        report.add("mode", "background");
        report.add_time("total_ms", Duration::from_micros(1500));
        report.add_times("stall_us", &Times { count: 2, p50: 1500, p99: 2000, p999: 2000, max: 2000 });
        assert_eq!(
            report.to_text(),
            "mode                               background\n\
             total ms                           1.5\n\
             stall us                           count 2, max 2.0, p50 1.5, p99 2.0, p99.9 2.0\n"
        );
        assert_eq!(report.to_json()["stall_us"]["p99"], 2.0);
        assert_eq!(report.get("mode"), Some(&Value::from("background")));
    }
}
