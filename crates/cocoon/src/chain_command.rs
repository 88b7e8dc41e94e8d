//! `cocoon chain`: runs an embedded chain with its HTTP API, and asks a running one for coins and time.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use cocoon_ledger::Nanoton;
use cocoon_localchain::{LocalChain, Options, Production};
use cocoon_ton::Address;
use serde_json::{Value, json};

use crate::amount;
use crate::calendar;
use crate::chain_server::ChainServer;
use crate::cli::{BlockTime, Chain, ChainCommand, ChainUrl, RunChain};
use crate::dir::StateDir;
use crate::http_client;
use crate::roles;
use crate::signals::Signals;
use crate::terminal::{self, Style};

/// The chain's file in its directory.
const CHAIN_FILE: &str = "chain.sqlite";
/// Longest part of another program's error that is shown, in characters.
const MAX_SHOWN_ERROR: usize = 400;

/// Runs a chain until a signal ends it, or does one thing with a running one.
///
/// # Errors
/// What stands in the way, or [`crate::signals::Interrupted`].
pub(crate) async fn run(options: Chain, signals: &mut Signals) -> anyhow::Result<()> {
    let Some(command) = options.command else { return serve(options.run, signals).await };
    let work = async {
        match command {
            ChainCommand::Faucet { address, amount, chain } => faucet(&chain, address, amount).await,
            ChainCommand::Advance { seconds, chain } => advance(&chain, seconds).await,
            ChainCommand::Status { chain } => status(&chain).await,
        }
    };
    signals.unless_stopped(work).await?
}

async fn serve(options: RunChain, signals: &mut Signals) -> anyhow::Result<()> {
    let listen = options.listen;
    if !listen.ip().is_loopback() && !options.allow_remote {
        bail!(
            "{listen} can be reached from other machines, and whoever reaches the chain may use its faucet and move \
             its clock; listen on 127.0.0.1, or say --allow-remote if that is meant"
        );
    }
    let directory = StateDir::open(&options.dir)?;
    let path = directory.path().join(CHAIN_FILE);
    let production = match options.block_time {
        BlockTime::OnMessage => Production::OnMessage,
        BlockTime::Every(interval) => Production::Every(interval),
    };
    let how = Options { path: Some(path.clone()), production, ..Options::default() };
    // Opening waits for the disk.
    let opened = tokio::task::spawn_blocking(move || LocalChain::open(&how)).await?;
    let chain = opened.context("cannot open the chain")?;
    let head = chain.head().await?;
    let server = ChainServer::start(chain.clone(), listen).await?;
    let url = server.url();
    if options.json {
        let block_time_ms = match options.block_time {
            BlockTime::OnMessage => 0,
            BlockTime::Every(interval) => interval.as_millis(),
        };
        let ready = json!({
            "url": url,
            "api": format!("{url}/api/v2"),
            "control": format!("{url}/localchain"),
            "file": path.display().to_string(),
            "block_time_ms": u64::try_from(block_time_ms).unwrap_or(u64::MAX),
            "block": head.seqno,
            "unix_time": head.unix_time,
        });
        terminal::print(&format!("{ready}\n"))?;
    } else {
        let blocks = match options.block_time {
            BlockTime::OnMessage => "one after each message".to_owned(),
            BlockTime::Every(interval) => format!("one every {interval:?}"),
        };
        let lines = [
            ("API", format!("{url}/api/v2 (toncenter's, version 2)")),
            ("Faucet, clock", format!("{url}/localchain")),
            ("File", path.display().to_string()),
            ("Blocks", blocks),
            ("Newest block", format!("{}, {}", head.seqno, calendar::utc(head.unix_time.into()))),
        ];
        terminal::print(&announcement(&lines, options.allow_remote, &url, Style::stdout()))?;
    }
    let failure = tokio::select! {
        () = signals.stop() => None,
        why = chain.stopped() => Some(why),
    };
    let end = async {
        server.shutdown().await;
        // Its directory can be used by another process at once.
        chain.close().await;
    };
    signals.unless_stopped(end).await?;
    roles::outcome(failure)
}

fn announcement(lines: &[(&str, String)], remote: bool, url: &str, style: Style) -> String {
    let mut text = format!("{}\n\n", style.good("The chain is running."));
    for (name, value) in lines {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {} {value}", style.dim(&format!("{name:<14}")));
    }
    if remote {
        let warning = "Whoever reaches that address may use the faucet and move the clock.";
        text += &format!("\n{}\n", style.warn(warning));
    }
    text + &format!("\nCoins: cocoon chain faucet ADDRESS 100 --url {url}\nCtrl-C stops it.\n")
}

async fn faucet(chain: &ChainUrl, address: Address, granted: Nanoton) -> anyhow::Result<()> {
    let (_, before) = account(chain, address).await?;
    let request = json!({"address": address.to_raw_string(), "amount": granted.nano().to_string()});
    control(chain, "grant", &request).await?;
    let (balance, newest) = account(chain, address).await?;
    // Where blocks come at an interval, the next one has it.
    let arrived = newest != before;
    if chain.json {
        let answer = json!({
            "address": address.to_string(),
            "granted": amount::to_json(granted),
            "arrived": arrived,
            "balance": amount::to_json(balance),
        });
        return Ok(terminal::print(&format!("{answer}\n"))?);
    }
    let then = match arrived {
        true => format!("It now has {balance}."),
        false => "They arrive with the next block.".to_owned(),
    };
    Ok(terminal::print(&format!("Gave {granted} to {address}. {then}\n"))?)
}

/// The account's coins, and the logical time of its newest transaction.
async fn account(chain: &ChainUrl, address: Address) -> anyhow::Result<(Nanoton, String)> {
    let path = format!("/api/v2/getAddressInformation?address={}", address.to_raw_string());
    let answer = result(http_client::get(server(chain).await?, &path).await?, chain).await?;
    let balance = answer["balance"].as_str().and_then(|text| text.parse().ok()).map(Nanoton);
    let newest = answer["last_transaction_id"]["lt"].as_str().map(str::to_owned);
    balance.zip(newest).with_context(|| format!("the chain at {} told no balance", chain.url))
}

async fn advance(chain: &ChainUrl, seconds: u32) -> anyhow::Result<()> {
    let answer = control(chain, "advance", &json!({"seconds": seconds})).await?;
    let block = number(&answer["seqno"], "a block", chain)?;
    let now = number(&control(chain, "now", &json!({})).await?["now"], "the time", chain)?;
    if chain.json {
        let answer = json!({"advanced_seconds": seconds, "block": block, "unix_time": now});
        return Ok(terminal::print(&format!("{answer}\n"))?);
    }
    let text = format!(
        "The chain's clock moved on by {}; it is now {} (block {block}).\n",
        calendar::span(seconds.into()),
        calendar::utc(now)
    );
    Ok(terminal::print(&text)?)
}

async fn status(chain: &ChainUrl) -> anyhow::Result<()> {
    let at = server(chain).await?;
    let info = result(http_client::get(at, "/api/v2/getMasterchainInfo").await?, chain).await?;
    let block = number(&info["last"]["seqno"], "a block", chain)?;
    let path = format!("/api/v2/getBlockHeader?workchain=-1&shard={SHARD}&seqno={block}");
    let header = result(http_client::get(at, &path).await?, chain).await?;
    let made = number(&header["gen_utime"], "a block's time", chain)?;
    let now = number(&control(chain, "now", &json!({})).await?["now"], "the time", chain)?;
    let here = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let ahead = now.saturating_sub(here);
    if chain.json {
        let answer = json!({
            "url": chain.url,
            "block": block,
            "block_unix_time": made,
            "unix_time": now,
            "ahead_seconds": ahead,
        });
        return Ok(terminal::print(&format!("{answer}\n"))?);
    }
    let moved = match ahead {
        // Between two clocks read one after the other.
        0..=2 => String::new(),
        ahead => format!(" ({} ahead of this machine)", calendar::span(ahead)),
    };
    let style = Style::stdout();
    let line = |name: &str, value: String| format!("  {} {value}\n", style.dim(&format!("{name:<13}")));
    let text = format!(
        "{}{}{}",
        line("Newest block", format!("{block}, {}", calendar::utc(made))),
        line("Its time now", format!("{}{moved}", calendar::utc(now))),
        line("Reached at", chain.url.clone())
    );
    Ok(terminal::print(&text)?)
}

/// The whole workchain as one shard.
const SHARD: &str = "-9223372036854775808";

fn number(value: &Value, what: &str, chain: &ChainUrl) -> anyhow::Result<u64> {
    value.as_u64().with_context(|| format!("the chain at {} told {what} that is no number", chain.url))
}

/// A method that only a chain of ours has.
async fn control(chain: &ChainUrl, method: &str, request: &Value) -> anyhow::Result<Value> {
    let path = format!("/localchain/{method}");
    let answer = http_client::post(server(chain).await?, &path, request).await?;
    if answer.status == http::StatusCode::NOT_FOUND {
        bail!("{} is no chain of `cocoon chain`: it has no faucet and no clock to move", chain.url);
    }
    result(answer, chain).await
}

/// What is in toncenter's frame.
async fn result(answer: http_client::Answer, chain: &ChainUrl) -> anyhow::Result<Value> {
    let status = answer.status;
    let odd = || format!("{} does not answer as a chain would (HTTP status {status})", chain.url);
    let mut answer = answer.json().await.with_context(odd)?;
    if answer["ok"] == json!(true) {
        return Ok(answer["result"].take());
    }
    let reason = answer["error"].as_str().with_context(odd)?;
    let shown: String = reason.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_ERROR).collect();
    bail!("the chain at {} says: {shown}", chain.url)
}

/// The socket behind the URL.
async fn server(chain: &ChainUrl) -> anyhow::Result<std::net::SocketAddr> {
    let url = &chain.url;
    let wrong = || format!("--url {url:?} is not a URL such as http://127.0.0.1:8081");
    let uri: http::Uri = url.parse().with_context(wrong)?;
    let path = uri.path().trim_end_matches('/');
    if uri.scheme_str() != Some("http") || uri.query().is_some() || !matches!(path, "" | "/api/v2") {
        bail!("{}; a running `cocoon chain` says its own", wrong());
    }
    let host = uri.host().with_context(wrong)?.trim_matches(['[', ']']);
    let mut found = tokio::net::lookup_host((host, uri.port_u16().unwrap_or(80)))
        .await
        .with_context(|| format!("cannot find the host of {url}"))?;
    found.next().with_context(|| format!("the host of {url} has no address"))
}
