//! A stretch of network between the program and a server that is real: it carries bytes, lets answers come so far and no
//! further, and notes what was asked.

use super::runtime;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// What happens to an answer that has come so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Then {
    /// Nothing more of it ever comes.
    Hold,
    /// Its connection ends; no other answer is cut.
    Cut,
}

/// See the module. Dropping it closes the port.
pub struct Tap {
    address: SocketAddr,
    /// What came over each connection.
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
    limit: Limit,
    accepting: tokio::task::JoinHandle<()>,
}

type Limit = Arc<Mutex<Option<(usize, Then)>>>;

impl Tap {
    /// Carries to this port of the loopback address.
    pub fn to(port: u16) -> Self {
        let _entered = runtime().enter();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let listener = TcpListener::from_std(listener).expect("a listener on the runtime");
        let address = listener.local_addr().expect("a bound address");
        let (asked, limit) = (Arc::<Mutex<Vec<Vec<u8>>>>::default(), Limit::default());
        let (noted, limited) = (Arc::clone(&asked), Arc::clone(&limit));
        let accepting = runtime().spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((here, _)) = listener.accept().await {
                let Ok(there) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { continue };
                let ((from, to), (back, forth)) = (here.into_split(), there.into_split());
                let (asked, limit) = (Arc::clone(&noted), Arc::clone(&limited));
                let number = {
                    let mut asked = asked.lock().expect("nobody panicked");
                    asked.push(Vec::new());
                    asked.len() - 1
                };
                connections.spawn(async move {
                    tokio::select! {
                        () = carry(from, forth, |bytes| asked.lock().expect("nobody panicked")[number].extend(bytes)) => {}
                        () = limited_to(&limit, back, to) => {}
                    }
                });
            }
        });
        Self { address, asked, limit, accepting }
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on only so many bytes come back, over all connections.
    pub fn limit(&self, limit: Option<(usize, Then)>) {
        *self.limit.lock().expect("nobody panicked") = limit;
    }

    /// The heads of all requests so far, byte for byte (what is no text stands as U+FFFD), without the empty line: for requests
    /// without bodies.
    pub fn heads(&self) -> Vec<String> {
        let asked = self.asked.lock().expect("nobody panicked");
        let whole = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let of_one = |text: String| -> Vec<String> { text.split_terminator("\r\n\r\n").map(str::to_owned).collect() };
        asked.iter().map(whole).flat_map(of_one).collect()
    }

    /// The `Range` of each request so far whose target ends so.
    pub fn ranges(&self, target: &str) -> Vec<Option<String>> {
        let heads = self.heads();
        let heads = heads.iter().filter(|head| head.split(' ').nth(1).is_some_and(|t| t.ends_with(target)));
        let range = |head: &String| head.lines().find_map(|line| line.strip_prefix("range: ")).map(str::to_owned);
        heads.map(range).collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut seen: impl FnMut(&[u8])) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        seen(&piece[..length]);
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

async fn limited_to(limit: &Limit, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let (most, then) = take(&mut limit.lock().expect("nobody panicked"), length);
        if to.write_all(&piece[..most]).await.is_err() {
            return;
        }
        match then {
            Some(Then::Hold) => std::future::pending().await,
            Some(Then::Cut) => return,
            None => {}
        }
    }
}

/// How many of `length` bytes come back still, and what happens then if it is not all of them.
fn take(limit: &mut Option<(usize, Then)>, length: usize) -> (usize, Option<Then>) {
    let Some((left, then)) = limit else { return (length, None) };
    let (most, then) = (length.min(*left), *then);
    *left -= most;
    if most == length {
        return (most, None);
    }
    if then == Then::Cut {
        *limit = None;
    }
    (most, Some(then))
}
