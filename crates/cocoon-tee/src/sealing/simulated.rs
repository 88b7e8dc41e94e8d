//! Sealed keys of simulated machines: from the test network's seed.

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{KeyVersion, SealingError, SealingKey, expand};

/// The keys of a simulated machine. They behave as a real machine's do, but whoever has the network's seed can make them.
pub struct SimulatedSealing {
    seed: Zeroizing<[u8; 32]>,
    context: [u8; 32],
}

impl SimulatedSealing {
    /// The keys of this machine of the test network with this seed, running this image (its name or measurement).
    #[must_use]
    pub fn new(seed: &[u8; 32], number: u32, image: &[u8]) -> Self {
        let context = Sha256::new_with_prefix("simulated sealing")
            .chain_update(number.to_le_bytes())
            .chain_update(image)
            .finalize();
        Self { seed: Zeroizing::new(*seed), context: context.into() }
    }
}

impl SealingKey for SimulatedSealing {
    fn version(&self) -> Result<KeyVersion, SealingError> {
        Ok(KeyVersion(0))
    }

    fn derive(&self, label: &str, version: KeyVersion) -> Result<Zeroizing<[u8; 32]>, SealingError> {
        let context = [&self.context[..], &version.0.to_le_bytes()].concat();
        expand(&self.seed[..], &context, label)
    }

    fn is_simulated(&self) -> bool {
        true
    }
}
