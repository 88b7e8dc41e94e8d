//! The signature of a manifest, in exactly the form that NVIDIA's have.
//!
//! Source: "XML Signature Syntax and Processing" (W3C), "enveloped signature". There is one reference, to the whole
//! document but for the signature itself; every algorithm is the one that is expected.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha384};

use super::super::x509::Certificate;
use super::xml::Element;

const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const CANONICAL: &str = "http://www.w3.org/2006/12/xml-c14n11";
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
const SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
/// Most certificates that come along.
const MAX_CERTIFICATES: usize = 8;

/// Verifies the signature over everything else in the document, with the key of the first certificate that comes
/// along. Gives the certificates, DER, which are not verified.
///
/// # Errors
/// Says what does not hold.
pub(super) fn verify(root: &Element<'_>) -> Result<Vec<Vec<u8>>, String> {
    let signature = root.only_child(DSIG, "Signature")?;
    let [info, value, keys] = parts(signature, ["SignedInfo", "SignatureValue", "KeyInfo"])?;
    let digest = expected_digest(info)?;
    if Sha384::digest(root.canonical(Some(signature), &[]))[..] != digest[..] {
        return Err("it is not what was signed".to_owned());
    }
    let [data] = parts(keys, ["X509Data"])?;
    let mut chain = Vec::new();
    for certificate in data.elements() {
        if !certificate.is(DSIG, "X509Certificate") || chain.len() == MAX_CERTIFICATES {
            return Err("its certificates are not of the known form".to_owned());
        }
        chain.push(base64(certificate)?);
    }
    let signer = chain.first().ok_or("it has no certificates")?;
    let signer = Certificate::parse(signer)
        .map_err(|fault| format!("its signer's certificate is malformed at its {}", fault.0))?;
    let signed = info.canonical(None, &[root, signature]);
    let genuine = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, signer.point)
        .verify(signed.as_bytes(), &base64(value)?)
        .is_ok();
    if genuine { Ok(chain) } else { Err("its signature is not by its signer".to_owned()) }
}

/// The digest that is signed, after everything around it is found to be what is expected.
fn expected_digest(info: &Element<'_>) -> Result<Vec<u8>, String> {
    let [canonical, method, reference] =
        parts(info, ["CanonicalizationMethod", "SignatureMethod", "Reference"])?;
    let [transforms, digest_method, digest] =
        parts(reference, ["Transforms", "DigestMethod", "DigestValue"])?;
    let [enveloped, transformed] = parts(transforms, ["Transform", "Transform"])?;
    for (element, algorithm) in [
        (canonical, CANONICAL),
        (method, ECDSA_SHA384),
        (enveloped, ENVELOPED),
        (transformed, CANONICAL),
        (digest_method, SHA384),
    ] {
        // Parameters inside would change what an algorithm does.
        if element.attribute("", "Algorithm")? != algorithm || element.elements().next().is_some() {
            return Err("its signature is made in another way than the known one".to_owned());
        }
    }
    if !reference.attribute("", "URI")?.is_empty() {
        return Err("its signature is over something else".to_owned());
    }
    base64(digest)
}

/// The elements in an element: just these, in this order.
fn parts<'e, 'a, const N: usize>(
    element: &'e Element<'a>,
    names: [&str; N],
) -> Result<[&'e Element<'a>; N], String> {
    let found: Vec<_> = element.elements().collect();
    <[&Element<'a>; N]>::try_from(found)
        .ok()
        .filter(|found| {
            element.has_no_text() && found.iter().zip(names).all(|(part, name)| part.is(DSIG, name))
        })
        .ok_or_else(|| "its signature is not of the known form".to_owned())
}

fn base64(element: &Element<'_>) -> Result<Vec<u8>, String> {
    let text: String = element.text()?.split_ascii_whitespace().collect();
    STANDARD.decode(text).map_err(|_| "its signature is not of the known form".to_owned())
}
