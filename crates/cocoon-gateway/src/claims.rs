//! What answers may have cost, beside what the proxy's notices say that they did.

use std::collections::{HashMap, VecDeque};

use cocoon_ledger::clamp_claim;
use cocoon_session::{ErrorCode, FinalInfo, RequestFailure};

use crate::answer::claim_of;

/// Requests whose notice is still to be compared with their claim.
const MAX_OPEN_CLAIMS: usize = 16_384;

/// What the end of an answer says about its cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    /// In adjusted tokens: the sum of the classes, whatever a worker calls the total.
    pub(crate) claimed: i64,
    /// The worker has nothing to add. Otherwise the proxy's notice may tell of anything up to what was reserved.
    pub(crate) last: bool,
}

impl Word {
    /// `early`: the proxy gave the worker up and answered in its place.
    pub(crate) fn completed(info: &FinalInfo, early: bool) -> Self {
        let claimed = clamp_claim(&claim_of(info)).total().to_wire();
        Self { claimed, last: !early || claimed > 0 }
    }

    /// Without `info` the proxy has said nothing: it is lost, or we gave the answer up. `ours`: the proxy is one of ours;
    /// it fails no request in this way but one whose answer has begun, and that has a notice.
    pub(crate) fn failed(failure: &RequestFailure, info: Option<&FinalInfo>, ours: bool) -> Self {
        let told = Self::completed(info.unwrap_or(&FinalInfo::default()), ours);
        Self { last: told.last && info.is_some() && failure.code != ErrorCode::TIMEOUT, ..told }
    }

    /// What the notice may charge for a request for which so much was reserved.
    pub(crate) fn at_most(self, reserved: i64) -> i64 {
        if self.last { self.claimed.min(reserved) } else { reserved }
    }
}

/// What is known of a request's cost from one side, until the other side is known, too: the end of its answer and the
/// proxy's notice come in either order.
#[derive(Debug, Clone, Copy)]
enum Half {
    AtMost(i64),
    Charged(i64),
}

/// Halves that wait for their other half.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    known: HashMap<[u8; 32], Half>,
    order: VecDeque<[u8; 32]>,
}

impl Claims {
    /// The answer has ended, and may have cost this much. A charge above that, where one is known already.
    pub(crate) fn expect(&mut self, request: [u8; 32], at_most: i64) -> Option<Overcharge> {
        match self.known.remove(&request) {
            Some(Half::Charged(charged)) => Overcharge::of(request, charged, at_most),
            _ => {
                self.keep(request, Half::AtMost(at_most));
                None
            }
        }
    }

    /// The proxy charged this much. Whether that is too much, where the answer has ended already.
    pub(crate) fn charge(&mut self, request: [u8; 32], charged: i64) -> Option<Overcharge> {
        match self.known.remove(&request) {
            Some(Half::AtMost(at_most)) => Overcharge::of(request, charged, at_most),
            _ => {
                self.keep(request, Half::Charged(charged));
                None
            }
        }
    }

    /// Requests whose answer has ended and whose notice has not come.
    pub(crate) fn unacknowledged(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.known.iter().filter(|(_, half)| matches!(half, Half::AtMost(_))).map(|(request, _)| request)
    }

    fn keep(&mut self, request: [u8; 32], half: Half) {
        while self.order.len() >= MAX_OPEN_CLAIMS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(request);
        self.known.insert(request, half);
    }
}

/// A request was charged more than it may have cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overcharge {
    pub(crate) request: [u8; 32],
    pub(crate) charged: i64,
    pub(crate) at_most: i64,
}

impl Overcharge {
    fn of(request: [u8; 32], charged: i64, at_most: i64) -> Option<Self> {
        (charged > at_most).then_some(Self { request, charged, at_most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_above_the_claim_is_seen_whichever_comes_first() {
        let mut claims = Claims::default();
        assert_eq!(claims.expect([1; 32], 10), None);
        assert_eq!(claims.charge([1; 32], 10), None);
        assert_eq!(claims.expect([2; 32], 10), None);
        let overcharge = Overcharge { request: [2; 32], charged: 11, at_most: 10 };
        assert_eq!(claims.charge([2; 32], 11), Some(overcharge));
        assert_eq!(claims.charge([3; 32], 11), None);
        assert_eq!(claims.expect([3; 32], 10).map(|found| found.charged), Some(11));
        assert!(claims.known.is_empty());
    }

    fn info(completion: i64, total: i64) -> FinalInfo {
        let mut info = FinalInfo::default();
        (info.tokens.completion_tokens_used, info.tokens.total_tokens_used) = (completion, total);
        info
    }

    #[test]
    fn a_claim_is_the_sum_of_its_classes_and_never_more_than_was_reserved() {
        let word = Word::completed(&info(15, i64::MAX), false);
        assert_eq!((word, word.at_most(100)), (Word { claimed: 15, last: true }, 15));
        assert_eq!(Word::completed(&info(i64::MAX, 1), false).at_most(100), 100);
    }

    #[test]
    fn a_word_is_the_last_where_the_worker_has_nothing_to_add() {
        let failure = |code| RequestFailure::new(code, "the client reads too slowly");
        let (error, timeout) = (failure(ErrorCode::ERROR), failure(ErrorCode::TIMEOUT));
        for (what, word, at_most) in [
            ("an answer", Word::completed(&info(0, 0), false), 0),
            ("a time-out that the proxy answers", Word::completed(&info(0, 0), true), 100),
            ("a time-out that the worker tells", Word::completed(&info(7, 7), true), 7),
            ("a published refusal", Word::failed(&error, Some(&info(0, 0)), false), 0),
            ("an answer that our proxy breaks off", Word::failed(&error, Some(&info(0, 0)), true), 100),
            ("an answer that its worker breaks off", Word::failed(&error, Some(&info(7, 7)), true), 7),
            ("a published time-out", Word::failed(&timeout, Some(&info(7, 7)), false), 100),
            ("what we gave up ourselves", Word::failed(&error, None, false), 100),
        ] {
            assert_eq!(word.at_most(100), at_most, "{what}");
        }
    }

    #[test]
    fn a_request_is_unacknowledged_from_its_end_to_its_notice() {
        let mut claims = Claims::default();
        claims.expect([1; 32], 10);
        claims.charge([2; 32], 10);
        assert_eq!(claims.unacknowledged().collect::<Vec<_>>(), [&[1; 32]]);
        claims.charge([1; 32], 10);
        assert_eq!(claims.unacknowledged().count(), 0);
    }

    #[test]
    fn what_never_gets_its_other_half_is_forgotten() {
        let mut claims = Claims::default();
        for number in 0..=MAX_OPEN_CLAIMS as u64 {
            let mut request = [0; 32];
            request[..8].copy_from_slice(&number.to_le_bytes());
            claims.expect(request, 1);
        }
        assert_eq!((claims.known.len(), claims.order.len()), (MAX_OPEN_CLAIMS, MAX_OPEN_CLAIMS));
        assert_eq!(claims.charge([0; 32], 9), None);
    }
}
