//! A proxy's side: its contract, the charges of its clients, its own earnings, and the way out.
//!
//! A proxy contract belongs to one set of the root's parameters. When those change, the proxy deploys another and winds the
//! old one up, by the same plan with another [`Intent`]; nothing of it is forgotten until the last coin is out.

use cocoon_ton::Address;
use cocoon_ton::contracts::{ClientState, ContractStatus, ProxyState, StateInit, WorkerState};
use cocoon_ton::message::Body;
use cocoon_ton::payment::SignedPayment;

use crate::{
    COMMISSION_NANOTON, Hold, PROXY_ENDOWMENT_NANOTON, Plan, Purpose, Transfer, WORTH_FETCHING_NANOTON,
    commission, cost, share,
};

/// How a proxy settles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyPolicy {
    /// Stake beyond what the root asks for.
    pub extra_stake_nanoton: u64,
    /// Put a client's charge on chain once so many percent of what may stay uncharged is used.
    pub charge_at_percent: u64,
    /// Take the earnings once there are so many.
    pub withdraw_at_nanoton: u64,
    /// Commit the books' position at least this often while they move, in seconds.
    pub commit_every_seconds: u64,
}

impl Default for ProxyPolicy {
    /// Charge a little before half, at which published clients do it themselves; take earnings at 1 TON; commit hourly.
    fn default() -> Self {
        Self {
            extra_stake_nanoton: 0,
            charge_at_percent: 45,
            withdraw_at_nanoton: 1_000_000_000,
            commit_every_seconds: 3600,
        }
    }
}

/// What is wanted with a proxy contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Serve with it; deploy it where it is not there.
    Serve,
    /// Refund all clients, close it, and take out what is the proxy's.
    WindUp,
}

/// How far the books are with closing an account for good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Closing {
    /// Requests are under way, or the closing is not durable yet: ask again.
    NotYet,
    /// Closed; this is the last order.
    Done(SignedPayment),
}

/// What the books sign. Nothing that is not durable is ever signed.
pub trait Books {
    /// The newest charge of the client with this contract.
    fn charge(&mut self, client: &Address) -> Option<SignedPayment>;
    /// Ends a client's account and signs its refund.
    fn close_client(&mut self, client: &Address) -> Closing;
    /// Ends a worker's account and signs its last payout.
    fn close_worker(&mut self, worker: &Address) -> Closing;
    /// Signs the start, or the completion, of closing the proxy contract.
    fn close_proxy(&mut self, proxy: &Address, complete: bool) -> Body;
}

/// A client's contract at this proxy, as the chain shows it. Clients whose contract is closed and empty may be left out.
#[derive(Debug, Clone)]
pub struct ClientAccount {
    /// The client contract.
    pub contract: Address,
    /// Its state; `None` where it is not deployed.
    pub state: Option<ClientState>,
    /// Its coins.
    pub held_nanoton: u64,
    /// Tokens that the books would sign for.
    pub signed_tokens: u64,
}

/// A worker's contract at this proxy, as the chain shows it. Matters for winding up only.
#[derive(Debug, Clone)]
pub struct WorkerAccount {
    /// The worker contract.
    pub contract: Address,
    /// Its state; `None` where it is not deployed.
    pub state: Option<WorkerState>,
    /// Its coins.
    pub held_nanoton: u64,
}

/// Commits of the books' position in the proxy contract's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Commits {
    /// Number of the newest; 0 for none.
    pub seqno: u32,
    /// Position of the books that it names.
    pub position: u64,
    /// When it was made, in Unix seconds.
    pub unix_time: u64,
}

/// A proxy contract and all that hangs on it.
#[derive(Debug)]
pub struct ProxyView<'a> {
    /// Chain time, in Unix seconds.
    pub now: u64,
    /// The proxy's wallet.
    pub wallet: Address,
    /// The proxy contract.
    pub contract: Address,
    /// Deploys it.
    pub init: &'a StateInit,
    /// The stake that the root asks for.
    pub min_stake_nanoton: u64,
    /// Its state; `None` where it is not deployed.
    pub state: Option<&'a ProxyState>,
    /// Its coins.
    pub held_nanoton: u64,
    /// Its clients.
    pub clients: &'a [ClientAccount],
    /// Its workers.
    pub workers: &'a [WorkerAccount],
    /// What is committed.
    pub commits: Commits,
    /// How far the books are durable.
    pub position: u64,
    /// What is wanted.
    pub intent: Intent,
    /// Names the messages of this plan; the contracts echo it.
    pub query_id: u64,
}

/// What to send for one proxy contract. Cut it with [`Plan::fit`].
pub fn plan(policy: &ProxyPolicy, view: &ProxyView<'_>, books: &mut impl Books) -> Plan {
    let mut planner = Planner { policy, view, books, plan: Plan::default() };
    match view.state {
        None => planner.deploy(),
        Some(state) => match (state.status, view.intent) {
            (ContractStatus::Open, Intent::Serve) => planner.serve(state),
            (ContractStatus::Open, Intent::WindUp) => planner.start_close(),
            (ContractStatus::Closing, _) => planner.close(state),
            (ContractStatus::Closed, _) => planner.take_rest(state),
        },
    }
    planner.plan
}

struct Planner<'a, B> {
    policy: &'a ProxyPolicy,
    view: &'a ProxyView<'a>,
    books: &'a mut B,
    plan: Plan,
}

impl<B: Books> Planner<'_, B> {
    fn tell_proxy(&mut self, value_nanoton: u64, body: Body, purpose: Purpose) {
        let to = self.view.contract;
        self.plan.send(Transfer { to, value_nanoton, init: None, body, purpose });
    }

    fn deploy(&mut self) {
        if self.view.intent == Intent::WindUp {
            self.plan.finished = true;
            return;
        }
        self.plan.hold = Some(Hold::new("the proxy's contract is not on the chain yet"));
        let stake = self.view.min_stake_nanoton.saturating_add(self.policy.extra_stake_nanoton);
        let (query_id, excesses_to) = (self.view.query_id, self.view.wallet);
        let own = stake.saturating_add(PROXY_ENDOWMENT_NANOTON);
        // An empty message leaves the endowment there; the stake's message would send it back as excess.
        self.plan.send(Transfer {
            to: self.view.contract,
            value_nanoton: PROXY_ENDOWMENT_NANOTON,
            init: Some(self.view.init.clone()),
            body: Body::DoNotProcess { query_id },
            purpose: Purpose::DeployProxy { stake: own },
        });
        if stake > 0 {
            let body = Body::IncreaseProxyStake { query_id, amount: stake, excesses_to };
            self.tell_proxy(
                stake.saturating_add(COMMISSION_NANOTON),
                body,
                Purpose::AddStake { amount: stake },
            );
        }
    }

    fn serve(&mut self, state: &ProxyState) {
        let lacking = self
            .view
            .min_stake_nanoton
            .saturating_add(self.policy.extra_stake_nanoton)
            .saturating_sub(state.stake_nanoton);
        let (query_id, excesses_to) = (self.view.query_id, self.view.wallet);
        if state.stake_nanoton < self.view.min_stake_nanoton {
            self.plan.hold = Some(Hold::new("the proxy's stake is below what the root asks for"));
        }
        for client in self.view.clients {
            self.settle_client(client);
        }
        // Only after the charges and refunds: those are about time.
        if lacking > 0 {
            let body = Body::IncreaseProxyStake { query_id, amount: lacking, excesses_to };
            let value = lacking.saturating_add(COMMISSION_NANOTON);
            self.tell_proxy(value, body, Purpose::AddStake { amount: lacking });
        }
        // The contract pays no more than what it holds beyond the stake.
        let amount = state.balance_nanoton.min(self.view.held_nanoton.saturating_sub(state.stake_nanoton));
        if amount >= self.policy.withdraw_at_nanoton.max(1) {
            let body = Body::ProxyPayout { query_id, excesses_to };
            self.tell_proxy(COMMISSION_NANOTON, body, Purpose::TakeEarnings { amount });
        }
        self.commit();
    }

    fn settle_client(&mut self, client: &ClientAccount) {
        let Some(state) = &client.state else { return };
        match state.status {
            ContractStatus::Open => {
                let credit = state.balance_nanoton.min(state.stake_nanoton);
                self.charge(client, state, share(credit, self.policy.charge_at_percent));
            }
            // It wants to leave: granting it at once charges it exactly, before it can leave uncharged.
            ContractStatus::Closing => {
                self.grant(client, state.tokens_used);
            }
            ContractStatus::Closed => {}
        }
    }

    /// Puts what a client has used on chain, if it is worth so much.
    fn charge(&mut self, client: &ClientAccount, state: &ClientState, at_nanoton: u64) {
        let uncharged = client.signed_tokens.saturating_sub(state.tokens_used);
        let used = cost(uncharged, state.params.price_per_token_nanoton);
        if uncharged > 0
            && used >= at_nanoton
            && let Some(order) = self.books.charge(&client.contract)
        {
            let tokens = order.order().tokens;
            self.send_order(client, &order, Purpose::Charge { tokens });
        }
    }

    /// Whether that is possible at all: an order for less than was charged on chain would be refused, each time for a
    /// fee. It is what books sign that were lost. The client then leaves without the proxy.
    fn grant(&mut self, client: &ClientAccount, charged_tokens: u64) -> bool {
        match self.books.close_client(&client.contract) {
            Closing::NotYet => {
                self.plan.more = true;
                // The client's delay may be over first.
                if let Some(state) = &client.state {
                    self.charge(client, state, WORTH_FETCHING_NANOTON);
                }
            }
            Closing::Done(order) if order.order().tokens < charged_tokens => return false,
            Closing::Done(order) => {
                let tokens = order.order().tokens;
                self.send_order(client, &order, Purpose::GrantRefund { tokens });
            }
        }
        true
    }

    fn send_order(&mut self, client: &ClientAccount, order: &SignedPayment, purpose: Purpose) {
        self.plan.send(Transfer {
            to: client.contract,
            value_nanoton: commission(client.held_nanoton),
            init: None,
            body: Body::SignedPayment(order.with_excesses_to(self.view.wallet)),
            purpose,
        });
    }

    fn commit(&mut self) {
        let Commits { seqno, position, unix_time } = self.view.commits;
        let due = unix_time.saturating_add(self.policy.commit_every_seconds);
        // What goes along with other messages costs next to nothing.
        if self.view.position > position && (due <= self.view.now || !self.plan.transfers.is_empty()) {
            // After the last number no commit would count; it would be sent again and again.
            let Some(seqno) = seqno.checked_add(1) else { return };
            let body = save_state(self.view.query_id, seqno, self.view.position);
            self.tell_proxy(1, body, Purpose::Commit { seqno });
        } else if self.view.position > position {
            self.plan.wait_until(due);
        }
    }

    fn start_close(&mut self) {
        let body = self.books.close_proxy(&self.view.contract, false);
        self.tell_proxy(COMMISSION_NANOTON, body, Purpose::CloseProxy);
        self.refund_all();
    }

    /// Whether nobody is left.
    fn refund_all(&mut self) -> bool {
        let mut left = false;
        for client in self.view.clients {
            if let Some(state) = client.state.as_ref().filter(|state| state.status != ContractStatus::Closed)
            {
                left |= self.grant(client, state.tokens_used);
            }
        }
        for worker in self.view.workers {
            let Some(state) = &worker.state else { continue };
            if state.status == ContractStatus::Closed {
                continue;
            }
            match self.books.close_worker(&worker.contract) {
                Closing::NotYet => {
                    self.plan.more = true;
                    left = true;
                }
                // As with clients.
                Closing::Done(order) if order.order().tokens < state.tokens => {}
                Closing::Done(order) => {
                    let (tokens, fee) = (order.order().tokens, state.params.worker_fee_per_token_nanoton);
                    let amount = cost(tokens.saturating_sub(state.tokens), fee);
                    // What the contract cannot pay now stays owed; the order is good for 180 days more.
                    if amount <= self.view.held_nanoton {
                        self.plan.send(Transfer {
                            to: worker.contract,
                            value_nanoton: commission(worker.held_nanoton),
                            init: None,
                            body: Body::SignedPayment(order.with_excesses_to(self.view.wallet)),
                            purpose: Purpose::PayWorker { tokens, amount },
                        });
                        left = true;
                    }
                }
            }
        }
        !left
    }

    fn close(&mut self, state: &ProxyState) {
        self.plan.hold = Some(Hold::new("the proxy is closing"));
        let nobody_left = self.refund_all();
        let unlock = u64::from(state.unlock_unix_time);
        if self.view.now < unlock {
            self.plan.wait_until(unlock);
        } else if nobody_left {
            let body = self.books.close_proxy(&self.view.contract, true);
            self.tell_proxy(COMMISSION_NANOTON, body, Purpose::CompleteClose);
        }
    }

    fn take_rest(&mut self, state: &ProxyState) {
        self.plan.hold = Some(Hold::new("the proxy's contract is closed for good"));
        if self.view.held_nanoton < WORTH_FETCHING_NANOTON {
            self.plan.finished = true;
            return;
        }
        let unlock = u64::from(state.unlock_unix_time);
        if self.view.now < unlock {
            self.plan.wait_until(unlock);
            return;
        }
        let (query_id, excesses_to) = (self.view.query_id, self.view.wallet);
        self.tell_proxy(COMMISSION_NANOTON, Body::ProxyPayout { query_id, excesses_to }, Purpose::TakeRest);
    }
}

/// The notice that commits the books' position. Published nodes write a random session number where ours write the
/// position, in the first 8 of 32 bytes, big-endian.
fn save_state(query_id: u64, seqno: u32, position: u64) -> Body {
    let mut unique_hash = [0; 32];
    unique_hash[..8].copy_from_slice(&position.to_be_bytes());
    Body::SaveState { query_id, seqno, unique_hash }
}

/// The position that a commit of ours names; `None` for one of a published node, whose random number says nothing about
/// our books.
pub fn committed_position(unique_hash: &[u8; 32]) -> Option<u64> {
    let (position, rest) = unique_hash.split_first_chunk::<8>()?;
    rest.iter().all(|&byte| byte == 0).then(|| u64::from_be_bytes(*position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_names_our_position_and_a_published_node_s_names_none() {
        let Body::SaveState { mut unique_hash, .. } = save_state(1, 2, 77) else { panic!("another body") };
        assert_eq!(committed_position(&unique_hash), Some(77));
        unique_hash[31] = 1;
        assert_eq!(committed_position(&unique_hash), None);
    }
}
