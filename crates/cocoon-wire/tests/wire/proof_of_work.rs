//! Proof of work against answers that were computed independently.

use std::sync::atomic::AtomicBool;

use cocoon_wire::pow::{Challenge, DEFAULT_DIFFICULTY, PowError, Solution, solve};
use proptest::prelude::*;
use serde_json::Value;

const POW: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/pow.json"));

fn bytes<const N: usize>(entry: &Value, field: &str) -> [u8; N] {
    hex::decode(entry[field].as_str().unwrap()).unwrap().try_into().unwrap()
}

#[test]
fn every_known_challenge_is_solved_by_its_smallest_nonce() {
    let entries: Vec<Value> = serde_json::from_str(POW).unwrap();
    assert_eq!(entries.len(), 6);
    for entry in &entries {
        let challenge = Challenge::decode(&bytes(entry, "challenge_hex")).unwrap();
        let solution = Solution::decode(&bytes(entry, "response_hex")).unwrap();
        let smallest = entry["smallest_nonce"].as_i64().unwrap();
        assert_eq!(u64::from(challenge.difficulty()), entry["difficulty"].as_u64().unwrap());
        assert_eq!(challenge.encode(), bytes(entry, "challenge_hex"));
        assert_eq!(solution.encode(), bytes(entry, "response_hex"));
        assert_eq!(solution.nonce, smallest);
        assert!(challenge.verify(&solution));
        assert_eq!(solve(&challenge, &AtomicBool::new(false)), Some(smallest));
        assert!(challenge.difficulty() == 0 || !challenge.verify(&Solution { nonce: smallest + 1 }));
    }
    let hardest = entries.last().unwrap()["difficulty"].as_u64();
    assert_eq!(hardest, Some(DEFAULT_DIFFICULTY.into()));
}

#[test]
fn the_search_ends_when_it_is_told_to() {
    let hopeless = Challenge::new(64, [7; 16]).unwrap();
    assert_eq!(solve(&hopeless, &AtomicBool::new(true)), None);
}

#[test]
fn a_difficulty_without_meaning_is_refused() {
    let with = |difficulty: i32| {
        let mut sent = Challenge::new(0, [7; 16]).unwrap().encode();
        sent[4..8].copy_from_slice(&difficulty.to_le_bytes());
        Challenge::decode(&sent).map(|challenge| challenge.difficulty())
    };
    assert_eq!(with(0), Ok(0));
    assert_eq!(with(64), Ok(64));
    for bad in [-1, 65, 256, i32::MIN, i32::MAX] {
        assert_eq!(with(bad), Err(PowError::BadDifficulty(bad)));
    }
    assert_eq!(Challenge::new(65, [0; 16]), Err(PowError::BadDifficulty(65)));
}

#[test]
fn another_protocol_is_told_from_proof_of_work() {
    assert_eq!(Challenge::decode(&[0x16; 24]), Err(PowError::BadMagic(0x1616_1616)));
    assert_eq!(Solution::decode(&[0; 12]), Err(PowError::BadMagic(0)));
}

proptest! {
    #[test]
    fn what_is_solved_is_verified(difficulty in 0_u8..10, salt: [u8; 16]) {
        let challenge = Challenge::new(difficulty, salt).unwrap();
        prop_assert_eq!(Challenge::decode(&challenge.encode()), Ok(challenge));
        let nonce = solve(&challenge, &AtomicBool::new(false)).unwrap();
        let solution = Solution { nonce };
        prop_assert_eq!(Solution::decode(&solution.encode()), Ok(solution));
        prop_assert!(challenge.verify(&solution));
        let smallest = (0..nonce).all(|smaller| !challenge.verify(&Solution { nonce: smaller }));
        prop_assert!(smallest, "no smaller nonce solves it");
    }
}
