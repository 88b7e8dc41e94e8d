//! Peers that were let in, and for how long: what is verified when, and what ends a connection that is up.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use cocoon_attest::{
    Collateral, CollateralFuture, CollateralRequest, CollateralSource, CollateralUnavailable, Evidence,
    EvidenceKind, Outcome, PeerCertificate, Policy, ReportData, UnixSeconds, Verdict, Verifier,
};
use cocoon_net::{Judge, NoLongerAllowed, SecureStream, TlsSettings};
use support::{ManualClock, NOW, connect, identity, node};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

const IMAGE: [u8; 32] = [5; 32];
/// How long the collateral of the test vendor lasts, seconds.
const LASTS: u64 = 10_000;

fn paper() -> CollateralRequest {
    CollateralRequest { kind: EvidenceKind::FakeTdx, name: "paper".to_owned() }
}

/// A vendor whose paper says until when it is good; counts how often it is read.
#[derive(Default)]
struct Vendor {
    verified: AtomicUsize,
    revoked: AtomicBool,
    /// On which threads it worked.
    threads: Mutex<HashSet<ThreadId>>,
}

impl Verifier for Vendor {
    fn collateral_needed(&self, _: &Evidence) -> Vec<CollateralRequest> {
        self.threads.lock().unwrap().insert(std::thread::current().id());
        vec![paper()]
    }

    fn verify(&self, evidence: &Evidence, found: &Collateral, _: &ReportData, now: UnixSeconds) -> Verdict {
        self.verified.fetch_add(1, Ordering::SeqCst);
        self.threads.lock().unwrap().insert(std::thread::current().id());
        let mut verdict = Verdict::new(evidence.kind());
        let until = found.get(&paper()).map(|paper| u64::from_le_bytes(paper[..].try_into().unwrap()));
        let good = until.is_some_and(|until| (until - LASTS..=until).contains(&now.0));
        let present = if good { Outcome::Passed } else { Outcome::Failed };
        verdict.record("collateral", present, "looked for it");
        let spared = if self.revoked.load(Ordering::SeqCst) { Outcome::Failed } else { Outcome::Passed };
        verdict.record("revocation", spared, "looked");
        verdict.image_hash = Some(IMAGE);
        verdict.expires_at = until.map(UnixSeconds);
        verdict
    }
}

/// Gives the paper, as long as it can be reached; each is good for [`LASTS`] from when it is fetched.
struct Library {
    clock: Arc<ManualClock>,
    closed: AtomicBool,
    /// Whoever asks waits for one of these.
    turns: Semaphore,
    refused: AtomicUsize,
}

/// More than ever ask at a time.
const ALL_TURNS: u32 = 100;

impl CollateralSource for Library {
    fn fetch<'a>(&'a self, requests: &'a [CollateralRequest]) -> CollateralFuture<'a> {
        use cocoon_net::Clock as _;
        Box::pin(async move {
            let _turn = self.turns.acquire().await.unwrap();
            if self.closed.load(Ordering::SeqCst) {
                return Err(CollateralUnavailable {
                    kind: EvidenceKind::FakeTdx,
                    reason: "closed".to_owned(),
                });
            }
            let mut found = Collateral::none();
            for request in requests {
                let until = self.clock.now().0 + LASTS;
                found.insert(request.clone(), until.to_le_bytes().to_vec().into());
            }
            Ok(found)
        })
    }

    fn refused(&self, _: &[CollateralRequest]) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }
}

/// A node that demands the vendor's word, and what it rests on.
struct World {
    settings: TlsSettings,
    vendor: Arc<Vendor>,
    library: Arc<Library>,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::at(NOW);
        let (closed, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
        let turns = Semaphore::new(ALL_TURNS as usize);
        let library = Arc::new(Library { clock: Arc::clone(&clock), closed, turns, refused });
        let vendor = Arc::new(Vendor::default());
        let settings = TlsSettings::new(
            identity("none"),
            Arc::clone(&vendor) as _,
            Policy::fake_tdx(),
            Some(Arc::clone(&library) as _),
            Arc::clone(&clock) as _,
        );
        Self { settings: settings.unwrap(), vendor, library, clock }
    }

    fn verified(&self) -> usize {
        self.vendor.verified.load(Ordering::SeqCst)
    }

    /// The time is now this much later, and everybody looks.
    fn later(&self, seconds: u64) {
        self.clock.set(NOW + seconds);
        self.settings.judge().look_again();
    }
}

/// Both ends of a connection to the node.
async fn connected(world: &World, peer: &TlsSettings) -> (SecureStream, SecureStream) {
    let (accepted, dialled) = connect(&world.settings, peer).await;
    (accepted.unwrap(), dialled.unwrap())
}

/// The peer says something, and our side hears it.
async fn passes(ours: &mut SecureStream, theirs: &mut SecureStream) {
    theirs.io.write_all(b"x").await.unwrap();
    theirs.io.flush().await.unwrap();
    assert_eq!(ours.io.read_u8().await.unwrap(), b'x');
}

/// Why our side hears nothing any more.
async fn why_ended(ours: &mut SecureStream) -> String {
    let error = ours.io.read_u8().await.unwrap_err();
    assert!(error.get_ref().unwrap().is::<NoLongerAllowed>(), "{error}");
    error.to_string()
}

#[tokio::test]
async fn evidence_is_verified_once_per_certificate() {
    let world = World::new();
    let peer = node("fake_tdx", Policy::any());
    for _ in 0..3 {
        connected(&world, &peer).await;
    }
    assert_eq!(world.verified(), 1);
    connected(&world, &node("fake_tdx", Policy::any())).await;
    assert_eq!(world.verified(), 2, "another certificate is another matter");
}

#[tokio::test]
async fn a_peer_whose_image_leaves_the_list_is_dropped_before_another_byte_goes_through() {
    let world = World::new();
    let (mut ours, mut theirs) = connected(&world, &node("fake_tdx", Policy::any())).await;
    passes(&mut ours, &mut theirs).await;
    let listed = |hash: [u8; 32]| Policy::fake_tdx().with_image_hashes([hash]).unwrap();
    world.settings.set_policy(listed(IMAGE));
    passes(&mut ours, &mut theirs).await;
    world.settings.set_policy(listed([9; 32]));
    let error = ours.io.write_all(b"a secret").await.unwrap_err();
    assert!(error.to_string().contains("image_hash"), "{error}");
    assert!(why_ended(&mut ours).await.contains("image_hash"));
    drop(ours);
    let mut heard = Vec::new();
    // Cut off without a farewell, which TLS calls an unexpected end.
    let _ = theirs.io.read_to_end(&mut heard).await;
    assert!(heard.is_empty(), "a peer that is not let in any more heard {heard:?}");
}

#[tokio::test]
async fn a_peer_whose_image_leaves_the_list_is_dropped_also_while_new_collateral_is_waited_for() {
    let world = World::new();
    let (mut ours, mut theirs) = connected(&world, &node("fake_tdx", Policy::any())).await;
    let _busy = world.library.turns.acquire_many(ALL_TURNS).await.unwrap();
    world.later(3600);
    passes(&mut ours, &mut theirs).await;
    world.settings.set_policy(Policy::fake_tdx().with_image_hashes([[9; 32]]).unwrap());
    let error = ours.io.write_all(b"a secret").await.unwrap_err();
    assert!(error.to_string().contains("image_hash"), "{error}");
}

#[tokio::test]
async fn collateral_that_was_signed_while_it_was_fetched_is_not_of_the_future() {
    let world = World::new();
    let busy = world.library.turns.acquire_many(ALL_TURNS).await.unwrap();
    let stranger = PeerCertificate::parse(&identity("fake_tdx").certificate()).unwrap();
    let judge = world.settings.judge();
    let mut decision = Box::pin(judge.decide(&stranger));
    // It begins, and cannot get further than the library.
    tokio::select! {
        biased;
        _ = &mut decision => unreachable!("the library is busy"),
        () = std::future::ready(()) => {}
    }
    world.clock.set(NOW + 1);
    drop(busy);
    assert!(decision.await.is_ok());
}

#[tokio::test]
async fn a_stranger_s_signatures_are_verified_where_they_hold_up_nobody() {
    let world = World::new();
    connected(&world, &node("fake_tdx", Policy::any())).await;
    let threads = world.vendor.threads.lock().unwrap();
    assert!(!threads.is_empty() && !threads.contains(&std::thread::current().id()));
}

/// Takes its time, and notes how many do so at once.
#[derive(Default)]
struct Slow {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Verifier for Slow {
    fn collateral_needed(&self, _: &Evidence) -> Vec<CollateralRequest> {
        Vec::new()
    }

    #[allow(clippy::disallowed_methods)]
    fn verify(&self, evidence: &Evidence, _: &Collateral, _: &ReportData, _: UnixSeconds) -> Verdict {
        let at_once = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(at_once, Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(5));
        self.now.fetch_sub(1, Ordering::SeqCst);
        let mut verdict = Verdict::new(evidence.kind());
        verdict.record("all", Outcome::Passed, "after a while");
        verdict
    }
}

#[tokio::test]
async fn a_flood_of_strangers_takes_no_more_than_the_processors_there_are() {
    let slow = Arc::new(Slow::default());
    let judge = Judge::new(Arc::clone(&slow) as _, Policy::fake_tdx(), None, ManualClock::at(NOW));
    let mut strangers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (judge, stranger) = (judge.clone(), PeerCertificate::parse(&identity("fake_tdx").certificate()));
        strangers.spawn(async move { judge.decide(&stranger.unwrap()).await.is_ok() });
    }
    assert!(strangers.join_all().await.into_iter().all(|let_in| let_in));
    let processors = std::thread::available_parallelism().unwrap().get();
    assert!(slow.most.load(Ordering::SeqCst) <= processors);
}

#[tokio::test]
async fn a_reader_that_waits_is_woken_when_its_peer_is_no_longer_let_in() {
    let world = World::new();
    let (mut ours, _theirs) = connected(&world, &node("fake_tdx", Policy::any())).await;
    let settings = world.settings.clone();
    let waiting = tokio::spawn(async move { why_ended(&mut ours).await });
    tokio::task::yield_now().await;
    settings.set_policy(Policy::fake_tdx().with_image_hashes([]).unwrap());
    assert!(waiting.await.unwrap().contains("image_hash"));
}

#[tokio::test]
async fn collateral_that_runs_out_is_fetched_anew_and_the_connection_stays() {
    let world = World::new();
    let (mut ours, mut theirs) = connected(&world, &node("fake_tdx", Policy::any())).await;
    for step in 1..=4 {
        world.later(step * 3600);
        let renewed = async {
            while world.verified() <= usize::try_from(step).unwrap() {
                passes(&mut ours, &mut theirs).await;
            }
            passes(&mut ours, &mut theirs).await;
        };
        tokio::time::timeout(Duration::from_secs(30), renewed).await.expect("nobody verified anew");
    }
}

#[tokio::test]
async fn nothing_passes_on_a_verdict_that_has_run_out_while_new_collateral_is_fetched() {
    let world = World::new();
    let (mut ours, mut theirs) = connected(&world, &node("fake_tdx", Policy::any())).await;
    let busy = world.library.turns.acquire_many(ALL_TURNS).await.unwrap();
    world.later(LASTS + 1);
    theirs.io.write_all(b"x").await.unwrap();
    theirs.io.flush().await.unwrap();
    // The look has begun, and waits for the library.
    let mut heard = [0];
    let (mut reading, mut sent) = (Box::pin(ours.io.read_exact(&mut heard)), false);
    for _ in 0..100 {
        tokio::select! {
            biased;
            read = &mut reading => { read.unwrap(); sent = true; break }
            () = tokio::task::yield_now() => {}
        }
    }
    assert!(!sent, "a byte came through on a verdict that has run out");
    drop(busy);
    reading.await.unwrap();
    assert_eq!(heard, *b"x");
}

#[tokio::test]
async fn a_look_that_takes_too_long_counts_as_one_that_found_nothing_out() {
    let world = World::new();
    let (mut ours, mut theirs) = connected(&world, &node("fake_tdx", Policy::any())).await;
    let _busy = world.library.turns.acquire_many(ALL_TURNS).await.unwrap();
    world.later(LASTS);
    passes(&mut ours, &mut theirs).await;
    world.later(LASTS + 1);
    tokio::time::pause();
    assert!(why_ended(&mut ours).await.contains("in time"));
}

#[tokio::test]
async fn without_new_collateral_a_peer_stays_until_the_old_runs_out() {
    let world = World::new();
    let (mut ours, mut theirs) = connected(&world, &node("fake_tdx", Policy::any())).await;
    world.library.closed.store(true, Ordering::SeqCst);
    world.later(LASTS);
    passes(&mut ours, &mut theirs).await;
    world.later(LASTS + 1);
    assert!(why_ended(&mut ours).await.contains("closed"));
}

#[tokio::test]
async fn what_the_vendor_revokes_is_dropped_at_the_next_look_and_the_source_hears_of_it() {
    let world = World::new();
    let (mut ours, mut theirs) = connected(&world, &node("fake_tdx", Policy::any())).await;
    world.vendor.revoked.store(true, Ordering::SeqCst);
    world.later(60);
    passes(&mut ours, &mut theirs).await;
    world.later(3600);
    assert!(why_ended(&mut ours).await.contains("revocation"));
    assert_eq!(world.library.refused.load(Ordering::SeqCst), 1);
    let peer = node("fake_tdx", Policy::any());
    assert!(connect(&world.settings, &peer).await.0.is_err(), "nor is it let in again");
}
