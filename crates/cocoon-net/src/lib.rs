//! Connections between nodes: proof of work, then mutual attested TLS 1.3, then a byte stream to a known peer.
//!
//! [`dial`] and [`accept`] set up one connection; [`Listener`] accepts many under limits. Both take
//! [`TlsSettings`]: who we are ([`NodeIdentity`], with the evidence we show) and what we demand
//! ([`Policy`](cocoon_attest::Policy), [`Verifier`](cocoon_attest::Verifier)), which are independent of each
//! other. What comes out is a [`SecureStream`]: nothing the peer says reaches the application before the
//! policy has let the peer in.
#![forbid(unsafe_code)]

mod backoff;
mod clock;
mod connect;
mod error;
mod identity;
mod judge;
mod listener;
mod pages;
mod peer;
mod pow;
mod pump;
mod renewal;
mod settings;
mod stream;
mod tls;

pub use backoff::Backoff;
pub use clock::{Clock, MonotonicClock, SystemClock};
pub use connect::{AcceptOptions, DialOptions, accept, dial};
pub use error::{ConnectError, ConnectFailure, Stage};
pub use identity::{CERTIFICATE_LIFETIME, IdentityError, NodeIdentity, NodeKey, spawn_rotation};
pub use judge::{Judge, Pause};
pub use listener::{Listener, ListenerOptions};
pub use pages::{PageListener, PageStream};
pub use peer::PeerIdentity;
pub use pump::{Ended, Endpoint, pump};
pub use renewal::Renewal;
pub use settings::TlsSettings;
pub use stream::{NoLongerAllowed, SecureIo, SecureStream};
