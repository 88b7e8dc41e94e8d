//! The time: certificates and evidence hold for a while only.

use super::Sys;
use super::ask::ask;
use super::check::{Check, Group, Machine};
use crate::calendar;

const GROUP: Group = Group::Clock;

/// Earlier than this program was written: 2026-01-01, in Unix seconds.
const EARLIEST: u64 = 1_767_225_600;
/// Later than anything that it was made for: 2100-01-01, in Unix seconds.
const LATEST: u64 = 4_102_444_800;

/// Whether something keeps the clock right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Synchronised {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// chrony runs, and tells only its own client how it goes.
    Chrony,
    /// Nobody tells.
    Unknown,
}

/// Asks the system.
pub(super) async fn synchronised(sys: &Sys) -> Synchronised {
    if sys.exists("/run/systemd/timesync/synchronized") {
        return Synchronised::Yes;
    }
    if sys.is_live() {
        let answer = ask("timedatectl", &["show", "--property=NTPSynchronized", "--value"]).await;
        match answer.as_deref().map(str::trim) {
            Some("yes") => return Synchronised::Yes,
            Some("no") => return Synchronised::No,
            _ => {}
        }
    }
    if sys.exists("/run/chrony/chronyd.pid") { Synchronised::Chrony } else { Synchronised::Unknown }
}

/// All of them. `now` is in Unix seconds.
pub(super) fn checks(now: u64, synchronised: Synchronised, machine: Machine) -> Vec<Check> {
    vec![date(now), kept(synchronised, machine)]
}

fn date(now: u64) -> Check {
    let (name, shown) = ("date", calendar::utc(now));
    if (EARLIEST..LATEST).contains(&now) {
        return Check::ok(GROUP, name, shown);
    }
    Check::problem(
        GROUP,
        name,
        format!("{shown}, which cannot be"),
        "set the clock: timedatectl set-ntp true, or date --set; certificates and evidence are refused until then",
    )
}

fn kept(synchronised: Synchronised, machine: Machine) -> Check {
    let name = "synchronised";
    // A guest cannot trust its host's clock either way; what keeps it right must ask over the network.
    let guest =
        if machine.guest().is_some() { "; a guest must not take its host's clock on trust" } else { "" };
    match synchronised {
        Synchronised::Yes => Check::ok(GROUP, name, "by NTP"),
        Synchronised::No => Check::warning(
            GROUP,
            name,
            format!("not by NTP{guest}"),
            "timedatectl set-ntp true, with systemd-timesyncd or chrony installed",
        ),
        Synchronised::Chrony => Check::ok(GROUP, name, "chrony runs; `chronyc tracking` says how well"),
        Synchronised::Unknown => Check::warning(
            GROUP,
            name,
            format!("nobody here tells{guest}"),
            "see to it that NTP runs (systemd-timesyncd or chrony): a clock that is minutes off has certificates refused",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Outcome;
    use super::*;

    #[test]
    fn a_date_that_cannot_be_is_a_problem() {
        for (now, outcome) in [
            (0, Outcome::Problem),
            (EARLIEST - 1, Outcome::Problem),
            (EARLIEST, Outcome::Ok),
            (LATEST - 1, Outcome::Ok),
            (LATEST, Outcome::Problem),
            (u64::MAX, Outcome::Problem),
        ] {
            assert_eq!(date(now).outcome, outcome, "{now}");
        }
    }
}
