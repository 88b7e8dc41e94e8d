//! The operator's page of a worker: /health, /metrics, /jsonstats; and, by POST, /pause, /resume, /coefficient and
//! /payout.
//!
//! No page in the operator's browser can steer the worker: steering asks for `Content-Type: application/json`, which a
//! page cannot send to another site without asking, and refuses requests with an `Origin`, which browsers put on
//! every POST, also where a page's name was made to lead to this address (DNS rebinding).

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::{get, post};
use cocoon_net::{PageListener, PageStream};
use cocoon_openai::ability;
use cocoon_settle::WORTH_FETCHING_NANOTON;
use cocoon_ton::contracts::ContractStatus;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::settle::{ProxyDue, SettlementView};
use crate::{COEFFICIENT_LIMIT, NoSettlement, Shared};

/// The request is not a web page's.
#[derive(Debug)]
struct NoWebPage;

impl<S: Sync> FromRequestParts<S> for NoWebPage {
    type Rejection = (StatusCode, Json<Value>);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        if parts.headers.contains_key(header::ORIGIN) {
            let error =
                json!({"error": "web pages may not steer a worker; send the request without an Origin"});
            return Err((StatusCode::FORBIDDEN, Json(error)));
        }
        Ok(Self)
    }
}

/// No further settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewCoefficient {
    /// In 1/1000 of the base price.
    coefficient: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payout {
    /// Below this, in nanoton, a payout is not wanted.
    #[serde(default = "worth_fetching")]
    from_nanoton: u64,
}

const fn worth_fetching() -> u64 {
    WORTH_FETCHING_NANOTON
}

/// The bounded listener in the form that the server takes.
struct Pages(PageListener);

impl axum::serve::Listener for Pages {
    type Io = PageStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (PageStream, SocketAddr) {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

pub(crate) async fn serve(listener: PageListener, shared: Arc<Shared>) {
    let router = Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/jsonstats", get(stats))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/coefficient", post(set_coefficient))
        .route("/payout", post(pay_out))
        .with_state(shared);
    if let Err(error) = axum::serve(Pages(listener), router).await {
        tracing::error!(%error, "the operator's HTTP server ended");
    }
}

async fn health(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let proxies = *shared.ready.borrow();
    let engine = shared.engine.probe().await;
    let holds = shared.holds();
    let model_fault = shared.model_files.fault();
    let ok = proxies > 0 && engine.ready && model_fault.is_none();
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = match (proxies, engine.ready) {
        _ if model_fault.is_some() => "the model's files changed",
        (0, _) if !holds.is_empty() => "no proxy that can pay",
        (0, _) => "no proxy",
        (_, false) => "engine not ready",
        _ if shared.paused.load(Ordering::Relaxed) => "paused",
        _ => "ok",
    };
    (
        status,
        Json(json!({
            "status": word,
            "proxies": proxies,
            "holds": holds,
            "model_fault": model_fault,
            "engine": {"ready": engine.ready, "detail": engine.detail},
        })),
    )
}

async fn stats(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(state(&shared))
}

pub(crate) fn state(shared: &Shared) -> Value {
    let counts = &shared.counts;
    let earned = shared.earned();
    json!({
        "model": shared.config.model,
        "model_checked": shared.model_files.is_checked(),
        "model_fault": shared.model_files.fault(),
        "abilities": shared.abilities().map(|bits| ability::names(bits).collect::<Vec<_>>()),
        "coefficient": shared.coefficient.load(Ordering::Relaxed),
        "price": shared.pricing.to_json(),
        "paused": shared.is_paused(),
        "max_active_requests": shared.config.max_active,
        "active_requests": shared.active.load(Ordering::Relaxed),
        "proxies_ready": *shared.ready.borrow(),
        "proxies_held": shared.holds().len(),
        "requests": {
            "received": counts.requests.load(Ordering::Relaxed),
            "succeeded": counts.succeeded.load(Ordering::Relaxed),
            "cancelled": counts.cancelled.load(Ordering::Relaxed),
            "failed": counts.failed.load(Ordering::Relaxed),
            "refused": counts.refused.load(Ordering::Relaxed),
            "estimated_usage": counts.estimated.load(Ordering::Relaxed),
            "underpaid": counts.underpaid.load(Ordering::Relaxed),
        },
        "answer_bytes": counts.answer_bytes.load(Ordering::Relaxed),
        "earned": {"tokens": earned.tokens.get(), "nanoton": earned.nanoton.nano()},
        "settlement": shared.settlement.as_ref().map(|settlement| settlement_json(shared, &settlement.view())),
    })
}

fn settlement_json(shared: &Shared, view: &SettlementView) -> Value {
    let needs = view.needs.as_ref().map(|needs| {
        json!({
            "words": needs.to_string(),
            "purpose": needs.purpose.to_string(),
            "missing_nanoton": needs.missing_nanoton,
            "link": needs.link(),
        })
    });
    json!({
        "wallet": view.wallet.to_wire_string(shared.config.is_testnet),
        "balance_nanoton": view.balance_nanoton,
        "needs": needs,
        "error": view.error,
        "proxies": due_json(shared, &view.proxies),
    })
}

fn due_json(shared: &Shared, proxies: &[ProxyDue]) -> Vec<Value> {
    let one = |due: &ProxyDue| {
        let status = match (due.proxy_status, due.paid_tokens) {
            (_, None) => "unknown",
            (None, Some(_)) => "missing",
            (Some(ContractStatus::Open), _) => "open",
            (Some(ContractStatus::Closing), _) => "closing",
            (Some(ContractStatus::Closed), _) => "closed",
        };
        json!({
            "proxy": due.proxy.to_wire_string(shared.config.is_testnet),
            "contract": due.contract.to_wire_string(shared.config.is_testnet),
            "status": status,
            "signed_tokens": due.signed_tokens,
            "paid_tokens": due.paid_tokens,
            "due_nanoton": due.due_nanoton(),
            "error": due.error,
            "backed": due.backed,
            "hold": due.hold,
        })
    };
    proxies.iter().map(one).collect()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let counts = &shared.counts;
    let earned = shared.earned();
    let mut text = String::new();
    let mut write = |name: &str, kind: &str, help: &str, value: u64| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    write("cocoon_worker_requests_total", "counter", "Requests received.", read(&counts.requests));
    write(
        "cocoon_worker_requests_succeeded_total",
        "counter",
        "Requests answered in full.",
        read(&counts.succeeded),
    );
    write(
        "cocoon_worker_requests_cancelled_total",
        "counter",
        "Requests whose callers left before their end.",
        read(&counts.cancelled),
    );
    write(
        "cocoon_worker_requests_failed_total",
        "counter",
        "Requests that failed, those not taken included.",
        read(&counts.failed),
    );
    write(
        "cocoon_worker_requests_refused_total",
        "counter",
        "Requests not taken: over the limit, or of a proxy that gets no work.",
        read(&counts.refused),
    );
    write(
        "cocoon_worker_requests_underpaid_total",
        "counter",
        "Requests for which a proxy credited less than was claimed.",
        read(&counts.underpaid),
    );
    write(
        "cocoon_worker_missing_tokens_total",
        "counter",
        "Adjusted tokens that were claimed for them and not credited.",
        read(&counts.missing_tokens),
    );
    write(
        "cocoon_worker_answer_bytes_total",
        "counter",
        "Body bytes sent to proxies.",
        read(&counts.answer_bytes),
    );
    write(
        "cocoon_worker_active_requests",
        "gauge",
        "Requests under way.",
        shared.active.load(Ordering::Relaxed) as u64,
    );
    write(
        "cocoon_worker_proxies_ready",
        "gauge",
        "Proxies that can send requests.",
        *shared.ready.borrow() as u64,
    );
    write(
        "cocoon_worker_proxies_held",
        "gauge",
        "Connected proxies whose requests are not taken because they may not be able to pay.",
        shared.holds().len() as u64,
    );
    write(
        "cocoon_worker_model_checked",
        "gauge",
        "Whether the model's files were found to be those of its name, and are unchanged.",
        shared.model_files.is_checked().into(),
    );
    write(
        "cocoon_worker_earned_tokens",
        "gauge",
        "Adjusted tokens earned, durable at the proxies.",
        earned.tokens.get(),
    );
    write("cocoon_worker_earned_nanoton", "gauge", "What they are worth, in nanoton.", earned.nanoton.nano());
    if let Some(settlement) = &shared.settlement {
        let view = settlement.view();
        let sum = |part: fn(&ProxyDue) -> Option<u64>| {
            view.proxies.iter().filter_map(part).fold(0, u64::saturating_add)
        };
        let due = sum(ProxyDue::due_nanoton);
        write("cocoon_worker_due_nanoton", "gauge", "Signed and not yet paid, in nanoton.", due);
        let paid = sum(ProxyDue::paid_nanoton);
        write("cocoon_worker_paid_nanoton", "gauge", "Paid to the owner, in nanoton.", paid);
        if let Some(balance) = view.balance_nanoton {
            let help = "Coins of the wallet that pays fees, in nanoton.";
            write("cocoon_worker_wallet_nanoton", "gauge", help, balance);
        }
    }
    text.push_str(&shared.gen_ai.text());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn pause(
    _: NoWebPage,
    State(shared): State<Arc<Shared>>,
    Json(Nothing {}): Json<Nothing>,
) -> Json<Value> {
    shared.set_paused(true);
    Json(state(&shared))
}

async fn resume(
    _: NoWebPage,
    State(shared): State<Arc<Shared>>,
    Json(Nothing {}): Json<Nothing>,
) -> Json<Value> {
    shared.set_paused(false);
    Json(state(&shared))
}

async fn set_coefficient(
    _: NoWebPage,
    State(shared): State<Arc<Shared>>,
    Json(new): Json<NewCoefficient>,
) -> Result<Json<Value>, (StatusCode, Json<Value>)> {
    if new.coefficient >= COEFFICIENT_LIMIT {
        let error = json!({"error": format!("coefficient must be below {COEFFICIENT_LIMIT}")});
        return Err((StatusCode::BAD_REQUEST, Json(error)));
    }
    shared.set_coefficient(new.coefficient);
    Ok(Json(state(&shared)))
}

async fn pay_out(
    _: NoWebPage,
    State(shared): State<Arc<Shared>>,
    Json(asked): Json<Payout>,
) -> Result<(StatusCode, Json<Value>), (StatusCode, Json<Value>)> {
    let Some(settlement) = &shared.settlement else {
        return Err((StatusCode::CONFLICT, Json(json!({"error": NoSettlement.to_string()}))));
    };
    let proxies = settlement.pay_out(asked.from_nanoton);
    let answer = json!({"from_nanoton": asked.from_nanoton, "proxies": due_json(&shared, &proxies)});
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::http::Request;

    use super::*;

    async fn admitted(name: &str, value: &str) -> Result<NoWebPage, StatusCode> {
        let (mut parts, ()) = Request::post("/pause").header(name, value).body(()).unwrap().into_parts();
        NoWebPage::from_request_parts(&mut parts, &()).await.map_err(|(status, _)| status)
    }

    #[tokio::test]
    async fn a_web_page_is_not_let_in_even_where_its_own_name_leads_here() {
        for origin in ["http://evil.example", "http://127.0.0.1:12000", "null"] {
            assert_eq!(admitted("Origin", origin).await.err(), Some(StatusCode::FORBIDDEN));
        }
        assert!(admitted("Host", "127.0.0.1:12000").await.is_ok());
    }
}
