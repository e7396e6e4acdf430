//! Store paths with real NARs and signed narinfos, the same in every run: name and size decide every byte.
//!
//! A NAR is one file that does not compress, and is never held: any part of it can be computed ([`Nar::read`]), so
//! gigabytes cost the origin no memory and no disk. `Compression` is none, so FileHash is NarHash and both are checked
//! against real bytes. Out of scope: compressed files. They would be served by the same code, and take minutes to make.

use crate::closure::Member;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use snowbank::nix::hash::{Hasher, Sha256};
use std::f64::consts::TAU;
use std::sync::LazyLock;

/// The key that signs all of them.
const KEY_NAME: &str = "bench-1";

/// A prime number of words, so that no chunk of a store is the same as another.
const BLOCK_LENGTH: usize = 8 * 1_048_583;

/// A NAR of one regular file, computed where it is read.
pub struct Nar {
    seed: u64,
    head: Vec<u8>,
    contents: u64,
    tail: Vec<u8>,
}

impl Nar {
    fn new(seed: u64, contents: u64) -> Self {
        let mut head = Vec::new();
        for text in [&b"nix-archive-1"[..], b"(", b"type", b"regular", b"contents"] {
            frame(&mut head, text);
        }
        head.extend_from_slice(&contents.to_le_bytes());
        let mut tail = vec![0; (contents.next_multiple_of(8) - contents) as usize];
        frame(&mut tail, b")");
        Self { seed, head, contents, tail }
    }

    /// How long it is.
    pub fn len(&self) -> u64 {
        self.head.len() as u64 + self.contents + self.tail.len() as u64
    }

    /// Its bytes from here on, as many as there is room for.
    pub fn read(&self, mut offset: u64, mut into: &mut [u8]) {
        let head = self.head.len() as u64;
        while !into.is_empty() {
            let done = if offset < head {
                copy(&self.head[offset as usize..], into)
            } else if offset < head + self.contents {
                let at = offset - head;
                let room = into.len().min((self.contents - at) as usize);
                self.noise(at, &mut into[..room]);
                room
            } else {
                copy(&self.tail[(offset - head - self.contents) as usize..], into)
            };
            offset += done as u64;
            into = &mut into[done..];
        }
    }

    fn noise(&self, at: u64, mut into: &mut [u8]) {
        let noise = block_of_noise();
        let mut at = (self.seed.wrapping_add(at) % noise.len() as u64) as usize;
        while !into.is_empty() {
            let done = copy(&noise[at..], into);
            at = (at + done) % noise.len();
            into = &mut into[done..];
        }
    }

    fn digest(&self) -> Sha256 {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < self.len() {
            let part = buffer.len().min((self.len() - at) as usize);
            self.read(at, &mut buffer[..part]);
            hasher.update(&buffer[..part]);
            at += part as u64;
        }
        hasher.finish()
    }
}

/// What all files are cut from, each from another place on: more than any compressor looks back over, and copied rather than
/// computed, so that a debug build of this program is as fast.
fn block_of_noise() -> &'static [u8] {
    static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 1_u64;
        let mut block = Vec::with_capacity(BLOCK_LENGTH);
        while block.len() < BLOCK_LENGTH {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            block.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
        }
        block
    });
    &BLOCK
}

fn frame(nar: &mut Vec<u8>, text: &[u8]) {
    nar.extend_from_slice(&(text.len() as u64).to_le_bytes());
    nar.extend_from_slice(text);
    nar.resize(nar.len() + text.len().next_multiple_of(8) - text.len(), 0);
}

fn copy(from: &[u8], into: &mut [u8]) -> usize {
    let length = from.len().min(into.len());
    into[..length].copy_from_slice(&from[..length]);
    length
}

/// A store path.
pub struct StorePath {
    /// `/nix/store/…`
    pub path: String,
    /// The 32 digits that narinfos are asked for by.
    pub hash: String,
    /// Its NAR.
    pub nar: Nar,
    /// The hash of the NAR.
    pub digest: String,
    /// Its narinfo, as the origin has it.
    pub narinfo: String,
}

impl StorePath {
    /// The n-th path of a family, whose NAR holds a file of this size.
    fn new(family: &str, n: usize, size: u64, references: &[usize], key: &SigningKey) -> Self {
        let base = base_name(family, n);
        let seed = Sha256::of(format!("{base} {size}").as_bytes());
        let nar = Nar::new(u64::from_le_bytes(seed.as_bytes()[..8].try_into().expect("eight bytes")), size);
        let digest = nar.digest().nix32();
        let mut references: Vec<String> = references.iter().map(|other| base_name(family, *other)).collect();
        references.sort();
        let full: Vec<String> = references.iter().map(|name| format!("/nix/store/{name}")).collect();
        let fingerprint = format!("1;/nix/store/{base};sha256:{digest};{};{}", nar.len(), full.join(","));
        let signature = STANDARD.encode(key.sign(fingerprint.as_bytes()).to_bytes());
        let narinfo = format!(
            "StorePath: /nix/store/{base}\nURL: nar/{digest}.nar\nCompression: none\nFileHash: sha256:{digest}\n\
             FileSize: {length}\nNarHash: sha256:{digest}\nNarSize: {length}\nReferences: {references}\n\
             Deriver: {deriver}.drv\nSig: {KEY_NAME}:{signature}\n",
            length = nar.len(),
            references = references.join(" "),
            deriver = base_name("deriver", n),
        );
        Self { path: format!("/nix/store/{base}"), hash: base[..32].to_owned(), nar, digest, narinfo }
    }

    /// What a client asks for to have the narinfo.
    pub fn narinfo_target(&self) -> String {
        format!("/{}.narinfo", self.hash)
    }

    /// Where the origin has the NAR.
    pub fn nar_target(&self) -> String {
        format!("/nar/{}.nar", self.digest)
    }
}

fn base_name(family: &str, n: usize) -> String {
    let name = format!("{family}-{n}");
    let hash = Sha256::of(name.as_bytes());
    format!("{}-{name}-1.0", snowbank::nix::base32::encode(&hash.as_bytes()[..20]))
}

/// Makes store paths.
pub struct Maker(SigningKey);

impl Maker {
    pub fn new() -> Self {
        Self(SigningKey::from_bytes(Sha256::of(KEY_NAME.as_bytes()).as_bytes()))
    }

    /// The key as `trusted-public-keys` has it.
    pub fn public_key(&self) -> String {
        format!("{KEY_NAME}:{}", STANDARD.encode(self.0.verifying_key().as_bytes()))
    }

    /// A path for each of these sizes of its file. Each refers to as many others as a usual path of nixpkgs does.
    pub fn family(&self, name: &str, sizes: &[u64]) -> Vec<StorePath> {
        let references = |n: usize| (n.saturating_sub(7)..=n).collect::<Vec<_>>();
        sizes.iter().enumerate().map(|(n, size)| StorePath::new(name, n, *size, &references(n), &self.0)).collect()
    }

    /// A path for each of these members of a closure.
    pub fn closure(&self, name: &str, members: &[Member]) -> Vec<StorePath> {
        let path = |(n, member): (usize, &Member)| StorePath::new(name, n, member.size, &member.references, &self.0);
        members.iter().enumerate().map(path).collect()
    }
}

/// Sizes as cache.nixos.org has them: log-normal, with a median of 70 KB and a long tail that makes a mean of 2 to 3 MB.
pub fn sizes_of_a_cache(count: usize, largest: u64) -> Vec<u64> {
    const MEDIAN: f64 = 70_000.0;
    const SIGMA: f64 = 2.8;
    // Quantiles instead of draws: a few hundred have the shape already. The order is mixed up by a step prime to any count.
    let uniform = |n: usize| (((n * 7919) % count) as f64 + 0.5) / count as f64;
    (0..count).map(|n| ((MEDIAN * (SIGMA * normal(uniform(n))).exp()) as u64).clamp(200, largest)).collect()
}

/// The quantile of the normal distribution, by bisection over its density: it is asked for a few hundred times.
fn normal(share: f64) -> f64 {
    let density = |x: f64| (-x * x / 2.0).exp() / TAU.sqrt();
    let (step, mut below, mut x) = (0.001, 0.0, -6.0);
    while below < share && x < 6.0 {
        below += step * density(x + step / 2.0);
        x += step;
    }
    x
}
