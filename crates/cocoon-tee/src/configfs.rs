//! Reports of this machine from Linux's configfs-tsm: `/sys/kernel/config/tsm/report`.
//!
//! The kernel's interface is a directory per report: whoever makes a directory finds files in it, writes what the
//! report is to be bound to into `inblob`, and reads the report from `outblob`. What is not obvious about it, and is
//! taken care of here:
//!
//! - `inblob` is taken over when the file is closed, and a refusal of it is told to nobody. Only `generation`, which
//!   counts what was taken over, shows it. It is read before the writing, after it, and after the reading: so also
//!   another process that wrote between is noticed.
//! - A quote is made by the host, and takes seconds. Meanwhile the kernel refuses other requests as busy; a signal
//!   interrupts the waiting and leaves the kernel busy until the host has answered.
//! - `auxblob` is there for SEV-SNP only: the host's certificate table. The host need not give one.
//! - A guest below the highest SEV-SNP privilege level may ask for reports of its own level only, and is told which by
//!   `privlevel_floor`.
//!
//! The report's own report data are compared with what was asked for: whatever goes wrong between, evidence for
//! something else is an error here and no surprise for a peer.
//!
//! Linux has this since 6.7. Its documentation: `Documentation/ABI/testing/configfs-tsm`; its code:
//! `drivers/virt/coco/guest/report.c`, `drivers/virt/coco/tdx-guest`, `drivers/virt/coco/sev-guest` and
//! `fs/configfs/file.c`.
//!
//! A process killed while it makes a report leaves its directory behind, a few kilobytes of kernel memory; `rmdir`
//! removes it. Nothing in it is secret.

mod error;
mod files;
mod machine;
#[cfg(test)]
mod stand_in;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cocoon_attest::{EvidenceKind, MAX_QUOTE_LEN, ReportData};

pub use error::TsmError;
use error::is_transient;
use files::{RealFiles, TsmFiles};
pub use machine::{SnpMachine, TdxMachine};

/// Longest report that is read, bytes: what evidence may have. Quotes have about 5 KiB, SNP reports 1184 bytes.
pub const MAX_OUTBLOB_LEN: usize = MAX_QUOTE_LEN;
/// Longest certificate table that is read, bytes: the kernel takes 16 KiB from the host.
pub const MAX_AUXBLOB_LEN: usize = 24 * 1024;
/// How long a report is tried for. What the kernel has begun by then is waited for, another 30 s at most.
pub const TIME_LIMIT: Duration = Duration::from_secs(60);
/// How often a report is tried that somebody else disturbs.
pub const MAX_DISTURBANCES: u32 = 8;
/// Longest of the files with a number or a name, bytes.
const MAX_TEXT_LEN: usize = 64;
/// The first pause between two tries, and the longest; each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// How often a name is drawn that is taken already.
const MAX_NAMES: u32 = 4;
/// How often the directory's removal is tried.
const MAX_REMOVALS: u32 = 3;

/// The drivers that make reports, by the kernel's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Of Intel TDX: `outblob` is a quote.
    TdxGuest,
    /// Of AMD SEV-SNP: `outblob` is a report, `auxblob` the certificate table.
    SevGuest,
}

impl Provider {
    /// The kernel's name: `tdx_guest` or `sev_guest`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TdxGuest => "tdx_guest",
            Self::SevGuest => "sev_guest",
        }
    }

    /// The evidence that it makes.
    #[must_use]
    pub fn evidence_kind(self) -> EvidenceKind {
        match self {
            Self::TdxGuest => EvidenceKind::Tdx,
            Self::SevGuest => EvidenceKind::SevSnp,
        }
    }
}

impl std::fmt::Display for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What the kernel gave, unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TsmReport {
    /// The quote or report.
    pub outblob: Vec<u8>,
    /// The certificate table; empty where there is none.
    pub auxblob: Vec<u8>,
}

/// The kernel's directory of reports.
#[derive(Clone)]
pub struct ConfigfsTsm {
    files: Arc<dyn TsmFiles>,
    base: PathBuf,
}

impl ConfigfsTsm {
    /// Where the kernel has it, if configfs is mounted where it usually is.
    pub const USUAL_BASE: &'static str = "/sys/kernel/config/tsm/report";

    /// The directory of reports at this place. Nothing is touched yet.
    #[must_use]
    pub fn open(base: &Path) -> Self {
        Self::with_files(Arc::new(RealFiles::new()), base)
    }

    fn with_files(files: Arc<dyn TsmFiles>, base: &Path) -> Self {
        Self { files, base: base.to_owned() }
    }

    /// Which driver makes reports here.
    ///
    /// # Errors
    /// There is none, an unknown one, or this process may not ask; [`TsmError::is_absence`] tells the first case.
    pub fn provider(&self) -> Result<Provider, TsmError> {
        self.item()?.provider()
    }

    /// A report of this driver's, bound to these data. Blocks while the host makes it, seconds for a quote.
    ///
    /// # Errors
    /// The message of [`TsmError`] says what is wrong and what to do.
    pub fn report(&self, provider: Provider, report_data: &ReportData) -> Result<TsmReport, TsmError> {
        let item = self.item()?;
        let found = item.provider()?;
        if found != provider {
            return Err(TsmError::OtherProvider { wanted: provider, found });
        }
        let deadline = self.files.now().saturating_add(TIME_LIMIT);
        let (mut pause, longest) = PAUSES;
        let mut disturbances = 0;
        loop {
            match item.attempt(provider, report_data) {
                Ok(report) => return Ok(report),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Disturbed) => {
                    disturbances += 1;
                    if disturbances == MAX_DISTURBANCES {
                        return Err(TsmError::Disturbed { attempts: disturbances });
                    }
                }
                Err(Stop::Busy) => {}
            }
            if self.files.now().saturating_add(pause) > deadline {
                return Err(TsmError::Busy);
            }
            self.files.pause(pause);
            pause = longest.min(pause.saturating_mul(2));
        }
    }

    /// Makes a directory of our own. Nobody else can foresee its name, so nobody is in it before us or meets it by
    /// chance.
    fn item(&self) -> Result<Item<'_>, TsmError> {
        if !self.files.is_dir(&self.base) {
            return Err(TsmError::Missing { base: self.base.clone() });
        }
        let mut names = 0;
        loop {
            names += 1;
            let dir = self.base.join(format!("cocoon-{:032x}", rand::random::<u128>()));
            match self.files.create_dir(&dir) {
                Ok(()) => return Ok(Item { files: self.files.as_ref(), dir }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && names < MAX_NAMES => {}
                Err(error) => return Err(TsmError::of_directory(&error, &self.base)),
            }
        }
    }
}

/// Why an attempt did not lead to a report.
enum Stop {
    Failed(TsmError),
    /// The kernel has no time now.
    Busy,
    /// Somebody else wrote, or what we wrote was not taken over.
    Disturbed,
}

/// A directory of our own, removed when it goes out of scope.
struct Item<'a> {
    files: &'a dyn TsmFiles,
    dir: PathBuf,
}

impl Drop for Item<'_> {
    fn drop(&mut self) {
        for _ in 0..MAX_REMOVALS {
            match self.files.remove_dir(&self.dir) {
                Err(error) if is_transient(&error) => {}
                // A directory that cannot be removed holds nothing secret, and the report is as good.
                _ => return,
            }
        }
    }
}

impl Item<'_> {
    fn provider(&self) -> Result<Provider, TsmError> {
        let read = self.files.read(&self.dir.join("provider"), MAX_TEXT_LEN);
        let bytes = read.map_err(|error| failed(&error, "provider", MAX_TEXT_LEN, None))?;
        match bytes.trim_ascii_end() {
            b"tdx_guest" => Ok(Provider::TdxGuest),
            b"sev_guest" => Ok(Provider::SevGuest),
            _ => Err(TsmError::UnknownProvider),
        }
    }

    fn attempt(&self, provider: Provider, report_data: &ReportData) -> Result<TsmReport, Stop> {
        let before = self.number("generation", provider)?;
        let mut writes = 1;
        if provider == Provider::SevGuest && self.write_privilege_level(provider)? {
            writes += 1;
        }
        self.write("inblob", &report_data.0, provider)?;
        let expected = before.wrapping_add(writes);
        if self.number("generation", provider)? != expected {
            return Err(Stop::Disturbed);
        }
        let outblob = self.read("outblob", MAX_OUTBLOB_LEN, provider)?;
        let auxblob = match provider {
            Provider::TdxGuest => Vec::new(),
            Provider::SevGuest => {
                self.read_if_there("auxblob", MAX_AUXBLOB_LEN, provider)?.unwrap_or_default()
            }
        };
        if self.number("generation", provider)? != expected {
            return Err(Stop::Disturbed);
        }
        Ok(TsmReport { outblob, auxblob })
    }

    /// Asks for reports of our own privilege level, where that is not the highest. Whether it wrote.
    fn write_privilege_level(&self, provider: Provider) -> Result<bool, Stop> {
        let Some(text) = self.read_if_there("privlevel_floor", MAX_TEXT_LEN, provider)? else {
            return Ok(false);
        };
        let floor = number(&text, "privlevel_floor")?;
        if floor > 0 {
            self.write("privlevel", floor.to_string().as_bytes(), provider)?;
        }
        Ok(floor > 0)
    }

    fn number(&self, file: &'static str, provider: Provider) -> Result<u64, Stop> {
        number(&self.read(file, MAX_TEXT_LEN, provider)?, file)
    }

    fn read(&self, file: &'static str, limit: usize, provider: Provider) -> Result<Vec<u8>, Stop> {
        self.files.read(&self.dir.join(file), limit).map_err(|error| stop(&error, file, limit, provider))
    }

    fn read_if_there(
        &self,
        file: &'static str,
        limit: usize,
        provider: Provider,
    ) -> Result<Option<Vec<u8>>, Stop> {
        match self.files.read(&self.dir.join(file), limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(stop(&error, file, limit, provider)),
        }
    }

    fn write(&self, file: &'static str, bytes: &[u8], provider: Provider) -> Result<(), Stop> {
        let path = self.dir.join(file);
        self.files.write(&path, bytes).map_err(|error| stop(&error, file, bytes.len(), provider))
    }
}

fn stop(error: &io::Error, file: &'static str, limit: usize, provider: Provider) -> Stop {
    if is_transient(error) {
        return Stop::Busy;
    }
    Stop::Failed(failed(error, file, limit, Some(provider)))
}

fn failed(error: &io::Error, file: &'static str, limit: usize, provider: Option<Provider>) -> TsmError {
    // By our limit, or by the kernel's own.
    if error.kind() == io::ErrorKind::FileTooLarge {
        return TsmError::TooLong { file, limit };
    }
    TsmError::of_file(error, file, provider)
}

fn number(text: &[u8], file: &'static str) -> Result<u64, Stop> {
    let number = std::str::from_utf8(text.trim_ascii()).ok().and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| Stop::Failed(TsmError::Malformed { file, reason: "it is not a number".to_owned() }))
}
