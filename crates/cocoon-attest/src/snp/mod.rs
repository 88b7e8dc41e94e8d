//! AMD SEV-SNP: reading attestation reports and verifying them.
//!
//! # Evidence
//! The 1184 bytes of a report, alone or followed by the certificate table that the host hands to the guest: the
//! contents of `outblob` and of `auxblob` of Linux configfs-tsm, put together without anything between. See
//! [`SnpEvidence`]. What the evidence lacks is named as [`CollateralRequest`](crate::CollateralRequest)s whose names
//! are paths at AMD's Key Distribution Service, such as `vcek/v1/Milan/crl`.
//!
//! # What is checked
//! [`SnpVerifier`] records each of these as a named [`Check`](crate::Check), in this order:
//!
//! | name | holds when |
//! |---|---|
//! | `format` | the bytes are a report of version 2 to 5 and a table that can be read, no reserved key flag set |
//! | `product` | the policy has a floor for the product line, and CPUID, certificates and root agree on the line |
//! | `signing_key` | the report says that it was signed, with a kind of key that the policy takes |
//! | `collateral` | every certificate and the revocation list are at hand |
//! | `root` | the ARK has the pinned key and signed itself |
//! | `intermediate` | the ASK (for a VCEK) or ASVK (for a VLEK) is a CA of that name, signed by the ARK |
//! | `endorsement` | the VCEK or VLEK is signed by it, is no CA, and the policy takes its kind |
//! | `validity` | all three certificates are valid at the time of verification |
//! | `revocation` | the ARK's current list revokes none of the ARK's certificates in the chain |
//! | `signature` | the certificate's key signed the report |
//! | `chip` | the VCEK's hardware identifier is the report's chip |
//! | `tcb_certificate` | the certificate's security versions are the report's reported TCB |
//! | `binding` | the report data are the expected ones |
//! | `vmpl` | the report was asked for at a privilege level that the policy allows (0, unless said otherwise) |
//! | `debug` | the host may not debug the guest: never allowed, by no policy |
//! | `migration` | no migration agent may be or is associated: never allowed, by no policy |
//! | `guest_policy` | the other bits of the guest's policy are known, and what the policy asks for |
//! | `platform` | the platform's features are what the policy asks for |
//! | `tcb_order` | reported, committed and launch TCB are none above the current one |
//! | `tcb_floor` | reported, committed, launch and current TCB all reach the policy's floor, microcode by kind of chip |
//! | `firmware` | the firmware is committed, new enough for the operator, and as new as the guest asks |
//! | `mitigations` | the mitigations that the policy asks for were in force at launch and are now |
//! | `measurement` | the launch measurement is among the pinned ones; recorded as it is where none is pinned |
//! | `host_data` | likewise, what the host put in at launch |
//! | `id_key` | likewise, the key that signed the identity block |
//! | `author_key` | likewise, the key that vouched for that key |
//! | `guest_svn` | the guest's own security version reaches the policy's |
//!
//! A certificate that is missing or does not hold leaves the checks that need it `Skipped`; the verdict is a refusal
//! all the same. The checks of the report's contents are made and shown in either case.
//!
//! # What is not checked
//! VCEKs are in no revocation list: AMD retires them by raising TCB versions, which is what the floor is for. Which
//! image a measurement stands for, and how many virtual CPUs it was launched with (their initial state is measured,
//! so each number gives another measurement), is for whoever publishes image hashes to say.
//!
//! # Cryptography
//! Signatures are verified by `aws-lc-rs`, which TLS uses here anyway: RSA-4096 with PSS for certificates, ECDSA on
//! P-384 for reports. The `sev` crate was considered; it drags in what talks to devices (`iocuddle`, `dirs`, `libc`)
//! and an RSA library with an open advisory, and it leaves revocation, validity and every policy to its caller.
//!
//! # Sources
//! AMD 56860, "SEV Secure Nested Paging Firmware ABI Specification" ("the ABI" below); AMD 57230,
//! "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification" ("KDS"); AMD
//! 56421, "SEV-ES Guest-Hypervisor Communication Block Standardization" ("GHCB").

mod chain;
mod evidence;
mod judge;
mod policy;
mod product;
mod report;
mod roots;
mod verifier;
mod x509;

pub(crate) use chain::read_collateral;
pub use chain::runs_out;
pub use evidence::{SnpCertificates, SnpEvidence, SnpEvidenceError};
pub use policy::{SnpPolicy, SnpRevocation};
pub use product::{SnpChip, SnpProduct, SnpTcb, SnpTcbBytes};
pub use report::{SnpFirmware, SnpReport, SnpReportError, SnpSigningKey};
pub(crate) use roots::root_that_comes_along;
pub use roots::{SnpRoot, SnpRoots};
pub use verifier::SnpVerifier;
