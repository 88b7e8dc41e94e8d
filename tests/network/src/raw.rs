//! A peer that sends what a test wants, frame by frame or byte by byte.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_attest::Policy;
use cocoon_net::{DialOptions, SecureStream, dial};
use cocoon_wire::codec::{ByteStr, Message, from_boxed, to_boxed};
use cocoon_wire::frame::{FrameDecoder, FrameEncoder, MAX_FRAME_PAYLOAD};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ProtoRange, client, ext, http, worker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::network::{SECRET, tls, wallet};
use crate::within;

/// The model of every test.
pub const MODEL: &str = "test/model";

/// One connection, on which nothing is sent that the test does not say.
pub struct RawPeer {
    pub stream: SecureStream,
    pub local: SocketAddr,
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    received: BytesMut,
    heard: Vec<u8>,
}

impl RawPeer {
    /// Does the proof of work and TLS, and nothing more.
    pub async fn dial(address: SocketAddr) -> Self {
        let tls = tls("none", Policy::any());
        let options = DialOptions { max_difficulty: 8, timeout: Duration::from_secs(10) };
        Self::over(dial(&address.to_string(), &tls, &options).await.unwrap())
    }

    /// Speaks over a connection that is up.
    pub fn over(stream: SecureStream) -> Self {
        Self {
            local: stream.io.local_addr().unwrap(),
            stream,
            encoder: FrameEncoder::new(),
            decoder: FrameDecoder::new(MAX_FRAME_PAYLOAD),
            received: BytesMut::new(),
            heard: Vec::new(),
        }
    }

    /// Dials, and does the opening exchange.
    pub async fn open(address: SocketAddr) -> Self {
        let mut peer = Self::dial(address).await;
        peer.send(&Packet::Connect { id: 5 }).await;
        assert!(matches!(peer.recv().await, Some(Packet::Connected { id: 5 })));
        peer
    }

    /// Sends bytes as they are. Whether they arrive is another matter.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.io.write_all(bytes).await;
        let _ = self.stream.io.flush().await;
    }

    /// Sends a frame with this payload.
    pub async fn send_payload(&mut self, payload: &[u8]) {
        let mut out = BytesMut::new();
        self.encoder.encode(&mut out, payload.len(), |out| out.extend_from_slice(payload)).unwrap();
        self.send_bytes(&out).await;
    }

    /// Sends a frame.
    pub async fn send(&mut self, packet: &Packet) {
        self.send_payload(&to_boxed(packet)).await;
    }

    /// Sends a one-way message.
    pub async fn packet(&mut self, message: &impl Message) {
        self.send(&Packet::Packet { data: to_boxed(message) }).await;
    }

    /// The next frame, pings answered; `None` once the connection is closed.
    pub async fn recv(&mut self) -> Option<Packet> {
        within("a frame or the end", self.recv_patiently()).await
    }

    /// The same, however long it takes.
    pub async fn recv_patiently(&mut self) -> Option<Packet> {
        loop {
            if let Some(payload) = self.decoder.decode(&mut self.received).unwrap() {
                match from_boxed(payload).unwrap() {
                    Packet::Ping { id } => self.send(&Packet::Pong { id }).await,
                    packet => return Some(packet),
                }
            } else if !self.read().await {
                return None;
            }
        }
    }

    /// Reads what is there; `false` at the end.
    async fn read(&mut self) -> bool {
        let before = self.received.len();
        let more = matches!(self.stream.io.read_buf(&mut self.received).await, Ok(1..));
        self.heard.extend_from_slice(&self.received[before..]);
        more
    }

    /// Every byte that came since the handshake, decrypted, once the peer has closed. Nothing is answered on the way.
    pub async fn heard(mut self) -> Vec<u8> {
        within("the end of the connection", async { while self.read().await {} }).await;
        self.heard
    }

    /// The next one-way message of this type; others are passed over.
    ///
    /// # Panics
    /// The connection ends before.
    pub async fn recv_message<M: Message>(&mut self) -> M {
        loop {
            if let Packet::Packet { data } = self.recv().await.expect("a message, not the end")
                && let Ok(message) = from_boxed(data)
            {
                return message;
            }
        }
    }

    /// Reads to the end.
    pub async fn closed(&mut self) {
        while self.recv().await.is_some() {}
    }

    /// Asks; the refusal's words where refused.
    ///
    /// # Errors
    /// The peer refuses.
    pub async fn query<A: Message>(&mut self, message: &impl Message) -> Result<A, String> {
        let id = rand::random();
        self.send(&Packet::Query { id, data: to_boxed(message) }).await;
        loop {
            match self.recv().await {
                Some(Packet::QueryAnswer { id: of, data }) if of == id => {
                    return Ok(from_boxed(data).unwrap());
                }
                Some(Packet::QueryError { id: of, message, .. }) if of == id => {
                    return Err(message.to_lossy().into_owned());
                }
                Some(_) => {}
                None => return Err("closed".into()),
            }
        }
    }
}

/// What an ordinary worker says of itself.
pub fn worker_params(number: u8, coefficient: i32) -> worker::Params {
    worker::Params {
        ext_flags: ext::EXT_V1,
        worker_owner_address: wallet(100 + number).to_wire_string(false).into(),
        model: MODEL.to_owned().into(),
        coefficient,
        limits: Some(worker::Limits { is_test: true, proxy_cnt: 1, max_active_requests: 10 }),
        proto: Some(ProtoRange { min: 1, max: 2 }),
    }
}

/// A worker that did its handshake, and from then on does what the test says.
pub async fn ready_worker(proxy: SocketAddr, params: worker::Params) -> RawPeer {
    let mut peer = RawPeer::open(proxy).await;
    shake_hands(&mut peer, params).await;
    peer
}

/// The same over a connection that is up.
pub async fn ready_worker_over(stream: SecureStream, params: worker::Params) -> RawPeer {
    let mut peer = RawPeer::over(stream);
    peer.send(&Packet::Connect { id: 5 }).await;
    assert!(matches!(peer.recv().await, Some(Packet::Connected { id: 5 })));
    shake_hands(&mut peer, params).await;
    peer
}

async fn shake_hands(peer: &mut RawPeer, params: worker::Params) {
    let _: worker::ConnectedToProxy = peer.query(&worker::ConnectToProxy { params }).await.unwrap();
    let compare = worker::CompareBalanceWithProxy {
        tokens_committed_to_blockchain: 0,
        tokens_committed_to_db: 0,
        max_tokens: 0,
    };
    let _: worker::CompareBalanceWithProxyResult = peer.query(&compare).await.unwrap();
    let _: worker::ProxyHandshakeCompleted =
        peer.query(&worker::ProxyHandshakeComplete { is_disabled: false }).await.unwrap();
}

/// A client that did its handshake, and from then on does what the test says.
pub async fn ready_client(proxy: SocketAddr, number: u8, extensions: bool) -> RawPeer {
    let mut peer = RawPeer::open(proxy).await;
    let params = client::Params {
        ext_flags: if extensions { ext::EXT_V1 } else { 0 },
        client_owner_address: wallet(number).to_wire_string(false).into(),
        is_test: Some(true),
        proto: Some(ProtoRange { min: 1, max: 2 }),
    };
    let _: client::ConnectedToProxy =
        peer.query(&client::ConnectToProxy { params, min_config_version: 0 }).await.unwrap();
    let _: client::AuthorizationWithProxy =
        peer.query(&client::AuthorizeWithProxyShort { data: Bytes::from_static(SECRET) }).await.unwrap();
    peer
}

/// A chat request.
pub fn http_request(body: &serde_json::Value) -> http::Request {
    http::Request {
        method: ByteStr::from_static("POST"),
        url: ByteStr::from_static("/v1/chat/completions"),
        http_version: ByteStr::from_static("HTTP/1.1"),
        headers: vec![http::Header {
            name: ByteStr::from_static("Content-Type"),
            value: ByteStr::from_static("application/json"),
        }],
        payload: body.to_string().into(),
    }
}
