//! What a request carries with it from the door to its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cocoon_access::{Counts, KeyId, Refused, RequestEnd, Ticket};
use cocoon_ledger::AdjustedTokens;
use cocoon_openai::{ApiError, Endpoint, PreparedRequest, Usage};

use super::{Access, Scope, Visitor, error_of};
use crate::Shared;
use crate::failure::{Failure, Kind};
use crate::price::Order;

/// How many bytes of a request count as one token of its prompt before an engine has counted.
const BYTES_PER_TOKEN: u64 = 4;

/// A request that was let in. When it is dropped, the request is over.
pub(crate) struct Pass {
    shared: Arc<Shared>,
    ticket: Ticket,
    end: Mutex<RequestEnd>,
}

impl Pass {
    /// Lets a visitor's request in.
    ///
    /// # Errors
    /// 401, 403 or 429.
    pub(crate) fn admit(
        shared: &Arc<Shared>,
        visitor: Option<&Visitor>,
        endpoint: Endpoint,
    ) -> Result<Self, ApiError> {
        let access = &shared.access;
        let key = visitor.map_or(KeyId::NONE, |visitor| visitor.key);
        let ticket = access
            .desk()
            .admit(key, endpoint.name(), access.now())
            .map_err(|refused| error_of(&refused, endpoint.name(), "", access.seconds_to_midnight()))?;
        Ok(Self { shared: Arc::clone(shared), ticket, end: Mutex::default() })
    }

    /// Whose request it is.
    pub(crate) fn key(&self) -> KeyId {
        self.ticket.key
    }

    /// The request is carried out, and not answered with what is remembered: who says nothing more from here on has failed.
    pub(crate) fn begin(&self) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) =
            RequestEnd { failed: true, ..RequestEnd::default() };
    }

    /// The model is known, and how many tokens the request may use.
    ///
    /// # Errors
    /// 403 or 429.
    pub(crate) fn start(&mut self, prepared: &PreparedRequest) -> Result<(), ApiError> {
        let access = &self.shared.access;
        let prompt = (prepared.body.len() as u64).div_ceil(BYTES_PER_TOKEN);
        let tokens = prompt.saturating_add(u64::try_from(prepared.completion_bound).unwrap_or(0));
        let model = &prepared.model;
        access
            .desk()
            .start(&mut self.ticket, model, tokens, access.now())
            .map_err(|refused| error_of(&refused, self.ticket.endpoint, model, access.seconds_to_midnight()))
    }

    /// The models that its key is for.
    pub(crate) fn scope(&self) -> Scope {
        self.access().scope_of(self.ticket.key)
    }

    /// Sets coins aside for an attempt: the most that it can cost.
    pub(crate) fn hold(&self, request: [u8; 32], order: &Order) -> Result<(), Failure> {
        let access = self.access();
        let at_most = order.at_most().map_or(u64::MAX, AdjustedTokens::get);
        access.hold(&self.ticket, request, at_most, order.tariff.price_per_token.get()).map_err(|refused| {
            let wait = access.seconds_to_midnight();
            let error = error_of(&refused, self.ticket.endpoint, &self.ticket.model, wait);
            let kind =
                if matches!(refused, Refused::Budget { .. }) { Kind::KeyBudget } else { Kind::KeyGone };
            let again = error.retry_after.map(|seconds| Duration::from_secs(seconds.into()));
            Failure::new(kind, &error.message).again_after(again)
        })
    }

    /// The answer has ended, after it used these tokens.
    pub(crate) fn answered(&self, failed: bool, usage: &Usage) {
        let tokens = |count: i64| u64::try_from(count).unwrap_or(0);
        let used = Counts {
            prompt_tokens: tokens(usage.prompt_tokens),
            cached_tokens: tokens(usage.cached_tokens),
            completion_tokens: tokens(usage.completion_tokens),
            reasoning_tokens: tokens(usage.reasoning_tokens),
            audio_tokens: tokens(usage.audio_prompt_tokens.saturating_add(usage.audio_completion_tokens)),
            ..Counts::default()
        };
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = RequestEnd { failed, used };
    }

    fn access(&self) -> &Access {
        &self.shared.access
    }
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let end = *self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let access = self.access();
        access.desk().finish(&self.ticket, &end, access.now());
    }
}
