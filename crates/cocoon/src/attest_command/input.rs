//! Evidence from wherever people have it: a node's port, a gateway, a file.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cocoon_attest::{Evidence, EvidenceKind, PeerCertificate, Policy, VerifierSet};
use cocoon_net::{Clock as _, DialOptions, NodeIdentity, NodeKey, SystemClock, TlsSettings, dial};
use http::Method;
use serde_json::Value;

use crate::cli::PeerKind;
use crate::gateway_client::{self, GatewayClient};

/// Longest file, bytes: what a gateway tells of some hundred nodes.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Most values in a JSON text, by the marks between them. A node has some hundreds.
const MAX_JSON_MARKS: usize = 2_000_000;
/// Most nodes in one answer of a gateway.
const MAX_NODES: usize = 4096;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// There is nothing to be judged.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoEvidence(String);

/// Evidence that was found.
pub(super) struct Found {
    /// Whose, in words.
    pub(super) name: String,
    /// By what it claims to be, where that is known.
    pub(super) role: Option<PeerKind>,
    /// The evidence.
    pub(super) what: What,
}

/// In which form.
pub(super) enum What {
    /// In a node's certificate.
    Certificate(Box<PeerCertificate>),
    /// By itself.
    Bare(Evidence),
}

impl Found {
    /// The evidence.
    pub(super) fn evidence(&self) -> &Evidence {
        match &self.what {
            What::Certificate(certificate) => certificate.evidence(),
            What::Bare(evidence) => evidence,
        }
    }
}

/// Everything that `source` stands for; at least one.
///
/// # Errors
/// Whatever stands in the way is told as the reason why there is nothing to be judged.
pub(super) async fn read(source: &str, api_key_file: Option<&Path>) -> Result<Vec<Found>, NoEvidence> {
    find(source, api_key_file).await.map_err(|error| NoEvidence(format!("{error:#}")))
}

async fn find(source: &str, api_key_file: Option<&Path>) -> anyhow::Result<Vec<Found>> {
    let found = if source == "-" {
        from_reader(std::io::stdin().lock()).context("standard input")?
    } else if source.starts_with("http://") || source.starts_with("https://") {
        from_gateway(source, api_key_file).await?
    } else if Path::new(source).exists() {
        let file = std::fs::File::open(source).with_context(|| format!("cannot read {source}"))?;
        from_reader(file).with_context(|| source.to_owned())?
    } else if source.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        vec![from_node(source).await?]
    } else {
        return Err(NoEvidence(format!("{source} is neither a file nor HOST:PORT")).into());
    };
    if found.is_empty() {
        return Err(NoEvidence("there is no node in it".to_owned()).into());
    }
    Ok(found)
}

/// A node's certificate, as it shows it to everybody who connects.
async fn from_node(address: &str) -> anyhow::Result<Found> {
    let source = cocoon_tee::open("none")?;
    let identity = NodeIdentity::new(NodeKey::generate(), source, SystemClock.now())?;
    let verifiers = Arc::new(VerifierSet::new());
    let settings = TlsSettings::new(identity, verifiers, Policy::any(), None, Arc::new(SystemClock))?;
    let stream = dial(address, &settings, &DialOptions::default()).await?;
    let certificate = PeerCertificate::parse(&stream.peer.certificate)?;
    let what = What::Certificate(Box::new(certificate));
    Ok(Found { name: address.to_owned(), role: None, what })
}

async fn from_gateway(url: &str, api_key_file: Option<&Path>) -> anyhow::Result<Vec<Found>> {
    let key = gateway_client::api_key(api_key_file)?;
    let sent_key = key.is_some();
    let gateway = GatewayClient::at(url, key, None).context("write http://HOST:PORT or https://HOST")?;
    let (status, body) = gateway.ask(Method::GET, "/v1/attestation", Bytes::new()).await?;
    match status {
        200 => nodes(&json(&body)?.context("the answer is not JSON")?),
        401 => bail!("{}", gateway_client::refusal(status, &body, sent_key)),
        _ => bail!("{url} answers {status} at /v1/attestation; is it a gateway?"),
    }
}

fn from_reader(input: impl std::io::Read) -> anyhow::Result<Vec<Found>> {
    let mut bytes = Vec::new();
    input.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(NoEvidence(format!("it has more than {MAX_FILE_BYTES} bytes")).into());
    }
    from_bytes(bytes)
}

/// The JSON that these bytes are, if any. What is small as text may be large when it is read, so there are not too many
/// values in it.
fn json(bytes: &[u8]) -> Result<Option<Value>, NoEvidence> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Ok(None);
    }
    if bytes.iter().filter(|byte| b",:{[".contains(byte)).count() > MAX_JSON_MARKS {
        return Err(NoEvidence(format!("it has more than {MAX_JSON_MARKS} values")));
    }
    Ok(serde_json::from_slice(bytes).ok())
}

/// Reads the form off the bytes.
fn from_bytes(bytes: Vec<u8>) -> anyhow::Result<Vec<Found>> {
    if let Some(json) = json(&bytes)?.filter(Value::is_object) {
        return nodes(&json);
    }
    let text = std::str::from_utf8(&bytes).ok().map(str::trim);
    if let Some(text) = text.filter(|text| text.starts_with(BEGIN)) {
        let body = text.strip_prefix(BEGIN).and_then(|rest| rest.split(END).next()).unwrap_or_default();
        let der = STANDARD.decode(body.split_whitespace().collect::<String>());
        let der = der.map_err(|_| NoEvidence("the PEM holds no base64".to_owned()))?;
        return Ok(vec![certificate("certificate", None, &der)?]);
    }
    // Text before bare bytes: a quote has bytes that are no text.
    let decoded = text.map(|text| text.split_whitespace().collect::<String>());
    let decoded = decoded.and_then(|text| hex::decode(&text).or_else(|_| STANDARD.decode(&text)).ok());
    let bytes = decoded.unwrap_or(bytes);
    if bytes.first() == Some(&0x30) {
        return Ok(vec![certificate("certificate", None, &bytes)?]);
    }
    let evidence = Evidence::from_quote(bytes.into());
    if evidence.kind() == EvidenceKind::Unrecognised {
        let words = "neither a certificate, nor a TDX quote of version 4 or 5, nor an SEV-SNP report of version 2 to 5";
        return Err(NoEvidence(format!("it is {words}")).into());
    }
    Ok(vec![Found { name: "bare evidence".to_owned(), role: None, what: What::Bare(evidence) }])
}

fn certificate(name: &str, role: Option<PeerKind>, der: &[u8]) -> anyhow::Result<Found> {
    let certificate = PeerCertificate::parse(der).map_err(|error| NoEvidence(format!("{name}: {error}")))?;
    Ok(Found { name: name.to_owned(), role, what: What::Certificate(Box::new(certificate)) })
}

/// The nodes in a gateway's answer: of one, or of all proxies and their workers, wherever they stand in it.
fn nodes(json: &Value) -> anyhow::Result<Vec<Found>> {
    let mut found: Vec<Found> = Vec::new();
    let mut rest = vec![json];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(value) = rest.pop() {
        match value {
            Value::Array(items) => rest.extend(items.iter().rev()),
            Value::Object(members) => {
                if let Some(Value::String(text)) = members.get("certificate") {
                    let der = STANDARD.decode(text);
                    let der = der.map_err(|_| NoEvidence("a certificate is not base64".to_owned()))?;
                    let role = match members.get("role").and_then(Value::as_str) {
                        Some("proxy") => Some(PeerKind::Proxy),
                        Some("worker") => Some(PeerKind::Worker),
                        _ => None,
                    };
                    if seen.insert(der.clone()) {
                        let node = certificate(&name(value, role), role, &der)?;
                        check_fingerprint(members.get("fingerprint"), &node)?;
                        found.push(node);
                    }
                    if found.len() > MAX_NODES {
                        return Err(NoEvidence(format!("it tells of more than {MAX_NODES} nodes")).into());
                    }
                }
                rest.extend(members.values().rev());
            }
            _ => {}
        }
    }
    Ok(found)
}

/// A certificate must be the one that it is said to be.
fn check_fingerprint(said: Option<&Value>, node: &Found) -> Result<(), NoEvidence> {
    let What::Certificate(certificate) = &node.what else { return Ok(()) };
    let own = hex::encode(certificate.fingerprint());
    match said.and_then(Value::as_str) {
        Some(said) if said != own => Err(NoEvidence(format!(
            "{}: its certificate has the fingerprint {own}, not the one that stands beside it",
            node.name
        ))),
        _ => Ok(()),
    }
}

fn name(node: &Value, role: Option<PeerKind>) -> String {
    let text = |field: &str| node.get(field).and_then(Value::as_str);
    let what = match role {
        Some(PeerKind::Proxy) => "proxy",
        Some(PeerKind::Worker) => "worker",
        _ => "node",
    };
    let models = node.get("models").and_then(Value::as_array);
    let models: Vec<_> = models.into_iter().flatten().filter_map(Value::as_str).collect();
    let which = text("address").map(str::to_owned).unwrap_or_else(|| models.join(", "));
    crate::terminal::one_line(format!("{what} {which}").trim())
}
