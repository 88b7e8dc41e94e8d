//! One round: some load on one contestant, and what it did with it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use tokio::task::JoinSet;

use super::contestant::Contestant;
use crate::load::{self, Ask, Client, Live, Samples};
use crate::mock::Mock;
use crate::report::quantile_us;

/// Above so many connections, what a contestant keeps of them to the engine does not stay for the next one's turn.
const MOST_KEPT: usize = 1000;
/// Connections that are being opened at a time.
const OPENING: usize = 64;

/// Events a second of all paced streams together, at most: so many that the engine and the load alone leave room.
const EVENTS_PER_SECOND: f64 = 5000.0;

/// Shortest pause between the events of a paced stream: 20 events a second, as a large model writes.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// A whole answer must be here within this time and that which it takes by its pauses.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Measure {
    /// A JSON answer each, one request after the other on each connection.
    Answers,
    /// Streams with pauses between their events, as a model writes.
    Streams,
    /// Streams without pauses: as many events as go through.
    Bursts,
}

/// What is asked at one level of concurrency.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) measure: Measure,
    pub(super) connections: usize,
    events: usize,
    /// Between two events.
    pub(super) pause: Duration,
    window: Duration,
}

impl Load {
    /// By the measure and the number of connections; `window` is the least time that is measured.
    pub(super) fn new(measure: Measure, connections: usize, window: Duration) -> Self {
        let (events, pause) = match measure {
            Measure::Answers => (0, Duration::ZERO),
            Measure::Bursts => (64, Duration::ZERO),
            Measure::Streams => {
                let pause =
                    Duration::from_secs_f64(connections as f64 / EVENTS_PER_SECOND).max(SHORTEST_PAUSE);
                // About a second, and four events at the least.
                let events = (1.0 / pause.as_secs_f64()).ceil().max(4.0);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 4 to 20
                (events as usize, pause)
            }
        };
        // A pause without an event says nothing, nor does a time in which few of the connections get an answer.
        let window = window.max(pause * 2).max(Duration::from_millis(connections as u64));
        Self { measure, connections, events, pause, window }
    }

    fn ask(&self) -> Ask {
        match self.measure {
            Measure::Answers => Ask::Whole,
            Measure::Streams | Measure::Bursts => Ask::Stream { chunks: self.events },
        }
    }

    /// Connections begin over this time: callers don't come all at once.
    fn ramp(&self) -> Duration {
        match self.measure {
            Measure::Streams => self.pause,
            Measure::Answers | Measure::Bursts => Duration::ZERO,
        }
    }

    fn patience(&self) -> Duration {
        PATIENCE + self.pause * u32::try_from(self.events).unwrap_or(u32::MAX)
    }
}

/// What a round measured. Times are in microseconds.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    /// Answers, or events of streams, a second.
    pub(super) rate: f64,
    /// p50, p99, p99.9: for a whole answer.
    pub(super) answer: [f64; 3],
    /// From asking to the first event.
    pub(super) first: [f64; 3],
    /// From the engine's writing an event to its arrival.
    pub(super) event: [f64; 3],
    /// Processor time of the contestant for each answer or event.
    pub(super) cpu: Option<f64>,
    /// Memory of the contestant in KiB, in the middle of the round.
    pub(super) memory_kib: Option<f64>,
    /// Answers that were complete, of the whole round.
    pub(super) done: u64,
    /// Answers that were not.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
}

impl Figures {
    /// The share of answers that were not complete.
    pub(super) fn failed(&self) -> f64 {
        let all = self.done + self.errors;
        if all == 0 { 1.0 } else { self.errors as f64 / all as f64 }
    }
}

/// Puts the load on one contestant.
///
/// # Errors
/// Something of ours went wrong; what the contestant does wrong is counted.
pub(super) async fn round(mock: &Mock, contestant: &Contestant, load: &Load) -> anyhow::Result<Figures> {
    contestant.settle(mock).await;
    mock.set_stream(load.events, load.pause);
    let mut samples = Samples::default();
    let opened = (0..load.connections).map(|_| Client::connect(contestant.address));
    let opened: Vec<_> = futures_util::stream::iter(opened).buffer_unordered(OPENING).collect().await;

    let live = Arc::new(Live::default());
    let began = Instant::now();
    let from = began + load.ramp() + load.window / 5;
    let end = from + load.window;
    let mut tasks = JoinSet::new();
    for (number, client) in opened.into_iter().enumerate() {
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                samples.failed(&error);
                continue;
            }
        };
        let own = Samples { since: Some(from), live: Some(Arc::clone(&live)), ..Samples::default() };
        let start = began + load.ramp().mul_f64(number as f64 / load.connections as f64);
        let (mock, ask, patience) = (mock.clone(), load.ask(), load.patience());
        tasks.spawn(async move {
            tokio::time::sleep_until(start.into()).await;
            load::ask_until(mock, client, ask, end, patience, own).await
        });
    }
    let tree = contestant.tree();
    let count = || match load.measure {
        Measure::Answers => live.answers.load(Ordering::Relaxed),
        Measure::Streams | Measure::Bursts => live.events.load(Ordering::Relaxed),
    };
    tokio::time::sleep_until(from.into()).await;
    let (first_at, first_count, first_cpu) = (Instant::now(), count(), tree.map(super::process::Tree::cpu));
    tokio::time::sleep_until((from + load.window / 2).into()).await;
    let memory_kib = match tree {
        // Reading takes the kernel a while where there is much.
        Some(tree) => Some(tokio::task::spawn_blocking(move || tree.memory_kib()).await? as f64),
        None => None,
    };
    tokio::time::sleep_until(end.into()).await;
    let (took, counted, last_cpu) =
        (first_at.elapsed().as_secs_f64(), count() - first_count, tree.map(super::process::Tree::cpu));
    while let Some(result) = tasks.join_next().await {
        samples.join(result.context("a connection's task failed")?);
    }
    if load.connections > MOST_KEPT {
        mock.release().await;
    }
    let cpu = first_cpu.zip(last_cpu).map(|(first, last)| last.saturating_sub(first).as_secs_f64() * 1e6);
    Ok(Figures {
        rate: counted as f64 / took,
        answer: quantiles(&mut samples.total_ns),
        first: quantiles(&mut samples.first_ns),
        event: quantiles(&mut samples.chunk_ns),
        cpu: cpu.filter(|_| counted > 0).map(|cpu| cpu / counted as f64),
        memory_kib,
        done: samples.done,
        errors: samples.errors,
        first_error: samples.first_error,
    })
}

fn quantiles(samples: &mut [u64]) -> [f64; 3] {
    samples.sort_unstable();
    [(1, 2), (99, 100), (999, 1000)]
        .map(|(numerator, denominator)| quantile_us(samples, numerator, denominator))
}

/// Growth of memory in KiB for each of `count` connections that ask for one page and then stay.
///
/// # Errors
/// A connection could not be had, or was not answered.
pub(super) async fn idle_connections(contestant: &Contestant, count: usize) -> anyhow::Result<Option<f64>> {
    let Some(tree) = contestant.tree() else { return Ok(None) };
    let before = tree.memory_kib();
    let path = contestant.kind.idle_path();
    let opened = (0..count).map(|_| async {
        let mut client = Client::connect(contestant.address).await?;
        client.get(path).await?;
        anyhow::Ok(client)
    });
    let opened: Vec<_> = futures_util::stream::iter(opened).buffer_unordered(OPENING).collect().await;
    let held = opened.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let grown = tree.memory_kib() as f64 - before as f64;
    Ok(Some(grown / held.len().max(1) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paced_streams_bring_no_more_events_than_agreed() {
        for connections in [1, 16, 64, 256, 1000, 5000] {
            let load = Load::new(Measure::Streams, connections, Duration::from_secs(1));
            let rate = connections as f64 / load.pause.as_secs_f64();
            assert!(rate <= EVENTS_PER_SECOND * 1.05, "{connections}: {rate}");
            assert!((4..=20).contains(&load.events), "{connections}: {}", load.events);
        }
    }

    #[test]
    fn a_round_without_answers_has_failed() {
        assert_eq!(Figures::default().failed(), 1.0);
        assert_eq!(Figures { done: 3, errors: 1, ..Figures::default() }.failed(), 0.25);
    }
}
