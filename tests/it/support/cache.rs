//! Store paths, NARs, narinfos and signatures made in memory, without a line of the program under test.
//!
//! Out of scope: real store paths (they come from real Nix, see [`super::fixture`]). The hash parts here are made from the
//! name; nobody can tell, because a store path's hash cannot be computed from its NAR.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// A signing key of a cache.
pub struct Key {
    name: String,
    key: SigningKey,
}

impl Key {
    /// The key of this name: the same one every time.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), key: SigningKey::from_bytes(&sha256(name.as_bytes())) }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `name:base64`, as `trusted-public-keys` wants it.
    pub fn public(&self) -> String {
        format!("{}:{}", self.name, STANDARD.encode(self.key.verifying_key().as_bytes()))
    }

    /// `name:base64` of seed and public key, as `nix-store --generate-binary-cache-key` writes it.
    pub fn secret(&self) -> String {
        format!("{}:{}", self.name, STANDARD.encode(self.key.to_keypair_bytes()))
    }

    /// The value of a `Sig:` line over this text.
    pub fn sign(&self, text: &str) -> String {
        format!("{}:{}", self.name, STANDARD.encode(self.key.sign(text.as_bytes()).to_bytes()))
    }

    /// True when the value of a `Sig:` line bears this name and is this key's signature over this text.
    pub fn made(&self, value: &str, text: &str) -> bool {
        let signature = value.strip_prefix(&self.name).and_then(|rest| rest.strip_prefix(':'));
        let bytes = signature.and_then(|digits| STANDARD.decode(digits).ok()).and_then(|bytes| bytes.try_into().ok());
        bytes.is_some_and(|bytes| {
            let signature = Signature::from_bytes(&bytes);
            self.key.verifying_key().verify_strict(text.as_bytes(), &signature).is_ok()
        })
    }
}

/// How the file of an [`Object`] is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// The NAR itself.
    None,
    /// A zstd frame of raw blocks: decodes everywhere, and is as long as what is in it.
    Zstd,
    /// Made by the `xz` program.
    Xz,
    /// Made by the `bzip2` program.
    Bzip2,
}

impl Compression {
    /// Its name in a narinfo.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
        }
    }

    /// What Nix appends to `.nar`.
    pub fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Zstd => ".zst",
            Self::Xz => ".xz",
            Self::Bzip2 => ".bz2",
        }
    }

    /// This NAR, or anything else, compressed.
    pub fn compress(self, nar: &Bytes) -> Bytes {
        match self {
            Self::None => nar.clone(),
            Self::Zstd => zstd_of_raw_blocks(nar).into(),
            Self::Xz => piped("xz", &["-0", "-c"], nar).into(),
            Self::Bzip2 => piped("bzip2", &["-1", "-c"], nar).into(),
        }
    }
}

/// A store path with its NAR and what a cache tells about it.
#[derive(Debug, Clone)]
pub struct Object {
    /// `<hash>-<name>`.
    pub base_name: String,
    /// The NAR.
    pub nar: Bytes,
    /// What is served at the URL: the NAR compressed, or anything a test puts there.
    pub file: Bytes,
    /// How `file` is compressed.
    pub compression: Compression,
    /// Base names.
    pub references: Vec<String>,
    /// Where the file is, relative to the cache.
    pub url: String,
    /// `FileHash` and `FileSize` are told.
    pub tells_file: bool,
    /// Lines of the narinfo beyond those that every cache writes.
    pub extra: Vec<String>,
}

impl Object {
    /// A NAR with one file of `size` incompressible bytes, uncompressed. Name and size decide every byte of it.
    pub fn new(name: &str, size: usize) -> Self {
        Self::compressed(name, size, Compression::None)
    }

    /// The same, compressed.
    pub fn compressed(name: &str, size: usize, compression: Compression) -> Self {
        let hash = &sha256(format!("{name} {size} {}", compression.name()).as_bytes())[..20];
        let nar = Bytes::from(nar_of_file(&noise(name, size)));
        let file = compression.compress(&nar);
        let url = format!("nar/{}.nar{}", nix32(&sha256(&file)), compression.extension());
        Self {
            base_name: format!("{}-{name}", nix32(hash)),
            nar,
            file,
            compression,
            references: Vec::new(),
            url,
            tells_file: true,
            extra: Vec::new(),
        }
    }

    /// The same object, served at another URL.
    pub fn at_url(mut self, url: &str) -> Self {
        url.clone_into(&mut self.url);
        self
    }

    /// The 32 digits before the name.
    pub fn hash_part(&self) -> &str {
        &self.base_name[..32]
    }

    /// The NarHash in Nix's base 32, without `sha256:`.
    pub fn nar_hash(&self) -> String {
        nix32(&sha256(&self.nar))
    }

    /// The FileHash in Nix's base 32, without `sha256:`.
    pub fn file_hash(&self) -> String {
        nix32(&sha256(&self.file))
    }

    /// The request target of the narinfo.
    pub fn narinfo_target(&self) -> String {
        format!("/{}.narinfo", self.hash_part())
    }

    /// The request target of the file at the cache itself.
    pub fn file_target(&self) -> String {
        format!("/{}", self.url)
    }

    /// The URL under which snowbank must serve it, as a request target.
    pub fn served_target(&self) -> String {
        format!("/nar/{}-{}.nar{}", self.hash_part(), self.file_hash(), self.compression.extension())
    }

    /// What a signature is made over.
    pub fn fingerprint(&self) -> String {
        let mut references = self.references.clone();
        references.sort();
        let references: Vec<String> = references.iter().map(|r| format!("/nix/store/{r}")).collect();
        format!(
            "1;/nix/store/{};sha256:{};{};{}",
            self.base_name,
            self.nar_hash(),
            self.nar.len(),
            references.join(",")
        )
    }

    /// The narinfo, signed by each of these keys.
    pub fn narinfo(&self, keys: &[&Key]) -> String {
        let mut text = format!("StorePath: /nix/store/{}\nURL: {}\n", self.base_name, self.url);
        text.push_str(&format!("Compression: {}\n", self.compression.name()));
        if self.tells_file {
            text.push_str(&format!("FileHash: sha256:{}\nFileSize: {}\n", self.file_hash(), self.file.len()));
        }
        text.push_str(&format!("NarHash: sha256:{}\nNarSize: {}\n", self.nar_hash(), self.nar.len()));
        text.push_str(&format!("References: {}\n", self.references.join(" ")));
        for line in &self.extra {
            text.push_str(&format!("{line}\n"));
        }
        for key in keys {
            text.push_str(&format!("Sig: {}\n", key.sign(&self.fingerprint())));
        }
        text
    }
}

/// The fields of a narinfo by name; a name that comes twice keeps all its values.
pub fn narinfo_fields<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.split_once(": ")).filter(|(n, _)| *n == name).map(|(_, v)| v).collect()
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Nix's base 32: digits without e, o, t, u; the last bits first.
pub fn nix32(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
    let length = (bytes.len() * 8).div_ceil(5);
    (0..length)
        .rev()
        .map(|n| {
            let (byte, bit) = (n * 5 / 8, n * 5 % 8);
            let low = bytes[byte] >> bit;
            let high = if bit > 3 { bytes.get(byte + 1).map_or(0, |b| b << (8 - bit)) } else { 0 };
            char::from(DIGITS[usize::from((low | high) & 31)])
        })
        .collect()
}

/// `size` bytes that do not compress, made from `seed`.
pub fn noise(seed: &str, size: usize) -> Vec<u8> {
    let mut state = u64::from_le_bytes(sha256(seed.as_bytes())[..8].try_into().expect("eight bytes")) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        // xorshift64*: a few lines, and good enough to defeat a compressor.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// The NAR of one regular file.
pub fn nar_of_file(contents: &[u8]) -> Vec<u8> {
    let mut nar = Vec::with_capacity(contents.len() + 128);
    for text in [&b"nix-archive-1"[..], b"(", b"type", b"regular", b"contents", contents, b")"] {
        nar.extend_from_slice(&(text.len() as u64).to_le_bytes());
        nar.extend_from_slice(text);
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    nar
}

/// RFC 8878: a frame with a window of 1 MiB and raw blocks.
fn zstd_of_raw_blocks(bytes: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 128 * 1024;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 10 << 3];
    let mut blocks = bytes.chunks(BLOCK).peekable();
    if bytes.is_empty() {
        frame.extend_from_slice(&[1, 0, 0]);
    }
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        let header = (u32::try_from(block.len()).expect("a block is small") << 3) | last;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame
}

fn piped(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; tests/run installs it"));
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("its output");
    feeding.join().expect("no panic").expect("all of it was read");
    assert!(output.status.success(), "{program} failed");
    output.stdout
}
