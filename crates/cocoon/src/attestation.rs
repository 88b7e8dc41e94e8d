//! What a node shows of its machine and demands of others, put together from its configuration.
//!
//! On a test network machines may be simulated: their evidence is complete and signed as real evidence is, under test
//! roots, and goes through the verifiers that production uses. A node trusts those roots only with the network's seed,
//! and takes no seed outside a test network. Intel's and NVIDIA's follow from the seed; AMD's are the same everywhere,
//! with public keys.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use cocoon_attest::{
    CollateralSource, Demands, EvidenceKind, EvidenceSource, OperatorPolicy, Policy, TestRoots, UnixSeconds,
    VerifierSet,
};
use cocoon_collateral::{Fetcher, FixedCollateral};
use cocoon_net::{Clock, SystemClock};
use cocoon_tee::WithGpus;
use cocoon_tee::configfs::ConfigfsTsm;
use cocoon_tee::sealing::{NoSealing, SealingKey, SnpSealing};
use cocoon_tee::simulated::Vendors;

use crate::config::{CollateralFile, Present, Require, Root, Shown, read_policy};
use crate::keys;

/// How many GPUs a simulated machine has.
const SIMULATED_GPUS: u8 = 1;
/// The folder for collateral in a node's directory.
const CACHE: &str = "collateral";

/// Where a node's evidence comes from: the machine that is configured, with this image where it is simulated.
///
/// # Errors
/// It is simulated outside a test network or without the network's seed, or cannot be used.
pub(crate) fn source(image: &str, shown: &Shown, root: &Root) -> anyhow::Result<Arc<dyn EvidenceSource>> {
    if let Some(kind) = simulated_kind(shown.present) {
        let (vendors, number) = (simulating(root)?, shown.simulated_machine);
        let machine = vendors.source(kind, number, image).context("nobody simulates this kind")?;
        let gpus = || Arc::new(vendors.gpus(number, SIMULATED_GPUS));
        return Ok(if shown.gpus { Arc::new(WithGpus { machine, gpus: gpus() }) } else { machine });
    }
    let machine = cocoon_tee::open(shown.present.name())?;
    if cocoon_tee::is_simulated(machine.as_ref()) && !root.is_test {
        bail!("attestation.present = {:?} is for test networks only", shown.present.name());
    }
    if shown.gpus { with_gpus(machine) } else { Ok(machine) }
}

/// What seals a node's keys; `None` where they are to lie open.
///
/// # Errors
/// The machine that is configured seals nothing.
pub(crate) fn sealing(
    image: &str,
    shown: &Shown,
    root: &Root,
) -> anyhow::Result<Option<Arc<dyn SealingKey>>> {
    if !shown.seal_keys {
        return Ok(None);
    }
    if simulated_kind(shown.present).is_some() {
        return Ok(Some(Arc::new(simulating(root)?.sealing(shown.simulated_machine, image))));
    }
    let key: Arc<dyn SealingKey> = match cocoon_tee::open(shown.present.name())?.kind() {
        EvidenceKind::SevSnp => {
            let tsm = ConfigfsTsm::open(ConfigfsTsm::USUAL_BASE.as_ref());
            Arc::new(SnpSealing::open(&tsm).context("attestation.seal_keys")?)
        }
        EvidenceKind::Tdx => Arc::new(NoSealing::tdx()),
        _ => Arc::new(NoSealing::none()),
    };
    key.version().context("attestation.seal_keys")?;
    Ok(Some(key))
}

fn simulating(root: &Root) -> anyhow::Result<Vendors> {
    vendors(root)?.context("a simulated machine needs root.simulated_seed_file, which `cocoon up` makes")
}

/// The machine and its GPUs, through their driver.
#[cfg(target_os = "linux")]
fn with_gpus(machine: Arc<dyn EvidenceSource>) -> anyhow::Result<Arc<dyn EvidenceSource>> {
    use cocoon_tee::nvidia::{DriverGpus, Nvml};
    let driver = Nvml::open().context("attestation.gpus")?;
    Ok(Arc::new(WithGpus { machine, gpus: Arc::new(DriverGpus::new(driver)) }))
}

#[cfg(not(target_os = "linux"))]
fn with_gpus(_machine: Arc<dyn EvidenceSource>) -> anyhow::Result<Arc<dyn EvidenceSource>> {
    bail!("attestation.gpus: GPUs show evidence on Linux only")
}

fn simulated_kind(present: Present) -> Option<EvidenceKind> {
    match present {
        Present::SimulatedTdx => Some(EvidenceKind::Tdx),
        Present::SimulatedSevSnp => Some(EvidenceKind::SevSnp),
        _ => None,
    }
}

/// The vendors of the network's simulated machines, where it has any.
///
/// # Errors
/// The network is no test network, or the seed cannot be read.
pub(crate) fn vendors(root: &Root) -> anyhow::Result<Option<Vendors>> {
    let Some(path) = &root.simulated_seed_file else { return Ok(None) };
    if !root.is_test {
        bail!(
            "root.simulated_seed_file is for test networks only: whoever has the seed can make any evidence"
        );
    }
    Ok(Some(Vendors::from_seed(&*keys::load_key(path)?)))
}

/// What it takes to judge peers, for all ports of a node.
pub(crate) struct Judging {
    operator: OperatorPolicy,
    verifiers: Arc<VerifierSet>,
    collateral: Arc<dyn CollateralSource>,
}

/// Whom something is demanded of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    Proxy,
    Worker,
    Client,
}

impl Judging {
    /// By the operator's policy and the vendors' roots, on a test network with simulated machines by theirs, too.
    /// Collateral is kept in `dir` unless another folder is configured. Must be called inside the runtime.
    ///
    /// # Errors
    /// The policy, the seed or a service's address cannot be used, or nothing that is demanded heeds the policy.
    pub(crate) fn open(
        policy: Option<&std::path::Path>,
        demands: &[Require],
        root: &Root,
        collateral: &CollateralFile,
        dir: Option<&std::path::Path>,
    ) -> anyhow::Result<Self> {
        heeded(policy, demands)?;
        let (operator, vendors) = (read_policy(policy)?, vendors(root)?);
        real_kinds(&operator, root)?;
        let roots = vendors.as_ref().map_or_else(TestRoots::default, Vendors::test_roots);
        let verifiers = Arc::new(operator.verifiers(&roots)?);
        let collateral = match vendors {
            // What simulated vendors publish follows from their seed; there is nobody to fetch it from.
            Some(vendors) => {
                let answer = move |request: &_| vendors.answer(request, SystemClock.now());
                Arc::new(FixedCollateral::answering(answer)) as Arc<dyn CollateralSource>
            }
            None => {
                let cache: Option<PathBuf> = dir.map(|dir| dir.join(CACHE));
                let now = Arc::new(|| -> UnixSeconds { SystemClock.now() });
                Arc::new(Fetcher::new(&collateral.options(cache)?, now).context("[collateral]")?)
            }
        };
        Ok(Self { operator, verifiers, collateral })
    }

    /// What is demanded of these.
    ///
    /// # Errors
    /// The policy names what is no evidence.
    pub(crate) fn policy(&self, require: Require, whom: Whom) -> anyhow::Result<Policy> {
        let demands: &Demands = match whom {
            Whom::Proxy => &self.operator.proxy,
            Whom::Worker => &self.operator.worker,
            Whom::Client => &self.operator.client,
        };
        Ok(match require {
            Require::Any => Policy::any(),
            Require::FakeTdx => Policy::fake_tdx(),
            Require::Tee => demands.policy().with_context(|| format!("the policy for {whom:?}"))?,
        })
    }

    /// What verifies.
    pub(crate) fn verifiers(&self) -> Arc<VerifierSet> {
        Arc::clone(&self.verifiers)
    }

    /// What fetches.
    pub(crate) fn collateral(&self) -> Arc<dyn CollateralSource> {
        Arc::clone(&self.collateral)
    }
}

/// A policy that was written is not to be without effect for want of a word elsewhere.
fn heeded(policy: Option<&std::path::Path>, demands: &[Require]) -> anyhow::Result<()> {
    if policy.is_some() && !demands.contains(&Require::Tee) {
        bail!(
            "attestation.policy_file has no effect, because evidence of hardware is demanded of nobody; set \
             attestation.require (or .require_of_workers, .require_of_clients) = \"tee\", or leave the policy away"
        );
    }
    Ok(())
}

/// With real coins at stake, no policy takes what nobody signed for evidence.
fn real_kinds(operator: &OperatorPolicy, root: &Root) -> anyhow::Result<()> {
    let all = [("proxy", &operator.proxy), ("worker", &operator.worker), ("client", &operator.client)];
    for (whose, demands) in all {
        let simulated = demands.accept.iter().find(|kind| kind.is_simulated());
        if let Some(kind) = simulated.filter(|_| !root.is_test) {
            bail!("the policy's {whose}.accept has {:?}, which is for test networks only", kind.name());
        }
    }
    Ok(())
}

/// With real coins at stake, a node demands of those it depends on evidence of hardware, and images that the root lists.
///
/// # Errors
/// It does not.
pub(crate) fn real_enough(
    root: &Root,
    (field, require): (&str, Require),
    (check_field, checked): (&str, bool),
) -> anyhow::Result<()> {
    if !root.is_test && (require != Require::Tee || !checked) {
        bail!(
            "root.is_test = false is a network with real coins; it needs {field} = \"tee\" and {check_field} = true. \
             For a network with coins that are worth nothing, set root.is_test = true"
        );
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_nothing_heeds_is_refused() {
        let file = Some(std::path::Path::new("policy.toml"));
        for demands in [&[Require::Any][..], &[Require::Any, Require::FakeTdx], &[]] {
            let message = heeded(file, demands).unwrap_err().to_string();
            assert!(message.contains("policy_file") && message.contains("tee"), "{message}");
            heeded(None, demands).unwrap();
        }
        heeded(file, &[Require::Any, Require::Tee]).unwrap();
    }

    #[test]
    fn a_policy_takes_what_nobody_signed_on_a_test_network_only() {
        for whose in ["proxy", "worker", "client"] {
            let policy = format!("[{whose}]\naccept = [\"tdx\", \"fake_tdx\"]\n");
            let operator: OperatorPolicy = toml::from_str(&policy).unwrap();
            real_kinds(&operator, &Root::default()).unwrap();
            let real = Root { is_test: false, ..Root::default() };
            let message = real_kinds(&operator, &real).unwrap_err().to_string();
            assert!(message.contains(whose) && message.contains("fake_tdx"), "{message}");
            real_kinds(&OperatorPolicy::default(), &real).unwrap();
        }
    }
}
