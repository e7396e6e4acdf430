//! Renewal: in time under load, and through outages of the authority with the old certificate in force.

use super::{NAME, entry, shown, trusted};
use crate::support::authority::since_epoch;
use crate::support::pebble::{Pebble, Shape};
use crate::support::snowbank::{Count, Snowbank};
use crate::support::tls::{Hello, Told, chain_of, tell};
use crate::support::trust::eventually;
use rustls::pki_types::CertificateDer;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const HTTP: &str = "challenge = \"http-01\"";

fn lasting(seconds: u64) -> Shape {
    Shape { validity: seconds, ..Shape::default() }
}

/// Clients that open a connection, verify what is shown, ask for something, and begin again.
struct Crowd {
    stop: Arc<AtomicBool>,
    handshakes: Arc<AtomicUsize>,
    /// Of the certificates that were shown.
    serials: Arc<Mutex<HashSet<String>>>,
    clients: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

impl Crowd {
    fn start(clients: usize, address: SocketAddr, root: &CertificateDer<'static>) -> Self {
        let (stop, handshakes, serials) = (Arc::default(), Arc::default(), Arc::default());
        let mut crowd = Self { stop, handshakes, serials, clients: Vec::new() };
        for _ in 0..clients {
            let (stop, handshakes) = (Arc::clone(&crowd.stop), Arc::clone(&crowd.handshakes));
            let (serials, root) = (Arc::clone(&crowd.serials), root.clone());
            crowd.clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let serial = one_visit(address, &root).await?;
                    serials.lock().expect("serials").insert(serial);
                    handshakes.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        crowd
    }

    fn certificates(&self) -> usize {
        self.serials.lock().expect("serials").len()
    }

    /// No client may have seen a failure. How many handshakes there were.
    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("a client").expect("every handshake and every request succeeds");
        }
        self.handshakes.load(Ordering::Relaxed)
    }
}

/// A handshake by a strict client (an expired certificate fails it) and a request. The serial number that was shown.
async fn one_visit(address: SocketAddr, root: &CertificateDer<'static>) -> Result<String, String> {
    let mut stream = Hello::to(NAME).verified(address, std::slice::from_ref(root)).await?;
    let serial = tell(&chain_of(&stream)[0]).serial;
    let request = format!("GET /nix-cache-info HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(|e| e.to_string())?;
    if answer.starts_with("HTTP/1.1 200 ") { Ok(serial) } else { Err(answer) }
}

/// The one long test: over a minute, by its nature.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_minute_long_ones_are_renewed_in_time_while_half_of_the_nonces_are_refused() {
    let pebble = Pebble::start(Shape { nonce_reject: 50, ..lasting(30) });
    let snowbank = pebble.setup(&[NAME], HTTP).start();
    let root = pebble.root().await;
    trusted(pebble.secure(), NAME, &root).await;
    let crowd = Crowd::start(4, pebble.secure(), &root);
    // Four certificates take three renewals, each after about 20 seconds: more than one PATIENCE.
    eventually("two renewals", async || crowd.certificates() >= 3).await;
    eventually("three renewals", async || crowd.certificates() >= 4).await;
    let handshakes = crowd.stop().await;
    assert!(handshakes > 300, "only {handshakes} handshakes");
    eprintln!("{handshakes} handshakes over {} certificates", pebble.issued());
    assert!(pebble.log().contains("badNonce") || pebble.requests("/nonce-plz") > 0);
    assert_eq!(failures(&snowbank), 0, "a refused nonce is no failure:\n{}", snowbank.log().join("\n"));
    assert_eq!(pebble.accounts(), 1);
    assert!(pebble.issued() <= 6, "{} certificates in about 70 seconds", pebble.issued());
}

/// The failures that are counted; a reason that never occurred may have no sample.
fn failures(snowbank: &Snowbank) -> u64 {
    let page = snowbank.metrics();
    if page.lines().any(|line| line.starts_with("snowbank_certificate_failures_total{")) {
        snowbank.counter(Count::CertificatesFailed)
    } else {
        0
    }
}

/// Waits until a certificate is out of date.
async fn expired(told: &Told) {
    eventually("it expires", async || i64::try_from(since_epoch().as_secs()).expect("a time") > told.not_after).await;
}

#[tokio::test]
async fn the_old_one_is_kept_while_the_authority_cannot_be_reached() {
    let pebble = Pebble::start(lasting(8));
    let snowbank = pebble.setup(&[NAME], HTTP).start();
    let root = pebble.root().await;
    let first = trusted(pebble.secure(), NAME, &root).await;
    pebble.shut();
    let before = failures(&snowbank);
    eventually("the failure is counted", async || failures(&snowbank) > before).await;
    expired(&first).await;
    // Even out of date it is better than one that nobody ever vouched for (R33).
    assert_eq!(shown(pebble.secure(), NAME).await, first);
    let told = entry(&snowbank, NAME).expect("an entry");
    assert_eq!(told["source"], "acme");
    assert!(told["last_error"].is_string(), "{told}");
    pebble.open();
    let second = trusted(pebble.secure(), NAME, &root).await;
    assert_ne!(second.serial, first.serial);
    eventually("the error is forgotten", async || entry(&snowbank, NAME).expect("an entry")["last_error"].is_null())
        .await;
    assert_eq!(pebble.accounts(), 1);
}

#[tokio::test]
async fn an_authority_that_forgot_the_account_gets_it_again() {
    let pebble = Pebble::start(lasting(8));
    let _snowbank = pebble.setup(&[NAME], HTTP).start();
    trusted(pebble.secure(), NAME, &pebble.root().await).await;
    pebble.start_again();
    trusted(pebble.secure(), NAME, &pebble.root().await).await;
    assert_eq!(pebble.accounts(), 2, "one for each life of the authority");
}

#[tokio::test]
async fn a_renewal_that_is_due_at_the_start_is_not_forgotten() {
    let pebble = Pebble::start(lasting(6));
    let setup = pebble.setup(&[NAME], HTTP);
    let snowbank = setup.start();
    let root = pebble.root().await;
    let first = trusted(pebble.secure(), NAME, &root).await;
    snowbank.kill();
    expired(&first).await;
    let _snowbank = setup.start();
    assert_ne!(trusted(pebble.secure(), NAME, &root).await.serial, first.serial);
    assert_eq!(pebble.accounts(), 1);
}
