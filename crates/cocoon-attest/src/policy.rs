//! What we demand of a peer. A policy is ours alone: what we show of ourselves is another matter.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{EvidenceKind, Verdict};

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
    /// The image hash is among the allowed ones.
    ImageHash,
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
    #[error("unknown policy {name:?}; there are `any` and `fake_tdx`")]
    UnknownName {
        /// What was asked for.
        name: String,
    },
    /// `any` with a list of image hashes: an unverified hash proves nothing.
    #[error("the policy `any` cannot enforce image hashes; ask for evidence, or drop the list")]
    HashesWithoutEvidence,
}

/// What is demanded of a peer. Fails closed: what is not allowed is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    accepted: AcceptedEvidence,
    allowed_image_hashes: Option<BTreeSet<[u8; 32]>>,
}

impl Policy {
    /// The published `any`: no evidence needed.
    #[must_use]
    pub fn any() -> Self {
        Self { accepted: AcceptedEvidence::Any, allowed_image_hashes: None }
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
        Self { accepted: AcceptedEvidence::OneOf(kinds), allowed_image_hashes: None }
    }

    /// The policy of this published name.
    ///
    /// # Errors
    /// There is no such policy, or this build cannot enforce it.
    pub fn by_name(name: &str) -> Result<Self, PolicyError> {
        match name {
            "any" => Ok(Self::any()),
            "fake_tdx" => Ok(Self::fake_tdx()),
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
        match (&self.allowed_image_hashes, verdict.image_hash) {
            (None, _) => PolicyDecision::Allowed,
            (Some(allowed), Some(hash)) if allowed.contains(&hash) => PolicyDecision::Allowed,
            (Some(_), Some(hash)) => {
                let detail = format!("the image hash {} is not on the list", hex::encode(hash));
                PolicyDecision::refused(PolicyRule::ImageHash, detail)
            }
            (Some(_), None) => {
                PolicyDecision::refused(PolicyRule::ImageHash, "the evidence gives no image hash")
            }
        }
    }
}
