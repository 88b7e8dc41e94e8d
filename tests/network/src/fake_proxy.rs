//! A proxy that says what a test wants.

use std::net::SocketAddr;

use cocoon_attest::Policy;
use cocoon_net::{AcceptOptions, Listener, ListenerOptions, SecureStream, TlsSettings};
use cocoon_ton::contracts::{client_address, proxy_address, worker_address};
use cocoon_ton::payment::{OrderKind, PaymentOrder};
use cocoon_ton::{Address, RootConfig};
use cocoon_wire::codec::{Message, from_boxed, to_boxed};
use cocoon_wire::tl::proxy::{self, SignedPayment};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ClientQuery, WorkerQuery, client, worker};
use ed25519_dalek::SigningKey;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::network::{local, root, tls, wallet};
use crate::raw::{MODEL, RawPeer};
use crate::within;

/// Listens like a proxy; every connection is the test's to answer.
pub struct FakeProxy {
    pub address: SocketAddr,
    pub key: SigningKey,
    connections: mpsc::Receiver<SecureStream>,
    _accepting: AbortOnDropHandle<()>,
}

impl FakeProxy {
    /// Listens.
    pub async fn start() -> Self {
        Self::showing(tls("none", Policy::any())).await
    }

    /// Listens, and shows something else.
    pub async fn showing(tls: TlsSettings) -> Self {
        let accept = AcceptOptions { difficulty: 0, ..AcceptOptions::default() };
        let options = ListenerOptions { accept, ..ListenerOptions::default() };
        let listener = Listener::bind(&local().to_string(), tls, options).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, connections) = mpsc::channel(16);
        let accepting = AbortOnDropHandle::new(tokio::spawn(listener.run(sender)));
        Self { address, key: SigningKey::from_bytes(&[9; 32]), connections, _accepting: accepting }
    }

    /// Our own contract.
    pub fn contract(&self) -> Address {
        let key = self.key.verifying_key().to_bytes();
        proxy_address(&root().params, &wallet(2), &wallet(1), &key).unwrap()
    }

    /// What an honest proxy says of itself.
    pub fn params(&self) -> proxy::Params {
        proxy::Params {
            ext_flags: 0,
            proxy_public_key: self.key.verifying_key().to_bytes(),
            proxy_owner_address: wallet(1).to_wire_string(false).into(),
            proxy_sc_address: self.contract().to_wire_string(false).into(),
            is_test: Some(true),
            proto_version: Some(2),
        }
    }

    /// The contract of worker `number`.
    pub fn worker_contract(&self, number: u8) -> Address {
        self.pair(|root, proxy, key| worker_address(&root.params, &wallet(100 + number), proxy, key).unwrap())
    }

    /// The contract of the client with this wallet.
    pub fn client_contract(&self, owner: &Address) -> Address {
        self.pair(|root, proxy, key| client_address(&root.params, owner, proxy, key).unwrap())
    }

    fn pair(&self, pair: impl FnOnce(&RootConfig, &Address, &[u8; 32]) -> Address) -> Address {
        pair(&root(), &self.contract(), &self.key.verifying_key().to_bytes())
    }

    /// An order to pay worker `number`, signed with `key`.
    pub fn order(&self, number: u8, tokens: u64, key: &SigningKey) -> SignedPayment {
        let contract = self.worker_contract(number);
        let order = PaymentOrder {
            kind: OrderKind::PayWorker,
            contract,
            query_id: tokens,
            tokens,
            excesses_to: wallet(3),
        };
        SignedPayment::Signed { data: order.sign(key).to_boc().into() }
    }

    /// Takes no more connections; gives those that came and were never answered.
    pub async fn hang_up(self) -> Vec<RawPeer> {
        let Self { mut connections, _accepting: accepting, .. } = self;
        drop(accepting);
        let mut peers = Vec::new();
        while let Some(stream) = within("the listener to end", connections.recv()).await {
            peers.push(RawPeer::over(stream));
        }
        peers
    }

    /// The next connection, opened.
    pub async fn accept(&mut self) -> RawPeer {
        let stream = within("a connection", self.connections.recv()).await.unwrap();
        let mut peer = RawPeer::over(stream);
        let Some(Packet::Connect { id }) = peer.recv().await else { panic!("no opening") };
        peer.send(&Packet::Connected { id }).await;
        peer
    }

    /// Lets a worker connect, with these params; it compares balances next.
    pub async fn greet(&mut self, number: u8, params: proxy::Params) -> RawPeer {
        let mut peer = self.accept().await;
        let (id, query) = worker_query(&mut peer).await.unwrap();
        assert!(matches!(query, WorkerQuery::ConnectToProxy(_)));
        let worker_sc_address = self.worker_contract(number).to_wire_string(false).into();
        answer(&mut peer, id, &worker::ConnectedToProxy { params, worker_sc_address }).await;
        peer
    }

    /// Answers the comparison of balances with these counters. Returns what the worker said it knows at most, or `None`
    /// where the worker went away.
    pub async fn compare(peer: &mut RawPeer, db: i64, max: i64, signed: SignedPayment) -> Option<i64> {
        let (id, query) = worker_query(peer).await?;
        let WorkerQuery::CompareBalanceWithProxy(compare) = query else { panic!("{query:?}") };
        let result = worker::CompareBalanceWithProxyResult {
            signed_payment: signed,
            tokens_committed_to_db: db,
            max_tokens: max,
            error_code: 0,
        };
        answer(peer, id, &result).await;
        Some(compare.max_tokens)
    }

    /// Finishes a worker's handshake; `false` where the worker went away.
    pub async fn complete(peer: &mut RawPeer) -> bool {
        let Some((id, query)) = worker_query(peer).await else { return false };
        assert!(matches!(query, WorkerQuery::ProxyHandshakeComplete(_)), "{query:?}");
        answer(peer, id, &worker::ProxyHandshakeCompleted {}).await;
        true
    }

    /// A worker that is ready, and was shown these counters.
    pub async fn ready(&mut self, number: u8, db: i64, max: i64) -> RawPeer {
        let mut peer = self.greet(number, self.params()).await;
        let order = self.order(number, db.cast_unsigned(), &self.key.clone());
        Self::compare(&mut peer, db, max, order).await.expect("the worker compares");
        assert!(Self::complete(&mut peer).await, "the worker completes its handshake");
        peer
    }
}

impl FakeProxy {
    /// An order to charge the client of this wallet, signed with `key`.
    pub fn charge(&self, owner: &Address, tokens: u64, key: &SigningKey) -> SignedPayment {
        let contract = self.client_contract(owner);
        let order = PaymentOrder {
            kind: OrderKind::ChargeClient,
            contract,
            query_id: tokens,
            tokens,
            excesses_to: wallet(3),
        };
        SignedPayment::Signed { data: order.sign(key).to_boc().into() }
    }

    /// Lets a client connect, with these params; it authorises itself next.
    pub async fn greet_client(&mut self, owner: &Address, params: proxy::Params) -> RawPeer {
        let mut peer = self.accept().await;
        let (id, query) = client_query(&mut peer).await.unwrap();
        assert!(matches!(query, ClientQuery::ConnectToProxy(_)));
        let answered = client::ConnectedToProxy {
            params,
            client_sc_address: self.client_contract(owner).to_wire_string(false).into(),
            auth: client::ProxyConnectionAuth::Short {
                secret_hash: cocoon_chain::TestModeClient::default().secret_hash,
                nonce: 1,
            },
            signed_payment: SignedPayment::Empty,
        };
        answer(&mut peer, id, &answered).await;
        peer
    }

    /// Lets it in with these counters; `false` where it went away.
    pub async fn let_in(peer: &mut RawPeer, db: i64, max: i64, signed_payment: SignedPayment) -> bool {
        let Some((id, query)) = client_query(peer).await else { return false };
        assert!(matches!(query, ClientQuery::AuthorizeWithProxyShort(_)), "{query:?}");
        let success = client::AuthorizationWithProxy::Success {
            signed_payment,
            tokens_committed_to_db: db,
            max_tokens: max,
        };
        answer(peer, id, &success).await;
        true
    }

    /// A client that is ready, was shown these counters, and knows of one worker.
    pub async fn ready_client(&mut self, owner: &Address, db: i64, max: i64) -> RawPeer {
        let params = self.params();
        let mut peer = self.greet_client(owner, params).await;
        let order = self.charge(owner, db.cast_unsigned(), &self.key.clone());
        assert!(Self::let_in(&mut peer, db, max, order).await, "the client authorises itself");
        peer
    }

    /// The next request of a client, whose questions about offers are answered meanwhile; `None` where it went away.
    pub async fn request(peer: &mut RawPeer) -> Option<client::RunQueryEx> {
        loop {
            match peer.recv().await? {
                Packet::Query { id, data } => {
                    let query: ClientQuery = from_boxed(data).unwrap();
                    assert!(matches!(query, ClientQuery::GetWorkerTypesV2(_)), "{query:?}");
                    let worker = client::WorkerInstanceV2 {
                        flags: 0,
                        coefficient: 1000,
                        active_requests: 0,
                        max_active_requests: 10,
                    };
                    let model = client::WorkerTypeV2 { name: MODEL.to_owned().into(), workers: vec![worker] };
                    answer(peer, id, &client::WorkerTypesV2 { types: vec![model] }).await;
                }
                Packet::Packet { data } => return Some(from_boxed(data).unwrap()),
                _ => {}
            }
        }
    }
}

async fn client_query(peer: &mut RawPeer) -> Option<(i64, ClientQuery)> {
    loop {
        if let Packet::Query { id, data } = peer.recv().await? {
            return Some((id, from_boxed(data).unwrap()));
        }
    }
}

async fn worker_query(peer: &mut RawPeer) -> Option<(i64, WorkerQuery)> {
    loop {
        if let Packet::Query { id, data } = peer.recv().await? {
            return Some((id, from_boxed(data).unwrap()));
        }
    }
}

async fn answer(peer: &mut RawPeer, id: i64, message: &impl Message) {
    peer.send(&Packet::QueryAnswer { id, data: to_boxed(message) }).await;
}
