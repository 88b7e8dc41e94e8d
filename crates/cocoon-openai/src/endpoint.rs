//! The endpoints of the API, and what a worker must be able to do for each.

use std::fmt;

/// What an engine can do, as bits of a `u32`. The numbers are those of the protocol's `cocoon.abilities`; this crate
/// knows no wire, so they stand here too.
pub mod ability {
    /// `POST /v1/chat/completions`.
    pub const CHAT: u32 = 1;
    /// `POST /v1/completions`.
    pub const COMPLETIONS: u32 = 1 << 1;
    /// `POST /v1/responses`.
    pub const RESPONSES: u32 = 1 << 2;
    /// `POST /v1/messages`, Anthropic's API.
    pub const MESSAGES: u32 = 1 << 3;
    /// `POST /v1/embeddings`.
    pub const EMBEDDINGS: u32 = 1 << 4;
    /// `POST /v1/rerank`.
    pub const RERANK: u32 = 1 << 5;
    /// `POST /v1/audio/transcriptions`.
    pub const TRANSCRIPTIONS: u32 = 1 << 6;
    /// `POST /v1/audio/translations`.
    pub const TRANSLATIONS: u32 = 1 << 7;
    /// `POST /v1/audio/speech`.
    pub const SPEECH: u32 = 1 << 8;
    /// `POST /v1/images/generations`.
    pub const IMAGES: u32 = 1 << 9;
    /// `POST /v1/images/edits` and `POST /v1/images/variations`.
    pub const IMAGE_EDITS: u32 = 1 << 10;
    /// `POST /v1/moderations`.
    pub const MODERATIONS: u32 = 1 << 11;
    /// `POST /tokenize` and `POST /detokenize`.
    pub const TOKENIZE: u32 = 1 << 12;
    /// `POST /v1/messages/count_tokens`.
    pub const COUNT_TOKENS: u32 = 1 << 13;
    /// `POST /v1/responses/input_tokens`.
    pub const INPUT_TOKENS: u32 = 1 << 14;
    /// Calling of tools (functions).
    pub const TOOLS: u32 = 1 << 16;
    /// Images in messages.
    pub const IMAGE_INPUT: u32 = 1 << 17;
    /// Sound in messages.
    pub const AUDIO_INPUT: u32 = 1 << 18;
    /// Answers that keep to a schema.
    pub const STRUCTURED_OUTPUT: u32 = 1 << 19;
    /// Reasoning that is told apart from the answer. No request needs it; it is shown.
    pub const REASONING: u32 = 1 << 20;

    /// What a worker counts as that has said nothing: what published workers do.
    pub const UNTOLD: u32 = CHAT | COMPLETIONS;

    /// All abilities that have a name, with it.
    pub const NAMES: [(u32, &str); 20] = [
        (CHAT, "chat"),
        (COMPLETIONS, "completions"),
        (RESPONSES, "responses"),
        (MESSAGES, "messages"),
        (EMBEDDINGS, "embeddings"),
        (RERANK, "rerank"),
        (TRANSCRIPTIONS, "transcriptions"),
        (TRANSLATIONS, "translations"),
        (SPEECH, "speech"),
        (IMAGES, "images"),
        (IMAGE_EDITS, "image_edits"),
        (MODERATIONS, "moderations"),
        (TOKENIZE, "tokenize"),
        (COUNT_TOKENS, "count_tokens"),
        (INPUT_TOKENS, "input_tokens"),
        (TOOLS, "tools"),
        (IMAGE_INPUT, "image_input"),
        (AUDIO_INPUT, "audio_input"),
        (STRUCTURED_OUTPUT, "structured_output"),
        (REASONING, "reasoning"),
    ];

    /// The names of the bits that are set, lowest first; unknown bits are left out.
    pub fn names(bits: u32) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(bit, _)| bits & bit != 0).map(|(_, name)| name)
    }
}

/// The form of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyForm {
    /// One JSON object.
    Json,
    /// `multipart/form-data` (RFC 7578), as files come in.
    Multipart,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/completions`.
    Completions,
    /// `POST /v1/responses`.
    Responses,
    /// `POST /v1/messages`, Anthropic's API.
    Messages,
    /// `POST /v1/embeddings`.
    Embeddings,
    /// `POST /v1/rerank`, and `/rerank`.
    Rerank,
    /// `POST /v1/audio/transcriptions`.
    Transcriptions,
    /// `POST /v1/audio/translations`.
    Translations,
    /// `POST /v1/audio/speech`.
    Speech,
    /// `POST /v1/images/generations`.
    ImageGenerations,
    /// `POST /v1/images/edits`.
    ImageEdits,
    /// `POST /v1/images/variations`.
    ImageVariations,
    /// `POST /v1/moderations`.
    Moderations,
    /// `POST /tokenize`, and `/v1/tokenize`.
    Tokenize,
    /// `POST /detokenize`, and `/v1/detokenize`.
    Detokenize,
    /// `POST /v1/messages/count_tokens`: how many tokens a message's prompt has.
    CountTokens,
    /// `POST /v1/responses/input_tokens`: how many tokens a response's prompt has.
    InputTokens,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Chat,
        Self::Completions,
        Self::Responses,
        Self::Messages,
        Self::Embeddings,
        Self::Rerank,
        Self::Transcriptions,
        Self::Translations,
        Self::Speech,
        Self::ImageGenerations,
        Self::ImageEdits,
        Self::ImageVariations,
        Self::Moderations,
        Self::Tokenize,
        Self::Detokenize,
        Self::CountTokens,
        Self::InputTokens,
    ];

    /// The endpoint of a path (a query after `?` is left aside).
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        let path = path.split('?').next().unwrap_or_default();
        match path {
            "/rerank" => Some(Self::Rerank),
            "/v1/tokenize" => Some(Self::Tokenize),
            "/v1/detokenize" => Some(Self::Detokenize),
            _ => Self::ALL.into_iter().find(|endpoint| endpoint.path() == path),
        }
    }

    /// The path of the endpoint at an engine, and the first of its paths at a gateway.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Embeddings => "/v1/embeddings",
            Self::Rerank => "/v1/rerank",
            Self::Transcriptions => "/v1/audio/transcriptions",
            Self::Translations => "/v1/audio/translations",
            Self::Speech => "/v1/audio/speech",
            Self::ImageGenerations => "/v1/images/generations",
            Self::ImageEdits => "/v1/images/edits",
            Self::ImageVariations => "/v1/images/variations",
            Self::Moderations => "/v1/moderations",
            Self::Tokenize => "/tokenize",
            Self::Detokenize => "/detokenize",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::InputTokens => "/v1/responses/input_tokens",
        }
    }

    /// Its name in metrics, logs and words for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Embeddings => "embeddings",
            Self::Rerank => "rerank",
            Self::Transcriptions => "transcriptions",
            Self::Translations => "translations",
            Self::Speech => "speech",
            Self::ImageGenerations => "image_generations",
            Self::ImageEdits => "image_edits",
            Self::ImageVariations => "image_variations",
            Self::Moderations => "moderations",
            Self::Tokenize => "tokenize",
            Self::Detokenize => "detokenize",
            Self::CountTokens => "count_tokens",
            Self::InputTokens => "input_tokens",
        }
    }

    /// What OpenTelemetry's conventions for generative AI call its work.
    #[must_use]
    pub const fn operation(self) -> &'static str {
        match self {
            Self::Chat | Self::Responses | Self::Messages => "chat",
            Self::Completions => "text_completion",
            other => other.name(),
        }
    }

    /// The bit of [`ability`] that a worker must have for it.
    #[must_use]
    pub const fn ability(self) -> u32 {
        match self {
            Self::Chat => ability::CHAT,
            Self::Completions => ability::COMPLETIONS,
            Self::Responses => ability::RESPONSES,
            Self::Messages => ability::MESSAGES,
            Self::Embeddings => ability::EMBEDDINGS,
            Self::Rerank => ability::RERANK,
            Self::Transcriptions => ability::TRANSCRIPTIONS,
            Self::Translations => ability::TRANSLATIONS,
            Self::Speech => ability::SPEECH,
            Self::ImageGenerations => ability::IMAGES,
            Self::ImageEdits | Self::ImageVariations => ability::IMAGE_EDITS,
            Self::Moderations => ability::MODERATIONS,
            Self::Tokenize | Self::Detokenize => ability::TOKENIZE,
            Self::CountTokens => ability::COUNT_TOKENS,
            Self::InputTokens => ability::INPUT_TOKENS,
        }
    }

    /// Where only tokens are counted, the endpoint whose requests those are; else the same. Requests and errors of both are
    /// written alike.
    #[must_use]
    pub const fn counted(self) -> Self {
        match self {
            Self::CountTokens => Self::Messages,
            Self::InputTokens => Self::Responses,
            other => other,
        }
    }

    /// The form of its requests.
    #[must_use]
    pub const fn form(self) -> BodyForm {
        match self {
            Self::Transcriptions | Self::Translations | Self::ImageEdits | Self::ImageVariations => {
                BodyForm::Multipart
            }
            _ => BodyForm::Json,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_endpoint_has_a_name_and_a_path_of_its_own() {
        let names: BTreeSet<_> = Endpoint::ALL.iter().map(|endpoint| endpoint.name()).collect();
        let paths: BTreeSet<_> = Endpoint::ALL.iter().map(|endpoint| endpoint.path()).collect();
        assert_eq!((names.len(), paths.len()), (Endpoint::ALL.len(), Endpoint::ALL.len()));
    }

    #[test]
    fn every_path_leads_to_its_endpoint() {
        for endpoint in Endpoint::ALL {
            assert_eq!(Endpoint::from_path(endpoint.path()), Some(endpoint));
        }
        assert_eq!(Endpoint::from_path("/v1/tokenize"), Some(Endpoint::Tokenize));
        assert_eq!(Endpoint::from_path("/rerank"), Some(Endpoint::Rerank));
        assert_eq!(Endpoint::from_path("/v1/completions?x=1"), Some(Endpoint::Completions));
        for path in ["", "/", "/v1/chat/completions/", "/v1/Completions", "v1/completions"] {
            assert_eq!(Endpoint::from_path(path), None, "{path}");
        }
    }

    #[test]
    fn abilities_are_single_bits_and_have_names() {
        let all = ability::NAMES.iter().fold(0, |bits, (bit, _)| bits | bit);
        assert_eq!(all.count_ones() as usize, ability::NAMES.len());
        assert!(ability::NAMES.iter().all(|(bit, _)| bit.is_power_of_two()));
        assert!(Endpoint::ALL.iter().all(|endpoint| ability::names(endpoint.ability()).count() == 1));
        let names: Vec<_> = ability::names(ability::TOOLS | ability::CHAT | 1 << 31).collect();
        assert_eq!(names, ["chat", "tools"]);
    }
}
