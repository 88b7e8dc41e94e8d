//! NVIDIA's graphics processors: which there are, who drives them, and whether they protect what they hold.

use super::Sys;
use super::ask::ask;
use super::check::{Check, Group, Machine};
use crate::cli::Role;

const GROUP: Group = Group::Gpu;

/// NVIDIA's vendor identifier (PCI-SIG).
const NVIDIA: &str = "0x10de";
/// The class of display controllers, which 3D controllers belong to (PCI Code and ID Assignment Specification, 1.4).
const DISPLAY_CLASS: &str = "0x03";
/// Where PCI devices are.
const DEVICES: &str = "/sys/bus/pci/devices";
/// Most GPUs that are told of one by one.
const MAX_SHOWN: usize = 32;

/// Device identifiers of GPUs whose generation has confidential computing, as NVIDIA's open kernel modules name them
/// (`src/nvidia/generated/g_nv_name_released.h`), and their generation.
const CONFIDENTIAL: &[(&str, &str)] = &[
    ("0x2321", "H100 NVL, Hopper"),
    ("0x2322", "H800 PCIe, Hopper"),
    ("0x2324", "H800, Hopper"),
    ("0x2329", "H20, Hopper"),
    ("0x2330", "H100 SXM, Hopper"),
    ("0x2331", "H100 PCIe, Hopper"),
    ("0x2335", "H200 SXM, Hopper"),
    ("0x2339", "H100, Hopper"),
    ("0x233a", "H800 NVL, Hopper"),
    ("0x233b", "H200 NVL, Hopper"),
    ("0x2901", "B200, Blackwell"),
    ("0x2bb5", "RTX PRO 6000 Server, Blackwell"),
    ("0x3182", "B300, Blackwell"),
];

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gpu {
    address: String,
    device: String,
    driver: Option<String>,
}

impl Gpu {
    fn known(&self) -> Option<&'static str> {
        CONFIDENTIAL.iter().find(|(device, _)| *device == self.device).map(|(_, name)| *name)
    }
}

/// The GPUs on the PCI bus.
pub(super) fn gpus(sys: &Sys) -> Vec<Gpu> {
    let value =
        |address: &str, file: &str| sys.value(&format!("{DEVICES}/{address}/{file}")).unwrap_or_default();
    let addresses = sys.list(DEVICES).into_iter();
    let gpus = addresses.filter(|address| {
        value(address, "vendor") == NVIDIA && value(address, "class").starts_with(DISPLAY_CLASS)
    });
    gpus.map(|address| Gpu {
        device: value(&address, "device").to_lowercase(),
        driver: sys.link(&format!("{DEVICES}/{address}/driver")),
        address,
    })
    .collect()
}

/// What `nvidia-smi conf-compute` says, where it could be asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Protection {
    /// `-f`: whether confidential computing is on.
    status: Option<String>,
    /// `-d`: whether developers' tools may look in.
    tools: Option<String>,
    /// `-grs`: whether the GPUs take work.
    ready: Option<String>,
}

impl Protection {
    /// Asks, where there is a driver to ask.
    pub(super) async fn ask(sys: &Sys, gpus: &[Gpu]) -> Self {
        if !sys.is_live() || !gpus.iter().any(|gpu| gpu.driver.as_deref() == Some("nvidia")) {
            return Self::default();
        }
        let told = async |flag: &str| {
            let answer = ask("nvidia-smi", &["conf-compute", flag]).await?;
            last_value(&answer)
        };
        let (status, tools, ready) = tokio::join!(told("-f"), told("-d"), told("-grs"));
        Self { status, tools, ready }
    }

    #[cfg(test)]
    pub(super) fn of(answers: [&str; 3]) -> Self {
        let [status, tools, ready] = answers.map(last_value);
        Self { status, tools, ready }
    }
}

/// The value of a line `CC status: ON`, in lower case.
fn last_value(answer: &str) -> Option<String> {
    let value = answer.lines().find_map(|line| Some(line.rsplit_once(':')?.1.trim().to_lowercase()))?;
    (!value.is_empty()).then_some(value)
}

/// All of them.
pub(super) fn checks(
    sys: &Sys,
    role: Role,
    machine: Machine,
    gpus: &[Gpu],
    protection: &Protection,
) -> Vec<Check> {
    if gpus.is_empty() {
        return vec![none(role)];
    }
    let mut checks: Vec<Check> = gpus.iter().take(MAX_SHOWN).map(|gpu| device(gpu, machine)).collect();
    if gpus.len() > MAX_SHOWN {
        checks.push(Check::ok(GROUP, "more", format!("{} GPUs in all", gpus.len())));
    }
    if machine.host().is_none() {
        checks.push(driver(sys));
        checks.push(confidential(gpus, machine, protection));
        checks.extend(takes_work(protection));
    }
    checks
}

fn none(role: Role) -> Check {
    let name = "NVIDIA GPUs";
    match role {
        Role::Worker => Check::ok(
            GROUP,
            name,
            "none on the PCI bus: models run on the processor, on a model server elsewhere, or built in",
        ),
        Role::Gateway | Role::Proxy => Check::not_applicable(GROUP, name, "none, and none needed"),
    }
}

fn device(gpu: &Gpu, machine: Machine) -> Check {
    let name = format!("GPU {}", gpu.address);
    let kind = gpu.known().map_or_else(
        || format!("NVIDIA device {}, not among those known here to protect their memory", gpu.device),
        |known| format!("NVIDIA {known}"),
    );
    let driver = gpu.driver.as_deref().unwrap_or("none");
    let found = format!("{kind}; driver: {driver}");
    match (driver, machine) {
        ("vfio-pci", Machine::Host(_)) | ("nvidia", Machine::Guest(_) | Machine::NoTee) => {
            Check::ok(GROUP, &name, found)
        }
        (_, Machine::Host(_)) => Check::warning(
            GROUP,
            &name,
            found,
            "to give it to a guest: modprobe vfio-pci, then `driverctl set-override ADDRESS vfio-pci` with the address \
             above",
        ),
        _ => Check::warning(
            GROUP,
            &name,
            found,
            "install NVIDIA's driver with the open kernel modules (nvidia-open) and run `modprobe nvidia`; without it \
             models cannot use the GPU",
        ),
    }
}

fn driver(sys: &Sys) -> Check {
    let name = "NVIDIA driver";
    let text = sys.read("/proc/driver/nvidia/version").unwrap_or_default();
    // NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build ...
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    let version = text.lines().next().and_then(|line| line.split_whitespace().find(is_version));
    match version {
        Some(version) if text.contains("Open Kernel Module") => {
            Check::ok(GROUP, name, format!("{version}, open kernel modules"))
        }
        Some(version) => Check::warning(
            GROUP,
            name,
            format!("{version}, not the open kernel modules"),
            "confidential computing needs the open ones: install the package nvidia-open of the same version",
        ),
        None => Check::not_applicable(GROUP, name, "not loaded"),
    }
}

fn confidential(gpus: &[Gpu], machine: Machine, protection: &Protection) -> Check {
    let name = "confidential computing";
    let Some(tee) = machine.guest() else {
        return match protection.status.as_deref() {
            Some(status) => {
                Check::not_applicable(GROUP, name, format!("{status}; of use in a TEE guest only"))
            }
            None => Check::not_applicable(GROUP, name, "of use in a TEE guest only"),
        };
    };
    let switch_on = "on the host, with the GPU bound to vfio-pci, run NVIDIA's gpu-admin-tools: nvidia_gpu_tools.py \
                     --devices gpus --set-cc-mode=on --reset-after-cc-mode-switch; then start the guest again";
    match (protection.status.as_deref(), protection.tools.as_deref()) {
        (Some("on"), Some("on")) => Check::problem(
            GROUP,
            name,
            "in the mode for developers' tools, in which the host can look in",
            switch_on,
        ),
        (Some("on"), _) => Check::ok(GROUP, name, "on"),
        (Some(status), _) => Check::problem(
            GROUP,
            name,
            format!("{status}: what the {} guest keeps closed lies open in the GPU", tee.title()),
            switch_on,
        ),
        (None, _) if gpus.iter().all(|gpu| gpu.known().is_some()) => Check::warning(
            GROUP,
            name,
            "cannot be told: nvidia-smi is missing or does not answer",
            "install nvidia-utils of the driver's version and run `nvidia-smi conf-compute -f`; it must say ON",
        ),
        (None, _) => Check::warning(
            GROUP,
            name,
            "cannot be told, and not every GPU is known to have it",
            "run `nvidia-smi conf-compute -f`; GPUs before Hopper cannot protect what they hold",
        ),
    }
}

fn takes_work(protection: &Protection) -> Option<Check> {
    let name = "ready for work";
    match (protection.status.as_deref(), protection.ready.as_deref()?) {
        (Some("on"), "ready") => Some(Check::ok(GROUP, name, "yes")),
        (Some("on"), state) => Some(Check::problem(
            GROUP,
            name,
            format!("the GPUs are {state}: they refuse work until somebody has seen their evidence"),
            "verify the evidence, then run `nvidia-smi conf-compute -srs 1`; start nvidia-persistenced before it",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_an_answer_is_what_follows_its_last_colon() {
        assert_eq!(last_value("CC status: ON\n").as_deref(), Some("on"));
        assert_eq!(
            last_value("Confidential Compute GPUs Ready state: not-ready").as_deref(),
            Some("not-ready")
        );
        for odd in ["", "ON", ":", "CC status:\n"] {
            assert_eq!(last_value(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn known_devices_are_written_as_the_system_writes_them() {
        for (device, _) in CONFIDENTIAL {
            assert!(
                device.len() == 6 && device.starts_with("0x") && *device == device.to_lowercase(),
                "{device}"
            );
        }
    }
}
