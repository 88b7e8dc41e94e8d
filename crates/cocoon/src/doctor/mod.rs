//! `cocoon doctor`: whether this machine will do for a node, and how to mend what will not.
//!
//! Each module looks at one side of the machine and tells what it found as [`check::Check`]s. All that is read comes
//! through [`Sys`], below a root directory that tests choose; the few things that cannot (free space, ports, other
//! programs) are said so where they are.

mod ask;
mod check;
mod clock;
mod configuration;
mod disk;
mod gpu;
mod kernel;
mod limits;
mod machine;
mod memory;
mod network;
mod render;
mod size;
mod sys;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use self::check::{Check, Report};
use self::configuration::Wants;
use self::disk::Place;
use self::network::Target;
use self::sys::Sys;
use crate::cli::Doctor;
use crate::signals::Signals;
use crate::terminal::{self, Style};

pub(crate) use network::is_local;

/// Looks at the machine and tells.
///
/// # Errors
/// It was interrupted, or nothing can be printed.
pub(crate) async fn run(options: Doctor, signals: &mut Signals) -> anyhow::Result<ExitCode> {
    let json = options.json;
    // In a task of its own, so that a file system that hangs does not keep signals from being heard.
    let examined = tokio::spawn(examine(options));
    let report = signals.unless_stopped(examined).await?.context("the checks were cut off")?;
    let text = if json { render::json(&report) } else { render::text(&report, Style::stdout()) };
    terminal::print(&text)?;
    Ok(ExitCode::from(report.readiness().code()))
}

/// Makes every check.
async fn examine(options: Doctor) -> Report {
    let sys = Sys::new(&options.root);
    let role = options.role;
    let (wants, unreadable) = match Wants::load(role, options.config.as_deref()) {
        Ok(wants) => (wants, None),
        Err(error) => (Wants::unconfigured(role), Some(configuration::unreadable(role, &error))),
    };
    let place = Place::find(&wants.dir);
    let gpus = gpu::gpus(&sys);
    let (speed, synchronised, protection) =
        tokio::join!(place.speed(), clock::synchronised(&sys), gpu::Protection::ask(&sys, &gpus));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();

    let cpu = machine::Cpu::read(&sys);
    let machine = machine::machine(&sys, &cpu);
    let mut checks = machine::checks(&sys, &cpu, machine);
    checks.extend(kernel::checks(&sys, machine));
    let model = options.model_path.as_deref();
    let model_bytes = model.and_then(disk::model_bytes);
    checks.extend(memory::checks(&sys, machine, model_bytes));
    checks.extend(gpu::checks(&sys, role, machine, &gpus, &protection));
    checks.extend(clock::checks(now, synchronised, machine));
    checks.extend(disk::checks(&sys, machine, &place, speed));
    checks.extend(model.map(|path| disk::model(&sys, path, model_bytes)));
    checks.extend(network::ports(&wants.listens, wants.configured).await);
    checks.extend(online(&options, &sys, &wants).await);
    checks.extend(limits::checks(&sys, machine));
    match unreadable {
        Some(check) => checks.push(check),
        None => checks.extend(wants.checks()),
    }
    checks.extend(wants.engine(options.online).await);
    checks.push(wants.evidence(machine, sys.is_live()).await);
    checks.extend(wants.policy());
    checks.sort_by_key(|check| check.group);
    Report { role, machine, config: options.config, checks }
}

/// Connects to whom the node would, and to whom else was named; to nobody unless asked to.
async fn online(options: &Doctor, sys: &Sys, wants: &Wants) -> Vec<Check> {
    let named = options.check_url.iter().filter_map(|url| Target::url("named", url, true));
    if !options.online {
        let named: Vec<Target> = named.collect();
        return if named.is_empty() { vec![network::not_asked()] } else { network::reach(named).await };
    }
    let mut targets = wants.targets();
    targets.extend(named);
    let pccs = kernel::configured_pccs(sys);
    targets.extend(pccs.and_then(|url| Target::url("PCCS", &url, true)));
    targets.extend(wants.services());
    network::reach(targets).await
}

#[cfg(test)]
mod tests;
