//! Get-methods: a contract's code run on its data, outside any transaction.

use cocoon_chain::{GetMethodResult, StackItem};
use cocoon_ton::Address;
use tycho_types::cell::Cell;
use tycho_types::crc::crc_16;
use tycho_types::dict::Dict;
use tycho_types::error::Error;
use tycho_types::models::{Account, AccountState, IntAddr, LibDescr};
use tycho_types::prelude::HashBytes;
use tycho_vm::{GasParams, OwnedCellSlice, SafeRc, SmcInfoBase, Stack, VmStateBuilder, VmVersion};

use super::{Core, account, stack};
use crate::VM_VERSION;

/// Most gas that a get-method may use, as the public network's servers allow.
pub const GETTER_GAS_LIMIT: u64 = 1_000_000;
/// What the network's servers answer for an account without a contract.
const EXIT_CODE_NO_CONTRACT: i32 = -13;

/// Why a get-method has no answer.
#[derive(Debug, thiserror::Error)]
pub enum GetterError {
    /// A value that callers cannot be given.
    #[error("the get-method answered {0}, which cannot be passed on")]
    Unrepresentable(&'static str),
    /// Over [`super::MAX_STACK_DEPTH`] or [`super::MAX_STACK_ITEMS`].
    #[error("over {} values, or tuples nested over {} deep", super::MAX_STACK_ITEMS, super::MAX_STACK_DEPTH)]
    StackTooLarge,
    /// The virtual machine failed; a mistake in it.
    #[error("the virtual machine failed")]
    Machine,
    /// The stored account is broken.
    #[error("the account is broken: {0}")]
    Cells(#[from] Error),
}

impl Core {
    /// Runs the get-method `method` of the contract at `address` on the state after the newest block, at the time
    /// `now` in Unix seconds. A method that fails is an answer with that exit code; an account without a contract
    /// answers -13.
    ///
    /// # Errors
    /// [`GetterError`].
    pub fn run_get_method(
        &self,
        address: Address,
        method: u32,
        arguments: &[StackItem],
        now: u32,
    ) -> Result<GetMethodResult, GetterError> {
        let at = self.head.block_ref();
        let state = self.account_or_empty(address)?;
        let nothing =
            GetMethodResult { at, exit_code: EXIT_CODE_NO_CONTRACT, gas_used: 0, stack: Vec::new() };
        let Some(account) = state.load_account()? else { return Ok(nothing) };
        let AccountState::Active(init) = &account.state else { return Ok(nothing) };
        let Some(code) = init.code.clone() else { return Ok(nothing) };
        let data = init.data.clone().unwrap_or_default();

        let mut items = stack::to_vm(arguments)?;
        items.push(SafeRc::new_dyn_value(num_bigint::BigInt::from(method)));
        let run = || self.run_vm(address, &account, code, data, items, now.max(self.head.unix_time));
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let (exit_code, gas_used, stack) = ran.map_err(|_| GetterError::Machine)??;
        Ok(GetMethodResult { at, exit_code, gas_used, stack })
    }

    fn run_vm(
        &self,
        address: Address,
        account: &Account,
        code: Cell,
        data: Cell,
        items: Vec<tycho_vm::RcStackValue>,
        now: u32,
    ) -> Result<(i32, u64, Vec<StackItem>), GetterError> {
        let parsed = self.config.parsed();
        let lt = self.head.end_lt;
        let info = SmcInfoBase::new()
            .with_now(now)
            .with_block_lt(lt)
            .with_tx_lt(lt)
            .with_mixed_rand_seed(&HashBytes(self.head.hash), &HashBytes(*address.hash()))
            .with_account_balance(account.balance.clone())
            .with_account_addr(IntAddr::Std(account::standard(address)))
            .with_config(parsed.raw.params.clone())
            .require_ton_v4()
            .with_code(code.clone())
            .require_ton_v6()
            .with_unpacked_config(parsed.unpacked.as_tuple())
            .with_due_payment(account.storage_stat.due_payment.unwrap_or_default())
            .require_ton_v11();
        let libraries = Dict::<HashBytes, LibDescr>::new();
        let gas = GasParams { max: GETTER_GAS_LIMIT, limit: GETTER_GAS_LIMIT, ..GasParams::getter() };
        let mut machine = VmStateBuilder::new()
            .with_smc_info(info)
            // The builder would assume the version that the context was made for, which is older.
            .with_version(VmVersion::Ton(VM_VERSION))
            .with_code(OwnedCellSlice::new_allow_exotic(code))
            .with_data(data)
            .with_libraries(&libraries)
            .with_init_selector(false)
            .with_raw_stack(SafeRc::new(Stack::with_items(items)))
            .with_gas(gas)
            .build();
        let exit_code = !machine.run();
        let gas_used = machine.gas.consumed().min(GETTER_GAS_LIMIT);
        let stack = match stack::from_vm(&machine.stack.items) {
            // What a failed method leaves behind is nobody's answer.
            Err(_) if !matches!(exit_code, 0 | 1) => Vec::new(),
            converted => converted?,
        };
        Ok((exit_code, gas_used, stack))
    }
}

/// The number by which contracts know a get-method.
pub fn method_id(name: &str) -> u32 {
    u32::from(crc_16(name.as_bytes())) | 0x1_0000
}
