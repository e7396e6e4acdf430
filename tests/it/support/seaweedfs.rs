//! The real SeaweedFS as an S3 server, on ports of its own, with four buckets and three kinds of reader.
//!
//! ```text
//! let Some(seaweedfs) = SeaweedFs::shared() else { return };
//! seaweedfs.put(SeaweedFs::PRIVATE, &[("nix-cache-info", b"StoreDir: /nix/store\n")]);
//! let url = seaweedfs.url(SeaweedFs::PRIVATE);
//! ```
//!
//! It takes some seconds and some hundred megabytes, so tests that run at once share one; the last of them ends it. It is no
//! Debian package: `tests/run` installs it and says where in `SNOWBANK_TEST_WEED`. Without that it is looked for on the
//! PATH, and where it is not found the tests say so and do nothing.

use super::PATIENCE;
use super::cache::{Key, Object};
use super::pebble::free_port;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// The variable that names the program.
const PROGRAM: &str = "SNOWBANK_TEST_WEED";

/// A running server; dropping it ends it.
pub struct SeaweedFs {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl SeaweedFs {
    /// Read by everybody.
    pub const PUBLIC: &str = "public";
    /// Read with [`READER`](Self::READER).
    pub const PRIVATE: &str = "private";
    /// Of it nothing may be read or listed but `nix-cache-info` and what [`hidden`] has: all else is 403, there or not.
    pub const UNLISTABLE: &str = "unlistable";
    /// Read by nobody.
    pub const SHUT: &str = "shut";
    /// Key and secret of one who may do everything.
    pub const ADMIN: [&str; 2] = ["ADMINKEY", "adminsecret"];
    /// Key and secret of one who may read.
    pub const READER: [&str; 2] = ["READERKEY", "readersecret+/="];

    /// The server that all tests of the moment share; `None`, and a line that says why, where it is not installed.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<SeaweedFs>> = Mutex::new(Weak::new());
        let program = program()?;
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let running = shared.upgrade().unwrap_or_else(|| Arc::new(Self::start(&program)));
        *shared = Arc::downgrade(&running);
        Some(running)
    }

    fn start(program: &Path) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for SeaweedFS");
        std::fs::write(dir.path().join("s3.json"), who_may_what()).expect("a configuration for SeaweedFS");
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let mut command = Command::new(program);
        command.args([
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-volume.max=50",
            "-master.volumeSizeLimitMB=64",
        ]);
        command.args([
            "-s3",
            "-s3.config=s3.json",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
        ]);
        command.arg("-dir=.").current_dir(dir.path());
        for name in ["master", "volume", "filer"] {
            command.arg(format!("-{name}.port={}", free_port())).arg(format!("-{name}.port.grpc={}", free_port()));
        }
        let port = free_port();
        command.arg(format!("-s3.port={port}")).arg(format!("-s3.port.grpc={}", free_port()));
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).spawn();
        let mut server = Self { child: child.expect("SeaweedFS starts"), port, dir };
        for bucket in [Self::PUBLIC, Self::PRIVATE, Self::UNLISTABLE, Self::SHUT] {
            server.make(bucket);
        }
        server
    }

    /// Makes a bucket, as soon as the server can.
    fn make(&mut self, bucket: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let made = self.curl(&["-X", "PUT", &format!("{}/{bucket}", self.endpoint())]);
            if made.status.success() {
                return;
            }
            let ended = self.child.try_wait().expect("its status");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "SeaweedFS does not answer ({ended:?}):\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn curl(&self, arguments: &[&str]) -> Output {
        let user = Self::ADMIN.join(":");
        let signed = ["-sS", "-f", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user];
        Command::new("curl").args(signed).args(arguments).output().expect("curl is installed; tests/run does it")
    }

    /// Its address over HTTP.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of a bucket, as an upstream.
    pub fn url(&self, bucket: &str) -> String {
        format!("s3://{bucket}?endpoint={}&region=us-east-1", self.endpoint())
    }

    /// Puts files into a bucket.
    pub fn put(&self, bucket: &str, files: &[(&str, &[u8])]) {
        for (name, contents) in files {
            let mut file = tempfile::NamedTempFile::new_in(self.dir.path()).expect("a file");
            std::io::Write::write_all(&mut file, contents).expect("its contents");
            let path = file.path().to_str().expect("a path of text");
            let put = self.curl(&["-T", path, &format!("{}/{bucket}/{name}", self.endpoint())]);
            assert!(put.status.success(), "{bucket}/{name}: {}", String::from_utf8_lossy(&put.stderr));
        }
    }

    /// Makes a cache of a bucket, and publishes a path in it.
    pub fn publish(&self, bucket: &str, object: &Object, key: &Key) {
        let (narinfo, text) = (format!("{}.narinfo", object.hash_part()), object.narinfo(&[key]));
        let info: &[u8] = b"StoreDir: /nix/store\n";
        self.put(bucket, &[("nix-cache-info", info), (&narinfo, text.as_bytes()), (&object.url, &object.file)]);
    }

    /// What it complained of.
    fn log(&self) -> String {
        // Most of it tells of what goes well.
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        log.lines().filter(|line| !line.starts_with('I')).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the log of SeaweedFS ---\n{}\n---", self.log());
        }
    }
}

/// The one path that is in [`SeaweedFs::UNLISTABLE`].
pub fn hidden() -> Object {
    Object::new("hidden", 40_000)
}

fn who_may_what() -> String {
    let (hidden, unlistable) = (hidden(), SeaweedFs::UNLISTABLE);
    let keys = |[key, secret]: [&str; 2]| serde_json::json!([{ "accessKey": key, "secretKey": secret }]);
    let read = [
        format!("Read:{}", SeaweedFs::PUBLIC),
        // A name is not understood without a `*` at its end.
        format!("Read:{unlistable}/nix-cache-info*"),
        format!("Read:{unlistable}/{}.narinfo*", hidden.hash_part()),
        format!("Read:{unlistable}/{}*", hidden.url),
    ];
    // Who may read everywhere is told of a bucket that it is not there.
    let identities = serde_json::json!([
        { "name": "anonymous", "actions": read },
        { "name": "admin", "credentials": keys(SeaweedFs::ADMIN), "actions": ["Admin", "Read", "Write", "List"] },
        { "name": "reader", "credentials": keys(SeaweedFs::READER), "actions": ["Read"] },
    ]);
    serde_json::json!({ "identities": identities }).to_string()
}

fn program() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os(PROGRAM) {
        assert!(Path::new(&program).is_file(), "{PROGRAM} names {}, where no program is", program.display());
        return Some(program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("weed")).find(|program| program.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: no SeaweedFS (`weed`) here, neither in {PROGRAM} nor on the PATH; tests/run installs it");
    }
    found
}
