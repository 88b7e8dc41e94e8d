//! Who a node is: its directory, its keys, its certificate, its wallet and their owner.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use cocoon_attest::{EvidenceKind, EvidenceSource};
use cocoon_net::{Clock, NodeIdentity, NodeKey, SystemClock, TlsSettings, spawn_rotation};
use cocoon_tee::sealing::SealingKey;
use cocoon_ton::{Address, SigningKey, Wallet};
use zeroize::Zeroizing;

use super::Backend;
use crate::attestation::{self, Judging, Whom};
use crate::config::{Require, RoleFile, Root, WorkerFile};
use crate::dir::StateDir;
use crate::keys;

/// The key of a node's certificate, by which peers know it.
const NODE_KEY: &str = "node-key.hex";
/// The key of a node's wallet.
pub(crate) const WALLET_KEY: &str = "wallet-key.hex";
/// The key with which a proxy signs payment orders.
pub(super) const PAYMENT_KEY: &str = "payment-key.hex";
/// The secret by which proxies know a gateway again; its hash stands on chain.
const CLIENT_SECRET: &str = "client-secret.hex";
/// Where a node keeps its books.
pub(super) const LEDGER: &str = "ledger.sqlite";
/// Longest secret that authorises a client, in bytes.
const MAX_SECRET_BYTES: u64 = 1024;

/// A stopped node's directory, or one that is about to start: held, and with what seals its keys.
///
/// # Errors
/// It is in use, or the machine that is configured cannot be used.
pub(crate) fn open_dir<T: RoleFile>(file: &T) -> anyhow::Result<StateDir> {
    let sealing = sealing(file)?;
    Ok(StateDir::open(file.dir())?.sealed(sealing))
}

/// What seals a node's keys; `None` where they lie open.
///
/// # Errors
/// The machine that is configured cannot be used.
pub(crate) fn sealing<T: RoleFile>(file: &T) -> anyhow::Result<Option<Arc<dyn SealingKey>>> {
    attestation::sealing(image::<T>(), &file.shown(), file.root())
}

/// The name of the image that a role runs in where its machine is simulated.
pub(crate) fn image<T: RoleFile>() -> &'static str {
    // One image for all roles would be as good; two show that each is checked.
    if T::ROLE == WorkerFile::ROLE { "cocoon worker" } else { "cocoon proxy" }
}

/// A node's key with its evidence, and what it takes to judge peers, from which the settings of each port are made.
pub(super) struct Tls {
    identity: Arc<NodeIdentity>,
    pub(super) judging: Judging,
    pub(super) clock: Arc<dyn Clock>,
}

impl Tls {
    pub(super) fn open<T: RoleFile>(file: &T, dir: &StateDir, judging: Judging) -> anyhow::Result<Self> {
        let source = attestation::source(image::<T>(), &file.shown(), file.root())?;
        let key = node_key(dir, source.as_ref())?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let identity = NodeIdentity::new(key, source, clock.now()).context("cannot make the certificate")?;
        Ok(Self { identity, judging, clock })
    }

    pub(super) fn settings(&self, require: Require, whom: Whom) -> anyhow::Result<TlsSettings> {
        let (policy, judging) = (self.judging.policy(require, whom)?, &self.judging);
        let collateral = Some(judging.collateral());
        let clock = Arc::clone(&self.clock);
        TlsSettings::new(Arc::clone(&self.identity), judging.verifiers(), policy, collateral, clock)
            .context("cannot set up TLS")
    }

    pub(super) fn rotate(self) -> tokio_util::task::AbortOnDropHandle<()> {
        spawn_rotation(self.identity, self.clock)
    }
}

/// The configured owner. Where coins are simulated, one that follows from the node's key will do.
pub(super) fn owner(
    configured: Option<Address>,
    tls: Option<&Tls>,
    root: &Root,
    backend: &Backend,
) -> anyhow::Result<Address> {
    match (configured, tls) {
        (None, Some(tls)) if root.is_test && !backend.settles => {
            Ok(Address::basechain(tls.identity.public_key()))
        }
        (configured, _) => named_owner(configured),
    }
}

/// The owner, where there must be one.
///
/// # Errors
/// None is configured, or one of another workchain.
pub(crate) fn named_owner(configured: Option<Address>) -> anyhow::Result<Address> {
    let owner = configured.context(
        "owner is missing: the address that this node's coins go to in the end; `cocoon wallet create` makes one",
    )?;
    if owner.workchain() != 0 {
        bail!(
            "owner {owner} is an account of workchain {}; wallets live in the basechain, whose addresses begin with \
             0: in their raw form",
            owner.workchain()
        );
    }
    Ok(owner)
}

/// A key of the node; made where the directory is new. Where there are books, a missing key is lost, not new: another one
/// would be another node, without this one's money.
pub(super) fn key(dir: &StateDir, name: &str) -> anyhow::Result<keys::Secret> {
    let path = dir.path().join(name);
    if dir.path().join(LEDGER).exists() && !path.exists() {
        bail!(
            "the key file {} is missing beside {LEDGER}; restore it from a backup, or move the directory away to start \
             as a new node",
            path.display()
        );
    }
    keys::load_or_create(&path, dir.sealing())
}

/// The key that the node's evidence speaks for. Whoever runs a machine can read its disk, so where hardware vouches for
/// the key and nothing seals it, it lives in memory alone: each start has another, and nothing hangs on it.
fn node_key(dir: &StateDir, source: &dyn EvidenceSource) -> anyhow::Result<NodeKey> {
    let is_proof = source.kind() != EvidenceKind::None && !source.is_simulated();
    if is_proof && dir.sealing().is_none() {
        return Ok(NodeKey::generate());
    }
    Ok(NodeKey::from_seed(&*key(dir, NODE_KEY)?))
}

/// The node's wallet: the contract that its wallet key controls, and in the last resort its owner.
pub(crate) fn wallet(dir: &StateDir, owner: Address) -> anyhow::Result<(Wallet, SigningKey)> {
    let key = SigningKey::from_bytes(&*key(dir, WALLET_KEY)?);
    Ok((Wallet::cocoon(key.verifying_key().to_bytes(), owner), key))
}

/// The configured secret. Where its hash stands on chain, one is made if none is given.
pub(super) fn secret(
    file: Option<&Path>,
    dir: &StateDir,
    backend: &Backend,
) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    if file.is_none() && backend.settles {
        let secret = key(dir, CLIENT_SECRET)?;
        return Ok(Zeroizing::new(hex::encode(*secret).into_bytes()));
    }
    let text = file.map(|path| keys::load_text(path, MAX_SECRET_BYTES)).transpose()?;
    Ok(Zeroizing::new(text.map_or_else(Vec::new, |text| text.as_bytes().to_vec())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A machine of this kind.
    struct Of(EvidenceKind, bool);

    impl EvidenceSource for Of {
        fn kind(&self) -> EvidenceKind {
            self.0
        }

        fn is_simulated(&self) -> bool {
            self.1
        }

        fn evidence(
            &self,
            _: &cocoon_attest::ReportData,
        ) -> Result<cocoon_attest::Evidence, cocoon_attest::EvidenceError> {
            Ok(cocoon_attest::Evidence::none())
        }
    }

    #[test]
    fn a_key_that_hardware_vouches_for_never_lies_open_on_the_disk() {
        let parent = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&parent.path().join("node")).unwrap();
        let key = |source: Of| node_key(&dir, &source).unwrap().public_key();
        for kind in [EvidenceKind::Tdx, EvidenceKind::SevSnp] {
            assert_ne!(key(Of(kind, false)), key(Of(kind, false)));
            assert!(!dir.path().join(NODE_KEY).exists(), "{kind}");
        }
        // Nor is one taken that somebody put there.
        let open = key(Of(EvidenceKind::None, false));
        assert_ne!(key(Of(EvidenceKind::Tdx, false)), open);
        assert_eq!(key(Of(EvidenceKind::Tdx, true)), open, "a simulated machine has nothing to hide");
        assert_eq!(key(Of(EvidenceKind::None, false)), open);

        let sealing = cocoon_tee::sealing::SimulatedSealing::new(&[7; 32], 1, b"worker");
        std::fs::remove_file(dir.path().join(NODE_KEY)).unwrap();
        let dir = dir.sealed(Some(Arc::new(sealing)));
        let sealed = node_key(&dir, &Of(EvidenceKind::SevSnp, false)).unwrap().public_key();
        assert_eq!(node_key(&dir, &Of(EvidenceKind::SevSnp, false)).unwrap().public_key(), sealed);
    }

    #[test]
    fn an_owner_is_a_wallet_of_the_basechain() {
        let here = Address::basechain([7; 32]);
        assert_eq!(named_owner(Some(here)).unwrap(), here);
        let message = named_owner(Some(Address::new(-1, [7; 32]).unwrap())).unwrap_err().to_string();
        assert!(message.contains("workchain -1"), "{message}");
        assert!(named_owner(None).unwrap_err().to_string().contains("cocoon wallet create"));
    }
}
