//! The network under test: `cocoon up` as a process of its own, with its memory and its end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use tokio::process::{Child, Command};

use crate::load::Client;
use crate::mock::{MODEL, Mock};

/// The network must serve the model within this time.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// The network must end within this time once told to.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// How often files and states are looked at while waiting.
const POLL: Duration = Duration::from_millis(5);

/// A running `cocoon up`. Killed where it is dropped without [`Network::stop`].
pub(crate) struct Network {
    child: Child,
    directory: PathBuf,
    gateway: SocketAddr,
    ready_after: Duration,
}

impl Network {
    /// Starts the program with the mock as its engine and waits until the gateway lists the model.
    pub(crate) async fn start(
        program: &Path,
        mock: &Mock,
        workers: usize,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let started = Instant::now();
        let log = std::fs::File::create(directory.join("cocoon.log"))?;
        let child = Command::new(program)
            .arg("up")
            .arg("--dir")
            .arg(directory.join("net"))
            .args(["--upstream", &format!("http://{}", mock.address())])
            .args(["--model", MODEL, "--port-base", "0", "--workers", &workers.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't run {}", program.display()))?;
        let mut network = Self {
            child,
            directory: directory.to_owned(),
            gateway: SocketAddr::from(([127, 0, 0, 1], 0)),
            ready_after: Duration::ZERO,
        };
        match network.wait_ready(started).await {
            Ok(()) => Ok(network),
            Err(error) => Err(error.context(network.log_tail())),
        }
    }

    async fn wait_ready(&mut self, started: Instant) -> anyhow::Result<()> {
        let endpoints = self.directory.join("net").join("endpoints.json");
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("`cocoon up` ended before it was ready: {status}");
            }
            if let Some(gateway) = read_gateway(&endpoints)
                && serves_model(gateway).await
            {
                self.gateway = gateway;
                self.ready_after = started.elapsed();
                return Ok(());
            }
            if started.elapsed() > READY_LIMIT {
                bail!("`cocoon up` did not serve the model {MODEL} within {READY_LIMIT:?}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.directory.join("cocoon.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        let tail: Vec<&str> = lines.into_iter().rev().collect();
        format!("the network's last words:\n{}", tail.join("\n"))
    }

    /// Where the gateway listens.
    pub(crate) fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// From the start of the process to the first listing of the model.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Resident memory of the process, in KiB.
    pub(crate) fn rss_kib(&self) -> anyhow::Result<u64> {
        rss_kib(self.child.id().context("the network has ended")?)
    }

    /// Interrupts the network as Ctrl-C does; returns how long its end took.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Duration> {
        let pid = self.child.id().context("the network ended by itself")?;
        let started = Instant::now();
        let sent = Command::new("kill").args(["-INT", &pid.to_string()]).status().await?;
        if !sent.success() {
            bail!("can't interrupt the network");
        }
        let status = tokio::time::timeout(STOP_LIMIT, self.child.wait())
            .await
            .with_context(|| format!("the network did not end within {STOP_LIMIT:?} of Ctrl-C"))??;
        if !status.success() {
            bail!("the network ended with {status}; {}", self.log_tail());
        }
        Ok(started.elapsed())
    }
}

/// The gateway's address, once the file is there and complete.
pub(crate) fn read_gateway(endpoints: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(endpoints).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let url = value.get("gateway")?.as_str()?;
    let host = url.strip_prefix("http://")?.split('/').next()?;
    host.parse().ok()
}

async fn serves_model(gateway: SocketAddr) -> bool {
    let Ok(mut client) = Client::connect(gateway).await else { return false };
    let Ok((status, body)) = client.get("/v1/models").await else { return false };
    let Ok(list) = serde_json::from_slice::<serde_json::Value>(&body) else { return false };
    let models = list.get("data").and_then(|data| data.as_array());
    status.is_success()
        && models
            .is_some_and(|models| models.iter().any(|model| model.get("id").is_some_and(|id| id == MODEL)))
}

/// Resident memory of a process, in KiB.
pub(crate) fn rss_kib(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .context("can't read how much memory is used; this needs Linux")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| anyhow!("no VmRSS in /proc/{pid}/status"))
}
