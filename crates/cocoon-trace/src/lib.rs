//! Traces of requests across the nodes: what a node writes down of its part, and how the parts find each other.
//!
//! Pure: identifiers and times come in as arguments. A node that is to be traced gets a [`SpanSink`]; what stands behind
//! it (an OpenTelemetry exporter, a test) is none of its business. Values are numbers and short names: no text of a
//! request or an answer has a place in a [`Span`].
//!
//! The context on its way from node to node is a `traceparent` of [W3C Trace Context](https://www.w3.org/TR/trace-context/),
//! version 00.

use std::fmt;
use std::sync::Arc;

/// Bytes of a `traceparent` of version 00.
const TRACEPARENT_BYTES: usize = 55;
/// Longest text of an attribute, in bytes; longer ones are cut.
pub const MAX_TEXT_BYTES: usize = 256;
/// Who serves the models, as OpenTelemetry's conventions for generative AI want it said: the label of metrics, and the
/// value of the attribute `gen_ai.provider.name`.
pub const GEN_AI_PROVIDER: (&str, &str) = ("gen_ai_provider_name", "cocoon");
/// The bounds by which OpenTelemetry's conventions for generative AI count how long requests take, in seconds.
pub const GEN_AI_SECONDS: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];

/// Names one trace: 128 random bits, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// Names one span of a trace: 64 random bits, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

impl TraceId {
    /// From random bits; all-zero ones, which mean nothing, become another value.
    #[must_use]
    pub fn from_random(bits: u128) -> Self {
        Self(bits.max(1).to_be_bytes())
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }

    /// Whether this trace belongs to the share of all traces that is written down, 0 to 1. All nodes that use the same
    /// share decide alike (as OpenTelemetry's `TraceIdRatioBased` does, by the last 63 bits).
    #[must_use]
    pub fn is_sampled(&self, share: f64) -> bool {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        let low = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
        // 63 bits as a float: the rounding moves the border by less than 1e-15.
        #[allow(clippy::cast_precision_loss)]
        let place = low as f64 / (1_u64 << 63) as f64;
        place < share || share >= 1.0
    }
}

impl SpanId {
    /// From random bits; all-zero ones, which mean nothing, become another value.
    #[must_use]
    pub fn from_random(bits: u64) -> Self {
        Self(bits.max(1).to_be_bytes())
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 8] {
        self.0
    }
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where in which trace something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span that is under way.
    pub span: SpanId,
    /// Whether it is written down.
    pub sampled: bool,
}

impl TraceContext {
    /// The same trace at the span of a request, which its id on the wire names: that is random.
    #[must_use]
    pub fn at(self, request: &[u8; 32]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *request;
        Self { span: SpanId::from_random(u64::from_be_bytes([a, b, c, d, e, f, g, h])), ..self }
    }

    /// Reads a `traceparent` as a stranger sends it. `None` where it is none: the trace then begins anew, as the
    /// specification asks for. Later versions are read as far as version 00 goes.
    #[must_use]
    pub fn parse(traceparent: &[u8]) -> Option<Self> {
        let (head, rest) = traceparent.split_at_checked(TRACEPARENT_BYTES)?;
        let [v0, v1, b'-', trace @ .., b'-', f0, f1] = head else { return None };
        let (trace, span) = trace.split_at_checked(32)?;
        let (b'-', span) = span.split_first()? else { return None };
        let version = hex_byte(*v0, *v1)?;
        let more_is_fine = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let trace = hex_bytes::<16>(trace).filter(|bytes| *bytes != [0; 16])?;
        let span = hex_bytes::<8>(span).filter(|bytes| *bytes != [0; 8])?;
        let flags = hex_byte(*f0, *f1)?;
        more_is_fine.then_some(Self { trace: TraceId(trace), span: SpanId(span), sampled: flags & 1 != 0 })
    }

    /// The `traceparent` for the next node.
    #[must_use]
    pub fn to_traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// Lower-case digits alone, as the specification asks for.
fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    Some(digit(high)? << 4 | digit(low)?)
}

fn hex_bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let (pairs, rest) = digits.as_chunks::<2>();
    let mut bytes = [0; N];
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = hex_byte(*high, *low)?;
    }
    Some(bytes)
}

/// What a node is to the other side of a span, in OpenTelemetry's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// It was asked.
    Server,
    /// It asked another one.
    Client,
    /// Neither.
    Internal,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A name: of a model, a node, a kind of failure. Never a user's words.
    Text(String),
    /// A count, or nanoton.
    Int(i64),
    /// Seconds.
    Float(f64),
    /// Yes or no.
    Bool(bool),
}

impl From<&str> for Value {
    /// Cut after [`MAX_TEXT_BYTES`].
    fn from(text: &str) -> Self {
        Self::Text(text[..text.floor_char_boundary(MAX_TEXT_BYTES)].to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<u64> for Value {
    /// Beyond `i64::MAX`, that.
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

/// A node's part of a request, once it is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What was done, such as `chat some/model`.
    pub name: String,
    /// The node's side of it.
    pub kind: SpanKind,
    /// Which span of which trace this is.
    pub context: TraceContext,
    /// The span that this one is part of.
    pub parent: Option<SpanId>,
    /// Began, in microseconds since 1970.
    pub start_us: u64,
    /// Ended, in microseconds since 1970.
    pub end_us: u64,
    /// Names and values, by OpenTelemetry's conventions where they have one.
    pub attributes: Vec<(&'static str, Value)>,
    /// The kind of failure, where it failed.
    pub error: Option<&'static str>,
}

/// Where spans go. Must return at once and never fail: what cannot be kept is dropped.
pub trait SpanSink: Send + Sync + fmt::Debug {
    /// Takes a span of a trace that is sampled.
    fn record(&self, span: Span);
}

/// How a node traces.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// Where spans go.
    pub sink: Arc<dyn SpanSink>,
    /// Share of the traces that begin here, 0 to 1, that is written down. A trace that came with a decision keeps it.
    pub share: f64,
    /// Whether the next node is told of the trace. It then learns which requests belong together.
    pub propagate: bool,
}

impl Tracing {
    /// Where a request stands that came with `parent`, or begins a trace. `random` gives the new names.
    #[must_use]
    pub fn enter(&self, parent: Option<&TraceContext>, random: (u128, u64)) -> TraceContext {
        let span = SpanId::from_random(random.1);
        match parent {
            Some(parent) => TraceContext { span, ..*parent },
            None => {
                let trace = TraceId::from_random(random.0);
                TraceContext { trace, span, sampled: trace.is_sampled(self.share) }
            }
        }
    }

    /// Records a span, where its trace is sampled.
    pub fn record(&self, span: Span) {
        if span.context.sampled {
            self.sink.record(span);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_specifications_example_is_read_and_written_as_it_stands_there() {
        let context = TraceContext::parse(GOOD.as_bytes()).unwrap();
        assert!(context.sampled);
        assert_eq!(context.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.to_traceparent(), GOOD);
    }

    #[test]
    fn what_is_no_traceparent_begins_no_trace() {
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-x"),
            &GOOD.replacen("00-", "ff-", 1),
            &GOOD.to_uppercase(),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace("-01", "-0g"),
            &GOOD.replace('-', "_"),
        ] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad}");
        }
        let later = format!("{}-more", GOOD.replacen("00-", "7f-", 1));
        assert!(TraceContext::parse(later.as_bytes()).is_some());
    }

    #[test]
    fn a_share_of_the_traces_is_sampled() {
        let count = |share: f64| {
            let sampled = |number: &u64| {
                let bits = u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                TraceId::from_random(bits).is_sampled(share)
            };
            (1..=10_000_u64).filter(sampled).count()
        };
        assert_eq!((count(0.0), count(1.0)), (0, 10_000));
        assert!((2300..2700).contains(&count(0.25)), "{}", count(0.25));
    }

    #[derive(Debug, Default)]
    struct Kept(std::sync::Mutex<Vec<Span>>);

    impl SpanSink for Kept {
        fn record(&self, span: Span) {
            self.0.lock().unwrap().push(span);
        }
    }

    #[test]
    fn a_callers_decision_stands_and_only_sampled_traces_are_kept() {
        let kept = Arc::new(Kept::default());
        let sink: Arc<dyn SpanSink> = Arc::clone(&kept) as _;
        let tracing = Tracing { sink, share: 1.0, propagate: true };
        let mut parent = TraceContext::parse(GOOD.as_bytes()).unwrap();
        for (sampled, kept_after) in [(false, 0), (true, 1)] {
            parent.sampled = sampled;
            let context = tracing.enter(Some(&parent), (1, 7));
            assert_eq!((context.trace, context.sampled), (parent.trace, sampled));
            assert_ne!(context.span, parent.span);
            let (name, error, attributes) = ("chat".to_owned(), None, Vec::new());
            let (kind, parent) = (SpanKind::Server, Some(parent.span));
            tracing.record(Span { name, kind, context, parent, start_us: 1, end_us: 2, attributes, error });
            assert_eq!(kept.0.lock().unwrap().len(), kept_after);
        }
        assert!(tracing.enter(None, (5, 5)).sampled);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let Value::Text(text) = Value::from("ä".repeat(200).as_str()) else { unreachable!() };
        assert_eq!(text.len(), MAX_TEXT_BYTES);
    }

    proptest! {
        #[test]
        fn every_context_comes_back_from_its_traceparent(trace: u128, span: u64, sampled: bool) {
            let (trace, span) = (TraceId::from_random(trace), SpanId::from_random(span));
            let context = TraceContext { trace, span, sampled };
            prop_assert_eq!(TraceContext::parse(context.to_traceparent().as_bytes()), Some(context));
        }

        #[test]
        fn no_bytes_make_the_reader_fail(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceContext::parse(&bytes);
        }
    }
}
