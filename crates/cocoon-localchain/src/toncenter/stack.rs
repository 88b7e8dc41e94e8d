//! Values of get-methods in toncenter's form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_chain::{StackInt, StackItem};
use cocoon_ton::Cell;
use cocoon_ton::cell::{decode_boc, encode_boc};
use num_bigint::{BigInt, Sign};
use serde_json::{Value, json};

use super::ApiError;
use super::params::decode_base64;
use crate::{MAX_EXTERNAL_MESSAGE_BYTES, MAX_STACK_ITEMS};

/// Longest number in a request, in characters: 257 bits have 78 decimal digits and a sign.
const MAX_NUMBER_CHARS: usize = 80;

/// The arguments of a request: pairs of a type and a value.
pub(super) fn read(value: Option<&Value>) -> Result<Vec<StackItem>, ApiError> {
    let items = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= MAX_STACK_ITEMS => items,
        Some(_) => return Err(bad("a list is required")),
    };
    items.iter().map(read_item).collect()
}

fn read_item(item: &Value) -> Result<StackItem, ApiError> {
    let Some([Value::String(kind), value]) = item.as_array().map(Vec::as_slice) else {
        return Err(bad("each item is a list of a type and a value"));
    };
    match kind.as_str() {
        "num" | "number" | "int" => read_number(value).map(StackItem::Int),
        "cell" | "tvm.Cell" | "tvm.Builder" | "builder" => read_cell(value).map(StackItem::Cell),
        "slice" | "tvm.Slice" => read_cell(value).map(StackItem::Slice),
        "null" => Ok(StackItem::Null),
        _ => Err(bad("types are num, tvm.Cell, tvm.Slice and null")),
    }
}

fn read_number(value: &Value) -> Result<StackInt, ApiError> {
    let text = match value {
        Value::String(text) if text.len() <= MAX_NUMBER_CHARS => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(bad("a number is a text of at most 80 characters")),
    };
    let (negative, magnitude) = text.strip_prefix('-').map_or((false, &text[..]), |rest| (true, rest));
    let magnitude = match magnitude.strip_prefix("0x") {
        Some(digits) => BigInt::parse_bytes(digits.as_bytes(), 16),
        None => BigInt::parse_bytes(magnitude.as_bytes(), 10),
    };
    let magnitude = magnitude.filter(|number| number.sign() != Sign::Minus);
    let number = magnitude.map(|number| if negative { -number } else { number });
    number.and_then(|number| StackInt::from_big(&number)).ok_or_else(|| bad("not a number of 257 bits"))
}

fn read_cell(value: &Value) -> Result<Cell, ApiError> {
    let text = value.as_str().ok_or_else(|| bad("a cell is a text in base64"))?;
    let bytes = decode_base64(text).ok_or_else(|| bad("a cell is not base64"))?;
    decode_boc(&bytes, MAX_EXTERNAL_MESSAGE_BYTES).map_err(|error| bad(&error.to_string()))
}

fn bad(reason: &str) -> ApiError {
    ApiError::parameter("stack", reason)
}

/// The values of an answer. As there, slices are told as cells, and nothing as an empty list.
pub(super) fn write(items: &[StackItem]) -> Value {
    items.iter().map(write_item).collect()
}

fn write_item(item: &StackItem) -> Value {
    match item {
        StackItem::Null => json!(["list", { "@type": "tvm.list", "elements": [] }]),
        StackItem::Int(number) => json!(["num", hexadecimal(number)]),
        StackItem::Cell(cell) | StackItem::Slice(cell) => json!(["cell", { "bytes": base64_boc(cell) }]),
        StackItem::Tuple(items) => {
            let elements: Value = items.iter().map(write_entry).collect();
            json!(["tuple", { "@type": "tvm.tuple", "elements": elements }])
        }
    }
}

/// A value inside a tuple.
fn write_entry(item: &StackItem) -> Value {
    match item {
        StackItem::Null => {
            json!({ "@type": "tvm.stackEntryList", "list": { "@type": "tvm.list", "elements": [] } })
        }
        StackItem::Int(number) => json!({
            "@type": "tvm.stackEntryNumber",
            "number": { "@type": "tvm.numberDecimal", "number": number.to_big().to_string() },
        }),
        StackItem::Cell(cell) => json!({
            "@type": "tvm.stackEntryCell",
            "cell": { "@type": "tvm.cell", "bytes": base64_boc(cell) },
        }),
        StackItem::Slice(cell) => json!({
            "@type": "tvm.stackEntrySlice",
            "slice": { "@type": "tvm.slice", "bytes": base64_boc(cell) },
        }),
        StackItem::Tuple(items) => {
            let elements: Value = items.iter().map(write_entry).collect();
            json!({
                "@type": "tvm.stackEntryTuple",
                "tuple": { "@type": "tvm.tuple", "elements": elements },
            })
        }
    }
}

fn hexadecimal(number: &StackInt) -> String {
    let number = number.to_big();
    let sign = if number.sign() == Sign::Minus { "-" } else { "" };
    format!("{sign}0x{}", number.magnitude().to_str_radix(16))
}

/// The cell as a bag of cells in base64.
pub(super) fn base64_boc(cell: &Cell) -> String {
    STANDARD.encode(encode_boc(cell))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_both_bases_and_written_as_the_public_servers_do() {
        for (text, written) in
            [("0", "0x0"), ("255", "0xff"), ("0xff", "0xff"), ("-5", "-0x5"), ("-0x10", "-0x10")]
        {
            let items = read(Some(&json!([["num", text]]))).unwrap();
            assert_eq!(write(&items), json!([["num", written]]));
        }
        let least = format!("-{}", BigInt::from(1) << 256_u32);
        assert!(read(Some(&json!([["num", least]]))).is_ok());
        let too_large = (BigInt::from(1) << 256_u32).to_string();
        for wrong in [too_large.as_str(), "", "-", "--5", "0x", "0x-5", "1e3", "٣"] {
            assert!(read(Some(&json!([["num", wrong]]))).is_err(), "{wrong}");
        }
    }

    #[test]
    fn arguments_that_are_none_are_refused() {
        for wrong in
            [json!(5), json!([5]), json!([["num"]]), json!([["tvm.Cell", "!"]]), json!([["what", "1"]])]
        {
            assert!(read(Some(&wrong)).is_err(), "{wrong}");
        }
    }
}
