//! What clients are told of the market: who offers what, and how they have done.

use std::time::Duration;

use cocoon_wire::tl::market::{self, MAX_MARKET_BYTES, MAX_OFFERS};

use super::choice::TAKES_STREAMS;
use super::{ConnId, Proxy};
use crate::{Time, Violation};

/// Pages of one kind that a client may ask for in a row.
const PAGES_IN_A_ROW: u32 = 64;
/// One more after so long.
const PAGE_EVERY: Duration = Duration::from_millis(250);
/// What an offer takes on the wire, and a model beside its name.
const OFFER_BYTES: usize = 80;
const MODEL_BYTES: usize = 12;

/// How many pages a client may still ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pages {
    left: u32,
    /// Up to when what came back was counted.
    counted: Time,
}

impl Pages {
    pub(super) const fn new(now: Time) -> Self {
        Self { left: PAGES_IN_A_ROW, counted: now }
    }

    pub(super) fn take(&mut self, now: Time) -> bool {
        let periods = now.since(self.counted).as_micros() / PAGE_EVERY.as_micros();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        if periods > 0 {
            self.left = self.left.saturating_add(periods).min(PAGES_IN_A_ROW);
            self.counted = now;
        }
        let granted = self.left > 0;
        self.left -= u32::from(granted);
        granted
    }
}

impl Proxy {
    pub(super) fn on_get_market(
        &mut self,
        conn: ConnId,
        id: i64,
        query: &market::GetMarket,
    ) -> Result<(), Violation> {
        let index = usize::try_from(query.index)
            .map_err(|_| Violation::Unexpected("place in the market's list of offers"))?;
        let page = self.market_page(conn, &query.model.to_lossy(), index);
        self.answer(conn, id, &page);
        Ok(())
    }

    fn market_page(&self, conn: ConnId, model: &str, index: usize) -> market::Market {
        let allowed = self.client(conn).and_then(|client| client.allowed.as_ref());
        let (mut bytes, mut count) = (0, 0);
        let end = |models, more: Option<(&str, usize)>| market::Market {
            models,
            more: more.is_some(),
            next_model: more.map_or("", |(model, _)| model).to_owned().into(),
            next_index: more.map_or(0, |(_, index)| i32::try_from(index).unwrap_or(i32::MAX)),
        };
        let mut models = Vec::new();
        for name in self.market.models_from(model) {
            let skipped = if name == model { index } else { 0 };
            bytes += MODEL_BYTES + name.len();
            let mut offers = Vec::new();
            for (place, offer) in self.market.offers(name).enumerate().skip(skipped) {
                if bytes >= MAX_MARKET_BYTES || count >= MAX_OFFERS {
                    models.push(market::MarketModel { name: name.to_owned().into(), offers });
                    return end(models, Some((name, place)));
                }
                if offer.state.ready && allowed.is_none_or(|allowed| allowed.contains(&offer.name)) {
                    bytes += OFFER_BYTES;
                    count += 1;
                    offers.push(told(&offer, self.market.now_us()));
                }
            }
            if !offers.is_empty() {
                models.push(market::MarketModel { name: name.to_owned().into(), offers });
            }
            if bytes >= MAX_MARKET_BYTES {
                // Names alone can fill a page.
                let next = self.market.models_from(name).find(|next| *next != name);
                return end(models, next.map(|next| (next, 0)));
            }
        }
        end(models, None)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "floats are clamped into their type's range first")]
fn told(offer: &cocoon_market::Offer<ConnId>, now_us: u64) -> market::MarketOffer {
    let state = &offer.state;
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let first_byte = offer.observed.time_to_first_byte();
    let speed = offer.observed.tokens_per_s().map(|speed| (speed * 1e3).clamp(0.0, 1e15) as i64);
    let success = 1.0 - offer.observed.failure_rate(now_us).clamp(0.0, 1.0);
    market::MarketOffer {
        fingerprint: offer.name,
        coefficient: number(state.coefficient),
        active: number(state.in_flight),
        limit: number(state.limit),
        abilities: (state.abilities & !TAKES_STREAMS).cast_signed(),
        first_byte_us: first_byte.map_or(-1, |time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX)),
        milli_tokens_per_s: speed.unwrap_or(-1),
        success_ppm: (success * 1e6).round() as i32,
        requests: i64::try_from(offer.observed.requests()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_granted_in_a_row_and_then_one_by_one() {
        let mut pages = Pages::new(Time(0));
        assert_eq!((0..100).filter(|_| pages.take(Time(0))).count(), 64);
        assert!(!pages.take(Time(249_999)));
        assert!(pages.take(Time(250_000)));
        assert!(!pages.take(Time(250_001)));
        assert_eq!((0..100).filter(|_| pages.take(Time(u64::MAX))).count(), 64);
    }
}
