//! A certificate of our own for a start without configuration, kept from one start to the next.
//!
//! A throw-away CA signs one certificate for this server, and its key is dropped at once: whoever trusts `ca.pem`
//! trusts this server and nothing else that could ever be signed. The files are in `<state dir>/tls/self-signed/`:
//! `key.pem` and `cert.pem` for us, `ca.pem` for clients, and `ca-bundle.pem`, the system's roots with `ca.pem` added,
//! because Nix's `ssl-cert-file` replaces the system's set instead of adding to it.
//!
//! Programs of every user are told to trust `ca.pem`, so the directories can be entered and those two files read by all,
//! whatever the umask; `key.pem` is ours alone.
//!
//! They are written in the order key, certificate, CA. A crash in between leaves a set that does not verify, and such a
//! set is made anew at the next start, as is one that lacks a name or is near its end.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::UnixTime;

use super::certificate::Certificate;
use super::files::Pair;
use super::name::Name;
use super::{Error, Problem, files, provider};
use crate::clock::UnixSeconds;
use crate::file::place;

const DAY: u64 = 86_400;
/// Long, because every client must be given the new CA after each renewal.
const LIFETIME: u64 = 3652 * DAY;
/// What is left of the lifetime when a start makes a new certificate.
const RENEW_BEFORE: u64 = 90 * DAY;
/// The certificate is valid from a day ago: the clocks of a fresh machine and of its clients differ.
const CLOCK_SKEW: u64 = DAY;

/// 9999-12-31T23:59:59Z, the last moment X.509 can write.
const LAST_DATE: u64 = 253_402_300_799;

/// Always in the certificate.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Where a Linux or BSD system keeps its trusted roots as one file; `SSL_CERT_FILE` comes before these.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Whether the certificate was found or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was there, complete and good for long enough.
    Kept,
    /// It was made at this start; clients need the new `ca.pem`.
    Made,
}

/// The files of the self-signed certificate that matter to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfSigned {
    /// The CA to trust, PEM.
    pub ca: PathBuf,
    /// The system's roots with our CA added, PEM, for a program that takes one file only. `None` when it could not be
    /// written.
    pub bundle: Option<PathBuf>,
    /// Found or made.
    pub origin: Origin,
}

/// The certificate kept below `state_dir`, made where there is none that does; one that is not kept where the directory cannot
/// be written (full, read-only), which must not keep a cache from serving.
///
/// # Errors
/// None can be made for these names.
pub(super) fn kept_or_passing(
    state_dir: &Path,
    names: &[String],
    now: UnixSeconds,
) -> Result<(Certificate, Option<SelfSigned>), Error> {
    match load_or_make(state_dir, names, now) {
        Ok((certificate, kept)) => Ok((certificate, Some(kept))),
        Err(error) if matches!(error.problem, Problem::Write(_)) => {
            tracing::error!(
                "{error}; HTTPS is served with a certificate that nobody has seen and that is gone at the next start: make \
                 the directory writable, or set tls.cert_file and tls.key_file"
            );
            Ok((passing(names, now)?, None))
        }
        Err(error) => Err(error),
    }
}

/// Loads the kept certificate, or makes one.
///
/// # Errors
/// When a new one is needed and cannot be made or written.
fn load_or_make(state_dir: &Path, names: &[String], now: UnixSeconds) -> Result<(Certificate, SelfSigned), Error> {
    let dir = directory(state_dir)?;
    let names = all_names(names);
    let (key, origin) = match load(&dir, &names, now) {
        Ok(key) => (key, Origin::Kept),
        Err(reason) => {
            make(&dir, &names, now)?;
            tracing::info!(dir = %dir.display(), ?names, %reason, "made a self-signed certificate; clients need its ca.pem");
            (pair(&dir).load(now)?, Origin::Made)
        }
    };
    let bundle = refresh_bundle(&dir);
    for path in bundle.iter().chain([&dir.join("ca.pem")]) {
        widen(path, 0o644);
    }
    Ok((key, SelfSigned { ca: dir.join("ca.pem"), bundle, origin }))
}

/// A certificate that is not kept.
///
/// # Errors
/// When none can be made for these names.
pub(super) fn passing(names: &[String], now: UnixSeconds) -> Result<Certificate, Error> {
    let names = all_names(names);
    let made = generate(&names, now).map_err(|source| Problem::Generate { names, source })?;
    let text = format!("{}{}", made.key, made.cert);
    // What was written as PEM a moment ago is read back.
    Certificate::from_pem(text.as_bytes())
        .map_err(|unfit| Problem::Setup(rustls::Error::General(format!("the certificate just made: {unfit}"))).into())
}

fn pair(dir: &Path) -> Pair {
    Pair { cert_file: dir.join("cert.pem"), key_file: dir.join("key.pem") }
}

fn all_names(more: &[String]) -> Vec<String> {
    let mut names: Vec<String> = LOCAL_NAMES.iter().map(ToString::to_string).collect();
    for name in more {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// The kept certificate, or in words why it cannot be used.
fn load(dir: &Path, names: &[String], now: UnixSeconds) -> Result<Certificate, String> {
    if !dir.join("cert.pem").exists() {
        return Err("there is none yet".into());
    }
    let certificate = pair(dir).load(now).map_err(|e| e.to_string())?;
    let ca = files::certificates(&dir.join("ca.pem")).map_err(|e| e.to_string())?;
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots.into(), provider()).build().map_err(|e| e.to_string())?;
    let end_entity = certificate.key.end_entity_cert().map_err(|e| e.to_string())?;
    // One check answers all: signed by this CA, valid now and for a while, and for each of the names.
    for moment in [now, now.plus(RENEW_BEFORE)] {
        let moment = UnixTime::since_unix_epoch(Duration::from_secs(moment.0));
        for name in names {
            let server_name = name.parse().ok().and_then(|name: Name| name.example());
            let server_name = server_name.ok_or_else(|| format!("{name} is no name"))?;
            verifier
                .verify_server_cert(end_entity, &[], &server_name, &[], moment)
                .map_err(|e| format!("the one there does not do for {name}: {e}"))?;
        }
    }
    Ok(certificate)
}

/// The directory of the files, made if it does not exist, with a way to it for every user. A state directory that was
/// there already keeps its mode: it is the operator's.
fn directory(state_dir: &Path) -> Result<PathBuf, Error> {
    let tls = state_dir.join("tls");
    let dir = tls.join("self-signed");
    let made = (!state_dir.exists()).then_some(state_dir);
    let created = fs::DirBuilder::new().recursive(true).mode(0o755).create(&dir);
    created.map_err(|source| Error::new(Problem::Write(source), &dir))?;
    for path in made.into_iter().chain([tls.as_path(), dir.as_path()]) {
        widen(path, 0o755);
    }
    Ok(dir)
}

/// Adds `mode` to what may be done with a file of ours. When that fails this server still works, and clients that cannot
/// read the CA say so.
fn widen(path: &Path, mode: u32) {
    let widened = || {
        let there = fs::metadata(path)?.permissions().mode() & 0o7777;
        if there | mode == there { Ok(()) } else { fs::set_permissions(path, fs::Permissions::from_mode(there | mode)) }
    };
    if let Err(error) = widened() {
        tracing::warn!(path = %path.display(), %error, "cannot be made readable for every user");
    }
}

fn make(dir: &Path, names: &[String], now: UnixSeconds) -> Result<(), Error> {
    let made = generate(names, now).map_err(|source| Problem::Generate { names: names.to_vec(), source })?;
    write(&dir.join("key.pem"), 0o600, made.key.as_bytes())?;
    write(&dir.join("cert.pem"), 0o644, made.cert.as_bytes())?;
    write(&dir.join("ca.pem"), 0o644, made.ca.as_bytes())
}

/// Three PEM texts.
struct Made {
    ca: String,
    cert: String,
    key: String,
}

/// Makes the CA and the one certificate it will ever sign.
fn generate(names: &[String], now: UnixSeconds) -> Result<Made, rcgen::Error> {
    // A clock that is off by centuries must not make the sum overflow: dates end with the year 9999.
    let date = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.min(LAST_DATE));
    let not_before = date(now.0.saturating_sub(CLOCK_SKEW));
    let not_after = date(now.plus(LIFETIME).0);

    let ca_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut ca = CertificateParams::default();
    ca.not_before = not_before;
    ca.not_after = not_after;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // Each CA has its own subject: a client that knows two of them must not take one for the other.
    ca.distinguished_name = rcgen::DistinguishedName::new();
    ca.distinguished_name.push(DnType::CommonName, format!("snowbank self-signed CA {}", now.0));
    let ca_cert = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut leaf = CertificateParams::new(names.to_vec())?;
    leaf.not_before = not_before;
    leaf.not_after = not_after;
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true; // OpenSSL 3's strict mode asks for it
    leaf.distinguished_name = rcgen::DistinguishedName::new();
    leaf.distinguished_name.push(DnType::CommonName, "snowbank");
    let cert = leaf.signed_by(&key, &issuer)?;
    Ok(Made { ca: ca_cert.pem(), cert: cert.pem(), key: key.serialize_pem() })
    // `issuer` goes here, and the CA's key with it.
}

/// Writes `ca-bundle.pem` anew, since the system's roots change with its updates. Without it clients can still be given
/// `ca.pem`, so a failure is only told.
fn refresh_bundle(dir: &Path) -> Option<PathBuf> {
    let path = dir.join("ca-bundle.pem");
    let ca = match fs::read(dir.join("ca.pem")) {
        Ok(ca) => ca,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "cannot read ca.pem to make ca-bundle.pem of it");
            return None;
        }
    };
    let from_environment = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let candidates = from_environment.into_iter().chain(SYSTEM_ROOTS.iter().map(PathBuf::from));
    let bundle = bundle(candidates, &path, &ca);
    if fs::read(&path).is_ok_and(|there| there == bundle) {
        return Some(path);
    }
    match write(&path, 0o644, &bundle) {
        Ok(()) => Some(path),
        Err(error) => {
            tracing::warn!(%error, "ca-bundle.pem is not up to date");
            None
        }
    }
}

/// The first readable file of roots, and our CA after it.
fn bundle(candidates: impl Iterator<Item = PathBuf>, own: &Path, ca: &[u8]) -> Vec<u8> {
    // Our own bundle may be what SSL_CERT_FILE names: taking it as the system's roots would grow it at each start.
    let mut bundle = candidates.filter(|path| path != own).find_map(|path| fs::read(path).ok()).unwrap_or_else(|| {
        tracing::warn!("found no file of trusted roots on this system: ca-bundle.pem holds our CA only");
        Vec::new()
    });
    if !bundle.is_empty() && !bundle.ends_with(b"\n") {
        bundle.push(b'\n');
    }
    bundle.extend_from_slice(ca);
    bundle
}

/// Writes a file in one step, with `mode` from its first byte on.
fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Error> {
    place(path, mode, bytes).map_err(|source| Error::new(Problem::Write(source), path))
}

#[cfg(test)]
mod tests;
