//! Limits that the system sets, who runs this, and whether it is in a container.

use super::Sys;
use super::check::{Check, Group, Machine};

const GROUP: Group = Group::Limits;

/// Fewer open files than this are warned of. A proxy and a gateway hold a connection for each of thousands of peers and
/// callers, a worker one for each request.
const FEW_FILES: u64 = 4096;

/// All of them.
pub(super) fn checks(sys: &Sys, machine: Machine) -> Vec<Check> {
    vec![open_files(sys), user(sys, machine), container(sys, machine)]
}

fn open_files(sys: &Sys) -> Check {
    let name = "open files";
    let limits = sys.read("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    // A node raises the first number to the second.
    match line.and_then(|line| line.split_whitespace().nth(1)) {
        Some("unlimited") => Check::ok(GROUP, name, "unlimited"),
        Some(text) => match text.parse::<u64>() {
            Ok(limit) if limit >= FEW_FILES => Check::ok(GROUP, name, limit.to_string()),
            Ok(limit) => Check::warning(
                GROUP,
                name,
                format!("{limit}: each connection takes one"),
                "set LimitNOFILE=65536 in the systemd unit, or run `ulimit -Hn 65536` as root before the node",
            ),
            Err(_) => unknown(name),
        },
        None => unknown(name),
    }
}

fn unknown(name: &str) -> Check {
    Check::warning(
        GROUP,
        name,
        "cannot be told",
        "run `ulimit -Hn` in the node's shell; it should be 4096 or more",
    )
}

fn user(sys: &Sys, machine: Machine) -> Check {
    let name = "user";
    let status = sys.read("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    // Real, effective, saved, file system.
    match line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u32>().ok()) {
        Some(0) if machine.guest().is_some() => {
            Check::ok(GROUP, name, "root, who may ask the kernel for evidence")
        }
        Some(0) => Check::ok(GROUP, name, "root; without TEE a node needs no such rights"),
        Some(user) => Check::ok(GROUP, name, format!("number {user}, not root")),
        None => Check::not_applicable(GROUP, name, "cannot be told"),
    }
}

fn container(sys: &Sys, machine: Machine) -> Check {
    let name = "container";
    let init = sys.read("/proc/1/cgroup").unwrap_or_default();
    let marks = ["docker", "kubepods", "containerd", "libpod", "lxc"];
    let kind = if sys.exists("/.dockerenv") {
        "Docker"
    } else if sys.exists("/run/.containerenv") {
        "Podman"
    } else if marks.iter().any(|mark| init.contains(mark)) {
        "by the name of its control group"
    } else {
        return Check::not_applicable(GROUP, name, "not in one, as far as can be told");
    };
    let Some(tee) = machine.guest() else {
        return Check::ok(
            GROUP,
            name,
            format!("in one ({kind}): keep `dir` on a volume, or keys and books go with it"),
        );
    };
    let needs = match tee {
        super::check::Tee::Tdx => "-v /sys/kernel/config:/sys/kernel/config and --device /dev/tdx_guest",
        super::check::Tee::SevSnp => "-v /sys/kernel/config:/sys/kernel/config and --device /dev/sev-guest",
    };
    Check::ok(GROUP, name, format!("in one ({kind}): it needs {needs}, and `dir` on a volume"))
}
