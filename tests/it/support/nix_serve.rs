//! nix-serve under starman, as captured on the wire: its answers byte for byte, and its bad habits.
//!
//! - HEAD answers carry the body, on a connection that it says is kept alive.
//! - A NAR whose dump fails is `200` with the whole Content-Length and a short body.
//! - `nix-cache-info`, every 404 and logs are chunked; the rest has a Content-Length; HTTP/1.0 gets neither chunks nor keep-alive.
//! - No ranges, no validators; method and query are not looked at; paths are percent-decoded.
//! - Connections are kept alive for 1 s, and each occupies one of five workers while it is open.
//! - An unknown log is `200` and empty. A narinfo hash of the wrong length is 500.
//! - A path that was rebuilt has another NAR hash: the old NAR URL is 404.

use super::cache::{Key, Object};
use super::fixture::Fixture;
use super::origin::Request;
use super::runtime;
use super::wire::read_head;
use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const WORKERS: usize = 5;
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const DATE: &str = "Date: Sun, 22 Nov 2026 17:16:05 GMT\r\n";

/// A path in the store behind nix-serve.
#[derive(Debug, Clone)]
struct Stored {
    base_name: String,
    nar_hash: String,
    nar_size: u64,
    references: Vec<String>,
    deriver: Option<String>,
    nar: Nar,
    /// The dump fails after this many bytes.
    fails_after: Option<usize>,
}

#[derive(Debug, Clone)]
enum Nar {
    Bytes(Bytes),
    Dump(PathBuf),
}

#[derive(Default)]
struct State {
    paths: HashMap<String, Stored>,
    logs: HashMap<String, String>,
    key: Option<Key>,
    requests: Vec<Request>,
    connections: usize,
}

/// A running imitation on a free port of 127.0.0.1. Dropping it closes the port and every connection.
pub struct NixServe {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

impl NixServe {
    /// An empty store. With a key, narinfos are signed by it when they are asked for; without, they are unsigned.
    pub fn start(key: Option<Key>) -> Self {
        let _entered = runtime().enter();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let listener = TcpListener::from_std(listener).expect("a listener on the runtime");
        let address = listener.local_addr().expect("a bound address");
        let state = Arc::new(Mutex::new(State { key, ..State::default() }));
        let accepting = runtime().spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    /// The store of the fixture, dumped by real Nix.
    pub fn of_fixture(fixture: &Fixture, key: Option<Key>) -> Self {
        let server = Self::start(key);
        let store = fixture.real_store();
        for info in fixture.infos() {
            let stored = Stored {
                base_name: info.base_name.clone(),
                nar_hash: info.nar_hash.clone(),
                nar_size: info.nar_size,
                references: info.references.clone(),
                deriver: info.deriver.clone(),
                nar: Nar::Dump(store.join(&info.base_name)),
                fails_after: None,
            };
            server.lock().paths.insert(info.base_name[..32].to_owned(), stored);
        }
        server
    }

    /// Puts an object into the store; another one with the same hash part is replaced, as by a rebuild.
    pub fn add(&self, object: &Object) {
        let stored = Stored {
            base_name: object.base_name.clone(),
            nar_hash: object.nar_hash(),
            nar_size: object.nar.len() as u64,
            references: object.references.clone(),
            deriver: None,
            nar: Nar::Bytes(object.nar.clone()),
            fails_after: None,
        };
        self.lock().paths.insert(object.hash_part().to_owned(), stored);
    }

    /// Lets the dump of this object fail after so many bytes; `None` repairs it.
    pub fn fail_dump(&self, object: &Object, after: Option<usize>) {
        let mut state = self.lock();
        state.paths.get_mut(object.hash_part()).expect("the object is in the store").fails_after = after;
    }

    /// Gives a build log to `<hash>-<name>`.
    pub fn add_log(&self, name: &str, text: &str) {
        self.lock().logs.insert(name.to_owned(), text.to_owned());
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    /// How many requests for this target arrived.
    pub fn count(&self, target: &str) -> usize {
        self.lock().requests.iter().filter(|r| r.target == target).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no handler panicked")
    }
}

impl Drop for NixServe {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    let workers = Arc::new(Semaphore::new(WORKERS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // A worker is free first, then takes a connection: the rest waits in the kernel's queue.
        let Ok(worker) = Arc::clone(&workers).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { return };
        let state = Arc::clone(&state);
        connections.spawn(async move {
            // A client that left is not an error of the test.
            let _ = converse(stream, &state).await;
            drop(worker);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let number = {
        let mut state = state.lock().expect("no handler panicked");
        state.connections += 1;
        state.connections - 1
    };
    let mut stream = BufReader::new(stream);
    loop {
        let Ok(head) = tokio::time::timeout(KEEP_ALIVE, read_head(&mut stream)).await else { return Ok(()) };
        let Some(head) = head? else { return Ok(()) };
        let mut words = head.start.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let old = words.next().as_deref() == Some("HTTP/1.0");
        let request = Request { method, target, fields: head.fields, connection: number, body: Bytes::new() };
        let close = old || request.field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let answer = if !old && request.field("host").is_none() {
            Answer { close: true, ..Answer::text(400, "Bad Request").with_length() }
        } else {
            let mut state = state.lock().expect("no handler panicked");
            state.requests.push(request.clone());
            Answer { close, ..state.answer(&request.target) }
        };
        let dumped_short = answer.write(&request, old, &mut stream).await?;
        if answer.close {
            stream.get_mut().shutdown().await?;
            return Ok(());
        }
        if dumped_short {
            // starman waits for the next request as if nothing had happened.
            let _ = tokio::time::timeout(KEEP_ALIVE, read_head(&mut stream)).await;
            return Ok(());
        }
    }
}

struct Answer {
    status: u16,
    kind: &'static str,
    /// Told in the head; without it the body is chunked.
    length: Option<u64>,
    body: Nar,
    fails_after: Option<usize>,
    close: bool,
}

impl Answer {
    fn text(status: u16, text: impl Into<String>) -> Self {
        let body = Nar::Bytes(text.into().into());
        Self { status, kind: "text/plain", length: None, body, fails_after: None, close: false }
    }

    fn with_length(mut self) -> Self {
        if let Nar::Bytes(bytes) = &self.body {
            self.length = Some(bytes.len() as u64);
        }
        self
    }

    /// True when the body was shorter than the head promised.
    async fn write(&self, request: &Request, old: bool, to: &mut BufReader<TcpStream>) -> io::Result<bool> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            _ => "Internal Server Error",
        };
        let version = if old { "HTTP/1.0" } else { "HTTP/1.1" };
        let mut head = format!("{version} {} {reason}\r\nContent-Type: {}\r\n", self.status, self.kind);
        let chunked = self.length.is_none() && !old && request.method != "HEAD";
        match self.length {
            Some(length) => head.push_str(&format!("Content-Length: {length}\r\n")),
            None if chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            None => {}
        }
        head.push_str(DATE);
        head.push_str(if self.close { "Connection: close\r\n\r\n" } else { "Connection: keep-alive\r\n\r\n" });
        to.write_all(head.as_bytes()).await?;
        let body = match &self.body {
            Nar::Bytes(bytes) => bytes.clone(),
            Nar::Dump(path) => dump(path.clone()).await?,
        };
        let end = self.fails_after.map_or(body.len(), |end| end.min(body.len()));
        if chunked {
            if end > 0 {
                to.write_all(format!("{end:x}\r\n").as_bytes()).await?;
                to.write_all(&body[..end]).await?;
                to.write_all(b"\r\n").await?;
            }
            to.write_all(b"0\r\n\r\n").await?;
        } else {
            to.write_all(&body[..end]).await?;
        }
        to.flush().await?;
        Ok(self.length.is_some_and(|length| (end as u64) < length))
    }
}

/// What `nix store dump-path` prints.
async fn dump(path: PathBuf) -> io::Result<Bytes> {
    let dumping = move || std::process::Command::new("nix-store").arg("--dump").arg(path).output();
    let output = tokio::task::spawn_blocking(dumping).await.map_err(io::Error::other)??;
    Ok(output.stdout.into())
}

impl State {
    fn answer(&self, target: &str) -> Answer {
        let path = percent_decoded(target.split('?').next().unwrap_or_default());
        if path == "/nix-cache-info" {
            return Answer::text(200, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
        }
        if let Some(hash) = path.strip_prefix('/').and_then(|p| p.strip_suffix(".narinfo")).filter(|h| is_word(h)) {
            return self.narinfo(hash);
        }
        if let Some(name) = path.strip_prefix("/nar/").and_then(|p| p.strip_suffix(".nar")) {
            match name.split_once('-') {
                Some((hash, nar_hash)) if is_word(hash) && is_word(nar_hash) => return self.nar(hash, Some(nar_hash)),
                None if is_word(name) => return self.nar(name, None),
                _ => {}
            }
        }
        if let Some(name) = path.strip_prefix("/log/").filter(|name| name.contains('-')) {
            return Answer::text(200, self.logs.get(name).cloned().unwrap_or_default());
        }
        Answer::text(404, "File not found.\n")
    }

    fn narinfo(&self, hash: &str) -> Answer {
        if hash.len() != 32 {
            return Answer::text(500, "Internal Server Error").with_length();
        }
        let Some(stored) = self.paths.get(hash) else { return Answer::text(404, "No such path.\n") };
        let mut text = format!(
            "StorePath: /nix/store/{}\nURL: nar/{hash}-{}.nar\nCompression: none\nNarHash: sha256:{}\nNarSize: {}\n",
            stored.base_name, stored.nar_hash, stored.nar_hash, stored.nar_size
        );
        if !stored.references.is_empty() {
            text.push_str(&format!("References: {}\n", stored.references.join(" ")));
        }
        if let Some(deriver) = &stored.deriver {
            text.push_str(&format!("Deriver: {deriver}\n"));
        }
        if let Some(key) = &self.key {
            text.push_str(&format!("Sig: {}\n", key.sign(&stored.fingerprint())));
        }
        Answer { kind: "text/x-nix-narinfo", ..Answer::text(200, text).with_length() }
    }

    fn nar(&self, hash: &str, nar_hash: Option<&str>) -> Answer {
        let Some(stored) = self.paths.get(hash) else { return Answer::text(404, "No such path.\n") };
        if nar_hash.is_some_and(|asked| asked != stored.nar_hash) {
            return Answer::text(404, "Incorrect NAR hash. Maybe the path has been recreated.\n");
        }
        Answer {
            status: 200,
            kind: "text/plain",
            length: Some(stored.nar_size),
            body: stored.nar.clone(),
            fails_after: stored.fails_after,
            close: false,
        }
    }
}

impl Stored {
    fn fingerprint(&self) -> String {
        let mut references = self.references.clone();
        references.sort();
        let references: Vec<String> = references.iter().map(|r| format!("/nix/store/{r}")).collect();
        let Self { base_name, nar_hash, nar_size, .. } = self;
        format!("1;/nix/store/{base_name};sha256:{nar_hash};{nar_size};{}", references.join(","))
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
}

fn percent_decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%').then(|| after.get(..2)).flatten();
        let escaped = escaped.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
