//! From the pinned root to the key that signed the report.

use std::borrow::Cow;

use super::evidence::SnpEvidence;
use super::product::{SnpProduct, SnpTcb};
use super::report::{SnpReport, SnpSigningKey};
use super::roots::{SnpRoots, Worth};
use super::x509::{self, Certificate, Key, RevocationList};
use crate::{Collateral, CollateralRequest, EvidenceKind, UnixSeconds};

/// The certificates that the evidence needs, found but unverified.
pub(super) struct Gathered<'a> {
    pub(super) product: Option<SnpProduct>,
    pub(super) endorsement: Option<Cow<'a, [u8]>>,
    pub(super) ark: Option<Cow<'a, [u8]>>,
    pub(super) intermediate: Option<Cow<'a, [u8]>>,
    /// Whether the authorities, too, must be found: they are built in for AMD's roots only.
    needs_authorities: bool,
    /// The VCEK to ask for, though one came along: that one is for another TCB. Hosts forget to renew what they
    /// hand out after an update.
    pub(super) outdated: Option<CollateralRequest>,
    /// What was fetched comes before what the host put in: a host might hold on to an old list.
    pub(super) lists: Vec<Cow<'a, [u8]>>,
    /// All that was fetched, and what could not be.
    pub(super) collateral: &'a Collateral,
}

/// A name at the Key Distribution Service, without its host.
fn request(signer: SnpSigningKey, product: SnpProduct, rest: &str) -> CollateralRequest {
    let family = if signer == SnpSigningKey::Vlek { "vlek" } else { "vcek" };
    CollateralRequest { kind: EvidenceKind::SevSnp, name: format!("{family}/v1/{product}/{rest}") }
}

/// The chip's certificate for the TCB reported; `None` where the report does not name its chip.
fn vcek_request(report: &SnpReport, product: SnpProduct) -> Option<CollateralRequest> {
    let chip = &report.chip_id[..product.chip_id_len()];
    if chip.iter().all(|byte| *byte == 0) {
        return None;
    }
    let query = SnpTcb::read(report.reported_tcb, product).query(product);
    Some(request(SnpSigningKey::Vcek, product, &format!("{}?{query}", hex::encode(chip))))
}

/// The product line whose authority names itself in this certificate as the issuer.
fn product_of(der: &[u8]) -> Option<SnpProduct> {
    let issuer = Certificate::parse(der).ok()?.issuer_common_name()?.to_owned();
    let name = issuer.strip_prefix("SEV-")?;
    let name = name.strip_prefix("VLEK-").unwrap_or(name);
    SnpProduct::ALL.into_iter().find(|product| product.name() == name)
}

/// The product line: by CPUID, or else by who signed the certificate that came along, or by which was fetched.
fn find_product(report: &SnpReport, brought: Option<&[u8]>, collateral: &Collateral) -> Option<SnpProduct> {
    let candidates = report.products();
    let mut by_fetched = candidates.iter().copied().filter(|product| {
        vcek_request(report, *product).is_some_and(|request| collateral.get(&request).is_some())
    });
    match (candidates, brought) {
        ([product], _) => Some(*product),
        (_, Some(der)) => product_of(der).filter(|product| candidates.contains(product)),
        (_, None) if report.signing_key == SnpSigningKey::Vcek => by_fetched.next(),
        _ => None,
    }
}

impl<'a> Gathered<'a> {
    /// Finds the certificates: in the evidence, among what was fetched, built in; in this order, because evidence
    /// that brings its own needs no fetching.
    pub(super) fn find(evidence: &SnpEvidence<'a>, collateral: &'a Collateral, roots: &SnpRoots) -> Self {
        let report = &evidence.report;
        let signer = report.signing_key;
        let brought = match signer {
            SnpSigningKey::Vcek => evidence.certificates.vcek,
            SnpSigningKey::Vlek => evidence.certificates.vlek,
            SnpSigningKey::None => None,
        };
        let fetched = |request: CollateralRequest| collateral.get(&request).map(|bytes| &bytes[..]);
        let mut gathered = Self {
            product: find_product(report, brought, collateral),
            endorsement: brought.map(Cow::Borrowed),
            ark: None,
            intermediate: None,
            needs_authorities: !roots.have_amd(),
            outdated: None,
            lists: Vec::new(),
            collateral,
        };
        let Some(product) = gathered.product else { return gathered };
        let fits = |der| Certificate::parse(der).ok().and_then(|key| certified_tcb(&key, product));
        if signer == SnpSigningKey::Vcek && brought.and_then(fits) != Some(report.reported_tcb.0) {
            gathered.outdated = vcek_request(report, product);
            let answer = gathered.outdated.clone().and_then(fetched).and_then(x509::unwrap_pem);
            if let Some(der) = answer.and_then(|certificates| certificates.into_iter().next()) {
                gathered.endorsement = Some(Cow::Owned(der));
                gathered.outdated = None;
            }
        }
        let certificates = &evidence.certificates;
        let (mut ark, mut intermediate) =
            (certificates.ark.map(Cow::Borrowed), certificates.ask.map(Cow::Borrowed));
        // The service answers with the intermediate first and the root second.
        let chain = fetched(request(signer, product, "cert_chain")).and_then(x509::unwrap_pem);
        if let Some(Ok([middle, root])) = chain.map(<[Vec<u8>; 2]>::try_from) {
            ark = ark.or(Some(Cow::Owned(root)));
            intermediate = intermediate.or(Some(Cow::Owned(middle)));
        }
        if let Some((root, middle)) = roots.built_in(product, signer) {
            ark = ark.or(Some(Cow::Borrowed(root)));
            intermediate = intermediate.or(Some(Cow::Borrowed(middle)));
        }
        let lists = fetched(request(signer, product, "crl")).into_iter().chain(certificates.crl);
        gathered.lists = lists.map(Cow::Borrowed).collect();
        (gathered.ark, gathered.intermediate) = (ark, intermediate);
        gathered
    }

    /// What is missing, as requests, and in words where it cannot be asked for.
    pub(super) fn missing(&self, report: &SnpReport) -> (Vec<CollateralRequest>, Option<&'static str>) {
        let signer = report.signing_key;
        let (mut requests, mut hopeless) = (Vec::new(), None);
        if signer == SnpSigningKey::None {
            return (requests, hopeless);
        }
        let candidates = match &self.product {
            Some(product) => std::slice::from_ref(product),
            None => report.products(),
        };
        if self.endorsement.is_none() {
            if signer == SnpSigningKey::Vlek {
                hopeless = Some("the VLEK certificate, which only the cloud provider can hand out");
            } else {
                requests.extend(candidates.iter().filter_map(|product| vcek_request(report, *product)));
                if requests.is_empty() {
                    hopeless = Some("the VCEK certificate, and the report hides which chip's to ask for");
                }
            }
        }
        for product in candidates {
            let incomplete = self.ark.is_none() || self.intermediate.is_none();
            if self.needs_authorities && incomplete {
                requests.push(request(signer, *product, "cert_chain"));
            }
            if self.lists.is_empty() {
                requests.push(request(signer, *product, "crl"));
            }
        }
        (requests, hopeless)
    }
}

/// Whether a request is for a revocation list.
pub(super) fn asks_for_list(request: &CollateralRequest) -> bool {
    request.name.ends_with("/crl")
}

/// The root: pinned, and self-signed as a root is.
pub(super) fn root<'a>(
    der: &'a [u8],
    product: SnpProduct,
    roots: &SnpRoots,
) -> Result<(Certificate<'a>, Worth), String> {
    let ark = parse(der)?;
    let worth = roots.worth(product, ark.key_info);
    let worth = worth.ok_or_else(|| format!("the root's key is not the one trusted for {product}"))?;
    if !ark.is_authority || !ark.is_signed_by(&ark) {
        return Err("the root is no authority that signed itself".to_owned());
    }
    Ok((ark, worth))
}

/// The authority beneath the root.
pub(super) fn intermediate<'a>(
    der: &'a [u8],
    ark: &Certificate<'_>,
    product: SnpProduct,
    signer: SnpSigningKey,
) -> Result<Certificate<'a>, String> {
    let ask = parse(der)?;
    let wanted = match signer {
        SnpSigningKey::Vlek => format!("SEV-VLEK-{product}"),
        _ => format!("SEV-{product}"),
    };
    if !ask.is_signed_by(ark) {
        return Err("the root did not sign the intermediate certificate".to_owned());
    }
    if ask.common_name() != Some(wanted.as_str()) || !ask.is_authority {
        return Err(format!("the intermediate certificate is not the authority {wanted}"));
    }
    Ok(ask)
}

/// The key that signs reports.
pub(super) fn endorsement<'a>(
    der: &'a [u8],
    ask: &Certificate<'_>,
    signer: SnpSigningKey,
) -> Result<Certificate<'a>, String> {
    let name = signer.name();
    let key = parse(der)?;
    if !key.is_signed_by(ask) {
        return Err(format!("the authority did not sign the {name} certificate"));
    }
    if key.is_authority || !matches!(key.key, Key::P384(_)) {
        return Err(format!("the {name} certificate is not one for a P-384 key"));
    }
    // The two kinds differ in what they name: the chip, or the provider.
    if key.names_a_chip() == key.provider().is_some()
        || key.provider().is_some() != (signer == SnpSigningKey::Vlek)
    {
        return Err(format!("the certificate's extensions are not those of a {name}"));
    }
    Ok(key)
}

/// The TCB that a certificate is for, in the order of the report (KDS, "VCEK certificate extensions"); `None` if
/// a security version is missing.
pub(super) fn certified_tcb(key: &Certificate<'_>, product: SnpProduct) -> Option<[u8; 8]> {
    let order = match product {
        SnpProduct::Milan | SnpProduct::Genoa => [1, 2, 4, 5, 6, 7, 3, 8],
        SnpProduct::Turin => [9, 1, 2, 3, 5, 6, 7, 8],
    };
    let mut tcb = [0; 8];
    for (version, index) in tcb.iter_mut().zip(order) {
        *version = key.security_version(index)?;
    }
    Some(tcb)
}

/// A list that the root signed and that is current; otherwise what is wrong with the first one.
pub(super) fn current_list<'a>(
    lists: &'a [Cow<'_, [u8]>],
    ark: &Certificate<'_>,
    now: UnixSeconds,
) -> Result<RevocationList<'a>, String> {
    let mut first_fault = None;
    for der in lists {
        let judged = RevocationList::parse(der)
            .map_err(|malformed| format!("the revocation list is malformed at its {}", malformed.0))
            .and_then(|list| {
                if !list.is_signed_by(ark) {
                    Err("the root did not sign the revocation list".to_owned())
                } else if now < list.this_update || now > list.next_update {
                    let (from, to) = (list.this_update, list.next_update);
                    Err(format!("the revocation list is for the time from {from} to {to}; it is {now}"))
                } else {
                    Ok(list)
                }
            });
        match judged {
            Ok(list) => return Ok(list),
            Err(fault) => first_fault = first_fault.or(Some(fault)),
        }
    }
    Err(first_fault.unwrap_or_else(|| "there is no revocation list".to_owned()))
}

fn parse(der: &[u8]) -> Result<Certificate<'_>, String> {
    Certificate::parse(der)
        .map_err(|malformed| format!("the certificate is malformed at its {}", malformed.0))
}

/// When an answer of the Key Distribution Service runs out, by its own word, so that a cache can fetch the next one
/// in time: a revocation list when the next one is due, certificates when the first of them ends. `None` if it is no
/// such answer. Nothing is verified: this says when to fetch, not what to trust.
#[must_use]
pub fn runs_out(answer: &[u8]) -> Option<UnixSeconds> {
    if let Ok(list) = RevocationList::parse(answer) {
        return Some(list.next_update);
    }
    let ends = |der: &Vec<u8>| Certificate::parse(der).ok().map(|certificate| certificate.not_after);
    let ends: Option<Vec<UnixSeconds>> = x509::unwrap_pem(answer)?.iter().map(ends).collect();
    ends?.into_iter().min()
}

/// Reads bytes as each kind of collateral; for fuzzing.
pub(crate) fn read_collateral(bytes: &[u8]) {
    for certificate in x509::unwrap_pem(bytes).into_iter().flatten() {
        if let Ok(certificate) = Certificate::parse(&certificate) {
            for product in SnpProduct::ALL {
                // Any answer is fine; returning is what is tested.
                let _ =
                    (certified_tcb(&certificate, product), certificate.hardware_id(product.chip_id_len()));
            }
        }
    }
    if let Ok(list) = RevocationList::parse(bytes) {
        assert!(list.len() <= bytes.len(), "more is revoked than was read");
    }
    // Either answer is fine; returning is what is tested.
    let _ = runs_out(bytes);
}
