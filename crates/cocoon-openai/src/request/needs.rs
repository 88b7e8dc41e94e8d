//! What a worker must be able to do for a request, found by a bounded look at its body.
//!
//! What is missed is no harm: the engine itself answers what it cannot do with an error, which passes.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::endpoint::{Endpoint, ability};
use crate::object::{RawObject, each_element, has_elements, string_of};

/// Messages and parts of messages that are looked at.
const MAX_LOOKED_AT: usize = 16_384;
/// Fields by which engines are told of a schema, grammar or choice to keep to.
const GUIDES: [&str; 9] = [
    "ebnf",
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "json_schema",
    "regex",
    "structured_outputs",
];

/// Bits of [`ability`] that a request needs.
pub(super) fn of(endpoint: Endpoint, object: &RawObject<'_>) -> u32 {
    let mut needs = endpoint.ability();
    // A count needs what its request would need: the engine that counts reads it as the one that answers.
    let endpoint = endpoint.counted();
    let messages = match endpoint {
        Endpoint::Chat | Endpoint::Messages => object.get_set("messages"),
        Endpoint::Responses => object.get_set("input"),
        Endpoint::Completions => None,
        _ => return needs,
    };
    if calls_tools(object) {
        needs |= ability::TOOLS;
    }
    if wants_structure(endpoint, object) {
        needs |= ability::STRUCTURED_OUTPUT;
    }
    needs | messages.map_or(0, media)
}

fn calls_tools(object: &RawObject<'_>) -> bool {
    let any = |field| object.get_set(field).is_some_and(has_elements);
    let none = |field| {
        object.get_set(field).is_some_and(|json| {
            let choice = if json.starts_with('{') { type_of(json) } else { string_of(json).map(Into::into) };
            choice.as_deref() == Some("none")
        })
    };
    any("tools") && !none("tool_choice") || any("functions") && !none("function_call")
}

fn wants_structure(endpoint: Endpoint, object: &RawObject<'_>) -> bool {
    let shaped =
        |json: &str| type_of(json).is_some_and(|kind| !matches!(kind.as_str(), "text" | "json_object"));
    let format_in = |field| {
        let outer = object.get_set(field).and_then(|json| RawObject::parse(json.as_bytes()).ok());
        outer.is_some_and(|outer| outer.get_set("format").is_some_and(shaped))
    };
    let shaped_by = match endpoint {
        Endpoint::Responses => format_in("text"),
        Endpoint::Messages => {
            object.get_set("output_format").is_some_and(shaped) || format_in("output_config")
        }
        _ => object.get_set("response_format").is_some_and(shaped),
    };
    shaped_by || GUIDES.iter().any(|field| object.get_set(field).is_some())
}

/// Kinds of media in messages. Content lies one level deep; in results of tools (Anthropic's), two.
fn media(json: &str) -> u32 {
    let mut left = MAX_LOOKED_AT;
    let mut found = 0;
    each_element(json, |message| {
        look(message, &mut left, &mut found, 2);
        left > 0
    });
    found
}

fn look(json: &str, left: &mut usize, found: &mut u32, levels: u8) {
    const ALL: u32 = ability::IMAGE_INPUT | ability::AUDIO_INPUT;
    if *left == 0 || *found == ALL {
        return;
    }
    *left -= 1;
    let Ok(part) = serde_json::from_str::<Part<'_>>(json) else { return };
    *found |= match part.kind.and_then(|kind| string_of(kind.get())).as_deref() {
        Some("image_url" | "input_image" | "image") => ability::IMAGE_INPUT,
        Some("input_audio" | "audio_url" | "audio") => ability::AUDIO_INPUT,
        _ => 0,
    };
    if let Some(content) = part.content.filter(|content| levels > 0 && content.get().starts_with('[')) {
        each_element(content.get(), |part| {
            look(part, left, found, levels - 1);
            *left > 0
        });
    }
}

/// A message or a part of one.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

fn type_of(json: &str) -> Option<String> {
    let Part { kind, .. } = serde_json::from_str(json).ok()?;
    string_of(kind?.get()).map(Into::into)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn extras(endpoint: Endpoint, body: &str) -> Vec<&'static str> {
        let object = RawObject::parse(body.as_bytes()).unwrap();
        let needs = of(endpoint, &object);
        assert_eq!(needs & endpoint.ability(), endpoint.ability());
        ability::names(needs & !endpoint.ability()).collect()
    }

    #[test]
    fn tools_are_needed_where_they_may_be_called() {
        for (body, needs) in [
            (r#"{"tools":[{}]}"#, true),
            (r#"{"tools":[{}],"tool_choice":"auto"}"#, true),
            (r#"{"tools":[{}],"tool_choice":{"type":"function"}}"#, true),
            (r#"{"functions":[{}]}"#, true),
            (r#"{"tools":[{}],"tool_choice":"none"}"#, false),
            (r#"{"tools":[{}],"tool_choice":{"type":"none"}}"#, false),
            (r#"{"functions":[{}],"function_call":"none"}"#, false),
            (r#"{"tools":[],"functions":null}"#, false),
        ] {
            let expected: &[&str] = if needs { &["tools"] } else { &[] };
            for endpoint in [
                Endpoint::Chat,
                Endpoint::Responses,
                Endpoint::Messages,
                Endpoint::CountTokens,
                Endpoint::InputTokens,
            ] {
                assert_eq!(extras(endpoint, body), expected, "{body}");
            }
            assert!(extras(Endpoint::Tokenize, body).is_empty());
        }
    }

    #[test]
    fn images_and_sound_are_found_in_each_apis_words() {
        for (endpoint, body, expected) in [
            (
                Endpoint::Chat,
                r#"{"messages":[{"content":"a"},{"content":[{"type":"text"},{"type":"image_url"}]}]}"#,
                &["image_input"][..],
            ),
            (Endpoint::Chat, r#"{"messages":[{"content":[{"type":"input_audio"}]}]}"#, &["audio_input"]),
            (
                Endpoint::Chat,
                r#"{"messages":[{"content":[{"type":"audio_url"},{"type":"image_url"}]}]}"#,
                &["image_input", "audio_input"],
            ),
            (Endpoint::Messages, r#"{"messages":[{"content":[{"type":"image"}]}]}"#, &["image_input"]),
            (
                Endpoint::Messages,
                r#"{"messages":[{"content":[{"type":"tool_result","content":[{"type":"image"}]}]}]}"#,
                &["image_input"],
            ),
            (Endpoint::Responses, r#"{"input":[{"content":[{"type":"input_image"}]}]}"#, &["image_input"]),
            (Endpoint::CountTokens, r#"{"messages":[{"content":[{"type":"image"}]}]}"#, &["image_input"]),
            (Endpoint::InputTokens, r#"{"input":[{"content":[{"type":"input_image"}]}]}"#, &["image_input"]),
            (Endpoint::Responses, r#"{"input":"image_url"}"#, &[]),
            (Endpoint::Chat, r#"{"messages":"image_url"}"#, &[]),
            (Endpoint::Chat, r#"{"messages":[{"type":["x"],"content":{"type":"image_url"}},7,null]}"#, &[]),
        ] {
            assert_eq!(extras(endpoint, body), expected, "{body}");
        }
    }

    #[test]
    fn a_schema_or_grammar_needs_structured_output() {
        for (endpoint, body, needs) in [
            (Endpoint::Chat, r#"{"response_format":{"type":"json_schema","json_schema":{}}}"#, true),
            (Endpoint::Chat, r#"{"response_format":{"type":"json_object"}}"#, false),
            (Endpoint::Chat, r#"{"response_format":{"type":"text"}}"#, false),
            (Endpoint::Chat, r#"{"guided_json":{}}"#, true),
            (Endpoint::Completions, r#"{"guided_regex":"a"}"#, true),
            (Endpoint::Completions, r#"{"guided_regex":null}"#, false),
            (Endpoint::Responses, r#"{"text":{"format":{"type":"json_schema"}}}"#, true),
            (Endpoint::Responses, r#"{"text":{"format":{"type":"text"}}}"#, false),
            (Endpoint::Messages, r#"{"output_format":{"type":"json_schema"}}"#, true),
            (Endpoint::Messages, r#"{"output_config":{"format":{"type":"json_schema"}}}"#, true),
            (Endpoint::CountTokens, r#"{"output_config":{"format":{"type":"json_schema"}}}"#, true),
            (Endpoint::InputTokens, r#"{"text":{"format":{"type":"json_schema"}}}"#, true),
        ] {
            let expected: &[&str] = if needs { &["structured_output"] } else { &[] };
            assert_eq!(extras(endpoint, body), expected, "{body}");
        }
    }

    #[test]
    fn the_look_is_bounded() {
        let many = format!(
            r#"{{"messages":[{}{{"content":[{{"type":"image_url"}}]}}]}}"#,
            "{},".repeat(MAX_LOOKED_AT)
        );
        assert!(extras(Endpoint::Chat, &many).is_empty());
        let deep = format!(
            r#"{{"messages":[{}{{"type":"image"}}{}]}}"#,
            r#"{"content":["#.repeat(100),
            "]}".repeat(100)
        );
        assert!(extras(Endpoint::Chat, &deep).is_empty());
    }
}
