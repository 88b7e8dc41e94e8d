//! Setting up one connection, from either side.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use cocoon_wire::pow::{DEFAULT_DIFFICULTY, MAX_ACCEPTED_DIFFICULTY};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::judge::Pause;
use crate::stream::{SecureIo, SecureStream};
use crate::{ConnectError, ConnectFailure, Renewal, Stage, TlsSettings, peer, pow};

/// What an accepted connection may take after its proof of work: TLS, and a look at the evidence, for which collateral may
/// have to be waited for: a source's patience must be well below this, or a refusal could not say what is missing.
const AFTER_PROOF: Duration = Duration::from_secs(10);

/// How to dial.
#[derive(Debug, Clone)]
pub struct DialOptions {
    /// Most bits of work to do for a peer; 28 unless configured.
    pub max_difficulty: u8,
    /// For the whole set-up, proof of work included; 60 s unless configured (2^28 hashes take longer:
    /// then it is this limit that ends the attempt).
    pub timeout: Duration,
}

impl Default for DialOptions {
    fn default() -> Self {
        Self { max_difficulty: MAX_ACCEPTED_DIFFICULTY, timeout: Duration::from_secs(60) }
    }
}

/// How to accept.
#[derive(Debug, Clone)]
pub struct AcceptOptions {
    /// Bits of work to ask for, 0 to 64; 20 unless configured.
    pub difficulty: u8,
    /// For the whole set-up, the peer's proof of work included; 60 s unless configured.
    pub timeout: Duration,
}

impl Default for AcceptOptions {
    fn default() -> Self {
        Self { difficulty: DEFAULT_DIFFICULTY, timeout: Duration::from_secs(60) }
    }
}

/// Dials `address` (`host:port` or `ip:port`), does the work asked for, shows our certificate, and comes back
/// with a peer that the policy let in. The peer's own decision about us may still be under way: a refusal then
/// shows as the first read failing. Dropping the future stops everything, the work included.
///
/// # Errors
/// Names the address and the first thing that went wrong.
pub async fn dial(
    address: &str,
    settings: &TlsSettings,
    options: &DialOptions,
) -> Result<SecureStream, ConnectError> {
    let deadline = Deadline::after(options.timeout);
    dial_inner(address, settings, options, deadline)
        .await
        .map_err(|cause| ConnectError { peer: address.to_owned(), cause })
}

/// Sets up a connection that was just accepted: asks for work, shows our certificate, and comes back with a
/// peer that the policy let in.
///
/// # Errors
/// Names the peer's address and the first thing that went wrong.
pub async fn accept(
    tcp: TcpStream,
    settings: &TlsSettings,
    options: &AcceptOptions,
) -> Result<SecureStream, ConnectError> {
    let deadline = Deadline::after(options.timeout);
    let remote = tcp.peer_addr().map_err(|source| ConnectError {
        peer: "an unknown address".to_owned(),
        cause: ConnectFailure::from_io(Stage::Connect, source),
    })?;
    accept_inner(tcp, remote, settings, options, deadline)
        .await
        .map_err(|cause| ConnectError { peer: remote.to_string(), cause })
}

async fn dial_inner(
    address: &str,
    settings: &TlsSettings,
    options: &DialOptions,
    deadline: Deadline,
) -> Result<SecureStream, ConnectFailure> {
    let connect = async { TcpStream::connect(address).await.map_err(ConnectFailure::Unreachable) };
    let mut tcp = deadline.within(Stage::Connect, connect).await?;
    let remote = tcp.peer_addr().map_err(ConnectFailure::Unreachable)?;
    prepare(&tcp)?;
    deadline.within(Stage::ProofOfWork, pow::pay(&mut tcp, options.max_difficulty)).await?;
    let connector = TlsConnector::from(settings.client_config());
    // Only a label: peers are known by their keys, and no name is sent.
    let name = ServerName::IpAddress(remote.ip().into());
    let handshake = async {
        connector.connect(name, tcp).await.map_err(|error| ConnectFailure::from_io(Stage::Tls, error))
    };
    let tls = deadline.within(Stage::Tls, handshake).await?;
    finish(TlsStream::Client(tls), remote, settings, deadline).await
}

async fn accept_inner(
    mut tcp: TcpStream,
    remote: SocketAddr,
    settings: &TlsSettings,
    options: &AcceptOptions,
    deadline: Deadline,
) -> Result<SecureStream, ConnectFailure> {
    prepare(&tcp)?;
    deadline.within(Stage::ProofOfWork, pow::charge(&mut tcp, options.difficulty)).await?;
    // The slow part is over: whoever lingers now takes a place from others.
    let deadline = deadline.no_later_than(Deadline::after(AFTER_PROOF));
    let acceptor = TlsAcceptor::from(settings.server_config());
    let handshake =
        async { acceptor.accept(tcp).await.map_err(|error| ConnectFailure::from_io(Stage::Tls, error)) };
    let tls = deadline.within(Stage::Tls, handshake).await?;
    finish(TlsStream::Server(tls), remote, settings, deadline).await
}

/// Small messages must not wait for company.
fn prepare(tcp: &TcpStream) -> Result<(), ConnectFailure> {
    tcp.set_nodelay(true).map_err(|error| ConnectFailure::from_io(Stage::Connect, error))
}

async fn finish(
    tls: TlsStream<TcpStream>,
    remote: SocketAddr,
    settings: &TlsSettings,
    deadline: Deadline,
) -> Result<SecureStream, ConnectFailure> {
    let certificates = tls.get_ref().1.peer_certificates();
    let judge = settings.judge();
    let (peer, certificate) =
        deadline.within(Stage::Attestation, peer::identify(judge, certificates)).await?;
    // Ours may have been renewed since the handshake began, a moment ago: then it only looks a little younger.
    let ends = certificate.validity().not_after.min(settings.identity().not_after());
    let renewal = Renewal::of(settings.judge().clock(), ends);
    let pause = Pause::default();
    let until_refused = judge.clone().until_refused(certificate, pause.clone());
    let io = SecureIo::new(tls, until_refused, pause);
    Ok(SecureStream { io, peer, remote, renewal })
}

/// When the set-up must be done.
#[derive(Debug, Clone, Copy)]
struct Deadline(Instant);

impl Deadline {
    fn no_later_than(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    /// A timeout beyond what the clock can name is a day.
    fn after(timeout: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(24 * 60 * 60)))
    }

    async fn within<T>(
        self,
        stage: Stage,
        step: impl Future<Output = Result<T, ConnectFailure>>,
    ) -> Result<T, ConnectFailure> {
        tokio::time::timeout_at(self.0, step).await.unwrap_or(Err(ConnectFailure::Timeout { stage }))
    }
}
