//! Framing, at its edges.

use bytes::{Bytes, BytesMut};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::{FrameDecoder, FrameEncoder, FrameError, MAX_FRAME_PAYLOAD, to_boxed};
use proptest::collection::vec;
use proptest::prelude::*;

fn header(len: u32, seqno: u32) -> BytesMut {
    BytesMut::from(&[len.to_le_bytes(), seqno.to_le_bytes()].concat()[..])
}

fn put(encoder: &mut FrameEncoder, out: &mut BytesMut, payload: &[u8]) -> Result<(), FrameError> {
    encoder.encode(out, payload.len(), |out| out.extend_from_slice(payload))
}

#[test]
fn an_announced_giant_takes_no_memory() {
    let mut received = header(1 << 24, 0);
    let capacity = received.capacity();
    assert_eq!(FrameDecoder::new(MAX_FRAME_PAYLOAD).decode(&mut received), Ok(None));
    assert_eq!(received.capacity(), capacity, "nothing is reserved for bytes that have not come");
}

#[test]
fn lengths_outside_the_limits_are_refused_before_anything_else_has_come() {
    for len in [0, 3, (1 << 24) + 1, u32::MAX] {
        let mut received = BytesMut::from(&len.to_le_bytes()[..]);
        let refused = FrameDecoder::new(usize::MAX).decode(&mut received);
        assert_eq!(refused, Err(FrameError::BadLength(len)));
    }
    for len in [4, 1 << 24] {
        assert_eq!(FrameDecoder::new(usize::MAX).decode(&mut header(len, 0)), Ok(None));
    }
    assert_eq!(FrameDecoder::new(100).decode(&mut header(100, 0)), Ok(None));
    assert_eq!(FrameDecoder::new(100).decode(&mut header(101, 0)), Err(FrameError::BadLength(101)));
}

#[test]
fn a_wrong_number_is_refused_before_the_payload_has_come() {
    let refused = FrameDecoder::new(100).decode(&mut header(12, 1));
    assert_eq!(refused, Err(FrameError::BadSeqno { expected: 0, got: 1 }));
}

#[test]
fn a_repeated_frame_is_refused() {
    let mut received = BytesMut::new();
    FrameEncoder::new().encode_message(&mut received, &Packet::Ping { id: 1 }).unwrap();
    FrameEncoder::new().encode_message(&mut received, &Packet::Ping { id: 1 }).unwrap();
    let mut decoder = FrameDecoder::new(100);
    assert_eq!(decoder.decode(&mut received), Ok(Some(to_boxed(&Packet::Ping { id: 1 }))));
    assert_eq!(decoder.decode(&mut received), Err(FrameError::BadSeqno { expected: 1, got: 0 }));
}

#[test]
fn the_largest_payload_passes_and_one_more_byte_is_not_sent() {
    let (mut encoder, mut out) = (FrameEncoder::new(), BytesMut::new());
    let payload = vec![7; MAX_FRAME_PAYLOAD + 1];
    assert_eq!(put(&mut encoder, &mut out, &payload), Err(FrameError::BadPayload(payload.len())));
    assert_eq!(put(&mut encoder, &mut out, &payload[..3]), Err(FrameError::BadPayload(3)));
    assert!(out.is_empty());
    put(&mut encoder, &mut out, &payload[1..]).unwrap();
    let read = FrameDecoder::new(MAX_FRAME_PAYLOAD).decode(&mut out).unwrap().unwrap();
    assert_eq!(read.len(), MAX_FRAME_PAYLOAD);
    assert!(out.is_empty());
}

#[test]
fn a_message_too_long_for_a_frame_is_refused_and_the_next_one_passes() {
    let (mut encoder, mut out) = (FrameEncoder::new(), BytesMut::new());
    let giant = Packet::Packet { data: vec![0; MAX_FRAME_PAYLOAD].into() };
    assert!(matches!(encoder.encode_message(&mut out, &giant), Err(FrameError::BadPayload(_))));
    assert!(matches!(encoder.encode_tcp_packet(&mut out, &giant), Err(FrameError::BadPayload(_))));
    encoder.encode_message(&mut out, &Packet::Pong { id: 2 }).unwrap();
    let read = FrameDecoder::new(100).decode(&mut out);
    assert_eq!(read, Ok(Some(to_boxed(&Packet::Pong { id: 2 }))));
}

#[test]
fn what_follows_a_large_payload_does_not_keep_its_buffer() {
    let (mut encoder, mut received) = (FrameEncoder::new(), BytesMut::new());
    put(&mut encoder, &mut received, &vec![7; 1 << 20]).unwrap();
    put(&mut encoder, &mut received, b"small").unwrap();
    let mut decoder = FrameDecoder::new(MAX_FRAME_PAYLOAD);
    let large = decoder.decode(&mut received).unwrap().unwrap();
    let small = decoder.decode(&mut received).unwrap().unwrap();
    assert_eq!(small, "small");
    assert!(large.is_unique(), "nobody else holds the memory");
}

#[test]
fn a_payload_other_than_announced_leaves_no_trace() {
    let (mut encoder, mut out) = (FrameEncoder::new(), BytesMut::from(&b"before"[..]));
    for written in [0, 7, 9] {
        let refused = encoder.encode(&mut out, 8, |out| out.extend_from_slice(&[0; 9][..written]));
        assert_eq!(refused, Err(FrameError::LengthMismatch { announced: 8, written }));
        assert_eq!(out, &b"before"[..]);
    }
    put(&mut encoder, &mut out, &[1; 4]).unwrap();
    assert_eq!(out[6..], *b"\x04\0\0\0\0\0\0\0\x01\x01\x01\x01");
}

proptest! {
    #[test]
    fn frames_are_read_as_they_were_written_however_the_bytes_arrive(
        payloads in vec(vec(any::<u8>(), 4..300), 0..8),
        piece in 1_usize..100,
    ) {
        let (mut encoder, mut sent) = (FrameEncoder::new(), BytesMut::new());
        for payload in &payloads {
            put(&mut encoder, &mut sent, payload).unwrap();
        }
        let (mut decoder, mut buffer, mut read) = (FrameDecoder::new(300), BytesMut::new(), Vec::new());
        for piece in sent.chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some(payload) = decoder.decode(&mut buffer).unwrap() {
                read.push(payload);
            }
        }
        prop_assert_eq!(read, payloads.into_iter().map(Bytes::from).collect::<Vec<_>>());
        prop_assert!(buffer.is_empty());
    }
}
