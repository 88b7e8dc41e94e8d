//! Answers in one file, for where no network is: saved evidence can be judged again with the collateral of its day.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cocoon_attest::tdx::collateral::MAX_ANSWER_LEN;
use cocoon_attest::{Collateral, CollateralRequest, EvidenceKind, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::route::MAX_NAME_LEN;

/// Largest bundle that is read, bytes.
pub const MAX_BUNDLE_LEN: usize = 16 << 20;
/// Most answers in a bundle.
pub const MAX_BUNDLE_ITEMS: usize = 256;
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    gathered_at: UnixSeconds,
    items: Vec<Item>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    kind: EvidenceKind,
    name: String,
    base64: String,
}

impl Bundle {
    /// As a file.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let items = self.answers.iter().map(|(request, bytes)| Item {
            kind: request.kind,
            name: request.name.clone(),
            base64: STANDARD.encode(bytes),
        });
        let file = File { format: FORMAT.to_owned(), gathered_at: self.gathered_at, items: items.collect() };
        // Texts, numbers and unit variants always have a JSON form.
        let mut json = serde_json::to_vec_pretty(&file).unwrap_or_default();
        json.push(b'\n');
        json
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
            return wrong(format!("it has {} items, over the limit of {MAX_BUNDLE_ITEMS}", file.items.len()));
        }
        let mut answers = Collateral::none();
        for (index, Item { kind, name, base64 }) in file.items.into_iter().enumerate() {
            let bytes = match STANDARD.decode(base64) {
                Ok(bytes) if (1..=MAX_ANSWER_LEN).contains(&bytes.len()) && name.len() <= MAX_NAME_LEN => {
                    bytes
                }
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
        assert_eq!(Bundle::from_json(&bundle().to_json()), Ok(bundle()));
    }

    #[test]
    fn what_is_no_bundle_is_refused_with_the_reason() {
        let refused = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut json = serde_json::from_slice(&bundle().to_json()).unwrap();
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
