//! OpenSSL's command-line tool, which knows nothing of us.
#![allow(clippy::print_stderr, clippy::unwrap_used, unreachable_pub)]

use std::path::Path;
use std::process::Command;

/// Runs OpenSSL in the folder: what it said, and whether it was content.
pub fn openssl(folder: &Path, arguments: &str) -> (bool, String) {
    let output =
        Command::new("openssl").current_dir(folder).args(arguments.split_whitespace()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Whether it is there; says so where it is not.
pub fn openssl_3_is_here() -> bool {
    let version = Command::new("openssl").arg("version").output();
    let here = version.is_ok_and(|output| output.stdout.starts_with(b"OpenSSL 3"));
    if !here {
        eprintln!("skipped: there is no OpenSSL 3 command-line tool");
    }
    here
}
