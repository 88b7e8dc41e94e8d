//! A server whose certificate nobody vouches for is not talked to.

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use cocoon_chain::{ChainError, ToncenterChain, ToncenterOptions};
use cocoon_ton::Address;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], own.signing_key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            assert!(acceptor.accept(stream).await.is_err(), "the handshake must fail");
        }
    };

    let options = ToncenterOptions {
        api_key: Some("a key that must not be sent".to_owned().into()),
        deadline: Duration::from_secs(1),
        ..ToncenterOptions::new(format!("https://localhost:{port}"), Address::basechain([1; 32]), true)
    };
    let error = tokio::select! {
        opened = ToncenterChain::open(options) => opened.unwrap_err(),
        () = server => unreachable!("it serves for ever"),
    };
    assert!(matches!(error, ChainError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}
