//! What is on offer, over all proxies, for callers.

use std::collections::BTreeMap;
use std::sync::Arc;

use cocoon_ledger::{Coefficient, Tariff, TokenCounts, Tokens, adjust_exact};
use cocoon_session::client::Offer;
use serde::Serialize;

use crate::connection::Connection;
use crate::market;

/// Owner of every model, as OpenAI's API names one.
const OWNED_BY: &str = "cocoon";
/// Prices are told per this many tokens.
const PRICED_TOKENS: u64 = 1_000_000;

/// A model in OpenAI's form.
#[derive(Debug, Clone, Serialize)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When the gateway began, in Unix seconds: nobody says when a model was made.
    pub created: u64,
    /// `cocoon`.
    pub owned_by: &'static str,
    /// What OpenAI's form has no place for.
    pub cocoon: ModelDetails,
}

/// Price, capacity and attestation of a model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelDetails {
    /// At the cheapest offer; `None` where no worker is ready.
    pub price: Option<Price>,
    /// Offers of ready workers at all proxies, cheapest first.
    pub offers: Vec<ModelOffer>,
    /// Requests that the workers take at a time, all together.
    pub capacity: u64,
    /// Requests that they have now, ours and others'.
    pub active: u64,
    /// What its workers can do, all together, by name; `None` where no proxy has told.
    pub abilities: Option<Vec<&'static str>>,
    /// The proxies through which the model is reached.
    pub proxies: Vec<ProxyDetails>,
    /// The evidence of at least one of these proxies is simulated or absent.
    pub insecure: bool,
}

/// A price in nanoton per million tokens of each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Price {
    /// In 1/1000 of the base price.
    pub coefficient: u32,
    /// Prompt tokens that were not cached.
    pub prompt_nanoton_per_million: u64,
    /// Cached prompt tokens.
    pub cached_nanoton_per_million: u64,
    /// Completion tokens that are not reasoning.
    pub completion_nanoton_per_million: u64,
    /// Reasoning tokens.
    pub reasoning_nanoton_per_million: u64,
}

/// One worker's offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ModelOffer {
    /// In 1/1000 of the base price.
    pub coefficient: u32,
    /// Requests under way.
    pub active: u32,
    /// Most requests at a time.
    pub limit: u32,
}

/// Who a proxy is, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProxyDetails {
    /// SHA-256 of its certificate, in hexadecimal digits.
    pub fingerprint: String,
    /// Its key, in hexadecimal digits.
    pub public_key: String,
    /// Its contract.
    pub contract: String,
    /// Kind of the evidence that was verified: `none`, `fake_tdx`, `tdx`, `sev_snp`.
    pub attestation: &'static str,
    /// The evidence proves nothing about hardware.
    pub simulated: bool,
}

impl ProxyDetails {
    pub(crate) fn of(connection: &Connection) -> Option<Self> {
        let terms = connection.terms()?;
        Some(Self {
            fingerprint: hex::encode(connection.peer.certificate_fingerprint),
            public_key: hex::encode(terms.public_key),
            contract: terms.contract.to_string(),
            attestation: connection.attestation.kind,
            simulated: connection.attestation.insecure,
        })
    }
}

/// All models of all ready connections, by name.
pub(crate) fn list(connections: &[Arc<Connection>], tariff: &Tariff, created: u64) -> Vec<Model> {
    let mut found: BTreeMap<String, (Vec<Offer>, Vec<ProxyDetails>)> = BTreeMap::new();
    for connection in connections {
        let Some(proxy) = ProxyDetails::of(connection) else { continue };
        for model in connection.models().iter() {
            let (offers, proxies) = found.entry(model.name.clone()).or_default();
            offers.extend(&model.offers);
            proxies.push(proxy.clone());
        }
    }
    let models = found.into_iter().map(|(id, (offers, proxies))| Model {
        object: "model",
        created,
        owned_by: OWNED_BY,
        cocoon: ModelDetails {
            abilities: market::abilities(connections, &id),
            ..details(offers, proxies, tariff)
        },
        id,
    });
    models.collect()
}

/// Their names alone.
pub(crate) fn names(connections: &[Arc<Connection>]) -> Vec<String> {
    let ready = connections.iter().filter(|connection| connection.terms().is_some());
    let mut names: Vec<String> = ready
        .flat_map(|connection| connection.models().iter().map(|model| model.name.clone()).collect::<Vec<_>>())
        .collect();
    names.sort();
    names.dedup();
    names
}

fn details(mut offers: Vec<Offer>, proxies: Vec<ProxyDetails>, tariff: &Tariff) -> ModelDetails {
    offers.sort_by_key(|offer| (offer.coefficient, offer.active));
    let sum = |of: fn(&Offer) -> u32| offers.iter().map(|offer| u64::from(of(offer))).sum();
    ModelDetails {
        price: offers.first().and_then(|offer| price(offer.coefficient, tariff)),
        capacity: sum(|offer| offer.limit),
        active: sum(|offer| offer.active),
        offers: offers
            .iter()
            .map(|offer| ModelOffer {
                coefficient: offer.coefficient,
                active: offer.active,
                limit: offer.limit,
            })
            .collect(),
        insecure: proxies.iter().any(|proxy| proxy.simulated),
        abilities: None,
        proxies,
    }
}

/// What a million tokens of each class cost; `None` where that is more than can be told.
pub(crate) fn price(coefficient: u32, tariff: &Tariff) -> Option<Price> {
    let many = Tokens(PRICED_TOKENS);
    let counts = TokenCounts { prompt: many, cached: many, completion: many, reasoning: many };
    let adjusted = adjust_exact(counts, Coefficient::new(coefficient).ok()?, tariff).ok()?;
    let [prompt, cached, completion, reasoning] =
        adjusted.classes().map(|class| class.checked_cost(tariff.price_per_token).map(|cost| cost.nano()));
    Some(Price {
        coefficient,
        prompt_nanoton_per_million: prompt?,
        cached_nanoton_per_million: cached?,
        completion_nanoton_per_million: completion?,
        reasoning_nanoton_per_million: reasoning?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cocoon_ledger::{Multiplier, PricePerToken};

    use super::*;

    #[test]
    fn the_cheapest_offer_sets_the_price_of_each_class() {
        let tariff = Tariff {
            price_per_token: PricePerToken(20),
            worker_fee_per_token: PricePerToken(10),
            prompt: Multiplier::ONE,
            cached: Multiplier(1000),
            completion: Multiplier(40_000),
            reasoning: Multiplier::ONE,
        };
        let offer = |coefficient, active| Offer { coefficient, active, limit: 4 };
        let details = details(vec![offer(2000, 1), offer(1500, 3)], Vec::new(), &tariff);
        let price = details.price.unwrap();
        assert_eq!(price.coefficient, 1500);
        assert_eq!(price.prompt_nanoton_per_million, 30_000_000);
        assert_eq!(price.cached_nanoton_per_million, 3_000_000);
        assert_eq!(price.completion_nanoton_per_million, 120_000_000);
        assert_eq!((details.capacity, details.active), (8, 4));
        assert!(price_is_none_without_offers(&tariff));
    }

    fn price_is_none_without_offers(tariff: &Tariff) -> bool {
        details(Vec::new(), Vec::new(), tariff).price.is_none()
    }
}
