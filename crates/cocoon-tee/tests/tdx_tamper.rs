//! What a forger may try with TDX evidence, each with the check that must catch it.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::LazyLock;

use bytes::Bytes;
use cocoon_attest::tdx::{Td15Measurements, TdBody, check, collateral};
use cocoon_attest::{Collateral, CollateralRequest, ReportData, UnixSeconds, Verdict};
use cocoon_tee::simulated::pki::{Identity, Profile, TestKey};
use cocoon_tee::simulated::tdx::{
    Level, MachineForm, Published, QuoteForm, SimulatedIntel, SimulatedMachine,
};
use support::{Case, DAY, ISSUED, NOW, detail, failures};

const FMSPC: [u8; 6] = *b"\xff\x00SIM\x00";

/// Requires that exactly these checks fail.
#[track_caller]
fn refused(verdict: &Verdict, expected: &[&str], what: &str) {
    assert_eq!(failures(verdict), expected, "{what}: {verdict:#?}");
    assert!(!verdict.accepted() && verdict.expires_at.is_none(), "{what}: {verdict:#?}");
}

fn platform_list() -> CollateralRequest {
    collateral::pck_crl(collateral::PckAuthority::Platform)
}

/// All requests, each with the checks that fail with it.
fn requests() -> [(CollateralRequest, &'static [&'static str]); 4] {
    [
        // Without the root's list nothing says that the signer of the other two is not revoked.
        (collateral::root_crl(), &[check::ROOT_CRL, check::TCB_INFO, check::QE_IDENTITY]),
        (platform_list(), &[check::PCK_CRL]),
        (collateral::tcb_info(FMSPC), &[check::TCB_INFO]),
        (collateral::qe_identity(), &[check::QE_IDENTITY]),
    ]
}

#[test]
fn a_change_to_any_field_of_the_quote_is_refused() {
    const SIGNATURE: &[&str] = &[check::QUOTE_SIGNATURE];
    let fields: &[(&str, usize, &[&str])] = &[
        ("version", 0, &[check::QUOTE_FORMAT]),
        ("attestation key type", 2, &[check::QUOTE_FORMAT]),
        ("TEE type", 4, &[check::QUOTE_FORMAT]),
        ("QE SVN", 8, SIGNATURE),
        ("PCE SVN", 10, SIGNATURE),
        ("vendor", 12, &[check::QUOTE_FORMAT]),
        ("user data", 28, SIGNATURE),
        // 6 becomes 7, which satisfies the same levels.
        ("tee_tcb_svn", 48, SIGNATURE),
        ("mr_seam", 64, SIGNATURE),
        ("mr_signer_seam", 112, &[check::QUOTE_SIGNATURE, check::TDX_MODULE]),
        ("seam_attributes", 160, &[check::QUOTE_SIGNATURE, check::TDX_MODULE]),
        ("td_attributes", 168, &[check::QUOTE_SIGNATURE, check::TD_ATTRIBUTES]),
        ("xfam", 176, &[check::QUOTE_SIGNATURE, check::XFAM]),
        ("mr_td", 184, SIGNATURE),
        ("mr_config_id", 232, SIGNATURE),
        ("mr_owner", 280, SIGNATURE),
        ("mr_owner_config", 328, SIGNATURE),
        ("rtmr0", 376, SIGNATURE),
        ("rtmr1", 424, SIGNATURE),
        ("rtmr2", 472, SIGNATURE),
        ("rtmr3", 520, SIGNATURE),
        ("report_data", 568, &[check::QUOTE_SIGNATURE, check::BINDING]),
        ("length of the signature data", 632, &[check::QUOTE_FORMAT]),
        ("signature", 636, SIGNATURE),
        ("attestation key", 700, SIGNATURE),
        ("outer certification type", 764, &[check::QUOTE_FORMAT]),
        ("outer certification length", 766, &[check::QUOTE_FORMAT]),
        ("QE's cpu_svn", 770, SIGNATURE),
        ("QE's misc_select", 786, &[check::QUOTE_SIGNATURE, check::QE_IDENTITY]),
        ("QE's attributes", 818, &[check::QUOTE_SIGNATURE, check::QE_IDENTITY]),
        ("QE's mr_enclave", 834, SIGNATURE),
        ("QE's mr_signer", 898, &[check::QUOTE_SIGNATURE, check::QE_IDENTITY]),
        ("QE's product", 1026, &[check::QUOTE_SIGNATURE, check::QE_IDENTITY]),
        // 4 becomes 5, which satisfies the same levels.
        ("QE's svn", 1028, SIGNATURE),
        ("QE's report data", 1090, SIGNATURE),
        ("QE report's signature", 1154, SIGNATURE),
        ("length of the authentication data", 1218, &[check::QUOTE_FORMAT]),
        ("authentication data", 1220, SIGNATURE),
        ("certification type", 1252, &[check::CERTIFICATE_CHAIN]),
        ("certification length", 1254, &[check::QUOTE_FORMAT]),
        ("start of the certificates", 1258, &[check::CERTIFICATE_CHAIN]),
    ];
    let case = Case::new();
    let quote = case.quote();
    for (field, at, expected) in fields {
        let mut changed = quote.clone();
        changed[*at] ^= 1;
        refused(&case.judge_quote(changed), expected, field);
    }
}

#[test]
fn a_quote_cut_anywhere_or_with_anything_after_it_is_refused() {
    let case = Case { form: QuoteForm::V5(TdBody::Td15Extended), ..Case::new() };
    let quote = case.quote();
    for len in (0..quote.len()).step_by(13).chain([quote.len() - 1]) {
        refused(&case.judge_quote(quote[..len].to_vec()), &[check::QUOTE_FORMAT], &format!("cut to {len}"));
    }
    let followed = [&quote[..], &[0, 0, 1]].concat();
    refused(&case.judge_quote(followed), &[check::QUOTE_FORMAT], "bytes after it");
    let mut long = quote;
    long.resize(cocoon_attest::MAX_QUOTE_LEN + 1, 0);
    refused(&case.judge_quote(long), &[check::QUOTE_FORMAT], "padded over the limit");
}

#[test]
fn a_change_to_any_byte_of_a_platforms_certificates_is_refused() {
    let case = Case::new();
    for (which, identity) in [(0, case.machine.platform()), (1, case.intel.authority())] {
        let der = identity.certificate();
        for at in (0..der.len()).step_by(5) {
            let mut changed = der.to_vec();
            changed[at] ^= 1;
            let mut chain = [case.machine.platform().pem(), case.intel.authority().pem()];
            chain[which] = pem(&changed);
            let machine = case.machine.clone().with_platform(case.machine.platform().clone(), chain.concat());
            let verdict = Case { machine, ..Case::new() }.judge();
            // The platform's key may be the one changed, so the next check may fail as well.
            let first = verdict.first_failure().map(|check| check.name.as_str());
            assert_eq!(first, Some(check::CERTIFICATE_CHAIN), "certificate {which}, byte {at}: {verdict:#?}");
        }
    }
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

#[test]
fn every_bit_of_the_attributes_that_is_not_allowed_is_refused_though_signed() {
    for bit in 0..64 {
        let mut case = Case::new();
        case.td.td_attributes = (1_u64 << 28 | 1 << bit).to_le_bytes();
        // SEPT_VE_DISABLE, ICSSD, LASS, PKS, PERFMON.
        if [16, 27, 28, 30, 63].contains(&bit) {
            assert!(case.judge().accepted(), "bit {bit}: {:#?}", case.judge());
        } else {
            refused(&case.judge(), &[check::TD_ATTRIBUTES], &format!("bit {bit}"));
        }
    }
    let mut case = Case::new();
    case.td.td_attributes[0] |= 1;
    let verdict = case.judge();
    assert!(detail(&verdict, check::TD_ATTRIBUTES).starts_with("DEBUG set"), "{verdict:#?}");
    case.td.td_attributes = [0; 8];
    refused(&case.judge(), &[check::TD_ATTRIBUTES], "without SEPT_VE_DISABLE");
}

#[test]
fn every_feature_that_is_not_allowed_is_refused_though_signed() {
    for bit in 0..64 {
        let mut case = Case::new();
        case.td.xfam = (0b11_u64 | 1 << bit).to_le_bytes();
        if 0x0006_dbe7_u64 >> bit & 1 == 1 {
            assert!(case.judge().accepted(), "bit {bit}: {:#?}", case.judge());
        } else {
            refused(&case.judge(), &[check::XFAM], &format!("bit {bit}"));
        }
    }
    let mut case = Case::new();
    case.td.xfam = [0; 8];
    refused(&case.judge(), &[check::XFAM], "without x87 and SSE");
}

#[test]
fn a_trust_domain_that_another_one_may_move_is_refused() {
    let alone = Td15Measurements {
        tee_tcb_svn2: Case::new().td.tee_tcb_svn,
        mr_service_td: [0; 48],
        current_service_td: [0; 48],
    };
    let mut bound = Case { form: QuoteForm::V5(TdBody::Td15), ..Case::new() };
    bound.td.td15 = Some(Td15Measurements { mr_service_td: [1; 48], ..alone });
    refused(&bound.judge(), &[check::SERVICE_TD], "bound at creation");
    let mut later = Case { form: QuoteForm::V5(TdBody::Td15Extended), ..Case::new() };
    later.td.td15 = Some(Td15Measurements { current_service_td: [1; 48], ..alone });
    refused(&later.judge(), &[check::SERVICE_TD], "bound later");
}

#[test]
fn another_or_older_tdx_module_is_refused() {
    let with = |change: &dyn Fn(&mut Case)| {
        let mut case = Case::new();
        change(&mut case);
        case.judge()
    };
    let module = &[check::TDX_MODULE][..];
    refused(&with(&|case| case.td.mr_signer_seam[5] = 1), module, "another signer");
    refused(&with(&|case| case.td.seam_attributes[0] = 1), module, "a debug module");
    let listed = |case: &mut Case, module| case.policy.tdx_modules = Some([module].into());
    refused(&with(&|case| listed(case, [1; 48])), module, "a module off the list");
    assert!(with(&|case| listed(case, case.td.mr_seam)).accepted());
    let unknown = with(&|case| case.td.tee_tcb_svn[1] = 9);
    refused(&unknown, &[check::TDX_MODULE, check::TCB_STATUS], "a module Intel does not know");
    for svn in [4, 5] {
        refused(&with(&|case| case.td.tee_tcb_svn[0] = svn), &[check::TCB_STATUS], "an old module");
    }
    refused(&with(&|case| case.td.tee_tcb_svn[0] = 1), &[check::TCB_STATUS], "a module below all levels");
    refused(&with(&|case| case.td.tee_tcb_svn[2] = 1), &[check::TCB_STATUS], "an old platform");
}

#[test]
fn another_or_older_quoting_enclave_is_refused() {
    let with = |form: MachineForm| {
        let mut case = Case::new();
        case.machine = case.intel.machine_of(&form);
        case.judge()
    };
    let usual = MachineForm::default();
    let mut debug = usual.clone();
    debug.qe_attributes[0] |= 2;
    refused(&with(debug), &[check::QE_IDENTITY], "a debug enclave");
    refused(
        &with(MachineForm { qe_signer: [9; 32], ..usual.clone() }),
        &[check::QE_IDENTITY],
        "another signer",
    );
    for qe_svn in [0, 3] {
        refused(&with(MachineForm { qe_svn, ..usual.clone() }), &[check::TCB_STATUS], "an old enclave");
    }
}

#[test]
fn evidence_of_another_key_machine_or_vendor_is_refused() {
    let case = Case::new();
    let stolen = case.machine.quote(case.form, &case.td, &ReportData::for_key(&[2; 32]));
    refused(&case.judge_quote(stolen), &[check::BINDING], "a quote for another key");

    let other = case.intel.machine(2);
    let machine =
        case.machine.clone().with_platform(case.machine.platform().clone(), other.chain().to_owned());
    let verdict = Case { machine, ..Case::new() }.judge();
    refused(&verdict, &[check::QUOTE_SIGNATURE], "another machine's certificates");

    // The other machine's enclave vouches for its own key, not for that which signed the quote.
    let (mine, theirs) = (case.quote(), other.quote(case.form, &case.td, &ReportData::for_key(&case.key)));
    let spliced = [&mine[..764], &theirs[764..]].concat();
    refused(&case.judge_quote(spliced), &[check::QUOTE_SIGNATURE], "another machine's enclave");

    let imposter = SimulatedIntel::from_seed(&[8; 32]);
    let verdict = Case { machine: imposter.machine(1), ..Case::new() }.judge();
    refused(&verdict, &[check::CERTIFICATE_CHAIN], "another vendor's machine");
    let verdict = Case { collateral: imposter.collateral(ISSUED), ..Case::new() }.judge();
    let all = [check::ROOT_CRL, check::PCK_CRL, check::TCB_INFO, check::QE_IDENTITY];
    refused(&verdict, &all, "another vendor's collateral");
}

/// The usual machine, certified by a chain that something is wrong with.
fn certified(leaf: Identity, above: &[&Identity]) -> SimulatedMachine {
    let mut chain = leaf.pem();
    chain.extend(above.iter().map(|identity| identity.pem()));
    Case::new().machine.with_platform(leaf, chain)
}

#[test]
fn certificates_by_those_who_may_not_issue_them_are_refused() {
    let case = Case::new();
    let intel = &case.intel;
    let key = || TestKey::derive(&[3; 32], "forged");
    let profile = |name: &str, authority| Profile {
        name: name.to_owned(),
        serial: vec![99],
        from: UnixSeconds(0),
        to: SimulatedIntel::ROOT_ENDS,
        authority,
        extensions: Vec::new(),
    };
    let mut described = Profile::clone(case.machine.platform().profile());
    described.serial = vec![98];
    let leaf = |issuer: &Identity| issuer.issue(key(), described.clone());
    let (root, authority, signer) = (intel.root(), intel.authority(), intel.signer());
    let false_authority = signer.issue(key(), profile("Intel SGX PCK Platform CA", Some(0)));
    let below = authority.issue(key(), profile("Intel SGX PCK Platform CA", Some(0)));
    let own_root = Identity::root(key(), profile("Intel SGX Root CA", Some(1)));
    let own_authority = own_root.issue(key(), profile("Intel SGX PCK Platform CA", Some(0)));
    let undescribed = authority.issue(key(), profile("Intel SGX PCK Certificate", None));
    let mut as_authority = described.clone();
    as_authority.authority = Some(0);
    let mut future = described.clone();
    future.from = NOW.plus(DAY);
    for (what, machine) in [
        ("a leaf by the TCB signer", certified(leaf(signer), &[signer, root])),
        ("a leaf by the root itself", certified(leaf(root), &[root])),
        ("an authority by the TCB signer", certified(leaf(&false_authority), &[&false_authority, signer])),
        ("an authority below the authority", certified(leaf(&below), &[&below, authority])),
        ("a root of one's own", certified(leaf(&own_authority), &[&own_authority, &own_root])),
        ("a leaf by another of the same name", certified(leaf(&own_authority), &[authority, root])),
        ("a leaf that describes no platform", certified(undescribed, &[authority, root])),
        ("a leaf that is an authority", certified(authority.issue(key(), as_authority), &[authority, root])),
        ("a leaf of the future", certified(authority.issue(key(), future), &[authority, root])),
        ("a leaf alone", certified(leaf(authority), &[])),
        ("an authority alone", certified(authority.clone(), &[root])),
    ] {
        refused(&Case { machine, ..Case::new() }.judge(), &[check::CERTIFICATE_CHAIN], what);
    }
    let verdict = Case { machine: certified(leaf(authority), &[authority]), ..Case::new() }.judge();
    assert!(verdict.accepted(), "the root need not come along: {verdict:#?}");
}

#[test]
fn revoked_certificates_are_refused() {
    let intel = Case::new().intel;
    let usual = || Published::usual(ISSUED);
    let platform = vec![intel.machine(1).platform().serial().to_vec()];
    let by_root = |identity: &Identity| vec![identity.serial().to_vec()];
    let without_root = &[check::ROOT_CRL, check::TCB_INFO, check::QE_IDENTITY][..];
    for (what, published, expected) in [
        ("platform", Published { revoked_platforms: platform, ..usual() }, &[check::PCK_CRL][..]),
        ("authority", Published { revoked_by_root: by_root(intel.authority()), ..usual() }, without_root),
        ("root", Published { revoked_by_root: by_root(intel.root()), ..usual() }, without_root),
        (
            "signer",
            Published { revoked_by_root: by_root(intel.signer()), ..usual() },
            &[check::TCB_INFO, check::QE_IDENTITY],
        ),
    ] {
        refused(&Case { collateral: intel.publish(&published), ..Case::new() }.judge(), expected, what);
    }
    let others = Published { revoked_platforms: vec![vec![1], vec![0x80, 2]], ..usual() };
    assert!(Case { collateral: intel.publish(&others), ..Case::new() }.judge().accepted());
}

#[test]
fn each_answer_alone_must_be_of_now() {
    let intel = Case::new().intel;
    for (request, expected) in requests() {
        for (what, issued) in [("expired", UnixSeconds(NOW.0 - 31 * DAY)), ("of the future", NOW.plus(60))] {
            let other = intel.collateral(issued);
            let mut collateral = intel.collateral(ISSUED);
            collateral.insert(request.clone(), other.get(&request).unwrap().clone());
            let verdict = Case { collateral, ..Case::new() }.judge();
            refused(&verdict, expected, &format!("{} {what}", request.name));
        }
    }
}

#[test]
fn certificates_expire_each_on_its_own_day() {
    let at = |now: UnixSeconds, ends: UnixSeconds| {
        let mut case = Case::new();
        case.machine = case.intel.machine_of(&MachineForm { ends, ..MachineForm::default() });
        case.collateral = case.intel.collateral(UnixSeconds(now.0 - 3_600));
        case.now = now;
        case.judge()
    };
    let last = SimulatedIntel::ROOT_ENDS;
    let short = at(NOW, UnixSeconds(NOW.0 - 1));
    refused(&short, &[check::CERTIFICATE_CHAIN], "platform");
    assert!(at(NOW, NOW.plus(60)).accepted());
    let signer = SimulatedIntel::SIGNER_ENDS;
    assert!(at(signer, last).accepted());
    refused(&at(signer.plus(1), last), &[check::TCB_INFO, check::QE_IDENTITY], "signer");
    refused(&at(SimulatedIntel::AUTHORITY_ENDS.plus(1), last), &[check::CERTIFICATE_CHAIN], "authority");
    refused(&at(last.plus(1), last), &[check::CERTIFICATE_CHAIN], "root");
    // A verdict holds no longer than the first certificate.
    assert_eq!(at(NOW, NOW.plus(60)).expires_at, Some(NOW.plus(60)));
}

#[test]
fn a_change_anywhere_in_an_answer_or_a_cut_is_refused() {
    let case = Case::new();
    for (request, expected) in requests() {
        let answer = case.collateral.get(&request).unwrap();
        // Certificates after the signer's come along and count for nothing.
        let text = String::from_utf8_lossy(answer);
        let ignored = match text.find("-----END") {
            Some(end) => end..text.find("\n{").unwrap(),
            None => 0..0,
        };
        let positions = (0..answer.len()).step_by(31).filter(|at| !ignored.contains(at));
        for at in positions {
            let mut changed = answer.to_vec();
            changed[at] ^= 1;
            refused(&judge_with(&request, changed), expected, &format!("{} byte {at}", request.name));
            refused(&judge_with(&request, answer[..at].to_vec()), expected, &format!("cut at {at}"));
        }
        let long = [answer, &vec![b' '; collateral::MAX_ANSWER_LEN][..]].concat();
        refused(&judge_with(&request, long), &[check::COLLATERAL], "an answer over the limit");
    }
}

fn judge_with(request: &CollateralRequest, answer: Vec<u8>) -> Verdict {
    static QUOTE: LazyLock<Vec<u8>> = LazyLock::new(|| Case::new().quote());
    let mut case = Case::new();
    case.collateral.insert(request.clone(), answer.into());
    case.judge_quote(QUOTE.clone())
}

#[test]
fn answers_to_other_requests_are_refused() {
    let case = Case::new();
    let swapped = |one: CollateralRequest, other: CollateralRequest| {
        let mut collateral: Collateral = case.collateral.clone();
        let answers = [&one, &other].map(|request| case.collateral.get(request).unwrap().clone());
        let [first, second] = answers;
        collateral.insert(one, second);
        collateral.insert(other, first);
        Case { collateral, ..Case::new() }.judge()
    };
    let verdict = swapped(collateral::tcb_info(FMSPC), collateral::qe_identity());
    refused(&verdict, &[check::TCB_INFO, check::QE_IDENTITY], "TCB information and QE identity");
    let verdict = swapped(collateral::root_crl(), platform_list());
    let all = [check::ROOT_CRL, check::PCK_CRL, check::TCB_INFO, check::QE_IDENTITY];
    refused(&verdict, &all, "revocation lists");

    let other = Published { fmspc: [1; 6], ..Published::usual(ISSUED) };
    let answer = case.intel.sign_answer("tcbInfo", &other.tcb_info().to_string());
    let verdict = judge_with(&collateral::tcb_info(FMSPC), answer.to_vec());
    refused(&verdict, &[check::TCB_INFO], "TCB information about another model");
}

#[test]
fn answers_by_other_signers_below_the_same_root_are_refused() {
    let case = Case::new();
    let usual = Published::usual(ISSUED);
    for (what, signer) in [("a platform", case.machine.platform()), ("the authority", case.intel.authority())]
    {
        for (request, member, content) in [
            (collateral::tcb_info(FMSPC), "tcbInfo", usual.tcb_info().to_string()),
            (collateral::qe_identity(), "enclaveIdentity", usual.qe_identity().to_string()),
        ] {
            let signature = hex::encode(signer.key().sign(content.as_bytes()));
            let body = format!("{{\"{member}\":{content},\"signature\":\"{signature}\"}}");
            let chain = signer.pem() + &case.intel.authority().pem();
            let answer: Bytes = collateral::signed_answer(&chain, body.as_bytes());
            let failed = if member == "tcbInfo" { check::TCB_INFO } else { check::QE_IDENTITY };
            refused(&judge_with(&request, answer.to_vec()), &[failed], what);
        }
    }
    let list = case.intel.signer().revoke(&[], ISSUED, NOW.plus(DAY));
    refused(&judge_with(&platform_list(), list), &[check::PCK_CRL], "a list by the signer");
}

#[test]
fn older_collateral_that_still_holds_is_refused_where_the_policy_demands_newer() {
    let mut case = Case::new();
    case.policy.min_tcb_evaluation = 21;
    refused(&case.judge(), &[check::TCB_INFO, check::QE_IDENTITY], "evaluation 20");
    let newer = Published { evaluation: 21, ..Published::usual(ISSUED) };
    case.collateral = case.intel.publish(&newer);
    assert!(case.judge().accepted());
}

#[test]
fn a_platform_below_every_level_is_refused_with_what_it_lacks() {
    let mut case = Case::new();
    let mut info = Published::usual(ISSUED);
    info.platform = Level::new(cocoon_attest::tdx::TcbStatus::UpToDate, ISSUED);
    let mut content = info.tcb_info();
    content["tcbLevels"][0]["tcb"]["pcesvn"] = 14.into();
    let answer = case.intel.sign_answer("tcbInfo", &content.to_string());
    case.collateral.insert(collateral::tcb_info(FMSPC), answer);
    let verdict = case.judge();
    refused(&verdict, &[check::TCB_STATUS], "PCE 13 of 14");
    assert!(detail(&verdict, check::TCB_STATUS).ends_with("PceSvn is 13 of 14"), "{verdict:#?}");
}
