//! `cocoon up`: a network for people to try things on, until Ctrl-C.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::bail;
use cocoon_engine::Engine;
use cocoon_engine::builtin::{EXTRACTIVE_SUMMARY_MODEL, ExtractiveSummary};
use serde_json::json;

use crate::cli::Up;
use crate::config::EngineFile;
use crate::network::{Network, Plan};
use crate::roles;
use crate::signals::Signals;
use crate::terminal::{self, Style, one_line};

/// Said wherever results of a local network are shown.
pub(crate) const SIMULATED: &str =
    "simulated machines, embedded chain: evidence that proves nothing about hardware, coins from a faucet";

/// Runs a network until a signal ends it.
///
/// # Errors
/// What stands in the way of its start, or [`crate::signals::Interrupted`].
pub(crate) async fn run(options: Up, signals: &mut Signals) -> anyhow::Result<()> {
    // The workers share the engine.
    let at_once = options.max_active.map(|each| each as usize * usize::from(options.workers));
    let (engine, model, note) = engine(options.upstream.as_deref(), options.model, at_once).await?;
    let engine_file =
        EngineFile { builtin: options.upstream.is_none(), url: options.upstream.clone(), abilities: None };
    let plan = Plan {
        dir: options.dir,
        workers: options.workers,
        engine,
        engine_file,
        model,
        port_base: options.port_base,
        difficulty: options.difficulty,
        max_active: options.max_active,
        max_connections: options.max_connections,
    };
    let network = signals.unless_stopped(Network::start(plan)).await??;
    if options.json {
        terminal::print(&format!("{}\n", network.endpoints()))?;
    } else {
        let builtin = options.upstream.is_none();
        terminal::print(&announcement(&network, builtin, note.as_deref(), Style::stdout()))?;
    }
    let failure = tokio::select! {
        () = signals.stop() => None,
        why = network.stopped() => Some(why),
    };
    if !options.json {
        terminal::print("\nFinishing requests under way; Ctrl-C again ends at once.\n")?;
    }
    signals.unless_stopped(network.shutdown()).await?;
    roles::outcome(failure)
}

/// The engine for all workers, the name of its model, and what is to be said of that; it is asked up to `at_once` things at
/// a time.
async fn engine(
    upstream: Option<&str>,
    model: Option<String>,
    at_once: Option<usize>,
) -> anyhow::Result<(Arc<dyn Engine>, String, Option<String>)> {
    let Some(url) = upstream else {
        return Ok((Arc::new(ExtractiveSummary::new()), EXTRACTIVE_SUMMARY_MODEL.to_owned(), None));
    };
    let engine = roles::open_upstream(url, at_once.unwrap_or_default(), None)?;
    let health = engine.probe().await;
    if let Some(model) = model {
        let unlisted = !health.models.is_empty() && !health.models.contains(&model);
        let note =
            unlisted.then(|| format!("the model server does not list it, but {}", listed(&health.models)));
        roles::warn_unless_ready(health);
        return Ok((engine, model, note));
    }
    match health.models.into_iter().next() {
        Some(first) => Ok((engine, first, None)),
        None if health.ready => {
            bail!("the model server at {url} lists no model; name one with --model NAME")
        }
        None => bail!(
            "no OpenAI-style model server answers at {url} ({}); start it, look at the URL, or name its model with --model \
             NAME",
            health.detail.unwrap_or_default()
        ),
    }
}

/// The first few of these models.
fn listed(models: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = if models.len() > SHOWN { ", ..." } else { "" };
    let names: Vec<_> = models.iter().take(SHOWN).map(|name| one_line(name)).collect();
    format!("{}{more}", names.join(", "))
}

/// What is shown when everything is ready.
fn announcement(network: &Network, builtin: bool, note: Option<&str>, style: Style) -> String {
    let mut text = String::new();
    let gateway = format!("http://{}", network.gateway.role.http_addr());
    let proxy = &network.proxy.role;
    let params = &network.root().params;
    let model = &network.model;
    let mut line = |name: &str, value: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {} {value}", style.dim(&format!("{name:<16}")));
    };
    line("OpenAI base URL", style.bold(&format!("{gateway}/v1")));
    let note = note.map_or_else(String::new, |note| style.warn(&format!("  ({note})")));
    line("Model", format!("{}{note}", style.bold(model)));
    line(
        "Price",
        format!(
            "{} nanoton per token, {} of them to the worker",
            params.price_per_token_nanoton, params.worker_fee_per_token_nanoton
        ),
    );
    line("Market", format!("{gateway}/market  prices, speed and success of all workers"));
    line("Gateway", format!("{gateway}  /health /metrics /jsonstats"));
    let (workers, clients) = (proxy.workers_addr(), proxy.clients_addr());
    line("Proxy", format!("http://{}  workers dial {workers}, clients {clients}", proxy.http_addr()));
    for (number, worker) in (1..).zip(&network.workers) {
        line(&format!("Worker {number}"), format!("http://{}", worker.role.http_addr()));
    }
    let chain = network.chain_server.url();
    line("Chain", format!("{chain}/api/v2  root contract {}", network.treasury.root));
    line("Files", network.endpoints_path().display().to_string());

    let question = if builtin {
        "Summarise in 1 sentence: Cocoon sends a question to a machine that proves what it runs. \
         Every token is metered, and the price is exact."
    } else {
        "Say hello in one sentence."
    };
    let body = json!({
        "model": model,
        "stream": true,
        "messages": [{"role": "user", "content": question}],
    });
    let title = style.good("The network is up.");
    let note = style.warn(&format!("({SIMULATED})"));
    let (curl_title, python_title) =
        (style.bold("With curl"), style.bold("With Python (pip install openai)"));
    let (model, question) = (json!(model), json!(question));
    format!(
        "{title} {note}\n\n{text}\n{curl_title}\n\n\
         curl -N {gateway}/v1/chat/completions -H 'Content-Type: application/json' -d {}\n\n\
         {python_title}\n\n\
         from openai import OpenAI\n\
         client = OpenAI(base_url=\"{gateway}/v1\", api_key=\"none\")\n\
         stream = client.chat.completions.create(\n    model={model},\n    \
         messages=[{{\"role\": \"user\", \"content\": {question}}}],\n    stream=True,\n)\n\
         for chunk in stream:\n    \
         print(chunk.choices[0].delta.content or \"\" if chunk.choices else \"\", end=\"\", flush=True)\n\n\
         Ctrl-C stops it.\n",
        shell_quoted(&body.to_string()),
    )
}

/// One word for a POSIX shell.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_one_word_of_a_shell() {
        assert_eq!(shell_quoted("plain"), "'plain'");
        assert_eq!(shell_quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
