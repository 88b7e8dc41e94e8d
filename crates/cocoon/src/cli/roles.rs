//! `cocoon gateway`, `cocoon proxy` and `cocoon worker`: one role alone.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::config::{self, GatewayFile, Overrides, ProxyFile, WorkerFile};

/// What all roles take.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The configuration, TOML; in the environment: COCOON_ROLE_FIELD
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where to listen for HTTP
    #[arg(long, value_name = "IP:PORT")]
    http: Option<SocketAddr>,

    /// Where keys and state are kept; made if missing
    #[arg(long, value_name = "DIR")]
    dir: Option<String>,

    /// The root configuration, JSON in the published form
    #[arg(long, value_name = "FILE")]
    root_file: Option<String>,

    /// The root contract's address
    #[arg(long, value_name = "ADDRESS")]
    root_address: Option<String>,
}

impl Common {
    fn overrides(self) -> (Option<PathBuf>, Overrides) {
        let given = [
            ("http", self.http.map(|address| address.to_string())),
            ("dir", self.dir),
            ("root.file", self.root_file),
            ("root.address", self.root_address),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value?)));
        (self.config, given.collect())
    }
}

/// Run a gateway: the side of those who ask, with an OpenAI-style HTTP API.
///
/// It passes requests to proxies, pays for the answers, and checks what it is charged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon gateway --config gateway.toml
  COCOON_GATEWAY_PROXIES=10.0.0.5:11002 cocoon gateway --config gateway.toml --http 127.0.0.1:8080
  cocoon gateway --config gateway.toml --http 0.0.0.0:443 --tls-cert fullchain.pem --tls-key privkey.pem
                                  for a team; needs a key first: cocoon keys add NAME --config gateway.toml

crates/cocoon/examples/gateway.toml documents every field.")]
pub(crate) struct Gateway {
    #[command(flatten)]
    common: Common,

    /// The certificate that callers see, with its chain, PEM; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<String>,

    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<String>,
}

impl Gateway {
    /// The configuration from file, environment and flags.
    ///
    /// # Errors
    /// See [`config::load`].
    pub(crate) fn load(self) -> anyhow::Result<GatewayFile> {
        let (file, mut flags) = self.common.overrides();
        flags.extend(self.tls_cert.map(|path| ("tls.cert_file", path)));
        flags.extend(self.tls_key.map(|path| ("tls.key_file", path)));
        config::load(file.as_deref(), environment(), flags)
    }
}

/// Run a proxy: it brings gateways and workers together and keeps the books.
///
/// Both connect to it. It reserves the money for a request, picks a worker, and signs who owes whom.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon proxy --config proxy.toml
  cocoon proxy --config proxy.toml --listen-workers 0.0.0.0:11001 --listen-clients 0.0.0.0:11002

crates/cocoon/examples/proxy.toml documents every field.")]
pub(crate) struct Proxy {
    #[command(flatten)]
    common: Common,

    /// Where workers connect
    #[arg(long, value_name = "IP:PORT")]
    listen_workers: Option<SocketAddr>,

    /// Where clients connect
    #[arg(long, value_name = "IP:PORT")]
    listen_clients: Option<SocketAddr>,
}

impl Proxy {
    /// As [`Gateway::load`].
    ///
    /// # Errors
    /// See [`config::load`].
    pub(crate) fn load(self) -> anyhow::Result<ProxyFile> {
        let (file, mut flags) = self.common.overrides();
        flags.extend(self.listen_workers.map(|address| ("listen_workers", address.to_string())));
        flags.extend(self.listen_clients.map(|address| ("listen_clients", address.to_string())));
        config::load(file.as_deref(), environment(), flags)
    }
}

/// Run a worker: it answers with a model server, or with the built-in engine.
///
/// It connects to proxies and takes as many of their requests as its limit allows.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon worker --config worker.toml
  cocoon worker --config worker.toml --model 'Qwen/Qwen3-8B@COMMIT:HASH' --engine-url http://127.0.0.1:8000

crates/cocoon/examples/worker.toml documents every field.")]
pub(crate) struct Worker {
    #[command(flatten)]
    common: Common,

    /// The model's full name, NAME@COMMIT:VERITYHASH
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,

    /// The model's files, an archive or a directory: the worker starts only if they are those of the model's name
    #[arg(long, value_name = "PATH")]
    model_path: Option<String>,

    /// The OpenAI-style model server that answers
    #[arg(long, value_name = "URL")]
    engine_url: Option<String>,

    /// The price, in 1/1000 of the network's base price
    #[arg(long, value_name = "N")]
    coefficient: Option<u32>,

    /// Let the price follow the load between these coefficients
    #[arg(long, value_name = "FLOOR-CEILING", value_parser = price_range)]
    follow_load: Option<(u32, u32)>,
}

fn price_range(text: &str) -> Result<(u32, u32), String> {
    let range =
        text.split_once('-').and_then(|(floor, ceiling)| Some((floor.parse().ok()?, ceiling.parse().ok()?)));
    range.filter(|(floor, ceiling)| floor <= ceiling).ok_or_else(|| "write it as 500-4000".to_owned())
}

impl Worker {
    /// As [`Gateway::load`].
    ///
    /// # Errors
    /// See [`config::load`].
    pub(crate) fn load(self) -> anyhow::Result<WorkerFile> {
        let (file, mut flags) = self.common.overrides();
        flags.extend(self.model.map(|model| ("model", model)));
        flags.extend(self.model_path.map(|path| ("model_path", path)));
        flags.extend(self.engine_url.map(|url| ("engine.url", url)));
        flags.extend(self.coefficient.map(|coefficient| ("coefficient", coefficient.to_string())));
        if let Some((floor, ceiling)) = self.follow_load {
            flags.push(("price.follow_load", true.to_string()));
            flags.push(("price.floor", floor.to_string()));
            flags.push(("price.ceiling", ceiling.to_string()));
        }
        config::load(file.as_deref(), environment(), flags)
    }
}

/// The environment, without what is not text: no field's value could be that.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
