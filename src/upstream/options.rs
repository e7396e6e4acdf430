//! What can be set for an upstream, and the order in which several are asked.

use std::path::PathBuf;

use crate::clock::UnixSeconds;
use crate::nix::signature::PublicKey;
use crate::options::{ByteSize, Mistakes, Period, key};
use crate::tls::Pair;

use super::credentials::Credentials;
use super::place;
pub use super::proxy::Setting;
pub use super::url::UpstreamUrl;

crate::choice! {
    /// What makes a narinfo of an upstream trusted (R36: always spelled out, never a fallback).
    pub enum Trust {
        /// A narinfo needs a signature by one of the upstream's `public_keys`.
        Keys = "keys",
        /// The operator vouches for the upstream: an unsigned narinfo is trusted and may be signed.
        Origin = "origin",
        /// Nothing is trusted: narinfos go on as they came, and are never signed here.
        Pass = "pass",
    }
}

crate::choice! {
    /// What a client is told when an upstream could not be asked and nobody else has the path (R18).
    pub enum WhenDown {
        /// That it is unknown: 502, or 503 while the upstream is taken for down.
        Error = "error",
        /// That it is not there: 404.
        Miss = "miss",
    }
}

crate::choice! {
    /// What 403 means.
    pub enum Forbidden {
        /// Nothing about the path.
        Unknown = "unknown",
        /// That it is not there: what S3 says of a missing object in a bucket that may not be listed.
        HaveNot = "have-not",
    }
}

crate::choice! {
    /// Where the keys for a bucket come from.
    pub enum CredentialsFrom {
        /// From `credentials_file`, else from what the environment names, else from nowhere.
        Auto = "auto",
        /// From the metadata service of the EC2 instance.
        Instance = "instance",
        /// From nowhere: requests are not signed.
        Anonymous = "anonymous",
    }
}

crate::options! {
    /// A binary cache to mirror; any number of them. Without any, cache.nixos.org is mirrored.
    pub struct Options {
        /// Where the cache is: the address that would stand in `substituters`, without parameters. `http` and `https`,
        /// a port and a path are understood. A bucket is `s3://bucket` or `s3://bucket/prefix`, with those parameters of Nix's
        /// that say where it is: `endpoint`, `region`, `profile`, `scheme`, `addressing-style`. A directory is
        /// `file:///mnt/cache`, with `%20` for a blank.
        pub url: UpstreamUrl,
        /// What the upstream is called in logs, metrics and messages. By default the host of `url`, with its port if
        /// that is not the usual one, the name of its bucket, or the path of its directory; two upstreams on one host need a
        /// name.
        pub name: Option<Name> = None,
        /// What it has is for those clients only that an `[[access]]` table grants it to, cached copies too: to everybody else
        /// all of it is not there. It is kept apart from everything else, under `name` and `url`.
        pub private: bool = false,
        /// Lower numbers are asked earlier; upstreams with the same number are asked side by side, and the first that
        /// has the path serves it. The next number is asked only when all of this one said that they have not, or could
        /// not be reached. By default 10 for the first upstream in this file, 20 for the second, and so on.
        pub priority: Option<u32> = None,
        /// Which narinfos are trusted. `keys`: those with a valid signature by one of `public_keys`. `origin`: all of
        /// them, signed or not; for a cache you vouch for, such as a nix-serve on this machine. `pass`: none, but all
        /// are served as they came, never signed here, for the clients to judge.
        pub trust: Trust = Trust::Keys,
        /// The keys that may sign for this upstream, written as in `trusted-public-keys` of nix.conf. Required when
        /// `trust` is `keys`. A key counts for the upstreams that list it and for no other.
        pub public_keys: Vec<PublicKey> = Vec::new(),
        /// What clients are told about a path that no other upstream has while this one cannot be asked. `error`: 502, or
        /// 503 with a Retry-After once it is taken for down, so that Nix tries again. `miss`: 404, so that Nix builds it or asks its next substituter, and
        /// remembers for an hour that it is not here; for a cache that is often switched off.
        pub when_down: WhenDown = WhenDown::Error,
        /// What the upstream means by 403. `unknown`: that something is wrong, so that `when_down` holds. `have-not`: that it
        /// has not what was asked for, as a bucket without the right to list it says of a missing object; with credentials
        /// that are refused by 403, everything would be missing. Counts at the address of `url` only: 403 of a host that it
        /// redirects to is always unknown. By default `unknown` over `http` and `https`; a bucket's 403 is `have-not` as long as
        /// its `nix-cache-info` may be read. Keys that a bucket does not take are `unknown` in any case.
        pub forbidden: Option<Forbidden> = None,
        /// A unix socket over which the upstream is reached instead of the host and port of `url`, whose scheme, name and
        /// path still hold: `url = "http://nix-serve"` with `socket = "/run/nix-serve.sock"`.
        pub socket: Option<PathBuf> = None,
        /// The proxy through which the upstream, and whatever it redirects to, is asked: `http://host:port`,
        /// `https://host:port` or `socks5://host:port`, where the proxy resolves the names; or `none`. By default the
        /// environment decides as for curl: `https_proxy` for `https`, `http_proxy` for `http`, `all_proxy` for both, except
        /// for the hosts in `no_proxy` (all but `http_proxy` in upper case too), and never for this machine or a `socket`.
        /// Through an HTTP proxy an `http` upstream is asked by requests that the proxy reads, credentials in them too; a 401, 403,
        /// 404 or 410 without `Via` counts as the proxy's own. Where a proxy resolves the names, what a redirect may lead to is
        /// checked by the name alone: let the proxy refuse what must not be reached.
        pub proxy: Option<Setting> = None,
        /// The user whose password is in `proxy_password_file`. Shown to the proxy in `proxy` and to nobody else.
        pub proxy_user: Option<String> = None,
        /// A file with the password of `proxy_user`; read again when it changes. A variable of the environment has user and
        /// password in its address instead.
        pub proxy_password_file: Option<PathBuf> = None,
        /// A netrc file with the login for the host of `url`, as Nix's own `netrc-file`. What it holds for other hosts is
        /// not used. Credentials, of whichever kind, are sent to the scheme, host and port of `url` and nowhere else; their
        /// file is read again when it changes. One kind for each upstream.
        pub netrc_file: Option<PathBuf> = None,
        /// A file with a token, sent as `Authorization: Bearer`: of an Attic server, or of a private Cachix cache.
        pub token_file: Option<PathBuf> = None,
        /// The user whose password is in `password_file`.
        pub user: Option<String> = None,
        /// A file with the password of `user`, sent as `Authorization: Basic`.
        pub password_file: Option<PathBuf> = None,
        /// A file with the keys for a bucket, as `~/.aws/credentials` is written: the section that `profile` in `url` names, or
        /// `[default]`, with `aws_access_key_id`, `aws_secret_access_key` and perhaps `aws_session_token`. Read again when it
        /// changes.
        pub credentials_file: Option<PathBuf> = None,
        /// Where the keys for a bucket come from without a `credentials_file`. `auto`: from what the environment of this program
        /// names: keys (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`), a web identity (`AWS_WEB_IDENTITY_TOKEN_FILE`,
        /// `AWS_ROLE_ARN`: Kubernetes), or a container's role (`AWS_CONTAINER_CREDENTIALS_…`: ECS, EKS Pod Identity); if it names
        /// none, the bucket is asked without. `instance`: the role of the EC2 instance, from its metadata service.
        /// `anonymous`: the bucket is asked without keys, whatever the environment names.
        pub credentials: CredentialsFrom = CredentialsFrom::Auto,
        /// A file of PEM certificates to trust for `https`, of the upstream and of its proxy, besides those the system
        /// trusts: CA certificates, such as that of a company, or a self-signed certificate of the upstream that is marked
        /// as no CA. A server certificate that a CA signed is not enough: give that CA.
        pub ca_file: Option<PathBuf> = None,
        /// A certificate to show to the upstream if it asks for one, PEM, ours first; with `client_key_file`. Read again when
        /// it changes, and shown at the address of `url` only.
        pub client_cert_file: Option<PathBuf> = None,
        /// The private key of the first certificate in `client_cert_file`, PEM, without a passphrase.
        pub client_key_file: Option<PathBuf> = None,
        /// How many connections are open to the upstream at most; at least 2. Over `https` they are for NARs;
        /// everything else shares one more (HTTP/2), or up to 16 more where the upstream speaks only HTTP/1.1. Over
        /// `http` NARs have one half and everything else the other. By default 32 for NARs and up to 128 for everything else,
        /// of a bucket and of a directory too; for `http` 2 and 2 until an answer shows that it is not from nix-serve, which serves 5 at a time.
        /// Raise it for a far upstream that could give more, lower it for one that is overrun.
        pub connections: Option<u32> = None,
        /// How long a TCP connection may take to be made, with looking up the name and trying all of its addresses, before
        /// the upstream counts as down; and how long one that stands may leave unacknowledged what was sent, though never
        /// less than 5 s. Raise it for links with seconds of delay.
        pub connect_timeout: Period = Period::seconds(5),
        /// How long the upstream may take from the request for a narinfo, or for another small object, to its last byte;
        /// connecting is part of it. An upstream that needs longer several times in a row is taken for down for some seconds:
        /// raise it for one that is far away or slow.
        pub narinfo_timeout: Period = Period::seconds(2),
        /// How long the upstream may take from the request for a NAR to the head of its response. Raise it for caches that
        /// make the archive when it is asked for and are slow to start.
        pub response_timeout: Period = Period::seconds(15),
        /// How long the body of a NAR may pause before the rest of it is fetched anew, or given up.
        pub stall_timeout: Period = Period::seconds(30),
        /// What the body of a NAR must bring in each second, on average over `stall_timeout` of waiting for it; with less it
        /// is treated as if it paused. "0 B" lets it trickle.
        pub min_rate: ByteSize = ByteSize(1000),
        /// How long a narinfo of this upstream is served without asking again. Paths almost never change under their
        /// hash; shorten it for a nix-serve whose store paths are deleted and rebuilt.
        pub narinfo_ttl: Period = Period::seconds(86_400),
        /// Whether a NAR of 16 MiB or more that somebody reads is asked for in parts, over four and then eight connections, as long as
        /// that is found to be faster: of an upstream, or over a way to it, that gives each connection little. Where it is not, where ranges are
        /// not answered, or parts are refused, the next ten minutes' NARs come over one each. Of another snowbank only what it
        /// has; never with fewer than eight connections for NARs. `false` for an upstream that is paid by the
        /// request, and for a cache that fetches the whole of a file for each range of it that it does not have (nginx without `slice`).
        pub parallel: bool = true,
        /// The largest NAR of this upstream that is fetched when its narinfo is asked for, if that is less than `prefetch` of
        /// `[cache]`; "0 B" fetches none: for an upstream that is paid by the byte, or near.
        pub prefetch: Option<ByteSize> = None,
    }
}

impl Options {
    /// When this upstream is asked, being number `place` of the list (from 0): lower ranks earlier, equal ones side by
    /// side.
    pub fn rank(&self, place: usize) -> u32 {
        self.priority.unwrap_or_else(|| u32::try_from(place).unwrap_or(u32::MAX).saturating_add(1).saturating_mul(10))
    }

    /// The name in logs and metrics.
    pub fn display_name(&self) -> String {
        self.name.as_ref().map_or_else(|| self.url.authority(), ToString::to_string)
    }

    /// Checks what one value alone cannot show; `at` is the table's place.
    pub fn check(&self, at: &str, mistakes: &mut Mistakes) {
        if self.trust == Trust::Keys && self.public_keys.is_empty() && !mistakes.is_about(&key(at, "trust")) {
            let accepted = format!(
                "at least one key, because trust is \"keys\"; \"{}\" trusts everything, \"{}\" leaves it to \
                 the clients",
                Trust::Origin,
                Trust::Pass
            );
            mistakes.missing(&key(at, "public_keys"), &accepted);
        }
        if let Some(few @ 0..2) = self.connections {
            mistakes.refuse(&key(at, "connections"), &few, "at least 2: one for NARs and one for everything else");
        }
        self.check_place(at, mistakes);
        self.check_credentials(at, mistakes);
        self.check_client_certificate(at, mistakes);
        self.check_proxy(at, mistakes);
        let timeouts = [
            ("connect_timeout", self.connect_timeout),
            ("narinfo_timeout", self.narinfo_timeout),
            ("response_timeout", self.response_timeout),
            ("stall_timeout", self.stall_timeout),
        ];
        for (name, timeout) in timeouts {
            if timeout.0.is_zero() {
                mistakes.refuse(&key(at, name), &format!("\"{timeout}\""), "more than \"0 ms\"");
            }
        }
    }
}

impl Options {
    /// Checks what the address makes of the other options; `at` is the table's place.
    pub fn check_place(&self, at: &str, mistakes: &mut Mistakes) {
        place::check(self, at, mistakes);
    }

    fn check_credentials(&self, at: &str, mistakes: &mut Mistakes) {
        let given = [
            ("netrc_file", self.netrc_file.is_some()),
            ("token_file", self.token_file.is_some()),
            ("password_file", self.password_file.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name);
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            mistakes.say(&key(at, second), &format!("{first} is given too; an upstream is shown one of them"));
        }
        check_login(at, ("user", self.user.as_ref()), ("password_file", self.password_file.as_ref()), mistakes);
    }

    fn check_proxy(&self, at: &str, mistakes: &mut Mistakes) {
        let (user, file) = (self.proxy_user.as_ref(), self.proxy_password_file.as_ref());
        check_login(at, ("proxy_user", user), ("proxy_password_file", file), mistakes);
        match &self.proxy {
            Some(Setting::Through(_)) if self.socket.is_some() => {
                mistakes.say(&key(at, "proxy"), "`socket` is given too, which no proxy leads to");
            }
            None | Some(Setting::None) if user.is_some() && !mistakes.is_about(&key(at, "proxy")) => {
                mistakes.missing(&key(at, "proxy"), "an address, because `proxy_user` is given");
            }
            _ => {}
        }
    }

    /// The certificate of our own.
    pub(super) fn client_certificate(&self) -> Option<Pair> {
        let (cert_file, key_file) = (self.client_cert_file.clone()?, self.client_key_file.clone()?);
        Some(Pair { cert_file, key_file })
    }

    fn check_client_certificate(&self, at: &str, mistakes: &mut Mistakes) {
        let both = "a path, because the other half of the pair is given";
        match (&self.client_cert_file, &self.client_key_file) {
            (Some(_), None) => mistakes.missing(&key(at, "client_key_file"), both),
            (None, Some(_)) => mistakes.missing(&key(at, "client_cert_file"), both),
            (Some(_), Some(_)) if !self.url.is_https() => {
                mistakes.say(&key(at, "client_cert_file"), "only https has certificates, and `url` is http");
            }
            _ => {}
        }
    }

    /// Checks the files that are named, the way they are loaded; `at` is the table's place.
    pub fn check_files(&self, at: &str, mistakes: &mut Mistakes) {
        place::check_files(self, at, mistakes);
        if let Err((name, why)) = Credentials::check(self) {
            mistakes.say(&key(at, name), &why);
        }
        if let Some(pair) = self.client_certificate()
            && let Err(error) = pair.load(UnixSeconds::now())
        {
            mistakes.say(&key(at, "client_cert_file"), &error.to_string());
        }
    }
}

/// Checks a user and the file with his password, each with its key.
fn check_login(at: &str, user: (&str, Option<&String>), file: (&str, Option<&PathBuf>), mistakes: &mut Mistakes) {
    match (user.1, file.1) {
        (Some(_), None) => mistakes.missing(&key(at, file.0), &format!("a path, because `{}` is given", user.0)),
        (None, Some(_)) => mistakes.missing(&key(at, user.0), &format!("whose password is in `{}`", file.0)),
        (Some(name), _) if name.contains(|c: char| c == ':' || c.is_control()) => {
            mistakes.refuse(&key(at, user.0), &format!("{name:?}"), "a name without colons and control characters");
        }
        _ => {}
    }
}

/// The name of an upstream: a label value of metrics, a field of logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl std::str::FromStr for Name {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:".contains(&b);
        if (1..=64).contains(&text.len()) && text.bytes().all(fits) { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

crate::string_value!(Name, "1 to 64 of the characters a-z 0-9 - . _ :");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Table;

    fn upstream(rest: &str) -> Options {
        Options::from_toml(&format!("url = 'http://a'\n{rest}")).unwrap()
    }

    #[test]
    fn the_order_is_that_of_the_file_unless_a_priority_says_otherwise() {
        let ranks: Vec<u32> = (0..3).map(|place| upstream("").rank(place)).collect();
        assert_eq!(ranks, [10, 20, 30]);
        assert_eq!(upstream("priority = 0").rank(2), 0);
        assert_eq!(upstream("").rank(usize::MAX), u32::MAX);
    }

    #[test]
    fn a_name_is_given_or_taken_from_the_url() {
        assert_eq!(upstream("").display_name(), "a");
        assert_eq!(upstream("name = 'office'").display_name(), "office");
        for name in ["", "A", "a b", "a\n", "é"] {
            assert!(name.parse::<Name>().is_err(), "{name:?}");
        }
    }
}
