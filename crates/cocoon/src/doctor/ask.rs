//! Asks other programs, with limits on their time and on what they say.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// Longest wait for a program.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Most that is read of what it says, in bytes.
const MAX_ANSWER_BYTES: u64 = 16 * 1024;

/// What a program on the PATH prints. None where it is not there, fails, or takes longer than 10 s.
pub(super) async fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let answer = async {
        let mut child = command.spawn().ok()?;
        let mut said = Vec::new();
        child.stdout.take()?.take(MAX_ANSWER_BYTES).read_to_end(&mut said).await.ok()?;
        child.wait().await.ok()?.success().then(|| String::from_utf8_lossy(&said).into_owned())
    };
    tokio::time::timeout(TIME_LIMIT, answer).await.ok()?
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_is_missing_fails_or_talks_without_end_does_no_harm() {
        assert_eq!(ask("echo", &["well"]).await.as_deref(), Some("well\n"));
        assert_eq!(ask("no-such-program-of-cocoon", &[]).await, None);
        assert_eq!(ask("false", &[]).await, None);
        // It is ended by the closed pipe, which is no success.
        assert_eq!(ask("yes", &[]).await, None);
    }
}
