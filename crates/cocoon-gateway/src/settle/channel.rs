//! What the connections know of one channel, shared with the settlement: the newest signed orders, and the nonce that a
//! proxy waits for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cocoon_ton::{Address, SignedPayment};
use tokio::sync::Notify;

/// After a registration the next one waits this long, and twice as long each time that the proxy does not let us in.
const REGISTRATION_REST: Duration = Duration::from_secs(30);
/// See [`REGISTRATION_REST`].
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// One channel's live part. Its record is the settlement's own.
#[derive(Debug)]
pub(crate) struct Channel {
    live: Mutex<Live>,
    /// A charge for at least so many tokens makes something due on chain.
    due_at_tokens: AtomicU64,
    /// The channel is being closed.
    leaving: AtomicBool,
    /// The log has it that the contract is frozen.
    told_frozen: AtomicBool,
    wake: Arc<Notify>,
}

/// A copy of what is known at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Live {
    /// Connections that use the channel.
    pub(super) connections: usize,
    /// The nonce to register, and the connection that asked for it.
    pub(super) registration: Option<(u64, u64)>,
    /// Registrations since the proxy last let us in.
    registered: u32,
    /// No further one before this.
    register_from: Option<Instant>,
    /// The newest charge, verified.
    pub(super) charge: Option<SignedPayment>,
    /// The refund, verified.
    pub(super) refund: Option<SignedPayment>,
}

impl Channel {
    pub(super) fn new(wake: Arc<Notify>) -> Self {
        Self {
            live: Mutex::default(),
            due_at_tokens: AtomicU64::new(u64::MAX),
            leaving: AtomicBool::new(false),
            told_frozen: AtomicBool::new(false),
            wake,
        }
    }

    /// Whether no requests should go this way any more, and the proxy should be asked for what is left.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    pub(super) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Relaxed);
    }

    /// Asks for a round once so many tokens are signed for; at once where they are already.
    pub(super) fn set_due_at(&self, tokens: u64) {
        self.due_at_tokens.store(tokens, Ordering::Relaxed);
        if self.lock().charge.is_some_and(|charge| charge.order().tokens >= tokens) {
            self.due();
        }
    }

    /// Once is enough: the next round computes the next point.
    fn due(&self) {
        self.due_at_tokens.store(u64::MAX, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Says once that the contract cannot be used.
    pub(super) fn tell_frozen(&self, contract: &Address) {
        if !self.told_frozen.swap(true, Ordering::Relaxed) {
            tracing::error!(
                %contract,
                "a client contract is frozen because it owes storage fees, and is left alone; thaw it by sending it \
                 coins together with the state that it had"
            );
        }
    }

    pub(super) fn live(&self) -> Live {
        let mut live = *self.lock();
        // A proxy that never lets us in must not have us pay for one registration after another.
        if live.register_from.is_some_and(|from| Instant::now() < from) {
            live.registration = None;
        }
        live
    }

    /// The nonce was sent to the chain.
    pub(super) fn registered(&self, nonce: u64) {
        let mut live = self.lock();
        if live.registration.is_some_and(|(known, _)| known == nonce) {
            live.registration = None;
        }
        let rest = REGISTRATION_REST.saturating_mul(1 << live.registered.min(16)).min(LONGEST_REST);
        live.registered = live.registered.saturating_add(1);
        live.register_from = Some(Instant::now() + rest);
    }

    pub(super) fn put_refund(&self, refund: SignedPayment) {
        self.lock().refund = Some(refund);
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's part in a channel. Dropping it says that the connection is over.
#[derive(Debug)]
pub(crate) struct Presence {
    channel: Arc<Channel>,
    connection: u64,
}

impl Presence {
    pub(super) fn new(channel: Arc<Channel>, connection: u64) -> Self {
        channel.lock().connections += 1;
        channel.wake.notify_one();
        Self { channel, connection }
    }

    pub(crate) fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// The proxy waits to see this nonce on chain.
    pub(crate) fn register(&self, nonce: u64) {
        self.channel.lock().registration = Some((nonce, self.connection));
        self.channel.wake.notify_one();
    }

    /// The proxy has let us in: it waits for no nonce.
    pub(crate) fn ready(&self) {
        let mut live = self.channel.lock();
        self.forget_nonce(&mut live);
        (live.registered, live.register_from) = (0, None);
    }

    /// A verified charge.
    pub(crate) fn charge(&self, charge: SignedPayment) {
        let tokens = charge.order().tokens;
        {
            let mut live = self.channel.lock();
            if live.charge.is_some_and(|known| known.order().tokens >= tokens) {
                return;
            }
            live.charge = Some(charge);
        }
        if tokens >= self.channel.due_at_tokens.load(Ordering::Relaxed) {
            self.channel.due();
        }
    }

    /// A verified refund.
    pub(crate) fn refund(&self, refund: SignedPayment) {
        self.channel.put_refund(refund);
        self.channel.wake.notify_one();
    }

    /// Whether the proxy is to be asked for a refund: it was not granted yet.
    pub(crate) fn wants_refund(&self) -> bool {
        self.channel.is_leaving() && self.channel.lock().refund.is_none()
    }

    fn forget_nonce(&self, live: &mut Live) {
        if live.registration.is_some_and(|(_, connection)| connection == self.connection) {
            live.registration = None;
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut live = self.channel.lock();
        live.connections = live.connections.saturating_sub(1);
        self.forget_nonce(&mut live);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_never_lets_us_in_is_not_paid_for_with_one_registration_after_another() {
        let channel = Arc::new(Channel::new(Arc::new(Notify::new())));
        let first = Presence::new(Arc::clone(&channel), 1);
        first.register(7);
        assert_eq!(channel.live().registration, Some((7, 1)));
        channel.registered(7);
        drop(first);

        let second = Presence::new(Arc::clone(&channel), 2);
        second.register(8);
        assert_eq!(channel.live().registration, None, "so soon");
        second.ready();
        second.register(9);
        assert_eq!(
            channel.live().registration,
            Some((9, 2)),
            "it let us in, so the next one counts as the first"
        );
    }
}
