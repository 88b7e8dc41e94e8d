//! How the settlement stands, for operators.

use cocoon_chain::settler::SettlementStatus;
use cocoon_settle::client::ClientChannel;
use cocoon_ton::Address;
use cocoon_ton::contracts::ContractStatus;
use serde_json::{Value, json};

/// How a gateway's settlement stands. Amounts are in nanoton, counts in adjusted tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct SettlementReport {
    /// The wallet, its coins, what it lacks, and what fails.
    pub status: SettlementStatus,
    /// What all channels together may ever take.
    pub budget_nanoton: u64,
    /// What they have taken: what is in them, and what was spent from them.
    pub committed_nanoton: u64,
    /// Each channel that is not over.
    pub channels: Vec<ChannelReport>,
}

/// How a channel stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelReport {
    /// The client contract.
    pub contract: Address,
    /// The proxy contract.
    pub proxy: Address,
    /// The proxy's key.
    pub proxy_public_key: [u8; 32],
    /// The client contract's state; `None` before the first deposit.
    pub status: Option<ContractStatus>,
    /// Coins that it counts.
    pub balance_nanoton: u64,
    /// Those that no signed charge covers.
    pub unspent_nanoton: u64,
    /// Charged on chain.
    pub tokens_charged: u64,
    /// Signed for by the proxy since the gateway's start; at least what is charged.
    pub tokens_signed: u64,
    /// Unix time from which a closing contract may be refunded without the proxy; 0 where it is not closing.
    pub unlock_unix_time: u32,
    /// Whether a connection to the proxy is up.
    pub connected: bool,
    /// Whether everything is being got back.
    pub leaving: bool,
}

impl SettlementReport {
    pub(super) fn new(status: SettlementStatus, budget_nanoton: u64) -> Self {
        Self { status, budget_nanoton, committed_nanoton: 0, channels: Vec::new() }
    }

    /// For people and programs.
    pub(crate) fn to_json(&self) -> Value {
        let needs = self.status.needs.map(|needs| {
            json!({
                "purpose": needs.purpose.to_string(),
                "missing_nanoton": needs.missing_nanoton,
                "link": needs.link(),
            })
        });
        json!({
            "wallet": self.status.wallet.to_string(),
            "balance_nanoton": self.status.balance_nanoton,
            "budget_nanoton": self.budget_nanoton,
            "committed_nanoton": self.committed_nanoton,
            "needs": needs,
            "hold": self.status.hold,
            "error": self.status.error,
            "seen_unix_seconds": self.status.seen_unix_time,
            "messages_sent": self.status.sent,
            "fees_nanoton": self.status.fees_nanoton,
            "channels": self.channels.iter().map(ChannelReport::to_json).collect::<Vec<_>>(),
        })
    }
}

impl ChannelReport {
    pub(super) fn of(channel: &ClientChannel, key: [u8; 32], proxy: Address, connected: bool) -> Self {
        let state = channel.state.as_ref();
        let charged = state.map_or(0, |state| state.tokens_used);
        let signed = channel.charge.map_or(0, |charge| charge.order().tokens);
        Self {
            contract: channel.contract,
            proxy,
            proxy_public_key: key,
            status: state.map(|state| state.status),
            balance_nanoton: state.map_or(0, |state| state.balance_nanoton),
            unspent_nanoton: channel.unspent_nanoton(),
            tokens_charged: charged,
            tokens_signed: signed.max(charged),
            unlock_unix_time: state.map_or(0, |state| state.unlock_unix_time),
            connected,
            leaving: channel.intent == cocoon_settle::client::Intent::Leave,
        }
    }

    fn to_json(&self) -> Value {
        let status = match self.status {
            None => "not_deployed",
            Some(ContractStatus::Open) => "open",
            Some(ContractStatus::Closing) => "closing",
            Some(ContractStatus::Closed) => "closed",
        };
        json!({
            "contract": self.contract.to_string(),
            "proxy": self.proxy.to_string(),
            "proxy_public_key": hex::encode(self.proxy_public_key),
            "status": status,
            "balance_nanoton": self.balance_nanoton,
            "unspent_nanoton": self.unspent_nanoton,
            "tokens_charged": self.tokens_charged,
            "tokens_signed": self.tokens_signed,
            "unlock_unix_seconds": self.unlock_unix_time,
            "connected": self.connected,
            "leaving": self.leaving,
        })
    }
}
