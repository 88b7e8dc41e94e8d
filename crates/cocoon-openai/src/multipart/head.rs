//! The head of a part of a form.

use bytes::Bytes;

use crate::request::RequestError;

/// Longest name of a field, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// The head of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartHead {
    /// The header lines as they came, each with its end.
    pub(crate) raw: Bytes,
    /// The field's name.
    pub(crate) name: String,
    /// Whether it is called a file.
    pub(crate) is_file: bool,
    /// Whether its type says that it is text in UTF-8, or nothing.
    pub(crate) is_plain: bool,
}

impl PartHead {
    /// Reads header lines, each with its end.
    pub(super) fn parse(raw: Bytes) -> Result<Self, RequestError> {
        let text = std::str::from_utf8(&raw)
            .map_err(|_| RequestError::form("The head of a part is not valid UTF-8."))?;
        let mut disposition = None;
        let mut plain = None;
        for line in text.strip_suffix("\r\n").unwrap_or(text).split("\r\n") {
            if line.starts_with([' ', '\t'])
                || line.contains(|letter: char| letter.is_control() && letter != '\t')
            {
                return Err(RequestError::form(
                    "A header of a part goes over several lines or contains control characters.",
                ));
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| RequestError::form("A header of a part has no ':'."))?;
            let value = value.trim_matches([' ', '\t']);
            if name.is_empty() || !name.bytes().all(is_token) {
                return Err(RequestError::form("The name of a part's header is malformed."));
            }
            match name.to_ascii_lowercase().as_str() {
                "content-disposition" if disposition.is_some() => return Err(twice("Content-Disposition")),
                "content-disposition" => disposition = Some(Disposition::parse(value)?),
                "content-type" if plain.is_some() => return Err(twice("Content-Type")),
                "content-type" => plain = Some(is_plain_text(value)),
                "content-transfer-encoding"
                    if !["binary", "8bit", "7bit"].iter().any(|known| value.eq_ignore_ascii_case(known)) =>
                {
                    return Err(RequestError::form(
                        "A part has a transfer encoding; send its bytes as they are.",
                    ));
                }
                _ => {}
            }
        }
        let Disposition { name, is_file } =
            disposition.ok_or_else(|| RequestError::form("A part has no Content-Disposition."))?;
        Ok(Self { raw, name, is_file, is_plain: plain.unwrap_or(true) })
    }
}

struct Disposition {
    name: String,
    is_file: bool,
}

impl Disposition {
    fn parse(value: &str) -> Result<Self, RequestError> {
        let malformed = || {
            RequestError::form(
                "The Content-Disposition of a part can't be read; it should be 'form-data; name=\"...\"'.",
            )
        };
        let (kind, rest) = value.split_once(';').ok_or_else(malformed)?;
        if !kind.trim_matches([' ', '\t']).eq_ignore_ascii_case("form-data") {
            return Err(malformed());
        }
        let (mut name, mut file, mut extended) = (None, None, None);
        for parameter in Parameters::new(rest) {
            let (key, value) = parameter.ok_or_else(malformed)?;
            let slot = match key.to_ascii_lowercase().as_str() {
                "name" => &mut name,
                "filename" => &mut file,
                // A second spelling of a file's name (RFC 5987), which some clients send beside the first.
                "filename*" => &mut extended,
                _ => return Err(malformed()),
            };
            if slot.replace(value).is_some() {
                return Err(malformed());
            }
        }
        let name = name.ok_or_else(malformed)?;
        // Browsers write a quote as %22; readers decode it or not, so such a name has no fixed meaning.
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('%') || name == "_charset_" {
            return Err(RequestError::form(
                "The name of a field is empty, too long, or has a special meaning.",
            ));
        }
        Ok(Self { name: name.to_owned(), is_file: file.is_some() || extended.is_some() })
    }
}

/// `name=value` and `name="value"`, parted by `;`; `None` for what cannot be read, and nothing after it. A backslash
/// before a quote is refused: readers disagree whether the value goes on.
pub(super) struct Parameters<'a> {
    rest: &'a str,
    ended: bool,
}

impl<'a> Parameters<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let rest = text.trim_matches([' ', '\t']);
        Self { rest, ended: rest.is_empty() }
    }

    fn read(&mut self) -> Option<(&'a str, &'a str)> {
        let (name, rest) = self.rest.split_once('=')?;
        let name = name.trim_start_matches([' ', '\t']);
        if name.is_empty() || !name.bytes().all(is_token) {
            return None;
        }
        let (value, rest) = if let Some(quoted) = rest.strip_prefix('"') {
            let (value, rest) = quoted.split_once('"')?;
            if value.ends_with('\\') || value.contains(char::is_control) {
                return None;
            }
            (value, rest)
        } else {
            let end = rest.find(';').unwrap_or(rest.len());
            let (value, rest) = rest.split_at(end);
            let value = value.trim_end_matches([' ', '\t']);
            // As a token, but with what boundaries and extended names may hold.
            let known = |byte: u8| is_token(byte) || b"/:=?(),".contains(&byte);
            if value.is_empty() || !value.bytes().all(known) {
                return None;
            }
            (value, rest)
        };
        let rest = rest.trim_start_matches([' ', '\t']);
        match rest.strip_prefix(';') {
            Some(more) => self.rest = more,
            None if rest.is_empty() => self.ended = true,
            None => return None,
        }
        Some((name, value))
    }
}

impl<'a> Iterator for Parameters<'a> {
    type Item = Option<(&'a str, &'a str)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let read = self.read();
        self.ended |= read.is_none();
        Some(read)
    }
}

/// A letter of a token (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Text whose encoding, where it is named, is UTF-8.
fn is_plain_text(value: &str) -> bool {
    let (media, rest) = value.split_once(';').unwrap_or((value, ""));
    media.trim().eq_ignore_ascii_case("text/plain")
        && Parameters::new(rest).all(|parameter| {
            parameter.is_some_and(|(name, value)| {
                !name.eq_ignore_ascii_case("charset")
                    || value.eq_ignore_ascii_case("utf-8")
                    || value.eq_ignore_ascii_case("us-ascii")
            })
        })
}

fn twice(header: &str) -> RequestError {
    RequestError::form(format!("A part has two headers '{header}'."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn head(lines: &str) -> Result<PartHead, RequestError> {
        PartHead::parse(Bytes::copy_from_slice(lines.as_bytes()))
    }

    #[test]
    fn what_clients_send_is_read() {
        for (lines, name, is_file, is_plain) in [
            ("Content-Disposition: form-data; name=\"model\"\r\n", "model", false, true),
            ("content-disposition:form-data;name=model\r\n", "model", false, true),
            (
                "Content-Disposition: form-data; name=\"file\"; filename=\"a b.wav\"\r\nContent-Type: audio/wav\r\n",
                "file",
                true,
                false,
            ),
            (
                "Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=n; filename*=utf-8''a%20b\r\n",
                "n",
                true,
                true,
            ),
            (
                "Content-Disposition: form-data; name=\"image[]\"; filename=\"C:\\\\dir\\\\x.png\"\r\n",
                "image[]",
                true,
                true,
            ),
            (
                "Content-Disposition: form-data; name=\"\u{e9}\"\r\nContent-Length: 7\r\n",
                "\u{e9}",
                false,
                true,
            ),
        ] {
            let read = head(lines).unwrap();
            assert_eq!(
                (read.name.as_str(), read.is_file, read.is_plain),
                (name, is_file, is_plain),
                "{lines}"
            );
            assert_eq!(read.raw, lines);
        }
        assert!(
            !head("Content-Disposition: form-data; name=a\r\nContent-Type: text/plain; charset=utf-16\r\n")
                .unwrap()
                .is_plain
        );
    }

    #[test]
    fn what_readers_may_read_differently_is_refused() {
        for lines in [
            "\r\n",
            "Content-Type: text/plain\r\n",
            "Content-Disposition: form-data\r\n",
            "Content-Disposition: form-data; name\r\n",
            "Content-Disposition: form-data; name=\"\"\r\n",
            "Content-Disposition: attachment; name=\"a\"\r\n",
            "Content-Disposition: form-data; name=\"a\"; name=\"b\"\r\n",
            "Content-Disposition: form-data; name=\"a\"; NAME=\"b\"\r\n",
            "Content-Disposition: form-data; name*=utf-8''model; name=\"a\"\r\n",
            "Content-Disposition: form-data; name=\"a\\\"; x=\"b\"\r\n",
            "Content-Disposition: form-data; name=\"x\"; filename=\"a\\\"; name=\\\"model\"\r\n",
            "Content-Disposition: form-data; name=\"mo%64el\"\r\n",
            "Content-Disposition: form-data; name=\"_charset_\"\r\n",
            "Content-Disposition: form-data; name=\"a\" x\r\n",
            "Content-Disposition: form-data; name=\"a\";\r\n",
            "Content-Disposition: form-data; name=a b\r\n",
            "Content-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"b\"\r\n",
            "Content-Disposition: form-data;\r\n name=\"a\"\r\n",
            "Content-Disposition: form-data; name=\"a\"\nX: y\r\n",
            "Content-Disposition: form-data; name=\"a\0\"\r\n",
            "Content-Disposition : form-data; name=\"a\"\r\n",
            "no colon\r\nContent-Disposition: form-data; name=\"a\"\r\n",
            "Content-Disposition: form-data; name=\"a\"\r\nContent-Transfer-Encoding: base64\r\n",
            "Content-Disposition: form-data; name=\"a\"\r\nContent-Type: a/b\r\nContent-Type: a/b\r\n",
        ] {
            assert!(head(lines).is_err(), "{lines:?}");
        }
        assert!(
            PartHead::parse(Bytes::from_static(b"Content-Disposition: form-data; name=\"\xff\"\r\n"))
                .is_err()
        );
    }
}
