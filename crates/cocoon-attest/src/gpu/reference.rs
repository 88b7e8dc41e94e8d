//! Measurements against reference values: the operator's, or NVIDIA's as its manifests have them.

use std::collections::BTreeSet;

use super::collateral::{self, GpuCollateral};
use super::opaque::{GpuDetails, GpuMode};
use super::policy::{Demand, PinnedValues};
use super::rim::{self, Manifest, Values};
use super::spdm::GpuAttestation;
use super::verifier::{Revocation, Session};
use crate::UnixSeconds;

/// What was found about one manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judged {
    /// It holds until then.
    Sound(Sound),
    /// It, or what it needs, is not at hand.
    NotAtHand(String),
    /// It does not hold.
    Broken(String),
}

/// A manifest that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sound {
    version: String,
    product: String,
    values: Values,
    /// When its certificates, or what is known about them, run out.
    ends: UnixSeconds,
    /// What the policy goes on without.
    lacks: Option<String>,
}

/// The values that there are, and what is lacking.
struct Gathered {
    values: Values,
    sources: String,
    lacks: Vec<String>,
}

/// Why there are no values.
enum NoValues {
    /// What is needed for them is not at hand.
    NotAtHand(String),
    /// They do not hold.
    Broken(String),
}

/// Whether pinned values are for this driver and firmware.
pub(super) fn fits(pinned: &PinnedValues, details: &GpuDetails) -> bool {
    let same = pinned.driver == details.driver && pinned.vbios == details.vbios;
    same && pinned.measurements.iter().any(|measurement| !measurement.digests.is_empty())
}

impl Session<'_> {
    /// Records the checks `reference_values`, `measurements` and `cc_mode`.
    pub(super) fn judge_values(&mut self, number: usize, report: &GpuAttestation<'_>, chip: &str) {
        let gathered = self.gather(&report.details, chip);
        let mode = self.mode(report.details.mode);
        let gathered = match gathered {
            Ok(gathered) => gathered,
            Err(why) => {
                match why {
                    NoValues::NotAtHand(fault) => self.record_unanswered(number, "reference_values", fault),
                    NoValues::Broken(fault) => self.record(number, "reference_values", Err(fault)),
                }
                self.skip(number, &["measurements"], "there are no reference values that hold");
                return self.record_mode(number, mode, Some("measurements have not been compared"));
            }
        };
        let lacks = gathered.lacks.join(", ");
        if lacks.is_empty() {
            self.record(number, "reference_values", Ok(gathered.sources.clone()));
        } else {
            let why = format!("no reference values: {lacks}; the policy goes on without");
            self.skip(number, &["reference_values"], &why);
        }
        if gathered.values.is_empty() {
            self.skip(number, &["measurements"], "there are no reference values to compare them with");
            return self.record_mode(number, mode, Some("measurements have not been compared"));
        }
        let compared = compare(report, &gathered.values);
        let doubt = match &compared {
            Err(_) => Some("measurements differ"),
            Ok(_) if !lacks.is_empty() => Some("only part of the measurements has been compared"),
            Ok(_) => None,
        };
        self.record(number, "measurements", compared);
        self.record_mode(number, mode, doubt);
    }

    /// What the report says of the mode.
    fn mode(&self, mode: GpuMode) -> Result<&'static str, String> {
        if mode == GpuMode::ProtectedPcie && !self.policy.allow_protected_pcie {
            return Err(
                "protected PCIe: what passes between the GPUs is in the clear, and the switches are not \
                        attested"
                    .to_owned(),
            );
        }
        Ok(mode.name())
    }

    /// Nothing in a report says outright that confidential computing is on and debugging off. Measurements do: with
    /// developer tools on they are not the reference values.
    fn record_mode(&mut self, number: usize, mode: Result<&'static str, String>, doubt: Option<&str>) {
        match (mode, doubt) {
            (Err(fault), _) => self.record(number, "cc_mode", Err(fault)),
            (Ok(mode), None) => {
                let found = format!("{mode}; measured as in production, so developer tools are off");
                self.record(number, "cc_mode", Ok(found));
            }
            (Ok(mode), Some(doubt)) => {
                let why = format!(
                    "{mode}; whether developer tools are off shows in the measurements only, and {doubt}"
                );
                self.skip(number, &["cc_mode"], &why);
            }
        }
    }

    /// The operator's values, or else NVIDIA's for driver and firmware.
    fn gather(&mut self, details: &GpuDetails, chip: &str) -> Result<Gathered, NoValues> {
        let broken = |fault| Err(NoValues::Broken(fault));
        let (driver, vbios) = (&details.driver, details.vbios);
        if let Some(pinned) = self.policy.pinned.iter().find(|pinned| fits(pinned, details)) {
            let mut values = Values::new();
            for measurement in &pinned.measurements {
                let digests = measurement.digests.iter().map(|digest| digest.0).collect();
                if values.insert(measurement.index, digests).is_some() {
                    return broken(format!("the operator pins measurement {} twice", measurement.index));
                }
            }
            let sources = format!("the operator's for driver {driver} and VBIOS {vbios}");
            return Ok(Gathered { values, sources, lacks: Vec::new() });
        }
        let mut gathered = Gathered {
            values: Values::new(),
            sources: format!("NVIDIA's for driver {driver} and VBIOS {vbios}"),
            lacks: Vec::new(),
        };
        let versions = [driver.to_string(), vbios.to_string()];
        for (id, version) in collateral::manifests(details, chip).into_iter().zip(versions) {
            match self.manifest(&id) {
                Judged::Broken(fault) => return broken(format!("{id}: {fault}")),
                Judged::NotAtHand(fault) if self.policy.reference_values == Demand::Required => {
                    return Err(NoValues::NotAtHand(format!("{id}: {fault}")));
                }
                Judged::NotAtHand(fault) => gathered.lacks.push(format!("{id}: {fault}")),
                Judged::Sound(sound) => {
                    if !sound.version.eq_ignore_ascii_case(&version) {
                        return broken(format!("{id}: it is for version {:?}", sound.version));
                    }
                    // Blackwell's chips share manifests; Hopper's name theirs.
                    if chip == "GH100" && sound.product != chip {
                        return broken(format!("{id}: it is for {:?}", sound.product));
                    }
                    self.verdict.ends(sound.ends);
                    if let Some(lacks) = sound.lacks {
                        gathered.sources.push_str(&format!("; {lacks}"));
                    }
                    for (index, digests) in sound.values {
                        if gathered.values.insert(index, digests).is_some() {
                            return broken(format!("{id}: measurement {index} is in both manifests"));
                        }
                    }
                }
            }
        }
        Ok(gathered)
    }

    /// A manifest, judged once however many GPUs need it.
    fn manifest(&mut self, id: &str) -> Judged {
        if let Some(known) = self.manifests.get(id) {
            return known.clone();
        }
        let request = GpuCollateral::Manifest(id.to_owned()).request();
        let judged = match self.collateral.get(&request).map(|answer| rim::read(answer, id)) {
            None => Judged::NotAtHand(format!("collateral missing: {}", self.collateral.describe(&request))),
            Some(Err(fault)) => Judged::Broken(fault),
            Some(Ok(manifest)) => self.judge_manifest(manifest),
        };
        self.manifests.insert(id.to_owned(), judged.clone());
        judged
    }

    fn judge_manifest(&mut self, manifest: Manifest) -> Judged {
        let chain = match manifest.verified_chain(&self.roots.reference, self.now) {
            Ok(chain) => chain,
            Err(fault) => return Judged::Broken(fault),
        };
        let mut ends = chain.iter().map(|certificate| certificate.not_after).min().unwrap_or(self.now);
        let lacks = match self.revocation(&chain) {
            Revocation::NotRevoked(until) => {
                ends = ends.min(until);
                None
            }
            Revocation::Refused(fault) => return Judged::Broken(fault),
            Revocation::NotAtHand(fault) if self.policy.revocation == Demand::Required => {
                return Judged::NotAtHand(fault);
            }
            Revocation::NotAtHand(fault) => Some(fault),
        };
        let Manifest { version, product, values, .. } = manifest;
        Judged::Sound(Sound { version, product, values, ends, lacks })
    }
}

/// Each reference value against what was measured there.
fn compare(report: &GpuAttestation<'_>, values: &Values) -> Result<String, String> {
    let counted = values
        .iter()
        .filter(|(index, _)| **index != super::VIDEO_DECODER || report.details.video_decoder)
        .collect::<Vec<_>>();
    let mut differing = BTreeSet::new();
    for (index, digests) in &counted {
        let measured = index.checked_add(1).and_then(|index| report.measurements.get(&index));
        if !measured.is_some_and(|measured| digests.iter().any(|digest| digest[..] == measured[..])) {
            differing.insert(**index);
        }
    }
    if counted.is_empty() {
        return Err("no reference value counts for this GPU".to_owned());
    }
    if differing.is_empty() {
        Ok(format!("all {} are reference values", counted.len()))
    } else {
        let differing = differing.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        Err(format!("{differing} of {} are not reference values", counted.len()))
    }
}
