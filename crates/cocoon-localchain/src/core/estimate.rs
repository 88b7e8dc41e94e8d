//! What an external message would cost its receiver.

use cocoon_ton::{Address, Cell};
use tycho_executor::{Executor, ExecutorInspector};
use tycho_types::cell::CellBuilder;
use tycho_types::error::Error;
use tycho_types::models::{ComputePhase, ExtInMsgInfo, IntAddr, Message, MsgInfo, StateInit, TxInfo};

use super::{Core, Refusal, account, guarded, refusal};

/// What one transaction costs, in nanoton.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fees {
    /// For taking in the message.
    pub in_forward_nanoton: u64,
    /// For the account's storage since its last transaction.
    pub storage_nanoton: u64,
    /// For the contract's run.
    pub gas_nanoton: u64,
    /// For the way of the messages that it sends.
    pub forward_nanoton: u64,
}

/// An external message that is not sent.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The account that it is for.
    pub destination: Address,
    /// Its body.
    pub body: Cell,
    /// The contract that it brings: code and data.
    pub init: Option<(Cell, Cell)>,
    /// Whether the contract is to find every signature good.
    pub ignore_signatures: bool,
}

impl Core {
    /// What the message would cost if it came next, at the time `now` in Unix seconds. Nothing changes.
    ///
    /// # Errors
    /// [`Refusal`] where the contract would not accept it.
    pub fn estimate(&self, draft: &Draft, now: u32) -> Result<Fees, Refusal> {
        let broken = |_: Error| Refusal::NotRun;
        let header = self.head.next(now.max(self.head.unix_time)).ok_or(Refusal::NotRun)?;
        let state = self.accounts.get(&draft.destination).ok_or(Refusal::NoAccount)?;
        let message = message(draft).map_err(broken)?;
        let mut params = self.params(&header);
        params.vm_modifiers.chksig_always_succeed = draft.ignore_signatures;
        let mut inspector = ExecutorInspector::default();
        let ran = guarded(|| {
            let executor = Executor::new(&params, self.config.parsed()).with_min_lt(header.start_lt + 1);
            let address = account::standard(draft.destination);
            let begun = executor.begin_ordinary_ext(&address, true, message, state, Some(&mut inspector))?;
            Ok(begun.commit()?)
        });
        let output = ran.map_err(|failure| refusal(&failure, &inspector))?;
        let info = output.transaction.load().and_then(|made| made.load_info()).map_err(broken)?;
        let TxInfo::Ordinary(info) = info else { return Err(Refusal::NotRun) };
        let storage = info.storage_phase.map(|phase| phase.storage_fees_collected).unwrap_or_default();
        let gas = match &info.compute_phase {
            ComputePhase::Executed(ran) => ran.gas_fees,
            ComputePhase::Skipped(_) => Default::default(),
        };
        let action = info.action_phase.filter(|phase| phase.success);
        let forward = action.as_ref().and_then(|phase| phase.total_fwd_fees).unwrap_or_default();
        let collected = action.as_ref().and_then(|phase| phase.total_action_fees).unwrap_or_default();
        let total = output.transaction_meta.total_fees;
        let in_forward = total.saturating_sub(storage).saturating_sub(gas).saturating_sub(collected);
        // No fee is over all coins there are, which fit.
        let nanoton =
            |tokens: tycho_types::num::Tokens| u64::try_from(tokens.into_inner()).unwrap_or(u64::MAX);
        Ok(Fees {
            in_forward_nanoton: nanoton(in_forward),
            storage_nanoton: nanoton(storage),
            gas_nanoton: nanoton(gas),
            forward_nanoton: nanoton(forward),
        })
    }
}

fn message(draft: &Draft) -> Result<Cell, Error> {
    let dst = IntAddr::Std(account::standard(draft.destination));
    let init = draft.init.as_ref().map(|(code, data)| StateInit {
        code: Some(code.clone()),
        data: Some(data.clone()),
        ..StateInit::default()
    });
    CellBuilder::build_from(Message {
        info: MsgInfo::ExtIn(ExtInMsgInfo { dst, ..ExtInMsgInfo::default() }),
        init,
        body: draft.body.as_slice()?,
        layout: None,
    })
}
