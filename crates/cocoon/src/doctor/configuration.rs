//! What a node's configuration asks of the machine, and whether it can be had.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cocoon_attest::ReportData;
use cocoon_ton::Address;

use super::check::{Check, Group, Machine};
use super::network::{Target, is_local};
use crate::attestation;
use crate::cli::{Role, environment};
use crate::config::{
    self, CollateralFile, EngineFile, GatewayFile, Present, ProxyFile, RoleFile as _, Root, Shown, WorkerFile,
};
use crate::roles;

const GROUP: Group = Group::Configuration;

/// Longest wait for evidence: the kernel gives the host 30 s for a TDX quote.
const EVIDENCE_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for an engine to say how it is.
const ENGINE_LIMIT: Duration = Duration::from_secs(10);

/// What a role's configuration says, as far as the machine must provide it.
#[derive(Debug, Clone)]
pub(super) struct Wants {
    /// Where keys and books are.
    pub(super) dir: PathBuf,
    /// Where it listens, and for whom.
    pub(super) listens: Vec<(&'static str, SocketAddr)>,
    /// Whether it comes from a file.
    pub(super) configured: bool,
    shown: Shown,
    image: &'static str,
    collateral: CollateralFile,
    policy_file: Option<PathBuf>,
    owner: Option<Address>,
    root: Root,
    chain_url: Option<String>,
    proxies: Vec<String>,
    engine: Option<EngineFile>,
    model: Option<String>,
}

impl Wants {
    /// Reads it the way in which the role does.
    ///
    /// # Errors
    /// See [`config::load`].
    pub(super) fn load(role: Role, file: Option<&Path>) -> anyhow::Result<Self> {
        let configured = file.is_some();
        Ok(match role {
            Role::Gateway => Self::gateway(config::load(file, environment(), Vec::new())?, configured),
            Role::Proxy => Self::proxy(config::load(file, environment(), Vec::new())?, configured),
            Role::Worker => Self::worker(config::load(file, environment(), Vec::new())?, configured),
        })
    }

    /// What a role wants that nobody has configured.
    pub(super) fn unconfigured(role: Role) -> Self {
        match role {
            Role::Gateway => Self::gateway(GatewayFile::default(), false),
            Role::Proxy => Self::proxy(ProxyFile::default(), false),
            Role::Worker => Self::worker(WorkerFile::default(), false),
        }
    }

    fn gateway(file: GatewayFile, configured: bool) -> Self {
        Self {
            shown: file.shown(),
            image: roles::image::<GatewayFile>(),
            collateral: file.collateral,
            policy_file: file.attestation.policy_file,
            dir: file.dir,
            listens: vec![("OpenAI clients", file.http)],
            configured,
            owner: file.owner,
            root: file.root,
            chain_url: file.chain.url,
            proxies: file.proxies,
            engine: None,
            model: None,
        }
    }

    fn proxy(file: ProxyFile, configured: bool) -> Self {
        Self {
            shown: file.shown(),
            image: roles::image::<ProxyFile>(),
            collateral: file.collateral,
            policy_file: file.attestation.policy_file,
            dir: file.dir,
            listens: vec![
                ("operators", file.http),
                ("workers", file.listen_workers),
                ("gateways", file.listen_clients),
            ],
            configured,
            owner: file.owner,
            root: file.root,
            chain_url: file.chain.url,
            proxies: Vec::new(),
            engine: None,
            model: None,
        }
    }

    fn worker(file: WorkerFile, configured: bool) -> Self {
        Self {
            shown: file.shown(),
            image: roles::image::<WorkerFile>(),
            collateral: file.collateral,
            policy_file: file.attestation.policy_file,
            dir: file.dir,
            listens: vec![("operators", file.http)],
            configured,
            owner: file.owner,
            root: file.root,
            chain_url: file.chain.url,
            proxies: file.proxies,
            engine: Some(file.engine),
            model: file.model,
        }
    }

    /// Whom the node will connect to.
    pub(super) fn targets(&self) -> Vec<Target> {
        let chain = self.chain_url.as_deref().and_then(|url| Target::url("chain server", url, true));
        let proxies = self.proxies.iter().filter_map(|text| Target::host_and_port("proxy", text, true));
        chain.into_iter().chain(proxies).collect()
    }

    /// What the configuration lacks.
    pub(super) fn checks(&self) -> Vec<Check> {
        if !self.configured {
            return vec![Check::not_applicable(
                GROUP,
                "file",
                "none given; --config FILE has it judged, too",
            )];
        }
        vec![Check::ok(GROUP, "file", "can be read"), self.network(), self.owner(), self.peers()]
    }

    fn network(&self) -> Check {
        let name = "network";
        if self.root.address.is_none() {
            return Check::problem(
                GROUP,
                name,
                "root.address is missing",
                "set root.address to the network's root contract; `cocoon up` writes its own to DIR/endpoints.json",
            );
        }
        match (&self.chain_url, &self.root.file) {
            (Some(_), _) => Check::ok(GROUP, name, "root contract, read from a chain server"),
            (None, Some(file)) if file.is_file() => {
                Check::ok(GROUP, name, "fixed root configuration, no coins move")
            }
            (None, Some(file)) => Check::problem(
                GROUP,
                name,
                format!("root.file {} is missing", file.display()),
                "put the root configuration there, or set chain.url to a server with toncenter's API",
            ),
            (None, None) => Check::problem(
                GROUP,
                name,
                "neither chain.url nor root.file is set",
                "set chain.url to a server with toncenter's API, or root.file to a fixed root configuration",
            ),
        }
    }

    fn owner(&self) -> Check {
        let name = "owner";
        match (self.owner, &self.chain_url) {
            (Some(_), _) => Check::ok(GROUP, name, "set"),
            (None, None) => Check::not_applicable(GROUP, name, "not needed where no coins move"),
            (None, Some(_)) => Check::problem(
                GROUP,
                name,
                "missing: the address that this node's coins go to in the end",
                "cocoon wallet create owner.txt, and set owner to the address that it prints",
            ),
        }
    }

    fn peers(&self) -> Check {
        let name = "proxies";
        let odd = self.proxies.iter().find(|text| Target::host_and_port(name, text, true).is_none());
        match (odd, self.proxies.len()) {
            (Some(odd), _) => Check::problem(
                GROUP,
                name,
                format!("{odd:?} is not HOST:PORT"),
                "write proxies = [\"HOST:PORT\"]",
            ),
            (None, 0) => Check::not_applicable(GROUP, name, "those of the root configuration"),
            (None, count) => Check::ok(GROUP, name, format!("{count} configured")),
        }
    }

    /// Whether the engine answers and has the model. One that is elsewhere is asked only if that was asked for.
    pub(super) async fn engine(&self, online: bool) -> Option<Check> {
        let name = "engine";
        let file = self.engine.as_ref().filter(|_| self.configured)?;
        let engine = match roles::open_engine(file, 1) {
            Ok(engine) => engine,
            Err(error) => {
                let mend = "set either engine.url or engine.builtin = true";
                return Some(Check::problem(GROUP, name, format!("{error:#}"), mend));
            }
        };
        if self.model.is_none() && !file.builtin {
            let mend = "set model to what the engine serves, NAME@COMMIT:VERITYHASH";
            return Some(Check::problem(GROUP, name, "model is missing", mend));
        }
        if !online && file.url.as_deref().is_some_and(|url| !is_local(url)) {
            return Some(Check::not_applicable(
                GROUP,
                name,
                "on another machine, not asked; --online asks it",
            ));
        }
        let health = tokio::time::timeout(ENGINE_LIMIT, engine.probe()).await;
        let mend = "start the model server, and try `curl ENGINE-URL/v1/models`";
        let Ok(health) = health else {
            return Some(Check::problem(GROUP, name, "does not answer within 10 s", mend));
        };
        if !health.ready {
            let detail = health.detail.unwrap_or_else(|| "is not ready".to_owned());
            return Some(Check::problem(GROUP, name, detail, mend));
        }
        let model = self.model.as_deref().and_then(|model| model.split('@').next());
        let listed = |model: &str| health.models.is_empty() || health.models.iter().any(|name| name == model);
        Some(match model {
            Some(model) if !listed(model) => Check::problem(
                GROUP,
                name,
                format!("answers, but does not list {model:?}"),
                format!("set model to one that it lists: {}", health.models.join(", ")),
            ),
            _ => Check::ok(GROUP, name, "answers"),
        })
    }

    /// Whether the policy can be read, where one is configured.
    pub(super) fn policy(&self) -> Option<Check> {
        let path = self.policy_file.as_deref()?;
        Some(match config::read_policy(Some(path)) {
            Ok(_) => Check::ok(GROUP, "policy", path.display().to_string()),
            Err(error) => {
                let mend = "mend it; docs/trust.md explains every field";
                Check::problem(GROUP, "policy", format!("{error:#}"), mend)
            }
        })
    }

    /// Whether the evidence that the node is to show can be had; it is made once and thrown away.
    pub(super) async fn evidence(&self, machine: Machine, live: bool) -> Check {
        let name = "evidence";
        let shown = match (self.configured, machine.guest()) {
            (true, Some(tee)) if matches!(self.shown.present, Present::None | Present::FakeTdx) => {
                let (shown, best) = (self.shown.present.name(), tee.source().name());
                return Check::warning(
                    GROUP,
                    name,
                    format!("attestation.present = {shown:?}, though this is a {} guest", tee.title()),
                    format!("set attestation.present = {best:?} to show what the machine is"),
                );
            }
            (true, _) => self.shown,
            (false, Some(tee)) => Shown { present: tee.source(), ..self.shown },
            (false, None) => return Check::not_applicable(GROUP, name, "no TEE, none to show"),
        };
        if !live {
            return Check::not_applicable(GROUP, name, "not asked for below another root");
        }
        self.made(name, shown).await
    }

    async fn made(&self, name: &str, shown: Shown) -> Check {
        let source = shown.present.name();
        let sealing = attestation::sealing(self.image, &shown, &self.root);
        let opened = match sealing.and_then(|_| attestation::source(self.image, &shown, &self.root)) {
            Ok(opened) => opened,
            Err(error) => {
                let mend = "choose another attestation.present, or mend what is said here";
                return Check::problem(GROUP, name, format!("{error:#}"), mend);
            }
        };
        // For no node's key: what is made here binds to nothing.
        let make = move || opened.evidence(&ReportData::for_key(&[0; 32])).map(|made| made.bytes().len());
        let made = tokio::time::timeout(EVIDENCE_LIMIT, tokio::task::spawn_blocking(make)).await;
        let mend = "mend what is said of the kernel and its evidence above; on a TDX host `systemctl status qgsd` says \
                    whether quotes are made";
        match made {
            Ok(Ok(Ok(0))) => Check::ok(GROUP, name, format!("{source}: nothing is shown")),
            Ok(Ok(Ok(length))) => Check::ok(GROUP, name, format!("{source}: {length} bytes could be had")),
            Ok(Ok(Err(error))) => Check::problem(GROUP, name, format!("{source}: {error}"), mend),
            Ok(Err(_)) | Err(_) => Check::problem(GROUP, name, format!("{source}: nothing came"), mend),
        }
    }

    /// The services that verifying others' evidence takes.
    pub(super) fn services(&self) -> Vec<Target> {
        let file = &self.collateral;
        // What simulated vendors publish follows from their seed.
        if file.offline || self.root.simulated_seed_file.is_some() {
            return Vec::new();
        }
        let services = [
            ("Intel PCS or PCCS", &file.pccs_url),
            ("AMD KDS", &file.kds_url),
            ("NVIDIA RIM", &file.nvidia_rim_url),
            ("NVIDIA OCSP", &file.nvidia_ocsp_url),
        ];
        services.into_iter().filter_map(|(name, url)| Target::url(name, url, false)).collect()
    }
}

/// A configuration that cannot be read.
pub(super) fn unreadable(role: Role, error: &anyhow::Error) -> Check {
    let role = role.name();
    Check::problem(
        GROUP,
        "file",
        format!("{error:#}"),
        format!("mend it; crates/cocoon/examples/{role}.toml explains every field"),
    )
}
