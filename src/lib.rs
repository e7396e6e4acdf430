//! snowbank: a pull-through mirror and TLS front for Nix binary caches.
//!
//! The rooms, from the street to the cellar; an arrow (a `use`) goes down this list only, and the leaves at the end may
//! be entered from everywhere. ARCHITECTURE.md tells the whole story.

#![recursion_limit = "256"] // the layout of a request's future: each wrapper counts, and an optimised build ends at 128

pub mod app;
pub mod cli;
pub mod config;

pub mod edge;

pub mod proxy;

pub mod access;

pub mod library;

pub mod fill;

pub mod store;
pub mod upstream;

pub mod otlp;

pub mod tls;

pub mod nix;

pub mod decompress;

pub mod admin;
pub mod metrics;
pub mod shutdown;
pub mod telemetry;

pub mod clock;
pub mod file;
pub mod inherited;
pub mod options;
pub mod page;
pub mod trace;
pub mod trail;
