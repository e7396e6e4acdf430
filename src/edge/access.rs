//! The access log: one event for each request, written when its response has ended, and the counters beside it.

use std::time::Instant;

use http::{Method, StatusCode};

use super::address::Peer;
use super::body::BodyError;
use crate::metrics::{EdgeMetrics, Label, ResponseEnd as End, RouteLabel};
use crate::proxy::Outcome;
