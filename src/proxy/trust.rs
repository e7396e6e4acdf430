//! From an upstream's text to something that may be cached and served: [`Verified`] has no other source than
//! [`Verified::check`] (R1, R2, R6, R14).

use crate::metrics::Refusal;
use crate::nix::hash::Sha256;
use crate::nix::nar_url::NarUrl;
use crate::nix::narinfo::{Compression, NarInfo};
use crate::nix::signature::PublicKey;
use crate::nix::store_path::{HashPart, StoreDir};
use crate::upstream::{Trust, Upstream};

/// A narinfo that is about the path asked for, well formed, and vouched for as its upstream must.
#[derive(Debug)]
pub(super) struct Verified {
    info: NarInfo,
    url: NarUrl,
    digest: Sha256,
}

/// Why a narinfo is not believed.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reason: Refusal,
    pub(super) text: String,
}

impl Verified {
    /// Checks what `upstream` sent for `asked`.
    pub(super) fn check(text: &[u8], asked: HashPart, upstream: &Upstream, dir: &StoreDir) -> Result<Self, Refused> {
        let refused = |reason, text: String| Refused { reason, text };
        let info = NarInfo::parse(text, dir).map_err(|e| refused(Refusal::Malformed, e.to_string()))?;
        if info.store_path.hash() != asked {
            let text = format!("it is about {}", info.store_path.base_name());
            return Err(refused(Refusal::OtherPath, text));
        }
        if upstream.trust() == Trust::Keys
            && upstream.keys().verify(info.fingerprint(dir).as_bytes(), &info.sigs).is_none()
        {
            let names: Vec<&str> = upstream.keys().iter().map(PublicKey::name).collect();
            let text = format!("no valid signature by a key trusted for this upstream ({})", names.join(", "));
            return Err(refused(Refusal::Untrusted, text));
        }
        if info.file_size.is_some_and(|size| size > NarInfo::largest_file(info.nar_size)) {
            let text =
                format!("FileSize {} is absurd for NarSize {}", info.file_size.unwrap_or_default(), info.nar_size);
            return Err(refused(Refusal::Malformed, text));
        }
        let url = NarUrl::parse(&info.url, upstream.base()).map_err(|e| refused(Refusal::BadUrl, e.to_string()))?;
        let Some(digest) = digest(&info) else {
            let text = "it is compressed and has no FileHash".to_owned();
            return Err(refused(Refusal::Unprovable, text));
        };
        Ok(Self { info, url, digest })
    }

    /// The narinfo.
    pub(super) fn info(&self) -> &NarInfo {
        &self.info
    }

    /// The URL its upstream announced.
    pub(super) fn url(&self) -> &NarUrl {
        &self.url
    }

    /// The text we serve: canonical, with the URL that says all that is needed to find the bytes again.
    pub(super) fn render(&self, dir: &StoreDir) -> String {
        let mut info = self.info.clone();
        info.url = nar_url(info.store_path.hash(), &self.digest, info.compression);
        info.render(dir)
    }
}

/// What identifies the body behind a narinfo: FileHash, or NarHash where there is no compression.
pub(super) fn digest(info: &NarInfo) -> Option<Sha256> {
    match info.compression {
        Compression::None => Some(info.nar_hash),
        _ => info.file_hash,
    }
}

/// The URL we hand out; design.md, idea 2.
pub(super) fn nar_url(hash: HashPart, digest: &Sha256, compression: Compression) -> String {
    format!("nar/{hash}-{}.nar{}", digest.nix32(), compression.extension())
}

/// What an entry's trust rests on: when the store directory, the upstream's URL, its trust or its keys change in the
/// configuration, the fingerprint does too, and what only the old ones vouched for is not served any more.
pub(super) fn fingerprint(upstream: &Upstream, dir: &StoreDir) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(dir.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(upstream.base().as_str().as_bytes());
    hasher.update(&[0, upstream.trust() as u8]);
    let mut keys: Vec<String> = upstream.keys().iter().map(ToString::to_string).collect();
    keys.sort_unstable();
    for key in keys {
        hasher.update(key.as_bytes());
        hasher.update(&[0]);
    }
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    fingerprint
}
