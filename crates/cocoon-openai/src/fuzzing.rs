//! What the fuzz targets and the tests do with arbitrary bytes: read them as a request at a gateway, and what that forwards
//! at a worker. A panic is a finding.

use bytes::Bytes;

use crate::arriving::ArrivingBody;
use crate::endpoint::Endpoint;
use crate::request::{PreparedRequest, RequestDefaults, RequestForm, Wishes};
use crate::summary::RequestSummary;

/// The first byte chooses the endpoint; then the `Content-Type`, to the end of its line; the rest is the body.
pub fn request(data: &[u8]) {
    let Some((&first, data)) = data.split_first() else { return };
    let endpoint = Endpoint::ALL[usize::from(first) % Endpoint::ALL.len()];
    let end = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
    let (content_type, body) = data.split_at(end);
    let content_type = String::from_utf8_lossy(content_type);
    let body = Bytes::copy_from_slice(body.strip_prefix(b"\n").unwrap_or_default());
    let Ok(form) = RequestForm::of(endpoint, Some(&content_type)) else { return };
    let read = |body: &Bytes| {
        let defaults = RequestDefaults::default();
        PreparedRequest::read(&form, body, endpoint, Wishes::default(), &defaults)
    };
    let Ok(prepared) = read(&body) else { return };
    assert!(!prepared.model.is_empty() && prepared.completion_bound >= 0, "what was read makes sense");
    let again = read(&prepared.body);
    let again = again.map(|again| (again.model, again.body, again.completion_bound, again.stream));
    let basis = prepared.basis().summary().clone();
    let bound = basis.completion_bound();
    assert!(
        bound.is_some_and(|bound| bound <= prepared.completion_bound.into()),
        "what is reserved covers what is billed"
    );
    let once = (prepared.model, prepared.body, prepared.completion_bound, prepared.stream);
    assert_eq!(again, Ok(once.clone()), "what goes on needs no more preparing");
    let (model, body, _, stream) = once;
    let whole = pass(endpoint, &prepared.content_type, &body, body.len().max(1));
    assert_eq!(
        whole,
        pass(endpoint, &prepared.content_type, &body, 1),
        "it does not matter how bytes arrive"
    );
    let Ok((seen, passed, removed, streams, measured)) = whole else {
        panic!("a worker takes what a gateway forwards")
    };
    assert_eq!((seen, streams), (model.clone(), stream), "gateway and worker read the same");
    assert_eq!(measured, basis, "gateway and worker measure the same");
    if matches!(form, RequestForm::Multipart(_)) {
        assert_eq!(
            passed + removed,
            body.len(),
            "a form loses what follows the model's name, and nothing else"
        );
        assert_eq!(removed, model.len() - model.split('@').next().unwrap_or_default().len());
    }
}

/// What a worker reads and passes of a body in pieces of `size` bytes: model, bytes passed, bytes removed, stream, measures.
fn pass(
    endpoint: Endpoint,
    content_type: &str,
    body: &Bytes,
    size: usize,
) -> Result<(String, usize, usize, bool, RequestSummary), crate::RequestError> {
    let mut arriving = ArrivingBody::new(endpoint, Some(content_type))?;
    let mut passed = 0;
    for piece in body.chunks(size) {
        let out = arriving.push(Bytes::copy_from_slice(piece))?;
        assert!(out.is_empty() || arriving.model().is_some(), "nothing goes on before the model is known");
        passed += out.iter().map(Bytes::len).sum::<usize>();
    }
    passed += arriving.finish()?.iter().map(Bytes::len).sum::<usize>();
    let model = arriving.model().unwrap_or_default().to_owned();
    let (removed, stream) = (arriving.removed_bytes(), arriving.stream());
    Ok((model, passed, removed, stream, arriving.into_basis().summary().clone()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STARTS: [&str; 6] = [
        include_str!("../../../fuzz/corpus/request/chat"),
        include_str!("../../../fuzz/corpus/request/messages"),
        include_str!("../../../fuzz/corpus/request/responses"),
        include_str!("../../../fuzz/corpus/request/image_edits"),
        include_str!("../../../fuzz/corpus/request/transcriptions"),
        include_str!("../../../fuzz/corpus/request/transcriptions_out_of_order"),
    ];

    #[test]
    fn what_the_fuzzer_starts_from_holds() {
        for start in STARTS {
            request(start.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn what_is_near_a_request_holds(
            at in 0..STARTS.len(),
            cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
            insert in prop_oneof![Just("\r\n--B"), Just("@x"), Just("--"), Just("\""), Just("a")],
        ) {
            let mut data = STARTS[at].as_bytes().to_vec();
            for (from, to) in cuts {
                let (from, to) = (from.index(data.len()), to.index(data.len()));
                let piece = data[from.min(to)..from.max(to).min(from.min(to) + 40)].to_vec();
                data.splice(to..to, piece.into_iter().chain(insert.bytes()));
            }
            request(&data);
        }

        #[test]
        fn any_bytes_hold(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            request(&data);
        }
    }
}
