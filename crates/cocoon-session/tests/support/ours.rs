//! Our own client and worker at the test's proxy.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_ledger::PeerCounters;
use cocoon_session::client::{ClientEvent, ClientSession, ClientSettings, Submission};
use cocoon_session::proxy::ConnId;
use cocoon_session::worker::{WorkerEvent, WorkerSession, WorkerSettings};
use cocoon_session::{Preference, Violation};

use super::{Net, attested, query};

/// A request that wishes nothing.
pub fn submission(id: u8) -> Submission {
    Submission {
        id: [id; 32],
        model: "test/model".into(),
        query: query(id).query,
        body: Bytes::new(),
        max_coefficient: 4000,
        max_tokens: 100,
        timeout: Duration::from_secs(60),
        enable_debug: false,
        needs: 0,
        preference: Preference::Balanced,
        affinity: Vec::new(),
        trace: None,
    }
}

/// Our client, and its connection.
pub struct OurClient {
    pub session: ClientSession,
    pub conn: ConnId,
    received: BytesMut,
}

impl OurClient {
    /// Nothing was said yet.
    pub fn dial(net: &mut Net, settings: ClientSettings) -> Self {
        let conn = net.open();
        net.proxy.add_client(conn, net.now);
        Self { session: ClientSession::new(settings, net.now, 1), conn, received: BytesMut::new() }
    }

    /// Lets both sides talk until nothing is left to say; what happened at the client. An error is either side's.
    pub fn talk(&mut self, net: &mut Net) -> Result<Vec<ClientEvent>, Violation> {
        let mut events = Vec::new();
        let mut quiet = false;
        while !std::mem::replace(&mut quiet, true) {
            while let Some(bytes) = self.session.transmit(1 << 20) {
                net.feed(self.conn, &bytes)?;
                quiet = false;
            }
            while let Some(bytes) = net.proxy.transmit(self.conn, 1 << 20) {
                self.received.extend_from_slice(&bytes);
                quiet = false;
            }
            self.session.receive(&mut self.received, net.now)?;
            events.extend(std::iter::from_fn(|| self.session.poll_event()));
        }
        Ok(events)
    }
}

/// Our worker, and its connection. It knows nothing of the proxy's counters.
pub struct OurWorker {
    pub session: WorkerSession,
    pub conn: ConnId,
    received: BytesMut,
}

impl OurWorker {
    /// Nothing was said yet.
    pub fn dial(net: &mut Net, settings: WorkerSettings) -> Self {
        let conn = net.open();
        net.proxy.add_worker(conn, attested(conn), net.now);
        Self { session: WorkerSession::new(settings, net.now, 1), conn, received: BytesMut::new() }
    }

    /// As [`OurClient::talk`].
    pub fn talk(&mut self, net: &mut Net) -> Result<Vec<WorkerEvent>, Violation> {
        let mut events = Vec::new();
        let mut quiet = false;
        while !std::mem::replace(&mut quiet, true) {
            while let Some(bytes) = self.session.transmit(1 << 20) {
                net.feed(self.conn, &bytes)?;
                quiet = false;
            }
            while let Some(bytes) = net.proxy.transmit(self.conn, 1 << 20) {
                self.received.extend_from_slice(&bytes);
                quiet = false;
            }
            self.session.receive(&mut self.received, net.now)?;
            while let Some(event) = self.session.poll_event() {
                if let WorkerEvent::Compare(_) = event {
                    self.session.compare(PeerCounters::default(), net.now)?;
                    quiet = false;
                }
                events.push(event);
            }
        }
        Ok(events)
    }
}
