//! A request that is a form: read as a whole, and put into the order in which it goes on.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::{PreparedRequest, Read, RequestDefaults, RequestError, Wishes};
use crate::endpoint::Endpoint;
use crate::form::{FormFields, PartKind};
use crate::multipart::{Boundary, FormEvent, FormScanner, FormWriter};

impl PreparedRequest {
    /// Reads a request whose body is a form. What goes on has the model's name first, so that a worker can check it before
    /// the rest arrives, and no wishes; every other part keeps its bytes and its place.
    ///
    /// # Errors
    /// [`RequestError`] where the form is one that readers may read differently, where a field that matters here is missing,
    /// comes twice or makes no sense, or where one differs from such a field in nothing but the case of its letters.
    pub fn from_form(
        body: &Bytes,
        boundary: &Boundary,
        endpoint: Endpoint,
        headers: Wishes,
        defaults: &RequestDefaults,
    ) -> Result<Self, RequestError> {
        let mut scanner = FormScanner::new(boundary);
        scanner.push(body.clone());
        scanner.finish();
        let writer = FormWriter::new(boundary);
        let mut fields = FormFields::new(endpoint);
        let (mut model, mut others): (Vec<Bytes>, Vec<Bytes>) = Default::default();
        let mut parts = 0_usize;
        let mut in_order = true;
        while let Some(event) = scanner.next()? {
            let kind = fields.see(&event)?;
            if matches!(event, FormEvent::Head(_)) {
                in_order &= match kind {
                    PartKind::Model => parts == 0,
                    PartKind::Wish(_) => false,
                    _ => true,
                };
                parts += 1;
            }
            match kind {
                // The end of all comes after the last part, whatever that was.
                _ if matches!(event, FormEvent::End(_)) => writer.write(event, &mut others),
                PartKind::Model => writer.write(event, &mut model),
                PartKind::Wish(_) => {}
                PartKind::Read(_) | PartKind::Passed => writer.write(event, &mut others),
            }
        }
        let wishes = fields.finish()?.and(headers);
        let limit = fields.limit()?;
        let stream = fields.stream();
        let model_name = fields.model().unwrap_or_default().to_owned();
        let forwarded = if in_order {
            body.clone()
        } else {
            let mut joined = BytesMut::with_capacity(body.len());
            model.iter().chain(&others).for_each(|piece| joined.extend_from_slice(piece));
            joined.freeze()
        };
        fields.add_body_bytes(forwarded.len());
        let read = Read {
            endpoint,
            model: model_name,
            stream,
            caller_wants_usage: false,
            limit,
            needs: endpoint.ability(),
            summary: Some(fields.into_summary()),
        };
        Ok(read.with(wishes, defaults, Cow::Owned(boundary.content_type()), forwarded))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn boundary() -> Boundary {
        Boundary::from_content_type("multipart/form-data; boundary=B").unwrap().unwrap()
    }

    /// A part; a value that begins with `@` is that of a file.
    fn part(name: &str, value: &str) -> String {
        let (file, value) = value.strip_prefix('@').map_or(("", value), |value| ("; filename=\"f\"", value));
        format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{value}\r\n")
    }

    fn form(parts: &[(&str, &str)]) -> String {
        let parts: String = parts.iter().map(|(name, value)| part(name, value)).collect();
        format!("{parts}--B--\r\n")
    }

    fn read(endpoint: Endpoint, parts: &[(&str, &str)]) -> Result<PreparedRequest, RequestError> {
        let body = Bytes::from(form(parts));
        PreparedRequest::from_form(
            &body,
            &boundary(),
            endpoint,
            Wishes::default(),
            &RequestDefaults::default(),
        )
    }

    #[test]
    fn the_model_comes_first_and_all_else_keeps_its_bytes_and_place() {
        let request = read(
            Endpoint::Transcriptions,
            &[("file", "@sound\r\n\r\n"), ("language", "en"), ("model", "m@c:h"), ("x[]", "1"), ("x[]", "2")],
        )
        .unwrap();
        let expected =
            [("model", "m@c:h"), ("file", "@sound\r\n\r\n"), ("language", "en"), ("x[]", "1"), ("x[]", "2")];
        assert_eq!(request.body, form(&expected));
        assert_eq!((request.model.as_str(), request.stream), ("m@c:h", false));
        assert_eq!(request.content_type, "multipart/form-data; boundary=B");
        assert_eq!(request.needs, Endpoint::Transcriptions.ability());
        // What is in order already is the very same bytes.
        let again = Bytes::from(form(&expected));
        let same = PreparedRequest::from_form(
            &again,
            &boundary(),
            Endpoint::Transcriptions,
            Wishes::default(),
            &RequestDefaults::default(),
        )
        .unwrap();
        assert_eq!(same.body.as_ptr(), again.as_ptr());
    }

    #[test]
    fn wishes_are_taken_out_of_a_form_too() {
        let request = read(
            Endpoint::Transcriptions,
            &[("timeout", "2"), ("model", "m"), ("max_price", "7"), ("file", "@x"), ("stream", "True")],
        )
        .unwrap();
        assert_eq!((request.timeout, request.max_price), (Duration::from_secs(2), Some(7)));
        assert!(request.stream);
        assert_eq!(request.body, form(&[("model", "m"), ("file", "@x"), ("stream", "True")]));
    }

    #[test]
    fn a_wish_at_the_very_end_leaves_the_end_of_the_form() {
        let request =
            read(Endpoint::Transcriptions, &[("model", "m"), ("file", "@x"), ("timeout", "2")]).unwrap();
        assert_eq!(request.body, form(&[("model", "m"), ("file", "@x")]));
    }

    #[test]
    fn what_is_missing_or_ambiguous_in_a_form_is_refused_by_name() {
        let sound = ("file", "@x");
        let model = ("model", "m");
        for (endpoint, parts, param, code) in [
            (Endpoint::Transcriptions, &[sound][..], "model", "missing_required_parameter"),
            (Endpoint::Translations, &[model], "file", "missing_required_parameter"),
            (Endpoint::ImageEdits, &[model, ("prompt", "x")], "image", "missing_required_parameter"),
            (Endpoint::ImageEdits, &[model, ("image[]", "@x")], "prompt", "missing_required_parameter"),
            (Endpoint::ImageVariations, &[model], "image", "missing_required_parameter"),
            (Endpoint::Transcriptions, &[sound, model, model], "model", "duplicate_parameter"),
            (Endpoint::Transcriptions, &[sound, sound, model], "file", "duplicate_parameter"),
            (
                Endpoint::Transcriptions,
                &[sound, model, ("timeout", "1"), ("timeout", "1")],
                "timeout",
                "duplicate_parameter",
            ),
            (Endpoint::Transcriptions, &[sound, model, ("Stream", "true")], "Stream", "unknown_parameter"),
            (Endpoint::Transcriptions, &[sound, ("MODEL", "m")], "MODEL", "unknown_parameter"),
            (Endpoint::Transcriptions, &[sound, ("model", "")], "model", "invalid_value"),
            (Endpoint::Transcriptions, &[sound, model, ("stream", "yes")], "stream", "invalid_type"),
            (Endpoint::ImageVariations, &[model, ("image", "@x"), ("n", "0")], "n", "invalid_value"),
            (Endpoint::ImageVariations, &[model, ("image", "@x"), ("size", "big")], "size", "invalid_value"),
        ] {
            let error = read(endpoint, parts).unwrap_err();
            assert_eq!((error.param.as_deref(), error.code), (Some(param), code), "{error}");
        }
        for parts in [
            &[("model", "@m"), sound][..],
            &[model, ("file", "no file")],
            &[("model", &"m".repeat(crate::form::MAX_FORM_FIELD_BYTES + 1)), sound],
        ] {
            assert_eq!(read(Endpoint::Transcriptions, parts).unwrap_err().code, "invalid_multipart");
        }
    }

    #[test]
    fn a_forms_answer_is_bounded_by_its_rule() {
        let bound = |endpoint, parts: &[(&str, &str)]| read(endpoint, parts).unwrap().completion_bound;
        let sound = format!("@{}", "x".repeat(6400));
        assert_eq!(bound(Endpoint::Transcriptions, &[("model", "m"), ("file", &sound)]), 4096 + 100);
        let images = [("model", "m"), ("image", "@x"), ("image", "@y"), ("prompt", "p")];
        assert_eq!(bound(Endpoint::ImageEdits, &images), 4096);
        let small = [&images[..], &[("n", "3"), ("size", "256x256")]].concat();
        assert_eq!(bound(Endpoint::ImageEdits, &small), 3 * 256);
    }
}
