//! An upstream that is honest until it is told to misbehave: on a raw socket, below HTTP and TLS where need be.
//!
//! Each connection carries one request and is closed. What is scripted are bytes and ends, so that whatever a broken server,
//! middlebox or network does can be written down.

use super::runtime;
use super::snowbank::certificates;
use super::wire::read_head;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// One step of a connection. After the last one it is closed in order.
#[derive(Debug, Clone)]
pub enum Act {
    /// These bytes.
    Send(Vec<u8>),
    /// These bytes, one at a time, with so much between them.
    Drip(Vec<u8>, Duration),
    /// Nothing, for ever.
    Hold,
    /// The connection is reset.
    Reset,
}

/// Where it misbehaves.
#[derive(Clone)]
pub enum Where {
    /// Before it has read anything.
    Accepting,
    /// In the TLS handshake: this certificate.
    Certificate(TlsAcceptor),
    /// In answers to requests whose target ends so; in all of them where it is empty.
    Answering(&'static str),
    /// In answers, so many in a row, and then not in as many.
    Flapping(usize),
}

/// How it misbehaves.
#[derive(Clone)]
pub struct Fault {
    /// What it is called.
    pub name: &'static str,
    /// Where.
    pub place: Where,
    /// What it does there.
    pub acts: Vec<Act>,
}

#[derive(Default)]
struct Behaviour {
    files: HashMap<String, Vec<u8>>,
    answers: usize,
    fault: Option<Fault>,
}

/// See the module. Dropping it closes the port.
pub struct Door {
    address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    accepting: tokio::task::JoinHandle<()>,
    tls: bool,
}

impl Door {
    /// A door on a free port, behind TLS or not, that has nothing.
    pub fn start(tls: bool) -> Self {
        let _entered = runtime().enter();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let listener = TcpListener::from_std(listener).expect("a listener on the runtime");
        let address = listener.local_addr().expect("a bound address");
        let behaviour = Arc::new(Mutex::new(Behaviour::default()));
        let accepting = runtime().spawn(accept(listener, tls, Arc::clone(&behaviour)));
        Self { address, behaviour, accepting, tls }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// Has this file from now on.
    pub fn has(&self, target: &str, body: impl Into<Vec<u8>>) {
        self.behaviour.lock().expect("no connection panicked").files.insert(target.to_owned(), body.into());
    }

    /// Misbehaves so from now on.
    pub fn misbehave(&self, fault: &Fault) {
        self.behaviour.lock().expect("no connection panicked").fault = Some(fault.clone());
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The bytes of a response with Content-Length, after which the connection ends.
pub fn response(status: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{fields}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn accept(listener: TcpListener, tls: bool, behaviour: Arc<Mutex<Behaviour>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let behaviour = Arc::clone(&behaviour);
        connections.spawn(async move { connection(socket, tls, &behaviour).await });
    }
}

async fn connection(mut socket: TcpStream, tls: bool, behaviour: &Mutex<Behaviour>) {
    let fault = behaviour.lock().expect("no connection panicked").fault.clone();
    let mut acceptor = certificates().acceptor();
    match fault.as_ref().map(|fault| (&fault.place, &fault.acts)) {
        Some((Where::Accepting, acts)) => {
            if perform(&mut socket, acts).await {
                let _ = socket.set_zero_linger();
            }
            return;
        }
        Some((Where::Certificate(other), _)) => acceptor = other.clone(),
        _ => {}
    }
    if tls {
        if let Ok(stream) = acceptor.accept(socket).await {
            let _ = answer(stream, behaviour, fault.as_ref()).await;
        }
        return;
    }
    if answer(&mut socket, behaviour, fault.as_ref()).await {
        let _ = socket.set_zero_linger();
    }
}

/// Answers one request; true when the connection is to be reset.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    behaviour: &Mutex<Behaviour>,
    fault: Option<&Fault>,
) -> bool {
    let mut stream = BufReader::new(stream);
    let Ok(Some(head)) = read_head(&mut stream).await else { return false };
    let target = head.start.split(' ').nth(1).unwrap_or_default();
    let mut stream = stream.into_inner();
    if let Some(Fault { place, acts, .. }) = fault
        && misbehaves(place, target, behaviour)
    {
        return perform(&mut stream, acts).await;
    }
    let file = behaviour.lock().expect("no connection panicked").files.get(target).cloned();
    let bytes = file.map_or_else(|| response("404 Not Found", "", b"no\n"), |body| response("200 OK", "", &body));
    perform(&mut stream, &[Act::Send(bytes)]).await
}

fn misbehaves(place: &Where, target: &str, behaviour: &Mutex<Behaviour>) -> bool {
    match place {
        Where::Answering(end) => target.ends_with(end),
        Where::Flapping(length) => {
            let mut behaviour = behaviour.lock().expect("no connection panicked");
            behaviour.answers += 1;
            ((behaviour.answers - 1) / length).is_multiple_of(2)
        }
        Where::Accepting | Where::Certificate(_) => false,
    }
}

async fn perform(stream: &mut (impl AsyncWrite + Unpin), acts: &[Act]) -> bool {
    for act in acts {
        match act {
            Act::Send(bytes) => {
                if stream.write_all(bytes).await.is_err() || stream.flush().await.is_err() {
                    return false;
                }
            }
            Act::Drip(bytes, pause) => {
                for byte in bytes {
                    if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
                        return false;
                    }
                    tokio::time::sleep(*pause).await;
                }
            }
            Act::Hold => std::future::pending().await,
            Act::Reset => return true,
        }
    }
    let _ = stream.shutdown().await;
    false
}
