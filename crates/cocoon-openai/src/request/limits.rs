//! The limit on an answer: written into the body where the endpoint has one, computed by its rule where it has none.

use super::error::RequestError;
use super::rules::count_prompts;
use super::{read_whole, to_i32};
use crate::endpoint::Endpoint;
use crate::object::{RawObject, string_of};
use crate::summary::{DEFAULT_IMAGE, MAX_FACTOR, tiles_of};

/// Limits on an answer, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// On each choice, as it stands in the body.
    pub(crate) each: i32,
    /// On all of it.
    pub(crate) all: i32,
}

/// Makes the limit explicit in a JSON body, and returns it. `default` is for bodies that name none.
pub(super) fn set(
    endpoint: Endpoint,
    object: &mut RawObject<'_>,
    default: i32,
) -> Result<Limit, RequestError> {
    match endpoint {
        Endpoint::Chat | Endpoint::Completions => {
            let choices = read_choices(object)?;
            let prompts = match endpoint {
                Endpoint::Completions => object.get_set("prompt").map_or(1, count_prompts),
                _ => 1,
            };
            let each = set_newer_or_older(object, default)?;
            cap(object, "n_predict", each);
            let all = choices
                .checked_mul(prompts)
                .and_then(|factor| i32::try_from(factor).ok()?.checked_mul(each))
                .ok_or_else(|| RequestError::wrong_value("n", "max_tokens times choices to be below 2^31"))?;
            Ok(Limit { each, all })
        }
        Endpoint::Responses => {
            one_choice(object)?;
            let each = read_limit(object, "max_output_tokens")?.unwrap_or(default);
            object.set("max_output_tokens", each.to_string());
            for field in ["max_tokens", "max_completion_tokens", "n_predict"] {
                cap(object, field, each);
            }
            Ok(Limit { each, all: each })
        }
        Endpoint::Messages => {
            one_choice(object)?;
            let each =
                read_limit(object, "max_tokens")?.ok_or_else(|| RequestError::missing("max_tokens"))?;
            if each == 0 {
                return Err(RequestError::wrong_value("max_tokens", "a positive integer"));
            }
            // One above what can be written is lowered.
            object.set("max_tokens", each.to_string());
            for field in ["max_output_tokens", "max_completion_tokens", "n_predict"] {
                cap(object, field, each);
            }
            Ok(Limit { each, all: each })
        }
        Endpoint::Speech => {
            let spoken = object.get_set("input").and_then(string_of).map_or(0, |text| text.len());
            Ok(Limit { each: 0, all: to_i32(spoken as u64) })
        }
        Endpoint::ImageGenerations => {
            let number = positive(object, "n")?;
            let size = match object.get_set("size") {
                None => None,
                Some(json) => {
                    let text = string_of(json).ok_or_else(|| RequestError::wrong_type("size", "a string"))?;
                    image_size(&text)?
                }
            };
            let sides = (positive_or_none(object, "width")?, positive_or_none(object, "height")?);
            let of_sides = match sides {
                (Some(width), Some(height)) => Some((width, height)),
                _ => None,
            };
            images(number, [size, of_sides])
        }
        _ => Ok(Limit { each: 0, all: 0 }),
    }
}

/// The limit on images, of which each is as large as the largest of `sizes`.
fn images(number: u64, sizes: [Option<(u64, u64)>; 2]) -> Result<Limit, RequestError> {
    let each = sizes.into_iter().flatten().map(tiles_of).max().unwrap_or(tiles_of(DEFAULT_IMAGE));
    let all = number.checked_mul(each).and_then(|all| i32::try_from(all).ok());
    let all = all.ok_or_else(|| RequestError::wrong_value("n", "fewer or smaller images"))?;
    Ok(Limit { each: 0, all })
}

/// `WIDTHxHEIGHT`, or `auto`, which leaves it to the engine.
pub(crate) fn image_size(text: &str) -> Result<Option<(u64, u64)>, RequestError> {
    if text.is_empty() || text == "auto" {
        return Ok(None);
    }
    let side = |text: &str| read_whole(text).filter(|side| (1..=MAX_FACTOR).contains(side));
    text.split_once('x').and_then(|(width, height)| Some((side(width)?, side(height)?))).map(Some).ok_or_else(
        || RequestError::wrong_value("size", "WIDTHxHEIGHT in pixels, such as '1024x1024', or 'auto'"),
    )
}

/// Choices that the engine works out: the largest of `n`, `best_of` and `n_cmpl` (llama.cpp's name for `n`).
fn read_choices(object: &RawObject<'_>) -> Result<u64, RequestError> {
    Ok(positive(object, "n")?.max(positive(object, "best_of")?).max(positive(object, "n_cmpl")?))
}

/// Refuses more than one choice where the API knows no more: an engine that does would be paid for one.
fn one_choice(object: &RawObject<'_>) -> Result<(), RequestError> {
    for field in ["n", "best_of", "n_cmpl"] {
        if positive(object, field)? > 1 {
            return Err(RequestError::unsupported(field, "this API gives one answer for a request"));
        }
    }
    Ok(())
}

fn positive(object: &RawObject<'_>, field: &'static str) -> Result<u64, RequestError> {
    Ok(positive_or_none(object, field)?.unwrap_or(1))
}

fn positive_or_none(object: &RawObject<'_>, field: &'static str) -> Result<Option<u64>, RequestError> {
    match object.get_set(field).map(read_whole) {
        None => Ok(None),
        Some(Some(number)) if number > 0 => Ok(Some(number)),
        Some(_) => Err(RequestError::wrong_value(field, "a positive integer")),
    }
}

fn read_limit(object: &RawObject<'_>, field: &'static str) -> Result<Option<i32>, RequestError> {
    let Some(json) = object.get_set(field) else { return Ok(None) };
    let tokens = read_whole(json).ok_or_else(|| RequestError::wrong_type(field, "a non-negative integer"))?;
    Ok(Some(to_i32(tokens)))
}

fn set_newer_or_older(object: &mut RawObject<'_>, default: i32) -> Result<i32, RequestError> {
    let newer = read_limit(object, "max_completion_tokens")?;
    let older = read_limit(object, "max_tokens")?;
    let tokens = newer.or(older).unwrap_or(default);
    if newer.is_some() {
        object.set("max_completion_tokens", tokens.to_string());
    } else {
        object.remove("max_completion_tokens");
    }
    // Always, because an engine that does not know the newer name would otherwise answer without a limit.
    object.set("max_tokens", tokens.to_string());
    Ok(tokens)
}

/// Lowers another name of the limit to it, where it stands in the body.
fn cap(object: &mut RawObject<'_>, field: &'static str, tokens: i32) {
    // -1 means "no end" to some, and larger numbers would outrun the reservation.
    let obeys = |json: &str| read_whole(json).is_some_and(|other| to_i32(other) <= tokens);
    if object.get_set(field).is_some_and(|json| !obeys(json)) {
        object.set(field, tokens.to_string());
    }
}
