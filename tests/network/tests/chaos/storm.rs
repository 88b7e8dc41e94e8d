//! Proxies and workers are killed, paused, and cut off, slowed and stalled on their links, by a seeded draw, while callers
//! ask without pause. One proxy and one worker stay well.
//!
//! `SEED` repeats a run as far as real time can be repeated; `SECONDS` makes it longer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cocoon_engine::Engine;
use cocoon_network_tests::{Fleet, Mode};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

use crate::callers::Callers;
use crate::engine::{Moody, TOKENS, Work};

const SECONDS: u64 = 20;
const CALLERS: usize = 24;
const PROXIES: usize = 3;
const WORKERS: usize = 4;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// What is out of order, and until when.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Proxy(usize),
    Worker(usize),
    Paused(usize),
    GatewayLink(usize),
    WorkerLink(usize, usize),
}

impl Fault {
    /// Proxy 0, worker 0 and what joins them to each other and to the gateway are spared.
    fn draw(rng: &mut StdRng) -> Self {
        let (proxy, worker) = (rng.random_range(1..PROXIES), rng.random_range(1..WORKERS));
        match rng.random_range(0..6) {
            0 => Self::Proxy(proxy),
            1 => Self::Worker(worker),
            2 => Self::Paused(worker),
            3 => Self::GatewayLink(proxy),
            _ => Self::WorkerLink(worker, rng.random_range(0..PROXIES)),
        }
    }

    /// Whether the gateway loses a proxy by it, with what is on its way from there.
    fn begin(self, fleet: &mut Fleet, rng: &mut StdRng) -> bool {
        let link = match self {
            Self::Proxy(proxy) => {
                let lives = fleet.proxies[proxy].is_some();
                fleet.kill_proxy(proxy);
                return lives;
            }
            Self::Worker(worker) => {
                fleet.kill_worker(worker);
                return false;
            }
            Self::Paused(worker) => {
                if let Some(worker) = &fleet.workers[worker] {
                    worker.set_paused(true);
                }
                return false;
            }
            Self::GatewayLink(proxy) => &fleet.gateway_links[proxy],
            Self::WorkerLink(worker, proxy) => &fleet.worker_links[worker][proxy],
        };
        let how = rng.random_range(0..3);
        match how {
            0 => link.cut(),
            1 => link.set(Mode::Stall),
            _ => link.set(Mode::Slow(Duration::from_millis(rng.random_range(5..60)))),
        }
        how < 2 && matches!(self, Self::GatewayLink(_))
    }

    async fn end(self, fleet: &mut Fleet) {
        match self {
            Self::Proxy(proxy) if fleet.proxies[proxy].is_none() => fleet.revive_proxy(proxy).await,
            Self::Worker(worker) if fleet.workers[worker].is_none() => fleet.revive_worker(worker).await,
            Self::Paused(worker) => {
                if let Some(worker) = &fleet.workers[worker] {
                    worker.set_paused(false);
                }
            }
            Self::GatewayLink(proxy) => fleet.gateway_links[proxy].set(Mode::Pass),
            Self::WorkerLink(worker, proxy) => fleet.worker_links[worker][proxy].set(Mode::Pass),
            Self::Proxy(_) | Self::Worker(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_callers_get_their_answers_once_and_pay_them_once() {
    let seed = number("SEED").unwrap_or_else(rand::random);
    let seconds = number("SECONDS").unwrap_or(SECONDS);
    #[allow(clippy::print_stderr)]
    let told = || eprintln!("SEED={seed} SECONDS={seconds}");
    told();
    let mut rng = StdRng::seed_from_u64(seed);
    let work = Arc::new(Work::default());
    let engines: Vec<Arc<dyn Engine>> = (0..WORKERS)
        .map(|number| {
            let (fails, breaks) = if number == 0 { (0, 0) } else { (3, 2) };
            Arc::new(Moody { work: Arc::clone(&work), fails, breaks }) as Arc<dyn Engine>
        })
        .collect();
    let mut fleet = Fleet::start(PROXIES, engines, |_| ()).await;
    let callers = Callers::start(fleet.gateway.http_addr(), CALLERS, &work);

    let end = Instant::now() + Duration::from_secs(seconds);
    let mut faults: Vec<(Instant, Fault)> = Vec::new();
    let (mut begun, mut killed_proxies, mut lost_links) = (0_u32, 0_u64, 0_u64);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..350))).await;
        let fault = Fault::draw(&mut rng);
        killed_proxies += u64::from(matches!(fault, Fault::Proxy(proxy) if fleet.proxies[proxy].is_some()));
        lost_links += u64::from(fault.begin(&mut fleet, &mut rng));
        begun += 1;
        faults.push((Instant::now() + Duration::from_millis(rng.random_range(200..4000)), fault));
        let (over, left) = faults.into_iter().partition(|(until, _)| *until <= Instant::now());
        faults = left;
        for (_, fault) in over {
            fault.end(&mut fleet).await;
        }
    }
    for (_, fault) in faults {
        fault.end(&mut fleet).await;
    }
    let seen = callers.stop().await;

    let (failed, wrong) = (seen.failed.lock().unwrap().clone(), seen.wrong.lock().unwrap().clone());
    let complete = seen.complete.load(Ordering::Relaxed);
    let broken = seen.broken.load(Ordering::Relaxed);
    #[allow(clippy::print_stderr)]
    let told = || {
        eprintln!(
            "{begun} faults; {complete} complete, {broken} broken after their first byte, {} failed; longest {:?}",
            failed.len(),
            seen.longest.lock().unwrap()
        );
    };
    told();
    assert!(wrong.is_empty(), "{} went wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    assert!(complete > 50 * seconds, "hardly anything went through: {complete}");
    let asked = complete + broken + failed.len() as u64;
    assert!(
        failed.len() as u64 * 1000 <= asked,
        "{} of {asked} failed before their first byte: {:#?}",
        failed.len(),
        &failed[..failed.len().min(10)]
    );
    let told = TOKENS * complete + seen.broken_tokens.load(Ordering::Relaxed);
    books_agree(&fleet, &work, told, killed_proxies, lost_links).await;
}

/// Gateway, proxies and workers know of the same tokens: of what callers were told that it cost, and of what was on its way
/// to the gateway when that lost a proxy.
async fn books_agree(fleet: &Fleet, work: &Work, told: u64, killed_proxies: u64, lost_links: u64) {
    let charged = || fleet.proxies.iter().flatten().map(|proxy| proxy.books().charged.get()).sum::<u64>();
    let earned = || fleet.workers.iter().flatten().map(|worker| worker.earned().tokens.get()).sum::<u64>();
    let spent = || fleet.gateway.spent().tokens.get();
    let agree = async {
        // Who came back hears of what it missed when it compares accounts.
        while charged() != earned() || charged() != spent() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), agree).await.is_err() {
        panic!("proxies charged {}, workers earned {}, the gateway spent {}", charged(), earned(), spent());
    }
    let charged = charged();
    let (begun, finished) = work.sums();
    #[allow(clippy::print_stderr)]
    let say = || {
        eprintln!(
            "{charged} tokens charged, {told} told, {begun} calls begun, {finished} finished, {lost_links} links lost"
        )
    };
    say();
    // An answer reaches its caller a moment before its charge is durable; that moment is at the proxy's own risk.
    let at_once = CALLERS as u64 * TOKENS;
    assert!(charged + killed_proxies * at_once >= told, "{charged} tokens charged, {told} told");
    // What a worker has done and the gateway never got is paid, and its caller pays the second attempt as well. Nothing else
    // is paid twice: with each lost link that is at most what went over it.
    assert!(charged <= told + lost_links * at_once, "{charged} tokens charged, {told} told");
    assert!(charged <= TOKENS * begun, "{charged} tokens for {begun} calls of engines");
}
