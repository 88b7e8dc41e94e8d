//! `cocoon model`: packs a model's files, computes their hash, or checks them against a name.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cocoon_model::{ModelError, ModelImage, Outputs, Progress, Watch};
use serde_json::json;

use crate::cli::{HashModel, Model, ModelCommand, PackModel, VerifyModel};
use crate::model_files::Reading;
use crate::signals::{Interrupted, Signals};
use crate::terminal::{self, Meter, Style, bytes};

/// Does one of the three.
///
/// # Errors
/// What stands in the way, that the files are another model's, or [`Interrupted`].
pub(crate) async fn run(options: Model, signals: &mut Signals) -> anyhow::Result<()> {
    match options.command {
        ModelCommand::Pack(options) => pack(options, signals).await,
        ModelCommand::Hash(options) => hash(options, signals).await,
        ModelCommand::Verify(options) => verify(options, signals).await,
    }
}

async fn pack(options: PackModel, signals: &mut Signals) -> anyhow::Result<()> {
    let out = match options.out {
        Some(out) => out,
        None => default_out(&options.directory)?,
    };
    let (directory, archive, tree) = (options.directory, out.clone(), options.hash_tree.clone());
    let packing = move |watch: &mut Watch<'_>| {
        cocoon_model::pack(&directory, Outputs { archive: &archive, hash_tree: tree.as_deref() }, watch)
    };
    let image = read("packing", options.json, signals, packing).await?;
    let model = options.origin.full_name(image.hash).map(|name| name.to_string());
    if options.json {
        let shown = json!({
            "hash": image.hash.to_string(),
            "model": model,
            "archive": out.to_string_lossy(),
            "hash_tree": options.hash_tree.map(|path| path.to_string_lossy().into_owned()),
            "bytes": image.bytes,
            "files": image.files,
        });
        terminal::print(&format!("{shown}\n"))?;
        return Ok(());
    }
    let style = Style::stdout();
    let mut text = String::new();
    let mut line =
        |name: &str, value: &str| text += &format!("{} {value}\n", style.dim(&format!("{name:<10}")));
    line("Hash", &style.bold(&image.hash.to_string()));
    if let Some(model) = model {
        line("Model", &model);
    }
    line("Archive", &format!("{} ({})", out.display(), extent(&image)));
    if let Some(tree) = &options.hash_tree {
        line("Hash tree", &tree.display().to_string());
    }
    terminal::print(&text)?;
    Ok(())
}

async fn hash(options: HashModel, signals: &mut Signals) -> anyhow::Result<()> {
    let path = options.path;
    let measuring = move |watch: &mut Watch<'_>| cocoon_model::measure(&path, watch);
    let image = read("reading", options.json, signals, measuring).await?;
    let model = options.origin.full_name(image.hash).map(|name| name.to_string());
    let hash = image.hash.to_string();
    let text = if options.json {
        json!({"hash": hash, "model": model, "bytes": image.bytes, "files": image.files}).to_string()
    } else {
        model.unwrap_or(hash)
    };
    terminal::print(&format!("{text}\n"))?;
    Ok(())
}

async fn verify(options: VerifyModel, signals: &mut Signals) -> anyhow::Result<()> {
    let (path, expected) = (options.path.clone(), options.expected.hash);
    let checking = move |watch: &mut Watch<'_>| cocoon_model::check(&path, watch);
    let checked = read("reading", options.json, signals, checking).await?;
    let image = checked.image();
    let matches = image.hash == expected;
    if options.json {
        let shown = json!({
            "matches": matches,
            "expected": expected.to_string(),
            "hash": image.hash.to_string(),
            "bytes": image.bytes,
            "files": image.files,
        });
        terminal::print(&format!("{shown}\n"))?;
    }
    if !matches {
        return Err(ModelError::Mismatch { path: options.path, expected, found: image.hash }.into());
    }
    if !options.json {
        let (good, shown) = (Style::stdout().good("matches"), options.path.display());
        let name = &options.expected.text;
        terminal::print(&format!("{good}  {shown} ({}) is {name}\n", extent(image)))?;
    }
    Ok(())
}

/// Does the work, with a bar on a terminal. After a signal it waits until the work has cleaned up after itself.
async fn read<T: Send + 'static>(
    verb: &'static str,
    json: bool,
    signals: &mut Signals,
    work: impl FnOnce(&mut Watch<'_>) -> Result<T, ModelError> + Send + 'static,
) -> anyhow::Result<T> {
    let mut meter = Meter::new(verb, !json);
    let mut reading = Reading::start(work, move |Progress { done, total }| meter.show(done, total));
    tokio::select! {
        done = reading.done() => done,
        () = signals.stop() => {
            reading.cancel();
            // Whether it ended in time or not: what was asked for is its end.
            let _ = signals.unless_stopped(reading.done()).await?;
            Err(anyhow::Error::from(Interrupted).context("cancelled; no file was left behind"))
        }
    }
}

/// The directory's name with `.tar`, in the current directory.
fn default_out(directory: &Path) -> anyhow::Result<PathBuf> {
    let real = directory.canonicalize().with_context(|| format!("cannot read {}", directory.display()))?;
    let name = real.file_name().context("this directory has no name for its archive; give one with --out")?;
    let mut name = name.to_owned();
    name.push(".tar");
    Ok(name.into())
}

fn extent(image: &ModelImage) -> String {
    match image.files {
        Some(1) => format!("{}, one file", bytes(image.bytes)),
        Some(files) => format!("{}, {files} files", bytes(image.bytes)),
        None => bytes(image.bytes),
    }
}
