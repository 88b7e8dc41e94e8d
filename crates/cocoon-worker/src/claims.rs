//! What was claimed of a proxy for requests, until it says what it credits.

use std::collections::{HashMap, VecDeque};

/// Claims that are kept: the newest. Of older ones nobody looks any more whether they are credited in full.
const MAX_CLAIMS: usize = 16_384;

/// The claims on one connection, in adjusted tokens.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    open: HashMap<[u8; 32], u64>,
    /// In the order in which they came, credited ones among them.
    order: VecDeque<[u8; 32]>,
}

impl Claims {
    /// So much was claimed for a request.
    pub(crate) fn note(&mut self, request: [u8; 32], tokens: u64) {
        if tokens == 0 {
            return;
        }
        self.open.insert(request, tokens);
        self.order.push_back(request);
        if self.order.len() > MAX_CLAIMS
            && let Some(oldest) = self.order.pop_front()
        {
            self.open.remove(&oldest);
        }
    }

    /// The proxy credits so much for a request: what is missing to the claim, where something is.
    pub(crate) fn credit(&mut self, request: &[u8; 32], tokens: i64) -> Option<u64> {
        let claimed = self.open.remove(request)?;
        let missing = claimed.saturating_sub(u64::try_from(tokens).unwrap_or(0));
        (missing > 0).then_some(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_credited_below_the_claim_is_seen_once() {
        let mut claims = Claims::default();
        for id in 1..=4 {
            claims.note([id; 32], 100);
        }
        claims.note([5; 32], 0);
        assert_eq!(claims.credit(&[1; 32], 100), None);
        assert_eq!(claims.credit(&[2; 32], 99), Some(1));
        assert_eq!(claims.credit(&[2; 32], 0), None, "that was said");
        assert_eq!(claims.credit(&[3; 32], -5), Some(100));
        assert_eq!(claims.credit(&[4; 32], 200), None);
        assert_eq!(claims.credit(&[5; 32], 0), None, "nothing was claimed");
        assert_eq!(claims.credit(&[9; 32], 0), None, "whoever that was");
    }

    #[test]
    fn a_proxy_that_credits_nothing_costs_no_memory_without_end() {
        let mut claims = Claims::default();
        for number in 0..2 * MAX_CLAIMS {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            claims.note(id, 1);
        }
        assert_eq!((claims.open.len(), claims.order.len()), (MAX_CLAIMS, MAX_CLAIMS));
    }
}
