//! Asks a gateway, wherever it is, with what opens its door.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::keys;
use crate::pinned;
use crate::terminal::one_line;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest answer, in bytes: a year of usage.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A way to a gateway.
pub(crate) struct GatewayClient {
    base: Uri,
    /// An API key, or the admin token.
    secret: Option<Zeroizing<String>>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl GatewayClient {
    /// To the gateway at `url`, which must show `certificate` where one is named.
    ///
    /// # Errors
    /// It is no URL, or a secret would go there unprotected.
    pub(crate) fn at(
        url: &str,
        secret: Option<Zeroizing<String>>,
        certificate: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let base: Uri = url.trim_end_matches('/').parse().with_context(|| format!("{url:?} is no URL"))?;
        let host = base.host().unwrap_or_default().trim_matches(['[', ']']);
        let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match base.scheme_str() {
            Some("https") => {}
            Some("http") if local || secret.is_none() => {}
            Some("http") => {
                bail!("the secret that opens {url} would cross the network in the clear; use https")
            }
            _ => bail!("a gateway's URL is written https://gateway.example.com"),
        }
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(pinned::tls(certificate)?)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self { base, secret, client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// The status and the body of the answer.
    ///
    /// # Errors
    /// No answer came, or not all of it.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<(u16, Bytes)> {
        let base = self.base.to_string();
        let authority = self.base.authority().map(ToString::to_string).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", base.trim_end_matches('/')))
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json");
        if let Some(secret) = &self.secret {
            let mut bearer = HeaderValue::from_str(&format!("Bearer {}", **secret))
                .context("what should open the gateway is no key and no token")?;
            bearer.set_sensitive(true);
            request = request.header(AUTHORIZATION, bearer);
        }
        let request = request.body(Full::new(body))?;
        let asking = async {
            let answer =
                self.client.request(request).await.with_context(|| format!("no answer from {base}"))?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
            Ok((status, body.to_bytes()))
        };
        let limit = PATIENCE.as_secs();
        tokio::time::timeout(PATIENCE, asking).await.with_context(|| format!("nothing came for {limit} s"))?
    }
}

/// Where an API key is looked for in the environment.
pub(crate) const API_KEY: &str = "COCOON_API_KEY";
/// Longest API key, in bytes.
const MAX_KEY_BYTES: u64 = 1024;

/// A caller's API key: the one in `file`, or else the environment's.
///
/// # Errors
/// The file cannot be read, or others can read it.
pub(crate) fn api_key(file: Option<&Path>) -> anyhow::Result<Option<Zeroizing<String>>> {
    match file {
        Some(file) => keys::load_text(file, MAX_KEY_BYTES).map(Some),
        None => Ok(std::env::var(API_KEY).ok().map(Zeroizing::new).filter(|key| !key.is_empty())),
    }
}

/// A refusal to a caller, with what to do about it where it is for want of a key.
pub(crate) fn refusal(status: u16, body: &[u8], sent_key: bool) -> String {
    let words = words_of(status, body);
    match (status, sent_key) {
        (401, false) => format!(
            "{words} Ask whoever runs the gateway for one (`cocoon keys add NAME` makes it); put it into {API_KEY}, or into \
             a private file that --api-key-file names"
        ),
        (401, true) => format!(
            "{words} That is the key of --api-key-file, or of {API_KEY}; whoever runs the gateway sees with `cocoon keys \
             list` which are good"
        ),
        _ => words,
    }
}

/// A refusal in the gateway's own words.
pub(crate) fn words_of(status: u16, body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    match body["error"]["message"].as_str() {
        Some(words) => one_line(words),
        None => format!("the gateway answered with status {status}"),
    }
}
