//! The origin behind all servers: a binary cache over plain HTTP/1.1 in this program, with a distance and a width.
//!
//! The distance is a round trip, which a new connection costs once more than a kept one; the width is bytes per second of
//! each connection. Every request is counted, and every byte of each NAR. Out of scope: TLS to the origin, which costs every server the same.

use crate::corpus::StorePath;
use crate::namespace;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, sleep_until};

/// Bytes that are written at a time; as long as a piece is nothing beside the time it takes.
const PIECE: usize = 64 * 1024;

/// The running origin; it ends with its runtime, on drop.
pub struct Origin {
    state: Arc<State>,
    port: u16,
    _runtime: Runtime,
}

#[derive(Default)]
struct State {
    objects: Mutex<HashMap<String, Object>>,
    requests: AtomicU64,
    nars: AtomicU64,
    /// What was asked of each NAR since [`Origin::forget`], by its target.
    fetched: Mutex<HashMap<String, Fetched>>,
    distance: AtomicU64,
    width: AtomicU64,
}

/// What was asked of a NAR.
#[derive(Debug, Default, Clone, Copy)]
pub struct Fetched {
    pub requests: u64,
    /// Of its body, over all requests: a NAR that is fetched in parts comes in several.
    pub bytes: u64,
}

#[derive(Clone)]
enum Object {
    Text(Arc<str>),
    Nar(Arc<StorePath>),
}

impl Origin {
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port for the origin");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(State::default());
        let info = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";
        state.objects.lock().expect("no panic").insert("/nix-cache-info".to_owned(), Object::Text(info.into()));
        runtime.spawn(accept(listener, Arc::clone(&state)));
        runtime.spawn(namespace::end_when_told());
        Self { state, port, _runtime: runtime }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Has this path from now on.
    pub fn publish(&self, path: &Arc<StorePath>) {
        let mut objects = self.state.objects.lock().expect("no panic");
        objects.insert(path.narinfo_target(), Object::Text(path.narinfo.as_str().into()));
        objects.insert(path.nar_target(), Object::Nar(Arc::clone(path)));
    }

    /// How far away it is until the guard is dropped, and how many bytes a connection carries per second; 0 for as many as it can.
    pub fn place(&self, distance: Duration, width: u64) -> Away<'_> {
        self.state.distance.store(distance.as_micros() as u64, Relaxed);
        self.state.width.store(width, Relaxed);
        Away(&self.state)
    }

    /// Requests that it got, of whatever kind.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Relaxed)
    }

    /// Requests for NARs among them.
    pub fn nar_requests(&self) -> u64 {
        self.state.nars.load(Relaxed)
    }

    /// What was asked of each NAR since [`Self::forget`], by its target.
    pub fn fetched(&self) -> HashMap<String, Fetched> {
        self.state.fetched.lock().expect("no panic").clone()
    }

    /// Begins to count NARs anew.
    pub fn forget(&self) {
        self.state.fetched.lock().expect("no panic").clear();
    }
}

/// As long as this is there, the origin is far.
pub struct Away<'a>(&'a State);

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.distance.store(0, Relaxed);
        self.0.width.store(0, Relaxed);
    }
}

impl State {
    fn count(&self, target: &str, requests: u64, bytes: u64) {
        let mut fetched = self.fetched.lock().expect("no panic");
        let fetched = fetched.entry(target.to_owned()).or_default();
        fetched.requests += requests;
        fetched.bytes += bytes;
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Connections end with the runtime, which no test of anything outlives.
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            // A server that hangs up is none of the benchmark's business.
            let _ = serve(stream, &state).await;
        });
    }
}

async fn serve(stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    // What the handshake of a far peer would have cost.
    sleep(Duration::from_micros(state.distance.load(Relaxed))).await;
    while let Some(request) = read_head(&mut stream).await? {
        sleep(Duration::from_micros(state.distance.load(Relaxed))).await;
        state.requests.fetch_add(1, Relaxed);
        let object = state.objects.lock().expect("no panic").get(&request.target).cloned();
        match object {
            None => write_text(&mut stream, &request, "404 Not Found", "404").await?,
            Some(Object::Text(text)) => write_text(&mut stream, &request, "200 OK", &text).await?,
            Some(Object::Nar(path)) => {
                state.nars.fetch_add(1, Relaxed);
                state.count(&request.target, 1, 0);
                write_nar(&mut stream, &request, &path, state).await?;
            }
        }
    }
    Ok(())
}

struct Request {
    head_only: bool,
    target: String,
    range: Option<String>,
}

async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if (&mut *stream).take(8192).read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let mut words = lines.first().map(String::as_str).unwrap_or_default().split(' ');
    let head_only = words.next() == Some("HEAD");
    let target = words.next().unwrap_or_default().to_owned();
    let fields = lines.iter().filter_map(|line| line.split_once(':'));
    let range =
        fields.filter(|(name, _)| name.eq_ignore_ascii_case("range")).map(|(_, value)| value.trim().to_owned()).next();
    Ok(Some(Request { head_only, target, range }))
}

async fn write_text(stream: &mut BufReader<TcpStream>, request: &Request, status: &str, body: &str) -> io::Result<()> {
    let kind = if request.target.ends_with(".narinfo") { "text/x-nix-narinfo" } else { "text/plain" };
    let body_sent = if request.head_only { "" } else { body };
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body_sent}");
    stream.write_all(answer.as_bytes()).await
}

async fn write_nar(
    stream: &mut BufReader<TcpStream>,
    request: &Request,
    path: &StorePath,
    state: &State,
) -> io::Result<()> {
    let width = state.width.load(Relaxed);
    let length = path.nar.len();
    let part = request.range.as_deref().and_then(|range| parse_range(range, length));
    let (from, to) = part.unwrap_or((0, length));
    let mut head = format!("HTTP/1.1 {}\r\n", if part.is_some() { "206 Partial Content" } else { "200 OK" });
    head.push_str("Content-Type: application/x-nix-nar\r\nAccept-Ranges: bytes\r\n");
    head.push_str(&format!("ETag: \"{}\"\r\nContent-Length: {}\r\n", path.digest, to - from));
    if part.is_some() {
        head.push_str(&format!("Content-Range: bytes {from}-{}/{length}\r\n", to - 1));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    if request.head_only {
        return Ok(());
    }
    let began = Instant::now();
    let mut buffer = vec![0; PIECE];
    let mut at = from;
    while at < to {
        let piece = PIECE.min((to - at) as usize);
        path.nar.read(at, &mut buffer[..piece]);
        at += piece as u64;
        if width > 0 {
            sleep_until(began + Duration::from_secs_f64((at - from) as f64 / width as f64)).await;
        }
        stream.write_all(&buffer[..piece]).await?;
        state.count(&request.target, 0, piece as u64);
    }
    Ok(())
}

/// `bytes=a-b` or `bytes=a-` as what is sent: from here, to before there.
fn parse_range(text: &str, length: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first: u64 = first.parse().ok()?;
    let last = if last.is_empty() { length - 1 } else { last.parse::<u64>().ok()?.min(length - 1) };
    (first <= last).then_some((first, last + 1))
}
