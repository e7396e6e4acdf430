//! Nix's own formats: what a binary cache says, read strictly and written canonically.
//!
//! Nothing here does I/O, waits, or knows of HTTP: bytes in, values out. The rest of the program handles store paths,
//! hashes and narinfos only as the types of this room, so whatever reached a cache entry or a signature went through
//! these parsers.
//!
//! The rule for every reader: what we accept, Nix reads from our own rendering with the same meaning. Where Nix is
//! laxer (the last duplicate wins, one arbitrary character after the colon), we refuse instead of guessing. The
//! opposite is not promised: Nix accepts texts that we do not.
//!
//! Out of scope: signing and secret keys, unpacking NARs, and anything about where the bytes come from.

pub mod base32;
pub mod cache_info;
pub mod excerpt;
pub mod hash;
#[cfg(any(test, fuzzing))]
pub mod laws;
pub mod nar;
pub mod nar_url;
pub mod narinfo;
pub mod signature;
pub mod store_path;
