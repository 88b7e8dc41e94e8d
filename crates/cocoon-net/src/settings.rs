//! What one side of a connection brings to the handshake, and what it demands.

use std::fmt;
use std::sync::Arc;

use cocoon_attest::{CollateralSource, Policy, PolicyError, Verifier};
use rustls::{ClientConfig, ServerConfig};

use crate::{Clock, Judge, NodeIdentity, tls};

/// Our identity, and our demands on peers. Cheap to clone; clones share one policy.
#[derive(Clone)]
pub struct TlsSettings {
    identity: Arc<NodeIdentity>,
    judge: Judge,
    client_config: Arc<ClientConfig>,
    server_config: Arc<ServerConfig>,
}

impl TlsSettings {
    /// What we show (`identity`) is independent of what we demand (`policy`, enforced with `verifier`; `collateral`
    /// fetches what that needs, and without it evidence that needs anything is refused).
    ///
    /// # Errors
    /// The TLS library refuses the configuration.
    pub fn new(
        identity: Arc<NodeIdentity>,
        verifier: Arc<dyn Verifier>,
        policy: Policy,
        collateral: Option<Arc<dyn CollateralSource>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, rustls::Error> {
        let client_config = tls::client_config(Arc::clone(&identity), Arc::clone(&clock))?;
        let server_config = tls::server_config(Arc::clone(&identity), Arc::clone(&clock))?;
        Ok(Self {
            identity,
            judge: Judge::new(verifier, policy, collateral, clock),
            client_config: Arc::new(client_config),
            server_config: Arc::new(server_config),
        })
    }

    /// Our identity.
    #[must_use]
    pub fn identity(&self) -> &Arc<NodeIdentity> {
        &self.identity
    }

    /// What we demand now.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.judge.policy()
    }

    /// Replaces what we demand, for this and every clone. A peer that is no longer let in loses its connection at once.
    pub fn set_policy(&self, policy: Policy) {
        self.judge.set_policy(policy);
    }

    /// Takes over the image hashes that the root contract lists now, for this and every clone.
    ///
    /// # Errors
    /// As [`Judge::list_images`].
    pub fn list_images(&self, hashes: impl IntoIterator<Item = [u8; 32]>) -> Result<(), PolicyError> {
        self.judge.list_images(hashes)
    }

    /// Who judges peers.
    #[must_use]
    pub fn judge(&self) -> &Judge {
        &self.judge
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
