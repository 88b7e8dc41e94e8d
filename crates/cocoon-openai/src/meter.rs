//! The worker's view of an answer: meters it as it passes, and writes the price into its `usage`.

use bytes::Bytes;

use crate::endpoint::Endpoint;
use crate::kind::{BodyKind, BodyLimits};
use crate::object::{RawObject, splice};
use crate::observe::{MeterReport, Observer};
use crate::units::{Piece, Unit, UnitReader};
use crate::usage::Usage;

/// What an answer costs, in nanoton; written into `usage` under these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CostFields {
    /// Price of the prompt.
    pub prompt_total_cost: u64,
    /// Price of the answer's tokens.
    pub completion_total_cost: u64,
    /// Price of both.
    pub total_cost: u64,
}

/// Prices one usage.
pub type CostFn = Box<dyn FnMut(&Usage) -> CostFields + Send>;

/// Passes an answer on piece by piece, byte for byte, except that each `usage` object gets its [`CostFields`].
///
/// Server-sent events and lines pass as soon as they are whole; one JSON body is held to its end. A piece that is
/// larger than its limit, and all that follows it, passes unread.
pub struct AnswerMeter {
    kind: BodyKind,
    reader: UnitReader,
    observer: Observer,
    cost: CostFn,
}

impl AnswerMeter {
    /// A meter for one answer of `endpoint`.
    #[must_use]
    pub fn new(endpoint: Endpoint, kind: BodyKind, limits: BodyLimits, cost: CostFn) -> Self {
        let (reader, observer) = (UnitReader::new(kind, limits), Observer::new(endpoint, kind));
        Self { kind, reader, observer, cost }
    }

    /// Takes the next bytes; what can be passed on now, in order.
    pub fn push(&mut self, chunk: Bytes) -> Vec<Bytes> {
        self.reader.push(chunk);
        let mut out = Vec::new();
        while let Some(piece) = self.reader.next_piece() {
            out.push(self.pass(piece));
        }
        out
    }

    /// The body has ended, in whichever way: what is left to pass on, and what the answer was.
    pub fn finish(&mut self) -> (Option<Bytes>, MeterReport) {
        let rest = self.reader.finish().map(|piece| self.pass(piece)).filter(|rest| !rest.is_empty());
        (rest, self.report())
    }

    /// What the answer was so far.
    #[must_use]
    pub fn report(&self) -> MeterReport {
        self.observer.report(self.reader.gave_up())
    }

    fn pass(&mut self, piece: Piece) -> Bytes {
        let unit = match piece {
            Piece::Unread(bytes) => {
                if self.kind == BodyKind::Text {
                    self.observer.observe_text(bytes.len());
                }
                return bytes;
            }
            Piece::Unit(unit) => unit,
        };
        let seen = self.observer.observe(&unit);
        match (seen.span, seen.usage) {
            (Some(span), Some(usage)) => priced(&unit, span, (self.cost)(&usage)),
            _ => unit.into_raw(),
        }
    }
}

/// The piece with the price in the `usage` object at `span` of its data.
fn priced(unit: &Unit, span: std::ops::Range<usize>, cost: CostFields) -> Bytes {
    let data = unit.data();
    let Ok(mut usage) = RawObject::parse(&data[span.clone()]) else {
        // Not reached: the usage was read from these same bytes.
        return Bytes::copy_from_slice(data);
    };
    let fields = [
        ("prompt_total_cost", cost.prompt_total_cost),
        ("completion_total_cost", cost.completion_total_cost),
        ("total_cost", cost.total_cost),
    ];
    for (name, nanoton) in fields {
        usage.set(name, nanoton.to_string());
    }
    let json = usage.to_json();
    unit.with_data(&splice(data, span, json.as_bytes()))
}
