//! What a proxy tells of the account, of its offers and of its workers.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cocoon_ledger::PricePerToken;
use cocoon_session::client::ClientEvent;
use cocoon_session::{PaymentCounters, ProxyTerms, Time};
use cocoon_ton::payment::{OrderKind, SignedPayment};
use cocoon_ton::{Address, VerifyingKey};

use super::Connection;
use crate::market::Told;
use crate::settle::Presence;

/// How often a proxy is asked for a refund until it grants one.
const REFUND_EVERY: Duration = Duration::from_secs(5);

/// What the notices of one connection have shown.
#[derive(Debug, Default)]
pub(super) struct Notices {
    terms: Option<ProxyTerms>,
    /// The last signed order that was verified; consecutive notices often carry the same one.
    verified: Option<(Bytes, u64)>,
    /// Our part in the channel on chain, as long as the connection lasts.
    pub(super) presence: Option<Presence>,
    /// When the proxy may be asked for a refund again.
    next_refund: Time,
}

impl Connection {
    pub(super) fn notices(&self) -> MutexGuard<'_, Notices> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_notices(&self, events: Vec<ClientEvent>) -> Result<(), String> {
        if events.is_empty() {
            return Ok(());
        }
        let mut notices = self.notices();
        for event in events {
            match event {
                ClientEvent::Ready(terms) => {
                    self.shared.book.begin_connection(Self::peer_key(&terms), !terms.extensions);
                    if let Some(presence) = self.join(&mut notices, &terms) {
                        presence.ready();
                    }
                    notices.terms = Some(terms);
                }
                ClientEvent::Payment { counters, .. } => self.take_payment(&mut notices, &counters)?,
                ClientEvent::Models(models) => {
                    let models = Arc::new(models);
                    let before = std::mem::replace(
                        &mut *self.models.write().unwrap_or_else(PoisonError::into_inner),
                        Arc::clone(&models),
                    );
                    self.shared.pool.offered(&before, &models);
                }
                ClientEvent::RegistrationNeeded { nonce, contract, terms } => {
                    match self.join(&mut notices, &terms) {
                        Some(presence) => presence.register(nonce.cast_unsigned()),
                        None => self.ask_to_register(nonce, &contract),
                    }
                }
                ClientEvent::RefundGranted { order } => self.take_refund(&notices, &order)?,
                ClientEvent::RefundRejected { active_queries } => {
                    tracing::info!(proxy = %self.address, active_queries, "the proxy grants no refund yet");
                }
                ClientEvent::Workers(workers) => {
                    *self.workers.write().unwrap_or_else(PoisonError::into_inner) = Some(workers);
                    *self.next_look() = Time(0);
                }
                ClientEvent::Market(known) => {
                    self.market.send_replace(Some(Told { known, at: Instant::now() }));
                }
                ClientEvent::Evidence { fingerprint, evidence } => {
                    self.awaited().remove(&fingerprint);
                    let listed = || self.shared.pool.listed_workers();
                    self.shared.vetting.take(fingerprint, evidence, &self.address, listed);
                }
                // Delivered before.
                ClientEvent::Head { .. }
                | ClientEvent::Data { .. }
                | ClientEvent::Completed { .. }
                | ClientEvent::Failed { .. } => {}
            }
        }
        Ok(())
    }

    /// Our part in the channel with this proxy; `None` where there is no settlement.
    fn join<'a>(&self, notices: &'a mut Notices, terms: &ProxyTerms) -> Option<&'a Presence> {
        if notices.presence.is_none() {
            let settlement = self.shared.settlement.as_ref()?;
            notices.presence = settlement.join(terms, &self.root);
        }
        let presence = notices.presence.as_ref()?;
        self.channel.get_or_init(|| Arc::clone(presence.channel()));
        Some(presence)
    }

    /// A refund must not charge for more than the proxy has told of.
    fn take_refund(&self, notices: &Notices, order: &Bytes) -> Result<(), String> {
        let (Some(terms), Some(presence)) = (&notices.terms, &notices.presence) else { return Ok(()) };
        let refund = verify(order, terms, OrderKind::RefundClient)?;
        let (tokens, known) =
            (refund.order().tokens, self.shared.book.counters(&Self::peer_key(terms)).max());
        if tokens > known {
            return Err(format!("the proxy's refund charges for {tokens} tokens, but it told of {known}"));
        }
        tracing::info!(proxy = %self.address, tokens, "the proxy grants the refund");
        presence.refund(refund);
        Ok(())
    }

    fn take_payment(&self, notices: &mut Notices, counters: &PaymentCounters) -> Result<(), String> {
        let Some(terms) = &notices.terms else {
            return Err("payment before the handshake is done".to_owned());
        };
        let mut charges = None;
        let signed = match (&counters.signed, &notices.verified) {
            (None, _) => None,
            (Some(bytes), Some((known, tokens))) if bytes == known => Some(*tokens),
            (Some(bytes), _) => {
                let charge = verify(bytes, terms, OrderKind::ChargeClient)?;
                let tokens = charge.order().tokens;
                notices.verified = Some((bytes.clone(), tokens));
                charges = Some(charge);
                Some(tokens)
            }
        };
        if let Some(signed) = signed
            && i64::try_from(signed).map_or(true, |signed| signed > counters.max_tokens)
        {
            return Err(format!("the proxy signed for {signed} tokens but knows of {}", counters.max_tokens));
        }
        let price = PricePerToken(self.shared.root.borrow().params.price_per_token_nanoton);
        let key = Self::peer_key(terms);
        self.shared.book.observe(key, counters.db_tokens, counters.max_tokens, signed, price).map_err(
            |error| {
                self.shared.metrics.counter_faults.inc();
                error.to_string()
            },
        )?;
        if let (Some(charge), Some(presence)) = (charges, &notices.presence) {
            presence.charge(charge);
        }
        if self.serving.set(terms.clone()).is_ok() {
            tracing::info!(
                proxy = %self.address,
                contract = %terms.contract,
                attestation = self.attestation.kind,
                extensions = terms.extensions,
                "connected to a proxy"
            );
            self.shared.pool.changed();
        }
        Ok(())
    }

    /// Whether to ask the proxy for what is left in the channel.
    pub(super) fn is_refund_due(&self, now: Time) -> bool {
        if !self.channel.get().is_some_and(|channel| channel.is_leaving()) {
            return false;
        }
        let mut notices = self.notices();
        let due = notices.next_refund <= now
            && notices.presence.as_ref().is_some_and(|presence| presence.wants_refund());
        if due {
            notices.next_refund = now.plus(REFUND_EVERY);
        }
        due
    }

    fn ask_to_register(&self, nonce: i64, contract: &Address) {
        tracing::warn!(
            proxy = %self.address,
            %contract,
            nonce,
            "the proxy does not know our secret and waits for an `owner_client_register` message with this nonce to \
             that contract; send it from the client's wallet, or set the secret that the contract holds the hash of"
        );
    }
}

/// Checks a signed order of that kind to our contract.
fn verify(bytes: &[u8], terms: &ProxyTerms, kind: OrderKind) -> Result<SignedPayment, String> {
    let payment = SignedPayment::parse(bytes).map_err(|error| error.to_string())?;
    let key = VerifyingKey::from_bytes(&terms.public_key)
        .map_err(|_| "the proxy's public key is no Ed25519 key".to_owned())?;
    payment.verify(&key, kind, &terms.pair_contract).map_err(|error| error.to_string())?;
    Ok(payment)
}
