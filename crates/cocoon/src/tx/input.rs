//! A bag of cells from wherever people have it: an argument, a file, or standard input.

use std::io::Read;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cocoon_ton::{Cell, CellError};
use tycho_types::boc::Boc;

use super::Undecodable;

/// Largest bag of cells, in bytes: a transaction with all its messages fits.
const MAX_BOC_BYTES: usize = 2 * 1024 * 1024;
/// Most bytes of a file or of standard input: the largest bag in hex, with line breaks.
const MAX_INPUT_BYTES: u64 = 5 * 1024 * 1024;
/// Deepest tree, in cells: the limit of TON for all cells.
const MAX_DEPTH: u16 = 1024;
/// How a bag of cells begins: the usual form, and two older ones.
const MAGICS: [[u8; 4]; 3] = [[0xb5, 0xee, 0x9c, 0x72], [0x68, 0xff, 0x65, 0xf3], [0xac, 0xc3, 0xa7, 0x28]];

/// The cells that `argument` stands for: hex or base64 themselves, the name of a file with either or with the bare
/// bytes, or `-` for standard input.
///
/// # Errors
/// [`Undecodable`]; or what the system says of the file.
pub(super) fn read(argument: &str) -> anyhow::Result<Cell> {
    let bytes = if argument == "-" {
        from_reader(std::io::stdin().lock()).context("cannot read standard input")?
    } else if Path::new(argument).is_file() {
        let failed = || format!("cannot read {argument}");
        from_reader(std::fs::File::open(argument).with_context(failed)?).with_context(failed)?
    } else {
        from_text(argument).ok_or(Undecodable::NoInput)?
    };
    Ok(cells(&bytes)?)
}

fn from_reader(input: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_INPUT_BYTES {
        return Err(Undecodable::TooLarge.into());
    }
    if MAGICS.iter().any(|magic| bytes.starts_with(magic)) {
        return Ok(bytes);
    }
    let text = std::str::from_utf8(&bytes).ok().and_then(from_text);
    Ok(text.ok_or(Undecodable::NotText)?)
}

/// Bytes from hex, or from base64 in either alphabet, with or without padding. White space is left out.
fn from_text(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text: String = text.split_whitespace().collect();
    if text.is_empty() {
        return None;
    }
    if text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return hex::decode(text).ok();
    }
    [STANDARD, URL_SAFE].iter().find_map(|alphabet| GeneralPurpose::new(alphabet, LENIENT).decode(&text).ok())
}

/// The root of a bag of cells.
///
/// # Errors
/// [`Undecodable`] for one over [`MAX_BOC_BYTES`] or [`MAX_DEPTH`], or for none.
pub(super) fn cells(bytes: &[u8]) -> Result<Cell, Undecodable> {
    if bytes.len() > MAX_BOC_BYTES {
        return Err(Undecodable::TooLarge);
    }
    if !MAGICS.iter().any(|magic| bytes.starts_with(magic)) {
        return Err(Undecodable::NoCells);
    }
    let cell = Boc::decode(bytes).map_err(|error| CellError::Malformed(error.to_string()))?;
    if cell.repr_depth() > MAX_DEPTH {
        return Err(Undecodable::TooDeep(cell.repr_depth()));
    }
    Ok(cell)
}
