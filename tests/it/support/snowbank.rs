//! The program under test: the real binary with a configuration of its own, its log, its metrics, its end.
//!
//! Every listener is on port 0; the bound addresses come from the log (`listening on https://127.0.0.1:4321`). A started
//! program has a plain listener, a TLS one and a unix socket, and an admin address for the metrics.
//!
//! The names of the metrics stand here and nowhere else: [`Count`].

use super::PATIENCE;
use super::client::Target;
use super::origin::Origin;
use rustls::pki_types::CertificateDer;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::Instant;

/// A certificate for `localhost`, 127.0.0.1 and the name behind the proxies, with the authority that signed it: one for all tests.
pub struct Certificates {
    /// The authority, for clients of this crate.
    pub authority: CertificateDer<'static>,
    /// The authority in PEM, for clients that read files.
    pub authority_pem: String,
    /// The certificate in PEM, for servers that read files.
    pub certificate_pem: String,
    /// Its key in PEM.
    pub key_pem: String,
}

/// Set, all tests run with fetching ahead, to see that nothing is wrong with it; those that count upstreams' requests fail then.
const PREFETCH: &str = "SNOWBANK_TEST_PREFETCH";

/// What the log says when the disk tier has been recovered and is in use.
const DISK_OPEN: &str = "disk tier open";

/// The certificates of all tests.
pub fn certificates() -> &'static Certificates {
    static MADE: LazyLock<Certificates> = LazyLock::new(|| {
        let authority_key = rcgen::KeyPair::generate().expect("a key");
        let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "authority of the tests");
        let authority_certificate = authority.self_signed(&authority_key).expect("a certificate");
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), super::proxies::NAME.to_owned()];
        let parameters = rcgen::CertificateParams::new(names).expect("parameters");
        let certificate = parameters.signed_by(&key, &issuer).expect("a certificate");
        Certificates {
            authority: authority_certificate.der().clone(),
            authority_pem: authority_certificate.pem(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    });
    &MADE
}

impl Certificates {
    /// The certificate as a server of this crate uses it, HTTP/1.1 only.
    pub fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        use rustls::pki_types::pem::PemObject as _;
        let chain = vec![CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).expect("a certificate")];
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the default protocol versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate and its key");
        Arc::new(config).into()
    }
}

/// What the tests count, whatever its metric is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Fills that ended without a whole NAR, whatever the reason.
    FillsFailed,
    /// narinfos of an upstream that were not believed, whatever the reason.
    NarinfosRefused,
    /// Chunks that had to be fetched again for an object that was complete once.
    ChunksRefilled,
    /// Changes of the upstream in the middle of a NAR.
    Failovers,
    /// Fills that went on from what an earlier one had left.
    FillsResumed,
    /// Connections that are open now.
    Connections,
    /// Body bytes received from upstreams.
    Received,
    /// NARs being fetched.
    FillsRunning,
    /// Bytes that the store has taken and not yet written.
    Unwritten,
    /// Certificates that were not got, not renewed or not taken, whatever the reason.
    CertificatesFailed,
    /// The states of the upstreams' breakers: 0 where all of them are asked as usual.
    BreakerState,
    /// Requests sent to upstreams.
    UpstreamRequests,
    /// Requests sent again over another connection.
    Resends,
    /// Requests not sent, to upstreams that are taken for down.
    Unasked,
    /// NARs whose fetching was begun.
    FillsStarted,
    /// Clients that joined a running fill.
    Coalesced,
    /// Requests that wait for upstreams.
    Waiting,
    /// Bytes that were fetched before anybody asked for them.
    Prefetched,
    /// Those of them that somebody asked for then.
    PrefetchUsed,
    /// NARs that are being fetched ahead.
    Prefetching,
    /// Narinfos that were asked for before a client did.
    PrefetchedNarinfos,
    /// Those of them that a client asked for then.
    PrefetchedNarinfosUsed,
    /// Requests that ended in a panic.
    Panics,
    /// 1 while the disk tier is in use.
    DiskUp,
    /// Spans that the collector of traces took.
    #[cfg(feature = "otlp")]
    SpansSent,
    /// Spans that it did not get.
    #[cfg(feature = "otlp")]
    SpansDropped,
}

impl Count {
    /// How the lines of this count start on the metrics page; all of them are summed.
    fn prefix(self) -> &'static str {
        match self {
            Self::FillsFailed => "snowbank_fill_failed_total",
            Self::NarinfosRefused => "snowbank_upstream_refused_total",
            Self::ChunksRefilled => "snowbank_fill_refilled_chunks_total",
            Self::Failovers => "snowbank_fill_failovers_total",
            Self::FillsResumed => "snowbank_fill_resumed_total",
            Self::Connections => "snowbank_edge_connections_open",
            Self::Received => "snowbank_upstream_received_bytes_total",
            Self::FillsRunning => "snowbank_fill_running",
            Self::Unwritten => "snowbank_store_unwritten_bytes",
            Self::CertificatesFailed => "snowbank_certificate_failures_total",
            Self::BreakerState => "snowbank_upstream_breaker_state",
            Self::UpstreamRequests => "snowbank_upstream_requests_total",
            Self::Resends => "snowbank_upstream_resends_total",
            Self::Unasked => "snowbank_upstream_unasked_total",
            Self::FillsStarted => "snowbank_fill_started_total",
            Self::DiskUp => "snowbank_store_disk_up",
            Self::Coalesced => "snowbank_proxy_coalesced_total",
            Self::Waiting => "snowbank_proxy_waiting",
            Self::Prefetched => "snowbank_prefetch_bytes_total{fate=\"fetched\"",
            Self::PrefetchUsed => "snowbank_prefetch_bytes_total{fate=\"used\"",
            Self::PrefetchedNarinfos => "snowbank_prefetch_narinfos_total{fate=\"fetched\"",
            Self::PrefetchedNarinfosUsed => "snowbank_prefetch_narinfos_total{fate=\"used\"",
            Self::Prefetching => "snowbank_prefetch_running",
            Self::Panics => "snowbank_edge_panics_total",
            #[cfg(feature = "otlp")]
            Self::SpansSent => "snowbank_trace_sent_total",
            #[cfg(feature = "otlp")]
            Self::SpansDropped => "snowbank_trace_dropped_total",
        }
    }

    #[track_caller]
    fn sum(self, page: &str) -> u64 {
        let samples: Vec<f64> = page
            .lines()
            .filter(|line| line.starts_with(self.prefix()))
            .map(|line| line.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a sample"))
            .collect();
        assert!(!samples.is_empty(), "no metric {} in\n{page}", self.prefix());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of tests are small")]
        let sum = samples.iter().sum::<f64>() as u64;
        sum
    }
}

/// A program that has not been started: where its state is, and its configuration.
#[derive(Debug, Clone)]
pub struct Setup {
    home: Arc<tempfile::TempDir>,
    upstreams: String,
    store: String,
    store_dir: PathBuf,
    extra: String,
    wrapper: Vec<String>,
    ports: (u16, u16),
    admin_port: u16,
    plain: String,
    secure: String,
    tls: String,
    prefetch: bool,
}

impl Setup {
    /// A program without upstreams, with a directory of its own that lives as long as this and its clones.
    pub fn new() -> Self {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the test");
        let tls = certificates();
        std::fs::write(home.path().join("tls.crt"), &tls.certificate_pem).expect("a certificate file");
        std::fs::write(home.path().join("tls.key"), &tls.key_pem).expect("a key file");
        let home_dir = home.path().display();
        let tls_files = format!("cert_file = \"{home_dir}/tls.crt\"\nkey_file = \"{home_dir}/tls.key\"");
        Self {
            ports: (0, 0),
            admin_port: 0,
            plain: String::new(),
            secure: String::new(),
            tls: tls_files,
            store_dir: home.path().join("store"),
            home: Arc::new(home),
            upstreams: String::new(),
            store: "disk = \"256 MiB\"\nmemory = \"64 MiB\"".to_owned(),
            extra: String::new(),
            prefetch: std::env::var_os(PREFETCH).is_some(),
            wrapper: Vec::new(),
        }
    }

    /// A program in front of one origin whose narinfos are signed with the key of this name.
    pub fn in_front_of(origin: &Origin, key: &super::cache::Key) -> Self {
        Self::new().upstream(&origin.url(), key)
    }

    /// Adds an upstream that is trusted with this key.
    pub fn upstream(self, url: &str, key: &super::cache::Key) -> Self {
        let keys = format!("public_keys = [{:?}]", key.public());
        self.upstream_with(url, &keys)
    }

    /// Adds an upstream whose table has these further lines.
    pub fn upstream_with(mut self, url: &str, lines: &str) -> Self {
        self.upstreams.push_str(&format!("[[upstream]]\nurl = {url:?}\n{lines}\n\n"));
        self
    }

    /// Sets the lines of `[store]` other than its directory.
    pub fn store(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.store);
        self
    }

    /// Keeps the store in this directory.
    pub fn store_dir(mut self, dir: &Path) -> Self {
        dir.clone_into(&mut self.store_dir);
        self
    }

    /// Adds tables to the end of the configuration.
    pub fn also(mut self, tables: &str) -> Self {
        self.extra.push_str(tables);
        self.extra.push('\n');
        self
    }

    /// Fetches ahead, as it does without being told otherwise: most tests count what one request causes.
    pub fn prefetching(mut self) -> Self {
        self.prefetch = true;
        self
    }

    /// Listens on these ports, the plain one first, instead of on free ones.
    pub fn ports(mut self, plain: u16, secure: u16) -> Self {
        self.ports = (plain, secure);
        self
    }

    /// The port of the admin address, for commands that ask a running program.
    pub fn admin_port(mut self, port: u16) -> Self {
        self.admin_port = port;
        self
    }

    /// Adds lines to the table of the plain TCP listener.
    pub fn plain_listener(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.plain);
        self
    }

    /// Adds lines to the table of the TLS listener.
    pub fn tls_listener(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.secure);
        self
    }

    /// Sets the lines of `[tls]`, and the tables below it.
    pub fn tls(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.tls);
        self
    }

    /// Starts the program through this command, which must `exec` what follows it.
    pub fn through(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(ToString::to_string).collect();
        self
    }

    /// The authority of the tests as a file, for clients that read one.
    pub fn authority_file(&self) -> PathBuf {
        let path = self.home.path().join("authority.pem");
        std::fs::write(&path, &certificates().authority_pem).expect("a certificate file");
        path
    }

    /// The directory of the test.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The directory of the store.
    pub fn dir(&self) -> &Path {
        &self.store_dir
    }

    /// The configuration file's text.
    pub fn config(&self) -> String {
        let home = self.home.path();
        let (plain_port, tls_port) = self.ports;
        format!(
            "[[listen]]\naddress = \"127.0.0.1:{plain_port}\"\ntls = false\n{ahead}{plain}\n\n\
             [[listen]]\naddress = \"127.0.0.1:{tls_port}\"\n{ahead}{secure}\n\n\
             [[listen]]\naddress = \"unix:{home}/http.sock\"\ntls = false\n{ahead}\n\
             [tls]\n{tls}\n\n\
             [admin]\naddress = \"127.0.0.1:{admin_port}\"\n\n[store]\ndir = {store_dir:?}\n{store}\n\n{upstreams}{extra}",
            home = home.display(),
            admin_port = self.admin_port,
            plain = self.plain,
            secure = self.secure,
            tls = self.tls,
            store_dir = self.store_dir,
            store = self.store,
            upstreams = self.upstreams,
            extra = self.extra,
            ahead = self.ahead(),
        )
    }

    /// What is said at each listener about fetching ahead.
    fn ahead(&self) -> &'static str {
        let says = [&self.extra, &self.upstreams, &self.plain].iter().any(|lines| lines.contains("prefetch"));
        if self.prefetch || says { "" } else { "prefetch = \"0 B\"\n" }
    }

    /// Writes the configuration file: for a program that runs and will be told to read it again.
    pub fn write(&self) -> PathBuf {
        let path = self.home.path().join("snowbank.toml");
        std::fs::write(&path, self.config()).expect("a configuration file");
        path
    }

    /// Starts the program and waits until it listens everywhere.
    pub fn start(&self) -> Snowbank {
        let path = self.write();
        let arguments = ["serve", "--config", path.to_str().expect("a path of text")];
        let mut snowbank = Snowbank::spawn(&self.wrapper, &arguments, &[], self.home.path());
        snowbank.home = Some(Arc::clone(&self.home));
        for listener in ["listening on http://", "listening on https://", "listening on unix:", "admin on http://"] {
            snowbank.log_after(listener);
        }
        snowbank
    }
}

/// A command of the program that is not `serve`, run to its end.
pub fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_snowbank"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

/// The running program. Dropping it kills it.
pub struct Snowbank {
    child: Child,
    log: Arc<Log>,
    /// The directory of its setup stays while it runs.
    home: Option<Arc<tempfile::TempDir>>,
}

impl Snowbank {
    /// Starts `serve` with these arguments; for tests of the command line. `home` is its HOME and working directory.
    pub fn spawn(wrapper: &[String], arguments: &[&str], environment: &[(String, String)], home: &Path) -> Self {
        let mut words = wrapper.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_snowbank")]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).args(arguments).envs(environment.iter().map(|(n, v)| (n, v)));
        Self::run(&mut command, home)
    }

    /// Starts it by this command. `home` is its HOME and working directory.
    pub fn run(command: &mut Command, home: &Path) -> Self {
        let mut child = command
            .current_dir(home)
            .env("HOME", home)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Arc::new(Log::default());
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("a pipe")), Box::new(child.stderr.take().expect("a pipe"))];
        let open = Arc::new(Mutex::new(outputs.len()));
        for output in outputs {
            let (log, open) = (Arc::clone(&log), Arc::clone(&open));
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    log.lines.lock().expect("no reader panicked").0.push(line);
                    log.changed.notify_all();
                }
                let mut open = open.lock().expect("no reader panicked");
                *open -= 1;
                if *open == 0 {
                    log.lines.lock().expect("no reader panicked").1 = true;
                    log.changed.notify_all();
                }
            });
        }
        Self { child, log, home: None }
    }

    /// Waits for a line that contains `text`; what stands behind it, up to the next blank.
    #[track_caller]
    pub fn log_after(&self, text: &str) -> String {
        self.log_word_after(text, 0)
    }

    /// The same for the line with this number, counted from 0, among those that contain `text`.
    #[track_caller]
    pub fn log_word_after(&self, text: &str, nth: usize) -> String {
        let line = self.log_line(text, nth);
        let (_, after) = line.split_once(text).expect("the line contains it");
        let end = after.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(after.len());
        after[..end].to_owned()
    }

    /// Waits for the line with this number among those that contain `text`.
    #[track_caller]
    pub fn log_line(&self, text: &str, nth: usize) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.log.lines.lock().expect("no reader panicked");
        loop {
            if let Some(line) = lines.0.iter().filter(|line| line.contains(text)).nth(nth) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.1 {
                drop(lines);
                panic!("no line {text:?} in the log");
            }
            lines = self.log.changed.wait_timeout(lines, left).expect("no reader panicked").0;
        }
    }

    /// Every line of the log so far, standard output included.
    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().expect("no reader panicked").0.clone()
    }

    /// The plain listener.
    pub fn http(&self) -> Target {
        Target::Http(self.http_address())
    }

    /// The address of the plain listener.
    pub fn http_address(&self) -> SocketAddr {
        address(&self.log_after("listening on http://"))
    }

    /// The base URL of the plain listener.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http_address())
    }

    /// The TLS listener.
    pub fn https(&self) -> Target {
        Target::Https(address(&self.log_after("listening on https://")), vec![certificates().authority.clone()])
    }

    /// The base URL of the TLS listener.
    pub fn https_url(&self) -> String {
        format!("https://{}", address(&self.log_after("listening on https://")))
    }

    /// The unix socket.
    pub fn unix(&self) -> Target {
        Target::Unix(self.log_after("listening on unix:").into())
    }

    /// The metrics page.
    pub fn metrics(&self) -> String {
        self.admin("/metrics")
    }

    /// What the admin address answers to a GET, head and all.
    pub fn admin(&self, path: &str) -> String {
        let address = address(&self.log_after("admin on http://"));
        let mut stream = TcpStream::connect(address).expect("the admin address answers");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("a page of text");
        assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
        page
    }

    /// The status and the body of what the admin address answers to this request.
    #[track_caller]
    pub fn operator(&self, method: &str, path: &str, fields: &str) -> (u16, String) {
        self.operator_at("localhost", method, path, fields)
    }

    /// The same, where whoever asks calls the server by this name.
    pub fn operator_at(&self, host: &str, method: &str, path: &str, fields: &str) -> (u16, String) {
        let address = address(&self.log_after("admin on http://"));
        let mut stream = TcpStream::connect(address).expect("the admin address answers");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n")
            .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    /// The sum of the samples of this count. Panics when there is no such metric, so that no test can count nothing.
    #[track_caller]
    pub fn counter(&self, count: Count) -> u64 {
        count.sum(&self.metrics())
    }

    /// Waits until the disk tier is in use; before that, the program serves as a pure proxy.
    #[track_caller]
    pub fn wait_for_disk(&self) {
        self.log_line(DISK_OPEN, 0);
    }

    /// The same for a program that found its store in use by another one, and tries again.
    #[track_caller]
    pub fn wait_for_disk_to_be_up(&self) {
        let deadline = Instant::now() + PATIENCE;
        while Count::DiskUp.sum(&self.metrics()) == 0 {
            assert!(Instant::now() < deadline, "the disk is not used:\n{}", self.log().join("\n"));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Waits until everything that was put into the store is on the disk, so that even a crash keeps it.
    #[track_caller]
    pub fn wait_until_stored(&self) {
        let deadline = Instant::now() + PATIENCE;
        // In this order: a fill runs until its manifest is among what is to be written.
        while Count::FillsRunning.sum(&self.metrics()) > 0 || Count::Unwritten.sum(&self.metrics()) > 0 {
            assert!(Instant::now() < deadline, "the store does not come to rest");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("resident memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// SIGKILL: the end without any warning.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("its end");
    }

    /// SIGTERM, without waiting.
    pub fn ask_to_stop(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// SIGHUP: read the configuration and the files again.
    pub fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        let id = rustix::process::Pid::from_raw(id).expect("a process id");
        rustix::process::kill_process(id, signal).expect("it runs");
    }

    /// SIGTERM, then waits for the end.
    pub fn stop(mut self) -> ExitStatus {
        self.ask_to_stop();
        self.wait()
    }

    /// Waits until the program has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log().join("\n"));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// True while it runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }
}

impl Drop for Snowbank {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.home.take());
        if std::thread::panicking() {
            eprintln!("--- the log of snowbank ---\n{}\n---", self.log().join("\n"));
        }
    }
}

#[track_caller]
fn address(text: &str) -> SocketAddr {
    text.trim_end_matches('/').parse().unwrap_or_else(|_| panic!("not an address: {text:?}"))
}
