//! The processor, and what it can do to keep the machine's owner out.

use super::Sys;
use super::check::{Check, Group, Machine, Tee};

const GROUP: Group = Group::Tee;

/// What `/proc/cpuinfo` and its neighbours say.
#[derive(Debug, Clone, Default)]
pub(super) struct Cpu {
    vendor: String,
    model: String,
    family: Option<u32>,
    number: Option<u32>,
    flags: Vec<String>,
    cores: Option<usize>,
}

impl Cpu {
    /// Reads what is known of the first processor.
    pub(super) fn read(sys: &Sys) -> Self {
        let text = sys.read("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            });
            line.unwrap_or_default()
        };
        let counted = text.lines().filter(|line| line.starts_with("processor")).count();
        let online = sys.value("/sys/devices/system/cpu/online").and_then(|ranges| count_ranges(&ranges));
        Self {
            vendor: field("vendor_id"),
            model: field("model name"),
            family: field("cpu family").parse().ok(),
            number: field("model").parse().ok(),
            flags: field("flags").split_whitespace().map(str::to_owned).collect(),
            cores: online.or((counted > 0).then_some(counted)),
        }
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|have| have == flag)
    }

    fn is_virtual(&self) -> bool {
        self.has("hypervisor")
    }

    fn is_intel(&self) -> bool {
        self.vendor == "GenuineIntel"
    }

    fn is_amd(&self) -> bool {
        self.vendor == "AuthenticAMD"
    }

    /// Whether it is of a line of server processors of which some have TDX, by family and model. The fourth generation
    /// of Xeon has it in few models only, later ones in all that are known.
    fn may_have_tdx(&self) -> Option<&'static str> {
        match (self.is_intel(), self.family?, self.number?) {
            (true, 6, 0x8f) => Some("Sapphire Rapids; only some of its models have TDX"),
            (true, 6, 0xcf) => Some("Emerald Rapids"),
            (true, 6, 0xad | 0xae) => Some("Granite Rapids"),
            (true, 6, 0xaf) => Some("Sierra Forest"),
            _ => None,
        }
    }

    /// Whether it is of a line of server processors with SEV-SNP, by family and model.
    fn may_have_snp(&self) -> Option<&'static str> {
        match (self.is_amd(), self.family?, self.number?) {
            (true, 0x19, 0x00..=0x0f) => Some("Milan"),
            (true, 0x19, 0x10..=0x1f) => Some("Genoa"),
            (true, 0x19, 0xa0..=0xaf) => Some("Bergamo or Siena"),
            (true, 0x1a, 0x00..=0x1f) => Some("Turin"),
            _ => None,
        }
    }
}

/// How many numbers `0-3,8,10-11` names.
fn count_ranges(text: &str) -> Option<usize> {
    let mut count: usize = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

/// The parameter of a kernel module that is a switch.
fn switch(sys: &Sys, path: &str) -> Option<bool> {
    match sys.value(path)?.as_str() {
        "Y" | "y" | "1" => Some(true),
        "N" | "n" | "0" => Some(false),
        _ => None,
    }
}

/// What the machine is. A guest counts before a host: nobody is both here.
pub(super) fn machine(sys: &Sys, cpu: &Cpu) -> Machine {
    let tdx_guest = cpu.has("tdx_guest") || sys.exists("/dev/tdx_guest");
    // The flag `sev_snp` says what the processor can, not where we are.
    let snp_guest = sys.exists("/dev/sev-guest") || sys.exists("/sys/devices/system/cpu/sev/vmpl");
    if tdx_guest {
        Machine::Guest(Tee::Tdx)
    } else if snp_guest {
        Machine::Guest(Tee::SevSnp)
    } else if switch(sys, TDX_SWITCH) == Some(true) {
        Machine::Host(Tee::Tdx)
    } else if switch(sys, SNP_SWITCH) == Some(true) {
        Machine::Host(Tee::SevSnp)
    } else {
        Machine::NoTee
    }
}

const TDX_SWITCH: &str = "/sys/module/kvm_intel/parameters/tdx";
const SNP_SWITCH: &str = "/sys/module/kvm_amd/parameters/sev_snp";

/// The processor, what its TEE is like, and what the machine is in the end.
pub(super) fn checks(sys: &Sys, cpu: &Cpu, machine: Machine) -> Vec<Check> {
    vec![processor(cpu), tdx(sys, cpu, machine), snp(sys, cpu, machine), place(cpu, machine)]
}

fn processor(cpu: &Cpu) -> Check {
    let known = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
    let cores = cpu.cores.map_or("an unknown number of".to_owned(), |cores| cores.to_string());
    let virtual_machine = if cpu.is_virtual() { ", in a virtual machine" } else { "" };
    let (vendor, model) = (known(&cpu.vendor), known(&cpu.model));
    Check::ok(GROUP, "processor", format!("{model} ({vendor}), {cores} logical processors{virtual_machine}"))
}

fn tdx(sys: &Sys, cpu: &Cpu, machine: Machine) -> Check {
    let name = "Intel TDX";
    if machine == Machine::Guest(Tee::Tdx) {
        let device =
            if sys.exists("/dev/tdx_guest") { "/dev/tdx_guest is there" } else { "no /dev/tdx_guest" };
        return Check::ok(GROUP, name, format!("this is a trust domain; {device}"));
    }
    if !cpu.is_intel() {
        return Check::not_applicable(GROUP, name, "no Intel processor");
    }
    if cpu.is_virtual() {
        return Check::not_applicable(
            GROUP,
            name,
            "a virtual machine that is no trust domain; its host decides",
        );
    }
    match (cpu.has("tdx_host_platform"), switch(sys, TDX_SWITCH)) {
        (_, Some(true)) => Check::ok(GROUP, name, "enabled in firmware and KVM: trust domains can run here"),
        (true, Some(false)) => Check::warning(
            GROUP,
            name,
            "enabled in firmware, but not in KVM",
            "set `options kvm_intel tdx=1` in /etc/modprobe.d/kvm-tdx.conf and start the machine again; where it stays \
             off, `dmesg | grep -i tdx` as root says why",
        ),
        (true, None) => Check::warning(
            GROUP,
            name,
            "enabled in firmware, but this kernel's KVM cannot run trust domains, or kvm_intel is not loaded",
            "run `modprobe kvm_intel`; the mainline kernel runs trust domains from 6.16 on",
        ),
        (false, _) => match cpu.may_have_tdx() {
            Some(line) => Check::warning(
                GROUP,
                name,
                format!("not enabled by the firmware, or not known to this kernel (processor: {line})"),
                "in the BIOS enable TME, TME-MT (multi-tenant), TDX, the SEAM loader and SGX, and leave some key \
                 identifiers to TDX; needs a kernel of at least 6.8. `dmesg | grep -i tdx` as root shows what the \
                 kernel saw",
            ),
            None => Check::not_applicable(GROUP, name, "no processor of a line that is known to have it"),
        },
    }
}

fn snp(sys: &Sys, cpu: &Cpu, machine: Machine) -> Check {
    let name = "AMD SEV-SNP";
    if machine == Machine::Guest(Tee::SevSnp) {
        let device =
            if sys.exists("/dev/sev-guest") { "/dev/sev-guest is there" } else { "no /dev/sev-guest" };
        return Check::ok(GROUP, name, format!("this is an SNP guest; {device}"));
    }
    if !cpu.is_amd() {
        return Check::not_applicable(GROUP, name, "no AMD processor");
    }
    if cpu.is_virtual() {
        return Check::not_applicable(
            GROUP,
            name,
            "a virtual machine without /dev/sev-guest: no SNP guest, or its driver is not loaded \
             (`modprobe sev-guest` tells)",
        );
    }
    match (cpu.has("sev_snp"), switch(sys, SNP_SWITCH)) {
        (_, Some(true)) => Check::ok(GROUP, name, "enabled in firmware and KVM: SNP guests can run here"),
        (true, _) => Check::warning(
            GROUP,
            name,
            "the processor offers it, but KVM does not use it",
            "in the BIOS set the SNP memory (RMP table) coverage and enable the IOMMU; needs a kernel of at least 6.11, \
             `modprobe kvm_amd sev_snp=1` and no `iommu=pt`. `dmesg | grep -i -e sev -e snp` as root says what is missing",
        ),
        (false, _) => match cpu.may_have_snp() {
            Some(line) => Check::warning(
                GROUP,
                name,
                format!("not enabled by the firmware (processor: {line})"),
                "in the BIOS enable SMEE, SEV-SNP support, the RMP table's coverage, a number of SEV-ES address space \
                 identifiers above 1, and the IOMMU. `dmesg | grep -i sev` as root shows what the kernel saw",
            ),
            None => Check::not_applicable(GROUP, name, "no processor of a line that is known to have it"),
        },
    }
}

fn place(cpu: &Cpu, machine: Machine) -> Check {
    let name = "this machine";
    match machine {
        Machine::Guest(tee) => {
            Check::ok(GROUP, name, format!("a {} guest: its memory is closed to its host", tee.title()))
        }
        Machine::Host(tee) => {
            let tee = tee.title();
            Check::ok(
                GROUP,
                name,
                format!("a host for {tee} guests; nodes run in guests, not on the host itself"),
            )
        }
        Machine::NoTee if cpu.is_virtual() => {
            Check::ok(GROUP, name, "a virtual machine without TEE: its host can read its memory")
        }
        Machine::NoTee => Check::ok(GROUP, name, "no TEE: whoever runs this machine can read its memory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_from_ranges() {
        for (text, count) in [("0", Some(1)), ("0-3", Some(4)), ("0-3,8,10-11", Some(7))] {
            assert_eq!(count_ranges(text), count, "{text}");
        }
        for odd in ["", "x", "3-1", "0-18446744073709551615", "-"] {
            assert_eq!(count_ranges(odd), None, "{odd:?}");
        }
    }
}
