//! What a client can ask for, parsed: no byte of its request goes further than this (R13).

use std::fmt;
use std::net::IpAddr;

use crate::nix::hash::Sha256;
use crate::nix::narinfo::Compression;
use crate::nix::store_path::{HashPart, StorePath};

/// Who asks, as far as it matters to what is done for the answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asker {
    /// The client's address.
    pub address: Option<IpAddr>,
    /// Whether only a head is asked for.
    pub head: bool,
    /// The largest NAR that is fetched ahead for who comes this way, in bytes.
    pub prefetch: Option<u64>,
}

/// A request for something a binary cache has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `nix-cache-info`
    CacheInfo,
    /// `<hash>.narinfo`
    NarInfo(HashPart),
    /// `nar/...`
    Nar(NarName),
    /// Anything small that is passed on as it is.
    Small(Small),
}

/// The shapes of NAR URL that are known: ours, and those that clients still remember from what was here before
/// (they keep narinfos for 30 days).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NarName {
    /// `nar/<hash>-<digest>.nar[.ext]`: ours; with no extension also nix-serve's, where the digest is the NarHash.
    Full {
        /// The store path's hash part.
        hash: HashPart,
        /// FileHash, or NarHash where there is no compression.
        digest: Sha256,
        /// As the extension says.
        compression: Compression,
    },
    /// `nar/<hash>.nar[.ext]`: nix-serve's old form, and attic's.
    ByStorePath {
        /// The store path's hash part.
        hash: HashPart,
        /// The path as asked, without the leading `/`.
        path: String,
    },
    /// `nar/<narhash>.nar?hash=<hash>`: harmonia's.
    ByNarHash {
        /// NarHash.
        nar_hash: Sha256,
        /// The store path's hash part.
        hash: HashPart,
    },
    /// `nar/<filehash>.nar[.ext]`: what cache.nixos.org and `nix copy` write. Newer Hydras put the NarHash there.
    ByFileHash {
        /// The hash in the name.
        file_hash: Sha256,
        /// As the extension says.
        compression: Compression,
    },
    /// Anything else below `nar/`, with its query: known only if a narinfo announced it.
    Opaque(
        /// The path and query as asked, without the leading `/`.
        String,
    ),
}

/// Small things beside narinfos.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Small {
    /// `<hash>.ls`
    Listing(HashPart),
    /// `log/<store path base name>`; Nix asks by derivation, nix-serve also knows output paths.
    Log(StorePath),
    /// `realisations/sha256:<64 hex>!<output>.doi`
    Realisation {
        /// The derivation hash modulo, in lower-case hex.
        hash: String,
        /// The output's name.
        output: String,
    },
    /// `build-trace-v2/<drv base name>/<output>.doi`
    BuildTrace {
        /// The derivation.
        drv: StorePath,
        /// The output's name.
        output: String,
    },
    /// `debuginfo/<build-id>[.debug]`
    DebugInfo {
        /// The build id, 40 lower-case hex digits, with `.debug` when that was asked.
        id: String,
    },
}

impl Small {
    /// The path to ask an upstream for, relative to its base, written from the parsed parts.
    pub fn path(&self) -> String {
        match self {
            Self::Listing(hash) => format!("{hash}.ls"),
            Self::Log(drv) => format!("log/{}", escape(&drv.base_name())),
            Self::Realisation { hash, output } => format!("realisations/sha256:{hash}!{}.doi", escape(output)),
            Self::BuildTrace { drv, output } => {
                format!("build-trace-v2/{}/{}.doi", escape(&drv.base_name()), escape(output))
            }
            Self::DebugInfo { id } => format!("debuginfo/{id}"),
        }
    }

    /// Its `Content-Type`.
    pub fn content_type(&self) -> &'static str {
        match self {
            Self::Log(_) => "text/plain; charset=utf-8",
            _ => "application/json",
        }
    }

    /// Whether a body may be one. Nothing signs these, and what answers everything with a page (a login, a proxy that is out of
    /// order) is believed by its status alone: so a page is no log, and what is no JSON object nothing of the others.
    pub fn may_be(&self, body: &[u8]) -> bool {
        let start = body.trim_ascii_start();
        match self {
            Self::Log(_) => {
                let begins = |page: &[u8]| start.get(..page.len()).is_some_and(|s| s.eq_ignore_ascii_case(page));
                !begins(b"<!doctype html") && !begins(b"<html")
            }
            _ => start.first() == Some(&b'{'),
        }
    }
}

/// What is asked for, as a path without the leading `/`: written from what was parsed, in the one way there is. Only for a
/// name of unknown form, which can but be compared, that is the text itself, of visible ASCII.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CacheInfo => f.write_str("nix-cache-info"),
            Self::NarInfo(hash) => write!(f, "{hash}.narinfo"),
            Self::Nar(NarName::Full { hash, digest, compression }) => {
                write!(f, "nar/{hash}-{}.nar{}", digest.nix32(), compression.extension())
            }
            Self::Nar(NarName::ByNarHash { nar_hash, hash }) => write!(f, "nar/{}.nar?hash={hash}", nar_hash.nix32()),
            Self::Nar(NarName::ByFileHash { file_hash, compression }) => {
                write!(f, "nar/{}.nar{}", file_hash.nix32(), compression.extension())
            }
            Self::Nar(NarName::ByStorePath { path, .. } | NarName::Opaque(path)) => f.write_str(path),
            Self::Small(small) => f.write_str(&small.path()),
        }
    }
}

/// Store path names may hold `?`, which would begin a query; their other characters (`+ - . _ =`) stand for themselves
/// in a path (RFC 3986 section 3.3).
fn escape(name: &str) -> String {
    name.replace('?', "%3F")
}
