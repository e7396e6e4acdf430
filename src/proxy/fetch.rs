//! Having a path here before a client asks for it: its narinfo and its NAR, in whichever space has it.
//!
//! It is asked for as a client's request would be, so everything that holds for those holds here: what is verified, whose
//! fill it joins, how many run at a time.

use futures_util::StreamExt as _;

use super::answer::{Answer, Outcome, Reply};
use super::nar::Meant;
use super::narinfo::Found;
use super::{Pipeline, Proxy};
use crate::nix::narinfo::NarInfo;
use crate::nix::store_path::{HashPart, StorePath};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// It was here already.
    Here(Path),
    /// It is here now: so many bytes of it came.
    New(Path, u64),
    /// No upstream has it.
    Missing,
    /// Its narinfo is here, and its NAR cannot be had, for this reason.
    Lost(Path, String),
    /// It cannot be had, for this reason.
    Failed(String),
}

/// A path that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Its base name: hash and name.
    pub name: String,
    /// What it refers to, itself left out.
    pub references: Vec<HashPart>,
}

impl Path {
    pub(super) fn of(info: &NarInfo) -> Self {
        let itself = info.store_path.hash();
        let others = info.references.iter().map(StorePath::hash).filter(|other| *other != itself);
        Self { name: info.store_path.base_name(), references: others.collect() }
    }
}

impl Proxy {
    /// Has the path with this hash here, with nothing of it left to come. The spaces are asked one after the other, in the order in
    /// which clients' requests ask them. What is known to be of a private one is asked of that one alone: others need not hear
    /// what it is called.
    pub async fn fetch(&self, hash: HashPart) -> Fetched {
        let in_force = self.in_force.load_full();
        for pipeline in in_force.private() {
            if pipeline.kept_entry(hash).await.is_some() {
                return pipeline.fetch(hash).await;
            }
        }
        let mut worst = Fetched::Missing;
        for pipeline in in_force.in_order() {
            match pipeline.fetch(hash).await {
                Fetched::Missing => {}
                Fetched::Failed(why) => worst = Fetched::Failed(why),
                had => return had,
            }
        }
        worst
    }
}

impl Pipeline {
    async fn fetch(&self, hash: HashPart) -> Fetched {
        let (found, _) = self.find_narinfo(hash).await;
        let entry = match found {
            Found::Have(entry) | Found::Stale(entry) => entry,
            Found::HaveNot => return Fetched::Missing,
            Found::Refused(why) | Found::Unknown(why) => return Fetched::Failed(why.to_string()),
        };
        let Some(info) = self.info_of(&entry) else {
            return Fetched::Failed(format!("the narinfo of {hash} that was kept cannot be read"));
        };
        let (path, meant) = (Path::of(&info), Meant::by(&info));
        let lost = |why: String| Fetched::Lost(Path::of(&info), why);
        let Answer { outcome, reply, .. } = self.nar_of(meant, false).await.unwrap_or_else(Answer::from);
        match reply {
            // What the disk lost of it comes as it is read.
            Reply::Nar(_) if outcome == Outcome::Hit && self.has_all_of(meant).await => Fetched::Here(path),
            Reply::Nar(nar) => {
                let (mut body, mut bytes) = ((nar.open)(None), 0);
                while let Some(piece) = body.next().await {
                    match piece {
                        Ok(piece) => bytes += piece.len() as u64,
                        Err(error) => return lost(error.to_string()),
                    }
                }
                // The last byte is not the end: it is stored after it.
                if let Some(fill) = self.shared.fills.running(meant.blob())
                    && let Err(broken) = fill.kept().await
                {
                    return lost(broken.to_string());
                }
                Fetched::New(path, bytes)
            }
            Reply::Failed(failure) => lost(failure.text),
            Reply::Object(_) => Fetched::Failed("something else came in the place of its NAR".to_owned()),
        }
    }
}
