//! The doctor looks at directory trees made to look like machines that are not at hand.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use clap::Parser as _;
use proptest::prelude::*;

use super::check::{Machine, Outcome, Readiness, Tee};
use super::gpu::Protection;
use super::*;
use crate::cli::{Cli, Command, Role};

/// A machine that is made of files.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(self, path: &str, bytes: impl AsRef<[u8]>) -> Self {
        let path = self.0.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        self
    }

    fn dir(self, path: &str) -> Self {
        std::fs::create_dir_all(self.0.path().join(path.trim_start_matches('/'))).unwrap();
        self
    }

    /// A processor: vendor, family, model and flags.
    fn cpu(self, vendor: &str, family: u32, model: u32, flags: &str) -> Self {
        let one = |number| {
            format!(
                "processor\t: {number}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n\
                 model name\t: Test {vendor}\nflags\t\t: fpu {flags}\n\n"
            )
        };
        self.put("/proc/cpuinfo", one(0) + &one(1)).put("/sys/devices/system/cpu/online", "0-63\n")
    }

    /// What any Linux has.
    fn linux(self, release: &str) -> Self {
        self.put("/proc/sys/kernel/osrelease", format!("{release}\n"))
            .put(
                "/proc/meminfo",
                "MemTotal:       263000000 kB\nMemAvailable:   250000000 kB\nHugePages_Total:       0\n",
            )
            .put("/proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
            .put(
                "/proc/self/limits",
                "Max open files            65536                524288               files\n",
            )
            .put("/proc/self/status", "Name:\tcocoon\nUid:\t0\t0\t0\t0\n")
            .put("/run/systemd/timesync/synchronized", "")
    }

    fn configfs(self) -> Self {
        self.put("/proc/mounts", "proc /proc proc rw 0 0\nconfigfs /sys/kernel/config configfs rw 0 0\n")
            .dir("/sys/kernel/config/tsm/report")
    }

    #[cfg(unix)]
    fn gpu(self, address: &str, device: &str, driver: Option<&str>) -> Self {
        let place = format!("/sys/bus/pci/devices/{address}");
        let tree = self
            .put(&format!("{place}/vendor"), "0x10de\n")
            .put(&format!("{place}/device"), format!("{device}\n"))
            .put(&format!("{place}/class"), "0x030200\n");
        if let Some(driver) = driver {
            let link = tree.0.path().join(format!("sys/bus/pci/devices/{address}/driver"));
            std::os::unix::fs::symlink(format!("../../../../bus/pci/drivers/{driver}"), link).unwrap();
        }
        tree
    }

    fn nvidia(self, kind: &str) -> Self {
        let line = format!(
            "NVRM version: NVIDIA UNIX {kind} for x86_64  570.86.15  Release Build\nGCC version:  13\n"
        );
        self.put("/proc/driver/nvidia/version", line)
    }

    fn sys(&self) -> Sys {
        Sys::new(self.0.path())
    }

    async fn examine(&self, role: &str) -> Report {
        examine(options(self.0.path(), &["--role", role])).await
    }
}

fn options(root: &Path, more: &[&str]) -> Doctor {
    let mut words = vec!["cocoon", "doctor", "--root", root.to_str().unwrap()];
    words.extend(more);
    match Cli::try_parse_from(words).unwrap().command {
        Command::Doctor(options) => options,
        other => panic!("{other:?}"),
    }
}

fn find<'a>(report: &'a Report, name: &str) -> &'a Check {
    report.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no check {name:?}"))
}

fn problems(report: &Report) -> Vec<&Check> {
    report.checks.iter().filter(|check| check.outcome == Outcome::Problem).collect()
}

fn tdx_guest() -> Tree {
    Tree::new()
        .cpu("GenuineIntel", 6, 207, "hypervisor tdx_guest")
        .linux("6.8.0-45-generic")
        .configfs()
        .put("/dev/tdx_guest", "")
        .dir("/sys/module/tdx_guest")
        .put("/etc/tdx-attest.conf", "port=4050\n")
}

fn snp_guest() -> Tree {
    Tree::new()
        .cpu("AuthenticAMD", 25, 17, "hypervisor sev sev_es sev_snp")
        .linux("6.11.0")
        .configfs()
        .put("/dev/sev-guest", "")
        .dir("/sys/module/sev_guest")
}

#[cfg(unix)]
#[tokio::test]
async fn a_tdx_guest_with_an_h100_is_ready() {
    let tree = tdx_guest().gpu("0000:01:00.0", "0x2331", Some("nvidia")).nvidia("Open Kernel Module");
    let report = tree.examine("worker").await;
    assert_eq!(report.machine, Machine::Guest(Tee::Tdx));
    assert_eq!(problems(&report), Vec::<&Check>::new());
    assert_eq!(report.readiness(), Readiness::Ready);
    assert_eq!(report.verdict(), "ready as a worker in a TDX guest");
    assert!(find(&report, "processor").found.contains("64 logical processors"));
    assert!(find(&report, "GPU 0000:01:00.0").found.contains("H100 PCIe, Hopper; driver: nvidia"));
    assert!(find(&report, "NVIDIA driver").found.contains("570.86.15"));
    assert!(find(&report, "quote service").found.contains("4050"));
    // Below another root no program is asked.
    assert_eq!(find(&report, "confidential computing").outcome, Outcome::Warning);
}

#[cfg(unix)]
#[test]
fn a_gpu_that_does_not_protect_what_it_holds_is_a_problem_in_a_guest() {
    let tree = tdx_guest().gpu("0000:01:00.0", "0x2330", Some("nvidia")).nvidia("Open Kernel Module");
    let (sys, gpus) = (tree.sys(), gpu::gpus(&tree.sys()));
    let on = "CC status: ON\n";
    for (answers, machine, worst) in [
        (
            [on, "DevTools Mode: OFF", "Confidential Compute GPUs Ready state: ready"],
            Machine::Guest(Tee::Tdx),
            None,
        ),
        (
            [on, "", "Confidential Compute GPUs Ready state: not-ready"],
            Machine::Guest(Tee::Tdx),
            Some("ready for work"),
        ),
        ([on, "DevTools Mode: ON", ""], Machine::Guest(Tee::Tdx), Some("confidential computing")),
        (["CC status: OFF", "", ""], Machine::Guest(Tee::SevSnp), Some("confidential computing")),
        (["CC status: OFF", "", ""], Machine::NoTee, None),
    ] {
        let checks = gpu::checks(&sys, Role::Worker, machine, &gpus, &Protection::of(answers));
        let problem = checks.iter().find(|check| check.outcome == Outcome::Problem);
        assert_eq!(problem.map(|check| check.name.as_str()), worst, "{answers:?}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn gpus_before_hopper_and_closed_drivers_are_told() {
    let tree = Tree::new()
        .cpu("GenuineIntel", 6, 85, "")
        .linux("6.1.0")
        .gpu("0000:01:00.0", "0x20B5", Some("nvidia"))
        .gpu("0000:02:00.0", "0x2335", None)
        .nvidia("x86_64 Kernel Module");
    let report = tree.examine("worker").await;
    let first = find(&report, "GPU 0000:01:00.0");
    assert!(first.found.contains("0x20b5, not among those known"), "{first:?}");
    let second = find(&report, "GPU 0000:02:00.0");
    assert!(second.found.contains("H200 SXM") && second.outcome == Outcome::Warning, "{second:?}");
    assert_eq!(find(&report, "NVIDIA driver").outcome, Outcome::Warning);
}

#[tokio::test]
async fn an_snp_guest_on_genoa_is_ready() {
    let report = snp_guest().examine("proxy").await;
    assert_eq!(report.machine, Machine::Guest(Tee::SevSnp));
    assert_eq!(problems(&report), Vec::<&Check>::new());
    assert_eq!(report.verdict(), "ready as a proxy in a SEV-SNP guest");
    assert_eq!(find(&report, "quote service").outcome, Outcome::NotApplicable);
}

#[tokio::test]
async fn a_guest_that_cannot_ask_for_evidence_says_how_to_mend_it() {
    let bare = Tree::new().cpu("GenuineIntel", 6, 207, "hypervisor tdx_guest").linux("6.5.0");
    let report = bare.examine("worker").await;
    assert_eq!(report.readiness(), Readiness::Problems);
    for (name, words) in [
        ("version", "at least 6.7"),
        ("configfs", "mount -t configfs"),
        ("configfs-tsm", "modprobe tdx-guest"),
        ("guest driver", "/etc/modules-load.d"),
    ] {
        let check = find(&report, name);
        assert_eq!(check.outcome, Outcome::Problem, "{check:?}");
        assert!(check.mend.as_ref().unwrap().contains(words), "{check:?}");
    }
}

#[tokio::test]
async fn swap_on_a_plain_disk_is_a_problem_in_a_guest_alone() {
    let swaps = |device: &str| format!("Filename Type Size Used Priority\n{device} partition 8388604 0 -2\n");
    for (device, outcome) in [
        ("/dev/vda2", Outcome::Problem),
        ("/dev/zram0", Outcome::Ok),
        ("/dev/dm-1", Outcome::Ok),
        ("/swap", Outcome::Problem),
    ] {
        let tree = tdx_guest()
            .put("/proc/swaps", swaps(device))
            .put("/sys/block/dm-1/dm/uuid", "CRYPT-PLAIN-swap\n");
        assert_eq!(find(&tree.examine("worker").await, "swap").outcome, outcome, "{device}");
    }
    let host = Tree::new().linux("6.8.0").put("/proc/swaps", swaps("/dev/sda2"));
    assert_eq!(find(&host.examine("worker").await, "swap").outcome, Outcome::Ok);
}

#[tokio::test]
async fn a_host_whose_firmware_leaves_tdx_off_is_told_what_to_set() {
    let tree = Tree::new()
        .cpu("GenuineIntel", 6, 207, "vmx tme")
        .linux("6.16.0")
        .put("/sys/module/kvm_intel/parameters/tdx", "N\n");
    let report = tree.examine("worker").await;
    let tdx = find(&report, "Intel TDX");
    assert_eq!(tdx.outcome, Outcome::Warning);
    assert!(tdx.found.contains("Emerald Rapids") && tdx.mend.as_ref().unwrap().contains("SEAM"), "{tdx:?}");
    assert_eq!((report.machine, report.readiness()), (Machine::NoTee, Readiness::NoTee));
}

#[tokio::test]
async fn a_tdx_host_needs_its_services_and_sends_the_node_into_a_guest() {
    let host = || {
        Tree::new()
            .cpu("GenuineIntel", 6, 173, "vmx tdx_host_platform")
            .linux("6.16.0")
            .put("/sys/module/kvm_intel/parameters/tdx", "Y\n")
    };
    let report = host().examine("worker").await;
    let missing: Vec<&str> = problems(&report).iter().map(|check| check.name.as_str()).collect();
    assert_eq!(missing, ["quote service", "PCCS", "IOMMU"]);
    let report = host()
        .put("/run/tdx-qgs/qgs.socket", "")
        .put(
            "/etc/sgx_default_qcnl.conf",
            "{ \"pccs_url\": \"https://localhost:8081/sgx/certification/v4/\" }",
        )
        .dir("/sys/kernel/iommu_groups/0")
        .examine("worker")
        .await;
    assert_eq!(problems(&report), Vec::<&Check>::new());
    assert_eq!((report.machine, report.readiness()), (Machine::Host(Tee::Tdx), Readiness::NoTee));
    assert!(report.verdict().contains("host for TDX guests"), "{}", report.verdict());
    assert_eq!(report.readiness().code(), 3);
}

#[tokio::test]
async fn an_amd_host_is_told_which_half_is_missing() {
    let off = Tree::new().cpu("AuthenticAMD", 25, 17, "svm sev").linux("6.11.0");
    let half = Tree::new().cpu("AuthenticAMD", 25, 17, "svm sev_snp").linux("6.8.0");
    for (tree, words) in [(off, "SMEE"), (half, "6.11")] {
        let report = tree.examine("worker").await;
        let snp = find(&report, "AMD SEV-SNP");
        assert_eq!(snp.outcome, Outcome::Warning);
        assert!(snp.mend.as_ref().unwrap().contains(words), "{snp:?}");
    }
    let on = Tree::new()
        .cpu("AuthenticAMD", 26, 2, "svm sev_snp")
        .put("/sys/module/kvm_amd/parameters/sev_snp", "Y");
    assert_eq!(on.examine("worker").await.machine, Machine::Host(Tee::SevSnp));
}

#[tokio::test]
async fn a_laptop_is_fine_for_test_networks_and_for_a_gateway() {
    let tree = Tree::new().cpu("GenuineIntel", 6, 154, "vmx").linux("6.6.0");
    let report = tree.examine("worker").await;
    assert_eq!(problems(&report), Vec::<&Check>::new());
    assert_eq!(report.readiness(), Readiness::NoTee);
    assert!(report.verdict().starts_with("no TEE here: fine for test networks"), "{}", report.verdict());
    assert_eq!(report.next_step(), "cocoon up");
    assert_eq!(tree.examine("gateway").await.readiness(), Readiness::Ready);
}

#[tokio::test]
async fn a_container_is_told_what_to_pass_through_and_how_much_memory_it_has() {
    let tree = snp_guest()
        .put("/.dockerenv", "")
        .put("/proc/self/cgroup", "0::/\n")
        .put("/sys/fs/cgroup/memory.max", "1073741824\n");
    let report = tree.examine("worker").await;
    assert!(find(&report, "container").found.contains("--device /dev/sev-guest"));
    let memory = find(&report, "memory");
    assert!(memory.outcome == Outcome::Warning && memory.found.contains("allows 1.0 GiB"), "{memory:?}");
}

#[tokio::test]
async fn the_configuration_is_held_against_the_machine() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("worker.toml");
    let told = async |text: &str| {
        std::fs::write(&file, text).unwrap();
        examine(options(Path::new("/"), &["--config", file.to_str().unwrap()])).await
    };
    let whole = "http = \"127.0.0.1:0\"\n[engine]\nbuiltin = true\n[root]\nfile = \"root.json\"\n\
                 address = \"EQBT4hy4vMEZ9uxSCuhw_gBKh9_AwmHXLe7Wo0O4Vh-4kRjJ\"\n[attestation]\npresent = \"fake_tdx\"\n";
    let report = told(whole).await;
    assert!(find(&report, "network").found.contains("root.json is missing"));
    std::fs::write(directory.path().join("root.json"), "{}").unwrap();
    let report = told(whole).await;
    for name in ["network", "engine", "file"] {
        assert_eq!(find(&report, name).outcome, Outcome::Ok, "{:?}", find(&report, name));
    }
    assert!(find(&report, "state directory").found.contains("cocoon-worker"));

    let report = told("proxies = [\"nowhere\"]\n[chain]\nurl = \"http://127.0.0.1:1\"\n").await;
    for name in ["network", "owner", "proxies", "engine"] {
        assert_eq!(find(&report, name).outcome, Outcome::Problem, "{:?}", find(&report, name));
    }
    let report = told("colour = 3").await;
    assert!(find(&report, "file").found.contains("no field `colour`"));
    assert_eq!(report.readiness(), Readiness::Problems);
}

#[tokio::test]
async fn nobody_is_contacted_unless_asked_and_then_those_who_do_not_answer_are_named() {
    let tree = Tree::new().linux("6.8.0");
    let report = tree.examine("worker").await;
    assert_eq!(find(&report, "peers and services").outcome, Outcome::NotApplicable);
    let report = examine(options(tree.0.path(), &["--check-url", "http://127.0.0.1:1"])).await;
    let named = find(&report, "named");
    assert!(named.outcome == Outcome::Problem && named.found.contains("127.0.0.1:1"), "{named:?}");
    assert!(report.checks.iter().all(|check| check.name != "Intel PCS"));
}

#[tokio::test]
async fn an_empty_tree_is_judged_without_a_panic() {
    let report = Tree::new().examine("worker").await;
    assert_eq!(report.machine, Machine::NoTee);
    assert!(report.checks.iter().all(|check| !check.found.is_empty()));
}

/// Everything that is read as text.
const READ: &[&str] = &[
    "/proc/cpuinfo",
    "/sys/devices/system/cpu/online",
    "/proc/sys/kernel/osrelease",
    "/proc/mounts",
    "/proc/meminfo",
    "/proc/swaps",
    "/proc/self/cgroup",
    "/proc/1/cgroup",
    "/proc/self/limits",
    "/proc/self/status",
    "/proc/self/mountinfo",
    "/proc/driver/nvidia/version",
    "/etc/sgx_default_qcnl.conf",
    "/etc/tdx-attest.conf",
    "/etc/qgs.conf",
    "/sys/module/kvm_intel/parameters/tdx",
    "/sys/bus/pci/devices/0000:01:00.0/vendor",
    "/sys/bus/pci/devices/0000:01:00.0/device",
    "/sys/bus/pci/devices/0000:01:00.0/class",
];

#[tokio::test]
async fn directories_and_huge_files_in_the_place_of_small_ones_do_no_harm() {
    let huge = READ.iter().fold(Tree::new(), |tree, path| tree.put(path, vec![b'7'; 3 << 20]));
    let report = huge.examine("worker").await;
    assert!(report.checks.iter().all(|check| check.found.len() < 4096));
    let odd = READ.iter().fold(Tree::new(), |tree, path| tree.dir(path));
    assert_eq!(odd.examine("worker").await.machine, Machine::NoTee);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_judged_without_a_panic_and_cannot_touch_the_terminal(
        pieces in proptest::collection::vec(
            (0..READ.len(), prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                "([a-zA-Z_ ]{0,12}[:= \t-]{1,3}[0-9,.:/-]{0,24}\n){0,6}".prop_map(String::into_bytes),
            ]),
            0..8,
        ),
        guest in any::<bool>(),
    ) {
        let start = if guest { tdx_guest() } else { Tree::new() };
        let tree = pieces.into_iter().fold(start, |tree, (place, bytes)| tree.put(READ[place], bytes));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(tree.examine("worker"));
        let text = render::text(&report, Style::plain());
        prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
        prop_assert!(serde_json::from_str::<serde_json::Value>(&render::json(&report)).is_ok());
    }
}
