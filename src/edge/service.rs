//! The life of a request at the edge: check, route, answer, respond, log.

use std::future::Future;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use super::access::{Book, Entry, Name};
use super::address::{Entrance, Peer, Serves};
use super::body::Body;
use super::connection::Handler;
use super::limits::{Client, Clients};
use super::page::{self, Base};
use super::respond::{self, Asked};
use super::route::{Route, route};
use crate::access::Visitor;
use crate::metrics::Outcome;
use crate::proxy::answer::Answer;
use crate::proxy::{About, request};
use crate::tls::Challenges;
use crate::trace;
use crate::trail::Trail;

/// Longest request target, in bytes (R22).
const TARGET_SIZE: usize = 2 << 10;

/// What answers what is asked for: the proxy, or a test's stand-in for it.
pub trait Answers: Send + Sync + 'static {
    /// Answers one request of this visitor; for HEAD (`head`) no bytes will be read.
    fn answer(
        &self,
        request: request::Request,
        head: bool,
        visitor: &Visitor<'_>,
    ) -> impl Future<Output = Answer> + Send;

    /// Whether this visitor may see anything that not everybody may.
    fn is_granted(&self, visitor: &Visitor<'_>) -> bool;

    /// The name of the token that this visitor shows, where it is one that lets in.
    fn token_name(&self, _visitor: &Visitor<'_>) -> Option<Arc<str>> {
        None
    }

    /// What the page says to a client with this address; `None` where there is none.
    fn about(&self, _client: Option<IpAddr>) -> Option<About> {
        None
    }
}

/// Serves a binary cache.
#[derive(Debug)]
pub struct Service<A> {
    answers: A,
    book: Arc<Book>,
    challenges: Challenges,
    clients: Option<Clients>,
}

impl<A: Answers> Service<A> {
    /// Serves what `answers` has, and to CAs the tokens of `challenges`; what each request leaves behind goes into `book`.
    pub fn new(answers: A, challenges: Challenges, book: Book) -> Self {
        Self { answers, book: Arc::new(book), challenges, clients: None }
    }

    /// Within these limits of each client.
    #[must_use]
    pub fn limited_by(mut self, clients: Clients) -> Self {
        self.clients = Some(clients);
        self
    }

    async fn respond(&self, request: &Request<Incoming>, peer: &Peer, entry: &mut Entry) -> Response<Body> {
        let asked = Asked { method: request.method(), version: request.version(), headers: request.headers() };
        let (outcome, response) = match check(request.uri(), asked, request.body().is_end_stream()) {
            Err((status, text)) => (Outcome::BadRequest, respond::bad_request(asked, status, text)),
            Ok(()) => {
                let route = route(request.method(), request.uri().path(), request.uri().query());
                entry.routed(&route);
                entry.named(|| self.name(peer, asked));
                match (route, &peer.entrance) {
                    (Route::MethodNotAllowed, _) => (Outcome::BadRequest, respond::method_not_allowed(asked)),
                    (Route::Challenge(token), _) => match self.challenges.token(&token) {
                        Some(authorization) => (Outcome::Local, respond::challenge(asked, authorization)),
                        None => (Outcome::NotFound, respond::not_found(asked)),
                    },
                    (_, Entrance::Elsewhere(redirect)) => match redirect.location(request.uri()) {
                        Some(location) => (Outcome::Local, respond::elsewhere(asked, location)),
                        None => (Outcome::NotFound, respond::not_found(asked)),
                    },
                    (route, _) => self.respond_within_limits(route, request.uri(), peer, asked, entry).await,
                }
            }
        };
        entry.answered(outcome, response.status());
        response
    }

    async fn respond_within_limits(
        &self,
        route: Route,
        target: &Uri,
        peer: &Peer,
        asked: Asked<'_>,
        entry: &mut Entry,
    ) -> (Outcome, Response<Body>) {
        let admitted = match self.clients.as_ref().map(Clients::admit).transpose() {
            Ok(admitted) => admitted,
            Err(too_many) => return (Outcome::Limited, respond::limited(asked, too_many)),
        };
        let client = self.clients.as_ref().filter(|clients| clients.matter_to_requests());
        let client = client.map(|clients| (clients, self.client(clients, peer, asked)));
        if let Some((clients, Some(client))) = client
            && costs_something(&route)
            && let Err(too_many) = clients.request(client)
        {
            return (Outcome::Limited, respond::limited(asked, too_many));
        }
        let (outcome, response) = match route {
            _ if !self.serves(peer, asked) => (Outcome::Denied, respond::denied(asked)),
            Route::Known(wanted) => self.answer(wanted, peer, asked, entry).await,
            Route::Page => self.page(target, peer, asked),
            _ => (Outcome::NotFound, respond::not_found(asked)),
        };
        let pace = client.and_then(|(clients, client)| clients.pace(client));
        (outcome, response.map(|body| body.paced(pace).admitted(admitted)))
    }

    async fn answer(
        &self,
        wanted: request::Request,
        peer: &Peer,
        asked: Asked<'_>,
        entry: &mut Entry,
    ) -> (Outcome, Response<Body>) {
        let Ok(trail) = Trail::of(asked.headers) else { return (Outcome::Unknown, respond::looped(asked)) };
        let head = *asked.method == Method::HEAD;
        let visitor = visitor(peer, asked);
        // On the heap: each scope would move it, and it is some kilobytes.
        let answering = Box::pin(self.answers.answer(wanted, head, &visitor));
        let mut answer = trail.scope(trace::scope(entry.trace(), answering)).await;
        entry.comes_from(answer.provenance.clone());
        // Whoever is not granted anything gets nothing here: not from a cache in between either.
        answer.private |= peer.listener.serves == Serves::Granted;
        (answer.outcome, respond::respond(asked, answer))
    }

    /// The page for a browser: the same for everybody, whatever he may see.
    fn page(&self, target: &Uri, peer: &Peer, asked: Asked<'_>) -> (Outcome, Response<Body>) {
        match self.answers.about(peer.ip()) {
            Some(about) => {
                (Outcome::Local, respond::page(asked, &page::render(&about, &Base::of(target, peer, asked))))
            }
            None => (Outcome::NotFound, respond::not_found(asked)),
        }
    }

    /// Whose limits hold: those of the token, else of the certificate, else of the address; none for who is exempt. A proxy's
    /// certificate is none of its clients'.
    fn client(&self, clients: &Clients, peer: &Peer, asked: Asked<'_>) -> Option<Client> {
        if clients.exempt(peer.ip()) {
            return None;
        }
        let shows_something = asked.headers.contains_key(AUTHORIZATION);
        if let Some(name) = shows_something.then(|| self.answers.token_name(&visitor(peer, asked))).flatten() {
            return Some(clients.named("token", &name));
        }
        Some(match peer.certificate.first() {
            Some(name) if !peer.forwarded => clients.named("certificate", name),
            _ => Client::at(peer.ip()),
        })
    }

    /// What the client showed, where it is something that lets in.
    fn name(&self, peer: &Peer, asked: Asked<'_>) -> Option<Name> {
        let shows_something = asked.headers.contains_key(AUTHORIZATION);
        if let Some(name) = shows_something.then(|| self.answers.token_name(&visitor(peer, asked))).flatten() {
            return Some(Name::Token(name));
        }
        (!peer.forwarded && !peer.certificate.is_empty()).then(|| Name::Certificate(Arc::clone(&peer.certificate)))
    }

    /// Whether anything is served to this client at this listener.
    fn serves(&self, peer: &Peer, asked: Asked<'_>) -> bool {
        peer.listener.serves == Serves::Everyone || self.answers.is_granted(&visitor(peer, asked))
    }
}

/// Whether a request is counted.
fn costs_something(route: &Route) -> bool {
    !matches!(route, Route::Known(request::Request::CacheInfo))
}

/// What counts of a client for what it may see. Two Authorizations are none: which one is meant?
fn visitor<'a>(peer: &'a Peer, asked: Asked<'a>) -> Visitor<'a> {
    let mut shown = asked.headers.get_all(AUTHORIZATION).iter();
    Visitor {
        address: peer.ip(),
        listener: peer.listener.name.as_deref(),
        certificate: &peer.certificate,
        authorization: shown.next().filter(|_| shown.next().is_none()),
        prefetch: peer.listener.prefetch,
    }
}

impl<A: Answers> Handler for Service<A> {
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let peer = peer.for_whom(request.headers());
        let mut entry = Entry::begin(&self.book, request.method(), request.headers(), &peer);
        let mut response = self.respond(&request, &peer, &mut entry).await;
        response.headers_mut().extend(entry.server_timing());
        response.map(|body| body.logged(entry))
    }

    fn clients(&self) -> Option<&Clients> {
        self.clients.as_ref()
    }
}

type Fault = (StatusCode, &'static str);

/// The rules for a request's head that hyper leaves to us. `bodiless`: nothing follows the head.
fn check(target: &Uri, asked: Asked<'_>, bodiless: bool) -> Result<(), Fault> {
    if target.path_and_query().is_some_and(|target| target.as_str().len() > TARGET_SIZE) {
        return Err((StatusCode::URI_TOO_LONG, "the request target is longer than 2048 bytes"));
    }
    check_host(target, asked)?;
    check_form(target, asked)?;
    if !matches!(*asked.method, Method::GET | Method::HEAD) {
        return Ok(()); // its own refusal, which closes the connection too, is about the method
    }
    // R20: hyper drops Content-Length where Transfer-Encoding is there too, so either one is refused.
    let lengths_are_zero = asked.headers.get_all(CONTENT_LENGTH).iter().all(|length| length == "0");
    if asked.headers.contains_key(TRANSFER_ENCODING) || !lengths_are_zero || !bodiless {
        return Err((StatusCode::BAD_REQUEST, "a request with a body is not served here"));
    }
    Ok(())
}

/// R21, RFC 9112 section 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request
/// message that lacks a Host header field and to any request message that contains more than one Host header field line
/// or a Host header field with an invalid field value." The host chooses nothing here.
fn check_host(target: &Uri, asked: Asked<'_>) -> Result<(), Fault> {
    const FAULT: Fault = (StatusCode::BAD_REQUEST, "missing, repeated or malformed Host");
    let mut hosts = asked.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => Err(FAULT),
        (Some(host), None) => valid_host(host.as_bytes()).then_some(()).ok_or(FAULT),
        // HTTP/2 has it in `:authority`; HTTP/1.0 need not have it.
        (None, _) if asked.version == Version::HTTP_11 => Err(FAULT),
        (None, _) if asked.version == Version::HTTP_2 && target.authority().is_none() => Err(FAULT),
        (None, _) => Ok(()),
    }
}

fn valid_host(host: &[u8]) -> bool {
    // An authority may have userinfo, a Host may not.
    let Some(authority) = Authority::try_from(host).ok().filter(|_| !host.contains(&b'@')) else { return false };
    let (host, port) = authority.as_str().split_at(authority.host().len());
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(literal) => literal.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty(), // RFC 9110 section 4.2.1
    };
    // RFC 3986 section 3.2.3 has the empty port.
    let is_number = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    is_host && (matches!(port, "" | ":") || port.strip_prefix(':').is_some_and(is_number))
}

/// RFC 9112 section 3.2: a path, or for who takes this for a proxy a whole URL; the other two forms are for CONNECT and
/// OPTIONS.
fn check_form(target: &Uri, asked: Asked<'_>) -> Result<(), Fault> {
    let is_web = target.scheme_str().is_none_or(|scheme| matches!(scheme, "http" | "https"));
    let is_bare_host = target.scheme().is_none() && target.authority().is_some();
    match *asked.method {
        Method::GET | Method::HEAD if !is_web || is_bare_host || !target.path().starts_with('/') => {
            Err((StatusCode::BAD_REQUEST, "the request target is neither a path nor a URL"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
