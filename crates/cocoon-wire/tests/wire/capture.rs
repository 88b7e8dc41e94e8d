//! A captured session of published nodes: every frame decodes to what its description says, and is written
//! again byte for byte.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{
    ClientQuery, ClientToProxy, ProxyToClient, ProxyToWorker, WorkerQuery, WorkerToProxy, client, ext, http,
    market, worker,
};
use cocoon_wire::{FrameDecoder, FrameEncoder, MAX_FRAME_PAYLOAD, Message, from_boxed, to_boxed};
use serde_json::Value;

use crate::messages::Json;

const FRAMES: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/session-v2.frames.jsonl"));
const DECODED: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/session-v2.decoded.txt"));

/// One direction of one connection: `c1 out` and the like.
type Direction = (u64, String);

/// What one side sent, as it was read.
fn streams() -> HashMap<Direction, Vec<Bytes>> {
    let mut streams: HashMap<_, Vec<Bytes>> = HashMap::new();
    for line in FRAMES.lines() {
        let read: Value = serde_json::from_str(line).unwrap();
        if let Some(dir) = read["dir"].as_str() {
            let data = hex::decode(read["hex"].as_str().unwrap()).unwrap();
            let direction = (read["conn"].as_u64().unwrap(), dir.to_owned());
            streams.entry(direction).or_default().push(data.into());
        }
    }
    streams
}

/// The descriptions of one side's frames, in order: length of the payload, constructor id, contents.
fn descriptions() -> HashMap<Direction, Vec<(usize, u32, Value)>> {
    let mut descriptions: HashMap<_, Vec<_>> = HashMap::new();
    for line in DECODED.lines().filter(|line| !line.starts_with("==")) {
        let [_, conn, dir, seq, len, id, contents] = line.splitn(7, ' ').collect::<Vec<_>>()[..] else {
            panic!("a description has seven parts: {line}")
        };
        let of_direction = descriptions.entry((conn[1..].parse().unwrap(), dir.to_owned())).or_default();
        assert_eq!(seq, format!("seq={}", of_direction.len()));
        let len = len.strip_prefix("len=").unwrap().parse().unwrap();
        let id = u32::from_str_radix(id.strip_prefix("id=").unwrap(), 16).unwrap();
        of_direction.push((len, id, serde_json::from_str(contents).unwrap()));
    }
    descriptions
}

/// The payloads of all frames of a direction.
fn payloads(reads: &[Bytes]) -> Vec<Bytes> {
    let mut decoder = FrameDecoder::new(MAX_FRAME_PAYLOAD);
    let mut buffer = BytesMut::new();
    let mut payloads = Vec::new();
    for read in reads {
        buffer.extend_from_slice(read);
        while let Some(payload) = decoder.decode(&mut buffer).unwrap() {
            payloads.push(payload);
        }
    }
    assert!(buffer.is_empty(), "the capture ends with a frame");
    payloads
}

/// A message as JSON, after it was seen to be written again as it came.
fn decode<T: Message + Json>(data: &Bytes) -> Value {
    let message: T = from_boxed(data.clone()).unwrap();
    assert_eq!(to_boxed(&message), data);
    message.json()
}

/// How the answer to a query is decoded.
type Answer = fn(&Bytes) -> Value;

fn worker_answer(query: &WorkerQuery) -> Answer {
    match query {
        WorkerQuery::ConnectToProxy(_) => decode::<worker::ConnectedToProxy>,
        WorkerQuery::CompareBalanceWithProxy(_) => decode::<worker::CompareBalanceWithProxyResult>,
        WorkerQuery::ExtendedCompareBalanceWithProxy(_) => {
            decode::<worker::ExtendedCompareBalanceWithProxyResult>
        }
        WorkerQuery::ProxyHandshakeComplete(_) => decode::<worker::ProxyHandshakeCompleted>,
        WorkerQuery::UpdatePaymentStatus(_) => decode::<worker::PaymentStatus>,
    }
}

fn client_answer(query: &ClientQuery) -> Answer {
    match query {
        ClientQuery::ConnectToProxy(_) => decode::<client::ConnectedToProxy>,
        ClientQuery::AuthorizeWithProxyShort(_) | ClientQuery::AuthorizeWithProxyLong(_) => {
            decode::<client::AuthorizationWithProxy>
        }
        ClientQuery::RequestRefund(_) => decode::<client::Refund>,
        ClientQuery::UpdatePaymentStatus(_) => decode::<client::PaymentStatus>,
        ClientQuery::GetWorkerTypes(_) => decode::<client::WorkerTypes>,
        ClientQuery::GetWorkerTypesV2(_) => decode::<client::WorkerTypesV2>,
        ClientQuery::GetWorkers(_) => decode::<ext::Workers>,
        ClientQuery::GetEvidence(_) => decode::<ext::Evidence>,
        ClientQuery::GetMarket(_) => decode::<market::Market>,
    }
}

/// What the packet carries, as JSON.
fn inner((conn, dir): &Direction, packet: &Packet, answers: &mut HashMap<i64, Answer>) -> Option<Value> {
    match packet {
        Packet::Packet { data } => Some(match (conn, dir.as_str()) {
            (1, "out") => decode::<WorkerToProxy>(data),
            (1, _) => decode::<ProxyToWorker>(data),
            (_, "out") => decode::<ClientToProxy>(data),
            _ => decode::<ProxyToClient>(data),
        }),
        Packet::Query { id, data } if *conn == 1 => {
            answers.insert(*id, worker_answer(&from_boxed(data.clone()).unwrap()));
            Some(decode::<WorkerQuery>(data))
        }
        Packet::Query { id, data } => {
            answers.insert(*id, client_answer(&from_boxed(data.clone()).unwrap()));
            Some(decode::<ClientQuery>(data))
        }
        Packet::QueryAnswer { id, data } => Some(answers[id](data)),
        _ => None,
    }
}

/// Whether a message says what its description says, and nothing else. Bytes are described as text, as
/// `hex:...`, or as the HTTP message they hold; a `double` by its value.
fn assert_same(ours: &Value, described: &Value, path: &str) {
    match (ours, described) {
        (Value::Object(ours), Value::Object(described)) => {
            let names = |map: &serde_json::Map<String, Value>| {
                let mut names: Vec<String> = map.keys().cloned().collect();
                names.sort();
                names
            };
            assert_eq!(names(ours), names(described), "the fields of {path}");
            for (field, value) in ours {
                assert_same(value, &described[field], &format!("{path}.{field}"));
            }
        }
        (Value::Array(ours), Value::Array(described)) => {
            assert_eq!(ours.len(), described.len(), "the items of {path}");
            ours.iter().zip(described).for_each(|(ours, described)| assert_same(ours, described, path));
        }
        (Value::String(ours), Value::Object(message)) => {
            let data = Bytes::from(hex::decode(ours).unwrap());
            let ours = match message["@"].as_str() {
                Some("http.request") => decode::<http::Request>(&data),
                Some("http.response") => decode::<http::Response>(&data),
                other => panic!("{path} holds {other:?}"),
            };
            assert_same(&ours, described, path);
        }
        (Value::String(ours), Value::String(described)) if path.ends_with(".@") => {
            assert_eq!(ours, described, "the constructor at {path}");
        }
        (Value::String(ours), Value::String(described)) => {
            // An `int256` stands as it is, bytes as `hex:` or as the text they are.
            let same = ours == described
                || described.strip_prefix("hex:") == Some(ours)
                || *ours == hex::encode(described);
            assert!(same, "{path}: {ours} is not {described}");
        }
        (Value::Number(ours), Value::Number(described)) if described.is_f64() => {
            let (ours, described) = (f64::from_bits(ours.as_u64().unwrap()), described.as_f64().unwrap());
            assert!(
                (ours - described).abs() <= ours.abs() * f64::EPSILON,
                "{path}: {ours} is not {described}"
            );
        }
        _ => assert_eq!(ours, described, "{path}"),
    }
}

#[test]
fn every_captured_frame_decodes_to_its_description_and_is_written_again_byte_for_byte() {
    let streams = streams();
    let described = descriptions();
    let mut frames = 0;
    let mut answers = HashMap::new();
    let mut directions: Vec<_> = streams.keys().collect();
    // Queries go out; their answers come in.
    directions.sort_by_key(|(_, dir)| dir == "in");
    for direction in directions {
        let payloads = payloads(&streams[direction]);
        let described = &described[direction];
        assert_eq!(payloads.len(), described.len(), "frames of {direction:?}");
        let (mut encoder, mut again) = (FrameEncoder::new(), BytesMut::new());
        for (payload, (len, id, description)) in payloads.iter().zip(described) {
            assert_eq!((payload.len(), &payload[..4]), (*len, &id.to_le_bytes()[..]));
            let packet: Packet = from_boxed(payload.clone()).unwrap();
            let mut ours = packet.json();
            if let Some(inner) = inner(direction, &packet, &mut answers) {
                ours["data"] = inner;
            }
            assert_same(&ours, description, "");
            encoder.encode_message(&mut again, &packet).unwrap();
            frames += 1;
        }
        assert_eq!(again, streams[direction].concat(), "{direction:?} is written again");
    }
    assert_eq!(frames, 60);
}

#[test]
fn captured_packets_are_the_same_when_written_in_place() {
    let reads = &streams()[&(1, "out".to_owned())];
    let (mut encoder, mut again) = (FrameEncoder::new(), BytesMut::new());
    for payload in payloads(reads) {
        match from_boxed(payload).unwrap() {
            Packet::Packet { data } => {
                let message: WorkerToProxy = from_boxed(data).unwrap();
                encoder.encode_tcp_packet(&mut again, &message).unwrap();
            }
            other => encoder.encode_message(&mut again, &other).unwrap(),
        }
    }
    assert_eq!(again, reads.concat());
}

#[test]
fn captured_bytes_raise_no_finding_in_the_fuzz_targets() {
    for reads in streams().values() {
        cocoon_wire::fuzzing::frame(&reads.concat());
    }
}
