//! File systems: where the node keeps keys and books, and where the model's files are.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Sys;
use super::check::{Check, Group, Machine};
use super::size::{GIB, MIB, shown};
use super::sys::{is_writable, space};

const GROUP: Group = Group::Disk;

/// Less free space than this is a problem, in bytes.
const FULL: u64 = 256 * MIB;
/// Less free space than this is warned of, in bytes.
const LOW: u64 = 2 * GIB;
/// File systems on which locks and shared memory do not work as SQLite's log needs them, or not always.
const NETWORK: [&str; 12] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ceph",
    "9p",
    "glusterfs",
    "lustre",
    "beegfs",
    "fuse.sshfs",
    "fuse.glusterfs",
];
/// How often a write is made durable to see how long that takes.
const SYNCS: usize = 8;
/// What is written each time, in bytes: a page of SQLite.
const SYNC_BYTES: usize = 4096;
/// A durable write that takes longer is warned of: a proxy answers only after one.
const SLOW: Duration = Duration::from_millis(20);
/// Longest wait for all of them.
const SYNC_LIMIT: Duration = Duration::from_secs(20);
/// Most files of a model that are counted.
const MAX_MODEL_FILES: usize = 10_000;
/// Deepest stack of block devices that is looked through.
const MAX_STACK: usize = 8;

/// The directory of a node, as it is or will be.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// As configured.
    path: PathBuf,
    /// The nearest directory that is there already.
    nearest: PathBuf,
}

impl Place {
    /// Finds the nearest directory that is there.
    pub(super) fn find(path: &Path) -> Self {
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let nearest = whole.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        // So that it is found among the mounts.
        let nearest = nearest.canonicalize().unwrap_or_else(|_| nearest.to_owned());
        Self { path: path.to_owned(), nearest }
    }

    /// How long a durable write takes there; none where none can be made.
    pub(super) async fn speed(&self) -> Option<Duration> {
        let directory = self.nearest.clone();
        let measured = tokio::task::spawn_blocking(move || time_of_sync(&directory).ok());
        // A disk that hangs is not waited for.
        tokio::time::timeout(SYNC_LIMIT, measured).await.map_or(Some(SYNC_LIMIT), |done| done.ok().flatten())
    }
}

/// The median time of a durable write, in a file that has no name and is gone afterwards.
fn time_of_sync(directory: &Path) -> std::io::Result<Duration> {
    let mut file = tempfile::tempfile_in(directory)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[0; SYNC_BYTES])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok(times.get(SYNCS / 2).copied().unwrap_or_default())
}

/// A mount: its place, the kind of its file system, and what is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    place: String,
    kind: String,
    source: String,
}

/// The mount that a path is on. Lines are those of proc_pid_mountinfo(5).
fn mount_of(sys: &Sys, path: &Path) -> Option<Mount> {
    let table = sys.read("/proc/self/mountinfo")?;
    let mounts = table.lines().filter_map(|line| {
        let (mounted, what) = line.split_once(" - ")?;
        let place = unescape(mounted.split(' ').nth(4)?);
        let mut what = what.split(' ');
        Some(Mount { place, kind: what.next()?.to_owned(), source: unescape(what.next()?) })
    });
    // Of several at one place the last one covers the others.
    mounts.filter(|mount| path.starts_with(&mount.place)).max_by_key(|mount| mount.place.len())
}

/// Space, tab, line break and backslash are written as `\040` and so on.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

/// Whether a block device is encrypted by dm-crypt, directly or further down.
pub(super) fn is_encrypted(sys: &Sys, device: &str) -> bool {
    let mut name = match device.strip_prefix("/dev/") {
        Some(name) if name.starts_with("mapper/") => sys.link(device),
        Some(name) => Some(name.to_owned()),
        None => None,
    };
    for _ in 0..MAX_STACK {
        let Some(device) = name.filter(|name| !name.contains(['/', '.'])) else { return false };
        let uuid = sys.value(&format!("/sys/block/{device}/dm/uuid")).unwrap_or_default();
        if uuid.starts_with("CRYPT-") {
            return true;
        }
        let below = sys.list(&format!("/sys/block/{device}/slaves"));
        // Of several devices all would have to be; that is beyond what can be said in a line.
        name = (below.len() == 1).then(|| below.into_iter().next()).flatten();
    }
    false
}

/// The node's directory. `speed`: how long a durable write took there.
pub(super) fn checks(sys: &Sys, machine: Machine, place: &Place, speed: Option<Duration>) -> Vec<Check> {
    let mount = mount_of(sys, &place.nearest);
    let mut checks = vec![directory(place), free("free space", &place.nearest), kind(mount.as_ref())];
    checks.extend(secrecy(sys, machine, mount.as_ref()));
    checks.push(durable(speed));
    checks
}

fn directory(place: &Place) -> Check {
    let (name, path) = ("state directory", place.path.display());
    if place.path.exists() && !place.path.is_dir() {
        return Check::problem(
            GROUP,
            name,
            format!("{path} is no directory"),
            "choose another one with `dir`",
        );
    }
    if !is_writable(&place.nearest) {
        return Check::problem(
            GROUP,
            name,
            format!("{path}: this user may not write to {}", place.nearest.display()),
            "run as the node's user, give the directory to that user with chown, or choose another one with `dir`",
        );
    }
    let state = if place.path.is_dir() { "is there" } else { "will be made" };
    Check::ok(GROUP, name, format!("{path} {state}"))
}

fn free(name: &str, path: &Path) -> Check {
    let Some((free, total)) = space(path) else {
        return Check::not_applicable(GROUP, name, "cannot be told");
    };
    let found = format!("{} of {}", shown(free), shown(total));
    if free < FULL {
        return Check::problem(
            GROUP,
            name,
            found,
            "make room, or choose another `dir`: a proxy that cannot write its log stops",
        );
    }
    if free < LOW {
        return Check::warning(GROUP, name, found, "make room before the node runs for long");
    }
    Check::ok(GROUP, name, found)
}

fn kind(mount: Option<&Mount>) -> Check {
    let name = "file system";
    let Some(Mount { place, kind, .. }) = mount else {
        return Check::not_applicable(GROUP, name, "cannot be told");
    };
    let found = format!("{kind}, mounted at {place}");
    if NETWORK.contains(&kind.as_str()) {
        return Check::problem(
            GROUP,
            name,
            format!("{found}: a network file system"),
            "choose a `dir` on a local disk: SQLite's log is not safe over a network",
        );
    }
    match kind.as_str() {
        "tmpfs" | "ramfs" => Check::warning(
            GROUP,
            name,
            format!("{found}: in memory"),
            "choose a `dir` on a disk, or keys and books are gone with the next start of the machine",
        ),
        "overlay" => Check::warning(
            GROUP,
            name,
            format!("{found}: the layer of a container"),
            "mount a volume and put `dir` there, or keys and books are gone with the container",
        ),
        _ => Check::ok(GROUP, name, found),
    }
}

/// In a TEE guest: whether the host can read the disk.
fn secrecy(sys: &Sys, machine: Machine, mount: Option<&Mount>) -> Option<Check> {
    let name = "encryption";
    machine.guest()?;
    let mount = mount?;
    if matches!(mount.kind.as_str(), "tmpfs" | "ramfs") {
        return Some(Check::ok(GROUP, name, "in the guest's memory, which is encrypted"));
    }
    if is_encrypted(sys, &mount.source) {
        return Some(Check::ok(GROUP, name, format!("{} is encrypted by dm-crypt", mount.source)));
    }
    Some(Check::warning(
        GROUP,
        name,
        format!("{} does not seem to be encrypted: the host can read the node's keys", mount.source),
        "put `dir` on a dm-crypt volume (cryptsetup luksFormat) whose key the host never has",
    ))
}

fn durable(speed: Option<Duration>) -> Check {
    let name = "durable write";
    let Some(speed) = speed else {
        return Check::not_applicable(GROUP, name, "not tried: nothing can be written there");
    };
    let found = format!("{}.{} ms", speed.as_millis(), speed.as_micros() / 100 % 10);
    if speed > SLOW {
        return Check::warning(
            GROUP,
            name,
            found,
            "use a local SSD for `dir`: a proxy acknowledges nothing before it is durable",
        );
    }
    Check::ok(GROUP, name, found)
}

/// The size of a model's files, in bytes, as far as 10000 files tell.
pub(super) fn model_bytes(path: &Path) -> Option<u64> {
    let data = std::fs::metadata(path).ok()?;
    if !data.is_dir() {
        return Some(data.len());
    }
    let (mut waiting, mut bytes, mut seen) = (vec![path.to_owned()], 0_u64, 0);
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).ok()?.filter_map(Result::ok) {
            seen += 1;
            if seen > MAX_MODEL_FILES {
                return Some(bytes);
            }
            // Links inside a model's directory lead to its files (as in Hugging Face's cache), never to directories.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                _ => {
                    bytes = bytes.saturating_add(std::fs::metadata(entry.path()).map_or(0, |data| data.len()))
                }
            }
        }
    }
    Some(bytes)
}

/// Where the model's files are.
pub(super) fn model(sys: &Sys, path: &Path, bytes: Option<u64>) -> Check {
    let name = "model's files";
    let shown_path = path.display();
    let Some(bytes) = bytes else {
        return Check::problem(
            GROUP,
            name,
            format!("{shown_path} is missing or cannot be read"),
            "download the model there, or name the right place with --model-path",
        );
    };
    let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mount = mount_of(sys, &place);
    let on = mount.map_or(String::new(), |mount| {
        let slow =
            if NETWORK.contains(&mount.kind.as_str()) { ", a network file system: slow to load" } else { "" };
        format!(", on {}{slow}", mount.kind)
    });
    let free = space(&place).map_or(String::new(), |(free, _)| format!(", {} free there", shown(free)));
    Check::ok(GROUP, name, format!("{shown_path}: {}{on}{free}", shown(bytes)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_mount_that_is_nearest_to_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let table = "27 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
                     28 27 0:5 / /srv/my\\040data rw - nfs4 server:/export rw\n\
                     odd\n29 27 0:6 / - x\n";
        std::fs::write(root.path().join("proc/self/mountinfo"), table).unwrap();
        let sys = Sys::new(root.path());
        let kind = |path: &str| mount_of(&sys, Path::new(path)).unwrap().kind;
        assert_eq!(kind("/srv/my data/node"), "nfs4");
        assert_eq!(kind("/srv/my dat"), "ext4");
    }

    #[test]
    fn a_durable_write_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        time_of_sync(directory.path()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(time_of_sync(&directory.path().join("none")).is_err());
    }

    #[test]
    fn a_place_that_is_not_there_yet_is_judged_by_its_nearest_directory() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::find(&directory.path().join("a").join("b"));
        assert_eq!(place.nearest, directory.path().canonicalize().unwrap());
        assert!(super::directory(&place).found.contains("will be made"));
    }

    #[test]
    fn a_model_is_as_large_as_its_files() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("part")).unwrap();
        std::fs::write(directory.path().join("a"), [0; 10]).unwrap();
        std::fs::write(directory.path().join("part/b"), [0; 5]).unwrap();
        assert_eq!(model_bytes(directory.path()), Some(15));
        assert_eq!(model_bytes(&directory.path().join("a")), Some(10));
        assert_eq!(model_bytes(&directory.path().join("none")), None);
    }
}
