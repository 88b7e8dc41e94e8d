//! The report as people and programs read it.

use serde_json::{Value, json};

use super::check::{Check, Outcome, Report};
use crate::terminal::{Style, wrapped};

/// Columns of a line.
const WIDTH: usize = 110;
/// Columns before a finding: mark, name and the space around them.
const INDENT: usize = 28;

/// Text, with colours where they are on.
pub(super) fn text(report: &Report, style: Style) -> String {
    let mut text = String::new();
    let mut group = None;
    for check in &report.checks {
        if group != Some(check.group) {
            text += if group.is_some() { "\n" } else { "" };
            text += &format!("{}\n", style.bold(check.group.title()));
            group = Some(check.group);
        }
        text += &line(check, style);
    }
    let counted = [
        (Outcome::Ok, "ok"),
        (Outcome::Warning, "to keep in mind"),
        (Outcome::Problem, "to mend"),
        (Outcome::NotApplicable, "not applicable"),
    ];
    let counts: Vec<String> =
        counted.iter().map(|(outcome, word)| format!("{} {word}", report.count(*outcome))).collect();
    text += &format!("\n{}\n\n", style.dim(&counts.join(", ")));
    let verdict = report.verdict();
    let verdict = match report.readiness().code() {
        0 => style.good(&verdict),
        1 => style.bad(&verdict),
        _ => style.warn(&verdict),
    };
    text += &format!("{verdict}\nnext: {}\n", wrapped(&report.next_step(), "next: ".len(), WIDTH));
    text
}

fn line(check: &Check, style: Style) -> String {
    let mark = match check.outcome {
        Outcome::Ok => style.good("✓"),
        Outcome::Warning => style.warn("!"),
        Outcome::Problem => style.bad("✗"),
        Outcome::NotApplicable => style.dim("-"),
    };
    let found = wrapped(&check.found, INDENT, WIDTH);
    let found = if check.outcome == Outcome::NotApplicable { style.dim(&found) } else { found };
    let mut text = format!("  {mark} {:<23} {found}\n", check.name);
    if let Some(mend) = &check.mend {
        text += &format!("{}→ {}\n", " ".repeat(INDENT), wrapped(mend, INDENT + 2, WIDTH));
    }
    text
}

/// One line of JSON.
pub(super) fn json(report: &Report) -> String {
    let ready = report.readiness();
    let value: Value = json!({
        "role": report.role.name(),
        "machine": report.machine,
        "checks": report.checks,
        "summary": {
            "ready": ready,
            "exit_code": ready.code(),
            "verdict": report.verdict(),
            "next": report.next_step(),
            "ok": report.count(Outcome::Ok),
            "warnings": report.count(Outcome::Warning),
            "problems": report.count(Outcome::Problem),
            "not_applicable": report.count(Outcome::NotApplicable),
        },
    });
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use super::super::check::{Group, Machine};
    use super::*;
    use crate::cli::Role;

    #[test]
    fn a_report_is_grouped_and_ends_with_the_verdict_and_the_next_step() {
        let checks = vec![
            Check::ok(Group::Tee, "processor", "a good one"),
            Check::problem(Group::Disk, "free space", "3 MiB", "make room ".repeat(20)),
        ];
        let report = Report { role: Role::Worker, machine: Machine::NoTee, config: None, checks };
        let text = text(&report, Style::plain());
        assert!(
            text.starts_with("processor and TEE\n  ✓ processor               a good one\n\ndisk\n"),
            "{text}"
        );
        assert!(text.contains("\nnot ready as a worker: one problem to mend\nnext: make room"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(!text.contains('\x1b'));
    }
}
