//! What real Nix makes of the small nixpkgs: a store with everything built, and a binary cache of it in each compression.
//!
//! Built by the first test that asks (half a minute), and kept under the target directory for the next run as long as
//! neither the nixpkgs, nor Nix, nor [`RECIPE`] changed.

use super::cache::{Key, nix32, sha256};
use super::nix::{Machine, NIXPKGS};
use rustix::fs::FlockOperation;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Counts up when this file makes something else of the same nixpkgs.
const RECIPE: &str = "2";

/// The compressions that a cache is made in.
pub const COMPRESSIONS: [&str; 4] = ["none", "zstd", "xz", "bzip2"];

/// The attributes of the nixpkgs whose store paths the tests ask for by name.
const ATTRIBUTES: [&str; 12] = [
    "hello",
    "busybox",
    "greeting",
    "graph",
    "multi",
    "fixed",
    "file",
    "symlink",
    "executable",
    "big",
    "debug",
    "everything",
];

/// The finished fixture.
pub struct Fixture {
    dir: PathBuf,
    key: Key,
    paths: serde_json::Value,
    infos: Vec<PathInfo>,
}

/// A path of the built store, as its database tells it.
#[derive(Debug, Clone)]
pub struct PathInfo {
    /// `<hash>-<name>`.
    pub base_name: String,
    /// The NarHash in Nix's base 32, without `sha256:`.
    pub nar_hash: String,
    /// The NarSize in bytes.
    pub nar_size: u64,
    /// Base names.
    pub references: Vec<String>,
    /// The base name of the derivation.
    pub deriver: Option<String>,
}

/// The fixture; the first call builds it.
pub fn fixture() -> &'static Fixture {
    static FIXTURE: LazyLock<Fixture> = LazyLock::new(Fixture::prepare);
    &FIXTURE
}

impl Fixture {
    /// The key that signed every narinfo of the caches.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The directory of the binary cache in this compression.
    pub fn cache(&self, compression: &str) -> PathBuf {
        self.dir.join("cache").join(compression)
    }

    /// The store path of an attribute.
    pub fn path(&self, attribute: &str) -> &str {
        self.paths[attribute].as_str().unwrap_or_else(|| panic!("no attribute {attribute} in the fixture"))
    }

    /// The path's hash part.
    pub fn hash_part(&self, attribute: &str) -> &str {
        &self.path(attribute)["/nix/store/".len()..][..32]
    }

    /// Every path of the closure of `everything`.
    pub fn infos(&self) -> &[PathInfo] {
        &self.infos
    }

    /// The store where everything was built, as this process sees it.
    pub fn real_store(&self) -> PathBuf {
        self.builder().real_store()
    }

    /// The machine where everything was built.
    pub fn builder(&self) -> Machine {
        builder(&self.dir, &self.key)
    }

    fn prepare() -> Self {
        let version = Command::new("nix").arg("--version").output().expect("Nix is installed; tests/run does it");
        let source = std::fs::read(Path::new(NIXPKGS).join("default.nix")).expect("the small nixpkgs");
        let recipe = [&source[..], &version.stdout, RECIPE.as_bytes()].concat();
        let top = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = top.join(format!("fixture-{}", &nix32(&sha256(&recipe))[..8]));
        // Two test runs at once in one checkout: the second waits for the first one's fixture.
        let lock = std::fs::File::create(top.join("fixture.lock")).expect("a lock file");
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("the lock");
        let key = Key::new("fixture-1");
        if !dir.join("complete").exists() {
            let _ = Command::new("chmod").args(["-R", "u+w"]).arg(&dir).output();
            let _ = std::fs::remove_dir_all(&dir);
            build(&dir, &key);
            std::fs::write(dir.join("complete"), "").expect("the mark that all is there");
        }
        let read = |name: &str| -> serde_json::Value {
            let text = std::fs::read(dir.join(name)).expect("a file of the fixture");
            serde_json::from_slice(&text).expect("JSON")
        };
        let infos = read("infos.json").as_array().expect("a list").iter().map(PathInfo::read).collect();
        Self { paths: read("paths.json"), infos, key, dir }
    }
}

fn builder(dir: &Path, key: &Key) -> Machine {
    Machine::at(&dir.join("builder"), &[&key.public()])
}

fn build(dir: &Path, key: &Key) {
    let machine = builder(dir, key);
    machine.ok(&["nix-build", "<nixpkgs>", "-A", "everything", "--no-out-link", "--max-jobs", "2"]);
    let list: Vec<String> = ATTRIBUTES.iter().map(|name| format!("{name} = p.{name}.outPath;")).collect();
    let expression = format!("let p = import <nixpkgs> {{ }}; in {{ {} }}", list.concat());
    let paths = machine.ok(&["nix-instantiate", "--eval", "--strict", "--json", "-E", &expression]);
    let path_of: serde_json::Value = serde_json::from_str(&paths).expect("JSON");
    let everything = path_of["everything"].as_str().expect("a path").to_owned();
    let hello = machine.ok(&["nix-store", "--query", "--deriver", path_of["hello"].as_str().expect("a path")]);
    std::fs::write(dir.join("paths.json"), paths).expect("a file of the fixture");
    let infos = machine.ok(&["nix", "path-info", "--json", "--recursive", &everything]);
    std::fs::write(dir.join("infos.json"), infos).expect("a file of the fixture");
    let secret = dir.join("secret-key");
    std::fs::write(&secret, key.secret()).expect("a key file");
    for compression in COMPRESSIONS {
        let cache = dir.join("cache").join(compression);
        std::fs::create_dir_all(&cache).expect("a directory for the cache");
        let parallel = if compression == "xz" { "&parallel-compression=true" } else { "" };
        let url = format!(
            "file://{}?compression={compression}&secret-key={}&write-nar-listing=true&index-debug-info=true{parallel}",
            cache.display(),
            secret.display()
        );
        machine.ok(&["nix", "copy", "--to", &url, &everything]);
        machine.ok(&["nix", "store", "copy-log", "--to", &format!("file://{}", cache.display()), &hello]);
    }
}

impl PathInfo {
    /// What a signature of this path is made over, from what the database of real Nix says.
    pub fn fingerprint(&self) -> String {
        let mut references: Vec<String> = self.references.iter().map(|name| format!("/nix/store/{name}")).collect();
        references.sort();
        references.dedup();
        let Self { base_name, nar_hash, nar_size, .. } = self;
        format!("1;/nix/store/{base_name};sha256:{nar_hash};{nar_size};{}", references.join(","))
    }

    fn read(value: &serde_json::Value) -> Self {
        let base =
            |path: &serde_json::Value| path.as_str().expect("a path").trim_start_matches("/nix/store/").to_owned();
        Self {
            base_name: base(&value["path"]),
            nar_hash: nix32_of_sri(value["narHash"].as_str().expect("a hash")),
            nar_size: value["narSize"].as_u64().expect("a size"),
            references: value["references"].as_array().expect("a list").iter().map(base).collect(),
            deriver: value.get("deriver").map(base),
        }
    }
}

fn nix32_of_sri(hash: &str) -> String {
    use base64::Engine as _;
    let digits = hash.strip_prefix("sha256-").expect("an SRI hash");
    nix32(&base64::engine::general_purpose::STANDARD.decode(digits).expect("base 64"))
}
