//! Spaces: what was got from a private upstream is kept apart from everything else, under names of its own (R15).
//!
//! A [`Store`] is a view of one space, and each name that it is given goes through [`Space`] on its way to the
//! tiers: unchanged in the public space, in a private one through a keyed hash. So nothing above this file can find, join,
//! replace or remove what is in another space, and nothing is shared between spaces: the same NAR in two of them is stored
//! twice.
//!
//! The key is a secret of this store, in a file beside the cache. Names of NARs come from clients; if they could be made to
//! fit those of a private space, the time a lookup takes would tell what is in it. Without the file the space begins empty.
//!
//! A small object carries its name in front of its bytes, as a manifest does anyway: so a walk over everything can tell
//! whose it is.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::Store;
use super::geometry::{BlobId, ChunkKey};
use super::meta::EntryKey;
use super::walk::Kept;

/// Bytes of a key.
const KEY: usize = 32;
/// The file with the secret, in the store's directory.
const FILE: &str = "spaces.key";

/// The names of one space. Two private ones of other names have no name in common.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Space(Option<[u8; KEY]>);

/// The key is not shown (R4).
impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "private" } else { "public" })
    }
}

impl Space {
    /// The private space called `name`, in the store with this secret.
    pub(super) fn private(secret: &Secret, name: &str) -> Self {
        Self(Some(*blake3::keyed_hash(&secret.0, name.as_bytes()).as_bytes()))
    }

    pub(super) fn blob(&self, blob: BlobId) -> BlobId {
        let Some(key) = &self.0 else { return blob };
        let mut mixed = [0; 16];
        mixed.copy_from_slice(&blake3::keyed_hash(key, &blob.0).as_bytes()[..16]);
        BlobId(mixed)
    }

    pub(super) fn chunk(&self, key: ChunkKey) -> ChunkKey {
        ChunkKey { blob: self.blob(key.blob), ..key }
    }

    pub(super) fn entry(&self, entry: EntryKey) -> EntryKey {
        let Some(key) = &self.0 else { return entry };
        // One byte longer than twice a blob's name: no entry is hashed from what a blob is.
        let mut name = [entry.kind; 1 + KEY];
        name[1..].copy_from_slice(&entry.id);
        EntryKey { id: *blake3::keyed_hash(key, &name).as_bytes(), ..entry }
    }

    /// A small object as it is kept.
    pub(super) fn wrap(&self, entry: EntryKey, bytes: Bytes) -> Bytes {
        if self.0.is_none() {
            return bytes;
        }
        let mut named = BytesMut::with_capacity(KEY + bytes.len());
        named.put_slice(&entry.id);
        named.put_slice(&bytes);
        named.freeze()
    }

    /// A small object from what is kept under its name.
    pub(super) fn unwrap(&self, entry: EntryKey, kept: Bytes) -> Option<Bytes> {
        match self.0 {
            None => Some(kept),
            Some(_) => kept.starts_with(&entry.id).then(|| kept.slice(KEY..)),
        }
    }

    /// What a walk found, under the name that it has in this space; `None` when it belongs to another one.
    pub(super) fn own(&self, kept: &Kept) -> Option<Kept> {
        match kept {
            Kept::Manifest(found, manifest) => {
                (self.blob(manifest.blob) == *found).then(|| Kept::Manifest(manifest.blob, manifest.clone()))
            }
            Kept::Entry(..) if self.0.is_none() => Some(kept.clone()),
            Kept::Entry(found, bytes) => {
                let id = *bytes.first_chunk::<KEY>()?;
                let key = EntryKey { id, ..*found };
                (self.entry(key) == *found).then(|| Kept::Entry(key, bytes.slice(KEY..)))
            }
        }
    }
}

impl Store {
    /// The same store, as the private space called `name` is seen: nothing of any other space is in it. Limits hold for
    /// all spaces together.
    ///
    /// Blocking: a small file, the first time.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn private(&self, name: &str) -> io::Result<Self> {
        let dir = self.inner.options.dir.as_deref().filter(|_| self.inner.options.wants_disk());
        let secret = match self.inner.secret.get() {
            Some(secret) => secret,
            None => {
                let found = Secret::of(dir)?;
                self.inner.secret.get_or_init(|| found)
            }
        };
        Ok(Self { inner: Arc::clone(&self.inner), space: Space::private(secret, name) })
    }

    /// What a walk found, as it is called in this space; `None` when it belongs to another one. What belongs to no private
    /// space that there is now counts as public, where nothing is called like it.
    pub fn own(&self, kept: &Kept) -> Option<Kept> {
        self.space.own(kept)
    }
}

/// What the names of private spaces are made with.
pub(super) struct Secret([u8; KEY]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The secret of the store in this directory, made where there is none. If it can be neither read nor kept, it is
    /// one for this process only.
    ///
    /// Blocking: a small file.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub(super) fn of(dir: Option<&Path>) -> io::Result<Self> {
        let Some(dir) = dir else { return random().map(Self) };
        let path = dir.join(FILE);
        let found = std::fs::create_dir_all(dir).and_then(|()| match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path).and_then(|()| read(&path)),
            // Cut short: whatever was named with it is lost, and nothing more need be.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                tracing::warn!(path = %path.display(), "it is not whole, and is made anew: what was got from private upstreams is got again");
                std::fs::rename(&path, path.with_extension("broken"))
                    .and_then(|()| make(&path))
                    .and_then(|()| read(&path))
            }
            found => found,
        });
        found.or_else(|error| {
            let path = path.display();
            tracing::warn!(%path, %error, "what is got from private upstreams is found again only until the next start");
            random()
        }).map(Self)
    }
}

fn read(path: &Path) -> io::Result<[u8; KEY]> {
    let (mut key, mut file) = ([0; KEY], File::open(path)?);
    file.read_exact(&mut key)?;
    Ok(key)
}

/// Whole or not at all, and never over one that was made meanwhile.
fn make(path: &Path) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&random()?)?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&temporary, path);
    std::fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

fn random() -> io::Result<[u8; KEY]> {
    let mut bytes = [0; KEY];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("the system gives no random bytes"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Manifest;

    fn private(name: &str) -> Space {
        Space::private(&Secret([7; KEY]), name)
    }

    fn manifest(blob: BlobId) -> Arc<Manifest> {
        Arc::new(Manifest {
            blob,
            size: 0,
            file_hash: [0; 32],
            compression: 0,
            inside: None,
            announced: None,
            digests: Vec::new(),
        })
    }

    #[test]
    fn the_public_space_names_things_as_they_were_always_named() {
        let (blob, entry) = (BlobId([1; 16]), EntryKey::new(3, [2; 32]));
        let public = Space::default();
        assert_eq!((public.blob(blob), public.entry(entry)), (blob, entry));
        assert_eq!(public.wrap(entry, Bytes::from_static(b"x")), "x");
    }

    #[test]
    fn no_two_spaces_have_a_name_in_common() {
        let (blob, entry) = (BlobId([1; 16]), EntryKey::new(3, [2; 32]));
        let other_store = Space::private(&Secret([8; KEY]), "a");
        let spaces = [Space::default(), private("a"), private("b"), other_store];
        for (n, one) in spaces.iter().enumerate() {
            for other in &spaces[n + 1..] {
                assert_ne!(one.blob(blob), other.blob(blob));
                assert_ne!(one.entry(entry), other.entry(entry));
            }
        }
        assert_eq!(private("a").blob(blob), private("a").blob(blob));
        assert_ne!(private("a").entry(entry), private("a").entry(EntryKey::new(4, [2; 32])));
    }

    #[test]
    fn a_walk_tells_whose_a_thing_is() {
        let (blob, entry, text) = (BlobId([1; 16]), EntryKey::new(3, [2; 32]), Bytes::from_static(b"text"));
        let spaces = [Space::default(), private("a"), private("b")];
        for space in spaces {
            let body = Kept::Manifest(space.blob(blob), manifest(blob));
            let small = Kept::Entry(space.entry(entry), space.wrap(entry, text.clone()));
            for other in spaces {
                let own = other == space;
                assert_eq!(other.own(&body), own.then(|| Kept::Manifest(blob, manifest(blob))));
                let expected = own.then(|| Kept::Entry(entry, text.clone()));
                // What no private space owns is taken for public, where nothing has its name.
                if other != Space::default() || own {
                    assert_eq!(other.own(&small), expected);
                }
            }
            let Kept::Entry(_, kept) = small else { panic!("an entry") };
            assert_eq!(space.unwrap(entry, kept.clone()), Some(text.clone()));
            if space != Space::default() {
                assert_eq!(space.unwrap(EntryKey::new(3, [9; 32]), kept), None);
            }
        }
    }

    #[test]
    fn the_secret_is_kept_and_nobody_else_can_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let of = |dir: &Path| Secret::of(Some(dir)).unwrap().0;
        let inside = dir.path().join("store");
        let first = of(&inside);
        assert_eq!((of(&inside), of(&inside)), (first, first));
        let mode = inside.join(FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 1);
        assert_ne!(of(&dir.path().join("other")), first);
        assert_ne!(Secret::of(None).unwrap().0, Secret::of(None).unwrap().0);
        std::fs::write(inside.join(FILE), b"cut").unwrap();
        assert_ne!(of(&inside), first, "no key at all: one for this process");
        assert_eq!(format!("{:?} {:?}", Secret([1; KEY]), private("a")), "Secret private");
    }
}
