//! A binary cache in a directory, served over HTTP/1.1 with ranges and entity tags, every request counted.
//!
//! The files are what real Nix wrote (see [`super::fixture`]), so this is cache.nixos.org without the miles. [`nginx`]
//! serves the same directory with a server that nobody here wrote.

use super::origin::{Origin, Reply};
use super::{PATIENCE, cache};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;

/// An origin that serves the files of `dir`.
pub fn serve(dir: &Path) -> Origin {
    let origin = Origin::start();
    serve_with(&origin, dir);
    origin
}

/// Lets an origin serve the files of `dir` for whatever has no handler of its own.
pub fn serve_with(origin: &Origin, dir: &Path) {
    let dir = dir.to_owned();
    origin.otherwise(move |request, _| answer(&dir, &request.target, request.field("if-none-match")));
}

/// What such an origin answers.
pub fn answer(dir: &Path, target: &str, if_none_match: Option<&str>) -> Reply {
    let path = target.split('?').next().unwrap_or_default().trim_start_matches('/');
    if path.split('/').any(|part| part == "..") {
        return Reply::status(400);
    }
    let path: PathBuf = dir.join(path);
    let Some(body) = path.is_file().then(|| std::fs::read(&path).ok()).flatten() else {
        return Reply::status(404);
    };
    let tag = format!("\"{}\"", &cache::nix32(&cache::sha256(&body))[..16]);
    if if_none_match == Some(&tag) {
        return Reply::status(304);
    }
    let kind = match path.extension().and_then(|e| e.to_str()) {
        Some("narinfo") => "text/x-nix-narinfo",
        Some("ls") => "application/json",
        Some("nar" | "xz" | "zst" | "bz2") => "application/x-nix-nar",
        _ => "text/plain",
    };
    Reply::bytes(body).field("Content-Type", kind).field("ETag", &tag)
}

/// nginx with a configuration of its own; dropping it ends it.
pub struct Nginx {
    child: Child,
    address: SocketAddr,
    home: Option<TempDir>,
}

/// nginx in front of the files of `dir`.
pub fn nginx(dir: &Path) -> Nginx {
    Nginx::start("", &format!("root {};", dir.display()))
}

impl Nginx {
    /// With these lines for `http` and for its one `server`. It wants a port number, so a free one is looked for until it starts.
    pub fn start(http: &str, server: &str) -> Self {
        for _ in 0..20 {
            let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
            let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for nginx");
            if let Ok(started) = Self::start_at(home, address.port(), http, server) {
                return started;
            }
        }
        panic!("nginx does not start");
    }

    /// In this directory and at this port; or the directory again, when it does not start.
    pub fn start_at(home: TempDir, port: u16, http: &str, server: &str) -> Result<Self, TempDir> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
        let config = format!(
            "daemon off; worker_processes 1; pid nginx.pid; error_log stderr; {user}\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
             uwsgi_temp_path uwsgi; scgi_temp_path scgi; sendfile on; keepalive_timeout 60;\n{http}\n\
             server {{ listen {address};\n{server}\n}} }}\n"
        );
        std::fs::write(home.path().join("nginx.conf"), config).expect("a configuration for nginx");
        let mut child = Command::new("nginx")
            .arg("-p")
            .arg(home.path())
            .args(["-e", "stderr", "-c", "nginx.conf"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed; tests/run does it");
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().expect("its status").is_none() && Instant::now() < deadline {
            if TcpStream::connect(address).is_ok() {
                return Ok(Self { child, address, home: Some(home) });
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(home)
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ends it; what it wrote stays, in the directory that it was started in.
    pub fn stop(mut self) -> TempDir {
        self.home.take().expect("its directory")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM: a killed master would leave its worker behind.
        if let Some(id) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
