//! What all cases share: the options, the origin, the makers of corpora and certificates, directories and ports.

use crate::closure::Member;
use crate::corpus::{Maker, StorePath};
use crate::options::Options;
use crate::origin::Origin;
use crate::peers::{Kind, Server, Tiers};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct Bench {
    pub options: Options,
    pub origin: Origin,
    pub public_key: String,
    maker: Maker,
    certificate: Certificate,
    next_port: Cell<u16>,
    dir: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        // What is left is removed by the next run.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// One for all servers: ECDSA P-256.
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub both: PathBuf,
}

impl Bench {
    pub fn new(options: Options) -> Self {
        // Always the same: gigabytes that an interrupted run left behind do not pile up.
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory");
        let certificate = Certificate::new(&dir);
        let maker = Maker::new();
        let public_key = maker.public_key();
        // All ports of the namespace are free, and those of connections begin far above.
        let next_port = Cell::new(10_000);
        Self { options, origin: Origin::start(), public_key, maker, certificate, next_port, dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Two ports that nobody had before: connections of an earlier server may linger.
    pub fn ports(&self) -> (u16, u16) {
        let first = self.next_port.get();
        self.next_port.set(first + 2);
        (first, first + 1)
    }

    /// Paths with files of these sizes, which the origin has from now on.
    pub fn family(&self, name: &str, sizes: &[u64]) -> Vec<Arc<StorePath>> {
        self.published(self.maker.family(name, sizes))
    }

    /// The paths of a closure, which the origin has from now on; the last is its root.
    pub fn closure(&self, name: &str, members: &[Member]) -> Vec<Arc<StorePath>> {
        self.published(self.maker.closure(name, members))
    }

    fn published(&self, paths: Vec<StorePath>) -> Vec<Arc<StorePath>> {
        let paths: Vec<Arc<StorePath>> = paths.into_iter().map(Arc::new).collect();
        paths.iter().for_each(|path| self.origin.publish(path));
        paths
    }

    /// Those of them that are here.
    pub fn present(&self, kinds: &[Kind]) -> Vec<Kind> {
        let here = |kind: &Kind| *kind != Kind::NewerNginx || self.options.newer_nginx.is_some();
        kinds.iter().copied().filter(here).collect()
    }

    /// A server of each kind that is here.
    pub fn start(&self, kinds: &[Kind], tiers: Tiers) -> Vec<Server> {
        self.present(kinds).into_iter().map(|kind| Server::start(self, kind, tiers)).collect()
    }
}

impl Certificate {
    fn new(dir: &Path) -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let parameters =
            rcgen::CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("parameters");
        let certificate = parameters.self_signed(&key).expect("a certificate").pem();
        let made = Self { certificate: dir.join("cert.pem"), key: dir.join("key.pem"), both: dir.join("both.pem") };
        fs::write(&made.certificate, &certificate).expect("a file");
        fs::write(&made.key, key.serialize_pem()).expect("a file");
        fs::write(&made.both, certificate + &key.serialize_pem()).expect("a file");
        made
    }
}
