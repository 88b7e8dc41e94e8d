//! What is on offer, over all proxies, with how each worker has done: for callers who want to compare.
//!
//! Proxies of ours tell it where they are asked ([`Connection::ask_market`]), which happens every few seconds, and only
//! while somebody looks. Of published proxies only the offers are known, without names and measurements.

mod page;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cocoon_ledger::Tariff;
use cocoon_openai::ability;
use cocoon_session::{KnownMarket, MarketOffer, Time, tariff};
use serde::Serialize;

use crate::Shared;
use crate::access::Scope;
use crate::connection::Connection;
use crate::models::{Price, price};

pub(crate) use page::html;

/// How often proxies are asked while somebody looks.
pub(crate) const ASK_EVERY: Duration = Duration::from_secs(5);
/// Somebody looks for so long after the last look.
const LOOKS_FOR: Duration = Duration::from_secs(15);
/// What is older than this is asked for anew before it is shown.
const FRESH: Duration = Duration::from_secs(10);
/// How long answers of proxies are waited for.
const WAIT: Duration = Duration::from_secs(1);
/// Offers that are shown, the cheapest of each model first.
const MAX_SHOWN: usize = 8192;
/// The kind of a worker whose evidence nobody has verified yet.
const NOT_SEEN: &str = "unknown";

/// Abilities by name; bits without one are left out.
pub(crate) fn ability_names(abilities: u32) -> Vec<&'static str> {
    ability::names(abilities).collect()
}

/// When somebody looked last.
#[derive(Debug, Default)]
pub(crate) struct Looks(AtomicU64);

impl Looks {
    fn note(&self, now: Time) {
        self.0.fetch_max(now.0, Ordering::Relaxed);
    }

    /// Whether somebody looks at the moment.
    pub(crate) fn are_taken(&self, now: Time) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        last > 0 && now.since(Time(last)) < LOOKS_FOR
    }
}

/// What a proxy told last, and when.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) known: Arc<KnownMarket>,
    pub(crate) at: Instant,
}

/// Everything that is on offer.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    object: &'static str,
    /// When this was put together, in Unix milliseconds.
    generated_unix_ms: u64,
    models: Vec<ModelReport>,
    proxies: Vec<ProxyReport>,
    /// There is more than is shown.
    truncated: bool,
}

#[derive(Debug, Clone, Serialize)]
struct ModelReport {
    id: String,
    /// At the cheapest offer.
    price: Option<Price>,
    /// At the dearest offer.
    highest_price: Option<Price>,
    workers: usize,
    capacity: u64,
    active: u64,
    /// What at least one of its workers can do, where that is known.
    abilities: Vec<&'static str>,
    /// At least one of the offers is.
    insecure: bool,
    offers: Vec<OfferReport>,
}

#[derive(Debug, Clone, Serialize)]
struct OfferReport {
    /// SHA-256 of the worker's certificate; `None` at a published proxy.
    worker: Option<String>,
    /// SHA-256 of the proxy's certificate.
    proxy: String,
    price: Option<Price>,
    coefficient: u32,
    active: u32,
    capacity: u32,
    first_byte_ms: Option<f64>,
    tokens_per_second: Option<f64>,
    /// Running, 0 to 1.
    success_rate: Option<f64>,
    /// On which that rests.
    requests: Option<u64>,
    abilities: Option<Vec<&'static str>>,
    #[serde(skip)]
    ability_bits: u32,
    attestation: &'static str,
    verified_by: Option<&'static str>,
    insecure: bool,
}

#[derive(Debug, Clone, Serialize)]
struct ProxyReport {
    fingerprint: String,
    attestation: &'static str,
    insecure: bool,
    /// Whether it names its workers and tells how they have done.
    measured: bool,
    /// How old that is.
    age_ms: Option<u64>,
    /// It told of more offers than are kept.
    truncated: bool,
}

/// Looks at the market of these models, with answers of proxies that are not older than a few seconds where they come soon.
pub(crate) async fn look(shared: &Shared, scope: &Scope) -> Report {
    let connections = ready(shared);
    refresh(shared, &connections, WAIT).await;
    report(shared, &connections, scope)
}

/// Sees to it that something is known of each proxy of ours; waits no longer than `at_most`.
pub(crate) async fn warm(shared: &Shared, at_most: Duration) {
    let connections = ready(shared);
    let unknown = connections.iter().any(|connection| connection.market().borrow().is_none());
    if unknown {
        refresh(shared, &connections, at_most).await;
    } else {
        shared.looks.note(Time(shared.clock.micros()));
    }
}

fn ready(shared: &Shared) -> Vec<Arc<Connection>> {
    shared.pool.all().iter().filter(|connection| connection.terms().is_some()).cloned().collect()
}

async fn refresh(shared: &Shared, connections: &[Arc<Connection>], at_most: Duration) {
    shared.looks.note(Time(shared.clock.micros()));
    let deadline = tokio::time::Instant::now() + at_most;
    let fresh = |told: &Option<Told>| told.as_ref().is_some_and(|told| told.at.elapsed() < FRESH);
    let ours =
        || connections.iter().filter(|connection| connection.terms().is_some_and(|terms| terms.extensions));
    for connection in ours() {
        if !fresh(&connection.market().borrow()) {
            connection.ask_market();
        }
    }
    for connection in ours() {
        // Where it does not come in time, what is known is shown, with its age.
        let _ = tokio::time::timeout_at(deadline, connection.market().wait_for(fresh)).await;
        let workers: Vec<_> = connection.workers().keys().copied().collect();
        connection.want_evidence(&shared.vetting.memory.unknown(workers.iter()));
    }
}

fn report(shared: &Shared, connections: &[Arc<Connection>], scope: &Scope) -> Report {
    let tariff = tariff(&shared.root.borrow());
    let mut models: BTreeMap<String, Vec<OfferReport>> = BTreeMap::new();
    let mut proxies = Vec::new();
    for connection in connections {
        let told = connection.market().borrow().clone();
        let proxy = hex::encode(connection.peer.certificate_fingerprint);
        match &told {
            Some(told) => {
                for (name, offers) in told.known.models.iter().filter(|(name, _)| scope.covers(name)) {
                    let measured =
                        offers.iter().map(|offer| measured(shared, connection, &proxy, offer, &tariff));
                    models.entry(name.clone()).or_default().extend(measured);
                }
            }
            None => {
                for model in connection.models().iter().filter(|model| scope.covers(&model.name)) {
                    let offers = model.offers.iter().map(|offer| plain(connection, &proxy, *offer, &tariff));
                    models.entry(model.name.clone()).or_default().extend(offers);
                }
            }
        }
        proxies.push(ProxyReport {
            fingerprint: proxy,
            attestation: connection.attestation.kind,
            insecure: connection.attestation.insecure,
            measured: told.is_some(),
            age_ms: told
                .as_ref()
                .map(|told| u64::try_from(told.at.elapsed().as_millis()).unwrap_or(u64::MAX)),
            truncated: told.is_some_and(|told| told.known.truncated),
        });
    }
    let mut room = MAX_SHOWN;
    let mut truncated = proxies.iter().any(|proxy| proxy.truncated);
    let models = models.into_iter().map(|(id, offers)| {
        let mut model = summed_up(id, offers, &tariff);
        truncated |= model.offers.len() > room;
        model.offers.truncate(room);
        room -= model.offers.len();
        model
    });
    let models = models.collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Report {
        object: "market",
        generated_unix_ms: u64::try_from(now).unwrap_or(u64::MAX),
        models,
        proxies,
        truncated,
    }
}

/// What an offer of a proxy of ours says, with what we know of the worker's evidence.
fn measured(
    shared: &Shared,
    connection: &Connection,
    proxy: &str,
    offer: &MarketOffer,
    tariff: &Tariff,
) -> OfferReport {
    let seen = shared.vetting.memory.seen(&offer.fingerprint);
    let number = |number: i32| u32::try_from(number).unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "measurements, for people")]
    let measured = |number: i64| (number >= 0).then_some(number as f64 / 1e3);
    let coefficient = number(offer.coefficient);
    let ability_bits = offer.abilities.cast_unsigned();
    OfferReport {
        worker: Some(hex::encode(offer.fingerprint)),
        proxy: proxy.to_owned(),
        price: price(coefficient, tariff),
        coefficient,
        active: number(offer.active),
        capacity: number(offer.limit),
        first_byte_ms: measured(offer.first_byte_us),
        tokens_per_second: measured(offer.milli_tokens_per_s),
        // One that was asked nothing yet has failed at nothing, and shown nothing.
        success_rate: (offer.requests > 0).then(|| f64::from(offer.success_ppm.clamp(0, 1_000_000)) / 1e6),
        requests: Some(u64::try_from(offer.requests).unwrap_or(0)),
        abilities: Some(ability_names(ability_bits)),
        ability_bits,
        attestation: seen.as_ref().map_or(NOT_SEEN, |seen| seen.kind),
        verified_by: seen.as_ref().map(|seen| seen.by),
        insecure: connection.attestation.insecure || seen.is_none_or(|seen| seen.insecure),
    }
}

/// What an offer of a published proxy says.
fn plain(
    connection: &Connection,
    proxy: &str,
    offer: cocoon_session::client::Offer,
    tariff: &Tariff,
) -> OfferReport {
    OfferReport {
        worker: None,
        proxy: proxy.to_owned(),
        price: price(offer.coefficient, tariff),
        coefficient: offer.coefficient,
        active: offer.active,
        capacity: offer.limit,
        first_byte_ms: None,
        tokens_per_second: None,
        success_rate: None,
        requests: None,
        abilities: None,
        ability_bits: 0,
        attestation: NOT_SEEN,
        verified_by: None,
        // It names none, so nothing is known of its worker's machine but by its own word.
        insecure: connection.attestation.insecure,
    }
}

fn summed_up(id: String, mut offers: Vec<OfferReport>, tariff: &Tariff) -> ModelReport {
    offers.sort_by(|a, b| (a.coefficient, a.active, &a.worker).cmp(&(b.coefficient, b.active, &b.worker)));
    let sum = |of: fn(&OfferReport) -> u32| offers.iter().map(|offer| u64::from(of(offer))).sum();
    ModelReport {
        id,
        price: offers.first().and_then(|offer| price(offer.coefficient, tariff)),
        highest_price: offers.last().and_then(|offer| price(offer.coefficient, tariff)),
        workers: offers.len(),
        capacity: sum(|offer| offer.capacity),
        active: sum(|offer| offer.active),
        abilities: ability_names(offers.iter().fold(0, |all, offer| all | offer.ability_bits)),
        insecure: offers.iter().any(|offer| offer.insecure),
        offers,
    }
}

/// What the workers of a model can do, all together; `None` where no proxy has told.
pub(crate) fn abilities(connections: &[Arc<Connection>], model: &str) -> Option<Vec<&'static str>> {
    let mut all = None;
    for connection in connections {
        let market = connection.market();
        let told = market.borrow();
        let Some(told) = told.as_ref() else { continue };
        let offers =
            told.known.models.iter().filter(|(name, _)| name == model).flat_map(|(_, offers)| offers);
        for offer in offers {
            *all.get_or_insert(0) |= offer.abilities.cast_unsigned();
        }
    }
    all.map(ability_names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ability_has_the_same_bit_in_the_api_and_in_the_protocol() {
        use cocoon_wire::tl::ext::ability as wire;
        macro_rules! bits {
            ($($name:ident)*) => { ([$(ability::$name),*], [$(wire::$name),*]) };
        }
        let (here, there) = bits!(
            CHAT COMPLETIONS RESPONSES MESSAGES EMBEDDINGS RERANK TRANSCRIPTIONS TRANSLATIONS SPEECH IMAGES
            IMAGE_EDITS MODERATIONS TOKENIZE COUNT_TOKENS INPUT_TOKENS TOOLS IMAGE_INPUT AUDIO_INPUT
            STRUCTURED_OUTPUT REASONING
        );
        assert_eq!(here, there);
        assert_eq!(here, ability::NAMES.map(|(bit, _)| bit), "one with a name is missing here");
        assert_eq!(ability::UNTOLD, wire::UNTOLD);
    }

    #[test]
    fn somebody_looks_for_a_while_after_each_look() {
        let looks = Looks::default();
        assert!(!looks.are_taken(Time(5)));
        looks.note(Time(1_000_000));
        assert!(looks.are_taken(Time(15_999_999)) && !looks.are_taken(Time(16_000_000)));
    }
}
