//! Evidence that must not do, each with the rule and the check that catch it.

use std::sync::Arc;

use cocoon_attest::snp::{SnpProduct, SnpTcb};
use cocoon_attest::tdx::check;
use cocoon_attest::{Evidence, EvidenceError, EvidenceKind, EvidenceSource, ReportData};
use cocoon_tee::simulated::Vendors;
use cocoon_tee::simulated::tdx::{MachineForm, QuoteForm, trust_domain};

use crate::world::{OLD_MODEL, World};

/// The machines that forgers use.
const MACHINE: u32 = 50;
const OTHER_MACHINE: u32 = 51;
const REVOKED_MACHINE: u32 = 52;
/// Where the firmware's measurement stands: in a quote (48 bytes of header, 136 of body before it), and in a report.
const MR_TD: usize = 184;
const SNP_MEASUREMENT: usize = 0x90;
/// Not the key of anybody here.
const ANOTHER_KEY: ReportData = ReportData([9; 64]);

pub(crate) struct Forgery {
    pub(crate) what: &'static str,
    pub(crate) source: Arc<dyn EvidenceSource>,
    pub(crate) rule: &'static str,
    pub(crate) check: &'static str,
}

type Change = dyn Fn(&ReportData) -> Evidence + Send + Sync;

/// Shows something else than its machine.
struct Changed(EvidenceKind, Box<Change>);

impl EvidenceSource for Changed {
    fn kind(&self) -> EvidenceKind {
        self.0
    }

    fn is_simulated(&self) -> bool {
        true
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, EvidenceError> {
        Ok((self.1)(report_data))
    }
}

fn changed(
    kind: EvidenceKind,
    change: impl Fn(&ReportData) -> Evidence + Send + Sync + 'static,
) -> Arc<dyn EvidenceSource> {
    Arc::new(Changed(kind, Box::new(change)))
}

/// The machine's evidence for another key than the node's.
fn for_another_key(machine: Arc<dyn EvidenceSource>) -> Arc<dyn EvidenceSource> {
    changed(machine.kind(), move |_| machine.evidence(&ANOTHER_KEY).unwrap())
}

/// The machine's evidence with one bit of it changed.
fn flipped(machine: Arc<dyn EvidenceSource>, at: usize) -> Arc<dyn EvidenceSource> {
    changed(machine.kind(), move |report_data| {
        let mut bytes = machine.evidence(report_data).unwrap().bytes().to_vec();
        bytes[at] ^= 1;
        Evidence::new(machine.kind(), bytes.into())
    })
}

/// A trust domain that is being debugged: whoever runs the machine reads its memory.
fn debugged(world: &World, image: &str) -> Arc<dyn EvidenceSource> {
    let mut domain = trust_domain(image);
    domain.td_attributes[0] |= 1;
    Arc::new(world.vendors.intel().machine(MACHINE).source(QuoteForm::V4, domain))
}

/// A machine of this model.
fn of_model(world: &World, fmspc: [u8; 6], image: &str) -> Arc<dyn EvidenceSource> {
    let form = MachineForm { number: MACHINE, fmspc, ..MachineForm::default() };
    Arc::new(world.vendors.intel().machine_of(&form).source(QuoteForm::V4, trust_domain(image)))
}

/// A machine that Intel has revoked.
fn revoked(world: &World, image: &str) -> Arc<dyn EvidenceSource> {
    world.shelf.changes().revoked_platforms.push(platform_serial(world, REVOKED_MACHINE));
    world.tdx(REVOKED_MACHINE, image)
}

/// By which Intel revokes a machine.
pub(crate) fn platform_serial(world: &World, number: u32) -> Vec<u8> {
    world.vendors.intel().machine(number).platform().serial().to_vec()
}

/// One version below what the usual policy asks of Genoa's machines.
fn below_the_floor(world: &World, image: &str) -> Arc<dyn EvidenceSource> {
    let usual = SnpTcb::read(world.vendors.snp(MACHINE, image).report.committed_tcb, SnpProduct::Genoa);
    Arc::new(world.vendors.snp(MACHINE, image).with_tcb(SnpTcb { snp: 22, ..usual }))
}

/// A machine, and beside it what another machine's GPU said to that one.
fn with_foreign_gpu(world: &World, image: &str) -> Arc<dyn EvidenceSource> {
    let (own, other) = (world.tdx_with_gpu(MACHINE, image), world.tdx_with_gpu(OTHER_MACHINE, image));
    changed(EvidenceKind::Tdx, move |report_data| {
        let gpus = other.evidence(report_data).unwrap().gpus().unwrap().clone();
        own.evidence(report_data).unwrap().with_gpus(gpus)
    })
}

/// A quote in the place of a report.
fn mislabelled(world: &World, image: &str) -> Arc<dyn EvidenceSource> {
    let machine = world.tdx(MACHINE, image);
    changed(EvidenceKind::SevSnp, move |report_data| {
        let quote = machine.evidence(report_data).unwrap().bytes().clone();
        Evidence::new(EvidenceKind::SevSnp, quote)
    })
}

/// All of them, for a node that should run this image.
pub(crate) fn all(world: &World, image: &str) -> Vec<Forgery> {
    const KIND: &str = "evidence_kind";
    const VERIFICATION: &str = "verification";
    let (tdx, snp) = (world.tdx(MACHINE, image), world.snp(MACHINE, image));
    let unknown_model = *b"\xff\x00???\x00";
    let elsewhere = Arc::new(Vendors::from_seed(&[8; 32]).tdx(MACHINE, image));
    let cases: Vec<(&str, Arc<dyn EvidenceSource>, &str, &str)> = vec![
        ("no evidence", Arc::new(cocoon_tee::NoEvidence), KIND, "the peer shows none"),
        ("evidence for development", Arc::new(cocoon_tee::FakeTdx), KIND, "the peer shows fake_tdx"),
        ("a quote for another key", for_another_key(tdx.clone()), VERIFICATION, check::BINDING),
        ("a quote with one bit changed", flipped(tdx, MR_TD), VERIFICATION, check::QUOTE_SIGNATURE),
        ("a trust domain in debug mode", debugged(world, image), VERIFICATION, check::TD_ATTRIBUTES),
        ("a model out of date", of_model(world, OLD_MODEL, image), VERIFICATION, check::TCB_STATUS),
        (
            "a model that Intel does not know",
            of_model(world, unknown_model, image),
            VERIFICATION,
            check::COLLATERAL,
        ),
        ("a platform that is revoked", revoked(world, image), VERIFICATION, check::PCK_CRL),
        ("another network's machine", elsewhere, VERIFICATION, check::CERTIFICATE_CHAIN),
        ("a report for another key", for_another_key(snp.clone()), VERIFICATION, check::BINDING),
        ("a report with one bit changed", flipped(snp, SNP_MEASUREMENT), VERIFICATION, "signature"),
        ("a TCB below the floor", below_the_floor(world, image), VERIFICATION, "tcb_floor"),
        ("a quote that is called a report", mislabelled(world, image), KIND, "the peer shows unrecognised"),
        ("another machine's GPU", with_foreign_gpu(world, image), "gpu_verification", "gpu0.nonce"),
        ("an image that is not listed", world.snp(MACHINE, "something else"), "image_hash", "list"),
    ];
    cases.into_iter().map(|(what, source, rule, check)| Forgery { what, source, rule, check }).collect()
}
