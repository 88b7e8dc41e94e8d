//! Real reports, chains and manifests of NVIDIA's before the verifier that production uses.
#![allow(clippy::unwrap_used, missing_docs)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cocoon_attest::gpu::{
    Demand, GpuAttestation, GpuCollateral, GpuEvidence, GpuMode, GpuPart, GpuPolicy, GpuVerdict, GpuVerifier,
    PinnedValues,
};
use cocoon_attest::{Collateral, Outcome, UnixSeconds};

/// 2024-06-01: the reports have been made, and the manifests' signers are valid.
const NOW: UnixSeconds = UnixSeconds(1_717_200_000);

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/gpu/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn sample(name: &str) -> GpuPart {
    let pem = String::from_utf8(file(&format!("{name}.chain.pem"))).unwrap();
    let bodies = pem.split("-----BEGIN CERTIFICATE-----").skip(1);
    let chain = bodies.map(|body| {
        let body: String = body.split("-----END").next().unwrap().split_ascii_whitespace().collect();
        STANDARD.decode(body).unwrap().into()
    });
    GpuPart { report: file(&format!("{name}.report")).into(), chain: chain.collect() }
}

fn one(name: &str) -> Bytes {
    container(vec![sample(name)])
}

fn container(parts: Vec<GpuPart>) -> Bytes {
    GpuEvidence::new(parts).unwrap().write().unwrap()
}

fn nonce_of(part: &GpuPart) -> [u8; 32] {
    GpuAttestation::parse(&part.report).unwrap().nonce
}

/// Without NVIDIA's services: they are not asked in tests.
fn lenient() -> GpuPolicy {
    GpuPolicy {
        reference_values: Demand::WhereAvailable,
        revocation: Demand::WhereAvailable,
        ..GpuPolicy::default()
    }
}

fn judge(policy: GpuPolicy, parts: Vec<GpuPart>, collateral: &Collateral) -> GpuVerdict {
    let nonce = nonce_of(&parts[0]);
    GpuVerifier::new(policy).verify(&container(parts), collateral, &nonce, NOW)
}

fn failures(verdict: &GpuVerdict) -> Vec<&str> {
    let failed = verdict.checks.iter().filter(|check| check.outcome == Outcome::Failed);
    failed.map(|check| check.name.as_str()).collect()
}

fn outcome(verdict: &GpuVerdict, name: &str) -> Outcome {
    verdict.check(name).unwrap_or_else(|| panic!("no check {name}")).outcome
}

fn with_vbios_manifest() -> Collateral {
    let mut collateral = Collateral::none();
    let id = "NV_GPU_VBIOS_1010_0200_882_96005E0001".to_owned();
    collateral.insert(GpuCollateral::Manifest(id).request(), file("vbios-96.00.5E.00.01.swidtag").into());
    collateral
}

#[test]
fn every_real_gpu_is_genuine_by_nvidias_own_root() {
    for (name, model, driver, vbios) in [
        ("hopper-535.86.09", "GH100 A01 GSP BROM", "535.86.09", "96.00.5E.00.01"),
        ("hopper-550.90.07", "GH100 A01 GSP BROM", "550.90.07", "96.00.9F.00.01"),
        ("blackwell-575.32", "GB100 A01 GSP BROM", "575.32", "97.00.88.00.0F"),
    ] {
        let verdict = judge(lenient(), vec![sample(name)], &Collateral::none());
        assert!(verdict.accepted(), "{name}: {verdict:#?}");
        let gpu = &verdict.gpus[0];
        assert_eq!((gpu.model.as_str(), gpu.mode), (model, GpuMode::Unsaid));
        assert_eq!((gpu.driver.to_string(), gpu.vbios.to_string()), (driver.to_owned(), vbios.to_owned()));
        for check in ["certificate_chain", "validity", "firmware_id", "signature", "nonce"] {
            assert_eq!(outcome(&verdict, &format!("gpu0.{check}")), Outcome::Passed, "{name}: {check}");
        }
        for check in ["revocation", "reference_values", "measurements", "cc_mode"] {
            assert_eq!(outcome(&verdict, &format!("gpu0.{check}")), Outcome::Skipped, "{name}: {check}");
        }
    }
}

#[test]
fn without_nvidias_services_the_default_policy_refuses_every_gpu() {
    let verdict = judge(GpuPolicy::default(), vec![sample("hopper-550.90.07")], &Collateral::none());
    assert_eq!(failures(&verdict), ["gpu0.revocation", "gpu0.reference_values"]);
}

#[test]
fn protected_pcie_is_seen_and_refused_unless_the_policy_takes_it() {
    let parts: Vec<_> = (0..4).map(|gpu| sample(&format!("hopper-590.12-{gpu}"))).collect();
    let verdict = judge(lenient(), parts.clone(), &Collateral::none());
    assert_eq!(failures(&verdict), ["gpu0.cc_mode", "gpu1.cc_mode", "gpu2.cc_mode", "gpu3.cc_mode"]);
    let verdict = judge(GpuPolicy { allow_protected_pcie: true, ..lenient() }, parts, &Collateral::none());
    assert!(verdict.accepted(), "{verdict:#?}");
    let devices: std::collections::BTreeSet<_> = verdict.gpus.iter().map(|gpu| gpu.device).collect();
    assert_eq!(devices.len(), 4);
}

#[test]
fn eight_hopper_gpus_fit_into_a_certificate() {
    let four: Vec<_> = (0..4).map(|gpu| sample(&format!("hopper-590.12-{gpu}"))).collect();
    let len = container(four.clone()).len();
    let one = container(four[..1].to_vec()).len();
    // Each further GPU brings two certificates of its own and some changed bytes.
    let eight = one + 7 * (len - one).div_ceil(3);
    assert!(eight < GpuEvidence::MAX_LEN / 2, "{one} bytes for one, {len} for four, about {eight} for eight");
}

#[test]
fn a_real_gpu_measures_what_nvidias_manifest_says() {
    let verdict = judge(lenient(), vec![sample("hopper-535.86.09")], &with_vbios_manifest());
    assert!(verdict.accepted(), "{verdict:#?}");
    let measured = verdict.check("gpu0.measurements").unwrap();
    assert_eq!(
        (measured.outcome, measured.detail.as_str()),
        (Outcome::Passed, "all 12 are reference values")
    );
    // The driver's manifest is not at hand, so whether debugging is off is not known.
    assert_eq!(outcome(&verdict, "gpu0.reference_values"), Outcome::Skipped);
    assert_eq!(outcome(&verdict, "gpu0.cc_mode"), Outcome::Skipped);
    // The manifest's signer runs out first: 2025-06-22 09:30:33.
    assert_eq!(verdict.expires_at, Some(UnixSeconds(1_750_584_633)));
}

#[test]
fn a_manifest_counts_only_as_it_was_signed_while_its_signer_is_valid() {
    let original = file("vbios-96.00.5E.00.01.swidtag");
    let request = GpuCollateral::Manifest("NV_GPU_VBIOS_1010_0200_882_96005E0001".to_owned()).request();
    let judged = |manifest: &[u8], now| {
        let mut collateral = Collateral::none();
        collateral.insert(request.clone(), manifest.to_vec().into());
        let part = sample("hopper-535.86.09");
        let nonce = nonce_of(&part);
        GpuVerifier::new(lenient()).verify(&container(vec![part]), &collateral, &nonce, now)
    };
    let text = std::str::from_utf8(&original).unwrap();
    for (from, to) in [
        ("Hash0=\"c3f65ef7", "Hash0=\"c3f65ef8"),
        ("colloquialVersion=\"96.00.5E.00.01\"", "colloquialVersion=\"96.00.5E.00.02\""),
        (
            "active=\"True\" alternatives=\"1\" ns2:Hash0=\"c3f6",
            "active=\"False\" alternatives=\"1\" ns2:Hash0=\"c3f6",
        ),
        ("</ns0:Payload>", "<ns0:Resource/></ns0:Payload>"),
        ("</ns0:Payload>\n", "</ns0:Payload>"),
        ("URI=\"\"", "URI=\"#x\""),
        ("xmldsig-more#sha384", "xmldsig-more#sha224"),
        ("<ds:DigestValue>D3Bc", "<ds:DigestValue>D3Bd"),
        ("<ds:SignatureValue>s5JY", "<ds:SignatureValue>s5JZ"),
        ("<ds:X509Certificate>MIICkTCC", "<ds:X509Certificate>MIICkTCD"),
        ("GH100\" patch", "GH101\" patch"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        assert_eq!(failures(&judged(changed.as_bytes(), NOW)), ["gpu0.reference_values"], "{from}");
    }
    assert_eq!(failures(&judged(b"<a/>", NOW)), ["gpu0.reference_values"]);
    assert_eq!(failures(&judged(&file("driver-550.144.03.swidtag"), NOW)), ["gpu0.reference_values"]);
    let expired = judged(&original, UnixSeconds(1_750_584_634));
    assert_eq!(failures(&expired), ["gpu0.reference_values"]);
    assert!(judged(&original, UnixSeconds(1_750_584_633)).accepted());
    // What is not signed may differ: space outside the document, and how tags are written.
    let spaced = text.replacen("role=\"softwareCreator", " role=\"softwareCreator", 1);
    assert!(judged(format!("\n{spaced}\n").as_bytes(), NOW).accepted());
}

#[test]
fn the_services_json_around_a_manifest_is_taken_for_its_own_question_only() {
    let request = GpuCollateral::Manifest("NV_GPU_VBIOS_1010_0200_882_96005E0001".to_owned()).request();
    let judged = |id: &str| {
        let rim = STANDARD.encode(file("vbios-96.00.5E.00.01.swidtag"));
        let answer = serde_json::json!({ "id": id, "rim": rim, "sha256": "", "rim_format": "TCG" });
        let mut collateral = Collateral::none();
        collateral.insert(request.clone(), answer.to_string().into());
        judge(lenient(), vec![sample("hopper-535.86.09")], &collateral)
    };
    assert!(judged("NV_GPU_VBIOS_1010_0200_882_96005E0001").accepted());
    assert_eq!(failures(&judged("NV_GPU_VBIOS_1010_0200_882_96005E0002")), ["gpu0.reference_values"]);
}

#[test]
fn a_manifest_runs_out_with_the_first_of_its_certificates() {
    use cocoon_attest::gpu::{manifest_runs_out, status_runs_out};
    // 2025-06-22 09:30:33 and 2026-12-30 16:56:50.
    let manifest = file("vbios-96.00.5E.00.01.swidtag");
    assert_eq!(manifest_runs_out(&manifest), Some(UnixSeconds(1_750_584_633)));
    assert_eq!(manifest_runs_out(&file("driver-550.144.03.swidtag")), Some(UnixSeconds(1_798_649_810)));
    let answer = serde_json::json!({ "id": "any", "rim": STANDARD.encode(&manifest) }).to_string();
    assert_eq!(manifest_runs_out(answer.as_bytes()), Some(UnixSeconds(1_750_584_633)));
    assert_eq!(manifest_runs_out(b"<html></html>"), None);
    assert_eq!(manifest_runs_out(b"{}"), None);
    let mut forged = manifest.to_vec();
    forged.extend_from_slice(b"<more/>");
    assert_eq!(manifest_runs_out(&forged), None);
    assert_eq!(status_runs_out(&manifest), None, "it answers another question");
}

#[test]
fn what_is_needed_is_named_step_by_step() {
    let verifier = GpuVerifier::new(GpuPolicy::default());
    let evidence = one("hopper-535.86.09");
    let first = verifier.collateral_needed(&evidence, &Collateral::none());
    let manifests: Vec<_> = first.iter().filter_map(|request| request.name.strip_prefix("rim/")).collect();
    assert_eq!(manifests, ["NV_GPU_DRIVER_GH100_535.86.09", "NV_GPU_VBIOS_1010_0200_882_96005E0001"]);
    assert_eq!(first.len(), 2 + 3, "the status of device, provisioner and chip authority");
    let second = verifier.collateral_needed(&evidence, &with_vbios_manifest());
    assert_eq!(second.len(), 1 + 3 + 3, "the manifest's signer and its two authorities");
    let blackwell = verifier.collateral_needed(&one("blackwell-575.32"), &Collateral::none());
    let manifests: Vec<_> =
        blackwell.iter().filter_map(|request| request.name.strip_prefix("rim/")).collect();
    assert_eq!(manifests, ["NV_GPU_CC_DRIVER_GB100_575.32", "NV_GPU_VBIOS_G525_0220_886_970088000F"]);
    assert!(first.iter().all(|request| GpuCollateral::of(request).is_some()));
}

#[test]
fn evidence_that_no_gpu_signed_makes_a_node_fetch_nothing() {
    let verifier = GpuVerifier::new(GpuPolicy::default());
    let mut part = sample("hopper-550.90.07");
    let mut report = part.report.to_vec();
    report[100] ^= 1;
    part.report = report.into();
    assert!(verifier.collateral_needed(&container(vec![part]), &Collateral::none()).is_empty());
    assert!(verifier.collateral_needed(b"nothing", &Collateral::none()).is_empty());
}

#[test]
fn values_pinned_off_a_gpu_accept_it_and_what_differs_from_them_is_refused() {
    let part = sample("hopper-550.90.07");
    let pinned = PinnedValues::of(&GpuAttestation::parse(&part.report).unwrap());
    assert!(
        pinned.measurements.iter().all(|measurement| measurement.index != 35),
        "its video decoder is off"
    );
    let policy = |pinned| GpuPolicy {
        revocation: Demand::WhereAvailable,
        pinned: vec![pinned],
        ..GpuPolicy::default()
    };
    let verdict = judge(policy(pinned.clone()), vec![part.clone()], &Collateral::none());
    assert!(verdict.accepted(), "{verdict:#?}");
    assert_eq!(outcome(&verdict, "gpu0.cc_mode"), Outcome::Passed);
    for at in 0..pinned.measurements.len() {
        let mut other = pinned.clone();
        other.measurements[at].digests[0].0[47] ^= 1;
        let verdict = judge(policy(other), vec![part.clone()], &Collateral::none());
        assert_eq!(failures(&verdict), ["gpu0.measurements"]);
        assert_eq!(outcome(&verdict, "gpu0.cc_mode"), Outcome::Skipped);
    }
    let mut for_another = pinned;
    for_another.vbios = "96.00.9F.00.02".parse().unwrap();
    let verdict = judge(policy(for_another), vec![part], &Collateral::none());
    assert_eq!(failures(&verdict), ["gpu0.reference_values"]);
}

#[test]
fn a_changed_bit_anywhere_in_a_report_is_refused() {
    let part = sample("hopper-550.90.07");
    let nonce = nonce_of(&part);
    let verifier = GpuVerifier::new(lenient());
    // Every 13th byte meets every field: blocks are 55 bytes long.
    for at in (0..part.report.len()).step_by(13) {
        let mut report = part.report.to_vec();
        report[at] ^= 0x10;
        let changed = GpuPart { report: report.into(), chain: part.chain.clone() };
        let verdict = verifier.verify(&container(vec![changed]), &Collateral::none(), &nonce, NOW);
        let failed = failures(&verdict);
        assert!(
            failed.contains(&"gpu0.signature") || failed.contains(&"gpu0.format"),
            "byte {at}: {failed:?}"
        );
    }
    for len in (1..part.report.len()).step_by(101) {
        let cut = GpuPart { report: part.report.slice(..len), chain: part.chain.clone() };
        let verdict = verifier.verify(&container(vec![cut]), &Collateral::none(), &nonce, NOW);
        assert_eq!(failures(&verdict), ["gpu0.format"], "cut to {len}");
    }
}

#[test]
fn a_changed_byte_anywhere_in_a_certificate_is_refused() {
    let part = sample("hopper-550.90.07");
    let nonce = nonce_of(&part);
    let verifier = GpuVerifier::new(lenient());
    for which in 0..part.chain.len() {
        for at in (0..part.chain[which].len()).step_by(17) {
            let mut changed = part.clone();
            let mut der = part.chain[which].to_vec();
            der[at] ^= 1;
            changed.chain[which] = der.into();
            let verdict = verifier.verify(&container(vec![changed]), &Collateral::none(), &nonce, NOW);
            assert!(
                failures(&verdict).contains(&"gpu0.certificate_chain"),
                "certificate {which}, byte {at}: {verdict:#?}"
            );
        }
    }
}

#[test]
fn another_gpus_chain_another_nonce_and_a_gpu_twice_are_refused() {
    let [mine, other] = ["hopper-590.12-0", "hopper-590.12-1"].map(sample);
    let policy = || GpuPolicy { allow_protected_pcie: true, ..lenient() };
    let swapped = GpuPart { report: mine.report.clone(), chain: other.chain.clone() };
    assert_eq!(failures(&judge(policy(), vec![swapped], &Collateral::none())), ["gpu0.signature"]);
    let twice = vec![mine.clone(), mine.clone()];
    assert_eq!(failures(&judge(policy(), twice, &Collateral::none())), ["unique"]);
    let verdict = GpuVerifier::new(policy()).verify(
        &container(vec![mine.clone(), other]),
        &Collateral::none(),
        &[7; 32],
        NOW,
    );
    assert_eq!(failures(&verdict), ["gpu0.nonce", "gpu1.nonce"]);
    let unlike = vec![mine, sample("hopper-550.90.07")];
    assert_eq!(failures(&judge(policy(), unlike, &Collateral::none())), ["same_mode", "gpu1.nonce"]);
}

#[test]
fn before_their_certificates_begin_gpus_are_refused() {
    let part = sample("hopper-550.90.07");
    let nonce = nonce_of(&part);
    let verify = |now| {
        GpuVerifier::new(lenient()).verify(&container(vec![part.clone()]), &Collateral::none(), &nonce, now)
    };
    // 2022-03-01 00:00:00, when the provisioner's certificate begins.
    assert_eq!(failures(&verify(UnixSeconds(1_646_092_799))), ["gpu0.validity"]);
    assert!(verify(UnixSeconds(1_646_092_800)).accepted());
}

#[test]
fn a_verdict_survives_serialisation() {
    let verdict = judge(lenient(), vec![sample("hopper-535.86.09")], &with_vbios_manifest());
    let text = serde_json::to_string(&verdict).unwrap();
    assert_eq!(serde_json::from_str::<GpuVerdict>(&text).unwrap(), verdict);
}

#[test]
fn a_policy_is_read_strictly_and_is_strict_where_it_is_silent() {
    let read = serde_json::from_str::<GpuPolicy>;
    assert_eq!(read("{}").unwrap(), GpuPolicy::default());
    let policy = read(
        r#"{"revocation": "where_available", "min_driver": "550.90.07", "min_vbios": {"GH100": "96.00.9F.00.01"}}"#,
    );
    let policy = policy.unwrap();
    assert_eq!((policy.revocation, policy.reference_values), (Demand::WhereAvailable, Demand::Required));
    for wrong in
        [r#"{"revokation": "required"}"#, r#"{"min_driver": "new"}"#, r#"{"reference_values": "no"}"#]
    {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn pinned_values_can_be_written_into_an_operators_file() {
    let part = sample("hopper-535.86.09");
    let pinned = PinnedValues::of(&GpuAttestation::parse(&part.report).unwrap());
    let policy = GpuPolicy { pinned: vec![pinned], ..lenient() };
    let text = toml::to_string(&policy).unwrap();
    assert!(text.contains("driver = \"535.86.09\""), "{text}");
    assert_eq!(toml::from_str::<GpuPolicy>(&text).unwrap(), policy);
    let by_hand = format!(
        "reference_values = \"required\"\n[[pinned]]\ndriver = \"550.90.07\"\nvbios = \"96.00.9f.00.01\"\n\
         measurements = [{{ index = 9, digests = [\"{}\"] }}]\n",
        "0a".repeat(48)
    );
    assert_eq!(
        toml::from_str::<GpuPolicy>(&by_hand).unwrap().pinned[0].measurements[0].digests[0].0,
        [10; 48]
    );
}

#[test]
fn the_nonce_binds_purpose_report_data_and_cpu_evidence() {
    use sha2::{Digest as _, Sha256};
    let data = cocoon_attest::ReportData([3; 64]);
    let spelt_out = [&b"cocoon gpu evidence 1"[..], &[3; 64], &Sha256::digest(b"quote")].concat();
    assert_eq!(cocoon_attest::gpu::nonce(&data, b"quote"), <[u8; 32]>::from(Sha256::digest(spelt_out)));
    assert_ne!(cocoon_attest::gpu::nonce(&data, b"quote"), cocoon_attest::gpu::nonce(&data, b"quotf"));
}
