//! Our own sides with a clock that tests set, and raw peers that do whatever a test wants.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

#[path = "../../../cocoon-attest/tests/support/forge.rs"]
pub mod forge;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cocoon_attest::{EvidenceSource, Policy, UnixSeconds, VerifierSet};
use cocoon_net::{
    AcceptOptions, Clock, ConnectError, ConnectFailure, DialOptions, NodeIdentity, NodeKey, SecureStream,
    TlsSettings, accept, dial,
};
use cocoon_wire::pow::{CHALLENGE_LEN, Challenge, Solution, solve};
use forge::Forge;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Within the default validity of forged certificates.
pub const NOW: u64 = forge::NOT_BEFORE + 1000;

/// A clock that stands where it was set.
pub struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn at(second: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(second)))
    }

    pub fn set(&self, second: u64) {
        self.0.store(second, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixSeconds {
        UnixSeconds(self.0.load(Ordering::SeqCst))
    }
}

pub fn identity(source: &str) -> Arc<NodeIdentity> {
    let source: Arc<dyn EvidenceSource> = cocoon_tee::open(source).unwrap();
    NodeIdentity::new(NodeKey::generate(), source, UnixSeconds(NOW)).unwrap()
}

/// Shows `source`, demands `policy`.
pub fn node(source: &str, policy: Policy) -> TlsSettings {
    let verifier = Arc::new(VerifierSet::built_in());
    TlsSettings::new(identity(source), verifier, policy, None, ManualClock::at(NOW)).unwrap()
}

pub fn accepting() -> AcceptOptions {
    AcceptOptions { difficulty: 4, timeout: Duration::from_secs(20) }
}

pub fn dialling() -> DialOptions {
    DialOptions { max_difficulty: 8, timeout: Duration::from_secs(20) }
}

pub async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Both our sides; what each of them made of the other.
pub async fn connect(
    acceptor: &TlsSettings,
    dialler: &TlsSettings,
) -> (Result<SecureStream, ConnectError>, Result<SecureStream, ConnectError>) {
    let (listener, address) = listen().await;
    let address = address.to_string();
    let (options, dial_options) = (accepting(), dialling());
    let accepting = async { accept(listener.accept().await.unwrap().0, acceptor, &options).await };
    tokio::join!(accepting, dial(&address, dialler, &dial_options))
}

/// What our acceptor says to a raw peer that does `peer`.
pub async fn accept_from<F, Fut, T>(
    settings: &TlsSettings,
    options: &AcceptOptions,
    peer: F,
) -> (Result<SecureStream, ConnectError>, T)
where
    F: FnOnce(TcpStream) -> Fut,
    Fut: Future<Output = T>,
{
    let (listener, address) = listen().await;
    let accepting = async { accept(listener.accept().await.unwrap().0, settings, options).await };
    let dialling = async { peer(TcpStream::connect(address).await.unwrap()).await };
    tokio::join!(accepting, dialling)
}

/// What our dialler says to a raw peer that does `peer`.
pub async fn dial_to<F, Fut, T>(
    settings: &TlsSettings,
    options: &DialOptions,
    peer: F,
) -> (Result<SecureStream, ConnectError>, T)
where
    F: FnOnce(TcpStream) -> Fut,
    Fut: Future<Output = T>,
{
    let (listener, address) = listen().await;
    let address = address.to_string();
    let accepting = async { peer(listener.accept().await.unwrap().0).await };
    tokio::join!(dial(&address, settings, options), accepting)
}

pub fn cause(result: Result<SecureStream, ConnectError>) -> ConnectFailure {
    match result {
        Ok(stream) => panic!("let in {:?}", stream.peer),
        Err(error) => error.cause,
    }
}

/// Solves the acceptor's challenge, as any dialler must.
pub async fn pay(tcp: &mut TcpStream) {
    let mut bytes = [0; CHALLENGE_LEN];
    tcp.read_exact(&mut bytes).await.unwrap();
    let nonce = solve(&Challenge::decode(&bytes).unwrap(), &false.into()).unwrap();
    tcp.write_all(&Solution { nonce }.encode()).await.unwrap();
}

/// Asks for `difficulty` bits and takes any answer.
pub async fn charge(tcp: &mut TcpStream, difficulty: u8) {
    tcp.write_all(&Challenge::new(difficulty, [3; 16]).unwrap().encode()).await.unwrap();
    tcp.read_exact(&mut [0; 12]).await.unwrap();
}

/// A raw peer's TLS: its certificates as forged, anything accepted from us.
pub struct RawTls {
    pub certificates: Vec<Vec<u8>>,
    pub seed: [u8; 32],
    pub version: &'static SupportedProtocolVersion,
    pub post_quantum: bool,
}

impl RawTls {
    pub fn showing(forge: &Forge) -> Self {
        Self {
            certificates: vec![forge.der()],
            seed: forge.seed,
            version: &rustls::version::TLS13,
            post_quantum: false,
        }
    }

    pub async fn dial(&self, tcp: TcpStream) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let builder = ClientConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&[self.version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAll));
        let config = match self.certified() {
            Some(certified) => builder.with_client_cert_resolver(Arc::new(Fixed(certified))),
            None => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    pub async fn accept(
        &self,
        tcp: TcpStream,
    ) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
        let config = ServerConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&[self.version])
            .unwrap()
            .with_client_cert_verifier(Arc::new(AcceptAll))
            .with_cert_resolver(Arc::new(Fixed(self.certified().unwrap())));
        TlsAcceptor::from(Arc::new(config)).accept(tcp).await
    }

    fn provider(&self) -> Arc<rustls::crypto::CryptoProvider> {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        if self.post_quantum {
            provider.kx_groups.insert(0, aws_lc_rs::kx_group::X25519MLKEM768);
        }
        Arc::new(provider)
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        if self.certificates.is_empty() {
            return None;
        }
        // PKCS #8 of an Ed25519 seed (RFC 8410 §7).
        let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let pkcs8 = PrivatePkcs8KeyDer::from([&prefix[..], &self.seed].concat());
        let key = aws_lc_rs::sign::any_eddsa_type(&pkcs8).unwrap();
        let chain = self.certificates.iter().map(|der| CertificateDer::from(der.clone())).collect();
        Some(Arc::new(CertifiedKey::new(chain, key)))
    }
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for Fixed {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl rustls::client::ResolvesClientCert for Fixed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct AcceptAll;

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for AcceptAll {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
