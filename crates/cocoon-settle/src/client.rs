//! A client's side: coins go into a channel at each proxy, little by little and within a budget, and come back.
//!
//! A channel is the client's contract at one proxy. It is opened with as little as the root allows and topped up as it is
//! used. When the proxy contract closes, or the client wants to leave, it asks for its coins: the proxy grants them at
//! once, or the client takes them itself after its own delay, which is shorter than the proxy's.

use cocoon_ton::Address;
use cocoon_ton::contracts::{ClientState, ContractStatus, ProxyState, StateInit};
use cocoon_ton::message::Body;
use cocoon_ton::payment::SignedPayment;

use crate::{
    COMMISSION_NANOTON, Hold, Plan, Purpose, Transfer, WORTH_FETCHING_NANOTON, commission, cost, share,
};

/// From so many coins on, in nanoton, a proxy contract pays a part of a refund: 0.05 TON beyond what it keeps for its
/// storage, and a little for what storage takes until then.
const SMALLEST_PART_NANOTON: u64 = 70_000_000;

/// How a client spends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientPolicy {
    /// What a channel is opened with and topped up to; never less than the stake that the root asks of clients.
    pub deposit_nanoton: u64,
    /// What all channels together may ever take: what is in them, and what was spent from them.
    pub budget_nanoton: u64,
    /// Top up once less than so many percent of the deposit is unspent.
    pub top_up_below_percent: u64,
    /// Put the proxy's newest charge on chain oneself once so many percent of what may stay uncharged is used: a proxy
    /// does so earlier, unless it neglects it.
    pub charge_at_percent: u64,
    /// Whether a proxy must have the stake that the root asks of it. Published proxies have none.
    pub require_proxy_stake: bool,
}

impl Default for ClientPolicy {
    /// The least deposit, once, and no automatic top-up beyond it.
    fn default() -> Self {
        Self {
            deposit_nanoton: 0,
            budget_nanoton: 0,
            top_up_below_percent: 50,
            charge_at_percent: 80,
            require_proxy_stake: true,
        }
    }
}

/// What the client wants with a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Use it; deploy it where the budget allows.
    Use,
    /// Get everything back.
    Leave,
}

/// A client's contract at one proxy, as the chain shows it.
#[derive(Debug, Clone)]
pub struct ClientChannel {
    /// The client contract.
    pub contract: Address,
    /// Deploys it.
    pub init: StateInit,
    /// The stake that it starts with.
    pub min_stake_nanoton: u64,
    /// Its state; `None` before the first deposit.
    pub state: Option<ClientState>,
    /// Its coins.
    pub held_nanoton: u64,
    /// The proxy contract; `None` where it is not there.
    pub proxy: Option<ProxyState>,
    /// Coins of the proxy contract.
    pub proxy_held_nanoton: u64,
    /// The newest charge that the proxy signed.
    pub charge: Option<SignedPayment>,
    /// The refund that the proxy signed, if it did.
    pub refund: Option<SignedPayment>,
    /// A nonce that the proxy waits to see registered.
    pub registration: Option<u64>,
    /// SHA-256 of the secret for short authorisation.
    pub secret_hash: [u8; 32],
    /// What is wanted.
    pub intent: Intent,
}

impl ClientChannel {
    /// Tokens that the proxy has signed for and the chain does not know yet.
    fn uncharged_tokens(&self, state: &ClientState) -> u64 {
        let signed = self.charge.as_ref().map_or(0, |charge| charge.order().tokens);
        signed.saturating_sub(state.tokens_used)
    }

    /// Coins in the channel and spent from it, in nanoton: what counts against the budget.
    pub fn committed_nanoton(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| {
            let spent = cost(state.tokens_used, state.params.price_per_token_nanoton);
            state.balance_nanoton.saturating_add(spent)
        })
    }

    /// Coins in the channel that nothing signed covers, in nanoton.
    pub fn unspent_nanoton(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| {
            let uncharged = cost(self.uncharged_tokens(state), state.params.price_per_token_nanoton);
            state.balance_nanoton.saturating_sub(uncharged)
        })
    }

    fn message(&self, value_nanoton: u64, body: Body, purpose: Purpose) -> Transfer {
        Transfer { to: self.contract, value_nanoton, init: None, body, purpose }
    }
}

/// A client as a whole.
#[derive(Debug)]
pub struct ClientView<'a> {
    /// Chain time, in Unix seconds.
    pub now: u64,
    /// The client's wallet, which owns the contracts.
    pub wallet: Address,
    /// All channels ever opened, and those that shall be.
    pub channels: &'a [ClientChannel],
    /// Names the messages of this plan; the contracts echo it.
    pub query_id: u64,
}

/// What to send for all channels. Cut it with [`Plan::fit`].
pub fn plan(policy: &ClientPolicy, view: &ClientView<'_>) -> Plan {
    let committed = view.channels.iter().map(ClientChannel::committed_nanoton).fold(0, u64::saturating_add);
    let mut planner = Planner { policy, view, budget: policy.budget_nanoton.saturating_sub(committed) };
    let mut plan = Plan { finished: true, ..Plan::default() };
    // Whoever wants to leave comes first: it is about time, and brings coins.
    for intent in [Intent::Leave, Intent::Use] {
        for channel in view.channels {
            let closing = channel.proxy.as_ref().is_some_and(|proxy| proxy.status != ContractStatus::Open);
            let wanted = if closing { Intent::Leave } else { channel.intent };
            if wanted == intent {
                plan.join(match intent {
                    Intent::Leave => planner.leave(channel),
                    Intent::Use => planner.keep(channel),
                });
            }
        }
    }
    plan
}

struct Planner<'a> {
    policy: &'a ClientPolicy,
    view: &'a ClientView<'a>,
    /// What of the budget is left.
    budget: u64,
}

impl Planner<'_> {
    fn keep(&mut self, channel: &ClientChannel) -> Plan {
        let mut plan = Plan::default();
        let Some(proxy) = &channel.proxy else {
            plan.hold = Some(Hold::new("the proxy's contract is not on the chain yet"));
            return plan;
        };
        let lacking = proxy.params.min_proxy_stake_nanoton.saturating_sub(proxy.stake_nanoton);
        let trusted = lacking == 0 || !self.policy.require_proxy_stake;
        if !trusted {
            plan.hold = Some(Hold::new(
                "the proxy has not the stake that the root asks for (published proxies have none: see \
                 require_proxy_stake)",
            ));
        }
        match &channel.state {
            None if trusted => self.open(channel, &mut plan),
            None => {}
            Some(state) if state.status == ContractStatus::Open => {
                if trusted {
                    self.top_up(channel, state, &mut plan);
                }
                self.charge(channel, state, &mut plan);
            }
            Some(_) => {
                plan.join(self.leave(channel));
                plan.hold = Some(Hold::new("the channel with this proxy is closed for good"));
            }
        }
        plan.finished = false;
        plan
    }

    fn deposit(&self, channel: &ClientChannel) -> u64 {
        self.policy.deposit_nanoton.max(channel.min_stake_nanoton)
    }

    fn open(&mut self, channel: &ClientChannel, plan: &mut Plan) {
        let amount = self.deposit(channel);
        if amount > self.budget {
            plan.hold = Some(Hold::new("the budget does not allow for another channel"));
            return;
        }
        self.budget -= amount;
        let body = Body::ChangeSecretHashAndTopUp {
            query_id: self.view.query_id,
            amount,
            secret_hash: channel.secret_hash,
            excesses_to: self.view.wallet,
        };
        let value = amount.saturating_add(commission(channel.held_nanoton));
        let mut transfer = channel.message(value, body, Purpose::OpenChannel { amount });
        transfer.init = Some(channel.init.clone());
        plan.send(transfer);
        self.register(channel, plan);
    }

    fn register(&self, channel: &ClientChannel, plan: &mut Plan) {
        if let Some(nonce) = channel.registration {
            let query_id = self.view.query_id;
            let body = Body::RegisterClient { query_id, nonce, excesses_to: self.view.wallet };
            plan.send(channel.message(commission(channel.held_nanoton), body, Purpose::Register));
        }
    }

    fn top_up(&mut self, channel: &ClientChannel, state: &ClientState, plan: &mut Plan) {
        let query_id = self.view.query_id;
        let excesses_to = self.view.wallet;
        let (deposit, unspent) = (self.deposit(channel), channel.unspent_nanoton());
        let amount = (deposit.saturating_sub(unspent)).min(self.budget);
        // Little by little, but never so little that the fees matter.
        let worth = amount >= share(deposit, 10).max(1);
        let new_secret = state.secret_hash != channel.secret_hash;
        if worth && unspent < share(deposit, self.policy.top_up_below_percent) {
            self.budget -= amount;
            let value = amount.saturating_add(commission(channel.held_nanoton));
            let body = if new_secret {
                let secret_hash = channel.secret_hash;
                Body::ChangeSecretHashAndTopUp { query_id, amount, secret_hash, excesses_to }
            } else {
                Body::TopUpClient { query_id, amount, excesses_to }
            };
            plan.send(channel.message(value, body, Purpose::TopUp { amount }));
        } else if new_secret {
            let secret_hash = channel.secret_hash;
            let body = Body::ChangeSecretHash { query_id, secret_hash, excesses_to };
            plan.send(channel.message(commission(channel.held_nanoton), body, Purpose::ChangeSecret));
        } else if unspent == 0 {
            plan.hold = Some(Hold::new("the channel is used up, and the budget does not allow for more"));
        }
        self.register(channel, plan);
    }

    /// A proxy that never charges would leave the client without credit: what may stay uncharged is limited.
    fn charge(&self, channel: &ClientChannel, state: &ClientState, plan: &mut Plan) {
        let uncharged = channel.uncharged_tokens(state);
        let used = cost(uncharged, state.params.price_per_token_nanoton);
        let credit = state.balance_nanoton.min(state.stake_nanoton);
        if let Some(charge) = channel.charge
            && uncharged > 0
            && used >= share(credit, self.policy.charge_at_percent)
        {
            let tokens = charge.order().tokens;
            let body = Body::SignedPayment(charge.with_excesses_to(self.view.wallet));
            plan.send(channel.message(commission(channel.held_nanoton), body, Purpose::Charge { tokens }));
        }
    }

    fn leave(&self, channel: &ClientChannel) -> Plan {
        let mut plan = Plan::default();
        let Some(state) = &channel.state else {
            plan.finished = true;
            return plan;
        };
        let query_id = self.view.query_id;
        let excesses_to = self.view.wallet;
        let closed = state.status == ContractStatus::Closed;
        if closed && state.balance_nanoton == 0 {
            if channel.held_nanoton >= WORTH_FETCHING_NANOTON {
                let body = Body::WithdrawClient { query_id, excesses_to };
                plan.send(channel.message(COMMISSION_NANOTON, body, Purpose::TakeLeftover));
            } else {
                plan.finished = true;
            }
            return plan;
        }
        // A closed contract has a balance where the proxy contract could not pay. It can once it holds coins again.
        if closed && channel.proxy_held_nanoton < SMALLEST_PART_NANOTON {
            plan.hold = Some(Hold::new(
                "the proxy contract has no coins to refund; anybody can send it some, then it goes on",
            ));
            return plan;
        }
        let value = commission(channel.held_nanoton);
        if let Some(refund) = channel.refund.filter(|refund| refund.order().tokens >= state.tokens_used) {
            let tokens = refund.order().tokens;
            let body = Body::SignedPayment(refund.with_excesses_to(excesses_to));
            plan.send(channel.message(value, body, Purpose::GrantRefund { tokens }));
            return plan;
        }
        let body = Body::RequestRefund { query_id, excesses_to };
        let amount = state.balance_nanoton;
        match state.status {
            ContractStatus::Open => plan.send(channel.message(value, body, Purpose::RequestRefund)),
            ContractStatus::Closing | ContractStatus::Closed => {
                let unlock = u64::from(state.unlock_unix_time);
                if unlock < self.view.now {
                    plan.send(channel.message(value, body, Purpose::ForceRefund { amount }));
                } else {
                    plan.wait_until(unlock + 1);
                }
            }
        }
        plan
    }
}
