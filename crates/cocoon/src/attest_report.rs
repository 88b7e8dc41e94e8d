//! A verification report as people read it: every check with its mark, then what was measured and until when that holds.

use cocoon_attest::snp::SnpReport;
use cocoon_attest::{Check, Measurements, Outcome, PolicyDecision, TdxMeasurements, UnixSeconds, Verdict};

use crate::calendar;
use crate::terminal::{Style, one_line, wrapped};

/// Columns of a line.
const WIDTH: usize = 110;
/// Columns before a detail: mark, name and the space around them.
const INDENT: usize = 24;
/// Guest policy bit 19: the host may debug the guest (AMD 56860, "Guest Policy").
const SNP_DEBUG: u64 = 1 << 19;

/// The report. `decision`: what a policy says to it, where one was asked. `now` is only for how long is left.
pub(crate) fn text(
    verdict: &Verdict,
    decision: Option<&PolicyDecision>,
    now: UnixSeconds,
    style: Style,
) -> String {
    let mut text = format!("{}\n", style.bold(&format!("{} evidence", verdict.kind)));
    for check in &verdict.checks {
        text += &line(check, style);
    }
    if let Some(gpu) = &verdict.gpu {
        text += &format!("{}\n", style.bold("evidence of GPUs"));
        for check in &gpu.checks {
            text += &line(check, style);
        }
    }
    text.push('\n');
    text += &found(verdict);
    text += &field("holds until", &expiry(verdict.expires_at, now));
    text.push('\n');
    text += &format!("{}\n", conclusion(verdict, style));
    if let Some(decision) = decision {
        text += &format!("{}\n", policy(decision, style));
    }
    text
}

/// What evidence says, without a word on whether it is true.
pub(crate) fn claims(verdict: &Verdict, style: Style) -> String {
    format!("{}\n{}", style.bold(&format!("{} evidence", verdict.kind)), found(verdict))
}

/// Image hash, measurements and GPUs.
fn found(verdict: &Verdict) -> String {
    let hash = verdict.image_hash.map_or_else(|| "cannot be told".to_owned(), hex::encode);
    let mut text = field("image hash", &hash);
    match &verdict.measurements {
        Some(Measurements::Tdx(measured)) => text += &tdx(measured),
        Some(Measurements::SevSnp(report)) => text += &snp(report),
        // Kinds to come are at least not passed over in silence.
        Some(_) => text += &field("measurements", "of a kind that this program does not print; see --json"),
        None => text += &field("measurements", "cannot be told"),
    }
    for (number, gpu) in verdict.gpu.iter().flat_map(|gpu| gpu.gpus.iter().enumerate()) {
        let words = format!("{}, driver {}, VBIOS {}", one_line(&gpu.model), gpu.driver, gpu.vbios);
        text += &field(&format!("GPU {number}"), &words);
        text += &field("  its key", &hex::encode(gpu.device));
    }
    text
}

fn line(check: &Check, style: Style) -> String {
    let mark = match check.outcome {
        Outcome::Passed => style.good("✓"),
        Outcome::Failed => style.bad("✗"),
        Outcome::Skipped => style.dim("-"),
    };
    let detail = wrapped(&one_line(&check.detail), INDENT, WIDTH);
    let detail = if check.outcome == Outcome::Skipped { style.dim(&detail) } else { detail };
    format!("  {mark} {:<19} {detail}\n", one_line(&check.name))
}

fn field(name: &str, value: &str) -> String {
    // Not wrapped: measurements are to be copied as they are.
    format!("  {name:<21} {value}\n")
}

/// Fields that are zero where nobody uses them are left out then.
fn unless_zero(name: &str, value: &[u8]) -> String {
    if value.iter().all(|byte| *byte == 0) { String::new() } else { field(name, &hex::encode(value)) }
}

fn tdx(measured: &TdxMeasurements) -> String {
    let mut text = field("MRTD, initial memory", &hex::encode(measured.mr_td));
    let meanings = ["firmware", "loader, kernel", "command line", "application"];
    for (number, (register, meaning)) in measured.rtmr.iter().zip(meanings).enumerate() {
        text += &field(&format!("RTMR{number}, {meaning}"), &hex::encode(register.0));
    }
    text += &unless_zero("configuration", &measured.mr_config_id);
    text += &unless_zero("owner", &measured.mr_owner);
    text += &unless_zero("owner's settings", &measured.mr_owner_config);
    text += &field("MRSEAM, TDX module", &hex::encode(measured.mr_seam));
    text += &unless_zero("module's signer", &measured.mr_signer_seam);
    text += &field("security versions", &hex::encode(measured.tee_tcb_svn));
    let debug = measured.td_attributes.first().is_some_and(|byte| byte & 1 != 0);
    text += &field("debug", debug_words(debug));
    text
}

fn snp(report: &SnpReport) -> String {
    let mut text = field("launch measurement", &hex::encode(report.measurement));
    text += &unless_zero("host's data", &report.host_data);
    text += &unless_zero("identity key", &report.id_key_digest);
    text += &unless_zero("author key", &report.author_key_digest);
    text += &unless_zero("image", &report.image_id);
    text += &unless_zero("family", &report.family_id);
    text += &field("guest's version", &report.guest_svn.to_string());
    text += &field("privilege level", &report.vmpl.to_string());
    text += &field("firmware", &report.current_firmware.to_string());
    text += &field("TCB", &format!("{} (reported)", hex::encode(report.reported_tcb.0)));
    text += &field("signed with", report.signing_key.name());
    text += &unless_zero("chip", &report.chip_id);
    text += &field("debug", debug_words(report.policy & SNP_DEBUG != 0));
    text
}

const fn debug_words(on: bool) -> &'static str {
    if on { "ON: the host can look into this machine" } else { "off" }
}

fn expiry(expires_at: Option<UnixSeconds>, now: UnixSeconds) -> String {
    let Some(UnixSeconds(end)) = expires_at else {
        return "as long as the certificate".to_owned();
    };
    let date = calendar::utc(end);
    match end.checked_sub(now.0) {
        None | Some(0) => format!("{date}: that is past, verify again with fresh collateral"),
        Some(left) => format!("{date}, for {} from now", calendar::span(left)),
    }
}

fn conclusion(verdict: &Verdict, style: Style) -> String {
    let count = |outcome| verdict.checks.iter().filter(|check| check.outcome == outcome).count();
    match verdict.first_failure() {
        Some(check) => {
            let (name, detail) = (one_line(&check.name), one_line(&check.detail));
            style.bad(&wrapped(&format!("does not hold: {name}: {detail}"), 0, WIDTH))
        }
        None if !verdict.accepted() => style.bad("does not hold: nothing was verified"),
        None if verdict.simulated => {
            style.warn("holds, but it is simulated and proves nothing about the machine")
        }
        None => {
            let (passed, skipped) = (count(Outcome::Passed), count(Outcome::Skipped));
            let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} were not made") };
            style.good(&format!("holds: {passed} checks passed{skipped}"))
        }
    }
}

fn policy(decision: &PolicyDecision, style: Style) -> String {
    match decision {
        PolicyDecision::Allowed => format!("policy: {}", style.good("let in")),
        PolicyDecision::Refused { rule, detail } => {
            let words = wrapped(&format!("refused by {rule}: {}", one_line(detail)), "policy: ".len(), WIDTH);
            format!("policy: {}", style.bad(&words))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cocoon_attest::{
        Collateral, EvidenceKind, EvidenceSource as _, FakeTdxVerifier, PolicyRule, ReportData, Verifier as _,
    };
    use cocoon_tee::FakeTdx;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_772_366_400);

    fn plain(verdict: &Verdict, decision: Option<&PolicyDecision>) -> String {
        text(verdict, decision, NOW, Style::plain())
    }

    /// A verdict with one check.
    fn verdict(outcome: Outcome, detail: &str) -> Verdict {
        let mut verdict = Verdict::new(EvidenceKind::Tdx);
        verdict.record("signature", outcome, detail);
        verdict
    }

    #[test]
    fn each_check_has_its_mark_its_name_and_its_detail() {
        let mut verdict = verdict(Outcome::Passed, "the quoting enclave's key signed");
        verdict.record("tcb", Outcome::Failed, "the TCB is out of date");
        verdict.record("revocation", Outcome::Skipped, "no list");
        let text = plain(&verdict, None);
        assert!(text.starts_with("tdx evidence\n"), "{text}");
        for line in [
            "  ✓ signature           the quoting enclave's key signed\n",
            "  ✗ tcb                 the TCB is out of date\n",
            "  - revocation          no list\n",
            "does not hold: tcb: the TCB is out of date\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
    }

    #[test]
    fn fake_evidence_is_never_told_as_if_it_proved_something() {
        let binding = ReportData::for_key(&[7; 32]);
        let evidence = FakeTdx.evidence(&binding).unwrap();
        let text = plain(&FakeTdxVerifier.verify(&evidence, &Collateral::none(), &binding, NOW), None);
        assert!(text.contains("holds, but it is simulated"), "{text}");
        assert!(
            text.contains("MRTD, initial memory")
                && text.contains("RTMR3, application")
                && !text.contains("owner"),
            "{text}"
        );
        assert!(text.contains("holds until           as long as the certificate"), "{text}");
    }

    #[test]
    fn what_was_not_verified_does_not_hold() {
        for verdict in
            [Verdict::new(EvidenceKind::None), Verdict::unchecked(EvidenceKind::Tdx, "any will do")]
        {
            let text = plain(&verdict, None);
            assert!(text.contains("does not hold: nothing was verified"), "{text}");
            assert!(text.contains("image hash            cannot be told"), "{text}");
        }
    }

    #[test]
    fn the_end_is_told_in_calendar_time_and_with_what_is_left() {
        let mut verdict = verdict(Outcome::Passed, "");
        for (end, words) in [
            (NOW.0 + 90_000, "2026-03-02 13:00:00 UTC, for 1 d 1 h from now"),
            (NOW.0, "2026-03-01 12:00:00 UTC: that is past"),
            (0, "1970-01-01 00:00:00 UTC: that is past"),
        ] {
            verdict.expires_at = Some(UnixSeconds(end));
            assert!(plain(&verdict, None).contains(words), "{}", plain(&verdict, None));
        }
    }

    #[test]
    fn the_policy_s_decision_follows_with_its_rule() {
        let verdict = verdict(Outcome::Passed, "");
        assert!(plain(&verdict, Some(&PolicyDecision::Allowed)).ends_with("policy: let in\n"));
        let refused =
            PolicyDecision::Refused { rule: PolicyRule::ImageHash, detail: "not on the list".to_owned() };
        assert!(
            plain(&verdict, Some(&refused)).ends_with("policy: refused by image_hash: not on the list\n")
        );
        assert!(!plain(&verdict, None).contains("policy"));
    }

    #[test]
    fn a_machine_that_can_be_debugged_is_told_as_such() {
        let mut verdict = verdict(Outcome::Passed, "");
        let binding = ReportData::for_key(&[7; 32]);
        let evidence = FakeTdx.evidence(&binding).unwrap();
        let fake = FakeTdxVerifier.verify(&evidence, &Collateral::none(), &binding, NOW);
        let Some(Measurements::Tdx(mut measured)) = fake.measurements else { panic!("a TDX quote") };
        assert!(plain(&fake, None).contains("debug                 off"));
        measured.td_attributes = [1, 0, 0, 0, 0, 0, 0, 0];
        verdict.measurements = Some(Measurements::Tdx(measured));
        assert!(plain(&verdict, None).contains("ON: the host can look into"));
    }

    #[test]
    fn details_of_others_cannot_touch_the_terminal_and_long_ones_are_wrapped() {
        let text =
            plain(&verdict(Outcome::Failed, &format!("\x1b[2J\r\n{}", "much to say ".repeat(30))), None);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    }
}
