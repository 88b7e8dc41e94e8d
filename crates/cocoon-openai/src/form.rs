//! The fields of a form that matter here: which model, how much work, what is wished. The same reading at the gateway,
//! which has the whole form, and at the worker, which sees it pass.

use crate::endpoint::Endpoint;
use crate::multipart::{FormEvent, PartHead};
use crate::request::{Limit, RequestError, Wish, Wishes, image_size, lookalike, read_whole};
use crate::summary::RequestSummary;

/// Longest value of a field that matters, in bytes.
pub const MAX_FORM_FIELD_BYTES: usize = 4096;
/// Longest prompt in a form, in bytes.
pub const MAX_FORM_PROMPT_BYTES: usize = 256 << 10;

/// Fields of which several may be sent.
const REPEATABLE: [&str; 2] = ["image", "image[]"];
/// Fields that are files.
const FILES: [&str; 4] = ["file", "image", "image[]", "mask"];

/// What a part is to whoever passes the form on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartKind {
    /// The model's name.
    Model,
    /// A wish, which ends at the gateway.
    Wish(Wish),
    /// A field whose value is read here.
    Read(&'static str),
    /// Any other field or file.
    Passed,
}

/// The fields so far.
#[derive(Debug)]
pub(crate) struct FormFields {
    endpoint: Endpoint,
    current: PartKind,
    is_file: bool,
    value: Vec<u8>,
    /// Names that must not come again.
    seen: Vec<String>,
    model: Option<String>,
    stream: bool,
    wishes: Wishes,
    summary: RequestSummary,
}

impl FormFields {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            current: PartKind::Passed,
            is_file: false,
            value: Vec::new(),
            seen: Vec::new(),
            model: None,
            stream: false,
            wishes: Wishes::default(),
            summary: RequestSummary::new(endpoint),
        }
    }

    /// Looks at what comes; what the part is that it belongs to.
    pub(crate) fn see(&mut self, event: &FormEvent) -> Result<PartKind, RequestError> {
        match event {
            FormEvent::Head(head) => self.begin(head)?,
            FormEvent::Data(data) if self.current == PartKind::Passed => {
                if self.is_file {
                    self.summary.add_file_bytes(data.len() as u64);
                }
            }
            FormEvent::Data(data) => {
                let limit = match self.current {
                    PartKind::Read("prompt") => MAX_FORM_PROMPT_BYTES,
                    _ => MAX_FORM_FIELD_BYTES,
                };
                if self.value.len() + data.len() > limit {
                    let name = self.seen.last().map_or("", String::as_str);
                    let message = format!("The field '{name}' has more than {limit} bytes.");
                    return Err(RequestError::form(message));
                }
                self.value.extend_from_slice(data);
            }
            FormEvent::PartEnd => self.end()?,
            FormEvent::End(_) => {}
        }
        Ok(self.current)
    }

    fn begin(&mut self, head: &PartHead) -> Result<(), RequestError> {
        let name = head.name.as_str();
        let binding = self.endpoint.binding();
        let wish = Wish::of_field(name);
        if let Some(meant) = lookalike(name, binding) {
            return Err(RequestError::lookalike(name, meant));
        }
        let known = binding.iter().copied().find(|field| *field == name);
        self.current = match (known, wish) {
            (Some("model"), _) => PartKind::Model,
            (_, Some(wish)) => PartKind::Wish(wish),
            (Some(field), None) if !FILES.contains(&field) => PartKind::Read(field),
            _ => PartKind::Passed,
        };
        self.is_file = head.is_file;
        if (known.is_some() || wish.is_some()) && !REPEATABLE.contains(&name) {
            if self.seen.iter().any(|seen| seen == name) {
                return Err(RequestError::duplicate(name.to_owned()));
            }
            self.seen.push(name.to_owned());
        } else if known.is_some() && !self.has(name) {
            self.seen.push(name.to_owned());
        }
        if self.current == PartKind::Passed {
            if known.is_some() && !head.is_file {
                return Err(RequestError::form(format!(
                    "The field '{name}' must be a file, with a file name."
                )));
            }
            return Ok(());
        }
        self.value.clear();
        if head.is_file || !head.is_plain {
            return Err(RequestError::form(format!("The field '{name}' must be plain text, not a file.")));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), RequestError> {
        if self.current == PartKind::Passed {
            return Ok(());
        }
        let value = std::mem::take(&mut self.value);
        let text = std::str::from_utf8(&value).map_err(|_| {
            let name = self.seen.last().map_or("", String::as_str);
            RequestError::form(format!("The field '{name}' is not valid UTF-8."))
        })?;
        let positive = |field| {
            read_whole(text)
                .filter(|number| *number > 0)
                .map(drop)
                .ok_or_else(|| RequestError::wrong_value(field, "a positive integer"))
        };
        match self.current {
            PartKind::Model if text.is_empty() || text.contains(char::is_control) => {
                return Err(RequestError::wrong_value("model", "the name of a model"));
            }
            PartKind::Model => self.model = Some(text.to_owned()),
            PartKind::Wish(wish) => self.wishes.set_field(wish, text)?,
            PartKind::Read("stream") => {
                // The spellings that readers of forms take for the one or the other.
                self.stream = match text {
                    "true" | "True" | "TRUE" | "1" => true,
                    "false" | "False" | "FALSE" | "0" => false,
                    _ => return Err(RequestError::wrong_type("stream", "'true' or 'false'")),
                };
            }
            PartKind::Read(field @ ("n" | "width" | "height")) => positive(field)?,
            PartKind::Read("size") => drop(image_size(text)?),
            PartKind::Read(_) | PartKind::Passed => {}
        }
        if let PartKind::Read(field) = self.current {
            self.summary.add_field(field, text.as_bytes());
        }
        Ok(())
    }

    /// More bytes of the whole form, as it goes from gateway to worker.
    pub(crate) fn add_body_bytes(&mut self, bytes: usize) {
        self.summary.add_body_bytes(bytes as u64);
    }

    /// What the answer's price may rest on, once all has been seen.
    pub(crate) fn into_summary(self) -> RequestSummary {
        self.summary
    }

    /// Whether a field that matters has come.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.seen.iter().any(|seen| seen == name)
    }

    pub(crate) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    pub(crate) fn stream(&self) -> bool {
        self.stream
    }

    /// The limit on the answer, once all has been seen.
    pub(crate) fn limit(&self) -> Result<Limit, RequestError> {
        let all = self.summary.completion_bound().and_then(|all| i32::try_from(all).ok());
        let all = all.ok_or_else(|| RequestError::wrong_value("n", "fewer or smaller images"))?;
        Ok(Limit { each: 0, all })
    }

    /// The form is over; checks that nothing is missing, and hands out what was wished.
    pub(crate) fn finish(&mut self) -> Result<Wishes, RequestError> {
        let needed: &[&[&'static str]] = match self.endpoint {
            Endpoint::Transcriptions | Endpoint::Translations => &[&["model"], &["file"]],
            Endpoint::ImageEdits => &[&["model"], &["image", "image[]"], &["prompt"]],
            Endpoint::ImageVariations => &[&["model"], &["image", "image[]"]],
            _ => &[&["model"]],
        };
        for names in needed {
            if !names.iter().any(|name| self.has(name)) {
                return Err(RequestError::missing(names[0]));
            }
        }
        Ok(std::mem::take(&mut self.wishes))
    }
}
