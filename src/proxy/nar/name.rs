//! Which bytes a NAR URL means.
//!
//! Ours say it all. Of the others a name that is a hash means what has that hash: as a file, which is what most caches write,
//! or as newer Hydras name it as a NAR. Which of the two, the narinfo tells that announced the URL here; but FileHash and
//! URL are signed by nobody, and any upstream may announce any name. So when what was announced cannot be had, because it
//! is refused or gone, the name is taken for the hash of a file after all: then it is itself the proof of the bytes.

use super::super::Pipeline;
use super::super::answer::Answer;
use super::super::entry::Alias;
use super::super::request::NarName;
use super::{Meant, Nowhere};
use crate::fill::{Plan, Prove};
use crate::nix::narinfo::Compression;

/// What a NAR URL means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    pub(super) meant: Meant,
    /// What else it may mean, where its name is a hash and a narinfo says of which path.
    by_name: Option<ByName>,
}

/// The bytes whose hash a name is.
#[derive(Debug, Clone, Copy)]
struct ByName {
    meant: Meant,
    /// Whether the narinfo says the same of the bytes, and only more of what is in them.
    agrees: bool,
}

impl From<Meant> for Named {
    fn from(meant: Meant) -> Self {
        Self { meant, by_name: None }
    }
}

impl ByName {
    fn beside(alias: &Alias, meant: Meant) -> Self {
        // One digest for both: the narinfo has no FileHash, so that it is the NAR's.
        Self { meant, agrees: alias.digest == meant.digest && alias.nar_hash != meant.digest }
    }
}

impl Pipeline {
    /// Which bytes a URL means; the shapes without a digest are looked up.
    pub(super) async fn named(&self, name: NarName) -> Result<Named, Nowhere> {
        match name {
            NarName::Full { hash, digest, compression } => Ok(Meant { hash: Some(hash), digest, compression }.into()),
            NarName::ByNarHash { nar_hash, hash } => {
                Ok(Meant { hash: Some(hash), digest: nar_hash, compression: Compression::None }.into())
            }
            NarName::ByStorePath { hash, path } => {
                let (entry, info) = Box::pin(self.narinfo_for_nar(hash)).await?;
                // An uncompressed NAR has many names, but none that says it is compressed.
                if entry.note == path || info.compression == Compression::None && path.ends_with(".nar") {
                    return Ok(Meant::by(&info).into());
                }
                Err(Nowhere::not_found(format!("{path} is not the NAR that the narinfo of {hash} names")))
            }
            NarName::ByFileHash { file_hash, compression } => {
                let by_name = Meant { hash: None, digest: file_hash, compression };
                if self.shared.store.manifest(by_name.blob()).await.is_some_and(|manifest| by_name.is(&manifest)) {
                    return Ok(by_name.into());
                }
                let path = format!("nar/{}.nar{}", file_hash.nix32(), compression.extension());
                let announced = self.announced(&path).await;
                Ok(match announced.filter(|alias| alias.digest == file_hash || alias.nar_hash == file_hash) {
                    Some(alias) => Named { meant: alias.into(), by_name: Some(ByName::beside(&alias, by_name)) },
                    None => by_name.into(),
                })
            }
            NarName::Opaque(path) => match self.announced(&path).await {
                Some(alias) => Ok(Meant::from(alias).into()),
                None => Err(Nowhere::not_found(format!("no narinfo that was served here names {path}"))),
            },
        }
    }

    /// The bytes whose hash the name is, where what a narinfo says of it came to nothing. An upstream that does not answer
    /// is waited for where the name may be a NAR's: then there are no bytes with that hash.
    pub(super) async fn nar_by_name(&self, named: &Named, nowhere: Nowhere, head: bool) -> Result<Answer, Nowhere> {
        let Some(by_name) = named.by_name.filter(|by_name| by_name.agrees || nowhere.is_not_found()) else {
            return Err(nowhere);
        };
        match self.fetched_by_name(by_name, head).await {
            Ok(answer) => Ok(answer),
            // R18: not 404 while either is unknown.
            Err(unknown) if nowhere.is_not_found() && !unknown.is_not_found() => Err(unknown),
            Err(_) => Err(nowhere),
        }
    }

    async fn fetched_by_name(&self, ByName { meant, agrees }: ByName, head: bool) -> Result<Answer, Nowhere> {
        // A fill of what was announced may run still, for somebody else, and have the same name.
        if let Some(answer) = self.at_hand(meant).await? {
            return Ok(answer);
        }
        let plan = self.plan(meant).await?;
        // Where the name may be a NAR's, nothing of the file leaves before it has the hash.
        let prove = if agrees { plan.prove } else { Prove::First };
        self.fetched_by(meant, Plan { prove, ..plan }, head).await
    }
}
