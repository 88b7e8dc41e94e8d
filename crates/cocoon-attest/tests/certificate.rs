//! Every certificate that is accepted, and every one that is not, each for its own reason.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/forge.rs"]
mod forge;

use base64::Engine as _;
use cocoon_attest::{
    CLOCK_SKEW_SECONDS, CertificateError, CertificateVersion, EvidenceKind, MAX_CERTIFICATE_LEN,
    MAX_EXTENSIONS, MAX_GPU_LEN, MAX_QUOTE_LEN, PeerCertificate, PeerRole, UnixSeconds,
};
use forge::{Forge, NOT_AFTER, NOT_BEFORE, tlv};

const SEED: [u8; 32] = [7; 32];
const NOW: UnixSeconds = UnixSeconds(NOT_BEFORE + 1000);

fn judge_at(forge: &Forge, now: u64, role: PeerRole) -> Result<PeerCertificate, CertificateError> {
    let certificate = PeerCertificate::parse(&forge.der())?;
    certificate.check(UnixSeconds(now), role)?;
    Ok(certificate)
}

fn refusal(forge: &Forge) -> CertificateError {
    judge_at(forge, NOW.0, PeerRole::Server).unwrap_err()
}

fn published(name: &str) -> PeerCertificate {
    let path = format!("{}/../../tests/vectors/ra-tls-v1cert/{name}_cert.pem", env!("CARGO_MANIFEST_DIR"));
    let pem = std::fs::read_to_string(path).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
    PeerCertificate::parse(&der).unwrap()
}

#[test]
fn captured_certificates_are_read_and_bound_to_their_keys() {
    for name in ["client", "server"] {
        let certificate = published(name);
        assert_eq!(certificate.version(), CertificateVersion::V1, "{name}");
        assert_eq!(certificate.validity().not_before, UnixSeconds(NOT_BEFORE), "{name}");
        assert_eq!(certificate.validity().not_after, UnixSeconds(NOT_AFTER), "{name}");
        assert_eq!(
            certificate.evidence().bytes()[..],
            certificate.report_data().0,
            "{name}: quote binds the key"
        );
        assert_eq!(
            certificate.claims().unwrap()[..],
            certificate.public_key()[..],
            "{name}: claims are the key"
        );
        assert_eq!(certificate.evidence().kind(), EvidenceKind::FakeTdx, "{name}");
    }
    let key = "d3a5f6c50c2f7a1680dc74c260a0c58805aff363b7183ea50d56f608512586e1";
    let keys = ["client", "server"].map(|name| hex::encode(published(name).public_key()));
    assert!(keys.contains(&key.to_owned()), "{keys:?}");
}

#[test]
fn captured_certificates_pass_on_their_day_in_both_roles_and_are_expired_later() {
    for name in ["client", "server"] {
        for role in [PeerRole::Server, PeerRole::Client] {
            assert_eq!(published(name).check(NOW, role), Ok(()), "{name} as {role:?}");
            let later = UnixSeconds(NOT_AFTER + CLOCK_SKEW_SECONDS + 1);
            let expired = CertificateError::Expired { not_after: UnixSeconds(NOT_AFTER), now: later };
            assert_eq!(published(name).check(later, role), Err(expired), "{name} as {role:?}");
        }
    }
}

#[test]
fn versions_one_and_three_are_accepted_with_and_without_evidence() {
    for (version, expected) in
        [(None, CertificateVersion::V1), (Some(0), CertificateVersion::V1), (Some(2), CertificateVersion::V3)]
    {
        for forge in [Forge::published(SEED), Forge::fake_tdx(SEED)] {
            let certificate = judge_at(&Forge { version, ..forge }, NOW.0, PeerRole::Client).unwrap();
            assert_eq!(certificate.version(), expected);
            assert_eq!(certificate.public_key(), &forge::public_key(&SEED));
        }
    }
}

#[test]
fn versions_two_and_four_are_refused() {
    for version in [1, 3] {
        let forge = Forge { version: Some(version), ..Forge::published(SEED) };
        assert_eq!(refusal(&forge), CertificateError::UnsupportedVersion);
    }
}

#[test]
fn a_wrong_signature_is_refused() {
    let forge = Forge { spoil_signature: true, ..Forge::published(SEED) };
    assert_eq!(refusal(&forge), CertificateError::BadSignature);
}

#[test]
fn a_change_to_the_signed_part_is_refused() {
    let mut der = Forge::published(SEED).der();
    let at = der.windows(9).position(|window| window == b"127.0.0.1").unwrap();
    der[at] = b'9';
    let certificate = PeerCertificate::parse(&der).unwrap();
    assert_eq!(certificate.check(NOW, PeerRole::Server), Err(CertificateError::BadSignature));
}

#[test]
fn another_issuer_than_the_subject_is_refused() {
    let forge = Forge { issuer: "somebody else", ..Forge::published(SEED) };
    assert_eq!(refusal(&forge), CertificateError::NotSelfSigned);
}

#[test]
fn validity_holds_with_a_minute_of_clock_skew_and_not_a_second_more() {
    let forge = Forge::published(SEED);
    let judge = |now| judge_at(&forge, now, PeerRole::Server).map(|_| ());
    assert_eq!(judge(NOT_BEFORE - CLOCK_SKEW_SECONDS), Ok(()));
    assert_eq!(judge(NOT_AFTER + CLOCK_SKEW_SECONDS), Ok(()));
    let (early, late) = (NOT_BEFORE - CLOCK_SKEW_SECONDS - 1, NOT_AFTER + CLOCK_SKEW_SECONDS + 1);
    let not_before = UnixSeconds(NOT_BEFORE);
    assert_eq!(judge(early), Err(CertificateError::NotYetValid { not_before, now: UnixSeconds(early) }));
    let not_after = UnixSeconds(NOT_AFTER);
    assert_eq!(judge(late), Err(CertificateError::Expired { not_after, now: UnixSeconds(late) }));
}

#[test]
fn another_key_type_is_refused() {
    let ed448 = vec![0x06, 0x03, 0x2b, 0x65, 0x71];
    let forge = Forge { key_algorithm: ed448, ..Forge::published(SEED) };
    assert_eq!(refusal(&forge), CertificateError::KeyNotEd25519);
}

#[test]
fn another_signature_algorithm_is_refused_inside_and_outside_the_signed_part() {
    let ed448 = vec![0x06, 0x03, 0x2b, 0x65, 0x71];
    let inside = Forge { signed_algorithm: ed448.clone(), ..Forge::published(SEED) };
    let outside = Forge { outer_algorithm: ed448, ..Forge::published(SEED) };
    for forge in [inside, outside] {
        assert_eq!(refusal(&forge), CertificateError::SignatureNotEd25519);
    }
}

#[test]
fn missing_or_other_key_usage_is_refused() {
    let key_agreement_only = [0x03, 0x02, 0x03, 0x08];
    let missing = Forge::published(SEED).without(forge::KEY_USAGE);
    let other = Forge::published(SEED).replacing(forge::KEY_USAGE, &key_agreement_only);
    for forge in [missing, other] {
        assert_eq!(refusal(&forge), CertificateError::KeyUsage);
    }
}

#[test]
fn a_certificate_serves_only_the_roles_it_names() {
    for (purpose, allowed, refused, usage) in [
        (forge::SERVER_AUTH, PeerRole::Server, PeerRole::Client, "clientAuth"),
        (forge::CLIENT_AUTH, PeerRole::Client, PeerRole::Server, "serverAuth"),
    ] {
        let forge = Forge::published(SEED).replacing(forge::EXT_KEY_USAGE, &tlv(0x30, purpose));
        assert!(judge_at(&forge, NOW.0, allowed).is_ok());
        let error = judge_at(&forge, NOW.0, refused).unwrap_err();
        assert_eq!(error, CertificateError::ExtendedKeyUsage { usage });
    }
    let missing = Forge::published(SEED).without(forge::EXT_KEY_USAGE);
    assert_eq!(refusal(&missing), CertificateError::ExtendedKeyUsage { usage: "serverAuth" });
}

#[test]
fn an_authority_is_refused() {
    let authority = tlv(0x30, &[0x01, 0x01, 0xff, 0x02, 0x01, 0x00]);
    let forge = Forge::published(SEED).replacing(forge::BASIC_CONSTRAINTS, &authority);
    assert_eq!(refusal(&forge), CertificateError::IsAuthority);
}

#[test]
fn unknown_extensions_are_refused_if_critical_and_ignored_if_not() {
    let unknown = [0x2b, 0x06, 0x01, 0x04, 0x01, 0xe0, 0x39, 0x03];
    assert!(judge_at(&Forge::published(SEED).with(&unknown, false, b"?"), NOW.0, PeerRole::Server).is_ok());
    let oid = "1.3.6.1.4.1.12345.3".to_owned();
    let forge = Forge::published(SEED).with(&unknown, true, b"?");
    assert_eq!(refusal(&forge), CertificateError::UnknownCriticalExtension { oid });
}

#[test]
fn a_repeated_extension_is_refused() {
    let forge = Forge::fake_tdx(SEED).with(forge::QUOTE, true, &[0; 64]);
    let oid = "1.3.6.1.4.1.12345.1".to_owned();
    assert_eq!(refusal(&forge), CertificateError::DuplicateExtension { oid });
}

#[test]
fn too_many_extensions_are_refused() {
    let fill = |count: usize| {
        let mut forge = Forge::published(SEED);
        for number in forge.extensions.len()..count {
            forge = forge.with(&[0x2b, u8::try_from(number).unwrap()], false, &[]);
        }
        forge
    };
    assert!(judge_at(&fill(MAX_EXTENSIONS), NOW.0, PeerRole::Server).is_ok());
    assert_eq!(refusal(&fill(MAX_EXTENSIONS + 1)), CertificateError::TooManyExtensions);
}

#[test]
fn claims_that_are_not_the_key_are_refused_and_missing_ones_are_not() {
    let other = forge::public_key(&[8; 32]);
    let forge = Forge::fake_tdx(SEED).replacing(forge::CLAIMS, &other);
    assert_eq!(refusal(&forge), CertificateError::ClaimsMismatch);
    assert!(judge_at(&Forge::fake_tdx(SEED).without(forge::CLAIMS), NOW.0, PeerRole::Server).is_ok());
}

#[test]
fn a_quote_may_have_32_kib_and_not_a_byte_more() {
    let with_quote = |len: usize| Forge::published(SEED).with(forge::QUOTE, true, &vec![4; len]);
    let certificate = judge_at(&with_quote(MAX_QUOTE_LEN), NOW.0, PeerRole::Server).unwrap();
    assert_eq!(certificate.evidence().bytes().len(), MAX_QUOTE_LEN);
    let len = MAX_QUOTE_LEN + 1;
    assert_eq!(refusal(&with_quote(len)), CertificateError::QuoteTooLarge { len });
}

#[test]
fn each_kind_of_evidence_has_its_own_extension() {
    let report = include_bytes!("snp/milan-report.bin");
    let kind = |forge: &Forge| judge_at(forge, NOW.0, PeerRole::Server).unwrap().evidence().kind();
    assert_eq!(kind(&Forge::published(SEED).with(forge::SNP, false, report)), EvidenceKind::SevSnp);
    // Where the other kind belongs, neither counts.
    let misplaced = Forge::published(SEED).with(forge::QUOTE, true, report);
    assert_eq!(kind(&misplaced), EvidenceKind::Unrecognised);
    let misplaced = Forge::published(SEED).with(forge::SNP, false, &[0; 64]);
    assert_eq!(kind(&misplaced), EvidenceKind::Unrecognised);
    let both = Forge::fake_tdx(SEED).with(forge::SNP, false, report);
    assert_eq!(refusal(&both), CertificateError::TwoMachines);
}

#[test]
fn evidence_of_gpus_stands_beside_that_of_the_machine_and_has_a_limit() {
    let with_gpus = |len: usize| Forge::fake_tdx(SEED).with(forge::GPU, false, &vec![7; len]);
    let certificate = judge_at(&with_gpus(MAX_GPU_LEN), NOW.0, PeerRole::Server).unwrap();
    assert_eq!(certificate.evidence().kind(), EvidenceKind::FakeTdx);
    assert_eq!(certificate.evidence().gpus().map(|gpus| gpus.len()), Some(MAX_GPU_LEN));
    let len = MAX_GPU_LEN + 1;
    assert_eq!(refusal(&with_gpus(len)), CertificateError::GpuEvidenceTooLarge { len });
}

#[test]
fn a_certificate_over_the_size_limit_is_refused_unread() {
    let len = MAX_CERTIFICATE_LEN + 1;
    assert_eq!(PeerCertificate::parse(&vec![0; len]), Err(CertificateError::TooLarge { len }));
}

#[test]
fn cut_extended_and_empty_certificates_are_malformed() {
    let der = Forge::fake_tdx(SEED).der();
    for len in 0..der.len() {
        let error = PeerCertificate::parse(&der[..len]).unwrap_err();
        assert!(matches!(error, CertificateError::Malformed { .. }), "cut to {len}: {error}");
    }
    let longer = [&der[..], &[0]].concat();
    assert_eq!(PeerCertificate::parse(&longer), Err(CertificateError::Malformed { field: "end" }));
}
