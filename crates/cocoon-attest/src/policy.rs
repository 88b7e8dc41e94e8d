//! What we demand of a peer. A policy is ours alone: what we show of ourselves is another matter.
//!
//! [`Policy`] is one decision: is this verdict good enough? [`OperatorPolicy`] is what an operator writes down about
//! all peers and platforms; policies and verifiers are made from it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::gpu::{GpuPolicy, GpuRoots, GpuVerifier};
use crate::snp::{SnpPolicy, SnpRoot, SnpRoots, SnpVerifier};
use crate::tdx::{RootError, TdxPolicy, TdxVerifier};
use crate::{EvidenceKind, Verdict, VerifierSet, hexed};

/// Which evidence will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcceptedEvidence {
    /// None is needed, and none that is shown gets checked: the published policy `any`.
    Any,
    /// One of these kinds, verified.
    OneOf(BTreeSet<EvidenceKind>),
}

/// A rule that a peer can fall foul of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PolicyRule {
    /// The kind of evidence is among the accepted ones.
    EvidenceKind,
    /// The evidence verifies.
    Verification,
    /// The image hash is among those that the root contract lists.
    ImageHash,
    /// The image hash is among those that the operator pinned.
    PinnedImage,
    /// There is evidence of GPUs where it is required.
    GpuEvidence,
    /// The evidence of GPUs verifies.
    GpuVerification,
}

/// What is demanded of a machine's GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuDemand {
    /// Nothing: evidence of them counts neither for nor against.
    Ignored,
    /// Evidence of them need not be shown, but must hold where it is.
    #[default]
    Checked,
    /// Evidence of them must be shown, and hold.
    Required,
}

impl PolicyRule {
    /// Its name in configuration and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EvidenceKind => "evidence_kind",
            Self::Verification => "verification",
            Self::ImageHash => "image_hash",
            Self::PinnedImage => "pinned_image",
            Self::GpuEvidence => "gpu_evidence",
            Self::GpuVerification => "gpu_verification",
        }
    }
}

impl std::fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a peer is let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyDecision {
    /// It is.
    Allowed,
    /// It is not.
    Refused {
        /// The first rule that failed.
        rule: PolicyRule,
        /// What was found, in words.
        detail: String,
    },
}

impl PolicyDecision {
    /// Whether the peer is let in.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        *self == Self::Allowed
    }

    fn refused(rule: PolicyRule, detail: impl Into<String>) -> Self {
        Self::Refused { rule, detail: detail.into() }
    }
}

/// Why a policy's name or hash list is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No such policy.
    #[error("unknown policy {name:?}; there are `any`, `fake_tdx` and `tee`")]
    UnknownName {
        /// What was asked for.
        name: String,
    },
    /// `any` with a list of image hashes: an unverified hash proves nothing.
    #[error("the policy `any` cannot enforce image hashes; ask for evidence, or drop the list")]
    HashesWithoutEvidence,
    /// A list of accepted kinds names one that is no evidence.
    #[error(
        "`{kind}` is no evidence that could be accepted; there are `tdx`, `sev_snp` and, for test networks, `fake_tdx`"
    )]
    NotEvidence {
        /// What was named.
        kind: EvidenceKind,
    },
}

/// What is demanded of a peer. Fails closed: what is not allowed is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    accepted: AcceptedEvidence,
    /// By the root contract.
    allowed_image_hashes: Option<BTreeSet<[u8; 32]>>,
    /// By the operator; both lists must have the image.
    pinned_image_hashes: Option<BTreeSet<[u8; 32]>>,
    gpus: GpuDemand,
}

impl Policy {
    /// The published `any`: no evidence needed.
    #[must_use]
    pub fn any() -> Self {
        Self::with(AcceptedEvidence::Any)
    }

    /// The published `fake_tdx`: simulated evidence, bound to the peer's key. For test networks.
    #[must_use]
    pub fn fake_tdx() -> Self {
        Self::one_of([EvidenceKind::FakeTdx])
    }

    /// Evidence of one of these kinds. [`EvidenceKind::None`] and [`EvidenceKind::Unrecognised`] never count.
    #[must_use]
    pub fn one_of(kinds: impl IntoIterator<Item = EvidenceKind>) -> Self {
        let never = [EvidenceKind::None, EvidenceKind::Unrecognised];
        let kinds = kinds.into_iter().filter(|kind| !never.contains(kind)).collect();
        Self::with(AcceptedEvidence::OneOf(kinds))
    }

    fn with(accepted: AcceptedEvidence) -> Self {
        let gpus = GpuDemand::default();
        Self { accepted, allowed_image_hashes: None, pinned_image_hashes: None, gpus }
    }

    /// Evidence of hardware, of any kind that is verified here.
    #[must_use]
    pub fn tee() -> Self {
        Self::one_of([EvidenceKind::Tdx, EvidenceKind::SevSnp])
    }

    /// The policy of this name: `any` and `fake_tdx` are published, `tee` is ours.
    ///
    /// # Errors
    /// There is no such policy, or this build cannot enforce it.
    pub fn by_name(name: &str) -> Result<Self, PolicyError> {
        match name {
            "any" => Ok(Self::any()),
            "fake_tdx" => Ok(Self::fake_tdx()),
            "tee" => Ok(Self::tee()),
            _ => Err(PolicyError::UnknownName { name: name.to_owned() }),
        }
    }

    /// Allows only these image hashes. An empty list allows nothing.
    ///
    /// # Errors
    /// The policy asks for no evidence, so no hash would be verified.
    pub fn with_image_hashes(
        mut self,
        hashes: impl IntoIterator<Item = [u8; 32]>,
    ) -> Result<Self, PolicyError> {
        if !self.needs_evidence() {
            return Err(PolicyError::HashesWithoutEvidence);
        }
        self.allowed_image_hashes = Some(hashes.into_iter().collect());
        Ok(self)
    }

    /// Allows only these image hashes besides, whatever the root contract lists.
    ///
    /// # Errors
    /// As [`with_image_hashes`](Self::with_image_hashes).
    pub fn with_pinned_images(
        mut self,
        hashes: impl IntoIterator<Item = [u8; 32]>,
    ) -> Result<Self, PolicyError> {
        if !self.needs_evidence() {
            return Err(PolicyError::HashesWithoutEvidence);
        }
        self.pinned_image_hashes = Some(hashes.into_iter().collect());
        Ok(self)
    }

    /// Demands this of GPUs.
    #[must_use]
    pub fn with_gpus(mut self, gpus: GpuDemand) -> Self {
        self.gpus = gpus;
        self
    }

    /// The only images that the operator lets in, where any are pinned.
    #[must_use]
    pub fn pinned_images(&self) -> Option<&BTreeSet<[u8; 32]>> {
        self.pinned_image_hashes.as_ref()
    }

    /// What is demanded of GPUs.
    #[must_use]
    pub fn gpus(&self) -> GpuDemand {
        self.gpus
    }

    /// Whether a peer must show evidence at all.
    #[must_use]
    pub fn needs_evidence(&self) -> bool {
        self.accepted != AcceptedEvidence::Any
    }

    /// Which evidence will do.
    #[must_use]
    pub fn accepted(&self) -> &AcceptedEvidence {
        &self.accepted
    }

    /// Whether evidence of this kind may do; refuses early, before collateral is fetched.
    #[must_use]
    pub fn accepts_kind(&self, kind: EvidenceKind) -> bool {
        match &self.accepted {
            AcceptedEvidence::Any => true,
            AcceptedEvidence::OneOf(kinds) => kinds.contains(&kind),
        }
    }

    /// Whether a peer whose evidence got this verdict is let in.
    #[must_use]
    pub fn decide(&self, verdict: &Verdict) -> PolicyDecision {
        let AcceptedEvidence::OneOf(kinds) = &self.accepted else {
            return PolicyDecision::Allowed;
        };
        if !kinds.contains(&verdict.kind) {
            let wanted = kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" or ");
            let detail = format!("{wanted} evidence is required; the peer shows {}", verdict.kind);
            return PolicyDecision::refused(PolicyRule::EvidenceKind, detail);
        }
        if !verdict.accepted() {
            let detail = verdict.first_failure().map_or_else(
                || "nothing about the evidence was verified".to_owned(),
                |check| format!("{}: {}", check.name, check.detail),
            );
            return PolicyDecision::refused(PolicyRule::Verification, detail);
        }
        for (rule, list, whose) in [
            (PolicyRule::ImageHash, &self.allowed_image_hashes, "the root contract's"),
            (PolicyRule::PinnedImage, &self.pinned_image_hashes, "the operator's"),
        ] {
            let Some(allowed) = list else { continue };
            match verdict.image_hash {
                Some(hash) if allowed.contains(&hash) => {}
                Some(hash) => {
                    let detail = format!("the image hash {} is not on {whose} list", hex::encode(hash));
                    return PolicyDecision::refused(rule, detail);
                }
                None => return PolicyDecision::refused(rule, "the evidence gives no image hash"),
            }
        }
        self.decide_on_gpus(verdict)
    }
}

impl Policy {
    fn decide_on_gpus(&self, verdict: &Verdict) -> PolicyDecision {
        match (self.gpus, &verdict.gpu) {
            (GpuDemand::Ignored, _) | (GpuDemand::Checked, None) => PolicyDecision::Allowed,
            (GpuDemand::Required, None) => {
                let detail = "evidence of GPUs is required; the peer shows none";
                PolicyDecision::refused(PolicyRule::GpuEvidence, detail)
            }
            (GpuDemand::Checked | GpuDemand::Required, Some(gpu)) if gpu.accepted() => {
                PolicyDecision::Allowed
            }
            (GpuDemand::Checked | GpuDemand::Required, Some(gpu)) => {
                let detail = gpu.first_failure().map_or_else(
                    || "nothing about the GPUs was verified".to_owned(),
                    |check| format!("{}: {}", check.name, check.detail),
                );
                PolicyDecision::refused(PolicyRule::GpuVerification, detail)
            }
        }
    }
}

/// What is demanded of one sort of peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Demands {
    /// The kinds of evidence that will do.
    pub accept: BTreeSet<EvidenceKind>,
    /// The only images that are let in, by their hashes, where given; on top of the root contract's list.
    #[serde(with = "hexed::set")]
    pub images: Option<BTreeSet<[u8; 32]>>,
    /// What is demanded of GPUs; `[gpu]` says how they are judged.
    pub gpus: GpuDemand,
}

impl Default for Demands {
    fn default() -> Self {
        let accept = BTreeSet::from([EvidenceKind::Tdx, EvidenceKind::SevSnp]);
        Self { accept, images: None, gpus: GpuDemand::default() }
    }
}

impl Demands {
    /// As a policy.
    ///
    /// # Errors
    /// An accepted kind is none.
    pub fn policy(&self) -> Result<Policy, PolicyError> {
        let evidence = [EvidenceKind::Tdx, EvidenceKind::SevSnp, EvidenceKind::FakeTdx];
        if let Some(kind) = self.accept.iter().find(|kind| !evidence.contains(kind)) {
            return Err(PolicyError::NotEvidence { kind: *kind });
        }
        let policy = Policy::one_of(self.accept.iter().copied()).with_gpus(self.gpus);
        match &self.images {
            Some(images) => policy.with_pinned_images(images.iter().copied()),
            None => Ok(policy),
        }
    }
}

/// An operator's policy: what is demanded of peers by their role, and of platforms by their vendor. The default is
/// strict. In TOML, each field is a table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperatorPolicy {
    /// Of proxies.
    pub proxy: Demands,
    /// Of workers.
    pub worker: Demands,
    /// Of gateways, where any are asked for evidence.
    pub client: Demands,
    /// Of Intel's platforms.
    pub tdx: TdxPolicy,
    /// Of AMD's platforms.
    pub sev_snp: SnpPolicy,
    /// Of NVIDIA's GPUs.
    pub gpu: GpuPolicy,
}

/// The roots of simulated platforms. **For test networks only**: whoever knows their keys can make any evidence.
#[derive(Debug, Clone, Default)]
pub struct TestRoots {
    /// The simulated Intel's root certificate, DER.
    pub intel: Option<Vec<u8>>,
    /// The simulated AMD's root keys.
    pub amd: Vec<SnpRoot>,
    /// The simulated NVIDIA's roots.
    pub nvidia: Option<GpuRoots>,
}

impl OperatorPolicy {
    /// What judges evidence by this policy: by the vendors' roots, and on test networks by others besides.
    ///
    /// # Errors
    /// A test root is none.
    pub fn verifiers(&self, test: &TestRoots) -> Result<VerifierSet, RootError> {
        let mut tdx = TdxVerifier::new(self.tdx.clone());
        if let Some(root) = &test.intel {
            tdx = tdx.with_test_root(root)?;
        }
        let roots = SnpRoots::amd().and_simulated(test.amd.iter().copied());
        let snp = SnpVerifier::with_roots(self.sev_snp.clone(), roots);
        let set = VerifierSet::built_in()
            .with(EvidenceKind::Tdx, Arc::new(tdx))
            .with(EvidenceKind::SevSnp, Arc::new(snp))
            .with_gpus(GpuVerifier::new(self.gpu.clone()));
        Ok(match test.nvidia {
            Some(roots) => set.with_gpus(GpuVerifier::with_roots(self.gpu.clone(), roots)),
            None => set,
        })
    }
}
