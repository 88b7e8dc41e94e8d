//! What of a request an answer's price may rest on: a few numbers, which either party can build from the bytes that it
//! sees, at once from a JSON body or piece by piece from a form that streams past.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::endpoint::Endpoint;
use crate::estimate::{
    BYTES_PER_FILE_TOKEN, BYTES_PER_TOKEN, TEMPLATE_TOKENS, TOKENS_PER_MEDIA_PART, TOKENS_PER_MESSAGE,
    TRANSCRIPT_BASE_TOKENS, TRANSCRIPT_BYTES_PER_TOKEN,
};
use crate::object::{RawObject, each_element, string_of};
use crate::request::count_prompts;
use crate::usage::Usage;

/// Side of the square of an image that counts as one token, in pixels.
const TILE_PIXELS: u64 = 16;
/// Width and height of an image whose request names no size.
pub(crate) const DEFAULT_IMAGE: (u64, u64) = (1024, 1024);
/// Largest side of an image in pixels, and most images at a time. Where a worker meets more, it reads them as this: the
/// product stays far below any overflow.
pub(crate) const MAX_FACTOR: u64 = 1 << 16;

/// A request, as far as rules of metering look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSummary {
    endpoint: Endpoint,
    /// Of the whole body.
    body_bytes: u64,
    /// UTF-8 of what the rule of the endpoint counts as text.
    text_bytes: u64,
    /// Counted one by one: token numbers, the frames of messages, pictures and sounds in messages.
    tokens: u64,
    /// Of uploaded files.
    file_bytes: u64,
    /// Choices, or images.
    count: u64,
    /// Texts to complete.
    prompts: u64,
    /// Of one image.
    tiles: Option<u64>,
    /// Limit on each choice that stands in the body.
    max_tokens: Option<u64>,
}

impl RequestSummary {
    /// A request of which nothing was seen yet. For a multipart body: then [`Self::add_body_bytes`] for all that passes,
    /// [`Self::add_field`] for each field and [`Self::add_file_bytes`] for what files hold.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            body_bytes: 0,
            text_bytes: 0,
            tokens: 0,
            file_bytes: 0,
            count: 1,
            prompts: 1,
            tiles: None,
            max_tokens: None,
        }
    }

    /// A request whose body is JSON. One that can't be read counts by its size.
    #[must_use]
    pub fn of_json(endpoint: Endpoint, body: &[u8]) -> Self {
        let mut summary = Self::new(endpoint);
        summary.add_body_bytes(body.len() as u64);
        match RawObject::parse(body) {
            Ok(object) => summary.read(&object),
            Err(_) => summary.text_bytes = body.len() as u64,
        }
        summary
    }

    /// More bytes of the body passed, framing included.
    pub fn add_body_bytes(&mut self, bytes: u64) {
        self.body_bytes = self.body_bytes.saturating_add(bytes);
    }

    /// A field of a form that is no file, whole.
    pub fn add_field(&mut self, name: &str, value: &[u8]) {
        let number =
            || std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(1);
        match (self.is_image(), name) {
            (true, "prompt") => self.text_bytes = self.text_bytes.saturating_add(value.len() as u64),
            (true, "n") => self.count = self.count.max(number().min(MAX_FACTOR)),
            (true, "size") => self.size(std::str::from_utf8(value).unwrap_or_default()),
            _ => {}
        }
    }

    /// More bytes of a file in a form.
    pub fn add_file_bytes(&mut self, bytes: u64) {
        self.file_bytes = self.file_bytes.saturating_add(bytes);
    }

    /// The endpoint that was asked.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Tokens of the prompt by the rule of the endpoint; never more than [`Self::prompt_bound`].
    #[must_use]
    pub fn prompt_tokens(&self) -> i64 {
        let tokens = match self.endpoint {
            Endpoint::Transcriptions | Endpoint::Translations => {
                self.file_bytes.div_ceil(BYTES_PER_FILE_TOKEN)
            }
            _ => self.text_bytes.div_ceil(BYTES_PER_TOKEN).saturating_add(self.tokens),
        };
        to_count(tokens).min(self.prompt_bound())
    }

    /// Tokens of the answer by the rule of the endpoint, where that looks at the request alone: what is spoken or drawn.
    /// Nothing for what gives no text at all.
    #[must_use]
    pub fn completion_tokens(&self) -> Option<i64> {
        match self.endpoint {
            Endpoint::Speech => Some(to_count(self.text_bytes)),
            Endpoint::ImageGenerations | Endpoint::ImageEdits | Endpoint::ImageVariations => {
                let tiles = self.tiles.unwrap_or(tiles_of(DEFAULT_IMAGE));
                Some(to_count(self.count.saturating_mul(tiles)))
            }
            Endpoint::Embeddings
            | Endpoint::Rerank
            | Endpoint::Moderations
            | Endpoint::Tokenize
            | Endpoint::Detokenize
            | Endpoint::CountTokens
            | Endpoint::InputTokens => Some(0),
            Endpoint::Chat
            | Endpoint::Completions
            | Endpoint::Responses
            | Endpoint::Messages
            | Endpoint::Transcriptions
            | Endpoint::Translations => None,
        }
    }

    /// The most prompt tokens that a proxy lets a worker claim, which sees the bytes alone.
    #[must_use]
    pub fn prompt_bound(&self) -> i64 {
        to_count(self.body_bytes.saturating_add(TEMPLATE_TOKENS))
    }

    /// The most tokens that the answer may be counted as: the limit that stands in the body (for all choices together),
    /// or what the rule of the endpoint allows. `None` where the body of a text endpoint names no limit.
    #[must_use]
    pub fn completion_bound(&self) -> Option<i64> {
        match self.endpoint {
            Endpoint::Chat | Endpoint::Completions | Endpoint::Responses | Endpoint::Messages => {
                let limit = self.max_tokens?.saturating_mul(self.count).saturating_mul(self.prompts);
                Some(to_count(limit))
            }
            Endpoint::Transcriptions | Endpoint::Translations => {
                Some(to_count(TRANSCRIPT_BASE_TOKENS + self.file_bytes / TRANSCRIPT_BYTES_PER_TOKEN))
            }
            _ => self.completion_tokens(),
        }
    }

    /// Whether nothing but the request limits what an engine may count: no limit in tokens stands in the body, and the
    /// reservation rests on the rule of the endpoint.
    pub(crate) fn is_ruled(endpoint: Endpoint) -> bool {
        !matches!(endpoint, Endpoint::Chat | Endpoint::Completions | Endpoint::Responses | Endpoint::Messages)
    }

    fn is_image(&self) -> bool {
        matches!(self.endpoint, Endpoint::ImageGenerations | Endpoint::ImageEdits | Endpoint::ImageVariations)
    }

    fn read(&mut self, body: &RawObject<'_>) {
        let endpoint = self.endpoint.counted();
        let texts: &[&str] = match endpoint {
            Endpoint::Chat | Endpoint::Completions => &["suffix", "tools", "functions", "response_format"],
            Endpoint::Responses => &["instructions", "tools", "text"],
            Endpoint::Messages => &["tools"],
            Endpoint::Tokenize => &["content", "text", "tools"],
            Endpoint::Speech => &["input"],
            _ => &[],
        };
        for field in texts {
            self.text_bytes += body.get_set(field).map_or(0, json_bytes);
        }
        let parts: &[&str] = match endpoint {
            Endpoint::Chat | Endpoint::Completions | Endpoint::Tokenize => &["prompt"],
            Endpoint::ImageGenerations | Endpoint::ImageEdits | Endpoint::ImageVariations => &["prompt"],
            Endpoint::Messages => &["system"],
            Endpoint::Embeddings | Endpoint::Moderations => &["input"],
            Endpoint::Rerank => &["query", "documents", "texts"],
            Endpoint::Detokenize => &["tokens"],
            _ => &[],
        };
        for field in parts {
            body.get_set(field).into_iter().for_each(|json| self.prompt(json));
        }
        let messages: &[&str] = match endpoint {
            Endpoint::Chat
            | Endpoint::Completions
            | Endpoint::Messages
            | Endpoint::Embeddings
            | Endpoint::Tokenize => &["messages"],
            Endpoint::Responses => &["input"],
            _ => &[],
        };
        for field in messages {
            match body.get_set(field) {
                Some(json) if json.starts_with('"') => self.text_bytes += json_bytes(json),
                Some(json) => each_element(json, |message| {
                    self.message(message);
                    true
                }),
                None => {}
            }
        }
        self.read_limits(body);
    }

    fn read_limits(&mut self, body: &RawObject<'_>) {
        let whole = |field: &str| body.get_set(field)?.parse::<u64>().ok();
        let most = |fields: &[&str]| fields.iter().filter_map(|field| whole(field)).max();
        match self.endpoint {
            Endpoint::Chat | Endpoint::Completions => {
                self.max_tokens = whole("max_completion_tokens").or_else(|| whole("max_tokens"));
                self.count = most(&["n", "best_of", "n_cmpl"]).unwrap_or(1).max(1);
                self.prompts = body.get_set("prompt").map_or(1, count_prompts);
            }
            Endpoint::Responses => self.max_tokens = whole("max_output_tokens"),
            Endpoint::Messages => self.max_tokens = whole("max_tokens"),
            _ if self.is_image() => {
                self.count = whole("n").unwrap_or(1).clamp(1, MAX_FACTOR);
                if let Some(size) = body.get_set("size").and_then(string_of) {
                    self.size(&size);
                }
                if let (Some(width), Some(height)) = (whole("width"), whole("height")) {
                    self.tiles = self.tiles.max(Some(tiles_of((width, height))));
                }
            }
            _ => {}
        }
    }

    /// `WIDTHxHEIGHT`; anything else, `auto` for one, names no size. Of several sizes the largest counts.
    fn size(&mut self, text: &str) {
        let sides = text.trim().split_once(['x', 'X']);
        let named =
            sides.and_then(|(width, height)| Some(tiles_of((width.parse().ok()?, height.parse().ok()?))));
        self.tiles = self.tiles.max(named);
    }

    /// A message, or another item of a conversation.
    fn message(&mut self, json: &str) {
        self.tokens += TOKENS_PER_MESSAGE;
        let Ok(message) = RawObject::parse(json.as_bytes()) else {
            self.text_bytes += json_bytes(json);
            return;
        };
        let is_response = self.endpoint.counted() == Endpoint::Responses;
        let texts: &[&str] = if is_response {
            &["name", "arguments", "input"]
        } else {
            &["name", "tool_calls", "function_call", "reasoning_content"]
        };
        for field in texts {
            self.text_bytes += message.get_set(field).map_or(0, json_bytes);
        }
        for field in ["content", "output", "summary"] {
            match message.get_set(field) {
                None => {}
                Some(_) if field != "content" && !is_response => {}
                Some(parts) => self.parts(parts),
            }
        }
    }

    /// A text, or an array of parts.
    fn parts(&mut self, json: &str) {
        if json.starts_with('[') {
            each_element(json, |part| {
                self.part(part, true);
                true
            });
        } else {
            self.text_bytes += json_bytes(json);
        }
    }

    /// A part of a message: text, something said by or to a tool, or else a picture, sound or file.
    fn part(&mut self, json: &str, may_nest: bool) {
        if json.starts_with('"') {
            self.text_bytes += json_bytes(json);
            return;
        }
        let part = RawObject::parse(json.as_bytes()).ok();
        let field = |name: &str| part.as_ref().and_then(|part| part.get_set(name));
        if let Some(text) = ["text", "refusal", "thinking"].iter().find_map(|name| field(name)) {
            self.text_bytes += json_bytes(text);
        } else if field("type") == Some("\"tool_use\"") {
            self.text_bytes +=
                ["name", "input"].iter().filter_map(|name| field(name)).map(json_bytes).sum::<u64>();
        } else if field("type") == Some("\"tool_result\"") {
            match field("content") {
                Some(parts) if parts.starts_with('[') && may_nest => {
                    each_element(parts, |part| {
                        self.part(part, false);
                        true
                    });
                }
                Some(text) => self.text_bytes += json_bytes(text),
                None => {}
            }
        } else {
            self.tokens += TOKENS_PER_MEDIA_PART;
        }
    }

    /// A text, a number of a token, an object with text, or an array of such, or of arrays of token numbers.
    fn prompt(&mut self, json: &str) {
        if !json.starts_with('[') {
            return self.prompt_element(json);
        }
        each_element(json, |element| {
            self.prompt_element(element);
            true
        });
    }

    fn prompt_element(&mut self, json: &str) {
        match json.as_bytes() {
            [b'"', ..] => self.text_bytes += json_bytes(json),
            [b'[', ..] => each_element(json, |_| {
                self.tokens += 1;
                true
            }),
            [b'{', ..] => self.part(json, true),
            _ => self.tokens += 1,
        }
    }
}

/// A request that an answer is measured by. A JSON body is read only when a rule looks at it: where the engine tells its
/// usage, none does.
#[derive(Debug, Clone)]
pub struct RequestBasis {
    endpoint: Endpoint,
    body: Bytes,
    summary: OnceLock<RequestSummary>,
}

impl RequestBasis {
    /// A JSON body, as the gateway forwards it and the worker gets it.
    #[must_use]
    pub fn json(endpoint: Endpoint, body: Bytes) -> Self {
        Self { endpoint, body, summary: OnceLock::new() }
    }

    /// The endpoint that was asked.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The numbers that rules look at.
    #[must_use]
    pub fn summary(&self) -> &RequestSummary {
        self.summary.get_or_init(|| RequestSummary::of_json(self.endpoint, &self.body))
    }

    /// An engine's usage, held to what the request allows where no limit of tokens stands in it: what an engine counts
    /// beyond that was not reserved, and is not claimed.
    #[must_use]
    pub fn hold(&self, usage: &Usage) -> Usage {
        if !RequestSummary::is_ruled(self.endpoint) {
            return *usage;
        }
        let summary = self.summary();
        usage.at_most(summary.prompt_bound(), summary.completion_bound().unwrap_or(Usage::MAX_COUNT))
    }
}

impl From<RequestSummary> for RequestBasis {
    fn from(summary: RequestSummary) -> Self {
        Self { endpoint: summary.endpoint, body: Bytes::new(), summary: OnceLock::from(summary) }
    }
}

/// The tokens that an image of this width and height counts as.
pub(crate) fn tiles_of((width, height): (u64, u64)) -> u64 {
    let tiles = |side: u64| side.min(MAX_FACTOR).div_ceil(TILE_PIXELS);
    tiles(width) * tiles(height)
}

/// Bytes of a text, or of the JSON of anything else.
fn json_bytes(json: &str) -> u64 {
    string_of(json).map_or(json.len(), |text| text.len()) as u64
}

fn to_count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(Usage::MAX_COUNT).min(Usage::MAX_COUNT)
}

#[cfg(test)]
mod tests;
