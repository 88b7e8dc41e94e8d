//! Why a request is refused at the door.

use std::borrow::Cow;

use crate::error::ApiError;
use crate::object::{MAX_FIELDS, ObjectError};

/// Why a request can't be served as it stands: a 400 for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// The field at fault, where it is one.
    pub param: Option<Cow<'static, str>>,
    /// OpenAI's code for the kind of fault.
    pub code: &'static str,
    /// What is wrong and what would be right; quotes nothing but a field's name.
    pub message: String,
}

impl RequestError {
    fn new(param: impl Into<Cow<'static, str>>, code: &'static str, message: String) -> Self {
        Self { param: Some(param.into()), code, message }
    }

    pub(crate) fn body(message: impl Into<String>) -> Self {
        Self { param: None, code: "invalid_json", message: message.into() }
    }

    pub(crate) fn form(message: impl Into<String>) -> Self {
        Self { param: None, code: "invalid_multipart", message: message.into() }
    }

    pub(crate) fn duplicate(field: String) -> Self {
        let message = format!("The field '{field}' occurs twice; send it once.");
        Self::new(field, "duplicate_parameter", message)
    }

    pub(crate) fn lookalike(field: &str, meant: &str) -> Self {
        let message = format!("Unknown parameter: '{field}'. Some engines read it as '{meant}'; write that.");
        Self::new(field.to_owned(), "unknown_parameter", message)
    }

    pub(crate) fn missing(param: &'static str) -> Self {
        Self::new(param, "missing_required_parameter", format!("Missing required parameter: '{param}'."))
    }

    pub(crate) fn unsupported(param: &'static str, why: &str) -> Self {
        Self::new(param, "unsupported_parameter", format!("'{param}' can't be used here: {why}."))
    }

    pub(crate) fn wrong_type(param: &'static str, expected: &str) -> Self {
        Self::new(param, "invalid_type", format!("Invalid type for '{param}': expected {expected}."))
    }

    pub(crate) fn wrong_value(param: &'static str, expected: &str) -> Self {
        Self::new(param, "invalid_value", format!("Invalid value for '{param}': expected {expected}."))
    }
}

impl From<ObjectError> for RequestError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Syntax { line, column } => {
                Self::body(format!("The body is not a valid JSON object: line {line}, column {column}."))
            }
            ObjectError::Duplicate(field) => Self::duplicate(field),
            ObjectError::TooManyFields => Self::body(format!("The body has more than {MAX_FIELDS} fields.")),
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        Self::invalid_request(error.param.as_deref(), error.code, error.message)
    }
}
