//! The programs to compare with: where they are, and how they get there.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tokio::process::Command;

/// What pip installs for each, every version pinned.
const SGLANG_ROUTER: &str = include_str!("../../tools/sglang-router.txt");
const LITELLM: &str = include_str!("../../tools/litellm.txt");

/// Says which list was installed whole.
const INSTALLED: &str = "installed.txt";

/// A directory with what is installed for this benchmark, and nothing else.
pub(super) struct Tools {
    dir: PathBuf,
}

/// A program that is there.
pub(super) struct Tool {
    pub(super) program: PathBuf,
    pub(super) version: String,
}

impl Tools {
    /// Those in `dir`; by default `bench-tools` in the target directory, which is found from this program's own path.
    pub(super) fn at(dir: Option<PathBuf>) -> anyhow::Result<Self> {
        let dir = match dir {
            Some(dir) => dir,
            None => {
                let own = std::env::current_exe().context("can't tell where this program is")?;
                let target =
                    own.parent().and_then(Path::parent).context("this program is in no directory")?;
                target.join("bench-tools")
            }
        };
        Ok(Self { dir: std::path::absolute(dir)? })
    }

    /// Installs what is missing; returns what could not be.
    pub(super) async fn install(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for (name, list) in [("sglang-router", SGLANG_ROUTER), ("litellm", LITELLM)] {
            if let Err(error) = self.install_python(name, list).await {
                failures.push(format!("{name} could not be installed: {error:#}"));
            }
        }
        if self.nginx().await.is_none()
            && let Err(error) = self.install_nginx().await
        {
            failures.push(format!(
                "nginx could not be installed: {error:#}; install it with the system's package manager"
            ));
        }
        failures
    }

    async fn install_python(&self, name: &str, list: &str) -> anyhow::Result<()> {
        let venv = self.dir.join(name);
        if self.has(name, list) {
            return Ok(());
        }
        say(&format!("installing {name} into {}", venv.display()));
        std::fs::create_dir_all(&self.dir)?;
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv)).await?;
        let wanted = venv.join("wanted.txt");
        std::fs::write(&wanted, list)?;
        run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "-r"]).arg(&wanted)).await?;
        std::fs::rename(&wanted, venv.join(INSTALLED))?;
        Ok(())
    }

    /// Unpacks Debian's package, which changes nothing outside our directory.
    async fn install_nginx(&self) -> anyhow::Result<()> {
        let dir = self.dir.join("nginx");
        say(&format!("unpacking nginx into {}", dir.display()));
        std::fs::create_dir_all(&dir)?;
        run(Command::new("apt-get").args(["download", "nginx"]).current_dir(&dir)).await?;
        let package = std::fs::read_dir(&dir)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension() == Some(OsStr::new("deb")))
            .context("apt-get downloaded no package")?;
        run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&dir)).await?;
        self.nginx().await.context("the package's program does not run here").map(drop)
    }

    fn has(&self, name: &str, list: &str) -> bool {
        std::fs::read_to_string(self.dir.join(name).join(INSTALLED)).is_ok_and(|installed| installed == list)
    }

    /// The system's nginx, or ours.
    pub(super) async fn nginx(&self) -> Option<Tool> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
        let places = system.map(|dir| dir.join("nginx")).chain([self.dir.join("nginx/usr/sbin/nginx")]);
        for program in places.filter(|program| program.is_file()) {
            if let Ok(output) = Command::new(&program).arg("-v").output().await
                && output.status.success()
            {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                let version = said.rsplit('/').next().unwrap_or_default().to_owned();
                return Some(Tool { program, version });
            }
        }
        None
    }

    /// The Python that has sglang-router.
    pub(super) fn sglang_router(&self) -> Option<Tool> {
        self.python("sglang-router", SGLANG_ROUTER, "python")
    }

    /// LiteLLM's own program.
    pub(super) fn litellm(&self) -> Option<Tool> {
        self.python("litellm", LITELLM, "litellm")
    }

    fn python(&self, name: &str, list: &str, program: &str) -> Option<Tool> {
        let program = self.dir.join(name).join("bin").join(program);
        (self.has(name, list) && program.is_file())
            .then(|| Tool { program, version: pinned(list, name).unwrap_or_default().to_owned() })
    }
}

/// The version of a package in a list.
fn pinned<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    list.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("=="))
}

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = format!("{:?}", command.as_std().get_program());
    let output = command.output().await.with_context(|| format!("can't run {shown}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = said.lines().rev().take(3).collect();
    bail!("{shown} ended with {}: {}", output.status, last.into_iter().rev().collect::<Vec<_>>().join(" / "))
}

/// Says on standard error what goes on.
pub(super) fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_pin_what_they_are_for() {
        assert!(pinned(SGLANG_ROUTER, "sglang-router").is_some());
        assert!(pinned(LITELLM, "litellm").is_some());
        let all = SGLANG_ROUTER.lines().chain(LITELLM.lines());
        assert!(all.filter(|line| !line.is_empty()).all(|line| line.contains("==")));
    }
}
