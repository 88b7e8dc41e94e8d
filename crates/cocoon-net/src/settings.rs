//! What one side of a connection brings to the handshake, and what it demands.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use cocoon_attest::{CollateralSource, Policy, UnixSeconds, Verifier};
use rustls::{ClientConfig, ServerConfig};

use crate::{Clock, NodeIdentity, tls};

/// Our identity, and our demands on peers. Cheap to clone; clones share one policy.
#[derive(Clone)]
pub struct TlsSettings {
    identity: Arc<NodeIdentity>,
    verifier: Arc<dyn Verifier>,
    policy: Arc<RwLock<Arc<Policy>>>,
    clock: Arc<dyn Clock>,
    collateral: Option<Arc<dyn CollateralSource>>,
    client_config: Arc<ClientConfig>,
    server_config: Arc<ServerConfig>,
}

impl TlsSettings {
    /// What we show (`identity`) is independent of what we demand (`policy`, enforced with `verifier`).
    ///
    /// # Errors
    /// The TLS library refuses the configuration.
    pub fn new(
        identity: Arc<NodeIdentity>,
        verifier: Arc<dyn Verifier>,
        policy: Policy,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, rustls::Error> {
        let client_config = tls::client_config(Arc::clone(&identity), Arc::clone(&clock))?;
        let server_config = tls::server_config(Arc::clone(&identity), Arc::clone(&clock))?;
        Ok(Self {
            identity,
            verifier,
            policy: Arc::new(RwLock::new(Arc::new(policy))),
            clock,
            collateral: None,
            client_config: Arc::new(client_config),
            server_config: Arc::new(server_config),
        })
    }

    /// Where to fetch what evidence needs for its verification. Without it, evidence that needs anything is
    /// refused.
    #[must_use]
    pub fn with_collateral(mut self, source: Arc<dyn CollateralSource>) -> Self {
        self.collateral = Some(source);
        self
    }

    /// Our identity.
    #[must_use]
    pub fn identity(&self) -> &Arc<NodeIdentity> {
        &self.identity
    }

    /// What we demand now.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces what we demand, for this and every clone. Connections that are up stay up.
    pub fn set_policy(&self, policy: Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    pub(crate) fn verifier(&self) -> &dyn Verifier {
        self.verifier.as_ref()
    }

    pub(crate) fn now(&self) -> UnixSeconds {
        self.clock.now()
    }

    pub(crate) fn collateral(&self) -> Option<&dyn CollateralSource> {
        self.collateral.as_deref()
    }

    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client_config)
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server_config)
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings")
            .field("identity", &self.identity)
            .field("policy", &self.policy())
            .finish_non_exhaustive()
    }
}
