//! What answers may have cost, beside what the proxy's notices say that they did.

use std::collections::{HashMap, VecDeque};

/// Requests whose notice is still to be compared with their claim.
const MAX_OPEN_CLAIMS: usize = 16_384;

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
