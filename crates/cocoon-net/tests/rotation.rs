//! Renewing the certificate: in time, without a connection noticing.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cocoon_attest::{
    CLOCK_SKEW_SECONDS, Evidence, EvidenceError, EvidenceKind, EvidenceSource, Policy, ReportData,
    UnixSeconds, VerifierSet,
};
use cocoon_net::{NodeIdentity, NodeKey, TlsSettings, spawn_rotation};
use support::{ManualClock, NOW, connect, identity, node};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const HOUR: u64 = 3600;

#[test]
fn a_certificate_is_renewed_when_a_third_is_left_or_the_clock_went_back() {
    let identity = identity("fake_tdx");
    let first = identity.certificate();
    assert!(!identity.rotate_if_due(UnixSeconds(NOW)).unwrap());
    // It begins a minute before it was issued.
    let due = NOW - CLOCK_SKEW_SECONDS + 16 * HOUR;
    assert!(!identity.rotate_if_due(UnixSeconds(due - 1)).unwrap());
    assert_eq!(identity.certificate(), first);
    assert!(identity.rotate_if_due(UnixSeconds(due)).unwrap());
    assert_ne!(identity.certificate(), first);
    assert!(!identity.rotate_if_due(UnixSeconds(NOW + 17 * HOUR)).unwrap());
    assert!(identity.rotate_if_due(UnixSeconds(NOW)).unwrap(), "the clock went back");
    assert!(identity.rotate_if_due(UnixSeconds(NOW + 100 * HOUR)).unwrap(), "long expired");
}

#[tokio::test]
async fn renewal_keeps_connections_up_and_new_ones_see_the_new_certificate() {
    let clock = ManualClock::at(NOW);
    let settings = |clock: &Arc<ManualClock>| {
        let verifier = Arc::new(VerifierSet::built_in());
        TlsSettings::new(identity("fake_tdx"), verifier, Policy::fake_tdx(), None, Arc::clone(clock) as _)
            .unwrap()
    };
    let (acceptor, dialler) = (settings(&clock), settings(&clock));
    let (accepted, dialled) = connect(&acceptor, &dialler).await;
    let (mut accepted, mut dialled) = (accepted.unwrap(), dialled.unwrap());
    clock.set(NOW + 20 * HOUR);
    for side in [&acceptor, &dialler] {
        assert!(side.identity().rotate_if_due(UnixSeconds(NOW + 20 * HOUR)).unwrap());
    }
    // The old certificates have expired by now.
    clock.set(NOW + 30 * HOUR);
    dialled.io.write_all(b"still here").await.unwrap();
    let mut read = [0; 10];
    accepted.io.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"still here");
    let (new_accepted, new_dialled) = connect(&acceptor, &dialler).await;
    for (old, new) in [(&accepted, new_accepted.unwrap()), (&dialled, new_dialled.unwrap())] {
        assert_eq!(old.peer.public_key, new.peer.public_key);
        assert_ne!(old.peer.certificate_fingerprint, new.peer.certificate_fingerprint);
    }
}

#[tokio::test(start_paused = true)]
async fn the_rotation_task_renews_by_itself() {
    let identity = identity("fake_tdx");
    let first = identity.certificate();
    let clock = ManualClock::at(NOW);
    let _rotation = spawn_rotation(Arc::clone(&identity), Arc::clone(&clock) as _);
    tokio::time::sleep(Duration::from_secs(HOUR)).await;
    assert_eq!(identity.certificate(), first, "renewed too early");
    clock.set(NOW + 20 * HOUR);
    let renewed = async {
        while identity.certificate() == first {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(HOUR), renewed).await.expect("never renewed");
}

/// Fails when told to.
struct Moody(AtomicBool);

impl EvidenceSource for Moody {
    fn kind(&self) -> EvidenceKind {
        EvidenceKind::FakeTdx
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, EvidenceError> {
        if self.0.load(Ordering::SeqCst) {
            return Err(EvidenceError { kind: self.kind(), reason: "told to fail".to_owned() });
        }
        Ok(Evidence::new(self.kind(), report_data.0.to_vec().into()))
    }
}

#[tokio::test]
async fn without_fresh_evidence_the_current_certificate_stays_in_use() {
    let source = Arc::new(Moody(AtomicBool::new(false)));
    let identity =
        NodeIdentity::new(NodeKey::generate(), Arc::clone(&source) as _, UnixSeconds(NOW)).unwrap();
    let first = identity.certificate();
    source.0.store(true, Ordering::SeqCst);
    let error = identity.rotate_if_due(UnixSeconds(NOW + 20 * HOUR)).unwrap_err();
    assert_eq!(error.to_string(), "no fake_tdx evidence: told to fail");
    assert_eq!(identity.certificate(), first);
    let clock = ManualClock::at(NOW + 20 * HOUR);
    let verifier = Arc::new(VerifierSet::built_in());
    let acceptor = TlsSettings::new(identity, verifier, Policy::any(), None, clock).unwrap();
    let (accepted, dialled) = connect(&acceptor, &node("none", Policy::fake_tdx())).await;
    accepted.unwrap();
    dialled.unwrap();
}
