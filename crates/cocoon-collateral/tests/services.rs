//! Services as they are: slow, broken, strict, lying in form, gone. One request is as good as any other here, so these
//! tests ask for revocation lists of a simulated AMD.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use cocoon_attest::gpu::{GpuEvidence, GpuPolicy, GpuVerifier};
use cocoon_attest::tdx::collateral::MAX_ANSWER_LEN;
use cocoon_attest::{Collateral, CollateralRequest, CollateralSource as _, EvidenceKind, fetch_needed};
use cocoon_collateral::{FetcherOptions, MAX_REQUESTS};
use cocoon_tee::simulated::nvidia::SimulatedNvidia;
use support::{
    DAY, NOW, Reply, TestClock, Vendor, amd_list, ask, ask_until, cached, fetcher, list, offline, options,
    path, within,
};

#[tokio::test]
async fn what_holds_is_fetched_once() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    let fetcher = fetcher(&options(&vendor.url), &clock);
    for _ in 0..3 {
        assert_eq!(ask(&fetcher, &list(1)).await, (Some(amd_list(30)), None));
    }
    assert_eq!(vendor.hits(), 1);
}

#[tokio::test]
async fn a_hundred_that_ask_at_once_cause_one_fetch() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    vendor.hold();
    let fetcher = fetcher(&options(&vendor.url), &clock);
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let fetcher = fetcher.clone();
            tokio::spawn(async move { ask(&fetcher, &list(1)).await })
        })
        .collect();
    vendor.hit(1).await;
    vendor.release();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), (Some(amd_list(30)), None));
    }
    assert_eq!(vendor.hits(), 1);
}

#[tokio::test]
async fn the_next_list_is_fetched_behind_the_callers_back_before_this_one_runs_out() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    let fetcher = fetcher(&options(&vendor.url), &clock);
    ask(&fetcher, &list(1)).await;
    clock.advance(DAY - 1);
    vendor.says(&path(&list(1)), Reply::ok(amd_list(60)));
    assert_eq!(ask(&fetcher, &list(1)).await.0, Some(amd_list(30)));
    assert_eq!(vendor.hits(), 1, "a day has not gone by");
    clock.advance(1);
    vendor.hold();
    assert_eq!(ask(&fetcher, &list(1)).await, (Some(amd_list(30)), None), "what is there is given at once");
    vendor.hit(2).await;
    assert_eq!(ask(&fetcher, &list(1)).await, (Some(amd_list(30)), None), "also while the next is fetched");
    vendor.release();
    ask_until(&fetcher, &list(1), &amd_list(60)).await;
    assert_eq!(vendor.hits(), 2);
}

#[tokio::test]
async fn what_has_run_out_is_fetched_before_it_is_given() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    let fetcher = fetcher(&options(&vendor.url), &clock);
    ask(&fetcher, &list(1)).await;
    vendor.says(&path(&list(1)), Reply::ok(amd_list(60)));
    clock.advance(30 * DAY);
    assert_eq!(ask(&fetcher, &list(1)).await, (Some(amd_list(60)), None));
}

#[tokio::test]
async fn what_has_run_out_is_given_with_the_reason_when_there_is_nothing_newer() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    let fetcher = fetcher(&options(&vendor.url), &clock);
    ask(&fetcher, &list(1)).await;
    vendor.says(&path(&list(1)), Reply::status(500, ""));
    clock.advance(30 * DAY);
    for hits in [2, 2] {
        let (body, note) = ask(&fetcher, &list(1)).await;
        assert_eq!(body, Some(amd_list(30)));
        assert!(note.as_ref().is_some_and(|note| note.contains("HTTP status 500")), "{note:?}");
        assert_eq!(vendor.hits(), hits, "the service is left alone for a while");
    }
    // A service that still has the old one is not asked over and over.
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    clock.advance(5);
    for _ in 0..2 {
        let (body, note) = ask(&fetcher, &list(1)).await;
        assert_eq!(body, Some(amd_list(30)));
        assert!(note.as_ref().is_some_and(|note| note.contains("run out")), "{note:?}");
        assert_eq!(vendor.hits(), 3);
    }
    clock.advance(60);
    vendor.says(&path(&list(1)), Reply::ok(amd_list(60)));
    assert_eq!(ask(&fetcher, &list(1)).await, (Some(amd_list(60)), None));
}

#[tokio::test]
async fn every_broken_answer_is_told_and_none_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    let too_long = Bytes::from(vec![b'0'; MAX_ANSWER_LEN + 1]);
    let cases = [
        (Reply::ok("<html>Log in to our wireless network</html>"), "not what was asked for"),
        (Reply::ok(""), "not what was asked for"),
        (Reply::ok(too_long), "over"),
        (Reply::Endless, "over"),
        (Reply::EndlessHead, "KDS"),
        (Reply::Cut, "broke off"),
        (Reply::status(301, "Location: http://127.0.0.1:9/\r\n"), "elsewhere"),
        (Reply::status(400, ""), "400"),
        (Reply::status(403, ""), "403"),
        (Reply::status(404, ""), "404"),
        (Reply::status(429, ""), "429"),
        (Reply::status(500, ""), "500"),
        (Reply::status(503, "Retry-After: soon\r\n"), "503"),
    ];
    for (number, (reply, reason)) in cases.into_iter().enumerate() {
        let fetcher = fetcher(&cached(&vendor.url, folder.path()), &clock);
        vendor.says(&path(&list(number)), reply);
        let before = vendor.hits();
        let (body, note) = ask(&fetcher, &list(number)).await;
        let note = note.unwrap();
        assert_eq!(body, None, "{note}");
        assert!(note.contains(reason) && note.contains("KDS"), "{reason}: {note}");
        assert!(!note.contains("words of the service"), "{note}");
        // Asked again at once, it is not fetched again.
        assert_eq!(ask(&fetcher, &list(number)).await.0, None);
        assert_eq!(vendor.hits(), before + 1, "{reason}");
        // It comes back when the service does.
        vendor.says(&path(&list(number)), Reply::ok(amd_list(30)));
        clock.advance(31);
        assert_eq!(ask(&fetcher, &list(number)).await, (Some(amd_list(30)), None), "{reason}");
    }
}

#[tokio::test]
async fn a_refusal_in_the_form_of_an_answer_does_not_replace_the_answer_that_is_there() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    let nvidia = SimulatedNvidia::from_seed(&[7; 32]);
    let gpus = GpuEvidence::new(vec![nvidia.gpu(0).part(&[1; 32])]).unwrap().write().unwrap();
    let verifier = GpuVerifier::with_roots(GpuPolicy::default(), nvidia.roots());
    let needed = verifier.collateral_needed(&gpus, &Collateral::none());
    let answers = nvidia.collateral(&needed, NOW);
    let fetcher = fetcher(&options(&vendor.url), &clock);
    let try_later: &[u8] = &[0x30, 3, 0x0a, 1, 3];
    let no = b"{\"error\":\"not now\"}".as_slice();
    for (prefix, refusal, service) in [("ocsp/", try_later, "OCSP"), ("rim/", no, "RIM")] {
        clock.set(NOW);
        let request = needed.iter().find(|request| request.name.starts_with(prefix)).unwrap();
        let there = match prefix {
            "ocsp/" => "/".to_owned(),
            _ => format!("/v1/rim/{}", request.name.trim_start_matches("rim/")),
        };
        let good = answers.get(request).unwrap();
        vendor.says(&there, Reply::ok(good.clone()));
        assert_eq!(ask(&fetcher, request).await, (Some(good.clone()), None));
        vendor.says(&there, Reply::ok(refusal));
        clock.advance(8 * DAY);
        let (body, note) = ask(&fetcher, request).await;
        assert_eq!(body.as_ref(), Some(good), "{note:?}");
        let note = note.unwrap();
        assert!(note.contains("not what was asked for") && note.contains(service), "{note}");
        vendor.says(&there, Reply::ok(nvidia.collateral(&needed, clock.now()).get(request).unwrap().clone()));
        clock.advance(31);
        assert_eq!(ask(&fetcher, request).await.1, None, "it comes back when the service does");
    }
}

#[tokio::test]
async fn a_dead_service_is_left_alone_longer_each_time_and_what_is_cached_stays_in_use() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    let fetcher = fetcher(&options(&vendor.url), &clock);
    ask(&fetcher, &list(1)).await;
    vendor.says(&path(&list(2)), Reply::status(500, ""));
    let mut hits = vendor.hits();
    for pause in [5, 10, 20, 40, 80, 160, 300, 300] {
        assert!(ask(&fetcher, &list(2)).await.1.unwrap().contains("500"));
        hits += 1;
        assert_eq!(vendor.hits(), hits);
        clock.advance(pause - 1);
        let note = ask(&fetcher, &list(3)).await.1.unwrap();
        assert!(note.contains("the next try is in 1 s"), "nothing else is asked for either: {note}");
        assert_eq!(vendor.hits(), hits);
        assert_eq!(ask(&fetcher, &list(1)).await, (Some(amd_list(30)), None));
        clock.advance(1);
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_fails_at_once_from_the_second_time_on() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    let fetcher = fetcher(&options(&vendor.url), &clock);
    vendor.stop().await;
    for number in [1, 1, 2] {
        let (body, note) = ask(&fetcher, &list(number)).await;
        assert_eq!(body, None);
        assert!(note.as_ref().is_some_and(|note| note.contains("KDS")), "{note:?}");
    }
}

#[tokio::test]
async fn a_service_that_asks_for_a_pause_gets_it() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    let fetcher = fetcher(&options(&vendor.url), &clock);
    vendor.says(&path(&list(1)), Reply::status(429, "Retry-After: 120\r\n"));
    assert!(ask(&fetcher, &list(1)).await.1.unwrap().contains("429"));
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    clock.advance(119);
    assert!(ask(&fetcher, &list(1)).await.1.unwrap().contains("the next try is in 1 s"));
    assert_eq!(vendor.hits(), 1);
    clock.advance(1);
    assert_eq!(ask(&fetcher, &list(1)).await, (Some(amd_list(30)), None));
    // A pause without end is cut.
    vendor.says(&path(&list(2)), Reply::status(429, "Retry-After: 18446744073709551615\r\n"));
    ask(&fetcher, &list(2)).await;
    vendor.says(&path(&list(2)), Reply::ok(amd_list(30)));
    clock.advance(900);
    assert_eq!(ask(&fetcher, &list(2)).await, (Some(amd_list(30)), None));
}

#[tokio::test]
async fn a_service_that_asks_for_a_moment_is_asked_again_by_the_same_fetch() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    let fetcher = fetcher(&options(&vendor.url), &clock);
    vendor.says(&path(&list(1)), Reply::status(429, "Retry-After: 0\r\n"));
    assert!(ask(&fetcher, &list(1)).await.1.unwrap().contains("429"));
    assert_eq!(vendor.hits(), 2);
}

#[tokio::test]
async fn a_caller_waits_no_longer_than_its_patience_and_the_answer_is_there_for_the_next() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    vendor.hold();
    let impatient = FetcherOptions { patience: Duration::from_millis(50), ..options(&vendor.url) };
    let fetcher = fetcher(&impatient, &clock);
    let (body, note) = ask(&fetcher, &list(1)).await;
    assert_eq!(body, None);
    assert!(note.as_ref().is_some_and(|note| note.contains("not answered yet")), "{note:?}");
    vendor.release();
    ask_until(&fetcher, &list(1), &amd_list(30)).await;
    assert_eq!(vendor.hits(), 1);
}

#[tokio::test]
async fn what_is_in_doubt_and_holds_is_given_at_once_though_the_service_hangs() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    let fetcher = fetcher(&options(&vendor.url), &clock);
    ask(&fetcher, &list(1)).await;
    vendor.says(&path(&list(1)), Reply::Silence);
    fetcher.refused(&[list(1)]);
    clock.advance(60);
    let begun = Instant::now();
    for _ in 0..2 {
        let (body, note) = ask(&fetcher, &list(1)).await;
        assert_eq!(body, Some(amd_list(30)));
        assert!(note.as_ref().is_some_and(|note| note.contains("still being fetched")), "{note:?}");
    }
    assert!(begun.elapsed() < FetcherOptions::default().patience / 2, "{:?}", begun.elapsed());
    vendor.hit(2).await;
}

#[tokio::test]
async fn what_has_run_out_is_given_when_patience_ends_though_the_service_hangs() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    let impatient = FetcherOptions { patience: Duration::from_millis(200), ..options(&vendor.url) };
    let fetcher = fetcher(&impatient, &clock);
    ask(&fetcher, &list(1)).await;
    vendor.says(&path(&list(1)), Reply::Silence);
    clock.advance(30 * DAY);
    let (body, note) = ask(&fetcher, &list(1)).await;
    assert_eq!(body, Some(amd_list(30)));
    assert!(note.as_ref().is_some_and(|note| note.contains("KDS has not answered yet")), "{note:?}");
}

#[tokio::test]
async fn all_rounds_of_a_judgement_share_one_patience() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    for number in 1..=3 {
        vendor.says(&path(&list(number)), Reply::Silence);
    }
    let impatient = FetcherOptions { patience: Duration::from_millis(500), ..options(&vendor.url) };
    let fetcher = fetcher(&impatient, &clock);
    // Something new each time.
    let mut round = 0;
    let needed = |_| {
        round += 1;
        std::future::ready(vec![list(round)])
    };
    let begun = Instant::now();
    let fetched = within(fetch_needed(needed, &fetcher)).await.unwrap();
    let took = begun.elapsed();
    assert!((500..1_000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(fetched.requests, [1, 2, 3].map(list));
    assert_eq!(fetched.collateral.failures().count(), 3, "each round says what it lacks");
}

#[tokio::test]
async fn a_silent_service_is_given_up() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    vendor.says(&path(&list(1)), Reply::Silence);
    let hasty = FetcherOptions { fetch_timeout: Duration::from_millis(100), ..options(&vendor.url) };
    let (body, note) = ask(&fetcher(&hasty, &clock), &list(1)).await;
    assert_eq!(body, None);
    assert!(note.as_ref().is_some_and(|note| note.contains("within 0.1 s")), "{note:?}");
}

#[tokio::test]
async fn strangers_with_ever_new_names_cannot_use_up_what_a_service_puts_up_with() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    vendor.says(&path(&list(0)), Reply::ok(amd_list(1)));
    let fetcher = fetcher(&options(&vendor.url), &clock);
    ask(&fetcher, &list(0)).await;
    clock.advance(2 * DAY);
    let mut told = None;
    for number in 1..100 {
        told = ask(&fetcher, &list(number)).await.1;
    }
    assert!(told.as_ref().is_some_and(|told| told.contains("that is the limit")), "{told:?}");
    let hits = vendor.hits();
    assert!(hits < 30, "{hits}");
    vendor.says(&path(&list(0)), Reply::ok(amd_list(30)));
    assert_eq!(ask(&fetcher, &list(0)).await, (Some(amd_list(30)), None), "there is room for what we had");
    clock.advance(60);
    ask(&fetcher, &list(200)).await;
    assert_eq!(vendor.hits(), hits + 2, "the next minute is a new one");
}

#[tokio::test]
async fn what_nobody_answers_and_too_many_things_are_not_fetched() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    let fetcher = fetcher(&options(&vendor.url), &clock);
    let odd = CollateralRequest { kind: EvidenceKind::FakeTdx, name: "paper".to_owned() };
    assert!(ask(&fetcher, &odd).await.1.unwrap().contains("no service"));
    let many: Vec<_> = (0..=MAX_REQUESTS).map(list).collect();
    let refused = within(fetcher.fetch(&many)).await.unwrap_err();
    assert!(refused.to_string().contains("over the limit"), "{refused}");
    assert_eq!(vendor.hits(), 0);
}

#[tokio::test]
async fn a_cache_serves_other_processes_and_later_ones_without_a_fetch() {
    let folder = tempfile::tempdir().unwrap();
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    let first = fetcher(&cached(&vendor.url, folder.path()), &clock);
    assert_eq!(ask(&first, &list(1)).await, (Some(amd_list(30)), None));
    written(folder.path(), 1).await;
    let second = fetcher(&cached(&vendor.url, folder.path()), &clock);
    assert_eq!(ask(&second, &list(1)).await, (Some(amd_list(30)), None));
    assert_eq!(vendor.hits(), 1);
    // A day later one of them fetches the next list for both.
    vendor.says(&path(&list(1)), Reply::ok(amd_list(60)));
    clock.advance(DAY);
    ask_until(&first, &list(1), &amd_list(60)).await;
    // One without anything in memory sees when it is on disk.
    let on_disk = async || ask(&fetcher(&offline(folder.path()), &clock), &list(1)).await.0;
    within(async { while on_disk().await != Some(amd_list(60)) {} }).await;
    ask_until(&second, &list(1), &amd_list(60)).await;
    assert_eq!(vendor.hits(), 2);
}

/// Waits until so many answers are on disk.
async fn written(folder: &std::path::Path, count: usize) {
    let finished = || {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.len() == 64).count()
    };
    within(async {
        while finished() < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_damaged_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW));
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    ask(&fetcher(&cached(&vendor.url, folder.path()), &clock), &list(1)).await;
    written(folder.path(), 1).await;
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[100] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    assert!(ask(&fetcher(&offline(folder.path()), &clock), &list(1)).await.1.unwrap().contains("offline"));
    let online = fetcher(&cached(&vendor.url, folder.path()), &clock);
    assert_eq!(ask(&online, &list(1)).await, (Some(amd_list(30)), None));
    assert_eq!(vendor.hits(), 2);
    within(async {
        while std::fs::read(&file).unwrap() != whole {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_is_put_back_keeps_nothing_from_being_fetched() {
    let (vendor, clock) = (Vendor::start().await, TestClock::at(NOW.plus(20 * DAY)));
    let fetcher = fetcher(&options(&vendor.url), &clock);
    vendor.says(&path(&list(1)), Reply::ok(amd_list(30)));
    ask(&fetcher, &list(1)).await;
    ask(&fetcher, &list(2)).await;
    clock.set(NOW);
    fetcher.refused(&[list(1)]);
    vendor.says(&path(&list(1)), Reply::ok(amd_list(60)));
    vendor.says(&path(&list(2)), Reply::ok(amd_list(60)));
    ask_until(&fetcher, &list(1), &amd_list(60)).await;
    assert_eq!(ask(&fetcher, &list(2)).await, (Some(amd_list(60)), None));
}
