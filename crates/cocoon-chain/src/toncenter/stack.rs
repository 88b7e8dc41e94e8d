//! Values of get-methods as toncenter writes them.
//!
//! Arguments are pairs of a type and a value; it takes numbers, cells and slices. Answers have pairs, too, and
//! TDLib-style objects inside tuples. It tells slices as cells, so at the top level a slice arrives as a cell; and it
//! tells nothing as an empty list, and a pair whose second half is a list as a longer list.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_ton::cell::encode_boc;
use num_bigint::{BigInt, Sign};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answer::{BlockId, Number, cell};
use super::failure::Failure;
use crate::ChainError;
use crate::types::{StackInt, StackItem};

/// Deepest nesting of tuples in an answer. Lists are nested pairs, one level per element.
pub(super) const MAX_STACK_DEPTH: usize = 256;
/// Most values in an answer, those inside tuples included.
pub(super) const MAX_STACK_ITEMS: usize = 10_000;
/// Longest number, in characters: 257 bits have 78 decimal digits and a sign.
const MAX_NUMBER_CHARS: usize = 80;

/// The result of `runGetMethod`.
#[derive(Debug, Deserialize)]
pub(super) struct RunResult<'a> {
    #[serde(borrow)]
    stack: Vec<(&'a str, &'a RawValue)>,
    pub(super) exit_code: i32,
    #[serde(default)]
    gas_used: Number,
    /// Not all servers tell it.
    pub(super) block_id: Option<BlockId>,
}

impl RunResult<'_> {
    pub(super) fn gas_used(&self) -> u64 {
        self.gas_used.get().unwrap_or(0)
    }

    /// The values. What a failed method leaves behind is nobody's answer, so it may be anything.
    pub(super) fn stack(&self) -> Result<Vec<StackItem>, Failure> {
        let mut budget = Budget { items: 0 };
        let read = self.stack.iter().map(|(kind, value)| budget.pair(kind, value)).collect();
        match read {
            Err(_) if !matches!(self.exit_code, 0 | 1) => Ok(Vec::new()),
            read => read,
        }
    }
}

/// A cell in a pair; beside its bytes some servers write it out as an object.
#[derive(Deserialize)]
struct Bytes {
    bytes: String,
}

#[derive(Deserialize)]
struct Elements {
    elements: Vec<Entry>,
}

#[derive(Deserialize)]
struct Decimal {
    number: String,
}

/// A value inside a tuple: one of the fields.
#[derive(Deserialize)]
struct Entry {
    number: Option<Decimal>,
    cell: Option<Bytes>,
    slice: Option<Bytes>,
    tuple: Option<Elements>,
    list: Option<Elements>,
}

/// Counts values against the limits.
struct Budget {
    items: usize,
}

impl Budget {
    fn take(&mut self, depth: usize) -> Result<(), Failure> {
        self.items += 1;
        if depth > MAX_STACK_DEPTH || self.items > MAX_STACK_ITEMS {
            return Err(Failure::nonsense(format!(
                "a get-method answered over {MAX_STACK_ITEMS} values or {MAX_STACK_DEPTH} levels"
            )));
        }
        Ok(())
    }

    fn pair(&mut self, kind: &str, value: &RawValue) -> Result<StackItem, Failure> {
        self.take(0)?;
        match kind {
            "num" | "number" | "int" => number(&parsed::<String>(value)?).map(StackItem::Int),
            "cell" | "tvm.Cell" => cell_of(value).map(StackItem::Cell),
            "slice" | "tvm.Slice" => cell_of(value).map(StackItem::Slice),
            "tuple" => self.tuple(parsed(value)?, 0),
            "list" => self.list(parsed(value)?, 0),
            "null" => Ok(StackItem::Null),
            _ => Err(Failure::nonsense("a get-method answered a value that the server cannot tell")),
        }
    }

    fn entry(&mut self, entry: Entry, depth: usize) -> Result<StackItem, Failure> {
        self.take(depth)?;
        match entry {
            Entry { number: Some(decimal), .. } => number(&decimal.number).map(StackItem::Int),
            Entry { cell: Some(Bytes { bytes }), .. } => cell(&bytes, "a cell").map(StackItem::Cell),
            Entry { slice: Some(Bytes { bytes }), .. } => cell(&bytes, "a slice").map(StackItem::Slice),
            Entry { tuple: Some(elements), .. } => self.tuple(elements, depth),
            Entry { list: Some(elements), .. } => self.list(elements, depth),
            _ => Err(Failure::nonsense("a get-method answered a value that the server cannot tell")),
        }
    }

    fn tuple(&mut self, tuple: Elements, depth: usize) -> Result<StackItem, Failure> {
        let items = tuple.elements.into_iter().map(|entry| self.entry(entry, depth + 1));
        items.collect::<Result<_, _>>().map(StackItem::Tuple)
    }

    /// `[a b c]` is `(a, (b, (c, nothing)))` on the machine's stack.
    fn list(&mut self, list: Elements, depth: usize) -> Result<StackItem, Failure> {
        let items: Vec<StackItem> = list
            .elements
            .into_iter()
            .enumerate()
            .map(|(index, entry)| self.entry(entry, depth + index + 1))
            .collect::<Result<_, _>>()?;
        let nest = |rest, item| StackItem::Tuple(vec![item, rest]);
        Ok(items.into_iter().rev().fold(StackItem::Null, nest))
    }
}

fn parsed<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Result<T, Failure> {
    serde_json::from_str(value.get())
        .map_err(|_| Failure::nonsense("a value of a get-method's answer does not have its type's form"))
}

/// A cell is an object with its bytes, or only its bytes.
fn cell_of(value: &RawValue) -> Result<cocoon_ton::Cell, Failure> {
    let text = parsed::<Bytes>(value).map(|cell| cell.bytes).or_else(|_| parsed::<String>(value))?;
    cell(&text, "a value of a get-method's answer")
}

/// A number of 257 bits, decimal or, after `0x`, hexadecimal.
fn number(text: &str) -> Result<StackInt, Failure> {
    let (negative, magnitude) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (digits, base) = magnitude.strip_prefix("0x").map_or((magnitude, 10), |rest| (rest, 16));
    let magnitude = (text.len() <= MAX_NUMBER_CHARS)
        .then(|| BigInt::parse_bytes(digits.as_bytes(), base))
        .flatten()
        .filter(|magnitude| magnitude.sign() != Sign::Minus && !digits.starts_with('+'));
    magnitude
        .and_then(|magnitude| StackInt::from_big(&if negative { -magnitude } else { magnitude }))
        .ok_or_else(|| Failure::nonsense("a get-method answered a number that is none of 257 bits"))
}

/// Arguments, as the server takes them.
pub(super) fn write(items: &[StackItem]) -> Result<Value, ChainError> {
    items
        .iter()
        .map(|item| {
            Ok(match item {
                StackItem::Int(number) => json!(["num", number.to_big().to_string()]),
                StackItem::Cell(cell) => json!(["tvm.Cell", STANDARD.encode(encode_boc(cell))]),
                StackItem::Slice(cell) => json!(["tvm.Slice", STANDARD.encode(encode_boc(cell))]),
                StackItem::Null => json!(["null", null]),
                StackItem::Tuple(_) => {
                    return Err(ChainError::Unsupported {
                        what: "a tuple as an argument of a get-method",
                        hint: "servers take numbers, cells and slices",
                    });
                }
            })
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(stack: &Value) -> Result<Vec<StackItem>, Failure> {
        let answer = json!({ "stack": stack, "exit_code": 0, "gas_used": 5 }).to_string();
        let result: RunResult<'_> =
            serde_json::from_str(&answer).map_err(|error| Failure::nonsense(error.to_string()))?;
        result.stack()
    }

    fn int(number: i64) -> StackItem {
        StackItem::Int(StackInt::from(number))
    }

    fn entry(number: i64) -> Value {
        json!({
            "@type": "tvm.stackEntryNumber",
            "number": { "@type": "tvm.numberDecimal", "number": number.to_string() },
        })
    }

    #[test]
    fn values_are_read_as_the_public_servers_write_them() {
        let empty =
            cocoon_ton::cell::decode_boc(&STANDARD.decode("te6ccgEBAQEAAgAAAA==").unwrap(), 99).unwrap();
        let told = json!([
            ["num", "0x2a"],
            ["num", "-0x1"],
            ["cell", { "bytes": "te6ccgEBAQEAAgAAAA==", "object": { "data": { "b64": "", "len": 0 }, "refs": [] } }],
            ["slice", "te6ccgEBAQEAAgAAAA=="],
            ["list", { "@type": "tvm.list", "elements": [] }],
            ["list", { "@type": "tvm.list", "elements": [entry(1), entry(2)] }],
            ["tuple", { "@type": "tvm.tuple", "elements": [
                entry(-7),
                { "@type": "tvm.stackEntryCell", "cell": { "@type": "tvm.cell", "bytes": "te6ccgEBAQEAAgAAAA==" } },
                { "@type": "tvm.stackEntrySlice", "slice": { "@type": "tvm.slice", "bytes": "te6ccgEBAQEAAgAAAA==" } },
                { "@type": "tvm.stackEntryTuple", "tuple": { "@type": "tvm.tuple", "elements": [] } },
                { "@type": "tvm.stackEntryList", "list": { "@type": "tvm.list", "elements": [] } },
            ] }],
        ]);
        let pair = |one, two| StackItem::Tuple(vec![one, two]);
        let expected = [
            int(42),
            int(-1),
            StackItem::Cell(empty.clone()),
            StackItem::Slice(empty.clone()),
            StackItem::Null,
            pair(int(1), pair(int(2), StackItem::Null)),
            StackItem::Tuple(vec![
                int(-7),
                StackItem::Cell(empty.clone()),
                StackItem::Slice(empty),
                StackItem::Tuple(vec![]),
                StackItem::Null,
            ]),
        ];
        assert_eq!(read(&told).unwrap(), expected);
    }

    #[test]
    fn a_deep_object_beside_a_cell_is_skipped() {
        let object = format!("{}1{}", r#"{"refs":["#.repeat(600), "]}".repeat(600));
        let answer = format!(
            r#"{{"stack":[["cell",{{"bytes":"te6ccgEBAQEAAgAAAA==","object":{object}}}]],"exit_code":0}}"#
        );
        let result: RunResult<'_> = serde_json::from_str(&answer).unwrap();
        assert_eq!(result.stack().unwrap().len(), 1);
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        let many: Vec<_> = (0..=MAX_STACK_DEPTH).map(|_| entry(1)).collect();
        for wrong in [
            json!([["num", "x"]]),
            json!([["num", ""]]),
            json!([["num", "+1"]]),
            json!([["num", "--1"]]),
            json!([["num", "0x-1"]]),
            json!([["num", format!("0x1{}", "0".repeat(64))]]),
            json!([["num", "9".repeat(100_000)]]),
            json!([["cell", { "bytes": "!" }]]),
            json!([["cell", 5]]),
            json!([["unsupported", {}]]),
            json!([["tuple", { "elements": [{ "@type": "tvm.stackEntryUnsupported" }] }]]),
            json!([["list", { "elements": many }]]),
            json!([["num"]]),
            json!(vec![json!(["num", "0x1"]); MAX_STACK_ITEMS + 1]),
        ] {
            assert!(read(&wrong).is_err());
        }
        let failed = json!({ "stack": [["unsupported", {}]], "exit_code": 11 }).to_string();
        let failed: RunResult<'_> = serde_json::from_str(&failed).unwrap();
        assert_eq!(failed.stack().unwrap(), []);
    }

    #[test]
    fn arguments_are_written_in_the_types_that_servers_take() {
        let least = StackInt::from_twos_complement(true, [0; 32]);
        let written = write(&[int(-5), StackItem::Int(least), StackItem::Null]).unwrap();
        let least = format!("-{}", BigInt::from(1) << 256_u32);
        assert_eq!(written, json!([["num", "-5"], ["num", least], ["null", null]]));
        assert!(matches!(write(&[StackItem::Tuple(vec![])]), Err(ChainError::Unsupported { .. })));
    }
}
