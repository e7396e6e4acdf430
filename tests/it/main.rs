//! The program's promises, each proved against the real binary: one file per promise, one binary for all.
//!
//! `support` is the rig and `rig` proves the rig by itself. Everything runs on free ports of the loopback address and in
//! directories of its own, so the tests run side by side. Nothing here sleeps to wait: upstreams stand at gates, clients
//! read at their own pace, and a limit only turns a hang into a failure.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "a test that cannot go on fails")]

mod access_log;
mod activation;
mod bodies;
mod buckets;
mod cache_status;
mod certificates;
mod connections;
mod deploy;
mod ending;
mod export;
mod failover;
mod false_misses;
mod faults;
mod floods;
mod forwarded;
mod holes;
mod hostile;
mod hostile_h2;
mod keys;
mod liars;
mod library;
mod limits;
mod load;
mod migration;
mod monitoring;
mod mutants;
mod nar_fill;
mod narinfo;
mod nix_client;
mod nix_serve_quirks;
mod old_urls;
mod otlp;
mod outage;
mod overload;
mod pages;
mod pin;
mod prefetch;
mod private;
mod proxies;
mod ranges;
mod reloads;
mod restart;
mod rig;
mod serve;
mod shapes;
mod signing;
mod small_objects;
mod supervised;
mod support;
mod takeover;
mod three_upstreams;
mod trust_table;
mod verify;
mod warm;
mod wide;
