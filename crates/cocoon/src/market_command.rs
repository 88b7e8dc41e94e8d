//! `cocoon market`: what is on offer, as a table.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use cocoon_ledger::Nanoton;
use http::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::Market;
use crate::gateway_client::{self, GatewayClient};
use crate::signals::Signals;
use crate::terminal::{self, Style, one_line};

/// Longest name of a model that is shown, in characters.
const MAX_NAME: usize = 120;

/// What is read of the gateway's answer.
#[derive(Debug, Deserialize)]
struct Report {
    models: Vec<Model>,
    truncated: bool,
}

#[derive(Debug, Deserialize)]
struct Model {
    id: String,
    capacity: u64,
    active: u64,
    workers: u64,
    insecure: bool,
    abilities: Vec<String>,
    offers: Vec<Offer>,
}

#[derive(Debug, Deserialize)]
struct Offer {
    worker: Option<String>,
    coefficient: u32,
    price: Option<Price>,
    active: u32,
    capacity: u32,
    first_byte_ms: Option<f64>,
    tokens_per_second: Option<f64>,
    success_rate: Option<f64>,
    requests: Option<u64>,
    attestation: String,
    insecure: bool,
}

#[derive(Debug, Deserialize)]
struct Price {
    prompt_nanoton_per_million: u64,
    completion_nanoton_per_million: u64,
}

/// Runs the command.
///
/// # Errors
/// No gateway answers there, or [`crate::signals::Interrupted`].
pub(crate) async fn run(options: Market, signals: &mut Signals) -> anyhow::Result<()> {
    signals.unless_stopped(show(&options)).await?
}

async fn show(options: &Market) -> anyhow::Result<()> {
    let key = gateway_client::api_key(options.api_key_file.as_deref())?;
    let sent_key = key.is_some();
    let url = match options.gateway.parse::<SocketAddr>() {
        Ok(address) => format!("http://{address}"),
        Err(_) => options.gateway.clone(),
    };
    let gateway = GatewayClient::at(&url, key, None)?;
    let asked = gateway.ask(Method::GET, "/v1/market", Bytes::new()).await;
    let hint =
        "is a gateway running there? `cocoon up` starts a whole network; --gateway says where another one is";
    let (status, body) = asked.context(hint)?;
    if status != 200 {
        bail!("{}", gateway_client::refusal(status, &body, sent_key));
    }
    let mut all: Value = serde_json::from_slice(&body).context("the gateway's answer is not JSON")?;
    if let (Some(wanted), Some(models)) = (&options.model, all["models"].as_array_mut()) {
        models.retain(|model| model["id"].as_str().is_some_and(|id| id.contains(wanted)));
    }
    if options.json {
        return Ok(terminal::print(&format!("{all:#}\n"))?);
    }
    let report: Report = serde_json::from_value(all).context("the gateway's answer is no market")?;
    Ok(terminal::print(&table(&report, options.model.as_deref(), sent_key, Style::stdout()))?)
}

fn table(report: &Report, wanted: Option<&str>, scoped: bool, style: Style) -> String {
    let mut text = String::new();
    for model in &report.models {
        let name: String = one_line(&model.id).chars().take(MAX_NAME).collect();
        text += &format!(
            "{}   {} worker{}, {} of {} places taken{}\n",
            style.bold(&name),
            model.workers,
            if model.workers == 1 { "" } else { "s" },
            model.active,
            model.capacity,
            if model.insecure { "; INSECURE: not all of it is proven" } else { "" },
        );
        if !model.abilities.is_empty() {
            text += &format!("can do: {}\n", one_line(&model.abilities.join(", ")));
        }
        let heads = [
            "worker",
            "coefficient",
            "prompt TON/M",
            "completion TON/M",
            "load",
            "first byte",
            "tokens/s",
            "success",
            "requests",
            "evidence",
        ];
        let rows = model.offers.iter().map(row);
        text += &aligned(std::iter::once(heads.map(str::to_owned)).chain(rows).collect());
        text.push('\n');
    }
    if report.models.is_empty() {
        let what = match wanted {
            Some(wanted) => format!("a model with '{}' in its name", one_line(wanted)),
            None if scoped => "anything that this key is for".to_owned(),
            None => "anything".to_owned(),
        };
        text += &format!("No worker offers {what} at the moment.\n");
    }
    if report.truncated {
        text += "There is more than is shown.\n";
    }
    text
}

fn row(offer: &Offer) -> [String; 10] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let price = |of: fn(&Price) -> u64| or_dash(offer.price.as_ref().map(|price| ton(of(price))));
    let worker = offer.worker.as_deref().map(|worker| one_line(worker).chars().take(12).collect());
    let evidence = one_line(&offer.attestation);
    [
        or_dash(worker),
        offer.coefficient.to_string(),
        price(|price| price.prompt_nanoton_per_million),
        price(|price| price.completion_nanoton_per_million),
        format!("{}/{}", offer.active, offer.capacity),
        or_dash(offer.first_byte_ms.map(|ms| format!("{ms:.0} ms"))),
        or_dash(offer.tokens_per_second.map(|speed| format!("{speed:.1}"))),
        or_dash(offer.success_rate.map(|rate| format!("{:.1} %", rate * 100.0))),
        or_dash(offer.requests.map(|requests| requests.to_string())),
        if offer.insecure { format!("{evidence}, insecure") } else { evidence },
    ]
}

/// TON without the unit.
fn ton(nano: u64) -> String {
    Nanoton(nano).to_string().trim_end_matches(" TON").to_owned()
}

/// Rows in columns: the first and the last to the left, what is between to the right.
fn aligned(rows: Vec<[String; 10]>) -> String {
    let mut widths = [0; 10];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::from("  ");
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            line += &match column {
                0 | 9 => format!("{cell:<width$}  "),
                _ => format!("{cell:>width$}  "),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_what_a_gateway_tells() {
        let report: Report = serde_json::from_value(serde_json::json!({
            "models": [{
                "id": "llama\u{1b}[31m", "capacity": 8, "active": 3, "workers": 2, "insecure": true,
                "abilities": ["chat", "tools"],
                "offers": [
                    {"worker": "ab".repeat(32), "coefficient": 500, "active": 1, "capacity": 4, "first_byte_ms": 120.4,
                     "price": {"prompt_nanoton_per_million": 10_000_000, "completion_nanoton_per_million": 1},
                     "tokens_per_second": 51.23, "success_rate": 0.9876, "requests": 7, "attestation": "tdx",
                     "insecure": false},
                    {"worker": null, "coefficient": 1000, "active": 2, "capacity": 4, "first_byte_ms": null, "price": null,
                     "tokens_per_second": null, "success_rate": null, "requests": null, "attestation": "unknown",
                     "insecure": true},
                ],
            }],
            "truncated": false,
        }))
        .unwrap();
        let text = table(&report, None, false, Style::plain());
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].starts_with("llama") && lines[0].contains("INSECURE") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert_eq!(lines[1], "can do: chat, tools");
        assert!(
            lines[3].contains("abababababab") && lines[3].contains("98.8 %") && lines[3].ends_with("tdx"),
            "{text}"
        );
        assert!(lines[4].ends_with("unknown, insecure"), "{text}");
    }
}
