//! The vendors of a test network together: whom its nodes trust, what its machines show, what is fetched about them.

use std::sync::Arc;

use bytes::Bytes;
use cocoon_attest::snp::{SnpPolicy, SnpProduct, SnpRoots, SnpTcb, SnpVerifier};
use cocoon_attest::{
    Collateral, CollateralRequest, Evidence, EvidenceKind, EvidenceSource, ReportData, TestRoots,
    UnixSeconds, Verifier as _,
};
use sha2::{Digest as _, Sha256};

use super::nvidia::{SimulatedGpus, SimulatedNvidia};
use super::pki::pem;
use super::snp::{SimulatedAmd, SimulatedSnp, Span};
use super::tdx::{QuoteForm, SimulatedIntel, SimulatedTdx, trust_domain};
use crate::sealing::SimulatedSealing;

/// How many machines a test network has at most, as far as their certificates can be fetched.
pub const MAX_MACHINES: u32 = 256;
/// How many GPUs a machine has at most.
const MAX_GPUS: u32 = 16;
const DAY_SECONDS: u64 = 86_400;
/// How long a simulated revocation list of AMD's is current.
const LIST_DAYS: u64 = 30;

/// Intel, AMD and NVIDIA of one test network. All of it follows from the network's seed, but for AMD's authorities: their keys
/// are the same in every test network and public, because RSA keys take too long to make.
#[derive(Clone)]
pub struct Vendors {
    seed: [u8; 32],
    intel: SimulatedIntel,
    nvidia: SimulatedNvidia,
}

impl Vendors {
    /// The vendors of the test network with this seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let intel_seed = Sha256::new_with_prefix("simulated vendors: Intel").chain_update(seed).finalize();
        let nvidia_seed = Sha256::new_with_prefix("simulated vendors: NVIDIA").chain_update(seed).finalize();
        Self {
            seed: *seed,
            intel: SimulatedIntel::from_seed(&intel_seed.into()),
            nvidia: SimulatedNvidia::from_seed(&nvidia_seed.into()),
        }
    }

    /// The root for [`TdxVerifier::with_test_root`](cocoon_attest::tdx::TdxVerifier::with_test_root), DER.
    #[must_use]
    pub fn tdx_root(&self) -> &[u8] {
        self.intel.root_certificate()
    }

    /// The roots for [`SnpVerifier::with_roots`].
    #[must_use]
    pub fn snp_roots(&self) -> SnpRoots {
        SimulatedAmd::roots()
    }

    /// The roots of all of them.
    #[must_use]
    pub fn test_roots(&self) -> TestRoots {
        TestRoots {
            intel: Some(self.tdx_root().to_vec()),
            amd: SimulatedAmd::root_keys().to_vec(),
            nvidia: Some(self.nvidia.roots()),
        }
    }

    /// Intel.
    #[must_use]
    pub fn intel(&self) -> &SimulatedIntel {
        &self.intel
    }

    /// NVIDIA.
    #[must_use]
    pub fn nvidia(&self) -> &SimulatedNvidia {
        &self.nvidia
    }

    /// The GPUs of the machine of this number; no two machines have one in common.
    #[must_use]
    pub fn gpus(&self, number: u32, count: u8) -> SimulatedGpus {
        self.nvidia.source(number.saturating_mul(MAX_GPUS), count)
    }

    /// The TCB that this network's SNP machines have, as floors for
    /// [`SnpPolicy::with_floors`](cocoon_attest::snp::SnpPolicy::with_floors).
    #[must_use]
    pub fn snp_floors(&self) -> [(SnpProduct, SnpTcb); 3] {
        SnpProduct::ALL.map(|product| {
            let usual = SimulatedSnp::new(product, &self.seed, b"");
            (product, SnpTcb::read(usual.report.committed_tcb, product))
        })
    }

    /// A trust domain with this image on the machine of this number.
    #[must_use]
    pub fn tdx(&self, number: u32, image: &str) -> SimulatedTdx {
        self.tdx_of_form(QuoteForm::V4, number, image)
    }

    /// The same, with quotes of this form.
    #[must_use]
    pub fn tdx_of_form(&self, form: QuoteForm, number: u32, image: &str) -> SimulatedTdx {
        self.intel.machine(number).source(form, trust_domain(image))
    }

    /// A guest with this image on the machine of this number. The number tells the product line, too: Genoa and Turin in
    /// turn, which the usual policy accepts. As with most hosts, the chip's certificate comes along, and the revocation list does not.
    #[must_use]
    pub fn snp(&self, number: u32, image: &str) -> SimulatedSnp {
        let product = if number.is_multiple_of(2) { SnpProduct::Genoa } else { SnpProduct::Turin };
        let seed = Sha256::new_with_prefix("simulated vendors: AMD machine")
            .chain_update(self.seed)
            .chain_update(number.to_le_bytes())
            .finalize();
        let mut machine = SimulatedSnp::new(product, &seed.into(), image.as_bytes());
        machine.listed = None;
        machine
    }

    /// Evidence of this kind from the machine of this number with this image; `None` where nobody simulates the kind.
    #[must_use]
    pub fn source(&self, kind: EvidenceKind, number: u32, image: &str) -> Option<Arc<dyn EvidenceSource>> {
        match kind {
            EvidenceKind::Tdx => Some(Arc::new(self.tdx(number, image))),
            EvidenceKind::SevSnp => Some(Arc::new(self.snp(number, image))),
            _ => None,
        }
    }

    /// The hash by which this image is listed among the allowed ones, for evidence of this kind; `None` where nobody
    /// simulates the kind. It is the same on all machines.
    #[must_use]
    pub fn image_hash(&self, kind: EvidenceKind, image: &str) -> Option<[u8; 32]> {
        match kind {
            EvidenceKind::Tdx => Some(trust_domain(image).image_hash()),
            EvidenceKind::SevSnp => Some(self.snp(0, image).report.image_hash()),
            _ => None,
        }
    }

    /// The sealed keys of the machine of this number with this image.
    #[must_use]
    pub fn sealing(&self, number: u32, image: &str) -> SimulatedSealing {
        SimulatedSealing::new(&self.seed, number, image.as_bytes())
    }

    /// What the vendors answer to these requests at this time. Requests for what they do not have stay unanswered.
    #[must_use]
    pub fn collateral(&self, requests: &[CollateralRequest], now: UnixSeconds) -> Collateral {
        let mut answers = Collateral::none();
        for request in requests {
            if let Some(answer) = self.answer(request, now) {
                answers.insert(request.clone(), answer);
            }
        }
        answers
    }

    /// What they answer to one request. Everything dated is issued at the beginning of the day (UTC), so that two nodes
    /// are given the same.
    #[must_use]
    pub fn answer(&self, request: &CollateralRequest, now: UnixSeconds) -> Option<Bytes> {
        let today = UnixSeconds(now.0 - now.0 % DAY_SECONDS);
        match request.kind {
            EvidenceKind::Tdx => self.intel.collateral(today).get(request).cloned(),
            EvidenceKind::SevSnp => self.answer_of_amd(&request.name, today),
            EvidenceKind::NvidiaGpu => {
                self.nvidia.collateral(std::slice::from_ref(request), now).get(request).cloned()
            }
            _ => None,
        }
    }

    fn answer_of_amd(&self, name: &str, today: UnixSeconds) -> Option<Bytes> {
        let (family, rest) = name.split_once("/v1/")?;
        let (product, item) = rest.split_once('/')?;
        let product = SnpProduct::ALL.into_iter().find(|known| known.name() == product)?;
        let amd = SimulatedAmd::new(product);
        let authority = match family {
            "vcek" => amd.ask(),
            "vlek" => amd.asvk(),
            _ => return None,
        };
        match item {
            "cert_chain" => Some((pem(authority) + &pem(amd.ark())).into()),
            "crl" => {
                let current = Span { from: today, to: today.plus(LIST_DAYS * DAY_SECONDS) };
                Some(amd.revocation_list(current, &[]).into())
            }
            _ if family == "vcek" => self.endorsement(&amd, item, name),
            _ => None,
        }
    }

    /// The certificate of one of the network's machines, asked for by its chip and TCB.
    fn endorsement(&self, amd: &SimulatedAmd, item: &str, name: &str) -> Option<Bytes> {
        let (chip, _tcb) = item.split_once('?')?;
        let chip = hex::decode(chip).ok().filter(|chip| !chip.is_empty())?;
        let mut machines = (0..MAX_MACHINES).map(|number| self.snp(number, ""));
        let machine =
            machines.find(|machine| machine.amd() == amd && machine.report.chip_id.starts_with(&chip))?;
        // The verifier's own words for what it lacks, so that no other chip or TCB is answered for.
        let report = machine.signed_report(&ReportData([0; ReportData::LEN])).to_vec();
        let policy = SnpPolicy::with_floors(self.snp_floors());
        let needed = SnpVerifier::with_roots(policy, self.snp_roots())
            .collateral_needed(&Evidence::new(EvidenceKind::SevSnp, report.into()));
        needed.iter().any(|request| request.name == name).then(|| machine.endorsement().into())
    }
}

#[cfg(test)]
mod tests {
    use cocoon_attest::snp::SnpEvidence;
    use cocoon_attest::tdx::{TdxPolicy, TdxVerifier};
    use cocoon_attest::{OperatorPolicy, Verdict, Verifier, VerifierSet};

    use super::*;
    use crate::WithGpus;

    const DATA: ReportData = ReportData([0x5a; 64]);
    /// In the middle of a day.
    const NOW: UnixSeconds = UnixSeconds(1_795_228_887);

    fn vendors(seed: u8) -> Vendors {
        Vendors::from_seed(&[seed; 32])
    }

    fn verifiers(vendors: &Vendors) -> VerifierSet {
        let tdx = TdxVerifier::new(TdxPolicy::strict()).with_test_root(vendors.tdx_root()).unwrap();
        let snp = SnpVerifier::with_roots(SnpPolicy::with_floors(vendors.snp_floors()), vendors.snp_roots());
        VerifierSet::new().with(EvidenceKind::Tdx, Arc::new(tdx)).with(EvidenceKind::SevSnp, Arc::new(snp))
    }

    fn judge(vendors: &Vendors, evidence: &Evidence, now: UnixSeconds) -> Verdict {
        let verifiers = verifiers(vendors);
        let needed = verifiers.collateral_needed(evidence);
        assert!(!needed.is_empty(), "something is to be fetched, as in production");
        verifiers.verify(evidence, &vendors.collateral(&needed, now), &DATA, now)
    }

    #[test]
    fn every_machine_of_a_network_is_accepted_there_with_its_image() {
        let network = vendors(7);
        for kind in [EvidenceKind::Tdx, EvidenceKind::SevSnp] {
            for number in 0..4 {
                let source = network.source(kind, number, "worker").unwrap();
                assert!(source.is_simulated() && source.kind() == kind);
                let verdict = judge(&network, &source.evidence(&DATA).unwrap(), NOW);
                assert!(verdict.accepted(), "{kind} {number}: {:?}", verdict.first_failure());
                assert_eq!(verdict.image_hash, network.image_hash(kind, "worker"));
                assert_ne!(verdict.image_hash, network.image_hash(kind, "other"));
            }
        }
        assert!(network.source(EvidenceKind::None, 0, "worker").is_none());
        assert!(network.image_hash(EvidenceKind::FakeTdx, "worker").is_none());
    }

    #[test]
    fn a_machines_gpus_stand_beside_it_and_beside_no_other() {
        let network = vendors(7);
        let source = |number, gpus| WithGpus {
            machine: network.source(EvidenceKind::Tdx, number, "worker").unwrap(),
            gpus: Arc::new(network.gpus(gpus, 2)),
        };
        let judge = |evidence: &Evidence| {
            let verifiers = OperatorPolicy::default().verifiers(&network.test_roots()).unwrap();
            let mut collateral = Collateral::none();
            let mut needed = verifiers.collateral_needed(evidence);
            while !needed.is_empty() {
                collateral.absorb(network.collateral(&needed, NOW));
                needed = verifiers.further_collateral(evidence, &collateral);
            }
            verifiers.verify(evidence, &collateral, &DATA, NOW)
        };
        let whole = source(1, 1).evidence(&DATA).unwrap();
        let verdict = judge(&whole);
        let gpu = verdict.gpu.as_ref().unwrap();
        assert!(verdict.accepted_as_a_whole() && verdict.simulated, "{:?}", gpu.first_failure());
        assert_eq!(gpu.gpus.len(), 2);
        assert!(verdict.expires_at.is_some() && verdict.expires_at <= gpu.expires_at);
        // The same machine and GPUs, each genuine, but not made for one another.
        let other = source(2, 1).evidence(&DATA).unwrap();
        let swapped =
            Evidence::new(EvidenceKind::Tdx, whole.bytes().clone()).with_gpus(other.gpus().unwrap().clone());
        let verdict = judge(&swapped);
        assert!(verdict.accepted() && !verdict.accepted_as_a_whole());
        assert_eq!(verdict.gpu.unwrap().first_failure().map(|check| check.name.as_str()), Some("gpu0.nonce"));
    }

    #[test]
    fn the_product_lines_come_in_turn_and_no_two_machines_are_one() {
        let network = vendors(7);
        let chips: Vec<_> = (0..6).map(|number| network.snp(number, "").report.chip_id).collect();
        assert!((1..6).all(|at| !chips[..at].contains(&chips[at])));
        let versions: Vec<_> = (0..6).map(|number| network.snp(number, "").report.version).collect();
        assert_eq!(versions, [3, 5, 3, 5, 3, 5]);
    }

    #[test]
    fn another_networks_trust_domain_is_refused() {
        let evidence = vendors(8).tdx(0, "worker").evidence(&DATA).unwrap();
        let verdict = judge(&vendors(7), &evidence, NOW);
        assert_eq!(verdict.first_failure().map(|check| check.name.as_str()), Some("certificate_chain"));
    }

    #[test]
    fn a_chips_certificate_that_does_not_come_along_is_fetched() {
        let network = vendors(7);
        for number in 0..3 {
            let whole = network.snp(number, "worker").evidence_for(&DATA);
            let report = SnpEvidence::parse(whole.bytes()).unwrap().report_bytes.to_vec();
            let bare = Evidence::new(EvidenceKind::SevSnp, report.into());
            let verdict = judge(&network, &bare, NOW);
            assert!(verdict.accepted(), "{number}: {:?}", verdict.first_failure());
            let elsewhere = judge(&vendors(8), &bare, NOW);
            assert!(!elsewhere.accepted(), "another network does not know the chip");
        }
    }

    #[test]
    fn what_is_dated_is_the_same_all_day_and_new_the_next() {
        let network = vendors(7);
        let evidence = network.tdx(0, "worker").evidence(&DATA).unwrap();
        let needed = verifiers(&network).collateral_needed(&evidence);
        let day = UnixSeconds(NOW.0 - NOW.0 % DAY_SECONDS);
        let at = |now| network.collateral(&needed, now);
        assert_eq!(at(day), at(day.plus(DAY_SECONDS - 1)));
        assert_ne!(at(day), at(day.plus(DAY_SECONDS)));
        assert!(judge(&network, &evidence, day).accepted());
        assert!(judge(&network, &evidence, day.plus(DAY_SECONDS - 1)).accepted());
    }

    #[test]
    fn unknown_requests_stay_unanswered() {
        let network = vendors(7);
        let names = [
            "",
            "vcek",
            "vcek/v1/Rome/crl",
            "vcek/v1/Genoa/",
            "vcek/v1/Genoa/00?",
            "vcek/v1/Genoa/?",
            "ark/v1/Milan/crl",
        ];
        for name in names {
            for kind in [EvidenceKind::SevSnp, EvidenceKind::Tdx, EvidenceKind::None] {
                let request = CollateralRequest { kind, name: name.to_owned() };
                assert_eq!(network.answer(&request, NOW), None, "{kind} {name}");
            }
        }
    }
}
