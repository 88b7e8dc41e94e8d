//! Bodies of messages in words.

use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::message::{Body, ClientRequest, RootChange, operation_name};
use cocoon_ton::payment::{ProxyCloseKind, SignedProxyClose};
use cocoon_ton::{OrderKind, SignedPayment, VerifyingKey};

use super::message;
use crate::record::{Record, Value};

/// Messages inside messages are told to this depth.
pub(super) const MAX_NESTING: u8 = 6;

/// What is known besides the cells.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known {
    /// The key that proxies' orders must be signed with.
    pub(crate) proxy_key: Option<VerifyingKey>,
    /// How many messages are around this one.
    pub(crate) nesting: u8,
}

impl Known {
    pub(super) const fn deeper(self) -> Self {
        Self { nesting: self.nesting.saturating_add(1), ..self }
    }
}

/// The body as a record.
pub(crate) fn describe(body: &Body, known: Known) -> Record {
    let record = Record::new("body", body.name(), words(body));
    let record = record.with_some("query_id", body.query_id().map(Value::Number));
    fields(body, record, known)
}

/// What the message means, to whom it is, and who may send it.
const fn words(body: &Body) -> &'static str {
    match body {
        Body::Empty => "nothing but coins",
        Body::Comment(_) => "a text",
        Body::Excesses { .. } => "what is left of a message's coins",
        Body::Payout { .. } => "coins that somebody is owed",
        Body::DoNotProcess { .. } => "a note that contracts let pass",
        Body::SaveState { .. } => "a proxy's note to itself about its newest saved state",
        Body::WorkerProxyRequest { .. } => "a worker contract to its proxy contract",
        Body::ClientProxyRequest { .. } => "a client contract to its proxy contract",
        Body::RefundUnpaid { .. } => {
            "a proxy contract to a client contract: so much of a refund was not paid"
        }
        Body::IncreaseProxyStake { .. } => "to a proxy contract: put coins into its stake",
        Body::ProxyPayout { .. } => "to a proxy contract: pay its owner what it has earned",
        Body::OwnerCloseProxy { .. } => "to a proxy contract, by its owner: close, or complete the close",
        Body::SignedProxyClose(_) => "to a proxy contract, by its own order: close",
        Body::SignedPayment(payment) => match payment.order().kind {
            OrderKind::ChargeClient => "to a client contract: charge it up to a number of tokens",
            OrderKind::RefundClient => "to a client contract: charge it, close it and refund the rest",
            OrderKind::PayWorker => "to a worker contract: pay it up to a number of tokens",
            OrderKind::PayWorkerLast => "to a worker contract: pay it up to a number of tokens, and close it",
        },
        Body::RegisterWorker { .. } => "to a worker contract, by its owner: show yourself to the proxy",
        Body::TopUpClient { .. } => "to a client contract: pay coins in",
        Body::RegisterClient { .. } => {
            "to a client contract, by its owner: answer a proxy's long authorisation"
        }
        Body::ChangeSecretHash { .. } => "to a client contract, by its owner: set the hash of the secret",
        Body::ChangeSecretHashAndTopUp { .. } => {
            "to a client contract, by its owner: set the hash of the secret, and pay coins in"
        }
        Body::RequestRefund { .. } => {
            "to a client contract, by its owner: close; again after the delay: force the refund"
        }
        Body::IncreaseClientStake { .. } => "to a client contract, by its owner: raise the stake",
        Body::WithdrawClient { .. } => "to a client contract, by its owner: take out what is above the stake",
        Body::WalletSend { .. } => "to a node wallet, by its owner: send this message",
        Body::Root { change, .. } => root_words(change),
        Body::Bounced(_) => "this message came back, with all it said",
        Body::BouncedOp { .. } => "a message came back",
        Body::Unknown { .. } => "nothing that this program knows",
    }
}

const fn root_words(change: &RootChange) -> &'static str {
    match change {
        RootChange::AddWorkerImage(_) => "to the root contract, by its owner: accept workers with this image",
        RootChange::DelWorkerImage(_) => {
            "to the root contract, by its owner: no longer accept workers with this image"
        }
        RootChange::AddModel(_) => "to the root contract, by its owner: accept a model",
        RootChange::DelModel(_) => "to the root contract, by its owner: no longer accept a model",
        RootChange::AddProxyImage(_) => "to the root contract, by its owner: accept proxies with this image",
        RootChange::DelProxyImage(_) => {
            "to the root contract, by its owner: no longer accept proxies with this image"
        }
        RootChange::RegisterProxy(_) => "to the root contract, by its owner: list a proxy",
        RootChange::UnregisterProxy(_) => "to the root contract, by its owner: no longer list a proxy",
        RootChange::UpdateProxy { .. } => "to the root contract, by its owner: list another place of a proxy",
        RootChange::ChangePrices { .. } => "to the root contract, by its owner: set the prices",
        RootChange::ChangeParams { .. } => {
            "to the root contract, by its owner: set prices, delays and least stakes"
        }
        RootChange::UpgradeContracts { .. } => {
            "to the root contract, by its owner: set the code of contracts to come"
        }
        RootChange::UpgradeCode(_) => "to the root contract, by its owner: replace its code",
        RootChange::UpgradeFull { .. } => "to the root contract, by its owner: replace its data and code",
        RootChange::Reset => "to the root contract, by its owner: empty all lists",
        RootChange::ChangeOwner(_) => "to the root contract, by its owner: hand it over",
    }
}

fn fields(body: &Body, record: Record, known: Known) -> Record {
    use Value::{Address, Coins, Hash, Number, Part, Small, Text, Tokens};
    match body {
        Body::Empty | Body::Excesses { .. } | Body::Payout { .. } | Body::DoNotProcess { .. } => record,
        Body::Comment(text) => {
            let command = command(text).map(|words| Text(words.to_owned()));
            record.with("text", Text(text.clone())).with_some("as_a_command", command)
        }
        Body::SaveState { seqno, unique_hash, .. } => {
            record.with("seqno", Small((*seqno).into())).with("unique_hash", Hash(*unique_hash))
        }
        Body::WorkerProxyRequest { owner, status, tokens, payout, .. } => {
            let record = record
                .with("owner", Address(*owner))
                .with("worker_contract", Text(status_words(*status).to_owned()))
                .with("tokens_paid_for", Tokens(*tokens));
            match payout {
                None => record,
                Some(payout) => record
                    .with("for_the_worker", Coins(payout.worker_part))
                    .with("for_the_proxy", Coins(payout.proxy_part))
                    .with("excesses_to", Address(payout.excesses_to)),
            }
        }
        Body::ClientProxyRequest { owner, counters, request, .. } => {
            let record = record
                .with("owner", Address(*owner))
                .with("client_contract", Text(status_words(counters.status).to_owned()))
                .with("balance", Coins(counters.balance))
                .with("stake", Coins(counters.stake))
                .with("tokens_used", Tokens(counters.tokens_used))
                .with("secret_hash", Hash(counters.secret_hash));
            record.with_some("request", request.as_ref().map(|request| Part(client_request(request))))
        }
        Body::RefundUnpaid { amount, excesses_to, .. } => {
            record.with("unpaid", Coins(*amount)).with("excesses_to", Address(*excesses_to))
        }
        Body::IncreaseProxyStake { amount, excesses_to, .. }
        | Body::TopUpClient { amount, excesses_to, .. } => {
            record.with("amount", Coins(*amount)).with("excesses_to", Address(*excesses_to))
        }
        Body::ProxyPayout { excesses_to, .. }
        | Body::OwnerCloseProxy { excesses_to, .. }
        | Body::RegisterWorker { excesses_to, .. }
        | Body::RequestRefund { excesses_to, .. }
        | Body::WithdrawClient { excesses_to, .. } => record.with("excesses_to", Address(*excesses_to)),
        Body::SignedProxyClose(close) => signed_close(close, record, known),
        Body::SignedPayment(payment) => signed_payment(payment, record, known),
        Body::RegisterClient { nonce, excesses_to, .. } => {
            record.with("nonce", Number(*nonce)).with("excesses_to", Address(*excesses_to))
        }
        Body::ChangeSecretHash { secret_hash, excesses_to, .. } => {
            record.with("secret_hash", Hash(*secret_hash)).with("excesses_to", Address(*excesses_to))
        }
        Body::ChangeSecretHashAndTopUp { amount, secret_hash, excesses_to, .. } => record
            .with("amount", Coins(*amount))
            .with("secret_hash", Hash(*secret_hash))
            .with("excesses_to", Address(*excesses_to)),
        Body::IncreaseClientStake { stake, excesses_to, .. } => {
            record.with("stake", Coins(*stake)).with("excesses_to", Address(*excesses_to))
        }
        Body::WalletSend { mode, message, .. } => {
            let inner = message::describe_order(message, known.deeper());
            record.with("mode", Small((*mode).into())).with("message", Part(inner))
        }
        Body::Root { change, .. } => root_change(change, record),
        Body::Bounced(original) => record.with("it_said", Part(describe(original, known.deeper()))),
        Body::BouncedOp { op } => record.with("it_was", Text(operation(*op))),
        Body::Unknown { op } => record.with_some("operation", op.map(|op| Text(operation(op)))),
    }
}

/// A code with its name, where it has one.
fn operation(op: u32) -> String {
    match operation_name(op) {
        Some(name) => format!("{op:#010x} ({name})"),
        None => format!("{op:#010x}"),
    }
}

/// What a contract of Cocoon's makes of a text.
fn command(text: &str) -> Option<&'static str> {
    match text {
        "c" => Some("close: asks a client or proxy contract to close"),
        "w" => Some(
            "withdraw: takes all coins out of a node wallet, or what is owed out of a proxy or root contract",
        ),
        "b" => Some("block: a node wallet stops obeying its key"),
        "u" => Some("unblock: a node wallet obeys its key again"),
        _ => None,
    }
}

pub(super) const fn status_words(status: ContractStatus) -> &'static str {
    match status {
        ContractStatus::Open => "open",
        ContractStatus::Closing => "closing",
        ContractStatus::Closed => "closed",
    }
}

fn client_request(request: &ClientRequest) -> Record {
    let words = match request {
        ClientRequest::TopUp { .. } => "keep the coins that come with this",
        ClientRequest::Register { .. } => "the answer to a long authorisation",
        ClientRequest::RefundGranted { .. } => "pay back what the proxy granted, or what was above the stake",
        ClientRequest::RefundForced { .. } => "pay back the balance: the delay is over",
    };
    let record = Record::new("request", request.name(), words);
    match request {
        ClientRequest::Register { nonce } => record.with("nonce", Value::Number(*nonce)),
        ClientRequest::TopUp { amount, excesses_to }
        | ClientRequest::RefundGranted { amount, excesses_to }
        | ClientRequest::RefundForced { amount, excesses_to } => {
            record.with("amount", Value::Coins(*amount)).with("excesses_to", Value::Address(*excesses_to))
        }
    }
}

fn signed_payment(payment: &SignedPayment, record: Record, known: Known) -> Record {
    let order = payment.order();
    let signed = Record::new("order", "", "signed by the proxy")
        .with("operation", Value::Text(operation(order.kind.operation())))
        .with("query_id", Value::Number(order.query_id))
        .with("tokens_in_all", Value::Tokens(order.tokens))
        .with("contract", Value::Address(order.contract));
    let verified = known.proxy_key.map(|key| payment.verify(&key, order.kind, &order.contract).is_ok());
    record
        .with("order", Value::Part(signed))
        .with("signature", signature_words(verified))
        .with("excesses_to", Value::Address(order.excesses_to))
}

fn signed_close(close: &SignedProxyClose, record: Record, known: Known) -> Record {
    let step = match close.kind {
        ProxyCloseKind::Close => "start closing: the delay begins",
        ProxyCloseKind::Complete => "complete the close, after the delay",
    };
    let signed = Record::new("order", "", "signed by the proxy")
        .with("operation", Value::Text(operation(close.kind.operation())))
        .with("step", Value::Text(step.to_owned()))
        .with("query_id", Value::Number(close.query_id))
        .with("contract", Value::Address(close.contract));
    let verified = known.proxy_key.map(|key| close.verify(&key, &close.contract).is_ok());
    record
        .with("order", Value::Part(signed))
        .with("signature", signature_words(verified))
        .with("excesses_to", Value::Address(close.excesses_to))
}

fn signature_words(verified: Option<bool>) -> Value {
    let words = match verified {
        Some(true) => "valid: made with the proxy's key",
        Some(false) => "NOT VALID: not made with this proxy's key",
        None => "not checked; give the proxy's key with --proxy-key",
    };
    Value::Text(words.to_owned())
}

fn root_change(change: &RootChange, record: Record) -> Record {
    use Value::{Address, Coins, Hash, Small, Span, Text};
    match change {
        RootChange::AddWorkerImage(hash)
        | RootChange::DelWorkerImage(hash)
        | RootChange::AddProxyImage(hash)
        | RootChange::DelProxyImage(hash) => record.with("image_hash", Hash(*hash)),
        RootChange::AddModel(hash) | RootChange::DelModel(hash) => record.with("model_hash", Hash(*hash)),
        RootChange::RegisterProxy(endpoints) => record.with("endpoints", Text(endpoints.to_string())),
        RootChange::UnregisterProxy(seqno) => record.with("number", Small((*seqno).into())),
        RootChange::UpdateProxy { seqno, endpoints } => {
            record.with("number", Small((*seqno).into())).with("endpoints", Text(endpoints.to_string()))
        }
        RootChange::ChangePrices { price, worker_fee } => {
            record.with("price_per_token", Coins(*price)).with("worker_fee_per_token", Coins(*worker_fee))
        }
        RootChange::ChangeParams {
            price,
            worker_fee,
            proxy_delay,
            client_delay,
            min_proxy_stake,
            min_client_stake,
        } => record
            .with("price_per_token", Coins(*price))
            .with("worker_fee_per_token", Coins(*worker_fee))
            .with("proxy_delay", Span((*proxy_delay).into()))
            .with("client_delay", Span((*client_delay).into()))
            .with("min_proxy_stake", Coins(*min_proxy_stake))
            .with("min_client_stake", Coins(*min_client_stake)),
        RootChange::UpgradeContracts { proxy, worker, client } => record
            .with("proxy_code_hash", Hash(proxy.hash()))
            .with("worker_code_hash", Hash(worker.hash()))
            .with("client_code_hash", Hash(client.hash())),
        RootChange::UpgradeCode(code) => record.with("code_hash", Hash(code.hash())),
        RootChange::UpgradeFull { data, code } => {
            record.with("data_hash", Hash(data.repr_hash().0)).with("code_hash", Hash(code.hash()))
        }
        RootChange::Reset => record,
        RootChange::ChangeOwner(owner) => record.with("owner", Address(*owner)),
    }
}
