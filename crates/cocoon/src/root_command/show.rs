//! A root contract as a record.

use cocoon_chain::AccountState;
use cocoon_ton::code;
use cocoon_ton::{Address, Cell, ContractCode, RootConfig, RootParams};

use crate::record::{Record, Value};
use crate::tx::kind_of;

/// The unit of multipliers: so many parts are one.
const MULTIPLIER_UNIT: u32 = 10_000;

/// All that the contract says, with its account's particulars.
pub(super) fn describe(address: Address, account: &AccountState, config: &RootConfig) -> Record {
    let record = Record::new("root", "", "root contract")
        .with("address", Value::Address(address))
        .with("contract", code_words(account.code.as_ref(), code::root()))
        .with("balance", Value::Coins(account.balance_nanoton))
        .with("at_block", Value::Small(account.at.seqno.into()))
        .with("time", Value::Time(account.at.unix_time))
        .with("owner", Value::Address(config.owner))
        .with("version", Value::Small(config.version.into()))
        .with("params", Value::Part(params(&config.params)))
        .with("codes", Value::Part(codes(&config.params)));
    let proxies = config.registered_proxies.iter().map(|proxy| {
        Record::new("proxy", proxy.seqno.to_string(), "")
            .with("for_workers", Value::Text(proxy.endpoints.for_workers.to_string()))
            .with("for_clients", Value::Text(proxy.endpoints.for_clients.to_string()))
    });
    record
        .with("proxies", Value::Parts(proxies.collect()))
        .with("last_proxy_number", Value::Small(config.last_proxy_seqno.into()))
        .with("proxy_images", Value::Hashes(config.proxy_hashes.iter().copied().collect()))
        .with("worker_images", Value::Hashes(config.worker_hashes.iter().copied().collect()))
        .with("models_by_hash", Value::Hashes(config.model_hashes.iter().copied().collect()))
}

fn params(params: &RootParams) -> Record {
    let network = if params.is_test { "a test network: coins are worth nothing" } else { "a main network" };
    let multiplier = |parts: u32| {
        let (whole, rest) = (parts / MULTIPLIER_UNIT, parts % MULTIPLIER_UNIT);
        let text = format!("{whole}.{rest:04}");
        Value::Text(text.trim_end_matches('0').trim_end_matches('.').to_owned())
    };
    Record::new("params", "", "what contracts are made with")
        .with("layout_version", Value::Small(params.struct_version.number().into()))
        .with("version", Value::Small(params.params_version.into()))
        .with("unique_id", Value::Small(params.unique_id.into()))
        .with("network", Value::Text(network.to_owned()))
        .with("price_per_token", Value::Coins(params.price_per_token_nanoton))
        .with("worker_fee_per_token", Value::Coins(params.worker_fee_per_token_nanoton))
        .with("prompt_multiplier", multiplier(params.prompt_tokens_price_multiplier))
        .with("cached_multiplier", multiplier(params.cached_tokens_price_multiplier))
        .with("completion_multiplier", multiplier(params.completion_tokens_price_multiplier))
        .with("reasoning_multiplier", multiplier(params.reasoning_tokens_price_multiplier))
        .with("proxy_delay", Value::Span(params.proxy_delay_before_close_seconds.into()))
        .with("client_delay", Value::Span(params.client_delay_before_close_seconds.into()))
        .with("min_proxy_stake", Value::Coins(params.min_proxy_stake_nanoton))
        .with("min_client_stake", Value::Coins(params.min_client_stake_nanoton))
}

fn codes(params: &RootParams) -> Record {
    let of = |given: &Option<ContractCode>, ours| code_words(given.as_ref().map(ContractCode::cell), ours);
    Record::new("codes", "", "of contracts to come")
        .with("proxy", of(&params.proxy_code, code::proxy()))
        .with("worker", of(&params.worker_code, code::worker()))
        .with("client", of(&params.client_code, code::client()))
}

/// The hash, and how it compares with the code in this program.
fn code_words(found: Option<&Cell>, ours: &ContractCode) -> Value {
    let Some(cell) = found else { return Value::Text("none".to_owned()) };
    let hash = hex::encode(cell.repr_hash().0);
    let words = match kind_of(cell) {
        _ if cell.repr_hash().0 == ours.hash() => "as in this program",
        Some(kind) => kind,
        None => "NOT known to this program",
    };
    Value::Text(format!("{hash} ({words})"))
}
