//! The rig: everything around the program under test that is not a test.
//!
//! What a test puts together: an upstream ([`origin`] scripted on a raw socket, [`static_cache`] with files that real Nix
//! made, [`nix_serve`]), the real program ([`snowbank`]), and a client ([`client`] with every byte under control, [`frames`] with every bit of HTTP/2, or
//! [`nix`], the real thing on a machine of its own). [`cache`] makes store paths, NARs, narinfos and signatures without
//! using a line of the program, so that the two check each other. [`lies`] makes what a lying upstream offers, and
//! [`trust`] is what the tests about signatures share. [`fixture`] builds the small nixpkgs once. [`browser`] looks at pages.
//!
//! Upstreams run on one runtime of their own ([`runtime`]), so a test may block, and a stuck test cannot stop them.

pub mod acme_directory;
pub mod activation;
pub mod authority;
pub mod browser;
pub mod cache;
pub mod client;
#[cfg(feature = "otlp")]
pub mod collector;
pub mod door;
pub mod fixture;
pub mod frames;
pub mod lies;
pub mod mutator;
pub mod nix;
pub mod nix_serve;
pub mod origin;
#[cfg(feature = "otlp")]
pub mod otelcol;
pub mod pail;
pub mod pebble;
pub mod prometheus;
pub mod proxies;
pub mod seaweedfs;
pub mod snowbank;
pub mod split;
pub mod static_cache;
pub mod tap;
pub mod tls;
pub mod trust;
pub mod wire;

use std::sync::LazyLock;
use std::time::Duration;

/// The longest that any single step of a test may take. Not a promise of the program: it turns a hang into a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The runtime of the upstreams.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("upstreams")
            .enable_all()
            .build()
            .expect("a runtime for the upstreams")
    });
    &RUNTIME
}

/// Waits for `step`, and fails the test with `what` when it takes longer than [`PATIENCE`].
pub async fn within<T>(what: &str, step: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, step).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing happened for {PATIENCE:?}"),
    }
}
