//! What of a path is here, by the names under which the store keeps it: for who has it stay (`snowbank pin`).
//!
//! Nothing is asked for, and only what would be served now is found: that a path is pinned makes nothing of it trusted.

use super::entry::{alias_key, narinfo_key};
use super::fetch::Path;
use super::nar::Meant;
use super::{Pipeline, Proxy};
use crate::nix::store_path::HashPart;
use crate::store::{ChunkKey, Hold};

/// A path that is here.
#[derive(Debug, Clone)]
pub struct Held {
    /// The path.
    pub path: Path,
    /// What has to stay.
    pub hold: Hold,
}

impl Proxy {
    /// What of the path with this hash is here, if its narinfo and its manifest are; the first space that has it.
    pub async fn held(&self, hash: HashPart) -> Option<Held> {
        for pipeline in self.in_force.load_full().in_order() {
            if let Some(held) = pipeline.held_whole(hash).await {
                return Some(held);
            }
        }
        None
    }

    /// What is known of a path of which nothing else is here than its narinfo.
    pub async fn known(&self, hash: HashPart) -> Option<Path> {
        for pipeline in self.in_force.load_full().in_order() {
            if let Some(entry) = pipeline.kept_entry(hash).await {
                return pipeline.info_of(&entry).as_ref().map(Path::of);
            }
        }
        None
    }
}

impl Pipeline {
    async fn held_whole(&self, hash: HashPart) -> Option<Held> {
        let entry = self.kept_entry(hash).await?;
        let info = self.info_of(&entry)?;
        let (store, meant) = (&self.shared.store, Meant::by(&info));
        let manifest = store.manifest(meant.blob()).await.filter(|manifest| meant.is(manifest))?;
        let hold = store.hold(narinfo_key(hash), entry.encode().len(), alias_key(&entry.note), &manifest);
        Some(Held { path: Path::of(&info), hold })
    }

    /// Whether all chunks of a stored NAR are here, so that nothing of it is left to come.
    pub(super) async fn has_all_of(&self, meant: Meant) -> bool {
        let (store, blob) = (&self.shared.store, meant.blob());
        let manifest = store.manifest(blob).await.filter(|manifest| meant.is(manifest));
        manifest.is_some_and(|manifest| (0..manifest.chunks()).all(|index| store.has_chunk(ChunkKey::new(blob, index))))
    }
}
