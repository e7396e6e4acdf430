//! Forgetting what is kept of a path, because an operator says so: the next client has it asked for again.
//!
//! In every space. What was found to be wrong stays in quarantine, and what a fill is fetching now is kept when it is done.
//!
//! Out of scope: who may ask for it (the admin address).

use super::entry::{Entry, alias_key, meant_key, narinfo_key, small_key};
use super::nar::Meant;
use super::{Pipeline, Proxy};
use crate::nix::store_path::HashPart;

/// What was forgotten, in all spaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    /// Narinfos.
    pub narinfos: u64,
    /// NARs that were whole, with their chunks.
    pub nars: u64,
    /// Listings.
    pub listings: u64,
    /// That nobody had it.
    pub negatives: u64,
}

impl Proxy {
    /// Forgets what is kept of a path.
    pub async fn purge(&self, hash: HashPart) -> Purged {
        let mut purged = Purged::default();
        let in_force = self.in_force.load_full();
        for pipeline in in_force.pipelines() {
            pipeline.purge(hash, &mut purged).await;
        }
        tracing::info!(key = %hash, narinfos = purged.narinfos, nars = purged.nars, "purged");
        purged
    }
}

impl Pipeline {
    async fn purge(&self, hash: HashPart, purged: &mut Purged) {
        let (store, key, listing) = (&self.shared.store, narinfo_key(hash), small_key(&format!("{hash}.ls")));
        if let Some(bytes) = store.entry(key).await {
            if let Some(entry) = Entry::decode(&bytes) {
                store.remove_entry(&alias_key(&entry.note));
                purged.nars += self.purge_nar_of(&entry).await;
            }
            store.remove_entry(&key);
            purged.narinfos += 1;
        }
        if store.entry(listing).await.is_some() {
            store.remove_entry(&listing);
            purged.listings += 1;
        }
        for key in [key, listing] {
            purged.negatives += u64::from(store.negative(key));
            store.forget_negative(&key);
        }
    }

    async fn purge_nar_of(&self, entry: &Entry) -> u64 {
        let Some(meant) = self.info_of(entry).as_ref().map(Meant::by) else { return 0 };
        self.shared.store.forget_negative(&meant_key(&meant));
        let Some(manifest) = self.shared.store.manifest(meant.blob()).await else { return 0 };
        self.shared.fills.forget(&manifest);
        1
    }
}
