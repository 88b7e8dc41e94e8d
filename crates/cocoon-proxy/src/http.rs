//! The operator's pages of a proxy: /health, /metrics (Prometheus), /jsonstats. They show counts, never content.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use cocoon_net::{PageListener, PageStream};
use cocoon_ton::contracts::ContractStatus;
use serde_json::{Value, json};

use crate::core::Core;
use crate::{SettlementReport, books};

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

pub(crate) async fn serve(listener: PageListener, core: Arc<Core>) {
    let router = Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/jsonstats", get(stats))
        .with_state(core);
    if let Err(error) = axum::serve(Pages(listener), router).await {
        tracing::error!(%error, "the operator's HTTP server ended");
    }
}

async fn health(State(core): State<Arc<Core>>) -> impl IntoResponse {
    let (workers, clients, refuses) = core.look(|proxy| {
        let refuses = proxy.takes_no_requests().map(str::to_owned);
        (proxy.workers(), proxy.client_connections(), refuses)
    });
    let ready = workers.iter().filter(|worker| worker.ready).count();
    let (status, word) = match (&refuses, workers.len(), ready) {
        (Some(why), ..) => (StatusCode::SERVICE_UNAVAILABLE, why.as_str()),
        (None, 0, _) => (StatusCode::SERVICE_UNAVAILABLE, "no workers"),
        (None, _, 0) => (StatusCode::SERVICE_UNAVAILABLE, "no worker is ready"),
        _ => (StatusCode::OK, "ok"),
    };
    (
        status,
        Json(json!({"status": word, "workers": workers.len(), "workers_ready": ready, "clients": clients})),
    )
}

async fn stats(State(core): State<Arc<Core>>) -> Json<Value> {
    let settlement = core.settlement().map(|report| settlement(&report.borrow()));
    Json(core.look(|proxy| {
        let stats = proxy.stats();
        let books = books(proxy.ledger());
        let workers = proxy.workers().into_iter().map(|worker| {
            json!({
                "model": worker.model,
                "coefficient": worker.coefficient,
                "active_requests": worker.active,
                "max_active_requests": worker.limit,
                "ready": worker.ready,
                "time_to_first_byte_ms": worker.first_byte.map(|time| time.as_secs_f64() * 1e3),
                "tokens_per_second": worker.tokens_per_s,
                "failure_rate": worker.failure_rate,
                "requests": worker.requests,
            })
        });
        json!({
            "requests": {
                "received": stats.requests, "rejected": stats.rejected, "succeeded": stats.succeeded,
                "cancelled": stats.cancelled, "failed": stats.failed, "retried": stats.retries, "in_flight": proxy.in_flight(),
            },
            "answer_bytes": stats.answer_bytes,
            "tokens": {"charged": stats.tokens, "overrun": stats.overrun},
            "books": {
                "charged_tokens": books.charged.get(), "paid_nanoton": books.paid.nano(),
                "earned_nanoton": books.earned.nano(), "kept_nanoton": books.kept.nano(),
            },
            "clients": proxy.client_connections(),
            "workers": workers.collect::<Vec<_>>(),
            "settlement": settlement,
        })
    }))
}

/// What settlement has reached. Amounts are in nanoton.
fn settlement(report: &SettlementReport) -> Value {
    let status = |status: ContractStatus| match status {
        ContractStatus::Open => "open",
        ContractStatus::Closing => "closing",
        ContractStatus::Closed => "closed",
    };
    let contracts = report.instances.iter().map(|instance| {
        json!({
            "contract": instance.contract.map(|contract| contract.to_string()),
            "params_version": instance.params_version,
            "status": instance.status.map(status),
            "held_nanoton": instance.held_nanoton,
            "balance_nanoton": instance.balance_nanoton,
            "stake_nanoton": instance.stake_nanoton,
            "unlock_unix_time": instance.unlock_unix_time,
            "commit_seqno": instance.commit_seqno,
            "finished": instance.finished,
        })
    });
    let wallet = &report.wallet;
    json!({
        "wallet": wallet.wallet.to_string(),
        "balance_nanoton": wallet.balance_nanoton,
        "needs": wallet.needs.map(|needs| json!({
            "message": needs.to_string(), "missing_nanoton": needs.missing_nanoton, "link": needs.link(),
        })),
        "hold": wallet.hold,
        "error": wallet.error,
        "seen_unix_time": wallet.seen_unix_time,
        "messages_sent": wallet.sent,
        "fees_nanoton": wallet.fees_nanoton,
        "contracts": contracts.collect::<Vec<_>>(),
    })
}

async fn metrics(State(core): State<Arc<Core>>) -> impl IntoResponse {
    let report = core.settlement().map(|report| report.borrow().clone());
    let text = core.look(|proxy| {
        let stats = proxy.stats();
        let books = books(proxy.ledger());
        let mut text = String::new();
        let mut write = |name: &str, kind: &str, help: &str, value: u64| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        write("cocoon_proxy_requests_total", "counter", "Requests received.", stats.requests);
        write(
            "cocoon_proxy_requests_rejected_total",
            "counter",
            "Requests refused before a worker was chosen.",
            stats.rejected,
        );
        write(
            "cocoon_proxy_requests_succeeded_total",
            "counter",
            "Requests answered in full.",
            stats.succeeded,
        );
        write(
            "cocoon_proxy_requests_cancelled_total",
            "counter",
            "Requests whose callers left before their end.",
            stats.cancelled,
        );
        write(
            "cocoon_proxy_requests_failed_total",
            "counter",
            "Requests that failed or were given up.",
            stats.failed,
        );
        write("cocoon_proxy_retries_total", "counter", "Requests given to another worker.", stats.retries);
        write(
            "cocoon_proxy_answer_bytes_total",
            "counter",
            "Body bytes passed on to clients.",
            stats.answer_bytes,
        );
        write("cocoon_proxy_tokens_total", "counter", "Adjusted tokens charged.", stats.tokens);
        write(
            "cocoon_proxy_overrun_tokens_total",
            "counter",
            "Adjusted tokens claimed by workers and not granted.",
            stats.overrun,
        );
        write("cocoon_proxy_requests_in_flight", "gauge", "Requests under way.", proxy.in_flight() as u64);
        write("cocoon_proxy_clients", "gauge", "Client connections.", proxy.client_connections() as u64);
        write(
            "cocoon_proxy_workers",
            "gauge",
            "Workers that finished their handshake.",
            proxy.workers().len() as u64,
        );
        write(
            "cocoon_proxy_workers_ready",
            "gauge",
            "Workers that take requests: not paused, and answering.",
            proxy.workers().iter().filter(|worker| worker.ready).count() as u64,
        );
        write(
            "cocoon_proxy_books_paid_nanoton",
            "gauge",
            "What clients were charged, in nanoton.",
            books.paid.nano(),
        );
        write(
            "cocoon_proxy_books_kept_nanoton",
            "gauge",
            "What the proxy keeps of it, in nanoton.",
            books.kept.nano(),
        );
        if let Some(report) = report {
            let newest = report.instances.last();
            let held = newest.map_or(0, |instance| instance.held_nanoton);
            let stake = newest.map_or(0, |instance| instance.stake_nanoton);
            let wallet = report.wallet.balance_nanoton.unwrap_or(0);
            write("cocoon_proxy_wallet_nanoton", "gauge", "Coins of the proxy's wallet, in nanoton.", wallet);
            write(
                "cocoon_proxy_contract_nanoton",
                "gauge",
                "Coins that the proxy contract holds, in nanoton.",
                held,
            );
            write("cocoon_proxy_stake_nanoton", "gauge", "Stake of the proxy contract, in nanoton.", stake);
            let fees = report.wallet.fees_nanoton;
            write(
                "cocoon_proxy_wallet_fees_nanoton_total",
                "counter",
                "Fees of the wallet, in nanoton.",
                fees,
            );
            let short = u64::from(report.wallet.needs.is_some());
            write("cocoon_proxy_funds_needed", "gauge", "1 while the wallet lacks coins.", short);
        }
        text
    });
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
