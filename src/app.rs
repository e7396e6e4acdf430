//! The one place that knows every room: builds them from the configuration, serves, and takes them down in order.
//!
//! Everything that can be refused is refused before the first socket is served. The disk tier is recovered while clients
//! are served already (from upstreams, without storing on disk), so a large store does not delay the start.

pub mod certificates;
mod effect;
mod ending;
pub mod export;
mod fetching;
pub mod health;
pub mod import;
mod offline;
mod operator;
mod pages;
pub mod pin;
mod pins;
mod reload;
mod running;
pub mod status;
mod supervisor;
mod told;
pub mod top;
pub mod verify;
pub mod warm;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::server::ResolvesServerCert;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::ending::Ending;
use self::pages::Pages;
use self::pins::Pins;
use self::status::Status;
use crate::access::Visitor;
use crate::admin::{self, Admin};
use crate::config::{Config, Origin, nix_conf_lines};
use crate::edge::{self, Book, Bounds, Clients, Listen, ListenAddress, Listeners, Service, Stop};
use crate::fill::Fills;
use crate::inherited::Inherited;
use crate::metrics::{CertificateMetrics, Metrics};
use crate::nix::signature::PublicKey;
use crate::otlp::Traces;
use crate::proxy::answer::Answer;
use crate::proxy::examine::Scrubber;
use crate::proxy::{About, Proxy, request};
use crate::shutdown::End;
use crate::store::Store;
use crate::telemetry::Log;
use crate::tls;
use crate::trace::Recorder;

use self::reload::Reloads;

/// Files and sockets besides clients' connections, for the bound on those: block files, upstreams' connections.
const OTHER_FILES: u64 = 1024;

/// Between two looks at files that may change.
const REFRESH: Duration = Duration::from_secs(1);

/// Everything that was built, nothing of it serving yet.
struct App {
    config: Config,
    metrics: Metrics,
    store: Store,
    proxy: Proxy,
    pins: Pins,
    /// What clients verify our signatures with.
    own_keys: Vec<PublicKey>,
    /// With a listener that speaks TLS.
    certificates: Option<tls::Certificates>,
    listeners: Listeners,
    admin: Arc<Admin>,
    admin_listeners: Listeners,
}

/// Serves until SIGTERM or SIGINT; told so once more, it breaks off whatever runs. SIGHUP has the configuration read again from `origin`; where there is no file to read,
/// it means that the terminal is gone, and ends the program too.
///
/// # Errors
/// What keeps it from starting: a certificate or a key that cannot be loaded, an address that cannot be bound.
pub async fn run(config: Config, origin: Origin, inherited: Inherited, log: &Log) -> anyhow::Result<End> {
    // Before the addresses are told: who was told one may already ask for the end.
    let signals = Signals::new().context("signals cannot be handled")?;
    let app = App::build(config, inherited)?;
    app.metrics.watch(&Handle::current());
    log.count_dropped_in(app.metrics.log_dropped.clone());
    let traces = Traces::start(&app.config.log, &app.metrics.traces).map_err(anyhow::Error::msg)?;
    app.announce();
    let end = app.serve(signals, Arc::new(origin), log, traces.recorder()).await;
    traces.finish().await;
    end
}

/// What the program is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Unhandled, it would end the process at once, and every download with it.
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End("SIGTERM"),
            _ = self.interrupt.recv() => Told::End("SIGINT"),
            _ = self.hangup.recv() => Told::Hangup,
        }
    }

    /// The end only, for who is busy.
    async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// The end, for who is on the way there.
    async fn end_again(&mut self) -> &'static str {
        loop {
            match self.next().await {
                Told::End(again) => return again,
                Told::Hangup | Told::Reload(_) => {
                    tracing::warn!("SIGHUP: nothing is read again, the server is stopping");
                }
            }
        }
    }
}

enum Told {
    End(&'static str),
    Hangup,
    /// Over the admin address; who asks waits for what comes of it.
    Reload(pages::Asking),
}

impl App {
    fn build(config: Config, mut inherited: Inherited) -> anyhow::Result<Self> {
        let metrics = Metrics::default();
        let store = Store::memory_only(&config.store, metrics.store.clone());
        let fills = Fills::new(store.clone(), config.cache.fills, metrics.fill.clone());
        let signer = reload::signer(&config)?;
        let own_keys = signer.public_keys();
        let upstreams = reload::upstreams(&config, &[], &own_keys, &metrics)?;
        let policies = reload::policies(&config, upstreams, signer)?;
        let proxy = Proxy::new(policies, store.clone(), fills, metrics.proxy.clone())?;

        let dir = config.store.dir.clone();
        let pins = Pins::read(proxy.clone(), store.clone(), dir, metrics.pins.clone());

        let certificates = match config.speaks_tls() {
            false => None,
            true => {
                let state_dir = config.state_dir().context("store.dir is not set")?;
                let metrics = metrics.certificates.clone();
                Some(tls::Certificates::load(&config.tls, config.acme_challenge(), state_dir, metrics)?)
            }
        };
        let challenges = certificates.as_ref().map(tls::Certificates::challenges).unwrap_or_default();
        let resolver = certificates.as_ref().map(|certificates| certificates.resolver() as Arc<dyn ResolvesServerCert>);
        let listeners = edge::bind_with(&config.listen, resolver.as_ref(), &challenges, &mut inherited)?;
        let admin_address = config.admin.address.clone().map(|address| Listen::plain(address.into()));
        let admin_listeners = edge::bind_with(admin_address.as_slice(), None, &challenges, &mut inherited)?;
        if let Some(names) = inherited.left() {
            tracing::warn!("given by the service manager and not served, as no `address` names them: {names}");
        }
        let admin = Arc::new(Admin::new(metrics.registry.clone()));
        Ok(Self { config, metrics, store, proxy, pins, own_keys, certificates, listeners, admin, admin_listeners })
    }

    /// Says where it listens (to the log) and what to paste into nix.conf (to stdout).
    fn announce(&self) {
        let bound = self.listeners.addresses();
        for address in &bound {
            tracing::info!("listening on {address}");
        }
        for address in self.admin_listeners.addresses() {
            tracing::info!("admin on {address}");
        }
        let self_signed = self.certificates.as_ref().and_then(tls::Certificates::self_signed);
        let lines = nix_conf_lines(&self.config, &bound, self_signed.as_ref().map(ca_file), &self.own_keys);
        let mut stdout = std::io::stdout().lock();
        // Whoever reads them may be gone, or the disk full: no reason not to serve.
        let _ = writeln!(stdout, "{}", lines.trim_end()).and_then(|()| stdout.flush());
    }

    /// The scrubber, until the drain begins.
    fn scrubbing(&self, stop: &CancellationToken) -> JoinHandle<()> {
        let (store, metrics) = (&self.config.store, self.metrics.scrub.clone());
        let scrubber = Scrubber::new(self.proxy.clone(), store.scrub.0, store.disk.0, metrics);
        let stop = stop.clone();
        tokio::spawn(async move {
            if let Some(scrubber) = scrubber {
                stop.run_until_cancelled(scrubber.run()).await;
            }
        })
    }

    /// What is pinned, until the drain begins.
    fn pinning(&self, stop: &CancellationToken) -> JoinHandle<()> {
        let (pins, stop) = (self.pins.clone(), stop.clone());
        tokio::spawn(async move {
            stop.run_until_cancelled(pins.keep()).await;
        })
    }

    /// Files and the CA, until the drain begins: what is in force then stays in force to the end.
    fn keeping_certificates(&self, stop: &CancellationToken) -> JoinHandle<()> {
        let (certificates, stop) = (self.certificates.clone(), stop.clone());
        tokio::spawn(async move {
            if let Some(certificates) = certificates {
                certificates.run(stop).await;
            }
        })
    }

    async fn serve(
        self,
        mut signals: Signals,
        origin: Arc<Origin>,
        log: &Log,
        recorder: Option<Recorder>,
    ) -> anyhow::Result<End> {
        let bounds = self.config.limits.bounds(OTHER_FILES);
        let shutdown = self.config.shutdown.clone();
        let stop = Stop { drain: CancellationToken::new(), limit: shutdown.drain.0 };

        let opening = tokio::spawn({
            let store = self.store.clone();
            async move {
                // The store says itself, once and loudly, why it goes on in memory.
                if store.open_disk().await.is_ok() {
                    tracing::info!("disk tier open");
                }
            }
        });
        let scrubbing = self.scrubbing(&stop.drain);
        let pinning = self.pinning(&stop.drain);
        let keeping_certificates = self.keeping_certificates(&stop.drain);
        let refreshing = tokio::spawn(refresh(
            self.listeners.with_client_certificates(),
            self.proxy.clone(),
            self.metrics.certificates.clone(),
            stop.drain.clone(),
        ));
        let challenges = self.certificates.as_ref().map(tls::Certificates::challenges).unwrap_or_default();
        self.proxy.bound_waiting(self.config.limits.waiting());
        self.proxy.prepare_library();
        let limits = Clients::new(&self.config.limits, bounds, self.metrics.edge.limits.clone());
        let sweeping = tokio::spawn(limits.clone().sweep_until(stop.drain.clone()));
        let book = Book::new(self.metrics.edge.clone(), self.config.log.clone());
        let book = book.logged_by(log.access()).recorded_by(recorder);
        let service = Service::new(self.proxy.clone(), challenges, book);
        let handler = Arc::new(service.limited_by(limits.clone()));
        let clients = tokio::spawn(self.listeners.serve(handler, self.metrics.edge.clone(), bounds, stop.clone()));
        // Operators can look until the end: their listener stops after the clients'.
        let admin_stop = Stop { drain: CancellationToken::new(), limit: Duration::from_secs(3) };
        let (ask_to_reload, mut asked_to_reload) = mpsc::channel(1);
        let (metrics, certificates) = (self.metrics.clone(), self.certificates.clone());
        let (proxy, pins) = (self.proxy.clone(), self.pins.clone());
        let status = Status::new(metrics, proxy.clone(), pins.clone(), certificates.clone(), log.recent());
        let pages = Pages::new(Arc::clone(&self.admin), status, proxy, pins, certificates, ask_to_reload);
        let pages = Arc::new(pages.on_loopback(self.config.admin.is_loopback()));
        let few = Bounds { connections: 64, handshakes: 1 };
        let admin = tokio::spawn(self.admin_listeners.serve(pages, self.metrics.edge.clone(), few, admin_stop.clone()));

        let watchdog = tokio::spawn(supervisor::watchdog(admin_stop.drain.clone()));
        supervisor::ready();
        let mut reloads = Reloads::new(
            self.config,
            origin,
            self.proxy.clone(),
            self.certificates.clone(),
            limits,
            self.metrics.clone(),
        );
        let asked = loop {
            let told = tokio::select! {
                told = signals.next() => told,
                Some(asking) = asked_to_reload.recv() => Told::Reload(asking),
            };
            let asking = match told {
                Told::End(asked) => break asked,
                Told::Hangup if !reloads.are_possible() => break "SIGHUP",
                Told::Hangup => None,
                Told::Reload(asking) => Some(asking),
            };
            supervisor::reloading();
            // A file system that hangs must not keep it from ending.
            let end = tokio::select! {
                end = reloads.reload() => end,
                asked = signals.end() => break asked,
            };
            supervisor::ready();
            self.pins.look_again();
            if let Some(asking) = asking {
                let _ = asking.send(end);
            }
        };
        // Who asks for a reload from now on is told at once that there will be none.
        drop(asked_to_reload);
        self.admin.drain();
        self.metrics.draining.set(1);
        let ending = Ending {
            options: shutdown,
            stop,
            clients,
            background: vec![opening, scrubbing, pinning, keeping_certificates, refreshing, sweeping],
            proxy: self.proxy,
            store: self.store,
            stop_operators: admin_stop.drain,
            operators: admin,
            watchdog,
        };
        tokio::select! {
            ended = ending.run(asked) => ended.map(|()| End::InOrder),
            again = signals.end_again() => {
                tracing::warn!("{again} once more: ending at once, what still runs is cut");
                Ok(End::AtOnce)
            }
        }
    }
}

/// Has the CA files for clients and the files with tokens looked at once a second until the drain begins.
async fn refresh(
    acceptors: Vec<Arc<tls::Acceptor>>,
    proxy: Proxy,
    metrics: CertificateMetrics,
    stop: CancellationToken,
) {
    let acceptors = Arc::new(acceptors);
    let mut ticks = tokio::time::interval(REFRESH);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let (acceptors, proxy, metrics) = (Arc::clone(&acceptors), proxy.clone(), metrics.clone());
        let looked = tokio::task::spawn_blocking(move || {
            proxy.refresh_access();
            for reason in acceptors.iter().filter_map(|acceptor| acceptor.refresh()) {
                metrics.failures.of(reason).inc();
            }
        });
        let _ = stop.run_until_cancelled(looked).await; // a file system that hangs must not hold up the end
    }
}

/// The file that clients have to trust: the system's roots and our CA where that could be written.
fn ca_file(self_signed: &tls::SelfSigned) -> &Path {
    self_signed.bundle.as_deref().unwrap_or(&self_signed.ca)
}

impl From<admin::Address> for ListenAddress {
    fn from(address: admin::Address) -> Self {
        match address {
            admin::Address::Tcp(address) => Self::Tcp(address),
            admin::Address::Inherited(name) => Self::Inherited(name),
        }
    }
}

impl edge::Answers for Proxy {
    async fn answer(&self, request: request::Request, head: bool, visitor: &Visitor<'_>) -> Answer {
        Proxy::answer(self, request, head, visitor).await
    }

    fn is_granted(&self, visitor: &Visitor<'_>) -> bool {
        Proxy::is_granted(self, visitor)
    }

    fn token_name(&self, visitor: &Visitor<'_>) -> Option<Arc<str>> {
        Proxy::token_name(self, visitor)
    }

    fn about(&self, client: Option<IpAddr>) -> Option<About> {
        Proxy::about(self, client)
    }
}
