//! What a contestant's processes take: all those that came of one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

/// Most files that one process may have open, where the system allows more than we start with.
///
/// # Errors
/// The system does not say.
pub(super) fn raise_open_files() -> anyhow::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Contestants inherit it.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("can't raise the number of open files")?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Keeps the processors awake while it lives, with work that gives way to all other.
///
/// A virtual machine's processor that has nothing to do takes up to milliseconds to wake. A path with more processes and
/// threads waits for that more often, so without this a light load would measure the machine's sleep.
pub(super) struct Awake(Arc<AtomicBool>);

impl Awake {
    pub(super) fn keep() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        for _ in 0..processors {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                // On Linux this is the thread's own.
                if rustix::process::nice(19).is_ok() {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A process and all its children, theirs included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    root: u32,
}

impl Tree {
    /// All that comes of `root`.
    pub(super) fn of(root: u32) -> Self {
        Self { root }
    }

    /// Those that are there now, parents first.
    fn pids(self) -> Vec<u32> {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid
                && let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse().ok())
            {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut pids = vec![self.root];
        let mut next = 0;
        while let Some(pid) = pids.get(next) {
            pids.extend(children.remove(pid).unwrap_or_default());
            next += 1;
        }
        pids
    }

    /// How many processes there are.
    pub(super) fn count(self) -> usize {
        self.pids().len()
    }

    /// Processor time of all of them so far.
    pub(super) fn cpu(self) -> Duration {
        let ticks: u64 = self.pids().into_iter().filter_map(ticks).sum();
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Resident memory of all of them in KiB; pages that they share count once.
    pub(super) fn memory_kib(self) -> u64 {
        self.pids().into_iter().filter_map(memory_kib).sum()
    }

    /// Tells all of them.
    pub(super) fn signal(self, signal: Signal) {
        for pid in self.pids() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // One that has ended meanwhile needs no signal.
                let _ = kill_process(pid, signal);
            }
        }
    }
}

/// The fields of `/proc/PID/stat` after the name, which may hold anything: state, parent, and so on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// In user mode and in the kernel.
fn ticks(pid: u32) -> Option<u64> {
    let fields = stat(pid)?;
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn memory_kib(pid: u32) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    let shared = rollup.as_deref().and_then(|text| number(text, "Pss:"));
    shared.or_else(|| number(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:"))
}

fn number(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_used_the_processor() {
        let own = Tree::of(std::process::id());
        assert!(own.pids().contains(&std::process::id()));
        assert!(own.memory_kib() > 100);
        assert!(ticks(std::process::id()).is_some());
    }

    #[test]
    fn a_child_belongs_to_the_tree_of_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(Tree::of(std::process::id()).pids().contains(&child.id()));
        Tree::of(child.id()).signal(Signal::KILL);
        assert!(!child.wait().unwrap().success());
    }
}
