//! Adding up what the chain shows.

use std::collections::BTreeMap;

use cocoon_chain::{Chain, Compute, MAX_TRANSACTIONS_PER_CALL, Transaction};
use cocoon_ton::message::{Body, ClientRequest};
use cocoon_ton::{Address, ClientState, WorkerState};

/// What went through a proxy contract, in nanoton.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    /// Paid in, by the client contract.
    pub(crate) paid_in: BTreeMap<Address, u64>,
    /// Paid out, by the receiver.
    pub(crate) paid_out: BTreeMap<Address, u64>,
    /// Worker contracts that asked for payouts.
    pub(crate) workers: Vec<Address>,
}

impl Flows {
    pub(crate) async fn of(chain: &dyn Chain, proxy: Address) -> Self {
        let (mut flows, mut after) = (Self::default(), 0);
        loop {
            let page = chain.transactions_since(proxy, after, MAX_TRANSACTIONS_PER_CALL).await.unwrap();
            page.iter().for_each(|transaction| flows.take(transaction));
            match page.last() {
                Some(last) => after = last.id.lt,
                None => return flows,
            }
        }
    }

    fn take(&mut self, transaction: &Transaction) {
        if !matches!(transaction.compute, Compute::Ran { exit_code: 0 | 1, .. }) {
            return;
        }
        let Some(message) = &transaction.in_message else { return };
        let Some(source) = message.source else { return };
        match Body::parse(&message.body) {
            Body::ClientProxyRequest { request: Some(ClientRequest::TopUp { amount, .. }), .. } => {
                *self.paid_in.entry(source).or_default() += amount;
            }
            Body::WorkerProxyRequest { payout: Some(_), .. } if !self.workers.contains(&source) => {
                self.workers.push(source);
            }
            _ => {}
        }
        for out in &transaction.out_messages {
            if let (Body::Payout { .. }, Some(to)) = (Body::parse(&out.body), out.destination) {
                *self.paid_out.entry(to).or_default() += out.value_nanoton;
            }
        }
    }

    pub(crate) fn paid_to(&self, address: Address) -> u64 {
        self.paid_out.get(&address).copied().unwrap_or(0)
    }
}

pub(crate) async fn client(chain: &dyn Chain, contract: Address) -> ClientState {
    ClientState::from_data(&chain.account_state(contract).await.unwrap().data.unwrap()).unwrap()
}

pub(crate) async fn worker(chain: &dyn Chain, contract: Address) -> WorkerState {
    WorkerState::from_data(&chain.account_state(contract).await.unwrap().data.unwrap()).unwrap()
}
