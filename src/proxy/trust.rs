//! From an upstream's text to something that may be kept, served and signed: [`Verified`] has no other source than
//! [`Verified::check`], for what just came, and [`Verified::check_kept`], for what was kept (R1, R2, R6, R14).
//!
//! What it rests on is part of it ([`Voucher`]): a key of the upstream that sent it, the content address of the path, the
//! operator's word, or nothing. A key of one upstream never vouches for another.

use super::options::Verify;
use super::policy::Ground;
use crate::decompress;
use crate::fill::Claim;
use crate::metrics::Refusal;
use crate::nix::excerpt::Excerpt;
use crate::nix::hash::Sha256;
use crate::nix::nar_url::NarUrl;
use crate::nix::narinfo::{Compression, ContentAddress, NarInfo};
use crate::nix::signature::{PublicKey, Signature};
use crate::nix::store_path::{HashPart, StoreDir};
use crate::store::Manifest;
use crate::upstream::{Trust, Upstream};

/// Who says that a narinfo is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voucher {
    /// A key of the upstream.
    Key,
    /// The path itself: it is made from the content address (CA). That the content has it, only its NAR can show.
    ContentAddress,
    /// The operator, for whatever the upstream says.
    Operator,
    /// Nobody: it is passed on.
    Nobody,
}

impl Voucher {
    const ALL: [Self; 4] = [Self::Key, Self::ContentAddress, Self::Operator, Self::Nobody];

    /// The voucher with this number, as `as u8` gives it.
    pub(super) fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|voucher| *voucher as u8 == code)
    }
}

/// A narinfo that is about the path asked for, well formed, and vouched for as its upstream must.
#[derive(Debug)]
pub(super) struct Verified {
    info: NarInfo,
    url: NarUrl,
    digest: Sha256,
    voucher: Voucher,
    ground: Ground,
    /// What it claims was found in its NAR.
    proven: bool,
}

/// Why a narinfo is not believed.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reason: Refusal,
    pub(super) text: String,
}

impl Refused {
    pub(super) fn new(reason: Refusal, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

/// By which rules narinfos are checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) dir: &'a StoreDir,
    pub(super) verify: Verify,
}

impl Verified {
    /// Checks what `upstream` sent for `asked`.
    pub(super) fn check(text: &[u8], asked: HashPart, upstream: &Upstream, rules: Rules<'_>) -> Result<Self, Refused> {
        let info =
            NarInfo::parse(text, rules.dir).map_err(|error| Refused::new(Refusal::Malformed, error.to_string()))?;
        Self::check_info(info, asked, upstream, rules)
    }

    /// Checks once more what was kept of `upstream`, which may be trusted otherwise by now: the text without our own
    /// signatures, and the URL that was announced.
    pub(super) fn check_kept(
        text: &[u8],
        url: &str,
        asked: HashPart,
        upstream: &Upstream,
        rules: Rules<'_>,
    ) -> Result<Self, Refused> {
        let mut info = NarInfo::parse_rendered(text, rules.dir)
            .map_err(|error| Refused::new(Refusal::Malformed, error.to_string()))?;
        url.clone_into(&mut info.url);
        Self::check_info(info, asked, upstream, rules)
    }

    fn check_info(info: NarInfo, asked: HashPart, upstream: &Upstream, rules: Rules<'_>) -> Result<Self, Refused> {
        // R6
        if info.store_path.hash() != asked {
            return Err(Refused::new(Refusal::OtherPath, format!("it is about {}", info.store_path.base_name())));
        }
        let Some((voucher, ground)) = voucher(&info, upstream, rules.dir) else {
            let names: Vec<&str> = upstream.keys().iter().map(PublicKey::name).collect();
            let names = names.join(", ");
            let found = signers(&info.sigs);
            let text = format!("it has no valid signature by a key trusted for this upstream ({names}); {found}");
            return Err(Refused::new(Refusal::Untrusted, text));
        };
        if info.file_size.is_some_and(|size| size > NarInfo::largest_file(info.nar_size)) {
            let size = info.file_size.unwrap_or_default();
            let text = format!("FileSize {size} is absurd for NarSize {}", info.nar_size);
            return Err(Refused::new(Refusal::Malformed, text));
        }
        // R14
        let url = NarUrl::parse(&info.url, upstream.base())
            .map_err(|error| Refused::new(Refusal::BadUrl, error.to_string()))?;
        let provable = decompress::supports(info.compression);
        if !provable && (info.file_hash.is_none() || rules.verify == Verify::BeforeFirstByte) {
            let text = format!("its NAR cannot be proven: {} is not understood here", info.compression);
            return Err(Refused::new(Refusal::Unprovable, text));
        }
        let digest = digest(&info);
        Ok(Self { info, url, digest, voucher, ground, proven: false })
    }

    /// The narinfo.
    pub(super) fn info(&self) -> &NarInfo {
        &self.info
    }

    /// The URL its upstream announced.
    pub(super) fn url(&self) -> &NarUrl {
        &self.url
    }

    /// Who vouches for it.
    pub(super) fn voucher(&self) -> Voucher {
        self.voucher
    }

    /// Why it is believed, in one word that can be kept.
    pub(super) fn ground(&self) -> Ground {
        self.ground
    }

    /// What it claims of its NAR.
    pub(super) fn claim(&self) -> Claim {
        claim(&self.info, self.voucher, self.ground)
    }

    /// Takes note of what was found in its NAR. For what only a content address vouches for the content must have it, and
    /// nothing else must be able to.
    pub(super) fn seen_in(mut self, manifest: &Manifest) -> Self {
        let strong = self.info.ca.as_ref().is_some_and(ContentAddress::is_strong);
        let addressed = strong && manifest.is_addressed_as(self.info.store_path.hash().as_bytes());
        self.proven =
            self.claim().holds_for(manifest) == Some(true) && (addressed || self.voucher != Voucher::ContentAddress);
        self
    }

    /// Whether its NAR was seen to be what it claims.
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    /// The narinfo as it is served: canonical, with the URL that says all that is needed to find the bytes again.
    pub(super) fn served(&self, dir: &StoreDir) -> NarInfo {
        let mut info = self.info.clone();
        info.url = nar_url(info.store_path.hash(), &self.digest, info.compression);
        // Nobody signs it, and a client refuses a NAR for an address that is not its own.
        if made_by_address(&info, dir).is_some_and(|made| made != info.store_path.hash()) {
            info.ca = None;
        }
        info
    }
}

/// Whose names are in the signatures that were found, so that an operator can see which key is missing: a few, shortened.
fn signers(sigs: &[Signature]) -> String {
    const SHOWN: usize = 4;
    let mut names: Vec<&str> = sigs.iter().map(|sig| sig.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| Excerpt::of(name).to_string()).collect();
    match (shown.join(", "), names.len().saturating_sub(SHOWN)) {
        (_, _) if names.is_empty() => "it has none at all".to_owned(),
        (shown, 0) => format!("those that it has are in the name of {shown}"),
        (shown, more) => format!("those that it has are in the name of {shown} and {more} more"),
    }
}

/// Who vouches for a narinfo of this upstream; `None` when it is not enough (R1).
fn voucher(info: &NarInfo, upstream: &Upstream, dir: &StoreDir) -> Option<(Voucher, Ground)> {
    if upstream.trust() == Trust::Pass {
        return Some((Voucher::Nobody, Ground::word(upstream, dir)));
    }
    if let Some(key) = upstream.keys().verify(info.fingerprint(dir).as_bytes(), &info.sigs) {
        return Some((Voucher::Key, Ground::key(key, dir)));
    }
    // Nix's `isContentAddressed` (src/libstore/path-info.cc): no signature is needed where the address gives the path.
    if is_content_addressed(info, dir) {
        return Some((Voucher::ContentAddress, Ground::content(dir)));
    }
    (upstream.trust() == Trust::Origin).then(|| (Voucher::Operator, Ground::word(upstream, dir)))
}

/// Whether the path is made from its content address, and one that can be held against the content here: what cannot be
/// checked is not believed.
fn is_content_addressed(info: &NarInfo, dir: &StoreDir) -> bool {
    let (path, Some(address)) = (&info.store_path, &info.ca) else { return false };
    let can_be_checked = || address.check(path.hash(), info.references.contains(path)).is_some();
    made_by_address(info, dir) == Some(path.hash()) && can_be_checked()
}

/// The hash part that the content address leads to, where there is one and Nix's rule is computed here.
fn made_by_address(info: &NarInfo, dir: &StoreDir) -> Option<HashPart> {
    let path = &info.store_path;
    info.ca.as_ref()?.store_path(path.name(), &info.references, path.hash(), dir)
}

/// What a narinfo claims of its NAR. Its content address is a part of that only where the path is made from it and nobody
/// else vouches: an address that leads elsewhere says nothing about the path, and where a key vouches for the NAR nobody
/// signed the address, so that a stranger could have put it there to have the NAR refused.
pub(super) fn claim(info: &NarInfo, voucher: Voucher, ground: Ground) -> Claim {
    let refers_to_itself = info.references.contains(&info.store_path);
    Claim {
        hash: info.store_path.hash(),
        name: info.store_path.base_name(),
        nar_hash: info.nar_hash,
        nar_size: info.nar_size,
        address: info
            .ca
            .clone()
            .filter(|_| voucher == Voucher::ContentAddress)
            .map(|address| (address, refers_to_itself)),
        basis: ground.0,
    }
}

/// What identifies the body behind a narinfo: FileHash, or NarHash where there is none.
pub(super) fn digest(info: &NarInfo) -> Sha256 {
    file_hash(info).unwrap_or(info.nar_hash)
}

/// The hash of the body, where the narinfo tells it.
pub(super) fn file_hash(info: &NarInfo) -> Option<Sha256> {
    match info.compression {
        Compression::None => Some(info.nar_hash),
        _ => info.file_hash,
    }
}

/// The URL we hand out; design.md, idea 2.
pub(super) fn nar_url(hash: HashPart, digest: &Sha256, compression: Compression) -> String {
    format!("nar/{hash}-{}.nar{}", digest.nix32(), compression.extension())
}

#[cfg(test)]
mod tests;
