//! What the fuzz targets and the tests do with arbitrary bytes: decode them every way a peer could ask for,
//! and check what must hold. A panic is a finding.

use bytes::{Bytes, BytesMut};

use crate::codec::{Message, from_boxed, to_boxed};
use crate::frame::{FrameDecoder, FrameEncoder, MAX_FRAME_PAYLOAD};
use crate::tl::{
    ClientQuery, ClientToProxy, ProxyToClient, ProxyToWorker, WorkerQuery, WorkerToProxy, client, ext, http,
    market, proxy, tcp, worker,
};

/// Bytes of a connection: must give the same frames in one piece as byte by byte, and the same bytes when
/// framed again. Each payload goes through [`packet`].
pub fn frame(data: &[u8]) {
    let frames = read_frames(std::iter::once(data));
    assert_eq!(frames, read_frames(data.chunks(1)), "frames do not depend on how bytes arrive");
    let mut encoder = FrameEncoder::new();
    let mut again = BytesMut::new();
    for payload in &frames {
        let written = encoder.encode(&mut again, payload.len(), |out| out.extend_from_slice(payload));
        assert_eq!(written, Ok(()), "what was read can be written");
        packet(payload);
    }
    assert!(data.starts_with(&again), "frames are written as they were read");
}

/// The payload of a frame, and what it carries.
pub fn packet(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    let Some(packet) = check::<tcp::Packet>(&data) else {
        return message(&data);
    };
    assert_eq!(to_boxed(&packet), data, "a packet has one encoding");
    match packet {
        tcp::Packet::Packet { data }
        | tcp::Packet::Query { data, .. }
        | tcp::Packet::QueryAnswer { data, .. } => {
            message(&data);
        }
        _ => {}
    }
}

/// What a packet, a query or an answer carries.
fn message(data: &Bytes) {
    check::<WorkerQuery>(data);
    check::<ClientQuery>(data);
    check::<worker::ConnectedToProxy>(data);
    check::<worker::CompareBalanceWithProxyResult>(data);
    check::<worker::ExtendedCompareBalanceWithProxyResult>(data);
    check::<worker::ProxyHandshakeCompleted>(data);
    check::<worker::PaymentStatus>(data);
    check::<client::ConnectedToProxy>(data);
    check::<client::AuthorizationWithProxy>(data);
    check::<client::Refund>(data);
    check::<client::PaymentStatus>(data);
    check::<client::WorkerTypes>(data);
    check::<client::WorkerTypesV2>(data);
    check::<ext::Workers>(data);
    check::<ext::Evidence>(data);
    check::<market::Market>(data);
    if let Some(
        ClientToProxy::RunQuery(client::RunQuery { query, .. })
        | ClientToProxy::RunQueryEx(client::RunQueryEx { query, .. }),
    ) = check(data)
    {
        http(&query);
    }
    if let Some(
        ProxyToWorker::RunQuery(proxy::RunQuery { query, .. })
        | ProxyToWorker::RunQueryEx(proxy::RunQueryEx { query, .. }),
    ) = check(data)
    {
        http(&query);
    }
    if let Some(
        WorkerToProxy::QueryAnswer(proxy::QueryAnswer { answer, .. })
        | WorkerToProxy::QueryAnswerEx(proxy::QueryAnswerEx { answer, .. }),
    ) = check(data)
    {
        http(&answer);
    }
    if let Some(
        ProxyToClient::QueryAnswer(client::QueryAnswer { answer, .. })
        | ProxyToClient::QueryAnswerEx(client::QueryAnswerEx { answer, .. }),
    ) = check(data)
    {
        http(&answer);
    }
    http(data);
}

fn http(data: &Bytes) {
    check::<http::Request>(data);
    check::<http::Response>(data);
}

/// Decodes, and checks that what was decoded is encoded in the announced length, and reads back as itself.
/// Compares bytes, because a `double` may be NaN, and not with `data`, because unknown flags are dropped.
fn check<T: Message>(data: &Bytes) -> Option<T> {
    let message: T = from_boxed(data.clone()).ok()?;
    let encoded = to_boxed(&message);
    assert_eq!(encoded.len(), message.encoded_len(), "the announced length is right");
    assert_eq!(encoded.len(), data.len(), "only bits of flags words may be lost");
    let again: T = match from_boxed(encoded.clone()) {
        Ok(again) => again,
        Err(error) => unreachable!("what we write cannot be read: {error}"),
    };
    assert_eq!(to_boxed(&again), encoded, "a message reads back as itself");
    Some(message)
}

/// All frames up to the first error.
fn read_frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Bytes> {
    let mut decoder = FrameDecoder::new(MAX_FRAME_PAYLOAD);
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(payload)) => frames.push(payload),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}
