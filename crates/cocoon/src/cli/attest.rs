//! `cocoon attest`: evidence, looked at, verified and made.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::calendar;

/// Look at the evidence of a node, verify it, or make it.
///
/// Evidence is what a node shows about its machine: which hardware, which code, bound to the key of its connections.
/// docs/trust.md says what it proves and what not.
#[derive(Debug, Args)]
pub(crate) struct Attest {
    #[command(subcommand)]
    pub(crate) command: AttestCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AttestCommand {
    Verify(VerifyEvidence),
    Show(ShowEvidence),
    Make(MakeEvidence),
}

const FORMS: &str = "\
SOURCE is one of
  HOST:PORT            a port of a proxy, for workers or for gateways: its certificate is fetched
  http://HOST:PORT     a gateway (or its https URL): all proxies and workers that it knows, from its /v1/attestation
  FILE, or -           a certificate (PEM or DER), what a gateway answered at /v1/attestation, or bare evidence: a TDX
                       quote or an SEV-SNP report with its certificates; binary, hex or base64";

/// Verify evidence: one line for each check, and what a policy says to it.
///
/// Fetches what verifying takes (revocation lists, TCB information) from the vendors' services, or a cache; nothing that
/// is fetched is trusted. Without a policy the strict default holds; which images a network lists is not looked up, name
/// them with --image. Ends with 0 where all evidence holds and the policy lets it in, with 1 where it does not, and with 2
/// where there is no evidence to be read or nobody to be reached.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon attest verify 192.0.2.7:11002
  cocoon attest verify http://127.0.0.1:10000 --simulated-seed .cocoon/simulated-seed.hex
  curl -s http://127.0.0.1:10000/v1/attestation > saved.json
  cocoon attest verify saved.json --save-collateral that-day.json
  cocoon attest verify saved.json --collateral that-day.json --at 2026-11-29T12:00:00Z
  cocoon attest verify quote.bin --key 5590... --policy policy.toml --as worker --offline --cache-dir cache", before_long_help = FORMS)]
pub(crate) struct VerifyEvidence {
    /// Where the evidence is: HOST:PORT, http://HOST:PORT, a file, or - for standard input
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,

    /// A private file with an API key, for a gateway that asks for one; without it, COCOON_API_KEY in the environment
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,

    /// The policy, TOML as in docs/trust.md [default: strict]
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Whose demands of the policy hold [default: the role that a gateway tells, else proxy]
    #[arg(long = "as", value_enum, value_name = "ROLE")]
    pub(crate) role: Option<PeerKind>,

    /// Only this image hash will do, 64 hexadecimal digits; may be given several times
    #[arg(long = "image", value_name = "HASH", value_parser = digits::<32>)]
    pub(crate) images: Vec<[u8; 32]>,

    /// For bare evidence: the Ed25519 key that it must be bound to, 64 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = digits::<32>, conflicts_with = "report_data")]
    pub(crate) key: Option<[u8; 32]>,

    /// For bare evidence: the report data that it must have, 128 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = digits::<64>)]
    pub(crate) report_data: Option<[u8; 64]>,

    /// Judge as of this time: 2026-11-29T12:00:00Z, or seconds since 1970 [default: now]
    #[arg(long, value_name = "TIME", value_parser = calendar::parse)]
    pub(crate) at: Option<u64>,

    /// Fetch nothing: what the cache or --collateral has must do
    #[arg(long)]
    pub(crate) offline: bool,

    /// Take collateral from this file, made by --save-collateral, and fetch nothing
    #[arg(long, value_name = "FILE")]
    pub(crate) collateral: Option<PathBuf>,

    /// Keep the collateral that was used in this file, to verify again later without a network
    #[arg(long, value_name = "FILE")]
    pub(crate) save_collateral: Option<PathBuf>,

    /// Keep and find collateral in this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// A PCCS for Intel's platforms [default: Intel's own service]
    #[arg(long, value_name = "URL")]
    pub(crate) pccs_url: Option<String>,

    /// Take any TLS certificate of the PCCS: it is not trusted anyway
    #[arg(long, requires = "pccs_url")]
    pub(crate) pccs_any_certificate: bool,

    /// Trust a test network's simulated vendors, too: its seed, 64 hexadecimal digits in a private file
    #[arg(long, value_name = "FILE")]
    pub(crate) simulated_seed: Option<PathBuf>,

    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what evidence says, without verifying any of it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon attest show 192.0.2.7:11002
  cocoon attest show quote.bin --json", before_long_help = FORMS)]
pub(crate) struct ShowEvidence {
    /// Where the evidence is: HOST:PORT, http://HOST:PORT, a file, or - for standard input
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,

    /// A private file with an API key, for a gateway that asks for one; without it, COCOON_API_KEY in the environment
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,

    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Make evidence about this machine: a quote or report bound to a key or to data of your own.
///
/// Works in an Intel trust domain or an AMD SEV-SNP guest, through Linux's configfs-tsm; `cocoon doctor` says whether
/// this machine is one. With a test network's seed, a simulated machine makes it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon attest make --report-data $(head -c 64 /dev/urandom | xxd -p -c 64) --out quote.bin
  cocoon attest make --key 5590... --present sev_snp --out report.bin
  cocoon attest make --key 5590... --present simulated_tdx --simulated-seed .cocoon/simulated-seed.hex --out quote.bin")]
pub(crate) struct MakeEvidence {
    /// The Ed25519 key to bind it to, 64 hexadecimal digits: report data are its SHA-512
    #[arg(long, value_name = "HEX", value_parser = digits::<32>, conflicts_with = "report_data", required_unless_present = "report_data")]
    pub(crate) key: Option<[u8; 32]>,

    /// The report data themselves, 128 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = digits::<64>)]
    pub(crate) report_data: Option<[u8; 64]>,

    /// Which machine: tdx, sev_snp, auto, fake_tdx, simulated_tdx or simulated_sev_snp
    #[arg(long, value_name = "KIND", default_value = "auto")]
    pub(crate) present: String,

    /// For simulated machines: the test network's seed, 64 hexadecimal digits in a private file
    #[arg(long, value_name = "FILE")]
    pub(crate) simulated_seed: Option<PathBuf>,

    /// For simulated machines: which one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) simulated_machine: u32,

    /// For simulated machines: the name of the image that runs there
    #[arg(long, value_name = "NAME", default_value = "cocoon worker")]
    pub(crate) simulated_image: String,

    /// Write it to this file; it must not exist [default: base64 on standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Whose evidence it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PeerKind {
    /// A proxy's
    Proxy,
    /// A worker's
    Worker,
    /// A gateway's
    Client,
}

fn digits<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| format!("it has {} hexadecimal digits", 2 * N))?;
    Ok(bytes)
}
