//! A client that leaves while requests of it are under way.

#![allow(clippy::unwrap_used)]

use cocoon_settle::Purpose;
use cocoon_settle::proxy::{Books, ClientAccount, Closing, Commits, Intent, ProxyPolicy, ProxyView, plan};
use cocoon_ton::contracts::{ClientState, ContractStatus, ProxyState, client_state_init, proxy_state_init};
use cocoon_ton::message::Body;
use cocoon_ton::payment::{OrderKind, PaymentOrder, SignedPayment};
use cocoon_ton::{Address, RootConfig, SigningKey, StructVersion, code};

const TON: u64 = 1_000_000_000;
const WALLET: Address = Address::basechain([3; 32]);

/// Books of a client that never comes to rest.
struct Busy(u64);

impl Books for Busy {
    fn charge(&mut self, client: &Address) -> Option<SignedPayment> {
        let kind = OrderKind::ChargeClient;
        let order =
            PaymentOrder { kind, contract: *client, query_id: 1, tokens: self.0, excesses_to: WALLET };
        Some(order.sign(&SigningKey::from_bytes(&[5; 32])))
    }

    fn close_client(&mut self, _: &Address) -> Closing {
        Closing::NotYet
    }

    fn close_worker(&mut self, _: &Address) -> Closing {
        Closing::NotYet
    }

    fn close_proxy(&mut self, _: &Address, _: bool) -> Body {
        Body::Empty
    }
}

#[test]
fn what_it_has_used_so_far_is_charged_before_its_delay_is_over() {
    let mut params = RootConfig::test_mode(WALLET).params;
    params.struct_version = StructVersion::V3;
    params.price_per_token_nanoton = 20;
    params.client_code = Some(code::client().clone());
    params.worker_code = Some(code::worker().clone());
    params.proxy_code = Some(code::proxy().clone());
    let key = SigningKey::from_bytes(&[5; 32]).verifying_key().to_bytes();
    let proxy = proxy_state_init(&params, &WALLET, &WALLET, &key).unwrap();
    let client = client_state_init(&params, &WALLET, &proxy.address(), &key).unwrap();
    let proxy_state = ProxyState {
        stake_nanoton: params.min_proxy_stake_nanoton,
        ..ProxyState::from_data(&proxy.data).unwrap()
    };
    let mut state = ClientState::from_data(&client.data).unwrap();
    (state.status, state.balance_nanoton) = (ContractStatus::Closing, TON);
    let planned = |used: u64, intent| {
        let tokens = used / params.price_per_token_nanoton;
        let account = ClientAccount {
            contract: client.address(),
            state: Some(state.clone()),
            held_nanoton: TON,
            signed_tokens: tokens,
        };
        let view = ProxyView {
            now: 1,
            wallet: WALLET,
            contract: proxy.address(),
            init: &proxy,
            min_stake_nanoton: params.min_proxy_stake_nanoton,
            state: Some(&proxy_state),
            held_nanoton: 9 * TON,
            clients: &[account],
            workers: &[],
            commits: Commits::default(),
            position: 0,
            intent,
            query_id: 1,
        };
        let plan = plan(&ProxyPolicy::default(), &view, &mut Busy(tokens));
        assert!(plan.more, "the refund is still to come");
        plan.transfers.into_iter().map(|transfer| transfer.purpose).collect::<Vec<_>>()
    };
    let charge = Purpose::Charge { tokens: TON / 10 / 20 };
    assert_eq!(planned(TON / 10, Intent::Serve), [charge]);
    assert_eq!(planned(TON / 10, Intent::WindUp), [Purpose::CloseProxy, charge]);
    assert_eq!(planned(TON / 1000, Intent::Serve), [], "that is not worth the fee");
}
