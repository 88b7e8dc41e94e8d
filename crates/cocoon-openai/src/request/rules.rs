//! What each endpoint's JSON body must say, and which of its fields decide about work and pay.

use super::error::RequestError;
use super::read_bool;
use crate::endpoint::Endpoint;
use crate::object::{RawObject, each_element, has_elements, string_of};

/// Why a request that leans on an earlier one is refused.
const NO_STATE: &str = "workers keep no state between requests; send the whole conversation in 'input'";

impl Endpoint {
    /// Whether a stream tells its usage only where `stream_options.include_usage` asks for it.
    pub(crate) fn counts_on_demand(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }

    /// Fields that decide how much an engine works and what is paid for it.
    pub(crate) fn binding(self) -> &'static [&'static str] {
        match self {
            Self::Chat | Self::Completions => &[
                "best_of",
                "max_completion_tokens",
                "max_tokens",
                "messages",
                "model",
                "n",
                "n_cmpl",
                "n_predict",
                "prompt",
                "stream",
                "stream_options",
            ],
            Self::Responses => &[
                "background",
                "best_of",
                "conversation",
                "input",
                "max_completion_tokens",
                "max_output_tokens",
                "max_tokens",
                "model",
                "n",
                "n_cmpl",
                "n_predict",
                "previous_response_id",
                "stream",
            ],
            Self::Messages => &[
                "best_of",
                "max_completion_tokens",
                "max_output_tokens",
                "max_tokens",
                "messages",
                "model",
                "n",
                "n_cmpl",
                "n_predict",
                "stream",
                "system",
            ],
            Self::Embeddings => &["input", "messages", "model"],
            Self::Rerank => &["documents", "model", "query", "texts"],
            Self::Speech => &["input", "model", "stream", "stream_format"],
            Self::ImageGenerations => &["height", "model", "n", "prompt", "size", "stream", "width"],
            Self::Moderations => &["input", "model"],
            Self::Tokenize => &["content", "messages", "model", "prompt", "text"],
            Self::Detokenize => &["model", "tokens"],
            Self::CountTokens => &["messages", "model", "system"],
            Self::InputTokens => &["conversation", "input", "model", "previous_response_id"],
            Self::Transcriptions | Self::Translations => {
                &["file", "model", "prompt", "response_format", "stream"]
            }
            Self::ImageEdits | Self::ImageVariations => {
                &["height", "image", "image[]", "mask", "model", "n", "prompt", "size", "stream", "width"]
            }
        }
    }
}

/// A field that a reader which ignores case, as Go's is, would take for one of `fields`.
pub(crate) fn lookalike(key: &str, fields: &[&'static str]) -> Option<&'static str> {
    let plain = |letter: char| match letter {
        // The two letters beyond ASCII whose other case is an ASCII letter.
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    };
    fields.iter().copied().find(|field| *field != key && key.chars().map(plain).eq(field.chars()))
}

/// Refuses fields that the engine might take for one that decides about work and pay.
pub(crate) fn refuse_ambiguous(endpoint: Endpoint, object: &RawObject<'_>) -> Result<(), RequestError> {
    refuse_lookalikes(object, endpoint.binding())
}

fn refuse_lookalikes(object: &RawObject<'_>, fields: &[&'static str]) -> Result<(), RequestError> {
    match object.keys().find_map(|key| Some((key, lookalike(key, fields)?))) {
        Some((key, meant)) => Err(RequestError::lookalike(key, meant)),
        None => Ok(()),
    }
}

pub(crate) fn read_model(object: &RawObject<'_>) -> Result<String, RequestError> {
    let json = object.get_set("model").ok_or_else(|| RequestError::missing("model"))?;
    let model = string_of(json).ok_or_else(|| RequestError::wrong_type("model", "a string"))?;
    if model.is_empty() {
        return Err(RequestError::wrong_value("model", "the name of a model"));
    }
    Ok(model.into_owned())
}

/// Whether the answer is to be a stream of events.
pub(crate) fn wants_stream(endpoint: Endpoint, object: &RawObject<'_>) -> Result<bool, RequestError> {
    match endpoint {
        Endpoint::Chat
        | Endpoint::Completions
        | Endpoint::Responses
        | Endpoint::Messages
        | Endpoint::ImageGenerations => read_bool(object.get_set("stream"), "stream"),
        Endpoint::Speech => Ok(object.get_set("stream_format").and_then(string_of).as_deref() == Some("sse")),
        _ => Ok(false),
    }
}

/// Sets `stream_options.include_usage`; whether the caller had set it.
pub(crate) fn ask_for_usage(object: &mut RawObject<'_>) -> Result<bool, RequestError> {
    let options = object.get_set("stream_options").unwrap_or("{}").to_owned();
    let mut options = RawObject::parse(options.as_bytes())
        .map_err(|_| RequestError::wrong_type("stream_options", "an object without repeated fields"))?;
    refuse_lookalikes(&options, &["include_usage"])?;
    let wanted = read_bool(options.get_set("include_usage"), "stream_options.include_usage")?;
    options.set("include_usage", "true");
    object.set("stream_options", options.to_json());
    Ok(wanted)
}

/// Checks that what the endpoint works on is there and of a form that can be counted.
pub(super) fn check(endpoint: Endpoint, object: &RawObject<'_>) -> Result<(), RequestError> {
    let has = |field| object.get_set(field).is_some();
    match endpoint {
        Endpoint::Chat | Endpoint::Messages | Endpoint::CountTokens => array(object, "messages"),
        Endpoint::Completions => text_or_array(object, "prompt"),
        Endpoint::Responses | Endpoint::InputTokens => {
            text_or_array(object, "input")?;
            for field in ["previous_response_id", "conversation"] {
                if has(field) {
                    return Err(RequestError::unsupported(field, NO_STATE));
                }
            }
            if read_bool(object.get_set("background"), "background")? {
                let why = "workers keep no state, so nothing could be fetched later";
                return Err(RequestError::unsupported("background", why));
            }
            Ok(())
        }
        Endpoint::Embeddings if has("messages") => array(object, "messages"),
        Endpoint::Embeddings | Endpoint::Moderations => text_or_array(object, "input"),
        Endpoint::Rerank => {
            required(object, "query")?;
            match object.get_set("documents") {
                // vLLM's form for documents with images.
                Some(json) if json.starts_with('{') => Ok(()),
                _ => array(object, "documents"),
            }
        }
        Endpoint::Speech => text(object, "input"),
        Endpoint::ImageGenerations => text(object, "prompt"),
        Endpoint::Tokenize if has("messages") => array(object, "messages"),
        // llama.cpp's and SGLang's names for it.
        Endpoint::Tokenize if has("content") || has("text") => Ok(()),
        Endpoint::Tokenize => text_or_array(object, "prompt"),
        Endpoint::Detokenize => array(object, "tokens"),
        Endpoint::Transcriptions
        | Endpoint::Translations
        | Endpoint::ImageEdits
        | Endpoint::ImageVariations => Ok(()),
    }
}

fn required<'a>(object: &'a RawObject<'_>, field: &'static str) -> Result<&'a str, RequestError> {
    object.get_set(field).ok_or_else(|| RequestError::missing(field))
}

/// A text that is not empty.
fn text(object: &RawObject<'_>, field: &'static str) -> Result<(), RequestError> {
    let text = string_of(required(object, field)?);
    match text {
        None => Err(RequestError::wrong_type(field, "a string")),
        Some(text) if text.is_empty() => Err(RequestError::wrong_value(field, "a text that is not empty")),
        Some(_) => Ok(()),
    }
}

/// An array with something in it.
fn array(object: &RawObject<'_>, field: &'static str) -> Result<(), RequestError> {
    filled(required(object, field)?, field, "an array")
}

/// A text, or an array with something in it.
fn text_or_array(object: &RawObject<'_>, field: &'static str) -> Result<(), RequestError> {
    let json = required(object, field)?;
    if json.starts_with('"') { Ok(()) } else { filled(json, field, "a string or an array") }
}

fn filled(json: &str, field: &'static str, expected: &str) -> Result<(), RequestError> {
    if !json.starts_with('[') {
        return Err(RequestError::wrong_type(field, expected));
    }
    if has_elements(json) { Ok(()) } else { Err(RequestError::wrong_value(field, "at least one element")) }
}

/// How many texts a prompt asks to complete: more than one only for an array of texts or of token arrays.
pub(crate) fn count_prompts(prompt: &str) -> u64 {
    let mut count = 0;
    each_element(prompt, |element| {
        count += 1;
        count > 1 || element.starts_with(['"', '['])
    });
    count.max(1)
}
