//! NARs: from the store, from a running fill, or from an upstream by a fill started here.
//!
//! A NAR URL says which bytes are meant ([`Meant`]), so the store is asked without any narinfo. Only on a miss is the
//! narinfo needed: it tells where the bytes can be had (see `sources`), and when what it names is gone, everybody is asked
//! anew, once.

use std::ops::Range;
use std::sync::Arc;

use futures_util::StreamExt;

use super::Proxy;
use super::answer::{Answer, BodyError, BodyStream, FailureKind, Nar, Outcome, Reply};
use super::entry::{Alias, Entry};
use super::narinfo::Found;
use super::request::NarName;
use super::trust;
use crate::fill::{Broken, Fill, FillFailure, Plan, Reader, blob_of, code_of};
use crate::nix::hash::Sha256;
use crate::nix::narinfo::{Compression, NarInfo};
use crate::nix::store_path::HashPart;
use crate::store::{BlobId, Manifest};
use crate::upstream::{Said, WhenDown};

/// The bytes a NAR URL means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Meant {
    /// The store path, unless the URL does not say it.
    pub(super) hash: Option<HashPart>,
    /// FileHash, or NarHash where there is no compression.
    pub(super) digest: Sha256,
    pub(super) compression: Compression,
}

impl Meant {
    /// The bytes a narinfo names; `None` when nothing in it identifies them.
    pub(super) fn by(info: &NarInfo) -> Option<Self> {
        let digest = trust::digest(info)?;
        Some(Self { hash: Some(info.store_path.hash()), digest, compression: info.compression })
    }

    fn blob(&self) -> BlobId {
        blob_of(&self.digest)
    }

    /// Whether a manifest is about these bytes: its name is only half of the digest.
    fn is(&self, manifest: &Manifest) -> bool {
        manifest.file_hash == *self.digest.as_bytes() && manifest.compression == code_of(self.compression)
    }

    pub(super) fn is_in(&self, info: &NarInfo) -> bool {
        trust::digest(info) == Some(self.digest) && info.compression == self.compression
    }
}

impl From<Alias> for Meant {
    fn from(Alias { hash, digest, compression, .. }: Alias) -> Self {
        Self { hash: Some(hash), digest, compression }
    }
}

/// Why there is nothing to fill from.
pub(super) struct Nowhere {
    outcome: Outcome,
    kind: FailureKind,
    text: String,
}

impl Nowhere {
    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self { outcome: Outcome::NotFound, kind: FailureKind::NotFound, text: text.into() }
    }

    /// "Not found", as it was found out a moment ago.
    pub(super) fn remembered(meant: &Meant) -> Self {
        let text = format!("no upstream has a NAR with the hash {}", meant.digest);
        Self { outcome: Outcome::Negative, kind: FailureKind::NotFound, text }
    }

    pub(super) fn unknown(text: impl Into<String>) -> Self {
        Self { outcome: Outcome::Unknown, kind: FailureKind::BadGateway, text: text.into() }
    }
}

impl Nowhere {
    /// Whether it is sure that nobody has it.
    pub(super) fn is_not_found(&self) -> bool {
        self.kind == FailureKind::NotFound
    }

    /// The reason, for the log.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

impl From<Nowhere> for Answer {
    fn from(nowhere: Nowhere) -> Self {
        Self::failed(nowhere.outcome, nowhere.kind, nowhere.text)
    }
}

impl Proxy {
    pub(super) async fn nar(&self, name: NarName, head: bool) -> Answer {
        let meant = match self.meant(name).await {
            Ok(meant) => meant,
            Err(nowhere) => return nowhere.into(),
        };
        if let Some(manifest) = self.inner.store.manifest(meant.blob()).await.filter(|manifest| meant.is(manifest)) {
            self.inner.store.touch(meant.blob());
            return self.stored(meant, manifest);
        }
        if let Some(fill) = self.inner.fills.running(meant.blob()) {
            self.inner.metrics.coalesced.inc();
            // When it fails, its source may have been another upstream than this client's: see below.
            if let Ok(answer) = self.following(meant, &fill, Outcome::Follower).await {
                return answer;
            }
        }
        let plan = match self.plan(meant).await {
            Ok(plan) => plan,
            Err(nowhere) => return nowhere.into(),
        };
        if head {
            return self.head(meant, &plan).await;
        }
        self.filled(meant, plan).await
    }

    /// Which bytes a URL means; the shapes without a digest are looked up.
    async fn meant(&self, name: NarName) -> Result<Meant, Nowhere> {
        match name {
            NarName::Full { hash, digest, compression } => Ok(Meant { hash: Some(hash), digest, compression }),
            NarName::ByNarHash { nar_hash, hash } => {
                Ok(Meant { hash: Some(hash), digest: nar_hash, compression: Compression::None })
            }
            NarName::ByStorePath { hash, path } => {
                let (entry, info) = self.narinfo_for_nar(hash).await?;
                // An uncompressed NAR has many names, but none that says it is compressed.
                if entry.note == path || info.compression == Compression::None && path.ends_with(".nar") {
                    return Meant::by(&info)
                        .ok_or_else(|| Nowhere::not_found(format!("the narinfo of {hash} has no FileHash")));
                }
                Err(Nowhere::not_found(format!("{path} is not the NAR that the narinfo of {hash} names")))
            }
            NarName::ByFileHash { file_hash, compression } => {
                let by_name = Meant { hash: None, digest: file_hash, compression };
                if self.inner.store.manifest(by_name.blob()).await.is_some_and(|manifest| by_name.is(&manifest)) {
                    return Ok(by_name);
                }
                let path = format!("nar/{}.nar{}", file_hash.nix32(), compression.extension());
                // A name that is a hash means what has that hash, as a file or, as newer Hydras name it, as a NAR.
                let announced = self.announced(&path).await;
                let named = announced.filter(|alias| alias.digest == file_hash || alias.nar_hash == file_hash);
                Ok(named.map_or(by_name, Meant::from))
            }
            NarName::Opaque(path) => match self.announced(&path).await {
                Some(alias) => Ok(alias.into()),
                None => Err(Nowhere::not_found(format!("no narinfo that was served here names {path}"))),
            },
        }
    }

    pub(super) async fn narinfo_for_nar(&self, hash: HashPart) -> Result<(Entry, NarInfo), Nowhere> {
        match self.find_narinfo(hash).await.0 {
            Found::Have(entry) | Found::Stale(entry) => match self.info_of(&entry) {
                Some(info) => Ok((entry, info)),
                None => Err(Nowhere::unknown(format!("the narinfo of {hash} that was kept cannot be read"))),
            },
            Found::HaveNot => Err(Nowhere::not_found(format!("no upstream has {hash}"))),
            Found::Refused(why) => Err(Nowhere::not_found(why.as_ref())),
            Found::Unknown(why) => Err(Nowhere::unknown(why.as_ref())),
        }
    }

    fn stored(&self, meant: Meant, manifest: Arc<Manifest>) -> Answer {
        let (fills, blob, size) = (self.inner.fills.clone(), meant.blob(), manifest.size);
        let locate = self.locator(meant);
        let open = move |range| into_body(Reader::stored(fills, blob, manifest, locate, range));
        nar_answer(Outcome::Hit, Some(size), &meant, Box::new(open))
    }

    async fn following(&self, meant: Meant, fill: &Arc<Fill>, outcome: Outcome) -> Result<Answer, Nowhere> {
        let ready = fill.ready().await.map_err(|broken| nowhere(&broken))?;
        let (fills, fill, locate) = (self.inner.fills.clone(), Arc::clone(fill), self.locator(meant));
        let open = move |range| into_body(Reader::following(fills, fill, locate, range));
        Ok(nar_answer(outcome, ready.size, &meant, Box::new(open)))
    }

    async fn filled(&self, meant: Meant, plan: Plan) -> Answer {
        let (fill, started) = self.inner.fills.start(plan);
        let outcome = if started { Outcome::Miss } else { Outcome::Follower };
        let gone = match self.following(meant, &fill, outcome).await {
            Ok(answer) => return answer,
            Err(nowhere) if nowhere.kind == FailureKind::NotFound => nowhere,
            Err(nowhere) => return nowhere.into(),
        };
        // The upstream's narinfo names what it has not: it was rebuilt or collected since. Everybody is asked anew, once:
        // one who was not asked, because another had the narinfo, may have the NAR (R18).
        let Some(hash) = meant.hash else {
            self.remember_missing(&meant);
            return gone.into();
        };
        self.expire(hash).await;
        let announcers = self.announcers(meant, hash).await;
        let unknown = announcers.unknown.clone();
        let mut nowhere = gone;
        if let Some(plan) = announcers.plan {
            let (fill, _) = self.inner.fills.start(plan);
            match self.following(meant, &fill, outcome).await {
                Ok(answer) => return answer,
                Err(why) => nowhere = why,
            }
        }
        match unknown {
            Some(why) if nowhere.is_not_found() => Nowhere::unknown(why.as_ref()).into(),
            _ => nowhere.into(),
        }
    }

    /// HEAD of a NAR that is not here: true to what the upstream has, without fetching it.
    async fn head(&self, meant: Meant, plan: &Plan) -> Answer {
        let mut failure = Nowhere::not_found("no upstream has this NAR any more");
        for source in &plan.sources {
            // A GET whose body is not read closes its connection; HEAD would not be safe (nix-serve-wire.md, 1).
            match source.upstream.open(&source.target, 0, Some(0)).await {
                Ok(Said::Have(opened))
                    if opened.total.is_some() && plan.size.is_some() && opened.total != plan.size =>
                {
                    failure = Nowhere::unknown(format!("upstream {} has another size for it", source.upstream.name()));
                }
                Ok(Said::Have(opened)) => {
                    let size = plan.size.or(opened.total);
                    let open = |_| -> BodyStream { Box::pin(futures_util::stream::empty()) };
                    return nar_answer(Outcome::Miss, size, &meant, Box::new(open));
                }
                Ok(Said::HaveNot) => {}
                Err(error) if source.upstream.when_down() == WhenDown::Error => {
                    failure = Nowhere::unknown(error.to_string());
                }
                Err(_) => {}
            }
        }
        failure.into()
    }
}

fn nowhere(broken: &Broken) -> Nowhere {
    match broken.reason {
        FillFailure::Gone => Nowhere::not_found(broken.to_string()),
        FillFailure::Internal => {
            Nowhere { outcome: Outcome::Internal, kind: FailureKind::Internal, text: broken.to_string() }
        }
        FillFailure::WrongHash | FillFailure::WrongSize | FillFailure::Long => {
            Nowhere { outcome: Outcome::Refused, kind: FailureKind::BadGateway, text: broken.to_string() }
        }
        FillFailure::Unknown
        | FillFailure::Cut
        | FillFailure::Short
        | FillFailure::Abandoned
        | FillFailure::Stopped => Nowhere::unknown(broken.to_string()),
    }
}

fn nar_answer(
    outcome: Outcome,
    size: Option<u64>,
    meant: &Meant,
    open: Box<dyn FnOnce(Option<Range<u64>>) -> BodyStream + Send>,
) -> Answer {
    Answer { outcome, reply: Reply::Nar(Nar { size, etag: meant.digest.nix32(), open }) }
}

fn into_body(reader: Reader) -> BodyStream {
    Box::pin(reader.into_stream().map(|piece| piece.map_err(BodyError::from)))
}
