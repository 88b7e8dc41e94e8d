//! Errors in the shape that clients read: OpenAI's, and Anthropic's where its API was asked.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::endpoint::Endpoint;

/// An error for the caller: an HTTP status, and a JSON body of the shape that the endpoint's clients read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status} {kind}: {message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// `error.type`, such as `invalid_request_error`.
    pub kind: &'static str,
    /// `error.code`, such as `model_not_found`.
    pub code: Option<String>,
    /// `error.param`: the field of the request at fault.
    pub param: Option<String>,
    /// `error.message`: the cause, and the next step where there is one.
    pub message: String,
    /// Seconds for a `Retry-After` header.
    pub retry_after: Option<u32>,
}

impl ApiError {
    /// Any error; the constructors below name the usual ones.
    #[must_use]
    pub fn new(status: u16, kind: &'static str, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code: Some(code.to_owned()),
            param: None,
            message: message.into(),
            retry_after: None,
        }
    }

    fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// 400: the request is wrong; `param` names the field.
    #[must_use]
    pub fn invalid_request(param: Option<&str>, code: &str, message: impl Into<String>) -> Self {
        Self { param: param.map(str::to_owned), ..Self::new(400, "invalid_request_error", code, message) }
    }

    /// 402: the balance does not cover the request.
    #[must_use]
    pub fn insufficient_balance(message: impl Into<String>) -> Self {
        Self::new(402, "insufficient_quota", "insufficient_balance", message)
    }

    /// 404: no worker serves `model`; the message lists what there is (at most 20 names).
    #[must_use]
    pub fn model_not_found<S: AsRef<str>>(model: &str, available: &[S]) -> Self {
        const LISTED: usize = 20;
        let names: Vec<&str> = available.iter().take(LISTED).map(AsRef::as_ref).collect();
        let there_is = match (names.is_empty(), available.len().saturating_sub(LISTED)) {
            (true, _) => "No model is available now.".to_owned(),
            (false, 0) => format!("Available models: {}.", names.join(", ")),
            (false, more) => {
                format!("Available models: {} and {more} more; see /v1/models.", names.join(", "))
            }
        };
        let message = format!("The model '{model}' does not exist here. {there_is}");
        Self {
            param: Some("model".to_owned()),
            ..Self::new(404, "invalid_request_error", "model_not_found", message)
        }
    }

    /// 405: the path is right, the method is not.
    #[must_use]
    pub fn method_not_allowed(method: &str, allowed: &str) -> Self {
        let message = format!("{method} is not allowed here; use {allowed}.");
        Self::new(405, "invalid_request_error", "method_not_allowed", message)
    }

    /// 429: every worker of the model is busy.
    #[must_use]
    pub fn workers_busy(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, "rate_limit_error", "workers_busy", message).retry_after(retry_after_seconds)
    }

    /// 502: the engine, or the way to it, failed.
    #[must_use]
    pub fn engine_failed(message: impl Into<String>) -> Self {
        Self::new(502, "api_error", "engine_failed", message)
    }

    /// 503: there is no worker for the request now.
    #[must_use]
    pub fn no_worker(message: impl Into<String>) -> Self {
        Self::new(503, "service_unavailable_error", "no_worker", message).retry_after(5)
    }

    /// 503: no proxy is connected.
    #[must_use]
    pub fn no_proxy(message: impl Into<String>) -> Self {
        Self::new(503, "service_unavailable_error", "no_proxy", message).retry_after(5)
    }

    /// 504: the request's deadline passed.
    #[must_use]
    pub fn timed_out(message: impl Into<String>) -> Self {
        Self::new(504, "timeout_error", "timeout", message)
    }

    /// The body in OpenAI's shape: `{"error":{"message","type","param","code"}}`.
    #[must_use]
    pub fn to_json(&self) -> Bytes {
        json!({ "error": self.openai() }).to_string().into()
    }

    /// The body in the shape of an endpoint: Anthropic's, `{"type":"error","error":{"type","message"}}`, for its messages
    /// and their counts; else OpenAI's, as [`Self::to_json`].
    #[must_use]
    pub fn to_json_for(&self, endpoint: Endpoint) -> Bytes {
        match endpoint.counted() {
            Endpoint::Messages => self.anthropic().to_string().into(),
            _ => self.to_json(),
        }
    }

    /// The server-sent event that ends a broken stream of an endpoint; clients raise it as an error.
    ///
    /// `next_sequence` numbers it where events are numbered ([`crate::MeterReport::next_sequence`]). The responses API has an event of its own for
    /// errors, with the fields beside its type; they are written into an `error` as well, because it is by that field that
    /// OpenAI's clients raise.
    #[must_use]
    pub fn to_event(&self, endpoint: Endpoint, next_sequence: Option<u64>) -> Bytes {
        let text = match endpoint {
            Endpoint::Messages => format!("event: error\ndata: {}\n\n", self.anthropic()),
            Endpoint::Responses => {
                let mut event = json!({
                    "type": "error",
                    "code": self.code,
                    "message": self.message,
                    "param": self.param,
                    "error": self.openai(),
                });
                if let Some(number) = next_sequence {
                    event["sequence_number"] = number.into();
                }
                format!("event: error\ndata: {event}\n\n")
            }
            _ => format!("data: {}\n\n", json!({ "error": self.openai() })),
        };
        text.into()
    }

    fn openai(&self) -> Value {
        json!({
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        })
    }

    /// Anthropic has no codes and fewer types, one for each status.
    fn anthropic(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            402 => "billing_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 | 529 => "overloaded_error",
            504 => "timeout_error",
            400..500 => "invalid_request_error",
            _ => "api_error",
        };
        json!({ "type": "error", "error": { "type": kind, "message": self.message } })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_body_has_openais_shape() {
        let error =
            ApiError::invalid_request(Some("messages"), "missing_required_parameter", "say \"what\"\n");
        let body: serde_json::Value = serde_json::from_slice(&error.to_json()).unwrap();
        let expected = json!({"error": {"message": "say \"what\"\n", "type": "invalid_request_error",
            "param": "messages", "code": "missing_required_parameter"}});
        assert_eq!(body, expected);
    }

    #[test]
    fn the_event_is_one_line_of_data() {
        let event = ApiError::engine_failed("broke\nin two").to_event(Endpoint::Chat, Some(7));
        assert!(event.starts_with(b"data: {\"error\":{") && event.ends_with(b"}}\n\n"));
        assert_eq!(event.iter().filter(|&&byte| byte == b'\n').count(), 2);
    }

    #[test]
    fn each_api_has_its_own_shape_of_errors() {
        let error = ApiError::no_worker("none\nnow");
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let anthropic =
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "none\nnow"}});
        assert_eq!(parse(&error.to_json_for(Endpoint::Messages)), anthropic);
        assert_eq!(error.to_json_for(Endpoint::CountTokens), error.to_json_for(Endpoint::Messages));
        assert_eq!(error.to_json_for(Endpoint::Embeddings), error.to_json());
        let event = error.to_event(Endpoint::Messages, None);
        assert_eq!(parse(event.strip_prefix(b"event: error\ndata: ").unwrap()), anthropic);
        let event = error.to_event(Endpoint::Responses, Some(4));
        let event = parse(event.strip_prefix(b"event: error\ndata: ").unwrap());
        assert_eq!((&event["type"], &event["sequence_number"]), (&json!("error"), &json!(4)));
        assert_eq!((&event["code"], &event["error"]["code"]), (&json!("no_worker"), &json!("no_worker")));
        for (status, kind) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (402, "billing_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (405, "invalid_request_error"),
            (413, "request_too_large"),
            (429, "rate_limit_error"),
            (500, "api_error"),
            (502, "api_error"),
            (503, "overloaded_error"),
            (504, "timeout_error"),
        ] {
            let error = ApiError::new(status, "x", "x", "x");
            assert_eq!(parse(&error.to_json_for(Endpoint::Messages))["error"]["type"], kind, "{status}");
        }
    }

    #[test]
    fn an_unknown_model_is_answered_with_what_there_is() {
        let names: Vec<String> = (0..25).map(|number| format!("m{number}")).collect();
        let message = ApiError::model_not_found("x", &names).message;
        assert!(message.contains("m0, m1") && message.contains("m19 and 5 more"), "{message}");
        assert!(ApiError::model_not_found::<&str>("x", &[]).message.contains("No model is available"));
    }

    #[test]
    fn busy_says_when_to_come_back() {
        let error = ApiError::workers_busy("All 2 workers are busy.", 1);
        assert_eq!((error.status, error.retry_after), (429, Some(1)));
    }
}
