//! Evidence by itself: how long it takes to verify, and how long a simulated machine takes to make it.

use std::sync::Arc;

use anyhow::Context as _;
use cocoon_attest::snp::SnpProduct;
use cocoon_attest::tdx::TdBody;
use cocoon_attest::{Collateral, Evidence, EvidenceSource, ReportData, Verifier as _};
use cocoon_tee::WithGpus;
use cocoon_tee::simulated::snp::SimulatedSnp;
use cocoon_tee::simulated::tdx::QuoteForm;

use super::measure::{Cost, Series, Stopwatch};
use super::{Ground, IMAGE, Plan, SEED};
use crate::tables::{Column, Report, Table};

/// What evidence is bound to.
const BINDING: ReportData = ReportData([0x5a; ReportData::LEN]);

const VERIFYING: &[Column] = &[
    Column("a second and core", "per_second_and_core", 0),
    Column("ms each", "cpu_ms", 2),
    Column("bytes of evidence", "evidence_bytes", 0),
    Column("bytes of collateral", "collateral_bytes", 0),
];
const MAKING: &[Column] = &[Column("ms each", "cpu_ms", 2)];

/// Evidence of one kind, and everything that it takes to judge it.
struct Case {
    name: &'static str,
    source: Arc<dyn EvidenceSource>,
    evidence: Evidence,
    collateral: Collateral,
    verifying: Series,
    making: Series,
}

impl Case {
    fn new(ground: &Ground, name: &'static str, source: Arc<dyn EvidenceSource>) -> anyhow::Result<Self> {
        let evidence = source.evidence(&BINDING).context(name)?;
        let mut collateral = Collateral::none();
        let mut needed = ground.verifiers.collateral_needed(&evidence);
        while !needed.is_empty() {
            collateral.absorb(ground.vendors.collateral(&needed, ground.now));
            needed = ground.verifiers.further_collateral(&evidence, &collateral);
            needed.retain(|request| collateral.get(request).is_none());
        }
        let (verifying, making) = (Series::default(), Series::default());
        Ok(Self { name, source, evidence, collateral, verifying, making })
    }

    /// From the bytes to the verdict; nothing is kept from one time to the next.
    fn verify(&self, ground: &Ground) -> anyhow::Result<()> {
        let verdict = ground.verifiers.verify(&self.evidence, &self.collateral, &BINDING, ground.now);
        let gpu = verdict.gpu.as_ref().and_then(|gpu| gpu.first_failure());
        anyhow::ensure!(
            verdict.accepted_as_a_whole(),
            "{}: {:?} {gpu:?}",
            self.name,
            verdict.first_failure()
        );
        Ok(())
    }

    fn make(&self) -> anyhow::Result<()> {
        self.source.evidence(&BINDING).map(drop).context(self.name)
    }
}

fn cases(ground: &Ground) -> anyhow::Result<Vec<Case>> {
    let tdx = |form| Arc::new(ground.vendors.tdx_of_form(form, 0, IMAGE)) as Arc<dyn EvidenceSource>;
    // The usual case: the host hands over the certificates, and the revocation list is fetched.
    let snp = |product| {
        let mut machine = SimulatedSnp::new(product, &SEED, IMAGE.as_bytes());
        machine.listed = None;
        Arc::new(machine) as Arc<dyn EvidenceSource>
    };
    let with_gpus = |count| {
        let (machine, gpus) = (tdx(QuoteForm::V4), Arc::new(ground.vendors.gpus(0, count)));
        Arc::new(WithGpus { machine, gpus }) as Arc<dyn EvidenceSource>
    };
    let sources = [
        ("TDX quote, version 4", tdx(QuoteForm::V4)),
        ("TDX quote, version 5 (TDX 1.5)", tdx(QuoteForm::V5(TdBody::Td15))),
        ("SEV-SNP report, Milan", snp(SnpProduct::Milan)),
        ("SEV-SNP report, Genoa", snp(SnpProduct::Genoa)),
        ("SEV-SNP report, Turin", snp(SnpProduct::Turin)),
        ("TDX quote, version 4, with 1 GPU", with_gpus(1)),
        ("TDX quote, version 4, with 8 GPUs", with_gpus(8)),
    ];
    sources.into_iter().map(|(name, source)| Case::new(ground, name, source)).collect()
}

/// Adds the tables of verifying and of making evidence.
///
/// # Errors
/// Evidence was refused or could not be made.
pub(super) fn measure(plan: Plan, ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let mut cases = cases(ground)?;
    for _ in 0..plan.evidence_rounds {
        for case in &mut cases {
            let verifying = repeat(plan, || case.verify(ground))?;
            case.verifying.push(verifying);
            let making = repeat(plan, || case.make())?;
            case.making.push(making);
        }
    }
    let mut verifying = Table::new("Verifying evidence", VERIFYING);
    let mut making = Table::new("Making evidence (simulated machines)", MAKING);
    for case in &cases {
        let seconds = case.verifying.cpu();
        let collateral = case.collateral.iter().map(|(_, answer)| answer.len()).sum::<usize>();
        let gpus = case.evidence.gpus().map_or(0, |gpus| gpus.len());
        let evidence = case.evidence.bytes().len() + gpus;
        let numbers = [1.0 / seconds, seconds * 1e3, evidence as f64, collateral as f64];
        verifying.row(case.name, numbers.map(Some));
        making.row(case.name, [Some(case.making.cpu() * 1e3)]);
    }
    report.add(verifying);
    report.add(making);
    Ok(())
}

/// Does something again and again for a round's time.
fn repeat(plan: Plan, step: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<Cost> {
    let (watch, mut count) = (Stopwatch::of_thread(), 0);
    while watch.cpu() < plan.evidence_time {
        step()?;
        count += 1;
    }
    Ok(watch.each(count.max(1)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_case_is_accepted_and_something_was_to_be_fetched_for_it() {
        let ground = Ground::new().unwrap();
        for case in cases(&ground).unwrap() {
            case.verify(&ground).unwrap();
            assert!(case.collateral.iter().count() > 0, "{}", case.name);
        }
    }
}
