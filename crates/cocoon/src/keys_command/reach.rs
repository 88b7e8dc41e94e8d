//! How keys are reached: by the admin API of a gateway that runs, or in the database of one that does not.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use cocoon_gateway::OfflineKeys;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use zeroize::Zeroizing;

use super::show::words_of;
use crate::cli::GatewayArgs;
use crate::config::{GatewayFile, read_text};
use crate::dir::StateDir;
use crate::keys;
use crate::pinned;
use crate::roles::{ACCESS, ADMIN_ADDRESS, ADMIN_TOKEN};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest answer, in bytes: a year of usage.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Longest address in a file, in bytes.
const MAX_ADDRESS_BYTES: u64 = 1024;
/// Longest token, in bytes.
const MAX_TOKEN_BYTES: u64 = 1024;

/// A way to the keys.
pub(super) enum Reach {
    /// A gateway that runs.
    Running(Box<Running>),
    /// The database of one that does not, whose directory we hold.
    Stopped(OfflineKeys, StateDir),
}

pub(super) struct Running {
    base: Uri,
    token: Zeroizing<String>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Reach {
    /// Finds the gateway.
    ///
    /// # Errors
    /// There is none, or it cannot be told how to reach it.
    pub(super) async fn open(args: &GatewayArgs) -> anyhow::Result<Self> {
        if let (Some(url), Some(file)) = (&args.url, &args.token_file) {
            let token = keys::load_text(file, MAX_TOKEN_BYTES)?;
            return Ok(Self::Running(Box::new(Running::at(url, token, None)?)));
        }
        let file = args.load()?;
        if !file.dir.exists() && !file.dir.parent().is_none_or(Path::exists) {
            bail!("there is no directory {}; name the gateway with --config or --dir", file.dir.display());
        }
        match StateDir::try_open(&file.dir)? {
            Some(dir) => {
                let store = dir.path().join(ACCESS);
                let opened = tokio::task::spawn_blocking(move || OfflineKeys::open(&store)).await?;
                Ok(Self::Stopped(opened.context("the gateway's keys")?, dir))
            }
            None => Ok(Self::Running(Box::new(Running::beside(&file)?))),
        }
    }

    /// Whether a gateway runs.
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// Asks, and expects JSON.
    ///
    /// # Errors
    /// No answer came, or a refusal.
    pub(super) async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.bytes(method, path, body).await?).context("the answer is not JSON")
    }

    /// Asks.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub(super) async fn bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Bytes> {
        let sent = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let (status, body) = match self {
            Self::Running(running) => running.ask(method, path, sent).await?,
            Self::Stopped(keys, _) => {
                let reply = keys.request(&method, path, &sent).await;
                (reply.status, reply.body)
            }
        };
        if !(200..300).contains(&status) {
            bail!("{}", words_of(status, &body));
        }
        Ok(body)
    }

    /// Closes what is open.
    ///
    /// # Errors
    /// What could not be stored.
    pub(super) fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Running(_) => Ok(()),
            Self::Stopped(keys, _dir) => keys.close().context("the gateway's keys could not be stored"),
        }
    }
}

impl Running {
    /// The gateway that holds this directory.
    fn beside(file: &GatewayFile) -> anyhow::Result<Self> {
        let (address, token) = (file.dir.join(ADMIN_ADDRESS), file.dir.join(ADMIN_TOKEN));
        let shown = file.dir.display();
        let url = read_text(&address, MAX_ADDRESS_BYTES).with_context(|| {
            format!(
                "another process holds {shown}, but it left no {ADMIN_ADDRESS}: it is starting, or is another `cocoon keys`; \
                 try again in a moment"
            )
        })?;
        let token = keys::load_text(&token, MAX_TOKEN_BYTES)?;
        // On this machine its own certificate is what it is known by, whatever names it is for.
        Self::at(url.trim(), token, file.tls.cert_file.as_deref())
    }

    fn at(url: &str, token: Zeroizing<String>, certificate: Option<&Path>) -> anyhow::Result<Self> {
        let base: Uri = url.trim_end_matches('/').parse().with_context(|| format!("{url:?} is no URL"))?;
        let host = base.host().unwrap_or_default().trim_matches(['[', ']']);
        let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match base.scheme_str() {
            Some("https") => {}
            Some("http") if local => {}
            Some("http") => bail!("the admin token would cross the network in the clear; use https"),
            _ => bail!("a gateway's URL is written https://gateway.example.com"),
        }
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(pinned::tls(certificate)?)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self { base, token, client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<(u16, Bytes)> {
        let base = self.base.to_string();
        let mut bearer =
            HeaderValue::from_str(&format!("Bearer {}", *self.token)).context("the token is no token")?;
        bearer.set_sensitive(true);
        let authority = self.base.authority().map(ToString::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", base.trim_end_matches('/')))
            .header(HOST, authority)
            .header(AUTHORIZATION, bearer)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
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
