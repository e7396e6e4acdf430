//! What lies in a directory that another program kept: one in the layout of a binary cache (`nix copy`, nginx's
//! `proxy_store`), or nginx's `proxy_cache`, whose files are named by hashes and say inside what they are.
//!
//! ```text
//! <hash>.narinfo, nar/<name>          at any depth, by their names
//! c/29/b7f54b2df7773722d382f4809d65029c
//!     binary head of nginx │ "\nKEY: " key "\n" │ status line, fields, empty line │ the body
//! ```
//!
//! It is looked through once. What was not a whole answer with the status 200, or was sent encoded, is left out. The key is what
//! `proxy_cache_key` says, mostly scheme, host and target; what counts is how it ends.
//!
//! Out of scope: whether anything in it is right, which is for whoever asks an upstream (R1, R7).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::nix::store_path::HashPart;

/// How much of a file of nginx is looked at for its head. nginx itself takes at most one of its buffers for it, mostly 4 or 8 KiB.
const LONGEST_HEAD: u64 = 64 << 10;

/// Where a body is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) file: PathBuf,
    /// The first byte of the body in it.
    pub(super) first: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    bodies: HashMap<String, Location>,
    narinfos: Vec<HashPart>,
    left_out: usize,
}

impl Index {
    /// Looks through everything below `dir`. Links are not followed.
    ///
    /// Blocking.
    ///
    /// # Errors
    /// The directory, or one below it, cannot be read. A file that cannot be is left out.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let mut index = Self::default();
        let mut left = vec![dir.to_owned()];
        while let Some(dir) = left.pop() {
            let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
            for entry in fs::read_dir(&dir).map_err(told)? {
                let entry = entry.map_err(told)?;
                let kind = entry.file_type().map_err(told)?;
                if kind.is_dir() {
                    left.push(entry.path());
                } else if kind.is_file() {
                    index.add(entry.path());
                }
            }
        }
        index.narinfos.sort_unstable();
        index.narinfos.dedup();
        Ok(index)
    }

    fn add(&mut self, file: PathBuf) {
        let Some(name) = file.file_name().and_then(|name| name.to_str()) else { return };
        let (key, first) = if is_of_nginx(name) {
            match head(&file) {
                Some(found) => found,
                None => return self.left_out += 1,
            }
        } else {
            (file.to_string_lossy().into_owned(), 0)
        };
        let key = tail(&key);
        if let Some(hash) = key.strip_suffix(".narinfo").and_then(|hash| HashPart::parse(hash).ok()) {
            self.narinfos.push(hash);
        }
        self.bodies.insert(key.to_owned(), Location { file, first });
    }

    /// The paths whose narinfos are there, each once.
    pub fn narinfos(&self) -> &[HashPart] {
        &self.narinfos
    }

    /// How many files of nginx are there that are of no use: of another status than 200, encoded, cut short, or unreadable.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Where the body is that an upstream has under this name, below its base.
    pub(super) fn find(&self, key: &str) -> Option<&Location> {
        self.bodies.get(tail(key))
    }
}

/// Its names are MD5 digests, in hexadecimal.
fn is_of_nginx(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What of a name counts: a NAR lies in `nar/`, and a narinfo wherever.
fn tail(key: &str) -> &str {
    let start = key.rfind("/nar/").or_else(|| key.rfind('/')).map_or(0, |slash| slash + 1);
    if key.starts_with("nar/") && !key[4..].contains("/nar/") { key } else { &key[start..] }
}

/// The key of a file of nginx, and where its body begins, if that is whole.
fn head(file: &Path) -> Option<(String, u64)> {
    let file = File::open(file).ok()?;
    let size = file.metadata().ok()?.len();
    let mut text = Vec::new();
    file.take(LONGEST_HEAD).read_to_end(&mut text).ok()?;
    let (key, first, length) = read_head(&text)?;
    let body = size.checked_sub(first)?;
    length.is_none_or(|length| length == body).then_some((key, first))
}

/// The key, where the body begins, and how long that was said to be.
fn read_head(text: &[u8]) -> Option<(String, u64, Option<u64>)> {
    const KEY: &[u8] = b"\nKEY: ";
    let key = find(text, KEY)? + KEY.len();
    let answer = key + find(text.get(key..)?, b"\n")? + 1;
    let head = text.get(answer..)?;
    let end = find(head, b"\r\n\r\n")? + 4;
    let mut lines = std::str::from_utf8(&head[..end]).ok()?.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?;
    let mut length = None;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.parse().ok()?),
            "content-encoding" if !value.eq_ignore_ascii_case("identity") => return None,
            _ => {}
        }
    }
    let key = std::str::from_utf8(&text[key..answer - 1]).ok()?.to_owned();
    (status == "200").then_some((key, (answer + end) as u64, length))
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "sdfklnx3hhql7xzq4qmjr3lnpzsmyjwi";

    /// A file as nginx writes it (`ngx_http_file_cache_set_header`); of its binary head only the length is like it.
    fn kept(key: &str, answer: &str, body: &[u8]) -> Vec<u8> {
        let mut file = vec![5; 336];
        file.extend_from_slice(format!("\nKEY: {key}\n{answer}").as_bytes());
        file.extend_from_slice(body);
        file
    }

    #[test]
    fn what_nginx_kept_is_found_by_how_its_key_ends() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: Vec<u8>| {
            let file = dir.path().join("a/bc").join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
        write(&"0".repeat(32), kept(&format!("https://cache.nixos.org/{HASH}.narinfo"), ok, b"info"));
        write(&"1".repeat(32), kept("/nar/x.nar.xz?a=b", "HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", b"a NAR"));
        let left_out = [
            ("HTTP/1.1 404 Not Found\r\n\r\n", "not found"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", "cut"),
            ("HTTP/1.1 200 OK\r\ncontent-encoding: br\r\n\r\n", "else"),
            ("HTTP/1.1 200 OK\r\n", ""),
            ("", ""),
        ];
        for (n, (answer, body)) in left_out.iter().enumerate() {
            write(&format!("{n:032x}").replace('0', "e"), kept("http://h/nar/left-out", answer, body.as_bytes()));
        }
        write(&"f".repeat(32), b"no head at all".to_vec());
        write("0000000001", b"a file that is being written".to_vec());
        let index = Index::of(dir.path()).unwrap();
        assert_eq!(index.narinfos(), [HashPart::parse(HASH).unwrap()]);
        assert_eq!(index.left_out(), left_out.len() + 1);
        let body = |key: &str| {
            let Location { file, first } = index.find(key)?;
            Some(String::from_utf8(fs::read(file).unwrap().split_off(usize::try_from(*first).unwrap())).unwrap())
        };
        assert_eq!(body(&format!("{HASH}.narinfo")).as_deref(), Some("info"));
        assert_eq!(body("nar/x.nar.xz?a=b").as_deref(), Some("a NAR"));
        assert_eq!([body("nar/left-out"), body("x.nar.xz?a=b"), body("nar/x.nar.xz")], [None, None, None]);
    }

    #[test]
    fn the_layout_of_a_cache_is_found_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("cache.nixos.org");
        fs::create_dir_all(below.join("nar")).unwrap();
        for name in ["nix-cache-info", &format!("{HASH}.narinfo"), "nar/x.nar.xz"] {
            fs::write(below.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", below.join("nar/link")).unwrap();
        let index = Index::of(dir.path()).unwrap();
        assert_eq!(index.narinfos().len(), 1);
        assert_eq!(index.find("nar/x.nar.xz"), Some(&Location { file: below.join("nar/x.nar.xz"), first: 0 }));
        assert_eq!((index.find("nar/link"), index.find("x.nar.xz"), index.left_out()), (None, None, 0));
        assert!(Index::of(&dir.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn only_how_a_name_ends_counts() {
        for (name, counts) in [
            ("nar/a", "nar/a"),
            ("/nar/a", "nar/a"),
            ("http://h/p/nar/a/b", "nar/a/b"),
            ("nar/b/nar/a", "nar/a"),
            ("a.narinfo", "a.narinfo"),
            ("h/a.narinfo", "a.narinfo"),
        ] {
            assert_eq!(tail(name), counts);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_it_panic(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let mut file = b"\nKEY: ".to_vec();
            file.extend_from_slice(&text);
            if let Some((_, first, _)) = read_head(&file) {
                proptest::prop_assert!(first <= file.len() as u64);
            }
        }
    }
}
