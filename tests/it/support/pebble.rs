//! The real `pebble` with its `pebble-challtestsrv`: an ACME authority for one test, on ports of its own.
//!
//! ```text
//! let pebble = Pebble::start(Shape::default());
//! let snowbank = pebble.setup(&["cache.example.org"], "challenge = \"http-01\"").start();
//! ```
//!
//! Every name resolves to 127.0.0.1 until told otherwise. The program reaches the authority through a door that can be
//! shut ([`Pebble::shut`]): the authority is unreachable and forgets nothing. [`Pebble::start_again`] is the other outage:
//! a new authority at the same address that knows no account and signs with another root.
//!
//! All state is in memory; dropping it ends both programs. Their logs are printed when a test fails.

use super::client::Target;
use super::snowbank::{Setup, certificates};
use super::{PATIENCE, runtime};
use rustls::pki_types::CertificateDer;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How the authority behaves.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Seconds that a certificate is valid.
    pub validity: u64,
    /// Good nonces refused, percent.
    pub nonce_reject: u8,
    /// Proven names that need no new proof, percent.
    pub reuse: u8,
    /// Only accounts bound with [`EAB_KEY_ID`] and [`EAB_KEY`].
    pub bound: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self { validity: 90 * 86_400, nonce_reject: 0, reuse: 0, bound: false }
    }
}

/// The key that accounts are bound with.
pub const EAB_KEY_ID: &str = "kid-1";
/// Its secret, base64url.
pub const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// The two programs.
pub struct Pebble {
    dir: tempfile::TempDir,
    shape: Shape,
    ports: Ports,
    authority: Mutex<Child>,
    names: Child,
    door: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    /// Where the authority really listens; the program is told `door`.
    directory: u16,
    door: u16,
    management: u16,
    dns: u16,
    names: u16,
    /// The listeners of the program under test, which the authority asks for proofs.
    plain: u16,
    secure: u16,
}

impl Ports {
    fn choose() -> Self {
        Self {
            directory: free_port(),
            door: free_port(),
            management: free_port(),
            dns: free_port(),
            names: free_port(),
            plain: free_port(),
            secure: free_port(),
        }
    }
}

/// A free port below those that the system gives out, so that nobody gets it between now and its use. Each is chosen
/// once in this process; other processes begin their search elsewhere.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 97 * 200).expect("below 19 400");
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && std::net::UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Pebble {
    /// Starts both programs and waits until they answer.
    pub fn start(shape: Shape) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for pebble");
        let shared = certificates();
        std::fs::write(dir.path().join("directory.crt"), &shared.certificate_pem).expect("a certificate file");
        std::fs::write(dir.path().join("directory.key"), &shared.key_pem).expect("a key file");
        std::fs::write(dir.path().join("directory-ca.pem"), &shared.authority_pem).expect("a certificate file");
        let ports = Ports::choose();
        let names = spawn_names(dir.path(), ports);
        let authority = spawn_authority(dir.path(), shape, ports);
        let pebble = Self { dir, shape, ports, authority: Mutex::new(authority), names, door: Mutex::new(None) };
        pebble.wait_until_it_answers();
        pebble.open();
        pebble
    }

    /// The URL of its directory, as the program is told.
    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.ports.door)
    }

    /// The authority of its directory's own certificate, as a file.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("directory-ca.pem")
    }

    /// A directory for what belongs to the test's authority.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A program on the ports that the authority asks, which orders these names; `lines` go into `[tls.acme]`.
    pub fn setup(&self, names: &[&str], lines: &str) -> Setup {
        self.order(Setup::new(), names, lines)
    }

    /// The same made of a setup that has its upstreams already.
    pub fn order(&self, setup: Setup, names: &[&str], lines: &str) -> Setup {
        setup.ports(self.ports.plain, self.ports.secure).tls(&self.tls(names, lines))
    }

    /// The lines of `[tls]` for this authority.
    pub fn tls(&self, names: &[&str], lines: &str) -> String {
        let (directory, ca_file) = (self.directory(), self.ca_file());
        format!("names = {names:?}\n[tls.acme]\ndirectory = {directory:?}\nca_file = {ca_file:?}\n{lines}")
    }

    /// Where the program's TLS listener is.
    pub fn secure(&self) -> SocketAddr {
        local(self.ports.secure)
    }

    /// Where the program's plain listener is.
    pub fn plain(&self) -> SocketAddr {
        local(self.ports.plain)
    }

    /// The root that signs the certificates; another one after each start.
    pub async fn root(&self) -> CertificateDer<'static> {
        super::tls::first_of_pem(&self.root_pem().await)
    }

    /// The same in PEM.
    pub async fn root_pem(&self) -> String {
        let management = Target::Https(local(self.ports.management), vec![certificates().authority.clone()]);
        management.get("/roots/0").await.expect(200).text().to_owned()
    }

    /// Lets a name resolve to this address; nobody listens on 127.0.0.2, so its proofs over HTTP and TLS fail.
    pub async fn set_address(&self, name: &str, address: &str) {
        self.tell_names("/add-a", &serde_json::json!({ "host": name, "addresses": [address] })).await;
    }

    async fn tell_names(&self, path: &str, what: &serde_json::Value) {
        let (body, mut connection) = (what.to_string(), Target::Http(local(self.ports.names)).connect().await);
        let head = format!("POST {path} HTTP/1.1\r\nHost: names\r\nContent-Length: {}\r\n\r\n", body.len());
        connection.send((head + &body).as_bytes()).await;
        assert_eq!(connection.answer("POST").await.status, 200, "{path}");
    }

    /// A program for `dns_hook`: notes how it was called in the file `calls` beside it, waits while there is a file
    /// `hold` there, then tells the authority's name server.
    pub fn dns_hook(&self) -> Hook {
        let dir = self.dir.path().to_owned();
        let path = dir.join("dns-hook");
        let script = format!(
            "#!/bin/sh\nset -eu\necho \"$1 $2 $3\" >>{dir}/calls\nwhile [ -e {dir}/hold ]; do sleep 0.05; done\n\
             case $1 in\n\
             add) curl -sfS -d \"{{\\\"host\\\":\\\"$2.\\\",\\\"value\\\":\\\"$3\\\"}}\" http://{names}/set-txt ;;\n\
             remove) curl -sfS -d \"{{\\\"host\\\":\\\"$2.\\\"}}\" http://{names}/clear-txt ;;\n\
             *) exit 64 ;;\nesac\n",
            dir = dir.display(),
            names = local(self.ports.names),
        );
        std::fs::write(&path, script).expect("a hook");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("an executable hook");
        Hook { path, calls: dir.join("calls"), hold: dir.join("hold") }
    }

    /// The log of the authority so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("pebble.log")).expect("the authority's log")
    }

    /// How many requests the authority got for this endpoint, such as `/order-plz`; answered or not.
    pub fn requests(&self, endpoint: &str) -> usize {
        let words = format!(" {endpoint} ->");
        self.log().lines().filter(|line| line.contains(&words)).count()
    }

    /// How many different accounts were made.
    pub fn accounts(&self) -> usize {
        self.log().lines().filter(|line| line.contains("There are now") && line.contains("accounts in memory")).count()
    }

    /// How many certificates were issued.
    pub fn issued(&self) -> usize {
        self.log().lines().filter(|line| line.contains("Issued certificate serial")).count()
    }

    /// The authority cannot be reached any longer; it forgets nothing.
    pub fn shut(&self) {
        if let Some(door) = self.door.lock().expect("the door").take() {
            door.abort();
            // The port is free when the task has been dropped.
            let deadline = Instant::now() + PATIENCE;
            while std::net::TcpStream::connect(local(self.ports.door)).is_ok() {
                assert!(Instant::now() < deadline, "the door does not shut");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// The authority can be reached (again).
    pub fn open(&self) {
        let _entered = runtime().enter();
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(local(self.ports.door)).expect("the port of the door");
        let listener = socket.listen(128).expect("a listener");
        let door = runtime().spawn(forward(listener, local(self.ports.directory)));
        *self.door.lock().expect("the door") = Some(door);
    }

    /// Ends the authority and starts another at the same address: no accounts, another root.
    pub fn start_again(&self) {
        {
            let mut authority = self.authority.lock().expect("the authority");
            end(&mut authority);
            *authority = spawn_authority(self.dir.path(), self.shape, self.ports);
        }
        self.wait_until_it_answers();
    }

    fn wait_until_it_answers(&self) {
        let deadline = Instant::now() + PATIENCE;
        let all = [self.ports.directory, self.ports.management, self.ports.names];
        while !all.iter().all(|port| std::net::TcpStream::connect(local(*port)).is_ok()) {
            let ended = self.authority.lock().expect("the authority").try_wait().expect("its status");
            assert!(ended.is_none(), "pebble ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < deadline, "pebble does not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        if let Ok(Some(door)) = self.door.lock().map(|mut door| door.take()) {
            door.abort();
        }
        if let Ok(mut authority) = self.authority.lock() {
            end(&mut authority);
        }
        end(&mut self.names);
        if std::thread::panicking() {
            eprintln!("--- the log of pebble ---\n{}\n---", self.log());
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The hook of the tests and what it leaves behind.
pub struct Hook {
    /// The program.
    pub path: PathBuf,
    calls: PathBuf,
    hold: PathBuf,
}

impl Hook {
    /// The lines of `[tls.acme]` that use it.
    pub fn lines(&self) -> String {
        format!("dns_hook = {:?}\ndns_wait = \"0 s\"\n", self.path)
    }

    /// Calls from now on wait.
    pub fn hold(&self) {
        std::fs::write(&self.hold, "").expect("a file");
    }

    /// Calls that wait go on.
    pub fn release(&self) {
        std::fs::remove_file(&self.hold).expect("the hook was held");
    }

    /// How it was called so far: action, name, value.
    pub fn calls(&self) -> Vec<(String, String, String)> {
        let text = std::fs::read_to_string(&self.calls).unwrap_or_default();
        let word = |words: &mut std::str::SplitWhitespace<'_>| words.next().expect("three words").to_owned();
        text.lines()
            .map(|line| {
                let mut words = line.split_whitespace();
                (word(&mut words), word(&mut words), word(&mut words))
            })
            .collect()
    }
}

async fn forward(listener: tokio::net::TcpListener, to: SocketAddr) {
    // Dropping the set with this task ends every connection.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((mut from, _)) = listener.accept().await {
        connections.spawn(async move {
            if let Ok(mut to) = tokio::net::TcpStream::connect(to).await {
                // Either side may leave when it likes.
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

fn spawn_names(dir: &Path, ports: Ports) -> Child {
    let log = std::fs::File::create(dir.join("names.log")).expect("a log");
    Command::new("pebble-challtestsrv")
        .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""])
        .args(["-dns01", &local(ports.dns).to_string(), "-management", &local(ports.names).to_string()])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("pebble-challtestsrv is installed; tests/run does it")
}

fn spawn_authority(dir: &Path, shape: Shape, ports: Ports) -> Child {
    let mut config = serde_json::json!({
        "listenAddress": local(ports.directory),
        "managementListenAddress": local(ports.management),
        "certificate": dir.join("directory.crt"),
        "privateKey": dir.join("directory.key"),
        "httpPort": ports.plain,
        "tlsPort": ports.secure,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": shape.bound,
        "certificateValidityPeriod": shape.validity,
    });
    if shape.bound {
        config["externalAccountMACKeys"] = serde_json::json!({ EAB_KEY_ID: EAB_KEY });
    }
    let path = dir.join("pebble.json");
    std::fs::write(&path, serde_json::json!({ "pebble": config }).to_string()).expect("a configuration for pebble");
    let log = std::fs::File::options().create(true).append(true).open(dir.join("pebble.log")).expect("a log");
    Command::new("pebble")
        .arg("-config")
        .arg(&path)
        .args(["-dnsserver", &local(ports.dns).to_string()])
        .env("PEBBLE_VA_NOSLEEP", "1")
        .env("PEBBLE_WFE_NONCEREJECT", shape.nonce_reject.to_string())
        .env("PEBBLE_AUTHZREUSE", shape.reuse.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("pebble is installed; tests/run does it")
}
