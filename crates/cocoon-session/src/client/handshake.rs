//! From the opening until requests can be submitted: who the proxy is, and who we are.

use std::time::Duration;

use bytes::Bytes;
use cocoon_wire::codec::from_boxed;
use cocoon_wire::tl::{ProtoRange, client, ext};

use super::{AUTHORIZE, CONNECT, ClientEvent, ClientSession, Stage};
use crate::terms::{ProxyClaims, check_proxy, words};
use crate::{MAX_PROTO_VERSION, MIN_PROTO_VERSION, PaymentCounters, ProxyTerms, Time, Violation};

const CONNECT_WITHIN: Duration = Duration::from_secs(30);
const AUTHORIZE_WITHIN: Duration = Duration::from_secs(300);

/// Why a proxy is not used that might give requests to any worker.
const NO_CHOICE: &str = "the proxy knows no extension set 1, so it cannot be told which workers may see our requests; \
     we demand evidence of workers";

impl ClientSession {
    pub(super) fn connect(&mut self, now: Time) -> Result<(), Violation> {
        self.stage = Stage::Connecting;
        let settings = &self.settings;
        let ext_flags = match (settings.extensions, settings.restrict_workers) {
            (false, _) => 0,
            (true, false) => ext::EXT_V1,
            (true, true) => ext::EXT_V1 | ext::EXT_ALLOWS_WORKERS,
        };
        let message = client::ConnectToProxy {
            params: client::Params {
                ext_flags,
                client_owner_address: settings.wallet.to_wire_string(settings.is_testnet).into(),
                is_test: Some(settings.is_test),
                proto: Some(ProtoRange { min: MIN_PROTO_VERSION, max: MAX_PROTO_VERSION }),
            },
            min_config_version: settings.root.version.cast_signed(),
        };
        self.link.query(CONNECT, &message, now, CONNECT_WITHIN)
    }

    pub(super) fn on_connected(&mut self, data: Bytes, now: Time) -> Result<(), Violation> {
        let answer: client::ConnectedToProxy =
            from_boxed(data).map_err(Violation::message("handshake answer"))?;
        let settings = &self.settings;
        let claims = ProxyClaims { params: &answer.params, pair_contract: &answer.client_sc_address };
        let terms = check_proxy(
            &claims,
            &settings.root,
            &settings.root_address,
            settings.is_test,
            settings.extensions,
            |params, proxy, key| cocoon_ton::contracts::client_address(params, &settings.wallet, proxy, key),
        )?;
        if settings.restrict_workers && !terms.extensions {
            return Err(Violation::Mismatch(NO_CHOICE.into()));
        }
        match answer.auth {
            client::ProxyConnectionAuth::Short { secret_hash, .. }
                if settings.secret.hash_for_proxy(&terms.contract) == secret_hash =>
            {
                let data = Bytes::copy_from_slice(&settings.secret.for_proxy(&terms.contract));
                let message = client::AuthorizeWithProxyShort { data };
                self.link.query(AUTHORIZE, &message, now, AUTHORIZE_WITHIN)?;
            }
            client::ProxyConnectionAuth::Short { nonce, .. }
            | client::ProxyConnectionAuth::Long { nonce } => {
                let contract = terms.pair_contract;
                let event = ClientEvent::RegistrationNeeded { nonce, contract, terms: terms.clone() };
                self.events.push_back(event);
                self.link.query(AUTHORIZE, &client::AuthorizeWithProxyLong {}, now, AUTHORIZE_WITHIN)?;
            }
        }
        self.stage = Stage::Authorizing(Box::new(terms));
        Ok(())
    }

    pub(super) fn on_authorized(&mut self, data: Bytes, terms: Box<ProxyTerms>) -> Result<(), Violation> {
        match from_boxed(data).map_err(Violation::message("authorisation answer"))? {
            client::AuthorizationWithProxy::Success {
                signed_payment,
                tokens_committed_to_db,
                max_tokens,
            } => {
                self.events.push_back(ClientEvent::Ready(terms.as_ref().clone()));
                let counters = PaymentCounters::new(tokens_committed_to_db, max_tokens, signed_payment);
                self.events.push_back(ClientEvent::Payment { request: None, counters });
                self.stage = Stage::Ready(terms);
                Ok(())
            }
            client::AuthorizationWithProxy::Failed { error_code, error } => {
                Err(Violation::Refused { code: error_code, message: words(&error) })
            }
        }
    }
}
