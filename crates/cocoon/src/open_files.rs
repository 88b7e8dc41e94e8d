//! How many files and connections the system lets this process have open.
//!
//! Systems give a program few to begin with (1024 on most Linux systems), for the sake of programs that cannot count
//! further, and let it take more by itself, up to a second limit. Each connection takes one.

/// Files beside the connections that are counted: databases, listeners, the runtime's own, connections to peers, to a chain
/// and to operators.
const BESIDE: u64 = 256;

/// Takes as many open files as the process may have.
pub(crate) fn raise() {
    match system::raise() {
        Ok(limit) => tracing::debug!(limit, "took all open files that the system lets this process have"),
        Err(error) => tracing::debug!(%error, "the limit on open files stays as it is"),
    }
}

/// Warns where `connections` cannot all be open; `setting` is what asks for so many.
pub(crate) fn warn_unless_enough(setting: &str, connections: usize) {
    let needed = needed(connections);
    if let Some(limit) = system::limit().filter(|limit| *limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "{setting} does not fit the limit on open files: connections beyond it are refused; set LimitNOFILE={needed} in \
             the systemd unit (elsewhere `ulimit -Hn {needed}` as root), or lower {setting}"
        );
    }
}

/// The open files that so many connections take.
fn needed(connections: usize) -> u64 {
    u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(BESIDE)
}

#[cfg(unix)]
mod system {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    /// What is asked for where the second limit is none: macOS says so and gives no more than this.
    const WITHOUT_LIMIT: u64 = 10_240;

    /// The limit that holds; `None` where there is none.
    pub(super) fn limit() -> Option<u64> {
        getrlimit(Resource::Nofile).current
    }

    /// Raises it as far as it goes; what it is then.
    pub(super) fn raise() -> std::io::Result<u64> {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let Some(current) = current else { return Ok(u64::MAX) };
        let goal = maximum.unwrap_or(WITHOUT_LIMIT);
        if current < goal {
            setrlimit(Resource::Nofile, Rlimit { current: Some(goal), maximum })?;
        }
        Ok(current.max(goal))
    }
}

#[cfg(not(unix))]
mod system {
    pub(super) fn limit() -> Option<u64> {
        None
    }

    pub(super) fn raise() -> std::io::Result<u64> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_that_may_be_open_is_taken() {
        let limit = system::raise().unwrap();
        assert_eq!(system::limit().unwrap_or(u64::MAX), limit);
        assert_eq!(system::raise().unwrap(), limit, "there is no more");
    }

    #[test]
    fn connections_are_not_all_that_is_open() {
        assert_eq!(needed(10_000), 10_256);
        assert_eq!(needed(usize::MAX), u64::MAX);
    }
}
