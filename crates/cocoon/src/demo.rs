//! `cocoon demo`: one summary through a whole network, and who paid whom for it.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cocoon_engine::builtin::{EXTRACTIVE_SUMMARY_MODEL, ExtractiveSummary};
use serde_json::{Value, json};

use crate::cli::Demo;
use crate::config::EngineFile;
use crate::home::{self, Settlement, Signed};
use crate::http_client;
use crate::network::{Network, Plan};
use crate::signals::Signals;
use crate::sse::Events;
use crate::terminal::{self, Style};
use crate::up::SIMULATED;

/// Largest file, in bytes: as JSON it still fits the gateway's limit of 8 MiB.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Longest wait for the payment notices after the answer.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// How often the books are compared meanwhile.
const SETTLE_POLL: Duration = Duration::from_millis(5);
/// Workers, so that there is a choice.
const WORKERS: u16 = 2;

/// Runs the demonstration.
///
/// # Errors
/// What went wrong, sums that do not agree included.
pub(crate) async fn run(options: Demo, signals: &mut Signals) -> anyhow::Result<()> {
    let text = read_text(&options.file)?;
    let directory = tempfile::Builder::new().prefix("cocoon-demo-").tempdir();
    let directory = directory.context("cannot make a temporary directory")?;
    let plan = Plan {
        dir: directory.path().to_owned(),
        workers: WORKERS,
        engine: Arc::new(ExtractiveSummary::new()),
        engine_file: EngineFile { builtin: true, ..EngineFile::default() },
        model: EXTRACTIVE_SUMMARY_MODEL.to_owned(),
        port_base: 0,
        difficulty: crate::config::LOOPBACK_DIFFICULTY,
        max_active: None,
        max_connections: None,
    };
    let network = signals.unless_stopped(Network::start(plan)).await??;
    let work = async {
        tokio::select! {
            done = summarise_and_agree(&network, &options, &text) => done,
            why = network.stopped() => Err(anyhow::Error::msg(why)),
        }
    };
    let outcome = signals.unless_stopped(work).await?;
    // In order also where it went wrong; only a signal is in more of a hurry.
    let (answer, books) = match outcome {
        Ok(agreed) => agreed,
        Err(error) => {
            signals.unless_stopped(network.shutdown()).await?;
            return Err(error);
        }
    };
    let style = Style::stdout();
    if !options.json {
        terminal::print(&report(&network, &answer, &books, style))?;
    }
    let (model, signed) = (network.model.clone(), books.signed());
    let settlement = signals.unless_stopped(home::send_home(network, signed)).await??;
    if options.json {
        let shown = books.to_json(&model, &answer, &settlement);
        terminal::print(&format!("{shown}\n"))?;
    } else {
        terminal::print(&homecoming(&settlement, style))?;
    }
    home::check(&settlement)
}

async fn summarise_and_agree(
    network: &Network,
    options: &Demo,
    text: &str,
) -> anyhow::Result<(Answer, Books)> {
    let show = !options.json;
    if show {
        let title = format!("Summary of {}", options.file.display());
        terminal::print(&format!("{}\n\n", Style::stdout().bold(&title)))?;
    }
    let answer = summarise(network, options.sentences, text, show).await?;
    let books = settle(network, &answer).await?;
    Ok((answer, books))
}

/// Reads a file that must be text.
fn read_text(path: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let shown = path.display();
    let failed = || format!("cannot read {shown}");
    if path.is_dir() {
        bail!("{shown} is a directory; name a text file in it");
    }
    let file = std::fs::File::open(path).with_context(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).with_context(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        bail!("{shown} has over {} MiB; give a shorter text", MAX_FILE_BYTES >> 20);
    }
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    let Some(text) = text else {
        bail!("{shown} is not a text in UTF-8; give a text file, such as README.md")
    };
    if text.trim().is_empty() {
        bail!("{shown} holds no text to summarise");
    }
    Ok(text)
}

/// What came through the gateway.
struct Answer {
    summary: String,
    prompt_tokens: u64,
    completion_tokens: u64,
}

/// Asks the gateway as any OpenAI client would, and shows the answer as it comes.
async fn summarise(
    network: &Network,
    sentences: Option<u8>,
    text: &str,
    show: bool,
) -> anyhow::Result<Answer> {
    let instruction = match sentences {
        None => "Summarise:".to_owned(),
        Some(1) => "Summarise in 1 sentence:".to_owned(),
        Some(count) => format!("Summarise in {count} sentences:"),
    };
    let body = json!({
        "model": network.model,
        "stream": true,
        "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": format!("{instruction}\n\n{text}")}],
    });
    let gateway = network.gateway.role.http_addr();
    let mut answer = http_client::post(gateway, "/v1/chat/completions", &body).await?;
    if !answer.status.is_success() {
        let status = answer.status;
        let error = answer.json().await.unwrap_or_default();
        bail!(
            "the gateway answered {status}: {}",
            error["error"]["message"].as_str().unwrap_or("no reason given")
        );
    }
    let (mut summary, mut usage, mut events) = (String::new(), Value::Null, Events::default());
    while let Some(bytes) = answer.next().await? {
        for event in events.feed(&bytes)? {
            if let Some(message) = event["error"]["message"].as_str() {
                bail!("the answer broke off: {message}");
            }
            if let Some(words) = event["choices"][0]["delta"]["content"].as_str() {
                summary += words;
                if show {
                    terminal::print_foreign(words)?;
                }
            }
            if event["usage"].is_object() {
                usage = event["usage"].clone();
            }
        }
    }
    if !events.is_done() {
        bail!("the answer broke off before its end");
    }
    let count = |field: &str| {
        usage[field].as_u64().with_context(|| format!("the answer came without {field} in its usage"))
    };
    let (prompt_tokens, completion_tokens) = (count("prompt_tokens")?, count("completion_tokens")?);
    Ok(Answer { summary, prompt_tokens, completion_tokens })
}

/// What each side has in its books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Books {
    gateway_tokens: u64,
    gateway_paid: u64,
    proxy_tokens: u64,
    proxy_received: u64,
    proxy_owes: u64,
    proxy_kept: u64,
    workers_tokens: u64,
    workers_earned: u64,
}

/// Waits until the payment notices have arrived everywhere.
async fn settle(network: &Network, answer: &Answer) -> anyhow::Result<Books> {
    let metered = answer.prompt_tokens + answer.completion_tokens;
    let settled = async {
        loop {
            let books = Books::of(network);
            if books.disagreement(metered).is_none() {
                return books;
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
    };
    if let Ok(books) = tokio::time::timeout(SETTLE_LIMIT, settled).await {
        return Ok(books);
    }
    let books = Books::of(network);
    match books.disagreement(metered) {
        None => Ok(books),
        Some(what) => bail!("the sums do not agree after {} s: {what}", SETTLE_LIMIT.as_secs()),
    }
}

impl Books {
    fn of(network: &Network) -> Self {
        let spent = network.gateway.role.spent();
        let proxy = network.proxy.role.books();
        let earned = network.workers.iter().map(|worker| worker.role.earned());
        let (workers_tokens, workers_earned) = earned.fold((0, 0), |(tokens, nanoton), earned| {
            (tokens + earned.tokens.get(), nanoton + earned.nanoton.nano())
        });
        Self {
            gateway_tokens: spent.tokens.get(),
            gateway_paid: spent.nanoton.nano(),
            proxy_tokens: proxy.charged.get(),
            proxy_received: proxy.paid.nano(),
            proxy_owes: proxy.earned.nano(),
            proxy_kept: proxy.kept.nano(),
            workers_tokens,
            workers_earned,
        }
    }

    /// What does not fit, in words. `metered` counts one adjusted token for each token: true at the base price.
    fn disagreement(&self, metered: u64) -> Option<String> {
        let pairs = [
            ("tokens: metered, and charged by the proxy", metered, self.proxy_tokens),
            (
                "tokens: charged by the proxy, and acknowledged at the gateway",
                self.proxy_tokens,
                self.gateway_tokens,
            ),
            (
                "tokens: charged by the proxy, and acknowledged at the workers",
                self.proxy_tokens,
                self.workers_tokens,
            ),
            (
                "nanoton: paid by the client, and received by the proxy",
                self.gateway_paid,
                self.proxy_received,
            ),
            ("nanoton: owed by the proxy, and earned by the workers", self.proxy_owes, self.workers_earned),
            (
                "nanoton: paid by the client, and earned by the workers plus kept by the proxy",
                self.gateway_paid,
                self.workers_earned + self.proxy_kept,
            ),
        ];
        let (what, one, other) = pairs.into_iter().find(|(_, one, other)| one != other)?;
        Some(format!("{what}: {one} and {other}"))
    }

    fn signed(self) -> Signed {
        Signed { paid: self.gateway_paid, earned: self.workers_earned, kept: self.proxy_kept }
    }

    fn to_json(self, model: &str, answer: &Answer, settlement: &Settlement) -> Value {
        json!({
            "model": model,
            "summary": answer.summary,
            "usage": {
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens,
                "total_tokens": answer.prompt_tokens + answer.completion_tokens,
            },
            "charged_tokens": self.proxy_tokens,
            "client_paid_nanoton": self.gateway_paid,
            "worker_earned_nanoton": self.workers_earned,
            "proxy_kept_nanoton": self.proxy_kept,
            "sums_agree": true,
            "settlement": settlement.to_json(),
            "simulated": ["attestation", "coins"],
        })
    }
}

fn report(network: &Network, answer: &Answer, books: &Books, style: Style) -> String {
    let (prompt, completion) = (answer.prompt_tokens, answer.completion_tokens);
    let money = |name: &str, nanoton: u64| {
        let ton = cocoon_ledger::Nanoton(nanoton);
        format!(
            "  {} {nanoton:>10} nanoton  {}\n",
            style.dim(&format!("{name:<14}")),
            style.dim(&ton.to_string())
        )
    };
    format!(
        "\n\n  {} {prompt} for the text + {completion} for the summary = {} tokens\n{}{}{}\n{} {}\n{}\n",
        style.dim("Metered       "),
        prompt + completion,
        money("Client paid", books.gateway_paid),
        money("Worker earned", books.workers_earned),
        money("Proxy kept", books.proxy_kept),
        style.good("The sums agree:"),
        "paid = earned + kept, with the same figures at gateway, proxy and workers.",
        style.dim(&format!("Model {}; {SIMULATED}.", network.model)),
    )
}

/// Where the coins are after everybody left.
fn homecoming(settlement: &Settlement, style: Style) -> String {
    let head =
        format!("{:<8} {:>20} {:>20} {:>16} {:>14}", "", "TON before", "TON after", "for tokens", "fees");
    let title = style.bold("On chain, after everybody left");
    let mut text = format!("\n{title}\n  {}\n", style.dim(&head));
    for line in &settlement.lines {
        let ton = |nanoton: i128| {
            let sign = if nanoton < 0 { "-" } else { "" };
            let (whole, part) =
                (nanoton.unsigned_abs() / 1_000_000_000, nanoton.unsigned_abs() % 1_000_000_000);
            format!("{sign}{whole}.{part:09}")
        };
        let [before, after] = [line.before, line.after].map(|nanoton| ton(nanoton.into()));
        let (tokens, fees) = (ton(line.tokens), ton(line.fees));
        // Writing to a String does not fail.
        let name = if line.name == "owner" { "network" } else { line.name };
        let _ = writeln!(text, "  {name:<8} {before:>20} {after:>20} {tokens:>16} {fees:>14}");
    }
    let fees = cocoon_ledger::Nanoton(settlement.fees);
    let difference = settlement.difference();
    let verdict = match difference {
        0 => style.good("Nothing is missing:"),
        _ => style.warn("Coins are missing:"),
    };
    let _ = writeln!(
        text,
        "{verdict} before - after - fees = {difference} nanoton; validators took {fees} in all.\n{}",
        style
            .dim("The fees are for opening and closing every contract once; they do not grow with requests.")
    );
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GOOD: Books = Books {
        gateway_tokens: 10,
        gateway_paid: 200,
        proxy_tokens: 10,
        proxy_received: 200,
        proxy_owes: 180,
        proxy_kept: 20,
        workers_tokens: 10,
        workers_earned: 180,
    };

    #[test]
    fn sums_that_agree_are_accepted_and_any_single_difference_is_told() {
        assert_eq!(GOOD.disagreement(10), None);
        let changes: [fn(&mut Books); 8] = [
            |books| books.gateway_tokens += 1,
            |books| books.gateway_paid += 1,
            |books| books.proxy_tokens += 1,
            |books| books.proxy_received += 1,
            |books| books.proxy_owes += 1,
            |books| books.proxy_kept += 1,
            |books| books.workers_tokens += 1,
            |books| books.workers_earned += 1,
        ];
        for change in changes {
            let mut books = GOOD;
            change(&mut books);
            assert!(books.disagreement(10).is_some(), "{books:?}");
        }
        assert!(GOOD.disagreement(11).unwrap().contains("metered"));
    }

    #[test]
    fn only_text_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let complaint = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_text(&path).unwrap_err().to_string()
        };
        assert!(complaint(b"\xff\xfe").contains("UTF-8"));
        assert!(complaint(b"a\0b").contains("UTF-8"));
        assert!(complaint(b" \n").contains("no text"));
        assert!(complaint(&vec![b'a'; 4 * 1024 * 1024 + 1]).contains("4 MiB"));
        assert!(read_text(directory.path()).unwrap_err().to_string().contains("directory"));
        assert!(read_text(&directory.path().join("none")).unwrap_err().to_string().contains("cannot read"));
        std::fs::write(&path, "Grüße.").unwrap();
        assert_eq!(read_text(&path).unwrap(), "Grüße.");
    }
}
