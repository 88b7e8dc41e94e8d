//! Quantiles, comparisons, and their printing as a table and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::load::Samples;

/// A quantile as a fraction, so that it is exact: 999/1000 is p99.9.
type Quantile = (&'static str, usize, usize);

const QUANTILES: [Quantile; 3] = [("p50", 50, 100), ("p99", 99, 100), ("p99.9", 999, 1000)];

/// One line: the same thing measured directly and through the network.
pub(crate) struct Line {
    name: String,
    unit: &'static str,
    direct: f64,
    /// None where only the mock was measured.
    through: Option<f64>,
    /// Whether `through - direct` means something (it does for times, not for rates).
    additive: bool,
}

impl Line {
    fn text(&self) -> String {
        let through = self.through.map_or("-".to_owned(), number);
        let added = match self.through {
            Some(through) if self.additive => number(through - self.direct),
            _ => "-".to_owned(),
        };
        let ratio = self.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        format!(
            "{:<44} {:>12} {through:>12} {added:>12} {ratio:>8}  {}",
            self.name,
            number(self.direct),
            self.unit
        )
    }

    fn ratio(&self) -> Option<f64> {
        self.through.filter(|_| self.direct > 0.0).map(|through| through / self.direct)
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit,
            "direct": self.direct,
            "through": self.through,
            "added": self.through.filter(|_| self.additive).map(|through| through - self.direct),
            "ratio": self.ratio(),
        })
    }
}

/// The whole report, grown as the measuring goes on.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<Line>,
    facts: Vec<(String, f64, &'static str)>,
    errors: Vec<String>,
}

impl Report {
    /// Adds a comparison of whole answers at some number of connections.
    pub(crate) fn whole(&mut self, connections: usize, direct: &mut Samples, through: Option<&mut Samples>) {
        let label = format!("answer, {}", connected(connections));
        let mut through = through;
        self.times(&label, &mut direct.total_ns, through.as_deref_mut().map(|s| &mut s.total_ns));
        self.rate(&format!("{label}, rate"), "req/s", answers_per_s, direct, through.as_deref());
        self.count_errors(&label, direct, through.as_deref());
    }

    /// Adds a comparison of streams.
    pub(crate) fn streams(&mut self, label: &str, direct: &mut Samples, through: Option<&mut Samples>) {
        let mut through = through;
        let first = format!("{label}, first event");
        self.times(&first, &mut direct.first_ns, through.as_deref_mut().map(|s| &mut s.first_ns));
        let travel = format!("{label}, each event");
        self.times(&travel, &mut direct.chunk_ns, through.as_deref_mut().map(|s| &mut s.chunk_ns));
        self.rate(&format!("{label}, rate"), "events/s", events_per_s, direct, through.as_deref());
        self.count_errors(label, direct, through.as_deref());
    }

    /// Adds one number about the network itself.
    pub(crate) fn fact(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.facts.push((name.into(), value, unit));
    }

    /// Adds something that went wrong; a report with errors fails the run.
    pub(crate) fn error(&mut self, error: impl Into<String>) {
        self.errors.push(error.into());
    }

    /// Whether everything that was asked was answered.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    fn times(&mut self, label: &str, direct: &mut [u64], through: Option<&mut Vec<u64>>) {
        direct.sort_unstable();
        let through = through.map(|samples| {
            samples.sort_unstable();
            &*samples
        });
        for (name, numerator, denominator) in QUANTILES {
            let at = |samples: &[u64]| quantile_us(samples, numerator, denominator);
            self.lines.push(Line {
                name: format!("{label}, {name}"),
                unit: "us",
                direct: at(direct),
                through: through.map(|samples| at(samples)),
                additive: true,
            });
        }
    }

    fn rate(
        &mut self,
        name: &str,
        unit: &'static str,
        per_s: fn(&Samples) -> f64,
        direct: &Samples,
        through: Option<&Samples>,
    ) {
        let (direct, through) = (per_s(direct), through.map(per_s));
        self.lines.push(Line { name: name.to_owned(), unit, direct, through, additive: false });
    }

    fn count_errors(&mut self, label: &str, direct: &Samples, through: Option<&Samples>) {
        for (side, samples) in [("direct", Some(direct)), ("through", through)] {
            let Some(samples) = samples else { continue };
            if samples.errors > 0 || samples.done == 0 {
                let first = samples.first_error.as_deref().unwrap_or("nothing was answered");
                let (errors, done) = (samples.errors, samples.done);
                self.error(format!("{label}, {side}: {errors} failed, {done} answered; first: {first}"));
            }
        }
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<44} {:>12} {:>12} {:>12} {:>8}",
            "measured", "direct", "through", "added", "ratio"
        );
        for line in &self.lines {
            let _ = writeln!(text, "{}", line.text());
        }
        if !self.facts.is_empty() {
            let _ = writeln!(text, "\n{:<44} {:>12}", "the network", "value");
        }
        for (name, value, unit) in &self.facts {
            let _ = writeln!(text, "{name:<44} {:>12}  {unit}", number(*value));
        }
        for error in &self.errors {
            let _ = writeln!(text, "\nERROR {error}");
        }
        text
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> Value {
        let facts: Vec<Value> = self
            .facts
            .iter()
            .map(|(name, value, unit)| json!({"name": name, "value": value, "unit": unit}))
            .collect();
        json!({
            "measured": self.lines.iter().map(Line::json).collect::<Vec<_>>(),
            "network": facts,
            "errors": self.errors,
        })
    }
}

/// "1 connection", "64 connections".
pub(crate) fn connected(connections: usize) -> String {
    format!("{connections} connection{}", if connections == 1 { "" } else { "s" })
}

fn answers_per_s(samples: &Samples) -> f64 {
    per_second(samples.done, samples)
}

fn events_per_s(samples: &Samples) -> f64 {
    per_second(u64::try_from(samples.chunk_ns.len()).unwrap_or(u64::MAX), samples)
}

fn per_second(count: u64, samples: &Samples) -> f64 {
    let seconds = samples.elapsed.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// The smallest sample that at least this fraction of all samples does not exceed, in microseconds; 0 for none.
pub(crate) fn quantile_us(sorted_ns: &[u64], numerator: usize, denominator: usize) -> f64 {
    let rank = (sorted_ns.len() * numerator).div_ceil(denominator);
    sorted_ns.get(rank.saturating_sub(1)).map_or(0.0, |&ns| ns as f64 / 1000.0)
}

fn number(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::quantile_us;

    #[test]
    fn a_quantile_is_a_sample_at_its_rank() {
        let samples: Vec<u64> = (1..=1000).map(|n| n * 1000).collect();
        assert_eq!(quantile_us(&samples, 50, 100), 500.0);
        assert_eq!(quantile_us(&samples, 99, 100), 990.0);
        assert_eq!(quantile_us(&samples, 999, 1000), 999.0);
        assert_eq!(quantile_us(&samples[..1], 999, 1000), 1.0);
        assert_eq!(quantile_us(&[], 50, 100), 0.0);
    }
}
