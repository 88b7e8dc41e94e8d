//! A kernel to test against: it does what `drivers/virt/coco/guest/report.c` and the two drivers do, as far as a
//! process sees it, and can be told to go wrong in every way that they can.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cocoon_attest::snp::SnpReport;
use cocoon_attest::{EvidenceKind, EvidenceSource, ReportData};

use super::files::{RealFiles, TsmFiles};

pub(super) const EPERM: i32 = 1;
pub(super) const EINTR: i32 = 4;
pub(super) const EIO: i32 = 5;
pub(super) const ENXIO: i32 = 6;
pub(super) const EAGAIN: i32 = 11;
pub(super) const EBUSY: i32 = 16;
pub(super) const EEXIST: i32 = 17;
pub(super) const EINVAL: i32 = 22;
pub(super) const EFBIG: i32 = 27;
pub(super) const ETIMEDOUT: i32 = 110;
const ENOENT: i32 = 2;
const EACCES: i32 = 13;

/// When another process writes to our report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interloper {
    BeforeReading,
    WhileReading,
}

/// One file operation that fails, this many times.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) operation: &'static str,
    pub(super) times: u32,
    pub(super) code: i32,
}

#[derive(Debug, Default)]
pub(super) struct Report {
    inblob: Vec<u8>,
    written: u64,
    /// The report of the last reading, and of which generation it is.
    made: Option<(u64, Vec<u8>, Vec<u8>)>,
}

/// What is the matter with the machine; the usual is nothing.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) faults: Vec<Fault>,
    pub(super) interlopers: Vec<Interloper>,
    /// How many writings of `inblob` are not taken over, which the kernel tells nobody.
    pub(super) swallowed: u32,
    pub(super) privilege_floor: Option<u64>,
    pub(super) provider: Option<&'static [u8]>,
    pub(super) outblob: Option<Vec<u8>>,
    /// `Some(None)`: the file is not there.
    pub(super) auxblob: Option<Option<Vec<u8>>>,
    /// What the report is bound to instead of `inblob`.
    pub(super) bound_to: Option<ReportData>,
    pub(super) reports: BTreeMap<PathBuf, Report>,
    pub(super) made_directories: u32,
    pub(super) made_reports: u32,
    pub(super) asked_levels: Vec<u64>,
    pub(super) now: Duration,
}

/// The kernel on a machine that makes evidence of one kind.
#[derive(Clone)]
pub(super) struct StandIn {
    source: Arc<dyn EvidenceSource>,
    machine: Arc<Mutex<Machine>>,
}

impl StandIn {
    pub(super) const BASE: &'static str = "/tsm/report";

    pub(super) fn new(source: Arc<dyn EvidenceSource>, machine: Machine) -> Self {
        Self { source, machine: Arc::new(Mutex::new(machine)) }
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn directories_left(&self) -> usize {
        self.machine().reports.len()
    }

    /// How much time the pauses took.
    pub(super) fn waited(&self) -> Duration {
        self.machine().now
    }

    fn is_tdx(&self) -> bool {
        self.source.kind() == EvidenceKind::Tdx
    }

    fn make(&self, machine: &Machine, report: &Report) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let data: [u8; 64] =
            report.inblob.as_slice().try_into().map_err(|_| io::Error::from_raw_os_error(EINVAL))?;
        let data = machine.bound_to.unwrap_or(ReportData(data));
        let evidence = self.source.evidence(&data).unwrap().bytes().to_vec();
        let at = if self.is_tdx() { evidence.len() } else { SnpReport::LEN };
        let (outblob, auxblob) = evidence.split_at(at);
        let auxblob = machine.auxblob.clone().flatten().unwrap_or_else(|| auxblob.to_vec());
        Ok((machine.outblob.clone().unwrap_or_else(|| outblob.to_vec()), auxblob))
    }

    fn blob(&self, dir: &Path, want_outblob: bool) -> io::Result<Vec<u8>> {
        let mut machine = self.machine();
        let mut report = machine.reports.remove(dir).ok_or(io::Error::from_raw_os_error(ENOENT))?;
        if machine.interlopers.first() == Some(&Interloper::WhileReading) {
            machine.interlopers.remove(0);
            interfere(&mut report);
        }
        let cached = report.made.as_ref().filter(|(generation, ..)| *generation == report.written);
        let answer = match cached {
            _ if report.inblob.is_empty() => Err(io::Error::from_raw_os_error(EINVAL)),
            Some((_, outblob, auxblob)) => Ok((outblob.clone(), auxblob.clone())),
            None => self.make(&machine, &report),
        };
        if let Ok((outblob, auxblob)) = &answer {
            report.made = Some((report.written, outblob.clone(), auxblob.clone()));
            machine.made_reports += 1;
        }
        machine.reports.insert(dir.to_owned(), report);
        answer.map(|(outblob, auxblob)| if want_outblob { outblob } else { auxblob })
    }
}

fn interfere(report: &mut Report) {
    report.inblob = vec![0xee; 64];
    report.written += 1;
}

impl Machine {
    fn fail(&mut self, operation: &str) -> io::Result<()> {
        let fault = self.faults.iter_mut().find(|fault| fault.operation == operation && fault.times > 0);
        fault.map_or(Ok(()), |fault| {
            fault.times -= 1;
            Err(io::Error::from_raw_os_error(fault.code))
        })
    }

    fn report(&mut self, dir: &Path) -> io::Result<&mut Report> {
        self.reports.get_mut(dir).ok_or(io::Error::from_raw_os_error(ENOENT))
    }
}

fn split(path: &Path) -> (&Path, &str) {
    (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap())
}

impl TsmFiles for StandIn {
    fn is_dir(&self, path: &Path) -> bool {
        path == Path::new(Self::BASE)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.machine();
        machine.fail("create_dir")?;
        machine.made_directories += 1;
        let before = machine.reports.insert(path.to_owned(), Report { written: 17, ..Report::default() });
        assert!(before.is_none(), "the name is taken");
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.machine();
        machine.fail("remove_dir")?;
        machine.reports.remove(path).map(|_| ()).ok_or(io::Error::from_raw_os_error(ENOENT))
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let (dir, file) = split(path);
        self.machine().fail(file)?;
        let missing = || io::Error::from_raw_os_error(ENOENT);
        let bytes = match file {
            "provider" => {
                let usual: &[u8] = if self.is_tdx() { b"tdx_guest\n" } else { b"sev_guest\n" };
                self.machine().provider.unwrap_or(usual).to_vec()
            }
            "generation" => format!("{}\n", self.machine().report(dir)?.written).into_bytes(),
            "privlevel_floor" if !self.is_tdx() => {
                format!("{}\n", self.machine().privilege_floor.ok_or_else(missing)?).into_bytes()
            }
            "outblob" => self.blob(dir, true)?,
            "auxblob" if self.machine().auxblob == Some(None) || self.is_tdx() => return Err(missing()),
            "auxblob" => self.blob(dir, false)?,
            "inblob" | "privlevel" => return Err(io::Error::from_raw_os_error(EACCES)),
            _ => return Err(missing()),
        };
        if bytes.len() > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (dir, file) = split(path);
        let mut machine = self.machine();
        machine.fail(file)?;
        match file {
            "inblob" if machine.swallowed > 0 => machine.swallowed -= 1,
            "inblob" => {
                let report = machine.report(dir)?;
                report.inblob = bytes.to_vec();
                report.written += 1;
                if machine.interlopers.first() == Some(&Interloper::BeforeReading) {
                    machine.interlopers.remove(0);
                    interfere(machine.report(dir)?);
                }
            }
            "privlevel" => {
                let level = String::from_utf8(bytes.to_vec()).unwrap().parse().unwrap();
                machine.asked_levels.push(level);
                machine.report(dir)?.written += 1;
            }
            _ => return Err(io::Error::from_raw_os_error(EACCES)),
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.machine().now
    }

    fn pause(&self, time: Duration) {
        self.machine().now += time;
    }
}

/// The same kernel over a real directory: each operation is done on it by [`RealFiles`], and what the kernel would
/// do meanwhile is done to it in between.
pub(super) struct OnDisk {
    pub(super) kernel: StandIn,
    real: RealFiles,
    base: PathBuf,
}

impl OnDisk {
    pub(super) fn new(kernel: StandIn, base: &Path) -> Self {
        Self { kernel, real: RealFiles::new(), base: base.to_owned() }
    }

    /// Where the kernel behind has the same file.
    fn inside(&self, path: &Path) -> PathBuf {
        Path::new(StandIn::BASE).join(path.strip_prefix(&self.base).unwrap())
    }

    /// Brings the files of a report up to date with the kernel.
    fn refresh(&self, dir: &Path) {
        for file in ["provider", "generation", "privlevel_floor", "outblob", "auxblob"] {
            if let Ok(bytes) = self.kernel.read(&self.inside(dir).join(file), usize::MAX) {
                fs::write(dir.join(file), bytes).unwrap();
            }
        }
    }
}

impl TsmFiles for OnDisk {
    fn is_dir(&self, path: &Path) -> bool {
        self.real.is_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.real.create_dir(path)?;
        self.kernel.create_dir(&self.inside(path))?;
        fs::write(path.join("inblob"), "").unwrap();
        self.refresh(path);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        // The kernel's files go with their directory.
        for file in fs::read_dir(path)? {
            fs::remove_file(file?.path())?;
        }
        self.kernel.remove_dir(&self.inside(path))?;
        self.real.remove_dir(path)
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        self.real.read(path, limit)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.real.write(path, bytes)?;
        let (dir, file) = split(path);
        self.kernel.write(&self.inside(path), &fs::read(dir.join(file)).unwrap())?;
        self.refresh(dir);
        Ok(())
    }

    fn now(&self) -> Duration {
        self.kernel.now()
    }

    fn pause(&self, time: Duration) {
        self.kernel.pause(time);
    }
}
