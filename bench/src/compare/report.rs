//! Medians over the rounds, and what they look like.

use serde_json::{Value, json};

use super::contestant::{Contestant, Kind};
use super::rounds::{Figures, Load, Measure};
use crate::tables::{Column, Report, Table};

/// A contestant with more failures than this share at a level is said to fail there.
const MAY_FAIL: f64 = 0.001;

/// So many streams take enough memory to tell what one takes.
const ENOUGH_STREAMS: usize = 256;

const ANSWERS: &[Column] = &[
    Column("req/s", "rate", 0),
    Column("ratio", "rate_ratio", 3),
    Column("p50 ms", "p50_ms", 2),
    Column("p99 ms", "p99_ms", 2),
    Column("p99.9 ms", "p999_ms", 2),
    Column("added p50", "p50_added_ms", 2),
    Column("added p99", "p99_added_ms", 2),
    Column("added p99.9", "p999_added_ms", 2),
    Column("CPU us/request", "cpu_us", 1),
    Column("MiB", "memory_mib", 1),
    Column("errors", "errors", 0),
];

const STREAMS: &[Column] = &[
    Column("events/s", "rate", 0),
    Column("ratio", "rate_ratio", 3),
    Column("first event p50 ms", "first_p50_ms", 2),
    Column("p99 ms", "first_p99_ms", 2),
    Column("p99.9 ms", "first_p999_ms", 2),
    Column("added p50", "first_p50_added_ms", 2),
    Column("added p99", "first_p99_added_ms", 2),
    Column("added p99.9", "first_p999_added_ms", 2),
    Column("CPU us/event", "cpu_us", 1),
    Column("MiB", "memory_mib", 1),
    Column("errors", "errors", 0),
];

/// Apart from the others, as one row with all of them would be too wide to read.
const EVENTS: &[Column] = &[
    Column("each event p50 ms", "event_p50_ms", 2),
    Column("p99 ms", "event_p99_ms", 2),
    Column("p99.9 ms", "event_p999_ms", 2),
    Column("added p50", "event_p50_added_ms", 2),
    Column("added p99", "event_p99_added_ms", 2),
    Column("added p99.9", "event_p999_added_ms", 2),
];

const MEMORY: &[Column] = &[
    Column("processes", "processes", 0),
    Column("MiB idle", "idle_mib", 1),
    Column("KiB for an idle connection", "idle_connection_kib", 1),
    Column("KiB for a stream", "stream_kib", 1),
];

/// All rounds of one contestant at one level.
pub(super) struct Cell {
    pub(super) kind: Kind,
    pub(super) rounds: Vec<Figures>,
}

impl Cell {
    fn median(&self, of: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        median(self.rounds.iter().filter_map(of).collect())
    }

    fn errors(&self) -> u64 {
        self.rounds.iter().map(|round| round.errors).sum()
    }

    /// Which words go below the table, where it failed.
    fn failure(&self) -> Option<String> {
        let done: u64 = self.rounds.iter().map(|round| round.done).sum();
        let errors = self.errors();
        let bad = done == 0 || errors as f64 > MAY_FAIL * (done + errors) as f64;
        let why = self.rounds.iter().find_map(|round| round.first_error.as_deref());
        let name = self.kind.name();
        bad.then(|| {
            format!(
                "{name} FAILED: {errors} of {} not answered; first: {}",
                done + errors,
                why.unwrap_or("nothing came")
            )
        })
    }
}

fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_unstable_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => None,
        odd if odd % 2 == 1 => numbers.get(middle).copied(),
        _ => Some((numbers.get(middle - 1)? + numbers.get(middle)?) / 2.0),
    }
}

/// Grows as the measuring goes on.
#[derive(Default)]
pub(super) struct Results {
    report: Report,
    notes: Vec<String>,
    memory: Vec<(Kind, [Option<f64>; 4])>,
    failed: bool,
}

impl Results {
    /// Says who takes part.
    pub(super) fn took_part(&mut self, contestant: &Contestant, idle_kib: Option<u64>) {
        if let Some(tree) = contestant.tree() {
            let idle = idle_kib.map(|kib| kib as f64 / 1024.0);
            self.memory.push((contestant.kind, [Some(tree.count() as f64), idle, None, None]));
            self.notes.push(format!("{}: version {}", contestant.kind.name(), contestant.version));
        }
    }

    /// Something to be read below the tables.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// What a connection costs that only stays.
    pub(super) fn idle_connection(&mut self, kind: Kind, kib: Option<f64>) {
        if let Some((_, numbers)) = self.memory.iter_mut().find(|(of, _)| *of == kind) {
            numbers[2] = kib;
        }
    }

    /// Adds all that was measured at one level; `unasked` failed at a lower one.
    pub(super) fn level(&mut self, load: &Load, cells: &[Cell], unasked: &[(Kind, usize)]) {
        let title = title(load);
        let parts: &[(&str, &'static [Column])] = match load.measure {
            Measure::Answers => &[("", ANSWERS)],
            Measure::Streams | Measure::Bursts => &[("", STREAMS), (": each event", EVENTS)],
        };
        let mut tables: Vec<_> =
            parts.iter().map(|(part, columns)| Table::new(format!("{title}{part}"), columns)).collect();
        let direct = cells.iter().find(|cell| cell.kind == Kind::Direct);
        for cell in cells {
            for (table, row) in tables.iter_mut().zip(rows(load.measure, cell, direct)) {
                table.row(cell.kind.name(), row);
            }
            if let Some(failure) = cell.failure() {
                self.failed |= cell.kind == Kind::Cocoon || cell.kind == Kind::Direct;
                self.notes.push(format!("{title}: {failure}"));
            }
            if load.measure == Measure::Streams {
                self.stream_memory(cell, load.connections);
            }
        }
        for (kind, level) in unasked {
            for (table, (_, columns)) in tables.iter_mut().zip(parts) {
                table.row(kind.name(), columns.iter().map(|_| None));
            }
            self.notes.push(format!("{title}: {} not asked, as it failed at {level}", kind.name()));
        }
        for table in tables {
            self.report.add(table);
        }
    }

    /// The most streams that were measured stand; few say nothing.
    fn stream_memory(&mut self, cell: &Cell, streams: usize) {
        if streams < ENOUGH_STREAMS {
            return;
        }
        let Some((_, numbers)) = self.memory.iter_mut().find(|(of, _)| *of == cell.kind) else { return };
        let (Some(idle), Some(loaded)) = (numbers[1], cell.median(|round| round.memory_kib)) else { return };
        if cell.failure().is_none() {
            numbers[3] = Some((loaded - idle * 1024.0) / streams as f64);
        }
    }

    /// Whether the engine itself and our own path answered everything.
    pub(super) fn is_clean(&self) -> bool {
        !self.failed
    }

    fn whole(&mut self) -> &Report {
        let mut memory = Table::new("memory", MEMORY);
        for (kind, numbers) in std::mem::take(&mut self.memory) {
            memory.row(kind.name(), numbers);
        }
        self.report.add(memory);
        &self.report
    }

    /// For people.
    pub(super) fn text(mut self) -> String {
        let tables = self.whole().tables();
        let notes: String = self.notes.iter().map(|note| format!("- {note}\n")).collect();
        format!("{tables}\n{notes}")
    }

    /// For programs.
    pub(super) fn json(mut self) -> Value {
        let mut json = self.whole().json();
        json["notes"] = json!(self.notes);
        json
    }
}

fn title(load: &Load) -> String {
    let count = load.connections;
    let connections = if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") };
    match load.measure {
        Measure::Answers => format!("answers, {connections}"),
        Measure::Streams => format!("streams, {connections}, an event each {} ms", load.pause.as_millis()),
        Measure::Bursts => format!("streams without pauses, {connections}"),
    }
}

/// One for each table of the measure, in the order of its columns.
fn rows(measure: Measure, cell: &Cell, direct: Option<&Cell>) -> Vec<Vec<Option<f64>>> {
    let rate = cell.median(|figures| Some(figures.rate));
    // Round by round: what hit the machine hit both.
    let ratios = direct.into_iter().flat_map(|direct| cell.rounds.iter().zip(&direct.rounds));
    let ratio = median(
        ratios.filter(|(_, direct)| direct.rate > 0.0).map(|(own, direct)| own.rate / direct.rate).collect(),
    );
    let cpu = cell.median(|figures| figures.cpu);
    let memory = cell.median(|figures| figures.memory_kib).map(|kib| kib / 1024.0);
    let errors = Some(cell.errors() as f64);
    let whole = |times: [Option<f64>; 6]| [&[rate, ratio][..], &times, &[cpu, memory, errors]].concat();
    match measure {
        Measure::Answers => vec![whole(times(cell, direct, |figures| &figures.answer))],
        Measure::Streams | Measure::Bursts => vec![
            whole(times(cell, direct, |figures| &figures.first)),
            times(cell, direct, |figures| &figures.event).to_vec(),
        ],
    }
}

/// The three quantiles in milliseconds, and what each is above direct's.
fn times(cell: &Cell, direct: Option<&Cell>, of: fn(&Figures) -> &[f64; 3]) -> [Option<f64>; 6] {
    // Nothing takes no time: a zero is a quantile of no samples.
    let at = |cell: &Cell, index: usize| {
        cell.median(|figures| Some(of(figures)[index] / 1000.0).filter(|&ms| ms > 0.0))
    };
    let direct = direct.filter(|_| cell.kind != Kind::Direct);
    let [p50, p99, p999] = [0, 1, 2].map(|index| {
        let own = at(cell, index);
        let added = own.zip(direct.and_then(|direct| at(direct, index))).map(|(own, direct)| own - direct);
        (own, added)
    });
    [p50.0, p99.0, p999.0, p50.1, p99.1, p999.1]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn round(rate: f64, errors: u64) -> Figures {
        Figures { rate, answer: [1000.0, 2000.0, 3000.0], done: 100, errors, ..Figures::default() }
    }

    #[test]
    fn a_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn ratios_compare_rounds_that_belong_together() {
        let direct =
            Cell { kind: Kind::Direct, rounds: vec![round(100.0, 0), round(10.0, 0), round(50.0, 0)] };
        let nginx = Cell { kind: Kind::Nginx, rounds: vec![round(50.0, 0), round(5.0, 0), round(50.0, 0)] };
        let row = rows(Measure::Answers, &nginx, Some(&direct)).remove(0);
        assert_eq!(row[..3], [Some(50.0), Some(0.5), Some(1.0)]);
    }

    /// Direct and ours, ours twice as slow at every quantile.
    fn both() -> [Cell; 2] {
        let direct = Figures {
            rate: 4915.0,
            answer: [100.0, 200.0, 400.0],
            first: [300.0, 2000.0, 9000.0],
            event: [160.0, 1100.0, 5000.0],
            done: 1000,
            ..Figures::default()
        };
        let twice = |times: [f64; 3]| times.map(|us| us * 2.0);
        let cocoon = Figures {
            answer: twice(direct.answer),
            first: twice(direct.first),
            event: twice(direct.event),
            cpu: Some(113.04),
            memory_kib: Some(204_800.0),
            ..direct.clone()
        };
        [Cell { kind: Kind::Direct, rounds: vec![direct] }, Cell { kind: Kind::Cocoon, rounds: vec![cocoon] }]
    }

    fn at_5000(measure: Measure) -> Results {
        let mut results = Results::default();
        let load = Load::new(measure, 5000, Duration::from_secs(1));
        results.level(&load, &both(), &[(Kind::Litellm, 1000)]);
        results
    }

    #[test]
    fn answers_show_every_quantile_and_what_is_added_to_it() {
        let text = at_5000(Measure::Answers).text();
        let expected = "\
### answers, 5000 connections

| | req/s | ratio | p50 ms | p99 ms | p99.9 ms | added p50 | added p99 | added p99.9 | CPU us/request | MiB | errors |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| direct | 4915 | 1.000 | 0.10 | 0.20 | 0.40 |  |  |  |  |  | 0 |
| cocoon, all three nodes | 4915 | 1.000 | 0.20 | 0.40 | 0.80 | 0.10 | 0.20 | 0.40 | 113.0 | 200.0 | 0 |
| LiteLLM proxy |  |  |  |  |  |  |  |  |  |  |  |
";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn streams_show_the_first_event_and_each_event_in_tables_of_their_own() {
        let text = at_5000(Measure::Streams).text();
        let expected = "\
### streams, 5000 connections, an event each 1000 ms

| | events/s | ratio | first event p50 ms | p99 ms | p99.9 ms | added p50 | added p99 | added p99.9 | CPU us/event | MiB | errors |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| direct | 4915 | 1.000 | 0.30 | 2.00 | 9.00 |  |  |  |  |  | 0 |
| cocoon, all three nodes | 4915 | 1.000 | 0.60 | 4.00 | 18.00 | 0.30 | 2.00 | 9.00 | 113.0 | 200.0 | 0 |
| LiteLLM proxy |  |  |  |  |  |  |  |  |  |  |  |

### streams, 5000 connections, an event each 1000 ms: each event

| | each event p50 ms | p99 ms | p99.9 ms | added p50 | added p99 | added p99.9 |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| direct | 0.16 | 1.10 | 5.00 |  |  |  |
| cocoon, all three nodes | 0.32 | 2.20 | 10.00 | 0.16 | 1.10 | 5.00 |
| LiteLLM proxy |  |  |  |  |  |  |
";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn json_has_what_the_tables_have() {
        let answers = at_5000(Measure::Answers).json();
        assert_eq!(answers["tables"][0]["rows"][1]["p999_added_ms"], 0.4);
        let streams = at_5000(Measure::Bursts).json();
        let [first, each] = [0, 1].map(|table| &streams["tables"][table]["rows"][1]);
        assert_eq!((&first["first_p50_added_ms"], &first["first_p999_added_ms"]), (&json!(0.3), &json!(9.0)));
        assert_eq!((&each["event_p99_ms"], &each["event_p999_added_ms"]), (&json!(2.2), &json!(5.0)));
        assert_eq!(streams["tables"][0]["rows"][0]["first_p50_added_ms"], Value::Null);
    }

    #[test]
    fn no_samples_leave_the_times_empty() {
        let [direct, mut cocoon] = both();
        cocoon.rounds[0].first = [0.0; 3];
        assert_eq!(times(&cocoon, Some(&direct), |figures| &figures.first), [None; 6]);
        assert_eq!(times(&direct, None, |figures| &figures.first)[3..], [None; 3]);
    }

    #[test]
    fn who_fails_is_named_and_who_is_not_asked_is_too() {
        let load = Load::new(Measure::Answers, 64, Duration::from_secs(1));
        let mut results = Results::default();
        let cell = Cell { kind: Kind::Litellm, rounds: vec![round(1.0, 60)] };
        results.level(&load, &[cell], &[(Kind::Nginx, 16)]);
        assert!(results.is_clean());
        let text = results.text();
        assert!(text.contains("LiteLLM proxy FAILED: 60 of 160"), "{text}");
        assert!(text.contains("nginx not asked, as it failed at 16"), "{text}");
    }

    #[test]
    fn a_failure_of_our_own_path_fails_the_run() {
        let load = Load::new(Measure::Answers, 64, Duration::from_secs(1));
        let mut results = Results::default();
        results.level(&load, &[Cell { kind: Kind::Cocoon, rounds: vec![round(1.0, 1)] }], &[]);
        assert!(!results.is_clean());
    }
}
