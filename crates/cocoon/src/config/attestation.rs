//! What a node shows of its machine, what it demands of others, and where it fetches what verifying takes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cocoon_attest::OperatorPolicy;
use cocoon_collateral::{ApiKey, FetcherOptions, PccsTrust};
use serde::{Deserialize, Serialize};

use crate::keys;

/// Longest policy file, bytes.
const MAX_POLICY_BYTES: u64 = 1024 * 1024;
/// Longest service key, bytes.
const MAX_KEY_BYTES: u64 = 1024;

/// The evidence that we show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Present {
    /// No evidence.
    #[default]
    None,
    /// The published quote of test networks, signed by nobody.
    FakeTdx,
    /// A complete quote of a simulated Intel machine, for test networks.
    SimulatedTdx,
    /// A complete report of a simulated AMD machine, for test networks.
    SimulatedSevSnp,
    /// This machine's, an Intel trust domain.
    Tdx,
    /// This machine's, an AMD SEV-SNP guest.
    SevSnp,
    /// This machine's, whichever of the two it is.
    Auto,
}

impl Present {
    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::FakeTdx => "fake_tdx",
            Self::SimulatedTdx => "simulated_tdx",
            Self::SimulatedSevSnp => "simulated_sev_snp",
            Self::Tdx => "tdx",
            Self::SevSnp => "sev_snp",
            Self::Auto => "auto",
        }
    }
}

/// What a node shows, the same for every role.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    /// The evidence.
    pub(crate) present: Present,
    /// Whether that of GPUs goes with it.
    pub(crate) gpus: bool,
    /// Whether the node's keys lie sealed to machine and image.
    pub(crate) seal_keys: bool,
    /// Which of the simulated machines it is.
    pub(crate) simulated_machine: u32,
}

/// The evidence that we demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Require {
    /// None is needed.
    #[default]
    Any,
    /// The published quote of test networks.
    FakeTdx,
    /// That of a trusted execution environment, verified, as the policy says.
    Tee,
}

/// What a worker shows and demands.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Attestation {
    /// What we show.
    pub(crate) present: Present,
    /// Whether the node's keys lie sealed to machine and image.
    pub(crate) seal_keys: bool,
    /// Which of a test network's simulated machines this is.
    pub(crate) simulated_machine: u32,
    /// Whether we show the evidence of this machine's GPUs, too.
    pub(crate) gpus: bool,
    /// What a proxy must show.
    pub(crate) require: Require,
    /// The policy, TOML.
    pub(crate) policy_file: Option<PathBuf>,
}

impl Attestation {
    /// What we show.
    pub(crate) fn shown(&self) -> Shown {
        let &Self { present, seal_keys, simulated_machine, .. } = self;
        Shown { present, gpus: self.gpus, seal_keys, simulated_machine }
    }
}

/// What a gateway shows and demands.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GatewayAttestation {
    /// What we show.
    pub(crate) present: Present,
    /// Whether the node's keys lie sealed to machine and image.
    pub(crate) seal_keys: bool,
    /// Which of a test network's simulated machines this is.
    pub(crate) simulated_machine: u32,
    /// What a proxy must show.
    pub(crate) require: Require,
    /// What a worker must show before it sees a request of ours.
    pub(crate) require_of_workers: Require,
    /// The policy, TOML.
    pub(crate) policy_file: Option<PathBuf>,
}

impl GatewayAttestation {
    /// What we show.
    pub(crate) fn shown(&self) -> Shown {
        let &Self { present, seal_keys, simulated_machine, .. } = self;
        Shown { present, gpus: false, seal_keys, simulated_machine }
    }
}

/// What a proxy shows and demands.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProxyAttestation {
    /// What we show.
    pub(crate) present: Present,
    /// Whether the node's keys lie sealed to machine and image.
    pub(crate) seal_keys: bool,
    /// Which of a test network's simulated machines this is.
    pub(crate) simulated_machine: u32,
    /// What a worker must show.
    pub(crate) require_of_workers: Require,
    /// What a client must show.
    pub(crate) require_of_clients: Require,
    /// The policy, TOML.
    pub(crate) policy_file: Option<PathBuf>,
}

impl ProxyAttestation {
    /// What we show.
    pub(crate) fn shown(&self) -> Shown {
        let &Self { present, seal_keys, simulated_machine, .. } = self;
        Shown { present, gpus: false, seal_keys, simulated_machine }
    }
}

/// Reads a policy; the default where there is no file.
///
/// # Errors
/// Names the file, and the field that is wrong in it.
pub(crate) fn read_policy(file: Option<&Path>) -> anyhow::Result<OperatorPolicy> {
    let Some(path) = file else { return Ok(OperatorPolicy::default()) };
    let shown = path.display();
    let text = super::load::read_text(path, MAX_POLICY_BYTES)
        .with_context(|| format!("cannot read the policy {shown}; docs/trust.md has one to start from"))?;
    let policy = toml::from_str(&text).map_err(|error| anyhow::anyhow!("the policy {shown}: {error}"))?;
    tracing::info!(file = %shown, "read the policy; it holds until the next start");
    Ok(policy)
}

/// Where to fetch what verifying evidence takes. Nothing that comes from there is trusted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CollateralFile {
    /// A PCS or PCCS, for Intel's platforms.
    pub(crate) pccs_url: String,
    /// The PCCS's own certificate authority, PEM.
    pub(crate) pccs_ca_file: Option<PathBuf>,
    /// Whether any TLS certificate of the PCCS will do.
    pub(crate) pccs_any_certificate: bool,
    /// Where Intel's root revocation list is, if not at the PCCS.
    pub(crate) root_crl_url: Option<String>,
    /// AMD's Key Distribution Service, or a mirror.
    pub(crate) kds_url: String,
    /// NVIDIA's reference values.
    pub(crate) nvidia_rim_url: String,
    /// NVIDIA's OCSP responder.
    pub(crate) nvidia_ocsp_url: String,
    /// NVIDIA's service key, in a private file.
    pub(crate) nvidia_key_file: Option<PathBuf>,
    /// Where answers are kept; none: in the node's directory.
    pub(crate) cache_dir: Option<PathBuf>,
    /// Whether nothing is fetched.
    pub(crate) offline: bool,
}

impl Default for CollateralFile {
    fn default() -> Self {
        let options = FetcherOptions::default();
        Self {
            pccs_url: options.pccs_url,
            pccs_ca_file: None,
            pccs_any_certificate: false,
            root_crl_url: None,
            kds_url: options.kds_url,
            nvidia_rim_url: options.nvidia_rim_url,
            nvidia_ocsp_url: options.nvidia_ocsp_url,
            nvidia_key_file: None,
            cache_dir: None,
            offline: false,
        }
    }
}

impl CollateralFile {
    /// For a fetcher that keeps its answers in `cache_dir` unless another folder is configured.
    ///
    /// # Errors
    /// The file with the service key cannot be read.
    pub(crate) fn options(&self, cache_dir: Option<PathBuf>) -> anyhow::Result<FetcherOptions> {
        let key = self.nvidia_key_file.as_deref().map(|path| keys::load_text(path, MAX_KEY_BYTES));
        let pccs_trust = match (&self.pccs_ca_file, self.pccs_any_certificate) {
            (Some(_), true) => {
                bail!("pccs_ca_file says who is trusted, and pccs_any_certificate that anybody is")
            }
            (None, true) => PccsTrust::Anybody,
            (Some(path), false) => PccsTrust::CaFile(path.clone()),
            (None, false) => PccsTrust::PublicRoots,
        };
        Ok(FetcherOptions {
            pccs_url: self.pccs_url.clone(),
            pccs_trust,
            root_crl_url: self.root_crl_url.clone(),
            kds_url: self.kds_url.clone(),
            nvidia_rim_url: self.nvidia_rim_url.clone(),
            nvidia_ocsp_url: self.nvidia_ocsp_url.clone(),
            nvidia_key: key.transpose()?.map(|key| ApiKey::new(key.to_string())),
            cache_dir: self.cache_dir.clone().or(cache_dir),
            offline: self.offline,
            ..FetcherOptions::default()
        })
    }
}
