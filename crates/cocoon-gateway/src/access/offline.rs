//! Keys of a gateway that does not run: the same operations, directly on its database.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cocoon_net::MonotonicClock;
use cocoon_store::{Store as _, StoreError};
use http::Method;

use super::{Access, AccessConfig};
use crate::book::BookLoadError;

/// The answer to an operation, as the admin API gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineReply {
    /// HTTP's status.
    pub status: u16,
    /// JSON or CSV.
    pub body: Bytes,
}

/// The keys in the database of a gateway that does not run.
///
/// Opening it takes the database over: a gateway that runs with it all the same could not write any more, and would say
/// so. Whoever opens it makes sure that none does, by the lock of the gateway's directory.
#[derive(Debug)]
pub struct OfflineKeys(Arc<Access>);

impl OfflineKeys {
    /// Opens the database, which is made if it is missing. Waits for the disk.
    ///
    /// # Errors
    /// [`BookLoadError`].
    pub fn open(store: &Path) -> Result<Self, BookLoadError> {
        let config = AccessConfig::new(store.to_owned());
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let access = Access::open(MonotonicClock::start(), config, nowhere)?;
        Ok(Self(Arc::new(access)))
    }

    /// Does what the admin API does for this request; `path_and_query` begins with `/admin`.
    pub async fn request(&self, method: &Method, path_and_query: &str, body: &[u8]) -> OfflineReply {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        match self.0.operate(method, path, query, body).await {
            Ok(reply) => OfflineReply { status: reply.status, body: reply.body },
            Err(error) => OfflineReply { status: error.status, body: error.to_json() },
        }
    }

    /// Writes all, and closes the database. Waits for the disk.
    ///
    /// # Errors
    /// What could not be written.
    pub fn close(self) -> Result<(), StoreError> {
        self.0.store.close()
    }
}
