//! Why the kernel gave no report, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::{Provider, TIME_LIMIT};

/// Linux's error numbers that have no [`io::ErrorKind`] of their own.
const EIO: i32 = 5;
const ENXIO: i32 = 6;

/// Why there is no report. The message names the cause and the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TsmError {
    /// The kernel's directory is not there.
    #[error(
        "{} is not there. This is no TDX or SEV-SNP guest, or its driver is not loaded: run `modprobe tdx_guest` or \
         `modprobe sev-guest`, and `mount -t configfs none /sys/kernel/config` where that is empty (Linux 6.7 or newer)",
        base.display()
    )]
    Missing {
        /// Where it was looked for.
        base: PathBuf,
    },
    /// The interface is there, but no driver behind it.
    #[error(
        "no driver stands behind the kernel's attestation interface: run `modprobe tdx_guest` or `modprobe sev-guest` \
         in the guest, and see `dmesg` for why the driver does not take the machine"
    )]
    NoDriver,
    /// This process may not use it.
    #[error(
        "no permission for {file} of the kernel's attestation interface: run as root, or let the service's start \
         make {file} accessible to its user"
    )]
    Permission {
        /// What it was refused.
        file: &'static str,
    },
    /// The driver is for another kind of machine.
    #[error(
        "the machine's attestation driver is {found}, not {wanted}: set `attestation.present` to what it is"
    )]
    OtherProvider {
        /// What was wanted.
        wanted: Provider,
        /// What is there.
        found: Provider,
    },
    /// The driver is one that is not known here.
    #[error("the machine's attestation driver is neither tdx_guest nor sev_guest; no other is understood")]
    UnknownProvider,
    /// Others wrote to our report each time.
    #[error(
        "somebody else wrote to our report in each of {attempts} attempts: look for what else uses the kernel's \
         attestation interface"
    )]
    Disturbed {
        /// How often it was tried.
        attempts: u32,
    },
    /// The kernel was busy for all of the time limit.
    #[error(
        "the kernel was busy with other reports for {} s: an earlier quote may be stuck. On a TDX host see to the \
         quote generation service (`systemctl status qgsd`)",
        TIME_LIMIT.as_secs()
    )]
    Busy,
    /// The host did not make the quote in the kernel's time.
    #[error(
        "the host did not answer the request for a quote (GetQuote): see to the quote generation service on the host \
         (`systemctl status qgsd`), and that the guest was started with a `quote-generation-socket` to it"
    )]
    QuoteTimedOut,
    /// The host or the firmware refused the report.
    #[error("{}", refused(*provider))]
    Refused {
        /// Which driver asked.
        provider: Provider,
    },
    /// The kernel refused the request as malformed.
    #[error(
        "the kernel or the firmware refused {file} as invalid: for SEV-SNP, the privilege level or the key to sign \
         with may not be this guest's; see `dmesg`"
    )]
    Invalid {
        /// At which file.
        file: &'static str,
    },
    /// More than any report has.
    #[error("the kernel's {file} is longer than {limit} bytes")]
    TooLong {
        /// Which file.
        file: &'static str,
        /// The limit, bytes.
        limit: usize,
    },
    /// Report and certificates together are more than evidence may have.
    #[error(
        "report and host's certificate table have {len} bytes together, more than the {} of evidence: let the host \
         hand out a shorter table",
        cocoon_attest::MAX_QUOTE_LEN
    )]
    EvidenceTooLong {
        /// Their length, bytes.
        len: usize,
    },
    /// What the kernel gave is no report.
    #[error("the kernel's {file} cannot be read: {reason}")]
    Malformed {
        /// Which file.
        file: &'static str,
        /// Why.
        reason: String,
    },
    /// The report is about something else than asked for.
    #[error("the report is bound to other data than those asked for; nothing must be concluded from it")]
    OtherReportData,
    /// Anything else that the kernel said.
    #[error("the kernel's {file} failed: {kind} (error {code})")]
    Io {
        /// At which file.
        file: &'static str,
        /// What kind of failure.
        kind: io::ErrorKind,
        /// The system's number for it; 0 for none.
        code: i32,
    },
}

fn refused(provider: Provider) -> &'static str {
    match provider {
        Provider::TdxGuest => {
            "the host refused to make a quote (GetQuote): start the guest with a `quote-generation-socket` to a running \
             quote generation service; `dmesg` has the host's status"
        }
        Provider::SevGuest => {
            "the secure processor or the host refused the report: the host's certificate table may be longer than the \
             kernel takes, or the guest's channel to the processor is shut after an error and needs a new start of the \
             guest; see `dmesg`"
        }
    }
}

impl TsmError {
    /// Whether this says that there is no such machine here, rather than that something is wrong with it.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::NoDriver)
    }

    /// The failure of making a directory of our own.
    pub(super) fn of_directory(error: &io::Error, base: &Path) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing { base: base.to_owned() },
            _ => Self::of_file(error, "the directory", None),
        }
    }

    /// The failure of a file.
    pub(super) fn of_file(error: &io::Error, file: &'static str, provider: Option<Provider>) -> Self {
        let code = error.raw_os_error().unwrap_or(0);
        match (error.kind(), provider) {
            (io::ErrorKind::PermissionDenied, _) => Self::Permission { file },
            (io::ErrorKind::InvalidInput, _) => Self::Invalid { file },
            (io::ErrorKind::TimedOut, _) => Self::QuoteTimedOut,
            (_, Some(provider)) if code == EIO => Self::Refused { provider },
            // What the SNP driver makes of a status of the firmware's that it does not know.
            (_, Some(Provider::SevGuest)) if code == ENXIO && file == "outblob" => {
                Self::Refused { provider: Provider::SevGuest }
            }
            // The driver went away, or never came.
            (_, _) if code == ENXIO => Self::NoDriver,
            (kind, _) => Self::Io { file, kind, code },
        }
    }
}

/// Whether trying again may help.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy
    )
}
