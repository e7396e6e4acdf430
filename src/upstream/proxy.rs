//! Which proxy an upstream is asked through, if any.
//!
//! The option `proxy` decides for everything that is asked for this upstream, its redirects too. Without it the usual
//! variables do, for each host anew, as for curl and so for Nix: `https_proxy` or `HTTPS_PROXY`, `http_proxy` (in lower case
//! only: a CGI server hands its clients' `Proxy:` header on as the other), `all_proxy` or `ALL_PROXY`, and `no_proxy` or
//! `NO_PROXY` for what is asked directly. Unlike for curl, variables never concern this machine: a nix-serve on the
//! loopback address is nobody else's.
//!
//! A password stands in `proxy_password_file`, or in a variable; in the option it is refused. It is never told: what is
//! shown of a proxy is its scheme, host and port.
//!
//! Out of scope: how a proxy is spoken to (`tunnel`).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use url::{Host, Url};

use super::credentials::{self, Credentials};
use super::options::Options;
use super::reach::Reach;
use crate::options::{Mistakes, Value};

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// HTTP, over plain TCP.
    Http,
    /// HTTP, over TLS.
    Https,
    /// SOCKS 5; the proxy resolves names.
    Socks,
}

/// Where a proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    pub(super) speaks: Speaks,
    /// A name or an address, with brackets around IPv6.
    pub(super) host: String,
    pub(super) port: u16,
}

/// What can be set: an address, or that there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// Directly, whatever the environment says.
    None,
    /// Through this one.
    Through(Proxy),
}

const ACCEPTED: &str = "\"none\", or an address such as \"http://proxy.example.org:3128\", \"https://proxy.example.org\" \
                        or \"socks5://127.0.0.1:1080\"";

/// The address of a proxy and, apart from it, the user and the password in it.
fn parse(text: &str) -> Result<(Proxy, Option<(String, String)>), &'static str> {
    let readable = |b: u8| b.is_ascii_graphic() && b != b'\\';
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&with_scheme).map_err(|_| ACCEPTED)?;
    let (speaks, usual) = match url.scheme() {
        // Without a port curl takes these.
        "http" => (Speaks::Http, 1080),
        "https" => (Speaks::Https, 443),
        "socks5" | "socks5h" => (Speaks::Socks, 1080),
        _ => return Err(ACCEPTED),
    };
    if !text.bytes().all(readable)
        || !matches!(url.path(), "" | "/")
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(ACCEPTED);
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(ACCEPTED)?.to_ascii_lowercase();
    // `Url` leaves out a port that is usual for its scheme, also where it was written.
    let written = with_scheme.trim_end_matches('/').ends_with(":80").then_some(80);
    let port = url.port().or(written).unwrap_or(usual);
    let login = (!url.username().is_empty() || url.password().is_some()).then(|| {
        let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        (plain(url.username()), plain(url.password().unwrap_or_default()))
    });
    Ok((Proxy { speaks, host, port }, login))
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.speaks {
            Speaks::Http => "http",
            Speaks::Https => "https",
            Speaks::Socks => "socks5",
        };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl Value for Setting {
    fn read(found: toml::Value, at: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let Some(text) = found.as_str() else {
            mistakes.refuse(at, &found, ACCEPTED);
            return None;
        };
        if text == "none" {
            return Some(Self::None);
        }
        let why = match parse(text) {
            Ok((proxy, None)) if text.contains("://") => return Some(Self::Through(proxy)),
            Ok((_, None)) => ACCEPTED,
            Ok((_, Some(_))) => "an address without user and password: set proxy_user and proxy_password_file",
            Err(why) => why,
        };
        mistakes.refuse(at, &toml::Value::String(super::url::masked(text)), why);
        None
    }

    fn write(&self) -> Option<toml::Value> {
        Some(toml::Value::String(match self {
            Self::None => "none".to_owned(),
            Self::Through(proxy) => proxy.to_string(),
        }))
    }

    fn accepted() -> String {
        ACCEPTED.to_owned()
    }
}

/// A proxy, and what it is shown.
#[derive(Debug, Clone)]
pub(super) struct Via {
    pub(super) proxy: Proxy,
    login: Login,
}

#[derive(Debug, Clone)]
enum Login {
    /// From the environment; none where the header is none. A header that is sensitive has no `Debug`.
    Fixed(Option<HeaderValue>),
    /// From a file.
    Kept(Credentials),
}

impl Via {
    /// The `Proxy-Authorization` to show now.
    pub(super) async fn authorization(&self) -> Option<HeaderValue> {
        match &self.login {
            Login::Fixed(header) => header.clone(),
            Login::Kept(credentials) => credentials.header().await,
        }
    }

    /// The same as a user and a password.
    pub(super) async fn login(&self) -> Option<(String, String)> {
        let header = self.authorization().await?;
        let pair = BASE64.decode(header.as_bytes().strip_prefix(b"Basic ")?).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        pair.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
    }

    /// Whether requests to `uri` are sent to the proxy itself, in the form that names the whole address, instead of through
    /// a connection that it makes: for plain `http`, because proxies make connections to the port of TLS only.
    pub(super) fn forwards(&self, uri: &Uri) -> bool {
        self.proxy.speaks != Speaks::Socks && uri.scheme_str() == Some("http")
    }
}

/// Which proxy is taken for which address.
#[derive(Debug)]
pub(super) enum Routes {
    /// The same for all.
    Set(Option<Via>),
    /// As the environment says.
    Environment(Box<Environment>),
}

/// What the variables say.
#[derive(Debug)]
pub(super) struct Environment {
    http: Option<Via>,
    https: Option<Via>,
    except: Matcher,
}

impl Routes {
    /// Those of an upstream.
    ///
    /// Blocking: reads a file.
    ///
    /// # Errors
    /// A file or a variable cannot be used, with the reason in words.
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        match &options.proxy {
            None if options.socket.is_some() => Ok(Self::Set(None)),
            None => Self::from_environment(|name| std::env::var(name).ok()),
            Some(Setting::None) => Ok(Self::Set(None)),
            Some(Setting::Through(proxy)) => {
                let login = Login::Kept(Credentials::for_proxy(options)?);
                Ok(Self::Set(Some(Via { proxy: proxy.clone(), login })))
            }
        }
    }

    fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        // An empty variable is as good as none.
        let set = |name: &'static str| variable(name).filter(|text| !text.is_empty()).map(|text| (name, text));
        let via = |found: Option<(&str, String)>| {
            let Some((name, text)) = found else { return Ok(None) };
            let (proxy, login) = parse(&text).map_err(|why| format!("the environment variable {name} is not {why}"))?;
            let header = login.as_ref().map(|(user, password)| credentials::basic(user, password));
            let mut header = header.and_then(|header| HeaderValue::from_str(&header).ok());
            header.iter_mut().for_each(|header| header.set_sensitive(true));
            Ok::<_, String>(Some(Via { proxy, login: Login::Fixed(header) }))
        };
        let all = || set("all_proxy").or_else(|| set("ALL_PROXY"));
        let except = set("no_proxy").or_else(|| set("NO_PROXY")).map_or_else(String::new, |(_, text)| text);
        // Blanks divide as commas do.
        let except = except.split_ascii_whitespace().collect::<Vec<_>>().join(",");
        Ok(Self::Environment(Box::new(Environment {
            http: via(set("http_proxy").or_else(all))?,
            https: via(set("https_proxy").or_else(|| set("HTTPS_PROXY")).or_else(all))?,
            except: Matcher::builder().all("http://proxy").no(except).build(),
        })))
    }

    /// Whether one of them is spoken to over TLS.
    pub(super) fn speak_tls(&self) -> bool {
        let all = match self {
            Self::Set(via) => [via.as_ref(), None],
            Self::Environment(set) => [set.http.as_ref(), set.https.as_ref()],
        };
        all.into_iter().flatten().any(|via| via.proxy.speaks == Speaks::Https)
    }

    /// The proxy for an address.
    pub(super) fn of(&self, uri: &Uri) -> Option<&Via> {
        match self {
            Self::Set(via) => via.as_ref(),
            Self::Environment(set) => {
                let via = if uri.scheme_str() == Some("https") { &set.https } else { &set.http };
                let via = via.as_ref()?;
                let is_here = reach(uri) == Reach::Machine;
                (!is_here && set.except.intercept(uri).is_some()).then_some(via)
            }
        }
    }
}

/// What can be said of an address that a proxy connects to: by its text alone. A name counts for what it is meant for
/// (RFC 6761, RFC 6762, RFC 8375, and ICANN's `.internal`); one without a dot is of the proxy's network.
pub(super) fn reach(uri: &Uri) -> Reach {
    let host = uri.host().unwrap_or_default();
    let name = match Host::parse(host) {
        Ok(Host::Ipv4(four)) => return Reach::of(four.into()),
        Ok(Host::Ipv6(six)) => return Reach::of(six.into()),
        Ok(Host::Domain(name)) => name,
        Err(_) => host.to_owned(),
    };
    let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    match labels.as_slice() {
        [.., "localhost"] | [.., "localhost", "localdomain"] | ["ip6-localhost" | "ip6-loopback"] => Reach::Machine,
        [_] | [.., "local" | "internal" | "localdomain" | "intranet" | "lan"] | [.., "home", "arpa"] => Reach::Private,
        _ => Reach::Public,
    }
}

#[cfg(test)]
mod tests;
