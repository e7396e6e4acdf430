//! The library: what one server fetched is written where the others find it, whole and verified, and nothing that is wrong
//! in it ever reaches a client.

mod kept_out;
mod lost;
mod namespaces;
mod poisoned;
mod replicas;
mod written;

use crate::support::cache::{Key, Object};
use crate::support::origin::Origin;
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::within;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A directory for a library, empty.
pub struct Shelf {
    dir: tempfile::TempDir,
}

impl Shelf {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the library") }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }

    /// The file of this name.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name.trim_start_matches('/'))
    }

    /// Every file in it, by its name.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        fn walk(dir: &Path, top: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
            for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    walk(&path, top, files);
                } else {
                    let name = path.strip_prefix(top).expect("inside").display().to_string();
                    files.insert(name, std::fs::read(&path).expect("a file"));
                }
            }
        }
        let mut files = BTreeMap::new();
        walk(self.path(), self.path(), &mut files);
        files
    }
}

/// A program in front of an origin, with this library.
pub fn beside(origin: &Origin, key: &Key, library: &str) -> Setup {
    with_library(Setup::in_front_of(origin, key), library)
}

pub fn with_library(setup: Setup, library: &str) -> Setup {
    setup.also(&format!("[library]\nurl = {library:?}"))
}

/// The value of this sample on the metrics page.
pub fn sample(snowbank: &Snowbank, name: &str) -> u64 {
    let page = snowbank.metrics();
    let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.rsplit(' ').next()).and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}

/// How many objects of this kind the program wrote, or would have written.
pub fn written_as(snowbank: &Snowbank, kind: &str, result: &str) -> u64 {
    sample(snowbank, &format!("snowbank_library_writes_total{{kind=\"{kind}\",result=\"{result}\"}}"))
}

/// Waits until so many narinfos came to be in the library, by this program's doing or before.
pub async fn until_written(snowbank: &Snowbank, narinfos: u64) {
    let count = || ["created", "there", "replaced"].map(|result| written_as(snowbank, "narinfo", result)).iter().sum();
    within("paths are written", async {
        loop {
            let now: u64 = count();
            if now >= narinfos && sample(snowbank, "snowbank_library_queue") == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Gets an object as a client does, and checks every byte.
pub async fn fetch(snowbank: &Snowbank, object: &Object) -> String {
    let narinfo = snowbank.http().get(&object.narinfo_target()).await.expect(200).text().to_owned();
    let target = snowbank.http().nar_target(object).await;
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    narinfo
}
