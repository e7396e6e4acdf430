//! The pages for operators over HTTP, on the address of `[admin]` alone (R25).
//!
//! What changes or costs something wants POST, and no `Origin`: a page from elsewhere in an operator's browser cannot ask for it.
//! It cannot read anything either: not over its own name that it has lead to loopback ("DNS rebinding"), since on loopback there are
//! no names.
//!
//! Out of scope: what stands in the pages (`admin`, and the modules beside this one).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::fetching::Wanted;
use super::pins::Pins;
use super::status::Status;
use super::{certificates, pin, running, status, verify, warm};
use crate::admin::{self, Admin};
use crate::edge::body::Body;
use crate::edge::{self, Peer};
use crate::nix::store_path::HashPart;
use crate::proxy::{Proxy, Purged};
use crate::tls;

/// Has the configuration read again.
const RELOAD: &str = "/reload";

/// Has what is kept of a path forgotten.
const PURGE: &str = "/purge";

/// What machines call themselves.
const LOCAL: [&str; 4] = ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"];

/// Time for a list of paths to come.
const LIST_LIMIT: Duration = Duration::from_secs(10);

/// Who waits for the end of a reload: the options that wait for the next start; or every mistake, a line each, and nothing
/// changed.
pub(super) type Asking = oneshot::Sender<Result<Vec<String>, String>>;

/// See the module.
pub(super) struct Pages {
    admin: Arc<Admin>,
    status: Status,
    proxy: Proxy,
    pins: Pins,
    certificates: Option<tls::Certificates>,
    /// One at a time.
    examinations: Arc<Semaphore>,
    /// The same.
    warmings: Arc<Semaphore>,
    /// The same.
    pinnings: Arc<Semaphore>,
    reloads: mpsc::Sender<Asking>,
    is_loopback: bool,
}

impl Pages {
    pub(super) fn new(
        admin: Arc<Admin>,
        status: Status,
        proxy: Proxy,
        pins: Pins,
        certificates: Option<tls::Certificates>,
        reloads: mpsc::Sender<Asking>,
    ) -> Self {
        let one = || Arc::new(Semaphore::new(1));
        let (examinations, warmings, pinnings, is_loopback) = (one(), one(), one(), false);
        Self { admin, status, proxy, pins, certificates, examinations, warmings, pinnings, reloads, is_loopback }
    }

    /// Whether only programs on this machine reach them.
    pub(super) fn on_loopback(self, is_loopback: bool) -> Self {
        Self { is_loopback, ..self }
    }

    /// `POST /verify`: examines everything that is kept, and tells how far it is meanwhile.
    fn verify(&self) -> Response<Body> {
        let Some(permit) = Arc::clone(&self.examinations).try_acquire_owned().ok() else {
            return page(admin::Page::text(409, "an examination is running already\n"));
        };
        let proxy = self.proxy.clone();
        running::response(|tell| verify::examine(proxy, permit, tell))
    }

    /// `POST /warm`: has the paths of a list here, with all that they refer to.
    async fn warm(&self, request: Request<Incoming>) -> Response<Body> {
        let (wanted, paths) = match listed(request).await {
            Ok(listed) => listed,
            Err(refusal) => return refusal,
        };
        let Some(permit) = Arc::clone(&self.warmings).try_acquire_owned().ok() else {
            return page(admin::Page::text(409, "another list is being fetched already\n"));
        };
        let proxy = self.proxy.clone();
        running::response(|tell| warm::warm(proxy, paths, wanted, permit, tell))
    }

    /// `POST /pin`: the same, and then it stays through eviction.
    async fn pin(&self, request: Request<Incoming>) -> Response<Body> {
        let (wanted, paths) = match listed(request).await {
            Ok(listed) => listed,
            Err(refusal) => return refusal,
        };
        let Some(permit) = Arc::clone(&self.pinnings).try_acquire_owned().ok() else {
            return page(admin::Page::text(409, "another list is being pinned already\n"));
        };
        let pins = self.pins.clone();
        running::response(|tell| pin::pin_here(pins, paths, wanted, permit, tell))
    }

    /// `POST /unpin`: it may go again.
    async fn unpin(&self, request: Request<Incoming>) -> Response<Body> {
        let paths = match listed(request).await {
            Ok((_, paths)) => paths,
            Err(refusal) => return refusal,
        };
        // On one line, as what takes long is told.
        let told = pin::unpin_here(self.pins.clone(), paths).await;
        page(admin::Page { body: format!("{told}\n").into_bytes(), ..admin::Page::json(&told) })
    }

    /// `POST /reload`: as SIGHUP, and tells what came of it.
    async fn reload(&self) -> Response<Body> {
        let (asking, end) = oneshot::channel();
        match self.reloads.try_send(asking) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return page(admin::Page::text(409, "a reload is waiting already\n")),
            Err(TrySendError::Closed(_)) => return page(admin::Page::text(503, "the server is stopping\n")),
        }
        page(match end.await {
            Ok(Ok(waiting)) if waiting.is_empty() => admin::Page::text(200, "the new configuration is in force\n"),
            Ok(Ok(waiting)) => {
                let text = "the new configuration is in force, but with the next start only what changed in";
                admin::Page::text(200, &format!("{text} {}\n", waiting.join(", ")))
            }
            Ok(Err(mistakes)) => admin::Page::text(422, &format!("nothing changes:\n{}\n", mistakes.trim_end())),
            Err(_) => admin::Page::text(503, "the server is stopping\n"),
        })
    }

    /// `POST /purge?path=/nix/store/…`: what is kept of the path is forgotten.
    async fn purge(&self, query: Option<&str>) -> Response<Body> {
        let mut fields = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let path = fields.find(|(name, _)| name == "path").map(|(_, path)| path.into_owned());
        let Some(hash) = path.as_deref().and_then(hash_part) else {
            let text = "which one? /purge?path=/nix/store/<hash>-<name>, or the 32 characters of its hash alone\n";
            return page(admin::Page::text(400, text));
        };
        let Purged { narinfos, nars, listings, negatives } = self.proxy.purge(hash).await;
        page(admin::Page::json(&json!({
            "hash": hash.to_string(), "narinfos": narinfos, "nars": nars, "listings": listings, "negatives": negatives,
        })))
    }

    /// `GET /certificates`: how each stands.
    fn certificates(&self) -> Response<Body> {
        let shown = self.certificates.as_ref().map(tls::Certificates::overview).unwrap_or_default();
        page(admin::Page::json(&certificates::json(&shown)))
    }

    /// `GET /status`: how the program stands.
    fn status(&self) -> Response<Body> {
        document(&self.status.document(self.admin.is_draining()))
    }

    /// `GET /pins`: what stays through eviction.
    fn pins(&self) -> Response<Body> {
        document(&pin::list_here(&self.pins))
    }
}

/// The paths in the body of a request, and whether what they refer to is wanted too; or what is wrong with it.
async fn listed(request: Request<Incoming>) -> Result<(Wanted, Vec<HashPart>), Response<Body>> {
    let wrong = |status, text: &str| page(admin::Page::text(status, text));
    let wanted = match request.uri().query() {
        None => Wanted::Closures,
        Some(warm::ALONE) => Wanted::Paths,
        Some(_) => return Err(wrong(400, "the only parameter is closure=no\n")),
    };
    let list = Limited::new(request.into_body(), warm::LONGEST_LIST).collect();
    let Ok(Ok(list)) = tokio::time::timeout(LIST_LIMIT, list).await else {
        return Err(wrong(413, "the list is too long, or did not come\n"));
    };
    let paths = warm::paths(&String::from_utf8_lossy(&list.to_bytes()));
    paths.map(|paths| (wanted, paths)).map_err(|why| wrong(400, &format!("{why}\n")))
}

fn document(told: &impl serde::Serialize) -> Response<Body> {
    page(match serde_json::to_value(told) {
        Ok(document) => admin::Page::json(&document),
        Err(error) => admin::Page::text(500, &format!("{error}\n")),
    })
}

/// The hash of a store path, or of what clients ask for.
pub(super) fn hash_part(path: &str) -> Option<HashPart> {
    let name = path.rsplit('/').next()?;
    HashPart::parse(name.get(..32)?).ok().filter(|_| matches!(name.as_bytes().get(32), None | Some(b'-' | b'.')))
}

/// Why a request that changes or costs something is not one.
fn refusal(request: &Request<Incoming>) -> Option<Response<Body>> {
    let text = match (request.method(), request.headers().contains_key(header::ORIGIN)) {
        (&Method::POST, false) => return None,
        (&Method::POST, true) => (403, "not for pages in a browser: a request with Origin is refused\n"),
        _ => (405, "POST, please\n"),
    };
    Some(page(admin::Page::text(text.0, text.1)))
}

/// Whether the request is for an address of this machine, and not for a name that somebody else gave it.
fn is_for_this_machine(request: &Request<Incoming>) -> bool {
    let is_ours = |authority: &Authority| {
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&host);
        bare.parse::<IpAddr>().is_ok() || LOCAL.contains(&host.as_str()) || host.ends_with(".localhost")
    };
    let mut hosts = request.headers().get_all(header::HOST).iter();
    request.uri().authority().is_none_or(is_ours)
        && hosts.all(|host| Authority::try_from(host.as_bytes()).is_ok_and(|host| is_ours(&host)))
}

impl edge::Handler for Pages {
    async fn handle(&self, request: Request<Incoming>, _peer: Peer) -> Response<Body> {
        // Whether it is ready is no secret, and who balances loads asks by whatever name.
        let is_probe = matches!(request.uri().path(), "/healthz" | "/readyz");
        if self.is_loopback && !is_probe && !is_for_this_machine(&request) {
            let text = "[admin] is on loopback: ask for an IP address or localhost, not for a name\n";
            return page(admin::Page::text(403, text));
        }
        match request.uri().path() {
            path @ (verify::PATH | warm::PATH | pin::PIN | pin::UNPIN | RELOAD | PURGE) => {
                match (refusal(&request), path) {
                    (Some(refusal), _) => refusal,
                    (None, RELOAD) => self.reload().await,
                    (None, PURGE) => self.purge(request.uri().query()).await,
                    (None, warm::PATH) => self.warm(request).await,
                    (None, pin::PIN) => self.pin(request).await,
                    (None, pin::UNPIN) => self.unpin(request).await,
                    (None, _) => self.verify(),
                }
            }
            certificates::PATH => self.certificates(),
            status::PATH => self.status(),
            pin::PINS => self.pins(),
            path => {
                if let Some(certificates) = &self.certificates {
                    certificates.measure();
                }
                let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
                page(self.admin.page(path, accept.unwrap_or_default()))
            }
        }
    }
}

fn page(page: admin::Page) -> Response<Body> {
    let admin::Page { status, content_type, body, document } = page;
    let mut response = Response::new(Body::bytes(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    // What stands now is wrong in a moment.
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    if let Some(document) = document {
        document.head(headers);
    }
    response
}
