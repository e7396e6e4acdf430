//! A scripted ACME authority: for what no installed one does on demand (renewal information, rate limits, orders that
//! all fail). It keeps a log of what was asked and when, and verifies neither signatures nor names.
//!
//! ```text
//! let directory = Directory::start(|nth| Order::Ready, |nth| Some(Window::far()));
//! ```
//!
//! Every order of [`Order::Ready`] is ready at once and its certificate is signed for real. Out of scope: accounts that
//! differ, bindings, and everything that the real `pebble` shows (see [`super::pebble`]).

use super::authority::{Authority, Leaf, since_epoch};
use super::origin::{Origin, Reply, Request};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What becomes of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Ready at once, issued when finalized.
    Ready,
    /// Its proof is refused, whatever it is.
    Refused,
    /// Not taken: too many, with this `Retry-After` in seconds.
    Limited(u64),
}

/// An answer about renewal: when to renew, in seconds from the answer, and when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first moment.
    pub start: i64,
    /// The last.
    pub end: i64,
    /// `Retry-After`, seconds.
    pub retry_after: u64,
}

/// A request that matters, and when it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// When.
    pub at: Instant,
    /// What the client signed; `null` for a GET.
    pub payload: Value,
    /// The request target.
    pub target: String,
}

#[derive(Default)]
struct State {
    accounts: Vec<Asked>,
    orders: Vec<(Asked, Order)>,
    renewals: Vec<Asked>,
    proofs: Vec<usize>,
    issued: Vec<Option<String>>,
}

struct Script {
    url: String,
    authority: Authority,
    validity: i64,
    order: Box<dyn Fn(usize) -> Order + Send + Sync>,
    window: Box<dyn Fn(usize) -> Option<Window> + Send + Sync>,
    state: Mutex<State>,
    nonces: AtomicUsize,
}

/// The authority. Dropping it closes its port.
pub struct Directory {
    origin: Origin,
    script: Arc<Script>,
}

impl Directory {
    /// An authority whose n-th order ends like this, and whose n-th answer about renewal is this (none: 404), n from 0.
    /// Certificates are valid for `validity` seconds.
    pub fn start(
        validity: i64,
        order: impl Fn(usize) -> Order + Send + Sync + 'static,
        window: impl Fn(usize) -> Option<Window> + Send + Sync + 'static,
    ) -> Self {
        let origin = Origin::start_tls();
        let script = Arc::new(Script {
            url: origin.url(),
            authority: Authority::new("scripted authority"),
            validity,
            order: Box::new(order),
            window: Box::new(window),
            state: Mutex::default(),
            nonces: AtomicUsize::new(0),
        });
        let answering = Arc::clone(&script);
        origin.otherwise(move |request, _| answering.answer(request));
        Self { origin, script }
    }

    /// The URL of its directory.
    pub fn url(&self) -> String {
        format!("{}/dir", self.origin.url())
    }

    /// The root that signs its certificates.
    pub fn root(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.script.authority.certificate.clone()
    }

    /// The new accounts that were asked for.
    pub fn accounts(&self) -> Vec<Asked> {
        self.script.state.lock().expect("its state").accounts.clone()
    }

    /// The new orders that were asked for, taken or not.
    pub fn orders(&self) -> Vec<Asked> {
        self.script.state.lock().expect("its state").orders.iter().map(|(asked, _)| asked.clone()).collect()
    }

    /// The questions about renewal.
    pub fn renewals(&self) -> Vec<Asked> {
        self.script.state.lock().expect("its state").renewals.clone()
    }
}

impl Script {
    fn answer(&self, request: &Request) -> Reply {
        // A nonce is base64url; the client need not know that it is a number.
        let nonce = format!("nonce-{}", self.nonces.fetch_add(1, Ordering::Relaxed));
        self.route(request).without_ranges().field("Replay-Nonce", &nonce).field("Cache-Control", "no-store")
    }

    fn route(&self, request: &Request) -> Reply {
        let asked = Asked { at: Instant::now(), payload: payload(&request.body), target: request.target.clone() };
        let mut words = request.target.trim_start_matches('/').split('/');
        let (what, which) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let which_order = || which.parse::<usize>().unwrap_or(usize::MAX);
        match what {
            "dir" => self.directory(),
            "nonce" => Reply::bytes(""),
            "account" => {
                self.state.lock().expect("the state").accounts.push(asked);
                created(&json!({ "status": "valid" }), &format!("{}/account/1", self.url))
            }
            "new-order" => self.new_order(asked),
            "order" => self.order(which_order()),
            "proofs" => self.proofs(which_order()),
            "proof" => {
                self.state.lock().expect("the state").proofs.push(which_order());
                Reply::bytes(self.challenge(which_order(), "http-01").to_string())
            }
            "finalize" => self.finalize(which_order(), &asked.payload),
            "certificate" => self.certificate(which_order()),
            "renewal" => self.renewal(asked),
            _ => problem(404, "malformed", "no such thing"),
        }
    }

    fn directory(&self) -> Reply {
        let at = |path: &str| format!("{}/{path}", self.url);
        json_reply(&json!({
            "newNonce": at("nonce"),
            "newAccount": at("account"),
            "newOrder": at("new-order"),
            "revokeCert": at("revoke"),
            "keyChange": at("key-change"),
            "renewalInfo": at("renewal"),
            "meta": {},
        }))
    }

    fn new_order(&self, asked: Asked) -> Reply {
        let mut state = self.state.lock().expect("the state");
        let nth = state.orders.len();
        let order = (self.order)(nth);
        state.orders.push((asked, order));
        state.issued.push(None);
        drop(state);
        match order {
            Order::Limited(seconds) => problem(429, "rateLimited", "too many orders, says the script")
                .field("Retry-After", &seconds.to_string()),
            _ => created(&self.order_object(nth), &format!("{}/order/{nth}", self.url)),
        }
    }

    fn order(&self, nth: usize) -> Reply {
        json_reply(&self.order_object(nth))
    }

    fn order_object(&self, nth: usize) -> Value {
        let state = self.state.lock().expect("the state");
        let Some((asked, order)) = state.orders.get(nth) else { return Value::Null };
        let (url, issued) = (&self.url, state.issued[nth].is_some());
        let status = match order {
            Order::Ready if issued => "valid",
            Order::Ready => "ready",
            _ if state.proofs.contains(&nth) => "invalid",
            _ => "pending",
        };
        let mut object = json!({
            "status": status,
            "identifiers": asked.payload["identifiers"],
            "authorizations": [format!("{url}/proofs/{nth}")],
            "finalize": format!("{url}/finalize/{nth}"),
        });
        if !asked.payload["replaces"].is_null() {
            object["replaces"] = asked.payload["replaces"].clone();
        }
        if issued {
            object["certificate"] = format!("{url}/certificate/{nth}").into();
        }
        object
    }

    fn proofs(&self, nth: usize) -> Reply {
        let state = self.state.lock().expect("the state");
        let Some((asked, order)) = state.orders.get(nth) else { return problem(404, "malformed", "no such order") };
        let identifier = asked.payload["identifiers"][0].clone();
        let status = match order {
            Order::Ready => "valid",
            _ if state.proofs.contains(&nth) => "invalid",
            _ => "pending",
        };
        drop(state);
        let challenges: Vec<Value> =
            ["http-01", "tls-alpn-01", "dns-01"].into_iter().map(|kind| self.challenge(nth, kind)).collect();
        json_reply(&json!({ "status": status, "identifier": identifier, "challenges": challenges }))
    }

    fn challenge(&self, nth: usize, kind: &str) -> Value {
        let state = self.state.lock().expect("the state");
        let ready = state.orders.get(nth).is_some_and(|(_, order)| *order == Order::Ready);
        let url = format!("{}/proof/{nth}", self.url);
        let mut object =
            json!({ "type": kind, "url": url, "token": "dG9rZW4tb2YtdGhlLXNjcmlwdA", "status": "pending" });
        if ready {
            object["status"] = "valid".into();
        } else if state.proofs.contains(&nth) {
            object["status"] = "invalid".into();
            object["error"] = json!({
                "type": "urn:ietf:params:acme:error:unauthorized",
                "detail": "the script refuses this proof",
                "status": 403,
            });
        }
        object
    }

    fn finalize(&self, nth: usize, payload: &Value) -> Reply {
        let Some(request) = payload["csr"].as_str().and_then(|csr| URL_SAFE_NO_PAD.decode(csr).ok()) else {
            return problem(400, "badCSR", "no request");
        };
        let pem = self.authority.sign_request(&request, Leaf { from: 0, until: self.validity, ..Leaf::default() });
        if let Some(issued) = self.state.lock().expect("the state").issued.get_mut(nth) {
            *issued = Some(pem);
        }
        self.order(nth)
    }

    fn certificate(&self, nth: usize) -> Reply {
        let state = self.state.lock().expect("the state");
        match state.issued.get(nth).cloned().flatten() {
            Some(pem) => Reply::bytes(pem).field("Content-Type", "application/pem-certificate-chain"),
            None => problem(404, "malformed", "no such certificate"),
        }
    }

    fn renewal(&self, asked: Asked) -> Reply {
        let mut state = self.state.lock().expect("the state");
        let window = (self.window)(state.renewals.len());
        state.renewals.push(asked);
        let Some(window) = window else { return problem(404, "malformed", "no renewal information") };
        json_reply(&json!({
            "suggestedWindow": { "start": from_now(window.start), "end": from_now(window.end) },
        }))
        .field("Retry-After", &window.retry_after.to_string())
    }
}

/// What was signed; nothing is verified.
fn payload(body: &[u8]) -> Value {
    let envelope: Value = serde_json::from_slice(body).unwrap_or_default();
    let payload = envelope["payload"].as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    payload.and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default()
}

fn json_reply(value: &Value) -> Reply {
    Reply::bytes(value.to_string()).field("Content-Type", "application/json")
}

fn created(value: &Value, location: &str) -> Reply {
    Reply::with_status(201, value.to_string()).field("Content-Type", "application/json").field("Location", location)
}

fn problem(status: u16, kind: &str, detail: &str) -> Reply {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    let body = json!({ "type": kind, "detail": detail, "status": status });
    Reply::with_status(status, body.to_string()).field("Content-Type", "application/problem+json")
}

/// RFC 3339.
fn from_now(seconds: i64) -> String {
    let now = i64::try_from(since_epoch().as_secs()).expect("a time of this century");
    let at = time::OffsetDateTime::from_unix_timestamp(now + seconds).expect("a time");
    at.format(&time::format_description::well_known::Rfc3339).expect("RFC 3339")
}

/// How long after `first` this was asked.
pub fn after(first: &Asked, second: &Asked) -> Duration {
    second.at.duration_since(first.at)
}
