//! The state machine's books, as the planner asks them.

use std::sync::Arc;

use cocoon_session::proxy::CloseProgress;
use cocoon_settle::proxy::{Books, Closing};
use cocoon_ton::message::Body;
use cocoon_ton::payment::{ProxyCloseKind, SignedPayment, SignedProxyClose};
use cocoon_ton::{Address, SigningKey};

use crate::core::Core;

pub(super) struct CoreBooks<'a> {
    pub(super) core: &'a Arc<Core>,
    pub(super) key: &'a SigningKey,
    pub(super) wallet: Address,
}

impl Books for CoreBooks<'_> {
    fn charge(&mut self, client: &Address) -> Option<SignedPayment> {
        self.core.run(|proxy, _| proxy.charge_order(client))
    }

    fn close_client(&mut self, client: &Address) -> Closing {
        self.core.run(|proxy, _| closing(proxy.close_client(client)))
    }

    fn close_worker(&mut self, worker: &Address) -> Closing {
        self.core.run(|proxy, _| closing(proxy.close_worker(worker)))
    }

    fn close_proxy(&mut self, proxy: &Address, complete: bool) -> Body {
        let kind = if complete { ProxyCloseKind::Complete } else { ProxyCloseKind::Close };
        Body::SignedProxyClose(SignedProxyClose::sign(self.key, kind, *proxy, rand::random(), self.wallet))
    }
}

fn closing(progress: CloseProgress) -> Closing {
    match progress {
        CloseProgress::Busy | CloseProgress::Recorded => Closing::NotYet,
        CloseProgress::Done(order) => Closing::Done(order),
    }
}
