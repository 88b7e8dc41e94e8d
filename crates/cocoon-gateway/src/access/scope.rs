//! Which models somebody may use, and so gets to see.

use cocoon_access::{KeyId, KeySettings};

use super::Access;

/// The models that a key is for; all of them for callers without one.
pub(crate) struct Scope(Option<KeySettings>);

impl Scope {
    /// Whether a model is one of them.
    pub(crate) fn covers(&self, model: &str) -> bool {
        self.0.as_ref().is_none_or(|settings| settings.covers_model(model))
    }
}

impl Access {
    /// What a key is for: a copy, because long lists are not looked through under the lock.
    pub(crate) fn scope_of(&self, key: KeyId) -> Scope {
        // A key that is gone by now is for nothing.
        let gone = || KeySettings { models: Vec::new(), ..KeySettings::named("") };
        Scope((key != KeyId::NONE).then(|| self.desk().settings(key).cloned().unwrap_or_else(gone)))
    }
}
