//! The proof of work that opens a connection: the accepting side asks, the dialler computes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cocoon_wire::pow::{self, CHALLENGE_LEN, Challenge, SOLUTION_LEN, Solution};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{ConnectFailure, Stage};

const STAGE: Stage = Stage::ProofOfWork;

/// Reads the challenge, refuses one over `max_difficulty` bits, and answers it. Computes on a blocking thread,
/// which stops soon after this future is dropped.
pub(crate) async fn pay(tcp: &mut TcpStream, max_difficulty: u8) -> Result<(), ConnectFailure> {
    let mut bytes = [0; CHALLENGE_LEN];
    tcp.read_exact(&mut bytes).await.map_err(|error| ConnectFailure::from_io(STAGE, error))?;
    let challenge = Challenge::decode(&bytes).map_err(ConnectFailure::NotProofOfWork)?;
    let asked = challenge.difficulty();
    if asked > max_difficulty {
        return Err(ConnectFailure::DifficultyTooHigh { asked, max: max_difficulty });
    }
    let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let flag = Arc::clone(&stop.0);
    let nonce = tokio::task::spawn_blocking(move || pow::solve(&challenge, &flag))
        .await
        .ok()
        .flatten()
        .ok_or(ConnectFailure::Unsolved)?;
    let answer = Solution { nonce }.encode();
    tcp.write_all(&answer).await.map_err(|error| ConnectFailure::from_io(STAGE, error))
}

/// Asks for `difficulty` bits of work and checks the answer.
pub(crate) async fn charge(tcp: &mut TcpStream, difficulty: u8) -> Result<(), ConnectFailure> {
    let challenge = Challenge::new(difficulty, rand::random()).map_err(ConnectFailure::BadDifficulty)?;
    tcp.write_all(&challenge.encode()).await.map_err(|error| ConnectFailure::from_io(STAGE, error))?;
    let mut bytes = [0; SOLUTION_LEN];
    tcp.read_exact(&mut bytes).await.map_err(|error| ConnectFailure::from_io(STAGE, error))?;
    let solution = Solution::decode(&bytes).map_err(ConnectFailure::NotProofOfWork)?;
    if challenge.verify(&solution) { Ok(()) } else { Err(ConnectFailure::WrongProofOfWork) }
}

/// Ends the search when nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
