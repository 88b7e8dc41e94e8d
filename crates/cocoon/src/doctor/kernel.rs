//! The kernel, and how evidence is asked of it: configfs-tsm, and on hosts the services that complete a quote.

use super::Sys;
use super::check::{Check, Group, Machine, Tee};
use super::sys::Look;

const GROUP: Group = Group::Kernel;

/// The first kernel with configfs-tsm (`Documentation/ABI/testing/configfs-tsm`).
const TSM_SINCE: (u32, u32) = (6, 7);
/// Where it is (`configfs-tsm`, "What: /sys/kernel/config/tsm/report/$name").
const TSM: &str = "/sys/kernel/config/tsm/report";
/// Where Intel's quote generation service listens for the hypervisor (Intel DCAP, `QuoteGeneration/quote_wrapper/qgs`).
const QGS_SOCKETS: [&str; 2] = ["/run/tdx-qgs/qgs.socket", "/var/run/tdx-qgs/qgs.socket"];
/// What Intel's provider of certificates reads (Intel DCAP, `QuoteGeneration/qcnl/linux`).
const QCNL: &str = "/etc/sgx_default_qcnl.conf";

/// All of them.
pub(super) fn checks(sys: &Sys, machine: Machine) -> Vec<Check> {
    vec![
        version(sys, machine),
        configfs(sys, machine),
        reports(sys, machine),
        driver(sys, machine),
        qgs(sys, machine),
        pccs(sys, machine),
        iommu(sys, machine),
    ]
}

fn version(sys: &Sys, machine: Machine) -> Check {
    let name = "version";
    let Some(release) = sys.value("/proc/sys/kernel/osrelease") else {
        return Check::warning(GROUP, name, "cannot be told", "mount /proc; nodes are meant for Linux");
    };
    let (major, minor) = TSM_SINCE;
    match (parse_release(&release), machine.guest()) {
        (Some(version), Some(_)) if version < TSM_SINCE => Check::problem(
            GROUP,
            name,
            format!(
                "Linux {release}, before {major}.{minor}, which brought the interface for evidence (configfs-tsm)"
            ),
            "install a kernel of at least 6.7 in the guest's image",
        ),
        (Some(_), _) => Check::ok(GROUP, name, format!("Linux {release}")),
        (None, _) => Check::warning(
            GROUP,
            name,
            format!("{release:?}, of an unknown form"),
            "compare it with 6.7 yourself",
        ),
    }
}

/// `6.8.0-45-generic` is (6, 8).
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn configfs(sys: &Sys, machine: Machine) -> Check {
    let name = "configfs";
    let mounts = sys.read("/proc/mounts").unwrap_or_default();
    let place = mounts.lines().find_map(|line| {
        let mut parts = line.split(' ');
        let place = parts.nth(1)?;
        (parts.next() == Some("configfs")).then(|| place.to_owned())
    });
    match (place, machine.guest()) {
        (Some(place), _) => Check::ok(GROUP, name, format!("mounted at {place}")),
        (None, None) => Check::not_applicable(GROUP, name, "not mounted; only TEE guests need it"),
        (None, Some(_)) => Check::problem(
            GROUP,
            name,
            "not mounted, so that no evidence can be asked for",
            "mount -t configfs none /sys/kernel/config (a container needs it passed through: \
             -v /sys/kernel/config:/sys/kernel/config)",
        ),
    }
}

fn reports(sys: &Sys, machine: Machine) -> Check {
    let name = "configfs-tsm";
    let Some(tee) = machine.guest() else {
        return Check::not_applicable(GROUP, name, "only TEE guests have it");
    };
    if !sys.is_dir(TSM) {
        let module = module(tee);
        return Check::problem(
            GROUP,
            name,
            format!("{TSM} is missing"),
            format!(
                "modprobe {module}; the kernel needs CONFIG_TSM_REPORTS and the driver of {}",
                tee.title()
            ),
        );
    }
    if sys.is_writable(TSM) {
        return Check::ok(GROUP, name, format!("{TSM} is there, and this user may use it"));
    }
    Check::problem(
        GROUP,
        name,
        format!("this user may not write to {TSM}"),
        "run the node as root in the guest, or at each start give the directory to its user: \
         chown NODE-USER /sys/kernel/config/tsm/report",
    )
}

const fn module(tee: Tee) -> &'static str {
    match tee {
        Tee::Tdx => "tdx-guest",
        Tee::SevSnp => "sev-guest",
    }
}

fn driver(sys: &Sys, machine: Machine) -> Check {
    let name = "guest driver";
    let Some(tee) = machine.guest() else {
        return Check::not_applicable(GROUP, name, "no TEE guest");
    };
    let (module, device) = match tee {
        Tee::Tdx => ("tdx-guest", "/dev/tdx_guest"),
        Tee::SevSnp => ("sev-guest", "/dev/sev-guest"),
    };
    let loaded = sys.is_dir(&format!("/sys/module/{}", module.replace('-', "_")));
    match (loaded, sys.exists(device)) {
        (true, _) => Check::ok(GROUP, name, format!("{module} is loaded")),
        (false, true) => Check::ok(GROUP, name, format!("built in: {device} is there")),
        (false, false) => Check::problem(
            GROUP,
            name,
            format!("{module} is not loaded and {device} is missing"),
            format!("modprobe {module}, and put {module} into /etc/modules-load.d/cocoon.conf"),
        ),
    }
}

fn qgs(sys: &Sys, machine: Machine) -> Check {
    let name = "quote service";
    match machine {
        Machine::Host(Tee::Tdx) => qgs_of_host(sys, name),
        Machine::Guest(Tee::Tdx) => {
            let port = sys.read("/etc/tdx-attest.conf").and_then(|text| attest_port(&text));
            let port =
                port.map_or(String::new(), |port| format!("; /etc/tdx-attest.conf names vsock port {port}"));
            Check::ok(
                GROUP,
                name,
                format!("quotes come through the kernel from the host, which must run Intel's QGS{port}"),
            )
        }
        Machine::Guest(Tee::SevSnp) | Machine::Host(Tee::SevSnp) => {
            Check::not_applicable(GROUP, name, "SNP reports are signed by the processor itself")
        }
        Machine::NoTee => Check::not_applicable(GROUP, name, "only for TDX"),
    }
}

fn qgs_of_host(sys: &Sys, name: &str) -> Check {
    let config = sys.read("/etc/qgs.conf").and_then(|text| attest_port(&text));
    match (QGS_SOCKETS.iter().find(|path| sys.exists(path)), config) {
        (Some(path), _) => {
            Check::ok(GROUP, name, format!("{path} is there; give it to QEMU as quote-generation-socket"))
        }
        (None, Some(port)) => Check::warning(
            GROUP,
            name,
            format!("no socket; /etc/qgs.conf names vsock port {port}, which cannot be tried from here"),
            "systemctl status qgsd; guests of QEMU with `quote-generation-socket` of type vsock need cid 2 and this port",
        ),
        (None, None) => Check::problem(
            GROUP,
            name,
            "Intel's QGS does not listen: no /var/run/tdx-qgs/qgs.socket",
            "install tdx-qgs of Intel's DCAP packages and run `systemctl enable --now qgsd`: without it guests get no \
             quotes",
        ),
    }
}

/// The line `port = 4050` of Intel's two small configurations.
fn attest_port(text: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "port").then(|| value.trim().parse().ok())?
    })
}

fn pccs(sys: &Sys, machine: Machine) -> Check {
    let name = "PCCS";
    if machine != Machine::Host(Tee::Tdx) {
        return Check::not_applicable(GROUP, name, "only for hosts of TDX guests");
    }
    match sys.look(QCNL) {
        Look::Text(text) => match pccs_url(&text) {
            Some(url) => Check::ok(GROUP, name, format!("{QCNL} names {url}")),
            None => Check::problem(GROUP, name, format!("{QCNL} names no pccs_url"), QCNL_MEND),
        },
        Look::Denied => Check::warning(
            GROUP,
            name,
            format!("this user may not read {QCNL}"),
            "run `cocoon doctor` as root",
        ),
        Look::Missing | Look::Odd => Check::problem(
            GROUP,
            name,
            format!("{QCNL} is missing, so that QGS knows no certificates"),
            QCNL_MEND,
        ),
    }
}

const QCNL_MEND: &str = "install libsgx-dcap-default-qpl and set \"pccs_url\" in /etc/sgx_default_qcnl.conf: a PCCS of \
                         your own, or https://api.trustedservices.intel.com/sgx/certification/v4/ for a platform \
                         that is registered with Intel";

/// The URL of the caching service, from a file that is JSON with comments.
pub(super) fn pccs_url(text: &str) -> Option<String> {
    let line = text.lines().find(|line| {
        let line = line.trim_start();
        !line.starts_with("//") && (line.contains("pccs_url") || line.starts_with("PCCS_URL"))
    })?;
    let start = line.find("http")?;
    let url = line.get(start..)?.split(['"', ',', ' ', '\'']).next()?;
    url.parse::<http::Uri>()
        .ok()
        .filter(|uri| uri.scheme().is_some() && uri.host().is_some())
        .map(|uri| uri.to_string())
}

/// Where that service is, if this machine names one.
pub(super) fn configured_pccs(sys: &Sys) -> Option<String> {
    pccs_url(&sys.read(QCNL)?)
}

fn iommu(sys: &Sys, machine: Machine) -> Check {
    let name = "IOMMU";
    let groups = sys.list("/sys/kernel/iommu_groups").len();
    match (groups, machine.host()) {
        (0, Some(tee)) => Check::problem(
            GROUP,
            name,
            "off, so that no GPU can be given to a guest",
            match tee {
                Tee::Tdx => "enable VT-d in the BIOS and add `intel_iommu=on` to the kernel's command line",
                Tee::SevSnp => {
                    "enable the IOMMU in the BIOS and take `iommu=off` and `iommu=pt` from the kernel's command line"
                }
            },
        ),
        (0, None) => Check::not_applicable(GROUP, name, "off; only hosts that give GPUs to guests need it"),
        (groups, _) => Check::ok(GROUP, name, format!("on, {groups} groups")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_as_far_as_they_are_numbers() {
        for (text, version) in [
            ("6.8.0-45-generic", Some((6, 8))),
            ("6.18.44", Some((6, 18))),
            ("7.0-rc1", Some((7, 0))),
            ("", None),
            ("x", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(parse_release(text), version, "{text}");
        }
    }

    #[test]
    fn the_caching_service_is_found_in_both_forms_of_the_file() {
        let json = "{\n  //\"pccs_url\": \"https://old.example/\"\n  \"pccs_url\": \"https://localhost:8081/sgx/certification/v4/\",\n";
        assert_eq!(pccs_url(json).as_deref(), Some("https://localhost:8081/sgx/certification/v4/"));
        assert_eq!(
            pccs_url("PCCS_URL=https://pccs.example/v4/").as_deref(),
            Some("https://pccs.example/v4/")
        );
        for odd in ["", "\"pccs_url\": 3", "\"pccs_url\": \"http\"", "pccs_url httpé"] {
            assert_eq!(pccs_url(odd), None, "{odd}");
        }
    }
}
