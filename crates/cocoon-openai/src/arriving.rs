//! A request as it arrives at a worker: from a gateway of ours, prepared; from a published one, not.

use bytes::{Bytes, BytesMut};

use crate::endpoint::{BodyForm, Endpoint};
use crate::form::{FormFields, PartKind};
use crate::multipart::{Boundary, FormEvent, FormScanner, FormWriter};
use crate::object::RawObject;
use crate::request::{RequestError, ask_for_usage, read_model, refuse_ambiguous, wants_stream};
use crate::summary::RequestBasis;

/// The body of a request on its way through a worker, in pieces as they arrive.
///
/// JSON is held until it is whole, since only then it can be read. A form goes on as it comes: its first part must be the
/// model's name, so nothing has gone to the engine before [`Self::model`] is known; what comes later and must not be (the
/// model again, a field that readers may read differently) ends the request in its middle.
#[derive(Debug)]
pub struct ArrivingBody(Form);

#[derive(Debug)]
enum Form {
    Json { endpoint: Endpoint, held: BytesMut, first: Bytes, read: Option<(String, bool)> },
    Multipart(Box<ArrivingForm>),
}

#[derive(Debug)]
struct ArrivingForm {
    scanner: FormScanner,
    writer: FormWriter,
    fields: FormFields,
    /// The head of the model's part, until its value is known.
    opening: Vec<Bytes>,
    parts: usize,
    removed: usize,
}

impl ArrivingBody {
    /// The body of a request with this `Content-Type`.
    ///
    /// # Errors
    /// [`RequestError`] where an endpoint that takes forms gets something else.
    pub fn new(endpoint: Endpoint, content_type: Option<&str>) -> Result<Self, RequestError> {
        if endpoint.form() == BodyForm::Json {
            let (held, first) = Default::default();
            return Ok(Self(Form::Json { endpoint, held, first, read: None }));
        }
        let boundary = Boundary::from_content_type(content_type.unwrap_or_default())?
            .ok_or_else(|| RequestError::form("The Content-Type is not multipart/form-data."))?;
        Ok(Self(Form::Multipart(Box::new(ArrivingForm {
            scanner: FormScanner::new(&boundary),
            writer: FormWriter::new(&boundary),
            fields: FormFields::new(endpoint),
            opening: Vec::new(),
            parts: 0,
            removed: 0,
        }))))
    }

    /// Takes a piece; what goes on to the engine now. The caller sees to a limit on all pieces together.
    ///
    /// # Errors
    /// [`RequestError`] where the request must not go on.
    pub fn push(&mut self, data: Bytes) -> Result<Vec<Bytes>, RequestError> {
        match &mut self.0 {
            Form::Json { held, first, .. } => {
                if first.is_empty() && held.is_empty() {
                    *first = data;
                } else {
                    if held.is_empty() {
                        held.extend_from_slice(&std::mem::take(first));
                    }
                    held.extend_from_slice(&data);
                }
                Ok(Vec::new())
            }
            Form::Multipart(form) => {
                form.fields.add_body_bytes(data.len());
                form.scanner.push(data);
                form.pass()
            }
        }
    }

    /// All has come; what goes on to the engine at last.
    ///
    /// # Errors
    /// [`RequestError`] where the request is not whole, or must not go on.
    pub fn finish(&mut self) -> Result<Vec<Bytes>, RequestError> {
        match &mut self.0 {
            Form::Json { endpoint, held, first, read } => {
                let body =
                    if held.is_empty() { std::mem::take(first) } else { std::mem::take(held).freeze() };
                // Kept as it came: gateway and worker measure by the same bytes.
                first.clone_from(&body);
                let ArrivingRequest { model, stream, body } = ArrivingRequest::parse(*endpoint, body)?;
                *read = Some((model, stream));
                Ok(vec![body])
            }
            Form::Multipart(form) => {
                form.scanner.finish();
                let rest = form.pass()?;
                form.fields.finish()?;
                Ok(rest)
            }
        }
    }

    /// The model that is asked for, as the caller wrote it; known before anything goes on.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        match &self.0 {
            Form::Json { read, .. } => read.as_ref().map(|(model, _)| model.as_str()),
            Form::Multipart(form) => form.fields.model(),
        }
    }

    /// Whether the answer is to be streamed as events; certain once all has come.
    #[must_use]
    pub fn stream(&self) -> bool {
        match &self.0 {
            Form::Json { read, .. } => read.as_ref().is_some_and(|(_, stream)| *stream),
            Form::Multipart(form) => form.fields.stream(),
        }
    }

    /// What the answer's price may rest on, once all has come.
    #[must_use]
    pub fn into_basis(self) -> RequestBasis {
        match self.0 {
            Form::Json { endpoint, first, .. } => RequestBasis::json(endpoint, first),
            Form::Multipart(form) => form.fields.into_summary().into(),
        }
    }

    /// Of a form: by how many bytes what goes on is shorter than what comes, because the model's name is bare there. Known
    /// with the model.
    #[must_use]
    pub fn removed_bytes(&self) -> usize {
        match &self.0 {
            Form::Json { .. } => 0,
            Form::Multipart(form) => form.removed,
        }
    }
}

impl ArrivingForm {
    fn pass(&mut self) -> Result<Vec<Bytes>, RequestError> {
        let mut out = Vec::new();
        while let Some(event) = self.scanner.next()? {
            let kind = self.fields.see(&event)?;
            if matches!(event, FormEvent::Head(_)) {
                self.parts += 1;
                if (kind == PartKind::Model) != (self.parts == 1) {
                    return Err(RequestError::form("The field 'model' must come first."));
                }
            }
            match (kind, event) {
                (PartKind::Model, event @ FormEvent::Head(_)) => self.writer.write(event, &mut self.opening),
                (PartKind::Model, FormEvent::Data(_)) => {}
                (PartKind::Model, FormEvent::PartEnd) => {
                    out.append(&mut self.opening);
                    let model = self.fields.model().unwrap_or_default();
                    let bare = model.split('@').next().unwrap_or_default();
                    self.removed = model.len() - bare.len();
                    out.push(Bytes::copy_from_slice(bare.as_bytes()));
                    self.writer.write(FormEvent::PartEnd, &mut out);
                }
                (_, event) => self.writer.write(event, &mut out),
            }
        }
        Ok(out)
    }
}

/// What a worker reads of a request before it asks its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrivingRequest {
    /// The model that was asked for, as the caller wrote it: `name` or `name@commit:hash`.
    pub model: String,
    /// Whether the answer is to be streamed as events.
    pub stream: bool,
    /// The body for the engine: as it came, except that the model's name is bare, because engines know no other, and that a
    /// stream always asks for usage, because tokens are paid by it.
    pub body: Bytes,
}

impl ArrivingRequest {
    /// Reads a JSON body.
    ///
    /// # Errors
    /// [`RequestError`] where it is not one JSON object with a model, or has a field that an engine might take for another
    /// one that was paid for.
    pub fn parse(endpoint: Endpoint, body: Bytes) -> Result<Self, RequestError> {
        let mut object = RawObject::parse(&body)?;
        refuse_ambiguous(endpoint, &object)?;
        let model = read_model(&object)?;
        let stream = wants_stream(endpoint, &object)?;
        let bare = model.split_once('@').map(|(bare, _)| serde_json::Value::from(bare).to_string());
        let asked = !(stream && endpoint.counts_on_demand()) || ask_for_usage(&mut object)?;
        if asked && bare.is_none() {
            return Ok(Self { model, stream, body });
        }
        if let Some(bare) = bare {
            object.set("model", bare);
        }
        let body = object.to_json().into();
        Ok(Self { model, stream, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_asks_for_usage_and_nothing_else_changes() {
        let plain = Bytes::from_static(br#"{"model":"m", "seed": 1e0}"#);
        assert_eq!(ArrivingRequest::parse(Endpoint::Chat, plain.clone()).unwrap().body, plain);
        let asked =
            Bytes::from_static(br#"{"model":"m","stream":true, "stream_options":{"include_usage":true}}"#);
        assert_eq!(ArrivingRequest::parse(Endpoint::Chat, asked.clone()).unwrap().body, asked);
        let unasked = Bytes::from_static(br#"{"model":"m","stream":true,"seed": 1e0}"#);
        let read = ArrivingRequest::parse(Endpoint::Chat, unasked).unwrap();
        assert!(read.stream);
        assert_eq!(
            read.body,
            br#"{"model":"m","stream":true,"seed":1e0,"stream_options":{"include_usage":true}}"#.as_slice()
        );
    }

    #[test]
    fn the_engine_is_asked_for_the_bare_model() {
        let read =
            ArrivingRequest::parse(Endpoint::Chat, Bytes::from_static(br#"{"n":1,"model":"a/b@c:d"}"#))
                .unwrap();
        assert_eq!(
            (read.model.as_str(), read.body.as_ref()),
            ("a/b@c:d", br#"{"n":1,"model":"a/b"}"#.as_slice())
        );
    }

    #[test]
    fn what_names_no_model_is_refused() {
        for body in ["", "[]", "{}", r#"{"model":7}"#, r#"{"model":"a","model":"b"}"#] {
            assert!(ArrivingRequest::parse(Endpoint::Chat, Bytes::from(body)).is_err(), "{body}");
        }
    }

    #[test]
    fn a_limit_in_capitals_that_was_not_paid_for_is_refused() {
        let body = Bytes::from_static(br#"{"model":"m","max_tokens":1,"Max_Tokens":100000}"#);
        assert_eq!(ArrivingRequest::parse(Endpoint::Chat, body).unwrap_err().code, "unknown_parameter");
    }

    fn form(parts: &[(&str, &str)]) -> String {
        let part = |(name, value): &(&str, &str)| {
            let file = if *name == "file" { "; filename=\"f\"" } else { "" };
            format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{value}\r\n")
        };
        format!("{}--B--\r\n", parts.iter().map(part).collect::<String>())
    }

    /// What goes on of a form that arrives in pieces of `size` bytes.
    fn pass(body: &str, size: usize) -> Result<(ArrivingBody, Vec<u8>), RequestError> {
        let mut arriving =
            ArrivingBody::new(Endpoint::Transcriptions, Some("multipart/form-data; boundary=B"))?;
        let mut out = Vec::new();
        for piece in body.as_bytes().chunks(size) {
            let passed = arriving.push(Bytes::copy_from_slice(piece))?;
            assert!(
                passed.is_empty() || arriving.model().is_some(),
                "nothing goes on before the model is known"
            );
            out.extend(passed);
        }
        out.extend(arriving.finish()?);
        Ok((arriving, out.concat()))
    }

    #[test]
    fn a_form_goes_on_as_it_comes_with_the_bare_model() {
        let body = form(&[("model", "a/b@c:d"), ("file", "sound\r\n"), ("stream", "true")]);
        let expected = form(&[("model", "a/b"), ("file", "sound\r\n"), ("stream", "true")]);
        for size in [1, 2, 7, 50, 10_000] {
            let (arriving, passed) = pass(&body, size).unwrap();
            assert_eq!(passed, expected.as_bytes(), "in pieces of {size}");
            assert_eq!((arriving.model(), arriving.stream()), (Some("a/b@c:d"), true));
            assert_eq!(arriving.removed_bytes(), body.len() - expected.len());
        }
        let bare = form(&[("model", "m"), ("file", "x")]);
        let (arriving, passed) = pass(&bare, 9).unwrap();
        assert_eq!((passed.as_slice(), arriving.removed_bytes()), (bare.as_bytes(), 0));
    }

    #[test]
    fn a_form_whose_model_comes_late_or_twice_is_refused() {
        let (model, file) = (("model", "m"), ("file", "x"));
        for parts in
            [&[file, model][..], &[model, file, model], &[model, file, ("Model", "n")], &[file], &[model]]
        {
            for size in [1, 10_000] {
                assert!(pass(&form(parts), size).is_err(), "{parts:?}");
            }
        }
        let cut = form(&[model, file]);
        assert!(pass(&cut[..cut.len() - 6], 20).is_err());
        assert!(ArrivingBody::new(Endpoint::Transcriptions, Some("application/json")).is_err());
    }

    #[test]
    fn json_is_held_until_it_is_whole() {
        let body = br#"{"model":"m@c","input":["x"]}"#;
        for size in [1, 5, 100] {
            let mut arriving = ArrivingBody::new(Endpoint::Embeddings, None).unwrap();
            for piece in body.chunks(size) {
                assert_eq!(arriving.push(Bytes::copy_from_slice(piece)), Ok(Vec::new()));
            }
            let whole = arriving.finish().unwrap();
            assert_eq!(whole.concat(), br#"{"model":"m","input":["x"]}"#);
            assert_eq!((arriving.model(), arriving.stream()), (Some("m@c"), false));
            let basis = arriving.into_basis();
            assert_eq!(
                *basis.summary(),
                *RequestBasis::json(Endpoint::Embeddings, Bytes::from_static(body)).summary()
            );
        }
    }
}
