//! What the end of a request says about its worker. No caller can make a worker look bad by what it asks or by how it
//! goes about it, and no worker looks good by doing nothing.

use cocoon_wire::codec::from_boxed;
use cocoon_wire::tl::http;

use super::request::{Phase, Request};
use super::upload::Upload;
use super::{BLAME_AFTER, Proxy, RequestKey};
use crate::{ErrorCode, Time, ability};

/// What a worker says that has as many requests as it takes; published ones give no code of its own for it.
const NO_ROOM: &str = "too many active queries";
/// How a published worker begins to say what is wrong with a request.
const BAD_REQUEST: &str = "worker: invalid http request: ";

/// How a request ended for its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It served the request.
    Served,
    /// It is to blame that the request was not served.
    Failed,
    /// It had no room for the request.
    NoRoom,
    /// Nothing: the request itself was at fault, or its caller.
    Nothing,
}

/// Whether a worker finds fault with the request itself, which would fail elsewhere, too.
pub(super) fn blames_request(code: ErrorCode, words: &str) -> bool {
    code == ErrorCode::PROTOCOL || words.starts_with(BAD_REQUEST)
}

impl Request {
    /// Whether there is nothing in it but the model that an engine might not find: other endpoints take names of files,
    /// voices and earlier answers.
    fn names_a_model_only(&self, abilities: u32) -> bool {
        let Ok(request) = from_boxed::<http::Request>(self.query.clone()) else { return false };
        let needed = match request.url.as_bytes() {
            b"/v1/chat/completions" => ability::CHAT,
            b"/v1/completions" => ability::COMPLETIONS,
            _ => return false,
        };
        request.method.as_bytes() == b"POST" && abilities & needed != 0
    }

    /// Whether so much of its time is over that its worker, which was given a little less, may have run out of it.
    fn is_about_over(&self, now: Time) -> bool {
        self.deadline.since(now) * 10 <= self.deadline.since(self.started)
    }
}

impl Proxy {
    /// What a complete answer says about its worker.
    pub(super) fn outcome_of_answer(&self, request: &Request) -> Outcome {
        self.outcome_of_status(request, request.begun.map_or(0, |begun| begun.status))
    }

    fn outcome_of_status(&self, request: &Request, status: i32) -> Outcome {
        let abilities = self.worker(request.worker).map_or(0, |worker| worker.abilities);
        match status {
            200..=299 => Outcome::Served,
            // A caller's own credentials go no further than its gateway, so these are between a worker and its engine.
            401..=403 | 429 => Outcome::Failed,
            404 if request.names_a_model_only(abilities) => Outcome::Failed,
            400..=499 => Outcome::Nothing,
            // An engine's own failure passes as it is, and counts as one.
            _ => Outcome::Failed,
        }
    }

    /// What an error says about the worker that sent it.
    pub(super) fn outcome_of_error(
        &self,
        request: &Request,
        code: ErrorCode,
        words: &str,
        now: Time,
    ) -> Outcome {
        let asked = request.phase == Phase::Asked;
        match code {
            _ if asked && blames_request(code, words) => Outcome::Nothing,
            _ if asked && (code == ErrorCode::NOT_READY || words == NO_ROOM) => Outcome::NoRoom,
            ErrorCode::TIMEOUT if request.is_about_over(now) && !self.is_stuck(request, now) => {
                Outcome::Nothing
            }
            _ => Outcome::Failed,
        }
    }

    /// A worker answers with this status: whether another one was asked because of it, see [`Self::hear_another`].
    pub(super) fn doubt_status(&mut self, key: RequestKey, status: i32, now: Time) -> bool {
        let Some(request) = self.requests.get(&key) else { return false };
        self.outcome_of_status(request, status) == Outcome::Nothing && self.hear_another(key, now)
    }

    /// A worker finds fault with a request. Where it did so with the one before, too, and served none since, it may be one
    /// that nobody can please: another worker is asked. What that one says counts, and where it serves the request, the
    /// first gets none for a moment, as if it were full. That is all, because callers choose what they send, and one worker
    /// may be able to do what another one is not. `false` where nobody else is asked.
    pub(super) fn hear_another(&mut self, key: RequestKey, now: Time) -> bool {
        let Some(request) = self.requests.get(&key) else { return false };
        let (conn, attempt, heard) = (request.worker, request.attempt, request.faulted_by.is_some());
        let Some(worker) = self.worker_mut(conn) else { return false };
        let again = std::mem::replace(&mut worker.finds_fault, true);
        if heard || !again || !self.retry(key, Outcome::Nothing, now) {
            return false;
        }
        if let Some(request) = self.requests.get_mut(&key) {
            request.faulted_by = Some(conn);
        }
        // Nobody takes what it has still to say.
        self.cancel(conn, attempt);
        true
    }

    /// Whether a request waits for nobody but its worker, and has for so long that the worker is to blame if its time is up.
    pub(super) fn is_stuck(&self, request: &Request, now: Time) -> bool {
        let unread = self
            .client(request.client)
            .is_some_and(|client| client.outbox.queued(request.client_request) > 0);
        let sent = request.upload.as_ref().is_none_or(Upload::waits_for_worker);
        sent && !unread && now.since(request.moved) >= BLAME_AFTER
    }
}
