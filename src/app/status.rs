//! `GET /status`: how the program stands, as one JSON document; and `snowbank status`, which asks for it.
//!
//! ```text
//! the rooms ──Status::document──▶ Document ──▶ JSON at /status ──▶ the page of operators
//!                                                      └─▶ Document again ──▶ text: `status`, `top`
//! ```
//!
//! Counts are since the start; who wants rates takes differences, over the difference of `uptime_seconds`. Fields are only ever
//! added. Operators see private upstreams here; no secret is in it.

pub(super) mod document;
pub(super) mod text;

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};

use self::document::{
    Bytes, Certificate, Disk, Document, Fill, Fills, Requests, Said, Store, Tier, Traffic, Upstream as Shown,
};
use super::operator;
use super::pins::Pins;
use crate::clock::UnixSeconds;
use crate::fill::Progress;
use crate::metrics::{Label as _, Metrics, Outcome, Route};
use crate::proxy::Proxy;
use crate::store::{DiskUsage, Taken};
use crate::telemetry::{Recent, Told};
use crate::tls;
use crate::tls::certificate::date;
use crate::upstream::Upstream;

/// Where the server tells, on the address for operators.
pub(super) const PATH: &str = "/status";
/// How long the server may take for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that it may say: some hundred upstreams and certificates are a tenth of it.
const LONGEST: usize = 4 << 20;
/// Fills that are told one by one.
const MOST_FILLS: usize = 100;

/// Everything that is looked at.
pub(super) struct Status {
    started: Instant,
    metrics: Metrics,
    proxy: Proxy,
    pins: Pins,
    certificates: Option<tls::Certificates>,
    recent: Recent,
}

impl Status {
    /// Of a program that starts now.
    pub(super) fn new(
        metrics: Metrics,
        proxy: Proxy,
        pins: Pins,
        certificates: Option<tls::Certificates>,
        recent: Recent,
    ) -> Self {
        Self { started: Instant::now(), metrics, proxy, pins, certificates, recent }
    }

    /// How everything stands now.
    pub(super) fn document(&self, is_draining: bool) -> Document {
        let certificates = self.certificates.as_ref().map(tls::Certificates::overview).unwrap_or_default();
        let now = UnixSeconds::now();
        Document {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            draining: is_draining,
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            requests: self.requests(),
            traffic: self.traffic(),
            fills: self.fills(),
            upstreams: self.proxy.upstreams().iter().map(|upstream| shown(upstream)).collect(),
            store: self.store(),
            pins: self.pins.summary(),
            certificates: certificates.iter().map(|shown| certificate(shown, now)).collect(),
            errors: self.recent.told().into_iter().map(said).collect(),
        }
    }

    fn requests(&self) -> Requests {
        let counters = &self.metrics.edge.requests;
        let of = |outcome: Outcome| Route::ALL.iter().map(|route| counters.of(*route, outcome).get()).sum();
        let sum = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| of(*outcome)).sum::<u64>();
        Requests {
            total: sum(Outcome::ALL),
            lookups: sum(&LOOKUPS) + sum(&HITS),
            hits: sum(&HITS),
            by_outcome: Outcome::ALL.iter().map(|outcome| (outcome.text().to_owned(), of(*outcome))).collect(),
        }
    }

    fn traffic(&self) -> Traffic {
        let upstreams = self.proxy.upstreams();
        Traffic {
            sent_bytes: self.metrics.edge.response_bytes.total(),
            received_bytes: upstreams.iter().map(|upstream| upstream.metrics().bytes.get()).sum(),
            connections: count(self.metrics.edge.connections_open.get()),
            waiting_requests: count(self.metrics.proxy.waiting.get()),
        }
    }

    fn fills(&self) -> Fills {
        let progress = self.proxy.fills();
        let running = count(self.metrics.fill.running.get());
        Fills {
            running,
            wanted: progress.len() as u64,
            list: progress.into_iter().take(MOST_FILLS).map(fill).collect(),
        }
    }

    fn store(&self) -> Store {
        let usage = self.proxy.usage();
        let (state, taken) = match usage.disk {
            DiskUsage::Off => ("off", None),
            DiskUsage::Opening => ("opening", None),
            DiskUsage::Down => ("down", None),
            DiskUsage::Up(taken) => ("up", Some(bytes(taken))),
        };
        let memory = [("nar", usage.nar), ("meta", usage.meta)];
        Store {
            memory: memory.map(|(tier, taken)| Tier { tier: tier.to_owned(), bytes: bytes(taken) }).into(),
            disk: Disk { state: state.to_owned(), bytes: taken },
        }
    }
}

/// What was answered from here, or joined to what was being fetched: as the dashboards count it.
const HITS: [Outcome; 4] = [Outcome::Hit, Outcome::Stale, Outcome::Negative, Outcome::Follower];
/// What was looked up and had to be asked for.
const LOOKUPS: [Outcome; 4] = [Outcome::Miss, Outcome::NotFound, Outcome::Unknown, Outcome::Refused];

fn count(gauge: i64) -> u64 {
    u64::try_from(gauge).unwrap_or(0)
}

fn bytes(taken: Taken) -> Bytes {
    Bytes { used_bytes: taken.used, capacity_bytes: taken.capacity }
}

fn fill(progress: Progress) -> Fill {
    Fill {
        what: progress.what,
        upstream: progress.upstream.map(|name| name.to_string()),
        received_bytes: progress.received,
        size_bytes: progress.size,
        seconds: progress.since.as_secs_f64(),
        readers: progress.readers as u64,
    }
}

fn shown(upstream: &Upstream) -> Shown {
    let standing = upstream.standing();
    let metrics = upstream.metrics();
    let (took, answers) = (metrics.latency.get_sample_sum(), metrics.latency.get_sample_count());
    #[expect(clippy::cast_precision_loss, reason = "a mean of more than 2^53 answers is one all the same")]
    let mean = (answers > 0).then(|| took / answers as f64);
    Shown {
        name: upstream.name().to_string(),
        priority: upstream.rank(),
        private: upstream.options().private,
        trust: upstream.trust().to_string(),
        when_down: upstream.when_down().to_string(),
        state: standing.state.to_owned(),
        why: standing.why.map(|why| why.to_string()),
        not_asked_for_seconds: standing.not_asked_for.map(|left| left.as_secs_f64()),
        usual_seconds: standing.usual.map(|usual| usual.as_secs_f64()),
        mean_seconds: mean,
        requests: metrics.requests.get(),
        have: metrics.have.get(),
        have_not: metrics.have_not.get(),
        unknown: metrics.unknown.get(),
        not_asked: metrics.unasked.get(),
        times_down: metrics.openings.get(),
        received_bytes: metrics.bytes.get(),
    }
}

fn certificate(shown: &tls::certificates::Shown, now: UnixSeconds) -> Certificate {
    const DAY: f64 = 86_400.0;
    let end = shown.facts.as_ref().map(|facts| facts.not_after);
    #[expect(clippy::cast_precision_loss, reason = "seconds of less than a million years")]
    let days_left = end.map(|end| (end.0 as f64 - now.0 as f64) / DAY);
    Certificate {
        names: shown.names.iter().map(ToString::to_string).collect(),
        source: shown.source.to_string(),
        not_after: end.map(date),
        days_left,
        next_renewal: shown.next.map(date),
        last_error: shown.error.clone(),
    }
}

fn said(told: Told) -> Said {
    let level = if told.is_error { "error" } else { "warning" };
    Said { at: date(told.at), level: level.to_owned(), text: told.text, fields: told.fields, times: told.times }
}

/// Asks the server at this address, and prints what it says, as text for people or as it came (`json`).
///
/// # Errors
/// It does not answer in time, or something else answers there.
pub async fn run(address: SocketAddr, json: bool) -> anyhow::Result<()> {
    let told = ask(address, PATH).await?;
    let shown = match json {
        true => String::from_utf8_lossy(&told).into_owned(),
        false => text::page(&read(address, &told)?),
    };
    std::io::stdout().write_all(shown.as_bytes()).context("stdout")
}

/// What the server says.
pub(super) async fn document(address: SocketAddr) -> anyhow::Result<Document> {
    read(address, &ask(address, PATH).await?)
}

fn read(address: SocketAddr, told: &[u8]) -> anyhow::Result<Document> {
    serde_json::from_slice(told).with_context(|| format!("{address}: not what snowbank tells"))
}

/// What the server says at this path.
pub(super) async fn ask(address: SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    let asking = async {
        let mut asked = operator::ask(&address.to_string(), Method::GET, path).await?;
        let status = asked.response.status();
        let body = Limited::new(asked.response.body_mut(), LONGEST).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
        let text = || String::from_utf8_lossy(&body).trim_end().escape_debug().take(200).collect::<String>();
        anyhow::ensure!(status == StatusCode::OK, "{status}: {}", text());
        Ok(body.to_vec())
    };
    let told = tokio::time::timeout(PATIENCE, asking).await;
    let told = told.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} seconds", PATIENCE.as_secs())));
    told.with_context(|| format!("asking the server at the [admin] address {address}"))
}
