//! Configuration of a role: a TOML file, overridden by environment variables, overridden by flags.
//!
//! The default value of each role's struct is the one list of its fields: it tells which names exist, which
//! environment variables override them, and what a misspelt name may have meant.

mod access;
mod attestation;
mod gateway;
mod load;
mod money;
mod proxy;
mod shared;
mod worker;

pub(crate) use attestation::{
    Attestation, CollateralFile, GatewayAttestation, Present, ProxyAttestation, Require, Shown, read_policy,
};
pub(crate) use gateway::GatewayFile;
pub(crate) use load::{Overrides, load, read_text};
pub(crate) use money::{ChainFile, GatewayMoney};
pub(crate) use proxy::{AcceptPow, LOOPBACK_DIFFICULTY, ProxyFile};
pub(crate) use shared::{Root, required};
pub(crate) use worker::{EngineFile, WorkerFile};

/// A role's configuration as written.
pub(crate) trait RoleFile: Default + serde::Serialize + serde::de::DeserializeOwned {
    /// `gateway`, `proxy` or `worker`.
    const ROLE: &'static str;

    /// The node's directory.
    fn dir(&self) -> &std::path::Path;

    /// The network's root.
    fn root(&self) -> &Root;

    /// What the node shows of its machine.
    fn shown(&self) -> Shown;
}

/// Fields that hold paths, in any role: in a file they are relative to that file.
const PATH_FIELDS: &[&str] = &[
    "attestation.policy_file",
    "chain.api_key_file",
    "collateral.cache_dir",
    "collateral.nvidia_key_file",
    "collateral.pccs_ca_file",
    "dir",
    "model_path",
    "root.file",
    "root.simulated_seed_file",
    "secret_file",
    "tls.acme_dir",
    "tls.cert_file",
    "tls.key_file",
];

#[cfg(test)]
mod tests;
