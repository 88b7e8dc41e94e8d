//! What a client knows of the market at its proxy.

use std::sync::Arc;

use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::market::{GetMarket, MAX_OFFERS, Market, MarketOffer};

use crate::proxy::MAX_LISTED_WORKERS;

/// Offers of one proxy that are kept; what is over that is left out, and said to be.
pub const MAX_KNOWN_OFFERS: usize = MAX_LISTED_WORKERS;
/// Pages that are asked for in a row: enough for all offers that are kept.
const MAX_PAGES: usize = 2 * MAX_KNOWN_OFFERS / MAX_OFFERS;
/// Longest name of a model that is kept, in bytes.
const MAX_MODEL_NAME: usize = 512;

/// What is on offer at a proxy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnownMarket {
    /// Offers by model, both in the proxy's order.
    pub models: Vec<(String, Vec<MarketOffer>)>,
    /// There is more than was kept or told.
    pub truncated: bool,
}

/// The walk through a proxy's pages.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    under_way: Option<(KnownMarket, usize)>,
}

impl Walk {
    /// The first question; `None` where a walk is under way.
    pub(crate) fn begin(&mut self) -> Option<GetMarket> {
        if self.under_way.is_some() {
            return None;
        }
        self.under_way = Some((KnownMarket::default(), 0));
        Some(GetMarket { model: ByteStr::from_static(""), index: 0 })
    }

    /// Takes a page; gives the next question, or all there is.
    pub(crate) fn take(&mut self, page: Market) -> Result<GetMarket, Arc<KnownMarket>> {
        let (mut known, pages) = self.under_way.take().unwrap_or_default();
        let mut room = MAX_KNOWN_OFFERS - known.models.iter().map(|(_, offers)| offers.len()).sum::<usize>();
        for model in page.models {
            let Some(name) = model.name.to_str().filter(|name| name.len() <= MAX_MODEL_NAME) else {
                continue;
            };
            let mut offers = model.offers;
            known.truncated |= offers.len() > room;
            offers.truncate(room);
            room -= offers.len();
            match known.models.last_mut().filter(|(last, _)| last == name) {
                Some((_, begun)) => begun.append(&mut offers),
                None if offers.is_empty() => {}
                None => known.models.push((name.to_owned(), offers)),
            }
        }
        if page.more && room > 0 && pages + 1 < MAX_PAGES {
            self.under_way = Some((known, pages + 1));
            return Ok(GetMarket { model: page.next_model, index: page.next_index });
        }
        known.truncated |= page.more;
        Err(Arc::new(known))
    }

    /// The proxy refused to say more.
    pub(crate) fn refused(&mut self) {
        self.under_way = None;
    }
}

#[cfg(test)]
mod tests {
    use cocoon_wire::tl::market::MarketModel;

    use super::*;

    fn offer(coefficient: i32) -> MarketOffer {
        MarketOffer {
            fingerprint: [7; 32],
            coefficient,
            active: 0,
            limit: 1,
            abilities: 3,
            first_byte_us: -1,
            milli_tokens_per_s: -1,
            success_ppm: 1_000_000,
            requests: 0,
        }
    }

    fn page(names: &[&str], count: usize, more: bool) -> Market {
        let model = |name: &&str| MarketModel { name: (*name).into(), offers: vec![offer(1); count] };
        let next_model = names.last().copied().unwrap_or_default().into();
        Market { models: names.iter().map(model).collect(), more, next_model, next_index: 1 }
    }

    #[test]
    fn pages_add_up() {
        let mut walk = Walk::default();
        assert!(walk.begin().is_some() && walk.begin().is_none(), "one walk at a time");
        let next = walk.take(page(&["a", "b"], 2, true)).unwrap();
        assert_eq!((next.model.to_lossy().as_ref(), next.index), ("b", 1));
        let known = walk.take(page(&["b", "c"], 1, false)).unwrap_err();
        let counts: Vec<_> =
            known.models.iter().map(|(name, offers)| (name.as_str(), offers.len())).collect();
        assert_eq!(counts, [("a", 2), ("b", 3), ("c", 1)]);
        assert!(!known.truncated && walk.begin().is_some());
    }

    #[test]
    fn a_proxy_that_never_ends_is_not_listened_to_for_ever() {
        let mut walk = Walk::default();
        walk.begin();
        let pages =
            (0..).find_map(|pages| walk.take(page(&["a"], 1, true)).err().map(|known| (pages, known)));
        let (pages, known) = pages.unwrap();
        assert_eq!(pages + 1, MAX_PAGES);
        assert!(known.truncated);
        walk.begin();
        let known = walk.take(page(&["a"], MAX_KNOWN_OFFERS + 1, true)).unwrap_err();
        assert!(known.truncated && known.models[0].1.len() == MAX_KNOWN_OFFERS);
    }
}
