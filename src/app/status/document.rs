//! What `/status` says.
//!
//! The JSON is an interface: fields are added, never renamed or given another meaning. A reader takes what it knows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How the program stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Document {
    pub(in crate::app) version: String,
    /// No new clients are to come.
    pub(in crate::app) draining: bool,
    pub(in crate::app) uptime_seconds: f64,
    pub(in crate::app) requests: Requests,
    pub(in crate::app) traffic: Traffic,
    pub(in crate::app) fills: Fills,
    pub(in crate::app) upstreams: Vec<Upstream>,
    pub(in crate::app) store: Store,
    /// What is kept through eviction.
    #[serde(default)]
    pub(in crate::app) pins: Pins,
    pub(in crate::app) certificates: Vec<Certificate>,
    /// The last warnings and errors of the log, the newest first.
    pub(in crate::app) errors: Vec<Said>,
}

/// Requests of clients since the start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Requests {
    pub(in crate::app) total: u64,
    /// Those for something that an upstream or the store could have.
    pub(in crate::app) lookups: u64,
    /// Those of them for which no upstream had to be asked.
    pub(in crate::app) hits: u64,
    pub(in crate::app) by_outcome: BTreeMap<String, u64>,
}

/// What went through.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Traffic {
    /// Bodies to clients, since the start.
    pub(in crate::app) sent_bytes: u64,
    /// Bodies from upstreams, since the start.
    pub(in crate::app) received_bytes: u64,
    /// Open now, those of operators among them.
    pub(in crate::app) connections: u64,
    /// Requests that wait for an upstream now.
    pub(in crate::app) waiting_requests: u64,
}

/// NARs that are being fetched.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Fills {
    /// Fetched now, those that fill a hole among them.
    pub(in crate::app) running: u64,
    /// Fetched now or waiting for their turn.
    pub(in crate::app) wanted: u64,
    /// The first hundred of these.
    pub(in crate::app) list: Vec<Fill>,
}

/// One of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Fill {
    /// The store path, without its directory.
    pub(in crate::app) what: String,
    pub(in crate::app) upstream: Option<String>,
    pub(in crate::app) received_bytes: u64,
    pub(in crate::app) size_bytes: Option<u64>,
    /// Since it was asked for.
    pub(in crate::app) seconds: f64,
    /// Clients that wait for it or read along.
    pub(in crate::app) readers: u64,
}

/// An upstream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Upstream {
    pub(in crate::app) name: String,
    pub(in crate::app) priority: u32,
    pub(in crate::app) private: bool,
    pub(in crate::app) trust: String,
    pub(in crate::app) when_down: String,
    /// `up`, `silent`, `probing` or `down`.
    pub(in crate::app) state: String,
    pub(in crate::app) why: Option<String>,
    pub(in crate::app) not_asked_for_seconds: Option<f64>,
    /// What an answer about a narinfo takes at most, nineteen times out of twenty.
    pub(in crate::app) usual_seconds: Option<f64>,
    /// What the head of an answer took on average, since the start.
    pub(in crate::app) mean_seconds: Option<f64>,
    pub(in crate::app) requests: u64,
    pub(in crate::app) have: u64,
    pub(in crate::app) have_not: u64,
    pub(in crate::app) unknown: u64,
    pub(in crate::app) not_asked: u64,
    pub(in crate::app) times_down: u64,
    pub(in crate::app) received_bytes: u64,
}

/// What is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Store {
    pub(in crate::app) memory: Vec<Tier>,
    pub(in crate::app) disk: Disk,
}

/// A part of the memory: `nar` for chunks of NARs, `meta` for manifests and small objects.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Tier {
    pub(in crate::app) tier: String,
    #[serde(flatten)]
    pub(in crate::app) bytes: Bytes,
}

/// The disk: `up`, `opening`, `down`, or `off` where none is wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Disk {
    pub(in crate::app) state: String,
    #[serde(flatten)]
    pub(in crate::app) bytes: Option<Bytes>,
}

/// How full something is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::app) struct Bytes {
    pub(in crate::app) used_bytes: u64,
    pub(in crate::app) capacity_bytes: u64,
}

/// What is kept through eviction, all of it together.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Pins {
    pub(in crate::app) pins: u64,
    pub(in crate::app) paths: u64,
    /// Those that are not whole here.
    pub(in crate::app) missing: u64,
    pub(in crate::app) bytes: u64,
    /// So many there may be; 0 without a disk.
    pub(in crate::app) most_bytes: u64,
}

/// What `/pins` says, and in part `/pin` and `/unpin`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct PinList {
    pub(in crate::app) pins: Pins,
    #[serde(default)]
    pub(in crate::app) list: Vec<Pin>,
}

/// A pin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Pin {
    /// The store path, without its directory.
    pub(in crate::app) path: String,
    /// With what it refers to.
    pub(in crate::app) closure: bool,
    pub(in crate::app) paths: u64,
    /// Those that are not whole here.
    pub(in crate::app) missing: u64,
    /// Bytes of disk; what two pins share counts for both.
    pub(in crate::app) bytes: u64,
}

/// A certificate; `/certificates` says more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Certificate {
    pub(in crate::app) names: Vec<String>,
    pub(in crate::app) source: String,
    pub(in crate::app) not_after: Option<String>,
    /// Until then; negative afterwards.
    pub(in crate::app) days_left: Option<f64>,
    pub(in crate::app) next_renewal: Option<String>,
    pub(in crate::app) last_error: Option<String>,
}

/// A line of the log; of several with the same message the last one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Said {
    pub(in crate::app) at: String,
    /// `warning` or `error`.
    pub(in crate::app) level: String,
    pub(in crate::app) text: String,
    /// What else it says, as `name=value`.
    pub(in crate::app) fields: String,
    /// How often it was said.
    pub(in crate::app) times: u64,
}
