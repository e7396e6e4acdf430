//! What the second tier keeps: manifests and small objects, under keys of their own, and how they are written.
//!
//! A removed entry is not deleted but overwritten with [`MetaValue::Removed`]. foyer's own deletions live in memory, so
//! that a restart would bring the entry back from disk, and its tombstone log starts over at its first page after each
//! restart, which overwrites earlier tombstones. An entry that says "removed" is newer than what it replaces and
//! leaves the disk after it, because blocks are evicted in the order in which they were written (see `line`).

use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;

use super::geometry::{BlobId, padded};
use super::manifest::Manifest;

/// The name of a small object: what kind it is (the caller's numbers), and 32 bytes of hash or path digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// The caller's number for the kind of object.
    pub kind: u8,
    /// Which one.
    pub id: [u8; 32],
}

impl EntryKey {
    /// The object `id` of kind `kind`.
    pub const fn new(kind: u8, id: [u8; 32]) -> Self {
        Self { kind, id }
    }
}

/// A key of the meta tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetaKey {
    /// The manifest of a body.
    Manifest(BlobId),
    /// A small object.
    Entry(EntryKey),
}

impl MetaKey {
    /// Bytes of a key on disk.
    pub const ENCODED: usize = 34;

    fn bytes(&self) -> [u8; Self::ENCODED] {
        let mut bytes = [0; Self::ENCODED];
        match self {
            Self::Manifest(blob) => bytes[2..18].copy_from_slice(&blob.0),
            Self::Entry(key) => {
                bytes[0] = 1;
                bytes[1] = key.kind;
                bytes[2..].copy_from_slice(&key.id);
            }
        }
        bytes
    }
}

/// Written out, because foyer keeps hashes on disk and a derived `Hash` may change with the compiler.
impl Hash for MetaKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.bytes());
    }
}

impl foyer::Code for MetaKey {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        writer.write_all(&self.bytes()).map_err(foyer::Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let (mut head, mut blob, mut rest) = ([0; 2], [0; 16], [0; 16]);
        reader.read_exact(&mut head).map_err(foyer::Error::io_error)?;
        reader.read_exact(&mut blob).map_err(foyer::Error::io_error)?;
        reader.read_exact(&mut rest).map_err(foyer::Error::io_error)?;
        match head {
            [0, 0] => Ok(Self::Manifest(BlobId(blob))),
            [1, kind] => {
                let mut id = [0; 32];
                id[..16].copy_from_slice(&blob);
                id[16..].copy_from_slice(&rest);
                Ok(Self::Entry(EntryKey { kind, id }))
            }
            _ => Err(unreadable("key of an unknown kind")),
        }
    }

    fn estimated_size(&self) -> usize {
        Self::ENCODED
    }
}

/// A value of the meta tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetaValue {
    /// What stood here was removed.
    Removed,
    /// A small object.
    Entry(Bytes),
    /// A manifest, kept decoded: it is asked for with every request for its body.
    Manifest(Arc<Manifest>),
}

impl MetaValue {
    /// Bytes on disk, without the key.
    pub fn encoded_len(&self) -> usize {
        1 + match self {
            Self::Removed => 0,
            Self::Entry(bytes) => bytes.len(),
            Self::Manifest(manifest) => manifest.encoded_len(),
        }
    }

    /// Bytes an entry with this value takes on disk.
    pub fn padded(&self) -> usize {
        padded(MetaKey::ENCODED, self.encoded_len())
    }
}

impl foyer::Code for MetaValue {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        let (tag, bytes) = match self {
            Self::Removed => (0, Bytes::new()),
            Self::Entry(bytes) => (1, bytes.clone()),
            Self::Manifest(manifest) => (2, Bytes::from(manifest.encode())),
        };
        writer.write_all(&[tag]).and_then(|()| writer.write_all(&bytes)).map_err(foyer::Error::io_error)
    }

    /// Reads to the end of `reader`: foyer hands over exactly the bytes of one value, after checking their checksum.
    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(foyer::Error::io_error)?;
        match bytes.split_first() {
            Some((0, [])) => Ok(Self::Removed),
            Some((1, _)) => Ok(Self::Entry(Bytes::from(bytes).slice(1..))),
            Some((2, manifest)) => match Manifest::decode(manifest) {
                Ok(manifest) => Ok(Self::Manifest(Arc::new(manifest))),
                Err(error) => Err(unreadable("manifest").with_source(error)),
            },
            _ => Err(unreadable("value of an unknown kind")),
        }
    }

    fn estimated_size(&self) -> usize {
        self.encoded_len()
    }
}

fn unreadable(what: &'static str) -> foyer::Error {
    foyer::Error::new(foyer::ErrorKind::Parse, what)
}

#[cfg(test)]
mod tests {
    use foyer::Code;

    use super::*;
    use crate::store::manifest::{Announced, Inside};

    fn survive<T: Code + PartialEq + std::fmt::Debug>(value: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        value.encode(&mut bytes).unwrap();
        assert_eq!(T::decode(&mut bytes.as_slice()).unwrap(), *value);
        bytes
    }

    #[test]
    fn keys_and_values_survive_the_disk() {
        for key in [MetaKey::Manifest(BlobId([9; 16])), MetaKey::Entry(EntryKey::new(3, [7; 32]))] {
            assert_eq!(survive(&key).len(), MetaKey::ENCODED);
        }
        let manifest = Manifest {
            blob: BlobId([1; 16]),
            size: 5,
            file_hash: [1; 32],
            compression: 4,
            inside: Some(Inside { nar_hash: [2; 32], nar_size: 9, addressed: true }),
            announced: Some(Announced { store_hash: [b'z'; 32], nar_hash: [2; 32], nar_size: 9, basis: [4; 16] }),
            digests: vec![[3; 16]],
        };
        let values = [
            MetaValue::Removed,
            MetaValue::Entry(Bytes::new()),
            MetaValue::Entry(Bytes::from_static(b"StorePath: x")),
            MetaValue::Manifest(Arc::new(manifest)),
        ];
        for value in values {
            assert_eq!(survive(&value).len(), value.encoded_len());
        }
    }

    #[test]
    fn what_was_not_written_by_us_is_refused() {
        for bytes in [&[][..], &[3], &[0, 1], &[2, 1, 2, 3]] {
            assert!(MetaValue::decode(&mut &*bytes).is_err(), "{bytes:?}");
        }
        assert!(MetaKey::decode(&mut &[2; MetaKey::ENCODED][..]).is_err());
    }
}
