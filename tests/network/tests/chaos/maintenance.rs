//! Whoever pauses or stops a node in order loses nobody's request.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cocoon_engine::Engine;
use cocoon_network_tests::{Fleet, until, within};

use crate::callers::Callers;
use crate::engine::{Moody, Work};

const CALLERS: usize = 12;
/// Answers between two steps.
const ANSWERS: u64 = 150;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_under_load_fails_no_request() {
    let work = Arc::new(Work::default());
    let well = || Arc::new(Moody { work: Arc::clone(&work), fails: 0, breaks: 0 }) as Arc<dyn Engine>;
    let mut fleet = Fleet::start(2, vec![well(), well(), well()], |_| ()).await;
    let callers = Callers::start(fleet.gateway.http_addr(), CALLERS, &work);
    let goes_on = async || {
        let goal = callers.seen.complete.load(Ordering::Relaxed) + ANSWERS;
        until("answers", || callers.seen.complete.load(Ordering::Relaxed) >= goal).await;
    };
    goes_on().await;
    for number in [1, 2] {
        fleet.workers[number].as_ref().unwrap().set_paused(true);
        goes_on().await;
        fleet.workers[number].as_ref().unwrap().set_paused(false);
        goes_on().await;
        let worker = fleet.workers[number].take().unwrap();
        within("the worker to stop", worker.shutdown()).await;
        goes_on().await;
        fleet.revive_worker(number).await;
        goes_on().await;
    }
    for number in [0, 1] {
        let proxy = fleet.proxies[number].take().unwrap();
        within("the proxy to stop", proxy.shutdown()).await;
        goes_on().await;
        fleet.revive_proxy(number).await;
        let here = || fleet.gateway.models().first().is_some_and(|model| model.cocoon.proxies.len() == 2);
        until("the gateway to be back at it", here).await;
        goes_on().await;
    }
    let seen = callers.stop().await;
    let (failed, wrong) = (seen.failed.lock().unwrap().clone(), seen.wrong.lock().unwrap().clone());
    assert!(failed.is_empty() && wrong.is_empty(), "{failed:#?} {wrong:#?}");
    assert_eq!(seen.broken.load(Ordering::Relaxed), 0, "streams under way came to their ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_proxy_and_a_single_worker_that_start_anew_are_waited_for() {
    let work = Arc::new(Work::default());
    let well = Arc::new(Moody { work: Arc::clone(&work), fails: 0, breaks: 0 }) as Arc<dyn Engine>;
    let mut fleet = Fleet::start(1, vec![well], |_| ()).await;
    let callers = Callers::start(fleet.gateway.http_addr(), CALLERS, &work);
    let goes_on = async || {
        let goal = callers.seen.complete.load(Ordering::Relaxed) + ANSWERS;
        until("answers", || callers.seen.complete.load(Ordering::Relaxed) >= goal).await;
    };
    goes_on().await;
    within("the worker to stop", fleet.workers[0].take().unwrap().shutdown()).await;
    fleet.revive_worker(0).await;
    goes_on().await;
    within("the proxy to stop", fleet.proxies[0].take().unwrap().shutdown()).await;
    fleet.revive_proxy(0).await;
    goes_on().await;
    let seen = callers.stop().await;
    let (failed, wrong) = (seen.failed.lock().unwrap().clone(), seen.wrong.lock().unwrap().clone());
    assert!(failed.is_empty() && wrong.is_empty(), "{failed:#?} {wrong:#?}");
    assert_eq!(seen.broken.load(Ordering::Relaxed), 0, "streams under way came to their ends");
}
