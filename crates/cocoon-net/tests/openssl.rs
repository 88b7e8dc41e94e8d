//! TLS with OpenSSL, which published nodes are built on, checking our certificates the way they do.
//!
//! OpenSSL's command-line tool knows no proof of work, so a go-between does that and then passes bytes on.
//! Skipped, saying so, where there is no OpenSSL 3.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use cocoon_attest::Policy;
use support::forge::{Forge, NOT_BEFORE, public_key};
use support::{accept_from, accepting, charge, dial_to, dialling, identity, listen, node, pay};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::process::{Child, Command as AsyncCommand};

const SEED: [u8; 32] = [7; 32];
/// A second within the validity of forged certificates, for OpenSSL's `-attime`.
const AT: u64 = NOT_BEFORE + 1000;

fn openssl_3_is_here() -> bool {
    let version = Command::new("openssl").arg("version").output();
    let here = version.is_ok_and(|output| output.stdout.starts_with(b"OpenSSL 3"));
    if !here {
        eprintln!("skipped: there is no OpenSSL 3 command-line tool");
    }
    here
}

fn write_pem(folder: &Path, name: &str, label: &str, der: &[u8]) -> PathBuf {
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let path = folder.join(name);
    let pem = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"));
    std::fs::write(&path, pem).unwrap();
    path
}

/// The forged certificate and its key, as files.
fn write_peer(folder: &Path, forge: &Forge) -> (PathBuf, PathBuf) {
    let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let key = [&prefix[..], &forge.seed].concat();
    (
        write_pem(folder, "cert.pem", "CERTIFICATE", &forge.der()),
        write_pem(folder, "key.pem", "PRIVATE KEY", &key),
    )
}

fn spawn(arguments: &[&str], files: &[(&str, &Path)]) -> Child {
    let mut command = AsyncCommand::new("openssl");
    command.args(arguments);
    for (option, path) in files {
        command.arg(option).arg(path);
    }
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    pipes.kill_on_drop(true).spawn().unwrap()
}

/// Reads the tool's output up to the end of a line with `wanted` in it.
async fn read_until(output: &mut (impl tokio::io::AsyncRead + Unpin), wanted: &str) -> String {
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    let reading = async {
        while !seen.split_inclusive('\n').any(|line| line.contains(wanted) && line.ends_with('\n')) {
            let count = output.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "OpenSSL ended without saying {wanted:?}:\n{seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), reading).await;
    assert!(in_time.is_ok(), "OpenSSL does not say {wanted:?}:\n{seen}");
    seen
}

#[tokio::test]
async fn openssl_dials_us_with_a_version_one_certificate_and_verifies_ours() {
    if !openssl_3_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = write_peer(folder.path(), &Forge::fake_tdx(SEED));
    // Without evidence our certificate has no extension that OpenSSL does not know: it must verify in full,
    // under the name that published diallers expect.
    let acceptor = node("none", Policy::fake_tdx());
    let ours = write_pem(folder.path(), "ours.pem", "CERTIFICATE", &acceptor.identity().certificate());
    let (between, address) = listen().await;
    let (address, at) = (address.to_string(), AT.to_string());
    let arguments = ["s_client", "-connect", &address, "-tls1_3", "-attime", &at];
    let checks =
        ["-verify_hostname", "127.0.0.1", "-x509_strict", "-verify_return_error", "-purpose", "sslserver"];
    let files = [("-cert", &certificate), ("-key", &key), ("-CAfile", &ours)];
    let mut tool = spawn(&[&arguments[..], &checks].concat(), &files.map(|(o, p)| (o, p.as_path())));
    let (accepted, ()) = accept_from(&acceptor, &accepting(), async move |mut tcp: TcpStream| {
        pay(&mut tcp).await;
        let mut plain = between.accept().await.unwrap().0;
        // Ends with either side.
        tokio::spawn(async move { copy_bidirectional(&mut plain, &mut tcp).await });
    })
    .await;
    let mut accepted = accepted.unwrap();
    assert_eq!(accepted.peer.public_key, public_key(&SEED));
    tool.stdin.as_mut().unwrap().write_all(b"from openssl\n").await.unwrap();
    let mut read = [0; 13];
    accepted.io.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"from openssl\n");
    accepted.io.write_all(b"from us\n").await.unwrap();
    let said = read_until(tool.stdout.as_mut().unwrap(), "from us").await;
    assert!(said.contains("Verification: OK"), "{said}");
    assert!(said.contains("Verified peername: 127.0.0.1"), "{said}");
}

#[tokio::test]
async fn we_dial_openssl_with_a_version_one_certificate_and_it_verifies_ours() {
    if !openssl_3_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = write_peer(folder.path(), &Forge::fake_tdx(SEED));
    let dialler = node("none", Policy::fake_tdx());
    let ours = write_pem(folder.path(), "ours.pem", "CERTIFICATE", &dialler.identity().certificate());
    let at = AT.to_string();
    let arguments = ["s_server", "-accept", "127.0.0.1:0", "-tls1_3", "-attime", &at];
    let checks = ["-Verify", "1", "-x509_strict", "-verify_return_error", "-purpose", "sslclient"];
    let files = [("-cert", &certificate), ("-key", &key), ("-CAfile", &ours)];
    let mut tool = spawn(&[&arguments[..], &checks].concat(), &files.map(|(o, p)| (o, p.as_path())));
    let mut stdout = tool.stdout.take().unwrap();
    // "ACCEPT 127.0.0.1:port"
    let said = read_until(&mut stdout, "ACCEPT 127.0.0.1:").await;
    let address = said.split("ACCEPT ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let (dialled, ()) = dial_to(&dialler, &dialling(), async move |mut tcp: TcpStream| {
        charge(&mut tcp, 4).await;
        let mut plain = TcpStream::connect(address).await.unwrap();
        // Ends with either side.
        tokio::spawn(async move { copy_bidirectional(&mut plain, &mut tcp).await });
    })
    .await;
    let mut dialled = dialled.unwrap();
    assert_eq!(dialled.peer.public_key, public_key(&SEED));
    dialled.io.write_all(b"from us\n").await.unwrap();
    read_until(&mut stdout, "from us").await;
    tool.stdin.as_mut().unwrap().write_all(b"from openssl\n").await.unwrap();
    let mut read = [0; 13];
    dialled.io.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"from openssl\n");
}

#[test]
fn openssl_reads_our_evidence_as_the_published_extensions() {
    if !openssl_3_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ours = write_pem(folder.path(), "ours.pem", "CERTIFICATE", &identity("fake_tdx").certificate());
    let output = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(ours).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "Version: 3 (0x2)",
        "Signature Algorithm: ED25519",
        "1.3.6.1.4.1.12345.1: critical",
        "1.3.6.1.4.1.12345.2: critical",
        "CA:FALSE",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Subject Key Identifier",
        "DNS:localhost, DNS:127.0.0.1, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1",
    ] {
        assert!(text.contains(expected), "no {expected:?} in:\n{text}");
    }
}
