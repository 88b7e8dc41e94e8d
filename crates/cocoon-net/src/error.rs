//! Why a connection did not come about.

use std::fmt;
use std::io;

use cocoon_attest::{CertificateError, CollateralUnavailable, PolicyRule};
use cocoon_wire::pow::PowError;

/// A connection that did not come about: with whom, and why.
#[derive(Debug, thiserror::Error)]
#[error("connection with {peer}: {cause}")]
pub struct ConnectError {
    /// The peer's address, as dialled or as accepted.
    pub peer: String,
    /// What went wrong.
    pub cause: ConnectFailure,
}

/// The steps of setting up a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Name resolution and TCP.
    Connect,
    /// The proof of work.
    ProofOfWork,
    /// The TLS handshake.
    Tls,
    /// Judging the peer's evidence, with whatever must be fetched for it.
    Attestation,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::ProofOfWork => "the proof of work",
            Self::Tls => "the TLS handshake",
            Self::Attestation => "attestation",
        })
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// The address is wrong, or nobody answers there.
    #[error("cannot connect: {0}")]
    Unreachable(#[source] io::Error),
    /// Not ready in time.
    #[error("no progress in time during {stage}")]
    Timeout {
        /// Where it stood.
        stage: Stage,
    },
    /// The peer went away. A peer that is over its limits does this.
    #[error("the peer closed the connection during {stage}")]
    Closed {
        /// Where it stood.
        stage: Stage,
    },
    /// The connection broke.
    #[error("the connection broke during {stage}: {source}")]
    Broken {
        /// Where it stood.
        stage: Stage,
        /// What the system says.
        source: io::Error,
    },
    /// What the peer sent is no proof of work.
    #[error("the peer does not speak this protocol: {0}")]
    NotProofOfWork(#[source] PowError),
    /// The peer asks for more work than we are willing to do.
    #[error("the peer asks for {asked} bits of work, more than the configured {max}")]
    DifficultyTooHigh {
        /// Bits asked for.
        asked: u8,
        /// Bits we are willing to do.
        max: u8,
    },
    /// The difficulty that we are configured to ask for has no meaning.
    #[error("the configured difficulty of the proof of work: {0}")]
    BadDifficulty(#[source] PowError),
    /// The peer's answer to our challenge is wrong.
    #[error("the peer's proof of work is wrong")]
    WrongProofOfWork,
    /// No answer to the challenge exists, or the search was stopped.
    #[error("the proof of work was not solved")]
    Unsolved,
    /// TLS failed for another reason than the peer's certificate.
    #[error("TLS: {0}")]
    Tls(#[source] rustls::Error),
    /// The peer's certificate is not acceptable under any policy.
    #[error("{0}")]
    Certificate(#[source] CertificateError),
    /// What the evidence needs for its verification cannot be had.
    #[error("{0}")]
    Collateral(#[source] CollateralUnavailable),
    /// The policy refuses the peer.
    #[error("refused by policy ({rule:?}): {detail}")]
    Refused {
        /// The rule that failed.
        rule: PolicyRule,
        /// What was found.
        detail: String,
    },
}

impl ConnectFailure {
    /// An I/O error, told apart into closed, broken and what TLS wraps.
    pub(crate) fn from_io(stage: Stage, error: io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::from_tls(tls);
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::Closed { stage }
            }
            _ => Self::Broken { stage, source: error },
        }
    }

    fn from_tls(error: &rustls::Error) -> Self {
        if let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error
            && let Some(certificate) = other.0.downcast_ref::<CertificateError>()
        {
            return Self::Certificate(certificate.clone());
        }
        Self::Tls(error.clone())
    }
}
