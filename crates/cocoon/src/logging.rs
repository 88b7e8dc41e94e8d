//! Logs: to standard error, as text or JSON. What users ask and are answered is never in them.

use anyhow::Context as _;
use clap::ValueEnum;
use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use crate::terminal::Style;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Starts logging. `level` is a level for our own code (libraries then log warnings), or filter directives such as
/// `info,cocoon_proxy=debug`.
///
/// # Errors
/// `level` is neither.
pub(crate) fn start(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let directives = match level.parse::<tracing::level_filters::LevelFilter>() {
        Ok(parsed) if parsed < Level::WARN => level.to_owned(),
        Ok(_) => format!("warn,cocoon={level}"),
        Err(_) => level.to_owned(),
    };
    let filter = EnvFilter::builder().parse(directives).with_context(|| {
        format!(
            "--log {level:?} is not a log level; use error, warn, info, debug or trace, \
             or directives such as info,cocoon_proxy=debug"
        )
    })?;
    // Libraries show headers and bodies at the fine levels, and those are our users' words: never, whatever is asked.
    let ours_or_coarse =
        filter_fn(|metadata| metadata.target().starts_with("cocoon") || *metadata.level() <= Level::INFO);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(Style::stderr().is_on());
    let layer = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter.and(ours_or_coarse)))
        .try_init()
        .context("cannot start logging")
}
