//! Transactions: what came in, what the contract made of it, what went out, and what it cost.

use cocoon_chain::{Compute, SkipReason, Transaction};
use cocoon_ton::Cell;
use cocoon_ton::message::exit_code_words;
use tycho_types::models::{
    AccountStatus, ActionPhase, BouncePhase, ComputePhase, ComputePhaseSkipReason,
    Transaction as RawTransaction, TxInfo,
};

use super::body::Known;
use super::message::{describe_sent, with_any_body};
use crate::record::{Record, Value};

/// First four bits of every transaction's cell.
const TAG: u8 = 0b0111;

/// A transaction's cell with all that it says; `None` where it is none.
pub(super) fn describe_cell(cell: &Cell, known: Known) -> Option<Record> {
    if cell.as_slice().ok()?.load_uint(4).ok()? != u64::from(TAG) {
        return None;
    }
    let raw: RawTransaction = cell.parse().ok()?;
    let record = Record::new("transaction", "", "transaction")
        .with("account_hash", Value::Hash(raw.account.0))
        .with("time", Value::Time(raw.now.into()))
        .with("lt", Value::Number(raw.lt))
        .with("hash", Value::Hash(cell.repr_hash().0));
    let message = |cell: &Cell| {
        describe_sent(cell, known).unwrap_or_else(|| Record::new("message", "", "a cell that is no message"))
    };
    let record = record.with_some("in_message", raw.in_msg.as_ref().map(|cell| Value::Part(message(cell))));
    let record = match raw.load_info().ok()? {
        TxInfo::Ordinary(info) => {
            let storage = info
                .storage_phase
                .and_then(|phase| phase.storage_fees_collected.into_inner().try_into().ok());
            let record = outcome(record, &info.compute_phase)
                .with_some("actions", info.action_phase.as_ref().and_then(actions))
                .with_some("sent_back", info.bounce_phase.as_ref().map(sent_back))
                .with_some("destroyed", info.destroyed.then_some(Value::Flag(true)));
            record.with_some("storage_fee", storage.map(Value::Coins))
        }
        TxInfo::TickTock(info) => outcome(record, &info.compute_phase),
    };
    let record =
        record.with("fees_in_all", Value::Coins(u64::try_from(raw.total_fees.tokens.into_inner()).ok()?));
    let record = record.with_some("now", status_change(raw.orig_status, raw.end_status));
    let out: Option<Vec<Record>> =
        raw.out_msgs.values().map(|cell| cell.ok().map(|cell| message(&cell))).collect();
    Some(with_out(record, out?))
}

fn with_out(record: Record, out: Vec<Record>) -> Record {
    record.with_some("out_messages", (!out.is_empty()).then_some(Value::Parts(out)))
}

fn outcome(record: Record, phase: &ComputePhase) -> Record {
    match phase {
        ComputePhase::Skipped(skipped) => {
            let reason = match skipped.reason {
                ComputePhaseSkipReason::NoState => SkipReason::NoState,
                ComputePhaseSkipReason::BadState => SkipReason::BadState,
                ComputePhaseSkipReason::NoGas => SkipReason::NoGas,
                ComputePhaseSkipReason::Suspended => SkipReason::Suspended,
            };
            skipped_words(record, reason)
        }
        ComputePhase::Executed(ran) => {
            let record = ran_words(record, ran.exit_code, ran.gas_used.into_inner());
            record.with_some("gas_fee", ran.gas_fees.into_inner().try_into().ok().map(Value::Coins))
        }
    }
}

fn skipped_words(record: Record, reason: SkipReason) -> Record {
    let words = match reason {
        SkipReason::NoState => "no contract there: nothing ran",
        SkipReason::BadState => "the message brought a contract that does not belong there: nothing ran",
        SkipReason::NoGas => "too few coins for any gas: nothing ran, as is meant for notices of 1 nanoton",
        SkipReason::Suspended => "the account is suspended: nothing ran",
    };
    record.with("outcome", Value::Text(words.to_owned()))
}

fn ran_words(record: Record, exit_code: i32, gas_used: u64) -> Record {
    record
        .with("outcome", Value::Text(exit_code_words(exit_code).to_owned()))
        .with("exit_code", Value::Small(exit_code.into()))
        .with("gas_used", Value::Number(gas_used))
}

/// What became of the actions, where something is to be said of it.
fn actions(phase: &ActionPhase) -> Option<Value> {
    if phase.success && phase.skipped_actions == 0 {
        return None;
    }
    let (all, left_out) = (phase.total_actions, phase.skipped_actions);
    let text = if phase.success {
        format!("{left_out} of {all} left out, as the contract allowed")
    } else {
        format!("failed: {} (code {})", exit_code_words(phase.result_code), phase.result_code)
    };
    Some(Value::Text(text))
}

fn sent_back(phase: &BouncePhase) -> Value {
    let words = match phase {
        BouncePhase::NegativeFunds => "no: nothing is left to send back",
        BouncePhase::NoFunds(_) => "no: too few coins are left for the way",
        BouncePhase::Executed(_) => "yes: the coins went back to the sender",
    };
    Value::Text(words.to_owned())
}

fn status_change(before: AccountStatus, after: AccountStatus) -> Option<Value> {
    let words = match after {
        AccountStatus::Active => "active: the contract is deployed",
        AccountStatus::Frozen => "frozen: it owes storage fees",
        AccountStatus::Uninit => "has coins, but no contract",
        AccountStatus::NotExists => "gone",
    };
    (before != after).then(|| Value::Text(words.to_owned()))
}

/// A transaction as a chain's view tells it.
pub(super) fn describe_view(transaction: &Transaction, known: Known) -> Record {
    let record = Record::new("transaction", "", "transaction")
        .with("account", Value::Address(transaction.account))
        .with("time", Value::Time(transaction.unix_time))
        .with("lt", Value::Number(transaction.id.lt))
        .with("hash", Value::Hash(transaction.id.hash))
        .with_some(
            "in_message",
            transaction.in_message.as_ref().map(|message| Value::Part(view_of(message, known))),
        );
    let record = match transaction.compute {
        Compute::Skipped(reason) => skipped_words(record, reason),
        Compute::Ran { exit_code, gas_used } => ran_words(record, exit_code, gas_used),
    };
    let record = record.with("fees_in_all", Value::Coins(transaction.fee_nanoton));
    let out = transaction.out_messages.iter().map(|message| view_of(message, known));
    with_out(record, out.collect())
}

fn view_of(message: &cocoon_chain::Message, known: Known) -> Record {
    let words = match (message.source, message.destination, message.bounced) {
        (None, _, _) => "message from outside",
        (_, None, _) => "message to outside",
        (_, _, true) => "message that came back",
        (_, _, false) => "message",
    };
    let inside = message.source.is_some() && message.destination.is_some();
    let record = Record::new("message", "", words)
        .with_some("from", message.source.map(Value::Address))
        .with_some("to", message.destination.map(Value::Address))
        .with_some("value", inside.then_some(Value::Coins(message.value_nanoton)))
        .with_some("bounced", message.bounced.then_some(Value::Flag(true)));
    with_any_body(record, &message.body, message.source.is_none(), known)
}
