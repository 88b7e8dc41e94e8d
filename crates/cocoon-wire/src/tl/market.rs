//! What is on offer at a proxy, and how its workers have done: part of extension set 1, see [`super::ext`].

use crate::codec::ByteStr;
use crate::macros::{tl_debug, tl_struct};

/// Offers in one [`Market`].
pub const MAX_OFFERS: usize = 4096;
/// One [`Market`] ends with the offer that reaches this many bytes.
pub const MAX_MARKET_BYTES: usize = 256 * 1024;

tl_struct! {
    /// `cocoon.marketOffer`: a worker that takes requests, or is full, as the proxy saw it.
    #[derive(Copy, Eq)]
    MarketOffer = 0x13c1_2522 {
        /// SHA-256 of the certificate (DER) that it showed.
        fingerprint: [u8; 32],
        /// Price in 1/1000 of the base price.
        coefficient: i32,
        /// Requests under way.
        active: i32,
        /// Most requests at a time.
        limit: i32,
        /// What it can do, one bit each.
        abilities: i32,
        /// Running average of the time to the first byte, in microseconds; -1 where nothing was measured.
        first_byte_us: i64,
        /// Running average of completion tokens per 1000 seconds of one answer; -1 where nothing was measured.
        milli_tokens_per_s: i64,
        /// Running share of requests that ended well, in millionths.
        success_ppm: i32,
        /// Requests that ended there.
        requests: i64,
    }
}

tl_struct! {
    /// `cocoon.marketModel`: a model's offers.
    #[derive(Eq)]
    MarketModel = 0x3569_20fe {
        /// Without `@...`.
        name: ByteStr,
        /// Of workers that the client allows.
        offers: Vec<MarketOffer>,
    }
}

tl_struct! {
    /// `cocoon.market`: what is on offer, at most [`MAX_OFFERS`] and about [`MAX_MARKET_BYTES`] of it.
    #[derive(Eq)]
    Market = 0x433e_ed0e {
        /// By name.
        models: Vec<MarketModel>,
        /// Whether there is more, from `next_model` and `next_index` on.
        more: bool,
        /// See [`GetMarket::model`].
        next_model: ByteStr,
        /// See [`GetMarket::index`].
        next_index: i32,
    }
}

tl_struct! {
    /// `cocoon.getMarket`: what is on offer?
    #[derive(Eq)]
    GetMarket = 0xafc6_d052 {
        /// Begins with this model, or the next by name. Empty at first.
        model: ByteStr,
        /// Workers of that model to leave out, because they were told already. 0 at first.
        index: i32,
    }
}
