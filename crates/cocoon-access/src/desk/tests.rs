#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::{Counts, KeySecret, KeySettings, METRICS};

const fn at(seconds: u64) -> Moment {
    Moment::from_seconds(1_800_000_000 + seconds)
}

fn secret(number: u8) -> KeySecret {
    KeySecret::from_random([number; 32])
}

fn id(number: u8) -> KeyId {
    KeyId::from_random([number; 8])
}

fn desk_with(number: u8, change: impl FnOnce(&mut KeySettings)) -> Desk {
    let mut desk = Desk::default();
    let mut settings = KeySettings::named(&format!("key {number}"));
    change(&mut settings);
    desk.create(id(number), &secret(number), settings, at(0)).unwrap();
    desk
}

fn patch(fields: Value) -> Map<String, Value> {
    fields.as_object().unwrap().clone()
}

/// What is written of a desk.
#[derive(Default)]
struct Disk(std::collections::BTreeMap<String, Vec<u8>>);

impl Disk {
    /// Writes what has changed and reads all back, as after a crash.
    fn restarted(&mut self, mut desk: Desk, now: Moment) -> Desk {
        for change in desk.take_changes(now).0 {
            match change.value {
                Some(value) => self.0.insert(change.entry, value),
                None => self.0.remove(&change.entry),
            };
        }
        let mut read = Desk::default();
        for prefix in Desk::PREFIXES {
            for (entry, value) in self.0.iter().filter(|(entry, _)| entry.starts_with(prefix)) {
                read.restore(entry, value, now).unwrap();
            }
        }
        read
    }
}

#[test]
fn only_the_secret_of_a_key_that_is_good_opens() {
    let mut desk = desk_with(1, |_| ());
    assert_eq!(desk.identify(&secret(1), at(0)), Ok(id(1)));
    assert_eq!(desk.identify(&secret(2), at(0)), Err(Denied::Unknown));
    desk.change(id(1), &patch(json!({"disabled": true})), at(0)).unwrap();
    assert_eq!(desk.identify(&secret(1), at(0)), Err(Denied::Disabled));
    assert!(!desk.has_usable_keys(at(0)));
    let until = at(60).seconds();
    desk.change(id(1), &patch(json!({"disabled": false, "expires_unix_seconds": until})), at(0)).unwrap();
    assert_eq!(desk.identify(&secret(1), at(59)), Ok(id(1)));
    assert_eq!(desk.identify(&secret(1), at(60)), Err(Denied::Expired));
    desk.revoke(id(1), at(1)).unwrap();
    desk.revoke(id(1), at(2)).unwrap();
    assert_eq!(desk.identify(&secret(1), at(2)), Err(Denied::Unknown));
    assert_eq!(desk.change(id(1), &patch(json!({"disabled": false})), at(2)), Err(ChangeError::Revoked));
    assert_eq!(desk.rotate(id(1), &secret(3), 0, at(2)), Err(ChangeError::Revoked));
    assert_eq!(desk.hold(id(1), 1, at(2)), Err(Refused::Key(Denied::Unknown)));
    assert_eq!(desk.view(id(1), at(3)).unwrap().record.revoked, Some(at(1).seconds()));
}

#[test]
fn a_new_secret_takes_the_place_of_the_old_one_at_once_or_after_its_grace() {
    let mut desk = desk_with(1, |_| ());
    desk.rotate(id(1), &secret(2), 0, at(0)).unwrap();
    assert_eq!(desk.identify(&secret(1), at(0)), Err(Denied::Unknown));
    assert_eq!(desk.identify(&secret(2), at(0)), Ok(id(1)));
    desk.rotate(id(1), &secret(3), 100, at(0)).unwrap();
    let mut desk = Disk::default().restarted(desk, at(1));
    assert_eq!(desk.identify(&secret(2), at(99)), Ok(id(1)));
    assert_eq!(desk.identify(&secret(2), at(100)), Err(Denied::Unknown));
    desk.rotate(id(1), &secret(4), 100, at(50)).unwrap();
    assert_eq!(desk.identify(&secret(2), at(51)), Err(Denied::Unknown), "two secrets at most");
    assert_eq!([3, 4].map(|number| desk.identify(&secret(number), at(51))), [Ok(id(1)); 2]);
    desk.revoke(id(1), at(52)).unwrap();
    assert!([3, 4].iter().all(|number| desk.identify(&secret(*number), at(52)).is_err()));
}

#[test]
fn keys_are_found_by_id_and_by_a_name_that_one_of_them_has() {
    let mut desk = desk_with(1, |_| ());
    assert_eq!(desk.find("key 1"), Some(id(1)));
    assert_eq!(desk.find(&id(1).to_string()), Some(id(1)));
    assert_eq!(desk.find("none"), None);
    let again = |desk: &mut Desk| desk.create(id(2), &secret(2), KeySettings::named("key 1"), at(0));
    assert_eq!(again(&mut desk), Err(ChangeError::NameTaken("key 1".to_owned())));
    desk.revoke(id(1), at(0)).unwrap();
    again(&mut desk).unwrap();
    assert_eq!(desk.find("key 1"), Some(id(2)));
    let taken = desk.create(id(3), &secret(3), KeySettings::named("other"), at(0));
    assert_eq!(taken, Ok(()));
    assert_eq!(
        desk.change(id(3), &patch(json!({"name": "key 1"})), at(0)),
        Err(ChangeError::NameTaken("key 1".to_owned()))
    );
    let unknown = desk.change(id(3), &patch(json!({"bugdet_nanoton": 1})), at(0)).unwrap_err();
    assert!(unknown.to_string().contains("bugdet_nanoton"), "{unknown}");
    assert_eq!(desk.change(id(9), &Map::new(), at(0)), Err(ChangeError::NotFound));
}

#[test]
fn a_change_names_what_it_changes_and_null_takes_a_limit_away() {
    let mut desk = desk_with(1, |settings| settings.requests_per_minute = Some(2));
    assert!(desk.admit(id(1), "chat", at(0)).is_ok());
    desk.change(id(1), &patch(json!({"requests_per_minute": 1})), at(0)).unwrap();
    assert!(
        matches!(desk.admit(id(1), "chat", at(0)), Err(Refused::Requests { .. })),
        "what was used counts"
    );
    desk.change(id(1), &patch(json!({"requests_per_minute": null, "models": ["a/*"]})), at(0)).unwrap();
    let settings = desk.settings(id(1)).unwrap();
    assert_eq!((settings.requests_per_minute, settings.models[0].as_str()), (None, "a/*"));
    assert_eq!(settings.name, "key 1");
}

#[test]
fn each_limit_refuses_in_its_own_words() {
    let mut desk = desk_with(1, |settings| {
        settings.endpoints = vec!["chat".to_owned()];
        settings.models = vec!["a".parse().unwrap()];
        settings.concurrent_requests = Some(2);
        settings.requests_per_minute = Some(4);
        settings.tokens_per_minute = Some(100);
        settings.budget_nanoton = Some(50);
    });
    assert_eq!(desk.admit(id(1), "embeddings", at(0)), Err(Refused::Endpoint));
    assert_eq!(desk.admit(id(1), METRICS, at(0)), Err(Refused::Endpoint));
    let mut first = desk.admit(id(1), "chat", at(0)).unwrap();
    let mut second = desk.admit(id(1), "chat", at(0)).unwrap();
    assert_eq!(desk.admit(id(1), "chat", at(0)), Err(Refused::Concurrent(2)));
    assert_eq!(desk.start(&mut first, "b", 1, at(0)), Err(Refused::Model));
    desk.start(&mut first, "a@c:h", 80, at(0)).unwrap();
    assert!(matches!(
        desk.start(&mut second, "a", 30, at(0)),
        Err(Refused::Tokens { wait_micros: 6_000_000, .. })
    ));
    desk.hold(id(1), 40, at(0)).unwrap();
    assert_eq!(
        desk.hold(id(1), 20, at(0)),
        Err(Refused::Budget { which: Exhausted::Total { budget: 50, used: 40 }, wanted: 20 })
    );
    desk.settle(&first, 40, 10, false, at(0));
    let used = Counts { prompt_tokens: 5, completion_tokens: 5, ..Counts::default() };
    desk.finish(&first, &RequestEnd { failed: false, used }, at(0));
    desk.finish(&second, &RequestEnd { failed: true, ..RequestEnd::default() }, at(0));
    let (requests, tokens) = desk.rates(id(1), at(0));
    assert_eq!((requests.unwrap().remaining, tokens.unwrap().remaining), (2, 90));
    assert_eq!(desk.view(id(1), at(0)).unwrap().running, 0);
    let rows = desk.usage(at(0).day(), id(1)).unwrap().rows();
    let errors: u64 = rows.iter().map(|row| row.counts.errors).sum();
    let requests: u64 = rows.iter().map(|row| row.counts.requests).sum();
    assert_eq!((requests, errors), (5, 4));
    let good = rows.iter().find(|row| row.counts.cost_nanoton > 0).unwrap();
    assert_eq!((good.model.as_str(), good.endpoint.as_str(), good.counts.cost_nanoton), ("a", "chat", 10));
}

#[test]
fn a_last_word_on_a_cost_replaces_the_first() {
    let mut desk = desk_with(1, |_| ());
    let mut ticket = desk.admit(id(1), "chat", at(0)).unwrap();
    desk.start(&mut ticket, "m", 1, at(0)).unwrap();
    desk.hold(id(1), 100, at(0)).unwrap();
    let mut before = 0;
    for to in [40, 50, 10] {
        let settled = desk.settle(&ticket, 100, 40, false, at(0));
        desk.correct(&ticket, settled, to, at(0));
        let cost = desk.usage(at(0).day(), id(1)).unwrap().rows()[0].counts.cost_nanoton;
        assert_eq!((desk.view(id(1), at(0)).unwrap().spending.total, cost), (before + to, before + to));
        before += to;
    }
}

#[test]
fn a_last_word_after_midnight_is_about_the_day_before() {
    const NEXT: u64 = 86_400;
    let mut desk = desk_with(1, |_| ());
    let mut ticket = desk.admit(id(1), "chat", at(0)).unwrap();
    desk.start(&mut ticket, "m", 1, at(0)).unwrap();
    let settled = desk.settle(&ticket, 100, 40, false, at(0));
    desk.settle(&ticket, 100, 60, false, at(NEXT));
    desk.take_changes(at(NEXT));
    desk.correct(&ticket, settled, 10, at(NEXT));
    let spending = desk.view(id(1), at(NEXT)).unwrap().spending;
    assert_eq!((spending.total, spending.today), (70, 60));
    let costs = [0, NEXT].map(|moment| {
        let usage = desk.usage(at(moment).day(), id(1)).unwrap();
        usage.rows()[0].counts.cost_nanoton
    });
    assert_eq!(costs, [10, 60]);
    assert!(
        desk.take_changes(at(NEXT))
            .0
            .iter()
            .any(|change| { change.entry == usage_entry(at(0).day(), id(1)) })
    );
}

#[test]
fn callers_without_a_key_are_counted_and_not_limited() {
    let mut desk = Desk::default();
    let mut ticket = desk.admit(KeyId::NONE, "chat", at(0)).unwrap();
    desk.start(&mut ticket, "m", u64::MAX, at(0)).unwrap();
    desk.hold(KeyId::NONE, u64::MAX, at(0)).unwrap();
    desk.settle(&ticket, u64::MAX, 7, false, at(0));
    desk.finish(&ticket, &RequestEnd::default(), at(0));
    let rows = desk.usage(at(0).day(), KeyId::NONE).unwrap().rows();
    assert_eq!((rows[0].counts.requests, rows[0].counts.cost_nanoton), (1, 7));
}

#[test]
fn what_was_written_reads_back_and_what_was_under_way_counts_as_spent() {
    let mut desk = desk_with(1, |settings| settings.budget_nanoton = Some(100));
    let mut ticket = desk.admit(id(1), "chat", at(0)).unwrap();
    desk.start(&mut ticket, "m", 10, at(0)).unwrap();
    desk.hold(id(1), 30, at(0)).unwrap();
    desk.settle(&ticket, 30, 20, false, at(0));
    desk.hold(id(1), 30, at(0)).unwrap();
    let mut desk = Disk::default().restarted(desk, at(5));
    assert_eq!(desk.identify(&secret(1), at(5)), Ok(id(1)));
    let spending = desk.view(id(1), at(5)).unwrap().spending;
    assert_eq!((spending.total, spending.reserved, spending.unsettled_nanoton), (50, 0, 30));
    assert!(desk.hold(id(1), 51, at(5)).is_err());
    desk.forgive(id(1)).unwrap();
    assert_eq!(desk.view(id(1), at(5)).unwrap().spending.total, 20);
    assert!(desk.restore("access/key/key_0101010101010101", b"{}", at(5)).is_err());
    desk.restore("access/key/nonsense", b"{}", at(5)).unwrap();
}

#[test]
fn what_could_not_be_written_is_written_with_the_next() {
    let mut desk = desk_with(1, |_| ());
    let mut ticket = desk.admit(id(1), "chat", at(0)).unwrap();
    desk.start(&mut ticket, "m", 1, at(0)).unwrap();
    desk.finish(&ticket, &RequestEnd::default(), at(0));
    let (first, unwritten) = desk.take_changes(at(3 * 86_400));
    assert_eq!(first.len(), 2, "{first:?}");
    assert!(desk.take_changes(at(0)).0.is_empty());
    desk.put_back(unwritten);
    assert_eq!(desk.take_changes(at(3 * 86_400)).0, first, "also a day that is over is still there");
    desk.take_changes(at(3 * 86_400));
    assert!(desk.usage(at(0).day(), id(1)).is_none(), "what is written and over is not held");
}

#[test]
fn the_longest_revoked_key_makes_room_and_a_full_desk_says_so() {
    let mut desk = Desk::default();
    let numbered = |number: usize| {
        let mut bits = [0; 32];
        bits[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
        let mut id = [0; 8];
        id.copy_from_slice(&bits[..8]);
        (KeyId::from_random(id), KeySecret::from_random(bits), KeySettings::named(&number.to_string()))
    };
    for number in 0..MAX_KEYS {
        let (id, secret, settings) = numbered(number);
        // Names are told apart one by one, which a test of many need not wait for.
        let record = KeyRecord {
            id,
            hint: secret.hint(),
            created: 0,
            revoked: None,
            settings,
            hash: Some(secret.hash().to_hex()),
            previous: None,
        };
        desk.put(id, Entry::new(record, at(0)));
    }
    let (id, secret, settings) = numbered(MAX_KEYS);
    assert_eq!(desk.create(id, &secret, settings.clone(), at(1)), Err(ChangeError::TooMany));
    let (gone, _, _) = numbered(5);
    desk.revoke(gone, at(1)).unwrap();
    desk.create(id, &secret, settings, at(2)).unwrap();
    assert!(desk.view(gone, at(2)).is_none());
    let (changes, _) = desk.take_changes(at(2));
    assert!(changes.iter().any(|change| change.value.is_none() && change.entry.contains("access/key/")));
    desk.revoke(id, at(3)).unwrap();
    desk.forget_revoked_before(at(3));
    assert!(desk.view(id, at(3)).is_some());
    desk.forget_revoked_before(at(4));
    assert!(desk.view(id, at(4)).is_none());
}

#[test]
fn what_was_used_since_the_start_is_summed_up_by_key_and_of_many_keys_as_one() {
    let mut desk = Desk::default();
    let used = Counts { prompt_tokens: 3, completion_tokens: 2, ..Counts::default() };
    let numbered = |number: usize| KeyId::from_random((number as u64 + 1).to_le_bytes());
    for number in 0..MAX_SUMS + 5 {
        let mut ticket = desk.admit(KeyId::NONE, "chat", at(0)).unwrap();
        ticket.key = numbered(number);
        desk.finish(&ticket, &RequestEnd { failed: false, used }, at(0));
        let settled = desk.settle(&ticket, 100, 40, false, at(0));
        desk.correct(&ticket, settled, 50, at(0));
    }
    let sums: std::collections::BTreeMap<_, _> = desk.sums().collect();
    assert_eq!(sums.len(), MAX_SUMS + 1);
    let figures = |key: Option<KeyId>| (sums[&key].requests, sums[&key].tokens(), sums[&key].cost_nanoton);
    assert_eq!(figures(Some(numbered(0))), (1, 5, 50));
    assert_eq!(figures(Some(numbered(MAX_SUMS - 1))), (1, 5, 50));
    assert_eq!(figures(None), (5, 25, 250));
}

proptest! {
    #[test]
    fn whatever_happens_no_key_spends_more_than_its_budget(
        budget in 1_u64..1000,
        per_day in 1_u64..600,
        steps in prop::collection::vec((0_u8..6, 0_u64..300, 0_u64..=100), 1..120),
    ) {
        let mut desk = desk_with(1, |settings| {
            settings.budget_nanoton = Some(budget);
            settings.budget_per_day_nanoton = Some(per_day);
        });
        let (mut open, mut now, mut disk) = (Vec::new(), 0, Disk::default());
        let mut days: std::collections::BTreeMap<Day, u64> = std::collections::BTreeMap::new();
        for (step, amount, percent) in steps {
            match step {
                0..=2 => {
                    let Ok(mut ticket) = desk.admit(id(1), "chat", at(now)) else { continue };
                    desk.start(&mut ticket, "m", amount, at(now)).unwrap();
                    match desk.hold(id(1), amount, at(now)) {
                        Ok(()) => open.push((ticket, amount)),
                        Err(_) => desk.finish(&ticket, &RequestEnd { failed: true, ..RequestEnd::default() }, at(now)),
                    }
                }
                3 => if let Some((ticket, held)) = open.pop() {
                    let cost = held * percent / 100;
                    desk.settle(&ticket, held, cost, false, at(now));
                    desk.finish(&ticket, &RequestEnd::default(), at(now));
                    *days.entry(at(now).day()).or_default() += cost;
                },
                4 => now += amount * 600,
                // The process dies; nobody hears how the open ones end.
                _ => {
                    let lost: u64 = open.drain(..).map(|(_, held)| held).sum();
                    let day = desk.keys[&id(1)].spending.day;
                    *days.entry(day).or_default() += lost;
                    desk = disk.restarted(desk, at(now));
                }
            }
            let view = desk.view(id(1), at(now)).unwrap();
            prop_assert_eq!(view.running, open.len() as u64);
            prop_assert!(view.spending.total + view.spending.reserved <= budget);
            prop_assert_eq!(view.spending.total, days.values().sum::<u64>());
            prop_assert!(days.values().all(|spent| *spent <= per_day), "{:?} over {}", days, per_day);
        }
    }
}
