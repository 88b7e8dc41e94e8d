//! Answers in one file, for where no network is: saved evidence can be judged again with the collateral of its day.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cocoon_attest::tdx::collateral::MAX_ANSWER_LEN;
use cocoon_attest::{Collateral, CollateralRequest, EvidenceKind, UnixSeconds};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::route::MAX_NAME_LEN;

/// Largest bundle that is read or written, bytes. Those of 4,096 nodes with eight GPUs each, about 3 KiB an answer in
/// base64, take half of it.
pub const MAX_BUNDLE_LEN: usize = 256 << 20;
/// Most answers in a bundle. 4,096 nodes, the most that a gateway knows, have nine each of their own (the chip's
/// certificate, and the status of each GPU's) and share the rest.
pub const MAX_BUNDLE_ITEMS: usize = 65_536;
const FORMAT: &str = "cocoon collateral bundle 1";

/// Answers, with the time they were gathered. As a file it is JSON: `format`, `gathered_at` (seconds since 1970) and
/// `items` of `kind`, `name` and `base64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// When these answers were gathered.
    pub gathered_at: UnixSeconds,
    /// The answers.
    pub answers: Collateral,
}

/// Bytes that are no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a bundle of collateral: {0}")]
pub struct BundleError(String);

/// Answers that fit into no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no bundle of collateral can be made: {0}")]
pub struct BundleTooLarge(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    gathered_at: UnixSeconds,
    #[serde(deserialize_with = "few")]
    items: Vec<Item>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    kind: EvidenceKind,
    name: String,
    base64: String,
}

/// Reads one item more than there may be, and passes over the rest: what is kept is bounded, and the count is judged after.
fn few<'de, D: Deserializer<'de>>(items: D) -> Result<Vec<Item>, D::Error> {
    struct Few;

    impl<'de> Visitor<'de> for Few {
        type Value = Vec<Item>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of answers")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while items.len() <= MAX_BUNDLE_ITEMS
                && let Some(item) = list.next_element()?
            {
                items.push(item);
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(items)
        }
    }

    items.deserialize_seq(Few)
}

/// Whether an answer may be in a bundle.
fn fits(name: &str, answer: &[u8]) -> bool {
    (1..=MAX_ANSWER_LEN).contains(&answer.len()) && name.len() <= MAX_NAME_LEN
}

impl Bundle {
    /// As a file.
    ///
    /// # Errors
    /// It would be more than [`from_json`](Self::from_json) reads.
    pub fn to_json(&self) -> Result<Vec<u8>, BundleTooLarge> {
        let wrong = |reason: String| Err(BundleTooLarge(reason));
        let count = self.answers.iter().count();
        if count > MAX_BUNDLE_ITEMS {
            return wrong(format!("there are {count} answers, over the limit of {MAX_BUNDLE_ITEMS}"));
        }
        if let Some((request, _)) = self.answers.iter().find(|(request, answer)| !fits(&request.name, answer))
        {
            return wrong(format!("the answer to {} is empty or too long", request.name));
        }
        // Base64 takes four bytes for three: what is too much by itself is not put together first.
        let bytes = self.answers.iter().map(|(_, answer)| answer.len()).fold(0, usize::saturating_add);
        if bytes > MAX_BUNDLE_LEN / 4 * 3 {
            return wrong(format!("it would have over {MAX_BUNDLE_LEN} bytes, which is the limit"));
        }
        let items = self.answers.iter().map(|(request, bytes)| Item {
            kind: request.kind,
            name: request.name.clone(),
            base64: STANDARD.encode(bytes),
        });
        let file = File { format: FORMAT.to_owned(), gathered_at: self.gathered_at, items: items.collect() };
        // Texts, numbers and unit variants always have a JSON form.
        let mut json = serde_json::to_vec_pretty(&file).unwrap_or_default();
        json.push(b'\n');
        if json.len() > MAX_BUNDLE_LEN {
            return wrong(format!("it would have {} bytes, over the limit of {MAX_BUNDLE_LEN}", json.len()));
        }
        Ok(json)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It is too long, has too much in it, or is no bundle of this version.
    pub fn from_json(json: &[u8]) -> Result<Self, BundleError> {
        let wrong = |reason: String| Err(BundleError(reason));
        if json.len() > MAX_BUNDLE_LEN {
            return wrong(format!("it has {} bytes, over the limit of {MAX_BUNDLE_LEN}", json.len()));
        }
        let file: File = match serde_json::from_slice(json) {
            Ok(file) => file,
            Err(error) => {
                return wrong(format!("line {}: not the JSON expected", error.line()));
            }
        };
        if file.format != FORMAT {
            return wrong(format!("its format is not {FORMAT:?}"));
        }
        if file.items.len() > MAX_BUNDLE_ITEMS {
            return wrong(format!("it has more items than the limit of {MAX_BUNDLE_ITEMS}"));
        }
        let mut answers = Collateral::none();
        for (index, Item { kind, name, base64 }) in file.items.into_iter().enumerate() {
            let bytes = match STANDARD.decode(base64) {
                Ok(bytes) if fits(&name, &bytes) => bytes,
                Ok(_) => return wrong(format!("item {index} is empty or too long")),
                Err(_) => return wrong(format!("item {index} is not base64")),
            };
            answers.insert(CollateralRequest { kind, name }, Bytes::from(bytes));
        }
        Ok(Self { gathered_at: file.gathered_at, answers })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bundle() -> Bundle {
        let mut answers = Collateral::none();
        for (kind, name) in
            [(EvidenceKind::Tdx, "sgx/certification/v4/rootcacrl"), (EvidenceKind::SevSnp, "b")]
        {
            answers.insert(CollateralRequest { kind, name: name.to_owned() }, Bytes::from_static(&[0, 255]));
        }
        Bundle { gathered_at: UnixSeconds(7), answers }
    }

    #[test]
    fn a_bundle_survives_its_file() {
        assert_eq!(Bundle::from_json(&bundle().to_json().unwrap()), Ok(bundle()));
    }

    fn of(count: usize, answer: &Bytes) -> Bundle {
        let mut answers = Collateral::none();
        for number in 0..count {
            let name = format!("vcek/v1/{number}");
            answers.insert(CollateralRequest { kind: EvidenceKind::SevSnp, name }, answer.clone());
        }
        Bundle { gathered_at: UnixSeconds(7), answers }
    }

    #[test]
    fn what_is_written_can_be_read_and_what_could_not_be_read_is_not_written() {
        let largest = of(MAX_BUNDLE_ITEMS, &Bytes::from_static(b"1"));
        assert_eq!(Bundle::from_json(&largest.to_json().unwrap()), Ok(largest));
        let refused = |bundle: Bundle| bundle.to_json().unwrap_err().to_string();
        assert!(refused(of(MAX_BUNDLE_ITEMS + 1, &Bytes::from_static(b"1"))).contains("65536"));
        assert!(refused(of(1, &Bytes::new())).contains("empty"));
        assert!(refused(of(1, &vec![0; MAX_ANSWER_LEN + 1].into())).contains("too long"));
        assert!(refused(of(300, &vec![0; MAX_ANSWER_LEN].into())).contains("limit"));
    }

    #[test]
    fn what_is_no_bundle_is_refused_with_the_reason() {
        let refused = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut json = serde_json::from_slice(&bundle().to_json().unwrap()).unwrap();
            change(&mut json);
            Bundle::from_json(&serde_json::to_vec(&json).unwrap()).unwrap_err().to_string()
        };
        assert!(refused(&|json| json["format"] = "other".into()).contains("format"));
        assert!(refused(&|json| json["items"][0]["base64"] = "!".into()).contains("base64"));
        assert!(refused(&|json| json["items"][0]["base64"] = "".into()).contains("empty"));
        assert!(refused(&|json| json["items"][0]["kind"] = "moon".into()).contains("JSON"));
        let too_long = STANDARD.encode(vec![0; MAX_ANSWER_LEN + 1]);
        assert!(refused(&|json| json["items"][0]["base64"] = too_long.clone().into()).contains("too long"));
        let many = |json: &mut serde_json::Value| {
            let item = json["items"][0].clone();
            json["items"] = vec![item; MAX_BUNDLE_ITEMS + 1].into();
        };
        assert!(refused(&many).contains("items"));
        assert!(Bundle::from_json(b"").is_err());
        assert!(Bundle::from_json(&vec![b' '; MAX_BUNDLE_LEN + 1]).unwrap_err().0.contains("limit"));
    }
}
