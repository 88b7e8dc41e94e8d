//! Simulated reference values: what simulated GPUs measure, and the manifests that say so.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_attest::gpu::{Digest384, DriverVersion, PinnedMeasurement, PinnedValues, VbiosVersion};
use sha2::{Digest as _, Sha384};

use super::Identity;

/// The simulated driver: later than any.
pub(super) const DRIVER: &str = "999.00";
/// The simulated firmware.
pub(super) const VBIOS: VbiosVersion = VbiosVersion([0x96, 0xff, 0, 0, 1]);
/// The measurements that drivers' manifests have, counted from 0, as Hopper's.
const OF_DRIVER: [u8; 22] =
    [7, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41];
/// Those that the firmware's have.
const OF_VBIOS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12];
/// All that there are.
const ALL: u8 = 64;

const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
const VALUES: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
const TCG: &str =
    "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";

/// What every simulated GPU measures, counted from 0. Nothing is measured where neither manifest says anything.
#[must_use]
pub fn measured() -> BTreeMap<u8, [u8; 48]> {
    let value = |index: u8| {
        let counts = OF_DRIVER.contains(&index) || OF_VBIOS.contains(&index);
        let digest = Sha384::new_with_prefix("simulated measurement").chain_update([index]).finalize();
        if counts { digest.into() } else { [0; 48] }
    };
    (0..ALL).map(|index| (index, value(index))).collect()
}

/// All of it, as a policy pins it.
pub(super) fn pinned() -> PinnedValues {
    let counted = measured().into_iter().filter(|(_, digest)| *digest != [0; 48]);
    PinnedValues {
        driver: driver_version(),
        vbios: VBIOS,
        measurements: counted
            .map(|(index, digest)| PinnedMeasurement { index, digests: vec![Digest384(digest)] })
            .collect(),
    }
}

#[expect(clippy::expect_used, reason = "a constant")]
fn driver_version() -> DriverVersion {
    DRIVER.parse().expect("the simulated version is one")
}

/// What a manifest is to say. Fields may be set at will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestForm {
    /// The version that it is for.
    pub version: String,
    /// The chip.
    pub product: String,
    /// The values that count, by index from 0.
    pub values: BTreeMap<u8, Vec<[u8; 48]>>,
    /// The identifier under which it is asked for.
    pub id: String,
}

impl ManifestForm {
    /// The one for the simulated driver.
    #[must_use]
    pub fn driver() -> Self {
        Self::of(&OF_DRIVER, DRIVER.to_owned(), format!("NV_GPU_DRIVER_GH100_{DRIVER}"))
    }

    /// The one for the simulated firmware.
    #[must_use]
    pub fn vbios() -> Self {
        let id = format!("NV_GPU_VBIOS_SIM0_0200_882_{}", hex::encode_upper(VBIOS.0));
        Self::of(&OF_VBIOS, VBIOS.to_string(), id)
    }

    fn of(indices: &[u8], version: String, id: String) -> Self {
        let values = measured().into_iter().filter(|(index, _)| indices.contains(index));
        // A second value that nothing measures, as manifests have them for variants of a board.
        let values = values.map(|(index, digest)| (index, vec![[index; 48], digest])).collect();
        Self { version, product: "GH100".to_owned(), values, id }
    }

    /// The manifest, signed by the last of these identities and with all their certificates.
    #[must_use]
    pub fn write(&self, authorities: &[Identity]) -> String {
        let digest = STANDARD.encode(Sha384::digest(self.body("", true)));
        let info = signed_info(&digest, true);
        let signature = authorities.last().map(|signer| STANDARD.encode(signer.key().sign(info.as_bytes())));
        let certificates: String = authorities
            .iter()
            .rev()
            .map(|identity| {
                let body = STANDARD.encode(identity.certificate());
                tag("ds:X509Certificate", &[], &[], Some(&body), false)
            })
            .collect();
        let data = tag("ds:X509Data", &[], &[], Some(&certificates), false);
        let content = [
            signed_info(&digest, false),
            tag("ds:SignatureValue", &[], &[], Some(&signature.unwrap_or_default()), false),
            tag("ds:KeyInfo", &[], &[], Some(&data), false),
        ];
        let signature = tag("ds:Signature", &[("ds", DSIG)], &[], Some(&content.concat()), false);
        self.body(&signature, false)
    }

    /// Everything, with the signature at its place; in canonical form, or as NVIDIA writes it.
    fn body(&self, signature: &str, canonical: bool) -> String {
        let meta = tag(
            "ns0:Meta",
            &[("ns1", TCG)],
            &[
                ("colloquialVersion", &self.version),
                ("edition", "GPU"),
                ("product", &self.product),
                ("PayloadType", "direct"),
                ("ns1:BindingSpec", "RIMIM"),
                ("ns1:FirmwareManufacturer", super::super::pki::SIMULATED),
            ],
            None,
            canonical,
        );
        let resources: String = (0..ALL).map(|index| self.resource(index, canonical)).collect();
        let payload =
            tag("ns0:Payload", &[("SHA384", VALUES)], &[], Some(&format!("{resources}\n    ")), canonical);
        let content = format!("\n    {meta}\n    {payload}\n{signature}");
        tag(
            "SoftwareIdentity",
            &[("", SWID), ("ns0", SWID), ("ns2", VALUES)],
            &[("corpus", "false"), ("name", &self.product), ("version", "1.0"), ("tagVersion", "0")],
            Some(&content),
            canonical,
        )
    }

    fn resource(&self, index: u8, canonical: bool) -> String {
        let nothing = vec![[0; 48]];
        let (active, digests) = match self.values.get(&index) {
            Some(digests) => ("True", digests),
            None => ("False", &nothing),
        };
        let index = index.to_string();
        let (count, name) = (digests.len().to_string(), format!("Measurement_{index}"));
        let digests: Vec<(String, String)> = digests
            .iter()
            .enumerate()
            .map(|(number, digest)| (format!("ns2:Hash{number}"), hex::encode(digest)))
            .collect();
        let mut attributes =
            vec![("type", "Measurement"), ("index", &index), ("active", active), ("alternatives", &count)];
        attributes.extend(digests.iter().map(|(name, digest)| (name.as_str(), digest.as_str())));
        attributes.extend([("name", name.as_str()), ("size", "48")]);
        format!("\n        {}", tag("ns0:Resource", &[], &attributes, None, canonical))
    }
}

/// What the signer signs; in canonical form with the namespaces around it.
fn signed_info(digest: &str, canonical: bool) -> String {
    let algorithm =
        |name: &str, algorithm: &str| tag(name, &[], &[("Algorithm", algorithm)], None, canonical);
    let transforms = [
        algorithm("ds:Transform", "http://www.w3.org/2000/09/xmldsig#enveloped-signature"),
        algorithm("ds:Transform", C14N),
    ];
    let reference = [
        tag("ds:Transforms", &[], &[], Some(&transforms.concat()), canonical),
        algorithm("ds:DigestMethod", "http://www.w3.org/2001/04/xmldsig-more#sha384"),
        tag("ds:DigestValue", &[], &[], Some(digest), canonical),
    ];
    let content = [
        algorithm("ds:CanonicalizationMethod", C14N),
        algorithm("ds:SignatureMethod", "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"),
        tag("ds:Reference", &[], &[("URI", "")], Some(&reference.concat()), canonical),
    ];
    let around = [("", SWID), ("ds", DSIG), ("ns0", SWID), ("ns2", VALUES)];
    let declared: &[(&str, &str)] = if canonical { &around } else { &[] };
    tag("ds:SignedInfo", declared, &[], Some(&content.concat()), canonical)
}

/// An element; without content, an empty tag, unless in canonical form.
fn tag(
    name: &str,
    declared: &[(&str, &str)],
    attributes: &[(&str, &str)],
    content: Option<&str>,
    canonical: bool,
) -> String {
    let namespace = |name: &str| match name.split_once(':') {
        Some(("ns1", _)) => TCG,
        Some(("ns2", _)) => VALUES,
        _ => "",
    };
    let mut attributes = attributes.to_vec();
    if canonical {
        attributes.sort_by_key(|(name, _)| (namespace(name), *name));
    }
    let declared = declared.iter().map(|(prefix, uri)| {
        let colon = if prefix.is_empty() { "" } else { ":" };
        format!(" xmlns{colon}{prefix}=\"{uri}\"")
    });
    let attributes = attributes.iter().map(|(name, value)| format!(" {name}=\"{value}\""));
    let start: String = declared.chain(attributes).collect();
    match content {
        None if !canonical => format!("<{name}{start}/>"),
        _ => format!("<{name}{start}>{}</{name}>", content.unwrap_or_default()),
    }
}
