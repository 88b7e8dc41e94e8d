//! Intel TDX: reading quotes and verifying them.
//!
//! Two readings of the same evidence must agree before a quote is accepted: this module's own, step by step and
//! each step a named [`check`] of the verdict, and that of the `dcap-qvl` library as a whole. They use different
//! cryptography (aws-lc here, RustCrypto there) and different readers of quotes, certificates and revocation lists;
//! the reading of signed JSON and of what a platform's certificate says about it is the library's for both. A step
//! that cannot be made for lack of collateral is shown as skipped, and the verdict is a refusal.
//!
//! The way of trust: root → platform authority → platform certificate (PCK) → quoting enclave's report →
//! attestation key → quote. TCB information and QE identity, signed below the same root, say which platforms and
//! quoting enclaves are sound; revocation lists say which certificates no longer are; [`TdxPolicy`] says what of
//! this is good enough.

mod checks;
pub mod collateral;
mod policy;
mod quote;
mod tcb;
mod verifier;
mod x509;

pub use policy::{TcbStatus, TdxPolicy, Tolerance};
pub use quote::{QuoteError, Register, Td15Measurements, TdBody, TdxMeasurements, TdxQuote};
pub use verifier::{RootError, TdxVerifier};

/// The third certificate in a quote, for the fuzzer.
pub(crate) fn root_that_comes_along(quote: &[u8]) -> Option<Vec<u8>> {
    let quote = quote::SignedQuote::parse(quote).ok()?;
    checks::platform_chain(&quote).ok()?.into_iter().nth(2)
}

/// Reads bytes as each form that collateral has, for the fuzzer.
pub(crate) fn read_collateral(bytes: &[u8]) {
    // Either answer is fine; returning is what is tested.
    let _ = x509::Certificate::parse(bytes).map(|certificate| certificate.issued_by(&certificate, 0));
    let _ = x509::RevocationList::parse(bytes);
    let _ = collateral::runs_out(bytes);
    let _ = dcap_qvl::intel::parse_pck_extension(bytes);
    if let Ok(answer) = collateral::SignedAnswer::parse(bytes) {
        let _ = serde_json::from_str::<dcap_qvl::TcbInfo>(&answer.content);
        let _ = serde_json::from_str::<dcap_qvl::QeIdentity>(&answer.content);
    }
    for der in collateral::read_chain(bytes).map(|(chain, _rest)| chain).unwrap_or_default() {
        let _ = x509::Certificate::parse(&der);
        let _ = dcap_qvl::intel::parse_pck_extension(&der);
    }
}

/// The names of the checks in a verdict on TDX evidence, in the order they are made.
pub mod check {
    /// The bytes are a TDX quote of version 4 or 5 by Intel's quoting enclave, with an ECDSA key on P-256.
    pub const QUOTE_FORMAT: &str = "quote_format";
    /// The platform's certificate leads to a trusted root: names, signatures, authority, validity.
    pub const CERTIFICATE_CHAIN: &str = "certificate_chain";
    /// The platform's key signed the quoting enclave's report, that names the attestation key, that signed the quote.
    pub const QUOTE_SIGNATURE: &str = "quote_signature";
    /// The report data are those of the certificate's key.
    pub const BINDING: &str = "binding";
    /// The trust domain's attributes are those allowed: no debugging, no migration, nothing unknown.
    pub const TD_ATTRIBUTES: &str = "td_attributes";
    /// The processor features are those allowed.
    pub const XFAM: &str = "xfam";
    /// No service trust domain is bound to this one.
    pub const SERVICE_TD: &str = "service_td";
    /// Everything that had to be fetched is there.
    pub const COLLATERAL: &str = "collateral";
    /// The root's revocation list is signed, of now, and spares the platform authority.
    pub const ROOT_CRL: &str = "root_crl";
    /// The platform authority's revocation list is signed, of now, and spares the platform.
    pub const PCK_CRL: &str = "pck_crl";
    /// TCB information is signed below the same root, of now, and about this model.
    pub const TCB_INFO: &str = "tcb_info";
    /// The QE identity is signed below the same root, of now, and the quoting enclave fits it.
    pub const QE_IDENTITY: &str = "qe_identity";
    /// The TDX module is signed by whom, and has the attributes that, TCB information says; and the policy lists it.
    pub const TDX_MODULE: &str = "tdx_module";
    /// The state of the platform, its TDX module and its quoting enclave is one that the policy lets pass.
    pub const TCB_STATUS: &str = "tcb_status";
    /// None of the open advisories is one that the policy refuses.
    pub const ADVISORIES: &str = "advisories";
    /// The library `dcap-qvl`, reading everything once more by itself, agrees.
    pub const SECOND_READING: &str = "second_reading";

    /// The checks that need collateral, beginning with the one for its being there.
    pub(super) const NEED_COLLATERAL: &[&str] = &[
        COLLATERAL,
        ROOT_CRL,
        PCK_CRL,
        TCB_INFO,
        QE_IDENTITY,
        TDX_MODULE,
        TCB_STATUS,
        ADVISORIES,
        SECOND_READING,
    ];
}
