use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use super::KeySet;

/// Keys that come and go while the process runs. Clones speak of the same keys.
///
/// Whoever fetches them calls [`Self::replace`]; a verifier made with them uses what is there at that moment.
#[derive(Debug, Clone, Default)]
pub struct RotatingKeys {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    keys: ArcSwap<KeySet>,
    missed: AtomicBool,
}

impl RotatingKeys {
    /// Uses these keys from now on, and no earlier ones.
    pub fn replace(&self, keys: KeySet) {
        self.shared.keys.store(Arc::new(keys));
    }

    /// Trusts no key until the next [`Self::replace`].
    pub fn forget(&self) {
        self.replace(KeySet::default());
    }

    /// Tells, once, whether a token came whose key is not among them: the issuer may have rotated its keys.
    pub fn take_missed(&self) -> bool {
        self.shared.missed.swap(false, Ordering::Relaxed)
    }

    pub(super) fn current(&self) -> arc_swap::Guard<Arc<KeySet>> {
        self.shared.keys.load()
    }

    pub(super) fn missed(&self) {
        self.shared.missed.store(true, Ordering::Relaxed);
    }
}
