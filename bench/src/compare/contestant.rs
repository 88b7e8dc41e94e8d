//! The paths to one engine that are compared: how each is started, and how it ends.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use rustix::process::Signal;
use tokio::process::{Child, Command};

use super::process::Tree;
use super::tools::{Tool, Tools};
use crate::load::{Ask, Client, Samples};
use crate::mock::{MODEL, Mock};
use crate::network::read_gateway;

/// Each must answer within this time of its start.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// Each may take this long to recover from too much.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// How often it is asked until then.
const POLL: Duration = Duration::from_millis(50);
/// Each may take this long to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// Connections that each is told to bear, where it has to be told.
const MAX_CONNECTIONS: usize = 16_384;
/// Requests at a time for each of our workers: more than the whole load, since one may get more than its share.
const MAX_ACTIVE: usize = 8192;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// The engine itself.
    Direct,
    /// A reverse proxy, as people put it before a model server.
    Nginx,
    /// A router in Rust.
    SglangRouter,
    /// A gateway in Python.
    Litellm,
    /// All of ours: gateway, proxy, workers.
    Cocoon,
    /// The same of another build.
    Baseline,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Direct, Self::Nginx, Self::SglangRouter, Self::Litellm, Self::Cocoon, Self::Baseline];

    /// As tables have it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::SglangRouter => "sglang-router",
            Self::Litellm => "LiteLLM proxy",
            Self::Cocoon => "cocoon, all three nodes",
            Self::Baseline => "cocoon, baseline",
        }
    }

    /// A page that costs it nothing, and asks no engine where that can be helped.
    pub(super) const fn idle_path(self) -> &'static str {
        match self {
            Self::Litellm => "/health/liveliness",
            Self::Direct | Self::Nginx | Self::SglangRouter | Self::Cocoon | Self::Baseline => "/health",
        }
    }
}

/// What it takes to start them.
pub(super) struct Ground<'a> {
    pub(super) mock: &'a Mock,
    pub(super) tools: &'a Tools,
    pub(super) cocoon: Option<PathBuf>,
    /// Another build of it.
    pub(super) baseline: Option<PathBuf>,
    pub(super) workers: u16,
    /// Configurations, logs and states.
    pub(super) dir: &'a Path,
}

/// One that takes part. Killed where it is dropped without [`Contestant::stop`].
pub(super) struct Contestant {
    pub(super) kind: Kind,
    pub(super) version: String,
    pub(super) address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    child: Child,
    tree: Tree,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Workers of some outlive their parent.
        self.tree.signal(Signal::KILL);
    }
}

impl Contestant {
    /// Starts one and waits until it answers; `None` where it is not installed.
    ///
    /// # Errors
    /// It is there and doesn't answer.
    pub(super) async fn start(kind: Kind, ground: &Ground<'_>) -> anyhow::Result<Option<Self>> {
        let dir = ground.dir.join(format!("{kind:?}").to_lowercase());
        std::fs::create_dir_all(&dir)?;
        let engine = ground.mock.address();
        let port = free_port()?;
        let (command, version) = match kind {
            Kind::Direct => {
                return Ok(Some(Self { kind, version: String::new(), address: engine, running: None }));
            }
            Kind::Nginx => {
                let Some(tool) = ground.tools.nginx().await else { return Ok(None) };
                (nginx(&tool, &dir, port, engine)?, tool.version)
            }
            Kind::SglangRouter => {
                let Some(tool) = ground.tools.sglang_router() else { return Ok(None) };
                (sglang_router(&tool, port, engine)?, tool.version)
            }
            Kind::Litellm => {
                let Some(tool) = ground.tools.litellm() else { return Ok(None) };
                (litellm(&tool, &dir, port, engine)?, tool.version)
            }
            Kind::Cocoon | Kind::Baseline => {
                let program = if kind == Kind::Cocoon { &ground.cocoon } else { &ground.baseline };
                let Some(program) = program else { return Ok(None) };
                (cocoon(program, &dir, engine, ground.workers), version(program).await?)
            }
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut contestant = Self { kind, version, address, running: Some(spawn(command, &dir)?) };
        let ready = contestant.wait_ready(ground.mock, &dir.join("net/endpoints.json")).await;
        ready.map_err(|error| error.context(contestant.log_tail()))?;
        Ok(Some(contestant))
    }

    /// Waits until it has worked off what an earlier round left behind: what nobody waits for any more, it may not know.
    pub(super) async fn settle(&self, mock: &Mock) {
        let asked = async {
            let mut client = Client::connect(self.address).await?;
            client.ask_once(mock, Ask::Whole, &mut Samples::default()).await
        };
        // One that doesn't answer even now will be seen to fail.
        let _ = tokio::time::timeout(SETTLE_LIMIT, asked).await;
    }

    async fn wait_ready(&mut self, mock: &Mock, endpoints: &Path) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            if let Some(address) = read_gateway(endpoints) {
                self.address = address;
            }
            let asked = match Client::connect(self.address).await {
                Ok(mut client) => client.ask_once(mock, Ask::Whole, &mut Samples::default()).await,
                Err(error) => Err(error),
            };
            let Err(error) = asked else { return Ok(()) };
            if let Some(running) = &mut self.running
                && let Some(status) = running.child.try_wait()?
            {
                bail!("{} ended before it was ready: {status}", self.kind.name());
            }
            if started.elapsed() > READY_LIMIT {
                return Err(
                    error.context(format!("{} did not answer within {READY_LIMIT:?}", self.kind.name()))
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What it ran as; `None` for the engine itself, which is part of this process.
    pub(super) fn tree(&self) -> Option<Tree> {
        self.running.as_ref().map(|running| running.tree)
    }

    fn log_tail(&self) -> String {
        let log = self.running.as_ref().and_then(|running| std::fs::read_to_string(&running.log).ok());
        let log = log.unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        format!("its last words:\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    /// Ends it in order, and by force where that takes too long.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if let Some(status) = running.child.try_wait()? {
            let tail = self.log_tail();
            bail!("{} ended by itself, with {status}; {tail}", self.kind.name());
        }
        running.tree.signal(Signal::TERM);
        let waited = tokio::time::timeout(STOP_LIMIT, running.child.wait()).await;
        waited.map(drop).with_context(|| format!("{} did not end within {STOP_LIMIT:?}", self.kind.name()))
    }
}

fn spawn(mut command: Command, dir: &Path) -> anyhow::Result<Running> {
    let log = dir.join("output.log");
    let output = std::fs::File::create(&log)?;
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    let child = command
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("can't run {:?}", command.as_std().get_program()))?;
    let tree = Tree::of(child.id().context("it ended at once")?);
    Ok(Running { child, tree, log })
}

/// Likely to stay free until it is listened on.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// One process for each core; connections to the engine and to callers stay open; nothing of a stream is held back.
fn nginx(tool: &Tool, dir: &Path, port: u16, engine: SocketAddr) -> anyhow::Result<Command> {
    // As root, nginx would run its workers as somebody who may not enter our directory.
    let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
    let cores = cores();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {}/{kind};\n", dir.display()))
        .concat();
    let text = format!(
        "daemon off;\n{user}\nworker_processes {cores};\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\n\
         events {{ worker_connections {MAX_CONNECTIONS}; }}\n\
         http {{\n  access_log off;\n{temporary}  keepalive_timeout 300s;\n  keepalive_requests 1000000000;\n  \
         upstream engine {{ server {engine}; keepalive 8192; keepalive_timeout 300s; keepalive_requests 1000000000; }}\n  \
         server {{\n    listen 127.0.0.1:{port} reuseport backlog=8192;\n    location / {{\n      \
         proxy_pass http://engine;\n      proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      \
         proxy_buffering off;\n      proxy_read_timeout 300s;\n    }}\n  }}\n}}\n",
        dir = dir.display(),
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, text)?;
    let mut command = Command::new(&tool.program);
    command.arg("-c").arg(&file).arg("-p").arg(dir).arg("-e").arg(dir.join("start.log"));
    Ok(command)
}

fn sglang_router(tool: &Tool, port: u16, engine: SocketAddr) -> anyhow::Result<Command> {
    let mut command = Command::new(&tool.program);
    command.args(["-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--worker-urls", &format!("http://{engine}"), "--policy", "round_robin"]);
    command.args(["--prometheus-port", &free_port()?.to_string(), "--log-level", "warn"]);
    Ok(command)
}

/// One process for each core, as its documentation advises; no database, no cache, no callbacks.
fn litellm(tool: &Tool, dir: &Path, port: u16, engine: SocketAddr) -> anyhow::Result<Command> {
    let text = format!(
        "model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n      \
         api_base: http://{engine}/v1\n      api_key: none\nlitellm_settings:\n  telemetry: false\n"
    );
    let file = dir.join("litellm.yaml");
    std::fs::write(&file, text)?;
    let mut command = Command::new(&tool.program);
    command.arg("--config").arg(&file).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--num_workers", &cores().to_string(), "--keepalive_timeout", "300"]);
    // Loading it takes longer than a parent process waits for a child by default.
    command.args(["--timeout_worker_healthcheck", "120"]);
    // Prices come with the package; fetching newer ones has no part in this.
    command.envs([("LITELLM_LOCAL_MODEL_COST_MAP", "True"), ("LITELLM_LOG", "ERROR")]);
    // Nobody needs a key here, and looking for one would cost it time.
    command.env("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY", "true");
    let own = tool.program.parent().map(Path::as_os_str).unwrap_or_default();
    let mut path = OsString::from(own);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    command.env("PATH", path);
    Ok(command)
}

fn cocoon(program: &Path, dir: &Path, engine: SocketAddr, workers: u16) -> Command {
    let mut command = Command::new(program);
    command.arg("up").arg("--dir").arg(dir.join("net")).args(["--json", "--workers", &workers.to_string()]);
    command.args(["--upstream", &format!("http://{engine}"), "--model", MODEL]);
    command.args([
        "--max-active",
        &MAX_ACTIVE.to_string(),
        "--max-connections",
        &MAX_CONNECTIONS.to_string(),
    ]);
    // It says in a file where it listens.
    command.args(["--port-base", "0"]);
    command
}

async fn version(program: &Path) -> anyhow::Result<String> {
    let output = Command::new(program).arg("--version").output().await;
    let output = output.with_context(|| format!("can't run {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().trim_start_matches("cocoon ").to_owned())
}
