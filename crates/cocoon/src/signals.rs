//! Ctrl-C and SIGTERM: the first asks for an orderly end, the second for an immediate one. SIGHUP asks a service to read
//! its files again, and ends what belongs to a terminal.

use std::future::Future;

use anyhow::Context as _;

/// A signal came where there is no orderly end to wait for, or a second one before it was done.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted: work under way was cut off; what was begun on chain goes on with the same command")]
pub(crate) struct Interrupted;

/// The signals of this process.
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    /// `None` where whoever started us has it ignored, as `nohup` does.
    #[cfg(unix)]
    hang_up: Option<tokio::signal::unix::Signal>,
    #[cfg(unix)]
    on_hang_up: Asked,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To end.
    Stop,
    /// To read files again.
    Reload,
}

#[cfg(unix)]
async fn hung_up(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether SIGHUP is ignored, as far as the system tells. To be asked before it is listened for.
#[cfg(unix)]
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // SIGHUP is signal 1, and so bit 0.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

impl Signals {
    /// Takes the signals over from here on. `on_hang_up` is what SIGHUP asks for.
    ///
    /// # Errors
    /// The system refuses.
    #[cfg_attr(not(unix), expect(unused_variables, reason = "there is no SIGHUP"))]
    pub(crate) fn listen(on_hang_up: Asked) -> anyhow::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let listen = |kind| signal(kind).context("cannot listen for signals");
            Ok(Self {
                interrupt: listen(SignalKind::interrupt())?,
                terminate: listen(SignalKind::terminate())?,
                hang_up: match on_hang_up {
                    Asked::Stop if ignores_hang_up() => None,
                    _ => Some(listen(SignalKind::hangup())?),
                },
                on_hang_up,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> Asked {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            _ = hung_up(&mut self.hang_up) => self.on_hang_up,
        }
        #[cfg(not(unix))]
        {
            // An error means that Ctrl-C cannot be heard at all: then the process is ended from outside.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            Asked::Stop
        }
    }

    /// Waits until an end is asked for.
    pub(crate) async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }

    /// Does `work`, unless an end is asked for before it is done.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub(crate) async fn unless_stopped<T>(&mut self, work: impl Future<Output = T>) -> anyhow::Result<T> {
        tokio::select! {
            done = work => Ok(done),
            () = self.stop() => Err(Interrupted.into()),
        }
    }
}
