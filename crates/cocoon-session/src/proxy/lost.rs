//! Workers that fall silent or go away, and what becomes of the requests that they have.

use super::blame::Outcome;
use super::last_word::LastWord;
use super::request::Phase;
use super::{ConnId, Proxy, RequestKey};
use crate::{ErrorCode, RequestFailure, Time};

impl Proxy {
    /// A worker stays silent: what it has not begun goes to others.
    pub(super) fn retry_unanswered(&mut self, conn: ConnId, now: Time) {
        let Some(worker) = self.worker(conn) else { return };
        let keys: Vec<_> = worker.work.values().copied().collect();
        for key in keys {
            let Some(request) = self.requests.get(&key) else { continue };
            if request.phase == Phase::Asked && !request.can_begin_again() {
                // Its sender can give it to the other one.
                if self.other_worker(request).is_ok() {
                    self.market.ended(conn, true, now.0);
                    self.note_resend(key);
                    self.give_up(
                        key,
                        RequestFailure::new(ErrorCode::NOT_READY, "the worker fell silent"),
                        now,
                    );
                }
            } else if request.phase == Phase::Asked {
                let attempt = request.attempt;
                if self.retry(key, Outcome::Failed, now) {
                    self.cancel(conn, attempt);
                }
            }
        }
    }

    /// A worker that answers not even the proxy's own questions will not go on with what it has begun: whoever waits for that
    /// hears so now, not at the end of its time.
    pub(super) fn end_broken_off(&mut self, conn: ConnId, now: Time) {
        let Some(worker) = self.worker(conn) else { return };
        let begun = |key: &RequestKey| self.requests.get(key).is_some_and(|it| it.phase == Phase::Answering);
        let keys: Vec<_> = worker.work.values().copied().filter(begun).collect();
        for key in keys {
            self.market.ended(conn, true, now.0);
            let failure = RequestFailure::new(ErrorCode::ERROR, "the worker fell silent in its answer");
            self.give_up(key, failure, now);
        }
    }

    /// A worker's connection is gone.
    pub(super) fn worker_lost(&mut self, key: RequestKey, now: Time) {
        let Some(request) = self.requests.get(&key) else { return };
        if request.phase == Phase::Asked && self.retry(key, Outcome::Failed, now) {
            return;
        }
        self.note_resend(key);
        let failure = RequestFailure::new(ErrorCode::NOT_READY, "the worker went away");
        self.finish(key, Some(failure), Outcome::Failed, LastWord::none(), now);
    }
}
