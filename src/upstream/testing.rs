//! An origin that does what a test says, on a raw socket: whatever an upstream can do wrong can be written down.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Options, Upstream};
use crate::metrics::Metrics;
use crate::options::Table;

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Path and query.
    pub(crate) target: String,
    /// First and last byte of `Range`.
    pub(crate) range: Option<(u64, Option<u64>)>,
    /// All of the head, as it came.
    pub(crate) head: String,
}

/// One step of an answer. After the last one the connection is closed.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Send(Bytes),
    Pause(Duration),
    /// Until the test lets it go on.
    Hold(Arc<tokio::sync::Semaphore>),
    /// The connection is reset instead of closed.
    Reset,
}

/// A head and a body, with Content-Length.
pub(crate) fn answer(status: &str, body: impl Into<Bytes>) -> Vec<Step> {
    answer_with(status, "", body)
}

/// The same with more fields, each with its line end.
pub(crate) fn answer_with(status: &str, fields: &str, body: impl Into<Bytes>) -> Vec<Step> {
    let body = body.into();
    let head = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    vec![Step::Send(head.into()), Step::Send(body)]
}

/// "Look there."
pub(crate) fn redirect(status: u16, location: &str) -> Vec<Step> {
    answer_with(&format!("{status} Elsewhere"), &format!("Location: {location}\r\n"), "it is elsewhere\n")
}

/// "Have not."
pub(crate) fn not_found() -> Vec<Step> {
    answer("404 Not Found", "no\n")
}

/// An origin that is listening.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Origin {
    pub(crate) async fn start(script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
        let (requests, script) = (Arc::clone(&origin.requests), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (requests, script) = (Arc::clone(&requests), Arc::clone(&script));
                tokio::spawn(async move { serve(socket, &requests, script.as_ref()).await });
            }
        });
        origin
    }

    /// An upstream at this origin; `more` are lines of its table.
    pub(crate) fn upstream(&self, rank: u32, more: &str) -> Arc<Upstream> {
        upstream(self.address, rank, more)
    }

    /// The heads of the requests so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|request| request.head.clone()).collect()
    }

    /// What was asked so far for targets with this in them.
    pub(crate) fn asked(&self, part: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| request.target.contains(part)).count()
    }

    /// From where each request so far wanted its body: `None` without a range.
    pub(crate) fn ranges(&self) -> Vec<Option<u64>> {
        self.requests.lock().unwrap().iter().map(|request| request.range.map(|(first, _)| first)).collect()
    }
}

/// An upstream at `address`, where perhaps nobody listens.
pub(crate) fn upstream(address: SocketAddr, rank: u32, more: &str) -> Arc<Upstream> {
    let trust = if more.contains("trust") { "" } else { "trust = 'origin'" };
    let options = Options::from_toml(&format!("url = 'http://{address}'\n{trust}\n{more}")).unwrap();
    Upstream::new(options, rank, Metrics::default().upstream("test")).unwrap()
}

/// A listener that the kernel lets hear nothing: who connects to it waits, as for a machine that is switched off.
pub(crate) fn black_hole(address: SocketAddr) -> socket2::Socket {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    // One instruction of the classic packet filter: return 0, keep none of it.
    socket.attach_filter(&[socket2::SockFilter::new(6, 0, 0, 0)]).unwrap();
    socket.listen(8).unwrap();
    socket
}

async fn serve(mut socket: TcpStream, requests: &Mutex<Vec<Request>>, script: &(dyn Fn(&Request) -> Vec<Step> + Sync)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let range = head.lines().find_map(|line| line.strip_prefix("range: bytes=")).map(|range| {
        let (first, last) = range.split_once('-').unwrap();
        (first.parse().unwrap(), last.parse().ok())
    });
    let steps = {
        let mut requests = requests.lock().unwrap();
        let request = Request { target, range, head };
        requests.push(request.clone());
        script(&request)
    };
    for step in steps {
        match step {
            Step::Send(bytes) => {
                if socket.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Step::Pause(time) => tokio::time::sleep(time).await,
            Step::Hold(gate) => gate.acquire().await.unwrap().forget(),
            Step::Reset => return socket.set_zero_linger().unwrap(),
        }
    }
}
