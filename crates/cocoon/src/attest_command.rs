//! `cocoon attest`: evidence of others, looked at and verified as the nodes themselves do it, and evidence made here.

mod input;
mod verify;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_attest::{EvidenceKind, EvidenceSource, ReportData};
use serde_json::json;

use crate::attestation;
use crate::cli::{Attest, AttestCommand, MakeEvidence, ShowEvidence};
use crate::config::{Present, Root, Shown};
use crate::signals::Signals;
use crate::terminal::{self, Style};

pub(crate) use input::NoEvidence;

/// Runs the command.
///
/// # Errors
/// There is no evidence to be read or made, or [`crate::signals::Interrupted`].
pub(crate) async fn run(options: Attest, signals: &mut Signals) -> anyhow::Result<ExitCode> {
    match options.command {
        AttestCommand::Verify(options) => signals.unless_stopped(verify::run(&options)).await?,
        AttestCommand::Show(options) => signals.unless_stopped(show(&options)).await?,
        AttestCommand::Make(options) => make(options).await,
    }
}

async fn show(options: &ShowEvidence) -> anyhow::Result<ExitCode> {
    let found = input::read(&options.source, options.api_key_file.as_deref()).await?;
    if options.json {
        let all: Vec<_> = found.iter().map(verify::described).collect();
        terminal::print(&format!("{:#}\n", json!({ "verified": false, "evidence": all })))?;
    } else {
        let style = Style::stdout();
        for item in &found {
            terminal::print(&verify::shown(item, style))?;
        }
        terminal::print("Nothing of this was verified; `cocoon attest verify` does that.\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn make(options: MakeEvidence) -> anyhow::Result<ExitCode> {
    let present: Present = serde_json::from_value(json!(options.present))
        .with_context(|| format!("there is no kind {:?}; see --help", options.present))?;
    let shown =
        Shown { present, gpus: false, seal_keys: false, simulated_machine: options.simulated_machine };
    let root = Root { simulated_seed_file: options.simulated_seed, ..Root::default() };
    let source = attestation::source(&options.simulated_image, &shown, &root)?;
    if source.kind() == EvidenceKind::None {
        bail!(
            "this machine makes no evidence: no Intel trust domain and no SEV-SNP guest; see `cocoon doctor`"
        );
    }
    let data = match (options.report_data, options.key) {
        (Some(data), _) => ReportData(data),
        (None, key) => ReportData::for_key(&key.unwrap_or_default()),
    };
    let made = tokio::task::spawn_blocking(move || evidence(source.as_ref(), &data)).await??;
    match options.out {
        Some(path) => {
            use std::io::Write as _;
            let failed = || format!("cannot write {}", path.display());
            let mut file = std::fs::File::create_new(&path).with_context(failed)?;
            file.write_all(&made).with_context(failed)?;
            terminal::print(&format!("{} bytes in {}\n", made.len(), path.display()))?;
        }
        None => terminal::print(&format!("{}\n", STANDARD.encode(&made)))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn evidence(source: &dyn EvidenceSource, data: &ReportData) -> anyhow::Result<Vec<u8>> {
    Ok(source.evidence(data)?.bytes().to_vec())
}
