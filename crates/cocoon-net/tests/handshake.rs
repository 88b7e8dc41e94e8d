//! Connections that come about: among our own nodes, and with peers as published.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use cocoon_attest::{
    CLOCK_SKEW_SECONDS, EvidenceKind, Outcome, PeerCertificate, PeerRole, Policy, UnixSeconds,
};
use cocoon_net::{CERTIFICATE_LIFETIME, SecureStream};
use rustls::NamedGroup;
use support::forge::{Forge, public_key};
use support::{NOW, RawTls, accept_from, accepting, charge, connect, dial_to, dialling, identity, node, pay};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SEED: [u8; 32] = [7; 32];

/// Sends from one to the other and reads what arrives.
async fn send(from: &mut SecureStream, to: &mut SecureStream) {
    from.io.write_all(b"a word across").await.unwrap();
    from.io.flush().await.unwrap();
    let mut read = [0; 13];
    to.io.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"a word across");
}

#[tokio::test]
async fn two_nodes_connect_under_every_pair_of_policies_their_evidence_satisfies() {
    let cases = [
        ("none", Policy::any(), "none", Policy::any()),
        ("fake_tdx", Policy::fake_tdx(), "fake_tdx", Policy::fake_tdx()),
        // A proxy shows evidence and asks for none, a client asks for evidence and shows none.
        ("fake_tdx", Policy::any(), "none", Policy::fake_tdx()),
        ("none", Policy::fake_tdx(), "fake_tdx", Policy::any()),
    ];
    for (acceptor_shows, acceptor_asks, dialler_shows, dialler_asks) in cases {
        let acceptor = node(acceptor_shows, acceptor_asks.clone());
        let dialler = node(dialler_shows, dialler_asks.clone());
        let (accepted, dialled) = connect(&acceptor, &dialler).await;
        let (mut accepted, mut dialled) = (accepted.unwrap(), dialled.unwrap());
        send(&mut accepted, &mut dialled).await;
        send(&mut dialled, &mut accepted).await;
        for (stream, policy, other) in
            [(&accepted, acceptor_asks, &dialler), (&dialled, dialler_asks, &acceptor)]
        {
            assert_eq!(stream.peer.public_key, other.identity().public_key());
            assert_eq!(stream.peer.kind, other.identity().evidence_kind());
            let attested = policy.needs_evidence().then_some(EvidenceKind::FakeTdx);
            assert_eq!(stream.peer.attested_kind(), attested);
            assert_eq!(stream.peer.image_hash.is_some(), policy.needs_evidence());
        }
    }
}

#[tokio::test]
async fn evidence_that_nobody_asked_for_is_marked_as_skipped() {
    let (accepted, _dialled) = connect(&node("none", Policy::any()), &node("fake_tdx", Policy::any())).await;
    let verdict = accepted.unwrap().peer.verdict;
    assert_eq!(verdict.checks.len(), 1);
    assert_eq!(verdict.checks[0].outcome, Outcome::Skipped);
}

#[tokio::test]
async fn an_allowed_image_hash_lets_the_peer_in() {
    let (first, _) = connect(&node("none", Policy::fake_tdx()), &node("fake_tdx", Policy::any())).await;
    let hash = first.unwrap().peer.image_hash.unwrap();
    let strict = Policy::fake_tdx().with_image_hashes([hash]).unwrap();
    let (second, _) = connect(&node("none", strict), &node("fake_tdx", Policy::any())).await;
    assert_eq!(second.unwrap().peer.image_hash, Some(hash));
}

#[tokio::test]
async fn a_dialler_with_a_published_certificate_is_let_in() {
    for (forge, policy) in
        [(Forge::published(SEED), Policy::any()), (Forge::fake_tdx(SEED), Policy::fake_tdx())]
    {
        let tls = RawTls::showing(&forge);
        let (accepted, raw) = accept_from(&node("fake_tdx", policy), &accepting(), async |mut tcp| {
            pay(&mut tcp).await;
            tls.dial(tcp).await
        })
        .await;
        let mut accepted = accepted.unwrap();
        assert_eq!(accepted.peer.public_key, public_key(&SEED));
        raw.unwrap().write_all(b"hello").await.unwrap();
        let mut read = [0; 5];
        accepted.io.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hello");
    }
}

#[tokio::test]
async fn an_acceptor_with_a_published_certificate_is_let_in() {
    for (forge, policy) in
        [(Forge::published(SEED), Policy::any()), (Forge::fake_tdx(SEED), Policy::fake_tdx())]
    {
        let tls = RawTls::showing(&forge);
        let (dialled, raw) = dial_to(&node("none", policy), &dialling(), async |mut tcp| {
            charge(&mut tcp, 0).await;
            tls.accept(tcp).await
        })
        .await;
        let mut dialled = dialled.unwrap();
        assert_eq!(dialled.peer.public_key, public_key(&SEED));
        dialled.io.write_all(b"hello").await.unwrap();
        let mut read = [0; 5];
        raw.unwrap().read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hello");
    }
}

#[tokio::test]
async fn key_exchange_is_post_quantum_where_the_peer_can_and_x25519_where_not() {
    for (post_quantum, group) in [(true, NamedGroup::X25519MLKEM768), (false, NamedGroup::X25519)] {
        let tls = RawTls { post_quantum, ..RawTls::showing(&Forge::published(SEED)) };
        let (dialled, raw) = dial_to(&node("none", Policy::any()), &dialling(), async |mut tcp| {
            charge(&mut tcp, 0).await;
            tls.accept(tcp).await
        })
        .await;
        dialled.unwrap();
        assert_eq!(
            raw.unwrap().get_ref().1.negotiated_key_exchange_group().unwrap().name(),
            group,
            "dialling"
        );
        let (accepted, raw) = accept_from(&node("none", Policy::any()), &accepting(), async |mut tcp| {
            pay(&mut tcp).await;
            tls.dial(tcp).await
        })
        .await;
        accepted.unwrap();
        assert_eq!(
            raw.unwrap().get_ref().1.negotiated_key_exchange_group().unwrap().name(),
            group,
            "accepting"
        );
    }
}

#[tokio::test]
async fn no_tickets_are_sent_and_no_application_protocol_is_agreed() {
    let tls = RawTls::showing(&Forge::published(SEED));
    let (accepted, raw) = accept_from(&node("none", Policy::any()), &accepting(), async |mut tcp| {
        pay(&mut tcp).await;
        tls.dial(tcp).await
    })
    .await;
    let (mut accepted, mut raw) = (accepted.unwrap(), raw.unwrap());
    accepted.io.write_all(b"x").await.unwrap();
    raw.read_exact(&mut [0]).await.unwrap();
    assert_eq!(raw.get_ref().1.tls13_tickets_received(), 0);
    assert_eq!(raw.get_ref().1.alpn_protocol(), None);
    assert_eq!(raw.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn our_certificates_are_version_three_for_a_day_and_carry_evidence_where_there_is_some() {
    for (source, kind) in [("none", EvidenceKind::None), ("fake_tdx", EvidenceKind::FakeTdx)] {
        let identity = identity(source);
        let certificate = PeerCertificate::parse(&identity.certificate()).unwrap();
        assert_eq!(certificate.version(), cocoon_attest::CertificateVersion::V3);
        assert_eq!(certificate.public_key(), &identity.public_key());
        // Peers whose clock is a minute behind accept it, too.
        let not_before = UnixSeconds(NOW - CLOCK_SKEW_SECONDS);
        assert_eq!(certificate.validity().not_before, not_before);
        assert_eq!(certificate.validity().not_after, not_before.plus(CERTIFICATE_LIFETIME.as_secs()));
        assert_eq!(certificate.evidence().kind(), kind);
        assert_eq!(certificate.claims().is_some(), kind != EvidenceKind::None);
        for role in [PeerRole::Server, PeerRole::Client] {
            assert_eq!(certificate.check(UnixSeconds(NOW), role), Ok(()));
        }
    }
}
