//! What one client takes of the proxy, over all its connections: whoever has an account may open many, so a limit per
//! connection would be none.

use std::collections::BTreeMap;
use std::time::Duration;

use cocoon_ledger::ClientId;
use cocoon_wire::tl::http;

use super::last_word::LastWord;
use super::reply::final_info;
use super::{ConnId, End, Peer, Proxy};
use crate::outbox::Outbox;
use crate::{ErrorCode, RequestFailure, Time, Violation};

/// Bytes of answers that wait to be read, all clients together. Beyond it the one that hoards the most loses a connection.
pub const MAX_ANSWER_BYTES_HELD: usize = 1 << 30;
/// What is complete and still not read after this long is given up, at the latest after twice as long.
pub const UNREAD_TIME: Duration = Duration::from_secs(300);

/// Answers on their way out of one connection.
pub(super) type Answers = Outbox<[u8; 32], http::Response, End>;

/// What one client takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// Requests of which the worker's last word has not come.
    pub(super) requests: usize,
    /// What is held of them, in bytes.
    pub(super) held: usize,
    /// Answers that are not all out.
    pub(super) answers: usize,
    /// Bytes of them that wait.
    pub(super) queued: usize,
}

/// What all clients take.
#[derive(Debug)]
pub(super) struct Shares {
    /// Of those that take anything.
    of: BTreeMap<ClientId, Share>,
    /// Bytes of answers that wait, all together.
    queued: usize,
    max_queued: usize,
    next_sweep: Time,
}

impl Default for Shares {
    fn default() -> Self {
        Self { of: BTreeMap::new(), queued: 0, max_queued: MAX_ANSWER_BYTES_HELD, next_sweep: Time(0) }
    }
}

impl Shares {
    pub(super) fn of(&self, account: ClientId) -> Share {
        self.of.get(&account).copied().unwrap_or_default()
    }

    pub(super) fn change(&mut self, account: ClientId, change: impl FnOnce(&mut Share)) {
        let share = self.of.entry(account).or_default();
        change(share);
        if *share == Share::default() {
            self.of.remove(&account);
        }
    }
}

impl Proxy {
    /// Holds so many bytes of answers that wait to be read instead of [`MAX_ANSWER_BYTES_HELD`].
    pub fn limit_answers(&mut self, bytes: usize) {
        self.shares.max_queued = bytes;
    }

    /// Changes the answers that wait for a client, and keeps account of them.
    pub(super) fn change_answers<R>(
        &mut self,
        conn: ConnId,
        change: impl FnOnce(&mut Answers) -> R,
    ) -> Option<R> {
        let client = self.client_mut(conn)?;
        let count = |answers: &Answers| (answers.open_answers(), answers.total_queued());
        let (account, before) = (client.account, count(&client.outbox));
        let result = change(&mut client.outbox);
        let after = count(&client.outbox);
        if before != after {
            self.shares.queued = self.shares.queued + after.1 - before.1;
            self.shares.change(account, |share| {
                share.answers = share.answers + after.0 - before.0;
                share.queued = share.queued + after.1 - before.1;
            });
        }
        Some(result)
    }

    /// Where too much waits to be read, closes a connection of whoever has the most: one that hoards must not cost others
    /// their answers.
    pub(super) fn end_hoarding(&mut self) {
        if self.shares.queued <= self.shares.max_queued {
            return;
        }
        let most = self.shares.of.iter().max_by_key(|(_, share)| share.queued);
        let Some(hoarder) = most.map(|(account, _)| *account) else { return };
        let its = self.conns.iter().filter_map(|(id, conn)| match &conn.peer {
            Peer::Client(client) if client.account == hoarder => Some((client.outbox.total_queued(), *id)),
            _ => None,
        });
        let Some((bytes, conn)) = its.max() else { return };
        self.doomed.insert(conn, Violation::NotReading(bytes));
        self.change_answers(conn, |answers| *answers = Outbox::new(false));
    }

    /// Gives up what is complete and has not been read for long: nothing else would ever end it.
    pub(super) fn give_up_unread(&mut self, now: Time) {
        if now < self.shares.next_sweep {
            return;
        }
        self.shares.next_sweep = now.plus(UNREAD_TIME);
        let mut unread = Vec::new();
        for (&conn, state) in &mut self.conns {
            if let Peer::Client(client) = &mut state.peer {
                let version = client.proto_version;
                unread.extend(client.outbox.sweep().into_iter().map(|request| (conn, request, version)));
            }
        }
        for (conn, request, version) in unread {
            let failure = RequestFailure::new(ErrorCode::ERROR, "the answer was not read in time");
            let info = final_info(&LastWord::none(), version, false, now, now);
            self.change_answers(conn, |answers| {
                answers.discard_data(request);
                answers.end(request, End::Failed(failure, info));
            });
            self.woken.insert(conn);
        }
    }
}
