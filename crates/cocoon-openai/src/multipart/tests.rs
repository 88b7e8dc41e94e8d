#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

fn boundary() -> Boundary {
    Boundary::from_content_type("multipart/form-data; boundary=xYz").unwrap().unwrap()
}

/// All events of a body that arrives in pieces of `size` bytes; data are joined.
fn scan(body: &[u8], size: usize) -> Result<Vec<FormEvent>, RequestError> {
    let mut scanner = FormScanner::new(&boundary());
    let mut events: Vec<FormEvent> = Vec::new();
    let mut pieces = body.chunks(size);
    loop {
        match scanner.next()? {
            Some(FormEvent::Data(data)) => {
                if let Some(FormEvent::Data(before)) = events.last_mut() {
                    *before = [before.as_ref(), &data].concat().into();
                } else {
                    events.push(FormEvent::Data(data));
                }
            }
            Some(event) => {
                let ended = matches!(event, FormEvent::End(_));
                events.push(event);
                if ended {
                    return Ok(events);
                }
            }
            None => match pieces.next() {
                Some(piece) => scanner.push(Bytes::copy_from_slice(piece)),
                None => scanner.finish(),
            },
        }
    }
}

fn written(events: Vec<FormEvent>) -> Vec<u8> {
    let writer = FormWriter::new(&boundary());
    let mut out = Vec::new();
    events.into_iter().for_each(|event| writer.write(event, &mut out));
    out.concat()
}

fn part(name: &str, data: &[u8]) -> Vec<u8> {
    let head = format!("--xYz\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
    [head.as_bytes(), data, b"\r\n"].concat()
}

fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let parts: Vec<_> = parts.iter().map(|(name, data)| part(name, data)).collect();
    [parts.concat(), b"--xYz--\r\n".to_vec()].concat()
}

#[test]
fn a_form_is_read_alike_however_it_arrives() {
    let body = form(&[("model", b"m"), ("empty", b""), ("file", b"\r\n--xY\r\n\r\n--\0\xff-\r\n")]);
    let whole = scan(&body, body.len()).unwrap();
    let names: Vec<_> = whole
        .iter()
        .filter_map(|event| match event {
            FormEvent::Head(head) => Some(head.name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(names, ["model", "empty", "file"]);
    assert!(whole.contains(&FormEvent::Data(Bytes::from_static(b"\r\n--xY\r\n\r\n--\0\xff-\r\n"))));
    for size in 1..body.len() {
        assert_eq!(scan(&body, size).unwrap(), whole, "in pieces of {size}");
    }
    assert_eq!(written(whole), body);
}

#[test]
fn what_lenient_readers_would_take_is_refused() {
    let good = form(&[("a", b"1"), ("b", b"2")]);
    let text = String::from_utf8(good.clone()).unwrap();
    assert!(scan(&good, 7).is_ok());
    let mut bad: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"--xYz--\r\n".to_vec(),
        b"preamble\r\n".iter().chain(&good).copied().collect(),
        b"\r\n".iter().chain(&good).copied().collect(),
        good.iter().chain(b"x").copied().collect(),
        good.iter().chain(b"\r\n").copied().collect(),
        text.replace("\r\n", "\n").into(),
        text.replacen("--xYz\r\n", "--xYz \r\n", 1).into(),
        text.replacen("\r\n--xYz\r\n", "\r\n--xYz\t\r\n", 1).into(),
        text.replacen("\r\n--xYz\r\n", "\n--xYz\r\n", 1).into(),
        text.replacen("\r\n--xYz\r\n", "--xYz\r\n", 1).into(),
        text.replacen("\r\n--xYz\r\n", "\r\n--xYz\n", 1).into(),
        text.replacen("\r\n--xYz\r\n", "\r\n--xYzz\r\n", 1).into(),
        text.replacen("\r\n--xYz--\r\n", "\r\n--xYz-\r\n", 1).into(),
        // An empty part whose line end is that of its head.
        b"--xYz\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n--xYz--\r\n".to_vec(),
        b"--xYz\r\nContent-Disposition: form-data; name=\"a\"; filename=\"--xYz\"\r\n\r\n\r\n--xYz--\r\n"
            .to_vec(),
        form(&[("a", b"x--xYz--")]),
        form(&[("a", b"\n--xYz\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\n")]),
    ];
    // No beginning of a form is a form, but the one without the last line end.
    bad.extend((0..good.len() - 2).map(|end| good[..end].to_vec()));
    bad.push(good[..good.len() - 1].to_vec());
    for body in bad {
        for size in [1, 3, body.len().max(1)] {
            assert!(scan(&body, size).is_err(), "{:?}", String::from_utf8_lossy(&body));
        }
    }
    assert!(scan(&good[..good.len() - 2], 5).is_ok());
}

#[test]
fn heads_and_parts_have_limits() {
    let name = |length: usize| {
        let line = "Content-Disposition: form-data; name=\"a\"\r\nX: ";
        let padding = "x".repeat(length - line.len() - HEAD_END.len());
        format!("--xYz\r\n{line}{padding}\r\n\r\n1\r\n--xYz--\r\n")
    };
    assert!(scan(name(MAX_PART_HEAD_BYTES).as_bytes(), 100).is_ok());
    for size in [1, 100, 10_000] {
        assert!(scan(name(MAX_PART_HEAD_BYTES + 1).as_bytes(), size).is_err());
    }
    let parts = |count: usize| form(&vec![("a", &b"1"[..]); count]);
    assert!(scan(&parts(MAX_PARTS), 1000).is_ok());
    assert!(scan(&parts(MAX_PARTS + 1), 1000).is_err());
}

#[test]
fn little_is_held_of_data_that_flows() {
    let mut scanner = FormScanner::new(&boundary());
    scanner.push(part("file", b"").strip_suffix(b"\r\n").unwrap().to_vec().into());
    assert!(matches!(scanner.next(), Ok(Some(FormEvent::Head(_)))));
    for _ in 0..100 {
        scanner.push(Bytes::from_static(&[b'-'; 1000]));
        while let Ok(Some(FormEvent::Data(_))) = scanner.next() {}
        assert!(scanner.buffer.len() < 10);
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_and_what_is_read_is_written_again(
        body in proptest::collection::vec(prop_oneof![
            Just(b"--xYz".to_vec()), Just(b"\r\n".to_vec()), Just(b"--".to_vec()), Just(b"\n".to_vec()),
            Just(b"Content-Disposition: form-data; name=\"a\"\r\n\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..4),
        ], 0..24).prop_map(|pieces| pieces.concat()),
        size in 1_usize..40,
    ) {
        let read = scan(&body, size);
        prop_assert_eq!(&read, &scan(&body, body.len().max(1)));
        if let Ok(events) = read {
            prop_assert_eq!(written(events), body);
        }
    }

    #[test]
    fn every_form_is_read_back(
        parts in proptest::collection::vec(("[a-z]{1,9}", proptest::collection::vec(any::<u8>(), 0..50)), 1..9),
        size in 1_usize..99,
    ) {
        let parts: Vec<_> = parts.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
        let body = form(&parts);
        let events = scan(&body, size).unwrap();
        prop_assert_eq!(events.iter().filter(|event| **event == FormEvent::PartEnd).count(), parts.len());
        prop_assert_eq!(written(events), body);
    }
}
