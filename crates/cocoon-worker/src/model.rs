//! The model's files, which were checked before the worker started, and must stay as they were while it announces them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cocoon_model::{CheckedModel, ModelError};

use crate::Shared;

/// How often the files are looked at. No content is read.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What is known of the model's files.
#[derive(Debug)]
pub(crate) struct ModelFiles {
    checked: Option<Arc<CheckedModel>>,
    /// Why they are no longer taken for the model.
    fault: Mutex<Option<String>>,
}

/// What a look at the files showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Unchanged,
    /// They cannot be looked at; that may pass.
    Missing,
    /// They are others: for good, since nobody knows what was read meanwhile.
    Changed,
}

impl ModelFiles {
    /// The files that a name stands for.
    ///
    /// # Errors
    /// They are another model's.
    pub(crate) fn new(checked: Option<CheckedModel>, name: &str) -> Result<Self, String> {
        if let Some(checked) = &checked {
            let hash = checked.image().hash.to_string();
            if name.rsplit_once(':').is_none_or(|(_, named)| named != hash) {
                return Err(format!(
                    "the model's files have the hash {hash}, and its name does not end with it"
                ));
            }
        }
        Ok(Self { checked: checked.map(Arc::new), fault: Mutex::new(None) })
    }

    /// Whether the files were found to be those of the name, and are unchanged.
    pub(crate) fn is_checked(&self) -> bool {
        self.checked.is_some() && self.fault().is_none()
    }

    /// Why they are no longer taken for the model.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, fault: Option<String>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

/// Looks at the files now and then, until they have changed.
pub(crate) async fn watch(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if look(&shared).await == Seen::Changed {
            return;
        }
    }
}

/// Looks once, and tells proxies where that changed something.
async fn look(shared: &Shared) -> Seen {
    let Some(checked) = shared.model_files.checked.clone() else { return Seen::Unchanged };
    let path = checked.path().display().to_string();
    let looked = tokio::task::spawn_blocking(move || checked.is_unchanged());
    let (seen, fault) = match looked.await {
        Ok(Ok(true)) => (Seen::Unchanged, None),
        Ok(Ok(false) | Err(ModelError::Refused { .. })) => {
            let fault =
                format!("the model's files at {path} changed; start the worker again, so that it reads them");
            (Seen::Changed, Some(fault))
        }
        Ok(Err(error)) => (Seen::Missing, Some(error.to_string())),
        // The runtime ends.
        Err(_) => return Seen::Unchanged,
    };
    if fault != shared.model_files.fault() {
        match &fault {
            Some(fault) => tracing::error!(fault, "takes no requests any more"),
            None => tracing::info!("the model's files are there again: takes requests"),
        }
        shared.model_files.set(fault);
        shared.steer();
    }
    seen
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ops::ControlFlow;

    use cocoon_attest::{Policy, VerifierSet};
    use cocoon_chain::StaticChain;
    use cocoon_engine::builtin::ExtractiveSummary;
    use cocoon_net::{Clock as _, DialOptions, NodeIdentity, NodeKey, SystemClock, TlsSettings};
    use cocoon_ton::{Address, RootConfig};
    use serde_json::Value;

    use super::*;
    use crate::{StartError, Worker, WorkerConfig, http};

    async fn worker(place: &std::path::Path, files: CheckedModel) -> Result<Worker, StartError> {
        let address = Address::basechain([1; 32]);
        let config = WorkerConfig {
            tracing: None,
            http: "127.0.0.1:0".parse().unwrap(),
            proxies: Vec::new(),
            owner: address,
            model: format!("a@b:{}", files.image().hash),
            model_files: Some(files),
            coefficient: 1000,
            follow_load: None,
            max_active: 1,
            root_address: address,
            is_test: true,
            is_testnet: false,
            extensions: true,
            max_body_bytes: crate::DEFAULT_MAX_BODY_BYTES,
            check_proxy_hashes: false,
            dial: DialOptions::default(),
            store: place.join("worker.db"),
            settlement: None,
            paused: false,
        };
        let evidence = cocoon_tee::open("none").unwrap();
        let identity = NodeIdentity::new(NodeKey::from_seed(&[5; 32]), evidence, SystemClock.now()).unwrap();
        let verifiers = Arc::new(VerifierSet::built_in());
        let tls = TlsSettings::new(identity, verifiers, Policy::any(), None, Arc::new(SystemClock)).unwrap();
        let chain = Arc::new(StaticChain::from_config(RootConfig::test_mode(address)).unwrap());
        crate::start(config, tls, chain, Arc::new(ExtractiveSummary::new())).await
    }

    fn checked(path: &std::path::Path) -> CheckedModel {
        cocoon_model::check(path, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    #[test]
    fn a_name_that_does_not_end_with_the_files_hash_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let files = checked(place.path());
        let hash = files.image().hash;
        assert!(ModelFiles::new(Some(files.clone()), &format!("a@b:{hash}")).unwrap().is_checked());
        for name in ["a", "a@b", "a@b:0", &format!("a@b:{hash}0"), &format!("a@b:{}", "0".repeat(64))] {
            let error = ModelFiles::new(Some(files.clone()), name).unwrap_err();
            assert!(error.contains(&hash.to_string()), "{error}");
        }
        assert!(!ModelFiles::new(None, "a@b:0").unwrap().is_checked());
    }

    #[tokio::test]
    async fn a_worker_whose_model_changes_takes_no_requests_and_says_why() {
        let place = tempfile::tempdir().unwrap();
        let (model, away) = (place.path().join("model"), place.path().join("away"));
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("weights"), "one").unwrap();
        let worker = worker(place.path(), checked(&model)).await.unwrap();
        let shared = Arc::clone(&worker.shared);
        let shown = || -> [Value; 3] {
            let stats = http::state(&shared);
            ["model_checked", "paused", "model_fault"].map(|field| stats[field].clone())
        };
        let well = [true.into(), false.into(), Value::Null];
        assert_eq!(look(&shared).await, Seen::Unchanged);
        assert_eq!(shown(), well);

        // A disk that is away for a while.
        std::fs::rename(&model, &away).unwrap();
        assert_eq!(look(&shared).await, Seen::Missing);
        assert_eq!(shown()[..2], [Value::from(false), true.into()]);
        std::fs::rename(&away, &model).unwrap();
        assert_eq!(look(&shared).await, Seen::Unchanged);
        assert_eq!(shown(), well);

        std::fs::write(model.join("weights"), "another").unwrap();
        assert_eq!(look(&shared).await, Seen::Changed);
        worker.set_paused(false);
        let [checked, paused, fault] = shown();
        assert_eq!([checked, paused], [Value::from(false), true.into()]);
        assert!(fault.as_str().unwrap().contains("start the worker again"), "{fault}");
        worker.shutdown().await;
    }
}
