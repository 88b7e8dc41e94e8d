//! What may come from each side of a connection, for dispatch by exhaustive matching.

use super::{client, ext, market, proxy, worker};
use crate::macros::tl_direction;

tl_direction! {
    /// Queries of a worker to its proxy.
    WorkerQuery {
        /// Opens the handshake.
        ConnectToProxy(worker::ConnectToProxy),
        /// Second step of the handshake.
        CompareBalanceWithProxy(worker::CompareBalanceWithProxy),
        /// Where the second step found a difference.
        ExtendedCompareBalanceWithProxy(worker::ExtendedCompareBalanceWithProxy),
        /// Last step of the handshake.
        ProxyHandshakeComplete(worker::ProxyHandshakeComplete),
        /// Now and then.
        UpdatePaymentStatus(worker::UpdatePaymentStatus),
    }
}

tl_direction! {
    /// Queries of a client to its proxy.
    ClientQuery {
        /// Opens the handshake.
        ConnectToProxy(client::ConnectToProxy),
        /// Proof by a secret.
        AuthorizeWithProxyShort(client::AuthorizeWithProxyShort),
        /// Proof by a message on chain.
        AuthorizeWithProxyLong(client::AuthorizeWithProxyLong),
        /// Closes the channel.
        RequestRefund(client::RequestRefund),
        /// Now and then.
        UpdatePaymentStatus(client::UpdatePaymentStatus),
        /// Which models there are, old form.
        GetWorkerTypes(client::GetWorkerTypes),
        /// Which models there are.
        GetWorkerTypesV2(client::GetWorkerTypesV2),
        /// Which workers there are; where extensions are agreed.
        GetWorkers(ext::GetWorkers),
        /// What a worker showed; where extensions are agreed.
        GetEvidence(ext::GetEvidence),
        /// What is on offer; where extensions are agreed.
        GetMarket(market::GetMarket),
    }
}

tl_direction! {
    /// Packets of a client to its proxy.
    ClientToProxy {
        /// A request, old form.
        RunQuery(client::RunQuery),
        /// A request.
        RunQueryEx(client::RunQueryEx),
        /// Where extensions are agreed.
        Cancel(ext::Cancel),
        /// Where extensions are agreed.
        Credit(ext::Credit),
        /// Where the client has said that it restricts workers.
        AllowWorkers(ext::AllowWorkers),
        /// Right before a request; where extensions are agreed.
        RequestOptions(ext::RequestOptions),
        /// More of a request's body; where extensions are agreed.
        BodyPart(ext::BodyPart),
    }
}

tl_direction! {
    /// Packets of a proxy to a worker.
    ProxyToWorker {
        /// A request, old form.
        RunQuery(proxy::RunQuery),
        /// A request.
        RunQueryEx(proxy::RunQueryEx),
        /// What a request brought.
        WorkerRequestPayment(proxy::WorkerRequestPayment),
        /// Where extensions are agreed.
        Cancel(ext::Cancel),
        /// Where extensions are agreed.
        Credit(ext::Credit),
        /// Right before a request; where extensions are agreed.
        RequestOptions(ext::RequestOptions),
        /// More of a request's body; where extensions are agreed.
        BodyPart(ext::BodyPart),
    }
}

tl_direction! {
    /// Packets of a worker to its proxy.
    WorkerToProxy {
        /// Head, old form.
        QueryAnswer(proxy::QueryAnswer),
        /// Failure before the head, old form.
        QueryAnswerError(proxy::QueryAnswerError),
        /// More body, old form.
        QueryAnswerPart(proxy::QueryAnswerPart),
        /// Failure after the head, old form.
        QueryAnswerPartError(proxy::QueryAnswerPartError),
        /// Head.
        QueryAnswerEx(proxy::QueryAnswerEx),
        /// Failure.
        QueryAnswerErrorEx(proxy::QueryAnswerErrorEx),
        /// More body.
        QueryAnswerPartEx(proxy::QueryAnswerPartEx),
        /// Whether the worker takes requests.
        EnabledDisabled(worker::EnabledDisabled),
        /// The worker's new price.
        NewCoefficient(worker::NewCoefficient),
        /// Where extensions are agreed.
        BodyCredit(ext::BodyCredit),
        /// Where extensions are agreed.
        Abilities(ext::Abilities),
    }
}

tl_direction! {
    /// Packets of a proxy to a client.
    ProxyToClient {
        /// Head, old form.
        QueryAnswer(client::QueryAnswer),
        /// Failure before the head, old form.
        QueryAnswerError(client::QueryAnswerError),
        /// More body, old form.
        QueryAnswerPart(client::QueryAnswerPart),
        /// Failure after the head, old form.
        QueryAnswerPartError(client::QueryAnswerPartError),
        /// Head.
        QueryAnswerEx(client::QueryAnswerEx),
        /// Failure.
        QueryAnswerErrorEx(client::QueryAnswerErrorEx),
        /// More body.
        QueryAnswerPartEx(client::QueryAnswerPartEx),
        /// What a request cost.
        ClientRequestPayment(proxy::ClientRequestPayment),
        /// Where extensions are agreed.
        BodyCredit(ext::BodyCredit),
    }
}
