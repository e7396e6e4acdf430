//! Certificates: there is always one, it is the right one, and it is renewed before it ends, whatever the authority does.
//!
//! `orders` gets certificates from the real pebble by every way of proof, `renewal` keeps them alive through outages,
//! `scripted` asks a scripted authority for what pebble does not do. `files` are certificates that somebody else makes,
//! `broken` those that must not be taken, `swaps` both under load. `clients` have certificates
//! too. `view` is what the operator sees.

mod broken;
mod clients;
mod files;
mod orders;
mod renewal;
mod scripted;
mod swaps;
mod view;

use crate::support::snowbank::Snowbank;
use crate::support::tls::{Hello, Told, chain_of, tell};
use crate::support::trust::eventually;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use std::net::SocketAddr;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The name that most tests order a certificate for.
const NAME: &str = "cache.example.org";

/// Waits until the listener shows a certificate for this name that a strict client believes; what stands in it.
async fn trusted(address: SocketAddr, name: &str, root: &CertificateDer<'static>) -> Told {
    let mut told = None;
    eventually(&format!("a certificate for {name}"), async || {
        let verified = Hello::to(name).verified(address, std::slice::from_ref(root)).await;
        told = verified.ok().map(|stream| tell(&chain_of(&stream)[0]));
        told.is_some()
    })
    .await;
    told.expect("a certificate")
}

/// What stands in the certificate that is shown for this name, whatever it is worth.
async fn shown(address: SocketAddr, name: &str) -> Told {
    let chain = Hello::to(name).presented(address).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    tell(&chain[0])
}

/// Whether what is shown for this name is what the program made itself until there is something better: it is for the
/// name, and for the machine's own.
async fn stands_in(address: SocketAddr, name: &str) -> bool {
    let names = shown(address, name).await.names;
    names.iter().any(|n| n == "localhost") && names.iter().any(|n| n == name)
}

/// What the admin address says about the certificate with this name: the one that is wanted comes first.
fn entry(snowbank: &Snowbank, name: &str) -> Option<Value> {
    entries(snowbank, name).into_iter().next()
}

/// Everything that the admin address says about this name.
fn entries(snowbank: &Snowbank, name: &str) -> Vec<Value> {
    let page = snowbank.admin("/certificates");
    let (_, body) = page.split_once("\r\n\r\n").expect("a body");
    // The page may come in chunks; the object is all of it that has braces.
    let object = &body[body.find('{').expect("an object")..=body.rfind('}').expect("an object")];
    let value: Value = serde_json::from_str(object).unwrap_or_else(|error| panic!("{error}: {page}"));
    let all = value["certificates"].as_array().expect("a list").clone();
    all.into_iter().filter(|entry| entry["names"].as_array().expect("names").iter().any(|n| n == name)).collect()
}

/// Unix seconds of a date in the list.
#[track_caller]
fn moment(value: &Value) -> i64 {
    let text = value.as_str().unwrap_or_else(|| panic!("not a date: {value}"));
    OffsetDateTime::parse(text, &Rfc3339).expect("RFC 3339").unix_timestamp()
}
