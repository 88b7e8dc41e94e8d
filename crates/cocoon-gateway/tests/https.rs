//! TLS for callers, with a real TLS client: what is shown, what is taken anew, and what waits without TLS.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cocoon_gateway::HttpsConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use support::{Network, Plan, SOON, Scripted, chat, json_answer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const NAME: &str = "gateway.example";

/// A certificate of its own for that name, in the files; returns it.
fn make_files(dir: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    write_key(dir, &pem("PRIVATE KEY", &made.signing_key.serialize_der()));
    std::fs::write(dir.join("cert.pem"), pem("CERTIFICATE", made.cert.der())).unwrap();
    made.cert.der().clone()
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn write_key(dir: &Path, pem: &str) {
    let path = dir.join("key.pem");
    std::fs::write(&path, pem).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

fn https(dir: &Path) -> HttpsConfig {
    HttpsConfig {
        look_every: Duration::from_millis(20),
        handshake_timeout: Duration::from_millis(300),
        ..HttpsConfig::new(dir.join("cert.pem"), dir.join("key.pem"))
    }
}

async fn network(https: HttpsConfig) -> Network {
    let engine = Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) });
    Network::start(Plan { https: Some(https), ..Plan::default() }, vec![engine]).await
}

/// Speaks TLS with whoever shows this certificate; the reply to a GET.
async fn get(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    path: &str,
) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(NAME).unwrap();
    let mut tls = connector.connect(name, tcp).await.map_err(|error| error.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    tls.read_to_string(&mut reply).await.map_err(|error| error.to_string())?;
    Ok(reply)
}

/// What a server without TLS answers.
async fn plainly(address: SocketAddr, request: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    // A connection that breaks is an answer, too.
    let _ = tokio::time::timeout(SOON, tcp.read_to_end(&mut reply)).await.expect("an end");
    String::from_utf8_lossy(&reply).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_speak_tls_of_either_version_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = make_files(dir.path());
    let network = network(https(dir.path())).await;
    let address = network.gateway.http_addr();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let reply = get(address, &certificate, &[version], "/v1/models").await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 200") && reply.contains("test/model"), "{reply}");
    }
    let request = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert!(!plainly(address, request).await.contains("HTTP/1.1 200"), "no answer without TLS");
    // Who says nothing is let go.
    assert_eq!(plainly(address, "").await, "");
    tokio::time::timeout(SOON, network.gateway.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_files_are_taken_and_bad_ones_leave_the_old() {
    let dir = tempfile::tempdir().unwrap();
    let first = make_files(dir.path());
    let network = network(https(dir.path())).await;
    let address = network.gateway.http_addr();
    let both = [&rustls::version::TLS13, &rustls::version::TLS12];
    let shows =
        async |certificate: &CertificateDer<'static>| get(address, certificate, &both, "/health").await;
    assert!(shows(&first).await.unwrap().starts_with("HTTP/1.1 200"));

    // A key of another certificate, as between the two writes of a renewal, and no key at all.
    let elsewhere = tempfile::tempdir().unwrap();
    let second = make_files(elsewhere.path());
    write_key(dir.path(), &std::fs::read_to_string(elsewhere.path().join("key.pem")).unwrap());
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(shows(&first).await.is_ok(), "the old pair stays");
    }
    std::fs::copy(elsewhere.path().join("cert.pem"), dir.path().join("cert.pem")).unwrap();
    let taken = async {
        while shows(&second).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, taken).await.expect("the new pair");
    assert!(shows(&first).await.is_err());
    std::fs::remove_file(dir.path().join("cert.pem")).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(shows(&second).await.is_ok());
}

#[tokio::test]
async fn bad_files_stop_a_start_and_are_named() {
    let dir = tempfile::tempdir().unwrap();
    make_files(dir.path());
    let good_key = std::fs::read_to_string(dir.path().join("key.pem")).unwrap();
    let start = async || {
        let started = support::try_start_with_tls(https(dir.path())).await;
        started.map(drop).unwrap_err().to_string()
    };
    std::fs::write(dir.path().join("key.pem"), "no key").unwrap();
    assert!(start().await.contains("key.pem holds no private key"), "{}", start().await);
    let elsewhere = tempfile::tempdir().unwrap();
    make_files(elsewhere.path());
    write_key(dir.path(), &std::fs::read_to_string(elsewhere.path().join("key.pem")).unwrap());
    assert!(start().await.contains("cannot be used together"), "{}", start().await);
    write_key(dir.path(), &good_key);
    #[cfg(unix)]
    {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(dir.path().join("key.pem"), open).unwrap();
        assert!(start().await.contains("mode 644"), "{}", start().await);
        write_key(dir.path(), &good_key);
    }
    std::fs::write(dir.path().join("cert.pem"), "").unwrap();
    assert!(start().await.contains("cert.pem holds no certificate"), "{}", start().await);
    std::fs::remove_file(dir.path().join("cert.pem")).unwrap();
    assert!(start().await.contains("cannot read"), "{}", start().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tls_only_challenges_are_answered_and_others_are_led_on() {
    let dir = tempfile::tempdir().unwrap();
    make_files(dir.path());
    let webroot = dir.path().join("webroot");
    let challenges = webroot.join(".well-known/acme-challenge");
    std::fs::create_dir_all(&challenges).unwrap();
    std::fs::write(challenges.join("token-1"), "token-1.thumbprint").unwrap();
    let plain = Some("127.0.0.1:0".parse().unwrap());
    let network = network(HttpsConfig { plain, acme_dir: Some(webroot), ..https(dir.path()) }).await;
    let (address, port) = (network.gateway.plain_addr().unwrap(), network.gateway.http_addr().port());
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: gateway.example\r\n\r\n");
    let answer = plainly(address, &get("/.well-known/acme-challenge/token-1")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("token-1.thumbprint"), "{answer}");
    for path in ["/.well-known/acme-challenge/other", "/.well-known/acme-challenge/..%2f..%2f..%2fkey.pem"] {
        assert!(plainly(address, &get(path)).await.starts_with("HTTP/1.1 404"), "{path}");
    }
    let led = plainly(address, &get("/v1/models?x=1")).await;
    assert!(led.starts_with("HTTP/1.1 308"), "{led}");
    assert!(led.contains(&format!("location: https://gateway.example:{port}/v1/models?x=1\r\n")), "{led}");
    let post = "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway.example\r\ncontent-length: 0\r\n\r\n";
    assert!(plainly(address, post).await.starts_with("HTTP/1.1 403"), "a key is not sent on quietly");
}
