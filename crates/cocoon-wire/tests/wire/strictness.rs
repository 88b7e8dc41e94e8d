//! What a message may not look like.

use bytes::{Bytes, BytesMut};
use cocoon_wire::codec::MAX_VECTOR_ITEMS;
use cocoon_wire::tl::{ProtoRange, TokensUsed, WorkerQuery, client, ext, http, proxy, tcp, worker};
use cocoon_wire::{Boxed, ByteStr, DecodeError, Message, from_boxed, to_boxed};

/// `tcp.packet` with these bytes as its `data`, length and padding included.
fn packet(data: &[u8]) -> Result<tcp::Packet, DecodeError> {
    from_boxed([&0x9c17_baf8_u32.to_le_bytes(), data].concat().into())
}

fn with_data(data: &'static [u8]) -> Result<tcp::Packet, DecodeError> {
    Ok(tcp::Packet::Packet { data: Bytes::from_static(data) })
}

fn worker_params(flags: u32) -> Vec<u8> {
    let params = worker::Params {
        ext_flags: 0,
        worker_owner_address: "EQ".into(),
        model: "m@c:v".into(),
        coefficient: 1000,
        limits: None,
        proto: None,
    };
    let mut encoded = to_boxed(&params).to_vec();
    encoded[4..8].copy_from_slice(&flags.to_le_bytes());
    encoded
}

#[test]
fn padding_must_be_zero() {
    assert_eq!(packet(&[1, 7, 0, 0]), with_data(&[7]));
    assert_eq!(packet(&[1, 7, 1, 0]), Err(DecodeError::NonZeroPadding));
    assert_eq!(packet(&[1, 7, 0, 9]), Err(DecodeError::NonZeroPadding));
    assert_eq!(packet(&[2, 7, 7, 1]), Err(DecodeError::NonZeroPadding));
}

#[test]
fn padding_must_be_there() {
    assert_eq!(packet(&[1, 7, 0]), Err(DecodeError::UnexpectedEnd));
    assert_eq!(packet(&[0]), Err(DecodeError::UnexpectedEnd));
}

#[test]
fn a_length_must_be_in_its_shortest_form() {
    let long_form =
        |len: usize| [&[254, len as u8, 0, 0][..], &vec![7; len.next_multiple_of(4)][..]].concat();
    assert_eq!(packet(&long_form(252)), Err(DecodeError::NonMinimalLength(252)));
    assert_eq!(packet(&[254, 0, 0, 0]), Err(DecodeError::NonMinimalLength(0)));
    let mut edge = long_form(254);
    edge[4 + 254..].fill(0);
    assert_eq!(packet(&edge), Ok(tcp::Packet::Packet { data: vec![7; 254].into() }));
}

#[test]
fn a_length_that_no_frame_can_carry_is_refused() {
    assert_eq!(packet(&[255, 0, 0, 0, 1, 0, 0, 0]), Err(DecodeError::TooLong));
    assert_eq!(packet(&[254, 255, 255, 255]), Err(DecodeError::UnexpectedEnd));
}

#[test]
fn payloads_share_the_received_buffer() {
    let received = to_boxed(&tcp::Packet::Query { id: 1, data: vec![7; 1000].into() });
    let Ok(tcp::Packet::Query { data, .. }) = from_boxed(received.clone()) else { panic!("a query") };
    assert!(received.as_ptr_range().contains(&data.as_ptr()), "not copied");
}

#[test]
fn a_vector_cannot_have_more_items_than_there_are_bytes_for() {
    let of = |count: u32, rest: usize| {
        let id = client::WorkerTypes::ID.to_le_bytes();
        from_boxed::<client::WorkerTypes>([&id[..], &count.to_le_bytes(), &vec![0; rest]].concat().into())
    };
    assert_eq!(of(0, 0), Ok(client::WorkerTypes { types: Vec::new() }));
    assert_eq!(of(1, 0), Err(DecodeError::VectorTooLong(1)));
    assert_eq!(of(u32::MAX, 4000), Err(DecodeError::VectorTooLong(u32::MAX)));
    assert_eq!(of(2, 20), Err(DecodeError::UnexpectedEnd));
}

#[test]
fn a_vector_has_at_most_the_documented_number_of_items() {
    let header = http::Header { name: ByteStr::default(), value: ByteStr::default() };
    let with_headers = |count: usize| http::Request {
        method: "GET".into(),
        url: "/".into(),
        http_version: "HTTP/1.1".into(),
        headers: vec![header.clone(); count],
        payload: Bytes::new(),
    };
    let most = with_headers(MAX_VECTOR_ITEMS);
    assert_eq!(from_boxed(to_boxed(&most)), Ok(most));
    let over = to_boxed(&with_headers(MAX_VECTOR_ITEMS + 1));
    assert_eq!(from_boxed::<http::Request>(over), Err(DecodeError::VectorTooLong(65_537)));
}

#[test]
fn a_bool_is_one_of_two_constructors() {
    let mut query = to_boxed(&worker::ProxyHandshakeComplete { is_disabled: true }).to_vec();
    query[4..].copy_from_slice(&1_u32.to_le_bytes());
    assert_eq!(from_boxed::<WorkerQuery>(query.into()), Err(DecodeError::BadBool(1)));
}

#[test]
fn a_message_of_the_other_side_is_refused() {
    let query = to_boxed(&client::UpdatePaymentStatus {});
    assert_eq!(
        from_boxed::<WorkerQuery>(query),
        Err(DecodeError::UnknownConstructor(client::UpdatePaymentStatus::ID))
    );
}

#[test]
fn negative_flags_are_refused_everywhere() {
    let negative = |flags| from_boxed::<worker::Params>(worker_params(flags).into()).map(drop);
    assert_eq!(negative(0), Ok(()));
    assert_eq!(negative(1 << 31), Err(DecodeError::NegativeFlags));
    assert_eq!(negative(u32::MAX), Err(DecodeError::NegativeFlags));

    let answer = proxy::QueryAnswerEx { request_id: [1; 32], answer: Bytes::new(), final_info: None };
    let mut encoded = to_boxed(&answer).to_vec();
    let at = encoded.len() - 4;
    encoded[at..].copy_from_slice(&(1_u32 << 31).to_le_bytes());
    assert_eq!(from_boxed::<proxy::QueryAnswerEx>(encoded.into()), Err(DecodeError::NegativeFlags));
}

#[test]
fn unknown_flags_of_params_are_kept() {
    let flags = ext::EXT_V1 | 1 << 2 | 1 << 30;
    let encoded = Bytes::from(worker_params(flags));
    let params: worker::Params = from_boxed(encoded.clone()).unwrap();
    assert_eq!(params.ext_flags, flags);
    assert_eq!(to_boxed(&params), encoded);
}

#[test]
fn flags_of_fields_follow_from_the_fields_alone() {
    let params = client::Params {
        ext_flags: u32::MAX,
        client_owner_address: "EQ".into(),
        is_test: None,
        proto: Some(ProtoRange { min: 1, max: 2 }),
    };
    let again: client::Params = from_boxed(to_boxed(&params)).unwrap();
    assert_eq!(again, client::Params { ext_flags: 0x7fff_fffc, ..params });
}

#[test]
fn unknown_flags_of_other_messages_are_dropped() {
    let answer = client::QueryAnswerPartEx { request_id: [1; 32], answer: Bytes::new(), final_info: None };
    let plain = to_boxed(&answer);
    let mut flagged = plain.to_vec();
    let at = flagged.len() - 4;
    flagged[at..].copy_from_slice(&(1_u32 << 5).to_le_bytes());
    assert_eq!(from_boxed(flagged.into()), Ok(answer.clone()));
    assert_eq!(to_boxed(&answer), plain);
}

#[test]
fn a_flag_without_its_field_is_refused() {
    let claims = |flags| from_boxed::<worker::Params>(worker_params(flags).into());
    assert_eq!(claims(1), Err(DecodeError::UnexpectedEnd));
    assert_eq!(claims(2), Err(DecodeError::UnexpectedEnd));
}

#[test]
fn a_packet_is_written_in_place_as_it_would_be_through_buffers() {
    for len in [0, 1, 200, 253, 254, 255, 100_000] {
        let message = proxy::QueryAnswerPart {
            answer: vec![7; len].into(),
            is_completed: true,
            request_id: [3; 32],
            tokens_used: TokensUsed::default(),
        };
        let mut in_place = BytesMut::new();
        tcp::write_packet(&mut in_place, &message);
        assert_eq!(in_place.len(), tcp::packet_len(&message));
        assert_eq!(in_place, to_boxed(&tcp::Packet::Packet { data: to_boxed(&message) }));
    }
}

#[test]
fn debug_output_shows_no_text_of_users() {
    let request = http::Request {
        method: "POST".into(),
        url: "/secret-url".into(),
        http_version: "HTTP/1.1".into(),
        headers: vec![http::Header { name: "Cookie".into(), value: "secret-value".into() }],
        payload: Bytes::from_static(b"secret-prompt"),
    };
    let query = client::AuthorizeWithProxyShort { data: Bytes::from_static(b"secret-string") };
    let packet = tcp::Packet::Packet { data: to_boxed(&request) };
    let shown =
        format!("{request:?} {query:?} {packet:?} {:#?}", WorkerQuery::from(worker::UpdatePaymentStatus {}));
    assert!(!shown.contains("secret"), "{shown}");
    assert!(shown.contains("payload: <13 bytes>"), "{shown}");
    assert_eq!(packet.encoded_len(), to_boxed(&packet).len());
}

#[test]
fn text_need_not_be_utf8() {
    let latin1 = ByteStr(Bytes::from_static(b"caf\xe9"));
    assert_eq!((latin1.to_str(), latin1.to_lossy().as_ref()), (None, "caf\u{fffd}"));
    let header = http::Header { name: "X".into(), value: latin1 };
    assert_eq!(from_boxed(to_boxed(&header)), Ok(header));
    assert_eq!(ByteStr::from(String::from("é")).to_str(), Some("é"));
    assert_eq!(ByteStr::from_static("abc").as_bytes(), b"abc");
}
