//! Something decoded, told in one way for people and for machines.

use cocoon_ledger::Nanoton;
use cocoon_ton::Address;
use serde_json::{Map, Value as Json, json};

use crate::amount;
use crate::calendar;
use crate::terminal::Style;

/// How records are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Telling {
    /// Whether addresses carry the test network's mark.
    pub(crate) testnet: bool,
    /// Colours, for people.
    pub(crate) style: Style,
}

/// One thing, with what it says.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// What kind of thing: `transaction`, `message`, `body`.
    kind: &'static str,
    /// Its name, where there is one.
    name: String,
    /// What it means.
    words: &'static str,
    fields: Vec<(&'static str, Value)>,
}

/// What a field says.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Words of ours, or of others: they are shown without control characters.
    Text(String),
    /// A number of up to 64 bits: a text for machines, of which many round large numbers.
    Number(u64),
    /// A number of up to 32 bits.
    Small(i64),
    /// Adjusted tokens.
    Tokens(u64),
    /// Nanotons.
    Coins(u64),
    /// An account.
    Address(Address),
    /// Unix seconds.
    Time(u64),
    /// Seconds.
    Span(u64),
    /// 32 bytes.
    Hash([u8; 32]),
    /// Several of 32 bytes.
    Hashes(Vec<[u8; 32]>),
    /// Yes or no.
    Flag(bool),
    /// Another thing inside this one.
    Part(Record),
    /// Other things inside this one.
    Parts(Vec<Record>),
}

impl Record {
    /// A thing without fields.
    pub(crate) fn new(kind: &'static str, name: impl Into<String>, words: &'static str) -> Self {
        Self { kind, name: name.into(), words, fields: Vec::new() }
    }

    /// With one more field, named in snake case.
    pub(crate) fn with(mut self, name: &'static str, value: Value) -> Self {
        self.fields.push((name, value));
        self
    }

    /// With one more field, where there is a value.
    pub(crate) fn with_some(self, name: &'static str, value: Option<Value>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// For machines. Fields keep their names; 64-bit numbers are texts.
    pub(crate) fn to_json(&self, telling: Telling) -> Json {
        let mut object = Map::new();
        object.insert("kind".to_owned(), json!(self.kind));
        if !self.name.is_empty() {
            object.insert("name".to_owned(), json!(self.name));
        }
        if !self.words.is_empty() {
            object.insert("words".to_owned(), json!(self.words));
        }
        for (name, value) in &self.fields {
            object.insert((*name).to_owned(), value.to_json(telling));
        }
        Json::Object(object)
    }

    /// For people: a title and a line for each field, each ended by a line break.
    pub(crate) fn to_text(&self, telling: Telling) -> String {
        let mut text = String::new();
        self.write(&mut text, 0, telling);
        text
    }

    fn write(&self, text: &mut String, indent: usize, telling: Telling) {
        let title = match (self.name.as_str(), self.words) {
            ("", words) => telling.style.bold(words),
            (name, "") => telling.style.bold(&printable(name)),
            (name, words) => format!("{}: {words}", telling.style.bold(&printable(name))),
        };
        *text += &format!("{title}\n");
        let width = self.fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let margin = " ".repeat(indent + 2);
        for (name, value) in &self.fields {
            let label = telling.style.dim(&format!("{:<width$}", name.replace('_', " ")));
            match value {
                Value::Part(part) => {
                    *text += &format!("{margin}{label}  ");
                    part.write(text, indent + 2, telling);
                }
                Value::Parts(parts) => {
                    if parts.is_empty() {
                        *text += &format!("{margin}{label}  none\n");
                    }
                    for part in parts {
                        *text += &format!("{margin}{label}  ");
                        part.write(text, indent + 2, telling);
                    }
                }
                value => *text += &format!("{margin}{label}  {}\n", value.to_text(telling)),
            }
        }
    }
}

impl Value {
    fn to_json(&self, telling: Telling) -> Json {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number) | Self::Tokens(number) => json!(number.to_string()),
            Self::Small(number) => json!(number),
            Self::Coins(nanoton) => amount::to_json(Nanoton(*nanoton)),
            Self::Address(address) => json!(address.to_wire_string(telling.testnet)),
            Self::Time(unix) => json!({"unix": unix, "utc": calendar::utc(*unix)}),
            Self::Span(seconds) => json!({"seconds": seconds}),
            Self::Hash(hash) => json!(hex::encode(hash)),
            Self::Hashes(hashes) => hashes.iter().map(|hash| json!(hex::encode(hash))).collect(),
            Self::Flag(flag) => json!(flag),
            Self::Part(part) => part.to_json(telling),
            Self::Parts(parts) => parts.iter().map(|part| part.to_json(telling)).collect(),
        }
    }

    fn to_text(&self, telling: Telling) -> String {
        match self {
            Self::Text(text) => printable(text),
            Self::Number(number) => number.to_string(),
            Self::Small(number) => number.to_string(),
            Self::Tokens(tokens) => format!("{tokens} tokens"),
            Self::Coins(nanoton) => {
                let exact = telling.style.dim(&format!("({nanoton} nanoton)"));
                format!("{} {exact}", Nanoton(*nanoton))
            }
            Self::Address(address) => address.to_wire_string(telling.testnet),
            Self::Time(unix) => calendar::utc(*unix),
            Self::Span(seconds) => calendar::span(*seconds),
            Self::Hash(hash) => hex::encode(hash),
            Self::Hashes(hashes) if hashes.is_empty() => "none".to_owned(),
            Self::Hashes(hashes) => hashes.iter().map(hex::encode).collect::<Vec<_>>().join(", "),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Self::Part(part) => part.to_text(telling),
            Self::Parts(parts) => parts.iter().map(|part| part.to_text(telling)).collect(),
        }
    }
}

/// Text that cannot move the cursor or recolour the screen.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Telling = Telling { testnet: true, style: Style::plain() };

    #[test]
    fn people_read_units_and_machines_exact_numbers() {
        let inner = Record::new("body", "text", "").with("text", Value::Text("a\u{1b}[31mb\n".to_owned()));
        let record = Record::new("message", "", "message")
            .with("value", Value::Coins(1_500_000_000))
            .with("query_id", Value::Number(u64::MAX))
            .with("tokens_used", Value::Tokens(7))
            .with("body", Value::Part(inner));
        assert_eq!(
            record.to_text(PLAIN),
            "message\n  value        1.5 TON (1500000000 nanoton)\n  query id     18446744073709551615\n  \
             tokens used  7 tokens\n  body         text\n    text  a\\u{1b}[31mb\\n\n"
        );
        let told = record.to_json(PLAIN);
        assert_eq!(told["query_id"], "18446744073709551615");
        assert_eq!(told["value"]["nanoton"], "1500000000");
        assert_eq!(told["body"]["text"], "a\u{1b}[31mb\n");
    }
}
