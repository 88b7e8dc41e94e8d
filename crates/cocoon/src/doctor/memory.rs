//! Memory, what may be used of it, and where it could leak to.

use super::Sys;
use super::check::{Check, Group, Machine};
use super::size::{GIB, shown};

const GROUP: Group = Group::Memory;

/// Less than this is warned of, in bytes: a node itself needs little, a model server much.
const LOW_MEMORY: u64 = 4 * GIB;

/// All of them. `model_bytes`: the size of the model's files, where they were named.
pub(super) fn checks(sys: &Sys, machine: Machine, model_bytes: Option<u64>) -> Vec<Check> {
    let info = sys.read("/proc/meminfo").unwrap_or_default();
    let total = kilobytes(&info, "MemTotal");
    let limit = cgroup_limit(sys);
    let mut checks = vec![size(total, limit, kilobytes(&info, "MemAvailable"))];
    if let Some(model) = model_bytes {
        checks.push(fits(model, total, limit));
    }
    checks.push(swap(sys, machine));
    checks.push(huge_pages(&info));
    checks
}

/// A line `MemTotal:  16384 kB`, in bytes.
fn kilobytes(info: &str, name: &str) -> Option<u64> {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The least limit on memory of the control groups that this process is in, in bytes.
pub(super) fn cgroup_limit(sys: &Sys) -> Option<u64> {
    let groups = sys.read("/proc/self/cgroup").unwrap_or_default();
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        // Names of groups are ours to choose, not a way out of the directory.
        let path = if path.split('/').any(|part| part == "..") { "/" } else { path.trim_end_matches('/') };
        // In a container the group is often mounted as the root.
        for path in [path, ""] {
            if controllers.is_empty() {
                limits.push(sys.value(&format!("/sys/fs/cgroup{path}/memory.max")));
            } else if controllers.split(',').any(|name| name == "memory") {
                limits.push(sys.value(&format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")));
            }
        }
    }
    // Version 1 says "no limit" by a number near 2^63.
    limits.into_iter().flatten().filter_map(|text| text.parse().ok()).filter(|bytes| *bytes < 1 << 60).min()
}

fn size(total: Option<u64>, limit: Option<u64>, available: Option<u64>) -> Check {
    let name = "memory";
    let Some(total) = total else {
        return Check::warning(GROUP, name, "cannot be told", "mount /proc; nodes are meant for Linux");
    };
    let usable = limit.map_or(total, |limit| limit.min(total));
    let mut found = shown(total);
    if let Some(available) = available {
        found += &format!(", {} free", shown(available));
    }
    if usable < total {
        found += &format!(", of which a control group allows {}", shown(usable));
    }
    if usable < LOW_MEMORY {
        let mend = "give the machine, or its container, more memory: the built-in engine runs in less than 1 GiB, but \
                    language models do not";
        return Check::warning(GROUP, name, found, mend);
    }
    Check::ok(GROUP, name, found)
}

fn fits(model: u64, total: Option<u64>, limit: Option<u64>) -> Check {
    let name = "model's size";
    let usable = total.unwrap_or(u64::MAX).min(limit.unwrap_or(u64::MAX));
    if model <= usable {
        return Check::ok(GROUP, name, format!("{} of files, less than the memory", shown(model)));
    }
    Check::warning(
        GROUP,
        name,
        format!("{} of files, more than the memory of {}", shown(model), shown(usable)),
        "fine where the model server loads the files into GPU memory piece by piece; otherwise take a smaller or a \
         quantised model",
    )
}

fn swap(sys: &Sys, machine: Machine) -> Check {
    let name = "swap";
    let table = sys.read("/proc/swaps").unwrap_or_default();
    let places: Vec<String> =
        table.lines().skip(1).filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect();
    if places.is_empty() {
        return Check::ok(GROUP, name, "none");
    }
    let all = places.join(", ");
    if machine.guest().is_none() {
        return Check::ok(
            GROUP,
            name,
            format!("on {all}; without TEE nothing is kept from this machine anyway"),
        );
    }
    if places.iter().all(|place| place.starts_with("/dev/zram") || super::disk::is_encrypted(sys, place)) {
        return Check::ok(GROUP, name, format!("on {all}, in memory or encrypted"));
    }
    Check::problem(
        GROUP,
        name,
        format!(
            "on {all}: pages that this guest swaps out leave the encrypted memory, and its host can read them"
        ),
        "swapoff -a, and take the line out of /etc/fstab; or swap on zram, or on dm-crypt with a random key",
    )
}

fn huge_pages(info: &str) -> Check {
    let name = "huge pages";
    let reserved = info.lines().find_map(|line| line.strip_prefix("HugePages_Total:")).map(str::trim);
    match reserved {
        None | Some("0") => Check::not_applicable(GROUP, name, "none reserved; nodes need none"),
        Some(count) => {
            Check::ok(GROUP, name, format!("{count} reserved, which other programs cannot use as memory"))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_memory_are_read_in_bytes() {
        let info = "MemTotal:       16384 kB\nMemAvailable: x kB\nHuge: 18446744073709551615 kB\n";
        assert_eq!(kilobytes(info, "MemTotal"), Some(16_777_216));
        for missing in ["MemAvailable", "Huge", "Mem"] {
            assert_eq!(kilobytes(info, missing), None, "{missing}");
        }
    }

    #[test]
    fn the_least_limit_of_a_control_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("proc/self/cgroup", "4:memory,x:/job\n0::/app\n7:cpu:/a\nodd\n1:memory:/../../etc\n");
        put("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
        put("sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(cgroup_limit(&Sys::new(root.path())), None);
        put("sys/fs/cgroup/app/memory.max", "2147483648\n");
        assert_eq!(cgroup_limit(&Sys::new(root.path())), Some(2 * GIB));
    }
}
