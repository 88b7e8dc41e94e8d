//! A request as it arrives at a worker: from a gateway of ours, prepared; from a published one, not.

use bytes::Bytes;

use crate::object::{ObjectError, RawObject};
use crate::request::{RequestError, ask_for_usage, read_bool, read_model, refuse_ambiguous};

/// What a worker reads of a request before it asks its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrivingRequest {
    /// The model that was asked for, as the caller wrote it: `name` or `name@commit:hash`.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// The body for the engine: as it came, except that the model's name is bare, because engines know no other, and that a
    /// stream always asks for usage, because tokens are paid by it.
    pub body: Bytes,
}

impl ArrivingRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// [`RequestError`] where it is not one JSON object with a model, or has a field that an engine might take for another
    /// one that was paid for.
    pub fn parse(body: Bytes) -> Result<Self, RequestError> {
        let mut object = RawObject::parse(&body).map_err(|error| match error {
            ObjectError::Syntax { line, column } => RequestError::body(format!(
                "The body is not a valid JSON object: line {line}, column {column}."
            )),
            ObjectError::Duplicate(field) => RequestError::duplicate(field),
        })?;
        refuse_ambiguous(&object)?;
        let model = read_model(&object)?;
        let stream = read_bool(object.get_set("stream"), "stream")?;
        let bare = model.split_once('@').map(|(bare, _)| serde_json::Value::from(bare).to_string());
        let asked = !stream || ask_for_usage(&mut object)?;
        if asked && bare.is_none() {
            return Ok(Self { model, stream, body });
        }
        if let Some(bare) = bare {
            object.set("model", bare);
        }
        let body = object.to_json().into();
        Ok(Self { model, stream, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_asks_for_usage_and_nothing_else_changes() {
        let plain = Bytes::from_static(br#"{"model":"m", "seed": 1e0}"#);
        assert_eq!(ArrivingRequest::parse(plain.clone()).unwrap().body, plain);
        let asked =
            Bytes::from_static(br#"{"model":"m","stream":true, "stream_options":{"include_usage":true}}"#);
        assert_eq!(ArrivingRequest::parse(asked.clone()).unwrap().body, asked);
        let unasked = Bytes::from_static(br#"{"model":"m","stream":true,"seed": 1e0}"#);
        let read = ArrivingRequest::parse(unasked).unwrap();
        assert!(read.stream);
        assert_eq!(
            read.body,
            br#"{"model":"m","stream":true,"seed":1e0,"stream_options":{"include_usage":true}}"#.as_slice()
        );
    }

    #[test]
    fn the_engine_is_asked_for_the_bare_model() {
        let read = ArrivingRequest::parse(Bytes::from_static(br#"{"n":1,"model":"a/b@c:d"}"#)).unwrap();
        assert_eq!(
            (read.model.as_str(), read.body.as_ref()),
            ("a/b@c:d", br#"{"n":1,"model":"a/b"}"#.as_slice())
        );
    }

    #[test]
    fn what_names_no_model_is_refused() {
        for body in ["", "[]", "{}", r#"{"model":7}"#, r#"{"model":"a","model":"b"}"#] {
            assert!(ArrivingRequest::parse(Bytes::from(body)).is_err(), "{body}");
        }
    }

    #[test]
    fn a_limit_in_capitals_that_was_not_paid_for_is_refused() {
        let body = Bytes::from_static(br#"{"model":"m","max_tokens":1,"Max_Tokens":100000}"#);
        assert_eq!(ArrivingRequest::parse(body).unwrap_err().code, "unknown_parameter");
    }
}
