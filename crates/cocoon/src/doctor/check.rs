//! What the doctor found: checks with their outcomes, and the verdict that follows from them.

use crate::config::Present;
use std::path::PathBuf;

use serde::Serialize;

use crate::cli::Role;
use crate::terminal::one_line;

/// Longest text of one finding, in characters: much of it comes from files that others wrote.
const MAX_TEXT_CHARS: usize = 400;

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// Nothing to do.
    Ok,
    /// The node works, with something to keep in mind.
    Warning,
    /// The node does not work, or does not keep what it promises, until this is mended.
    Problem,
    /// Does not matter here.
    NotApplicable,
}

/// What a check is about. The order is that of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Group {
    /// The processor and its trusted execution environment.
    Tee,
    /// The kernel and what it offers for evidence.
    Kernel,
    /// Memory and swap.
    Memory,
    /// Graphics processors.
    Gpu,
    /// The time.
    Clock,
    /// File systems.
    Disk,
    /// Ports and peers.
    Network,
    /// Limits that the system sets.
    Limits,
    /// The node's configuration.
    Configuration,
}

impl Group {
    /// Its heading.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Tee => "processor and TEE",
            Self::Kernel => "kernel and evidence",
            Self::Memory => "memory",
            Self::Gpu => "GPU",
            Self::Clock => "clock",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Limits => "limits",
            Self::Configuration => "configuration",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// What it is about.
    pub(super) group: Group,
    /// A short name; a stable one, but for what is there several times (`gpu 0000:41:00.0`).
    pub(super) name: String,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// What was found, in words.
    pub(super) found: String,
    /// What to do about it; none where there is nothing to do.
    pub(super) mend: Option<String>,
}

impl Check {
    fn new(group: Group, name: &str, outcome: Outcome, found: &str, mend: Option<&str>) -> Self {
        Self { group, name: clean(name), outcome, found: clean(found), mend: mend.map(clean) }
    }

    /// Nothing to do.
    pub(super) fn ok(group: Group, name: &str, found: impl AsRef<str>) -> Self {
        Self::new(group, name, Outcome::Ok, found.as_ref(), None)
    }

    /// Does not matter here.
    pub(super) fn not_applicable(group: Group, name: &str, found: impl AsRef<str>) -> Self {
        Self::new(group, name, Outcome::NotApplicable, found.as_ref(), None)
    }

    /// Something to keep in mind.
    pub(super) fn warning(group: Group, name: &str, found: impl AsRef<str>, mend: impl AsRef<str>) -> Self {
        Self::new(group, name, Outcome::Warning, found.as_ref(), Some(mend.as_ref()))
    }

    /// Something to mend.
    pub(super) fn problem(group: Group, name: &str, found: impl AsRef<str>, mend: impl AsRef<str>) -> Self {
        Self::new(group, name, Outcome::Problem, found.as_ref(), Some(mend.as_ref()))
    }
}

/// One line without control characters, cut where it is too long.
fn clean(text: &str) -> String {
    let text = one_line(text);
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// A trusted execution environment of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tee {
    /// Intel TDX.
    Tdx,
    /// AMD SEV-SNP.
    SevSnp,
}

impl Tee {
    /// Its name in text.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Tdx => "TDX",
            Self::SevSnp => "SEV-SNP",
        }
    }

    /// Its evidence.
    pub(super) const fn source(self) -> Present {
        match self {
            Self::Tdx => Present::Tdx,
            Self::SevSnp => Present::SevSnp,
        }
    }
}

/// What the machine is, as seen from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "tee")]
pub(super) enum Machine {
    /// A guest in a trusted execution environment: what nodes are to run in.
    Guest(Tee),
    /// A host that can run such guests.
    Host(Tee),
    /// Neither.
    NoTee,
}

impl Machine {
    /// The environment that it is a guest in.
    pub(super) const fn guest(self) -> Option<Tee> {
        match self {
            Self::Guest(tee) => Some(tee),
            Self::Host(_) | Self::NoTee => None,
        }
    }

    /// The environment that its guests can have.
    pub(super) const fn host(self) -> Option<Tee> {
        match self {
            Self::Host(tee) => Some(tee),
            Self::Guest(_) | Self::NoTee => None,
        }
    }
}

/// Whether the machine will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Readiness {
    /// It will.
    Ready,
    /// Something must be mended first.
    Problems,
    /// All works, but nobody can be shown that it runs as it should.
    NoTee,
}

impl Readiness {
    /// The exit status that says so.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Problems => 1,
            Self::NoTee => 3,
        }
    }
}

/// All that was found.
#[derive(Debug)]
pub(super) struct Report {
    /// What the node is to be.
    pub(super) role: Role,
    /// What the machine is.
    pub(super) machine: Machine,
    /// The configuration that was judged, too.
    pub(super) config: Option<PathBuf>,
    /// Every check, by group.
    pub(super) checks: Vec<Check>,
}

impl Report {
    /// Whether the machine will do for its role.
    pub(super) fn readiness(&self) -> Readiness {
        if self.count(Outcome::Problem) > 0 {
            return Readiness::Problems;
        }
        match (self.role, self.machine) {
            // A gateway is on the side of those who ask: it verifies, and has nothing to prove.
            (Role::Gateway, _) | (_, Machine::Guest(_)) => Readiness::Ready,
            (Role::Proxy | Role::Worker, Machine::Host(_) | Machine::NoTee) => Readiness::NoTee,
        }
    }

    /// How many checks ended so.
    pub(super) fn count(&self, outcome: Outcome) -> usize {
        self.checks.iter().filter(|check| check.outcome == outcome).count()
    }

    /// The verdict in words.
    pub(super) fn verdict(&self) -> String {
        let role = self.role.name();
        match (self.readiness(), self.machine) {
            (Readiness::Problems, _) => {
                let count = self.count(Outcome::Problem);
                let things = if count == 1 { "one problem".to_owned() } else { format!("{count} problems") };
                format!("not ready as a {role}: {things} to mend")
            }
            (_, Machine::Guest(tee)) => format!("ready as a {role} in a {} guest", tee.title()),
            (Readiness::Ready, _) => format!("ready as a {role}, which needs no TEE"),
            (Readiness::NoTee, Machine::Host(tee)) => {
                let tee = tee.title();
                format!("a host for {tee} guests: the {role} belongs into such a guest, not here")
            }
            (Readiness::NoTee, _) => format!(
                "no TEE here: fine for test networks, not for a {role} whose peers ask for evidence of its machine"
            ),
        }
    }

    /// What to do next.
    pub(super) fn next_step(&self) -> String {
        let role = self.role.name();
        let config = self.config.as_ref().map(|path| one_line(&path.to_string_lossy()));
        match (self.readiness(), self.machine, config) {
            (Readiness::Problems, _, _) => {
                let first = self.checks.iter().find(|check| check.outcome == Outcome::Problem);
                first.and_then(|check| check.mend.clone()).unwrap_or_default()
            }
            (Readiness::NoTee, Machine::Host(_), _) => {
                format!("start a guest and run `cocoon doctor --role {role}` in it")
            }
            (Readiness::Ready, _, None) => format!("cocoon {role} --config {role}.toml"),
            (Readiness::NoTee, _, None) => "cocoon up".to_owned(),
            (_, _, Some(config)) => format!("cocoon {role} --config {config}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_stays_on_its_line_and_within_its_length() {
        let check =
            Check::ok(Group::Tee, "cpu", format!("a\x1b[31m\nb\u{7}{}", "x".repeat(2 * MAX_TEXT_CHARS)));
        assert!(check.found.starts_with("a[31m bx") && check.found.ends_with("x…"), "{}", check.found);
        assert_eq!(check.found.chars().count(), MAX_TEXT_CHARS + 1);
    }

    #[test]
    fn the_verdict_follows_from_the_worst_check_the_role_and_the_machine() {
        let report = |role, machine, checks| Report { role, machine, config: None, checks };
        let fault = || vec![Check::problem(Group::Disk, "state", "full", "make room")];
        for (report, ready, words) in [
            (
                report(Role::Worker, Machine::Guest(Tee::Tdx), vec![]),
                Readiness::Ready,
                "ready as a worker in a TDX guest",
            ),
            (
                report(Role::Proxy, Machine::Guest(Tee::SevSnp), vec![]),
                Readiness::Ready,
                "in a SEV-SNP guest",
            ),
            (report(Role::Gateway, Machine::NoTee, vec![]), Readiness::Ready, "needs no TEE"),
            (report(Role::Worker, Machine::NoTee, vec![]), Readiness::NoTee, "no TEE here"),
            (
                report(Role::Worker, Machine::Host(Tee::Tdx), vec![]),
                Readiness::NoTee,
                "a host for TDX guests",
            ),
            (report(Role::Gateway, Machine::NoTee, fault()), Readiness::Problems, "one problem to mend"),
            (
                report(Role::Worker, Machine::Guest(Tee::Tdx), fault()),
                Readiness::Problems,
                "not ready as a worker",
            ),
        ] {
            assert_eq!(report.readiness(), ready);
            assert!(report.verdict().contains(words), "{}", report.verdict());
            assert!(!report.next_step().is_empty());
        }
        let mut told = report(Role::Worker, Machine::NoTee, vec![]);
        assert_eq!(told.next_step(), "cocoon up");
        told.config = Some("some/w.toml".into());
        assert_eq!(told.next_step(), "cocoon worker --config some/w.toml");
        assert_eq!([Readiness::Ready, Readiness::Problems, Readiness::NoTee].map(Readiness::code), [0, 1, 3]);
    }
}
