//! Keys: made, listed, shown, changed, revoked, rotated.

use std::sync::Arc;

use cocoon_access::{ChangeError, KeyId, KeySecret, KeySettings, KeyView};
use cocoon_openai::ApiError;
use serde_json::{Map, Value, json};

use super::Reply;
use crate::access::{Access, new_secret};

/// Longest that an old secret may stay good beside a new one: 30 days.
const MAX_GRACE_SECONDS: u64 = 30 * 86_400;
/// In a change: what was counted as spent without an agreed cost is given back.
const FORGIVE: &str = "forgive_unsettled";

impl Access {
    pub(super) fn list_keys(&self) -> Reply {
        let now = self.now();
        let views = self.desk().views(now);
        let keys: Vec<_> = views.iter().map(|view| self.to_json(view)).collect();
        Reply::json(200, &json!({"object": "list", "data": keys}))
    }

    pub(super) fn show_key(&self, key: &str) -> Result<Reply, ApiError> {
        let id = self.find(key)?;
        self.shown(id, 200, None)
    }

    pub(super) async fn create_key(self: &Arc<Self>, body: Map<String, Value>) -> Result<Reply, ApiError> {
        let settings: KeySettings = serde_json::from_value(Value::Object(body))
            .map_err(|error| refused(&ChangeError::Field(error.to_string())))?;
        let (id, secret) = (KeyId::from_random(rand::random()), new_secret());
        self.desk().create(id, &secret, settings, self.now()).map_err(|error| refused(&error))?;
        self.durably().await?;
        self.shown(id, 201, Some(&secret))
    }

    pub(super) async fn change_key(
        self: &Arc<Self>,
        key: &str,
        mut patch: Map<String, Value>,
    ) -> Result<Reply, ApiError> {
        let id = self.find(key)?;
        let forgive = match patch.remove(FORGIVE) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(_) => {
                return Err(refused(&ChangeError::Field(format!("{FORGIVE} is true or false"))));
            }
        };
        {
            let mut desk = self.desk();
            if !patch.is_empty() || !forgive {
                desk.change(id, &patch, self.now()).map_err(|error| refused(&error))?;
            }
            if forgive {
                desk.forgive(id).map_err(|error| refused(&error))?;
            }
        }
        self.durably().await?;
        self.shown(id, 200, None)
    }

    pub(super) async fn revoke_key(self: &Arc<Self>, key: &str) -> Result<Reply, ApiError> {
        let id = self.find(key)?;
        self.desk().revoke(id, self.now()).map_err(|error| refused(&error))?;
        self.durably().await?;
        self.shown(id, 200, None)
    }

    pub(super) async fn rotate_key(
        self: &Arc<Self>,
        key: &str,
        body: &Map<String, Value>,
    ) -> Result<Reply, ApiError> {
        let id = self.find(key)?;
        let mut grace = 0;
        for (name, value) in body {
            match value.as_u64().filter(|seconds| name == "grace_seconds" && *seconds <= MAX_GRACE_SECONDS) {
                Some(seconds) => grace = seconds,
                None => {
                    let words =
                        format!("a rotation takes grace_seconds, 0 to {MAX_GRACE_SECONDS}, and nothing else");
                    return Err(refused(&ChangeError::Field(words)));
                }
            }
        }
        let secret = new_secret();
        self.desk().rotate(id, &secret, grace, self.now()).map_err(|error| refused(&error))?;
        self.durably().await?;
        self.shown(id, 200, Some(&secret))
    }

    fn find(&self, key: &str) -> Result<KeyId, ApiError> {
        self.desk().find(key).ok_or_else(|| refused(&ChangeError::NotFound))
    }

    /// What an operator is told is durable. In memory it is in force already, so that a revoked key stays out even
    /// where the disk fails.
    async fn durably(self: &Arc<Self>) -> Result<(), ApiError> {
        self.flush().await.map_err(|error| {
            let message = format!(
                "The change is in force, but could not be stored, and will be lost at a restart: {error}"
            );
            ApiError::new(500, "api_error", "store_failed", message)
        })
    }

    fn shown(&self, id: KeyId, status: u16, secret: Option<&KeySecret>) -> Result<Reply, ApiError> {
        let view = self.desk().view(id, self.now()).ok_or_else(|| refused(&ChangeError::NotFound))?;
        let mut value = self.to_json(&view);
        if let (Some(secret), Value::Object(fields)) = (secret, &mut value) {
            fields.insert("secret".to_owned(), secret.to_text().as_str().into());
        }
        Ok(Reply::json(status, &value))
    }

    /// A key for operators, and for whoever has it. Never its hash.
    pub(super) fn to_json(&self, view: &KeyView) -> Value {
        let (record, spending) = (&view.record, &view.spending);
        let settings = &record.settings;
        json!({
            "object": "key",
            "id": record.id,
            "name": settings.name,
            "hint": record.hint,
            "state": record.state(self.now()),
            "created_unix_seconds": record.created,
            "expires_unix_seconds": settings.expires,
            "revoked_unix_seconds": record.revoked,
            "disabled": settings.disabled,
            "models": settings.models,
            "endpoints": settings.endpoints,
            "budget_nanoton": settings.budget_nanoton,
            "budget_per_day_nanoton": settings.budget_per_day_nanoton,
            "requests_per_minute": settings.requests_per_minute,
            "tokens_per_minute": settings.tokens_per_minute,
            "concurrent_requests": settings.concurrent_requests,
            "spent_nanoton": spending.total,
            "spent_today_nanoton": spending.today,
            "reserved_nanoton": spending.reserved,
            "unsettled_nanoton": spending.unsettled_nanoton,
            "requests_under_way": view.running,
        })
    }
}

fn refused(error: &ChangeError) -> ApiError {
    let (status, code) = match error {
        ChangeError::Settings(_) | ChangeError::Field(_) => (400, "invalid_value"),
        ChangeError::NotFound => (404, "key_not_found"),
        ChangeError::NameTaken(_) => (409, "name_taken"),
        ChangeError::Revoked => (409, "key_revoked"),
        ChangeError::TooMany => (409, "too_many_keys"),
    };
    ApiError::new(status, "invalid_request_error", code, error.to_string())
}
