//! The fixture's cache split among several upstreams, each with a key of its own, signed by real Nix.

use super::cache::{Key, narinfo_fields};
use super::fixture::{Fixture, PathInfo};
use super::nix::Machine;
use super::origin::Origin;
use super::static_cache;
use std::path::{Path, PathBuf};

/// One of the upstreams.
pub struct Part {
    /// Serves its part and has nothing else.
    pub origin: Origin,
    /// The key that signed all of it.
    pub key: Key,
}

/// The fixture in zstd, path by path in turn on as many upstreams as there are keys. What the fixture's own key signed is
/// signed no more. `dir` holds the caches.
pub fn among(fixture: &Fixture, keys: Vec<Key>, dir: &Path) -> Vec<Part> {
    let count = keys.len();
    let machine = Machine::new(&[]);
    keys.into_iter()
        .enumerate()
        .map(|(n, key)| {
            let cache = dir.join(format!("part-{n}"));
            let mine: Vec<&PathInfo> = fixture.infos().iter().skip(n).step_by(count).collect();
            unsigned(fixture, &mine, &cache);
            let secret = dir.join(format!("part-{n}.key"));
            std::fs::write(&secret, key.secret()).expect("a key file");
            let url = format!("file://{}", cache.display());
            let secret = secret.to_str().expect("a path of text");
            let mut words = vec!["nix", "store", "sign", "--store", &url, "--key-file", secret];
            let paths: Vec<String> = mine.iter().map(|info| format!("/nix/store/{}", info.base_name)).collect();
            words.extend(paths.iter().map(String::as_str));
            machine.ok(&words);
            Part { origin: static_cache::serve(&cache), key }
        })
        .collect()
}

/// A cache with these paths of the fixture, signed by nobody.
fn unsigned(fixture: &Fixture, infos: &[&PathInfo], cache: &Path) {
    let whole: PathBuf = fixture.cache("zstd");
    std::fs::create_dir_all(cache.join("nar")).expect("a directory for the cache");
    std::fs::copy(whole.join("nix-cache-info"), cache.join("nix-cache-info")).expect("the cache's description");
    for info in infos {
        let name = format!("{}.narinfo", &info.base_name[..32]);
        let text = std::fs::read_to_string(whole.join(&name)).expect("a narinfo");
        let kept: String =
            text.lines().filter(|line| !line.starts_with("Sig: ")).map(|line| format!("{line}\n")).collect();
        std::fs::write(cache.join(&name), kept).expect("a narinfo");
        let nar = narinfo_fields(&text, "URL")[0];
        std::os::unix::fs::symlink(whole.join(nar), cache.join(nar)).expect("a link to the NAR");
    }
}
