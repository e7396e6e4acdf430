//! What an upstream is shown so that it answers: a login from a netrc file, a token, or a user with a password.
//!
//! Secrets stand in files that are read again when they change (`secret_file`).
//!
//! Out of scope: who is shown it (`transport`: the configured address alone; `dial`: a proxy).

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;
use zeroize::Zeroizing;

use super::netrc;
use super::options::Options;
use super::secret_file::{Secret, SecretFile};

/// What is in a file, and of what kind it is.
#[derive(Debug, Clone)]
enum Kind {
    Netrc {
        host: String,
    },
    Token,
    Password {
        user: String,
    },
    /// For the proxy instead of the upstream.
    Proxy {
        user: String,
    },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Netrc { .. } => "the login from its netrc_file",
            Self::Token => "the token from its token_file",
            Self::Password { .. } => "its user with the password from its password_file",
            Self::Proxy { .. } => "its proxy_user with the password from its proxy_password_file",
        })
    }
}

/// The credentials of one upstream, if it has some.
#[derive(Debug, Clone)]
pub(super) struct Credentials(Option<Arc<SecretFile<Kind>>>);

impl Credentials {
    /// Reads the file that the options name.
    ///
    /// Blocking.
    ///
    /// # Errors
    /// It cannot be used, with the reason in words.
    pub(super) fn load(options: &Options) -> Result<Self, String> {
        let Some((kind, path)) = kind_of(options) else { return Ok(Self(None)) };
        let name = options.display_name();
        let file = SecretFile::load(name.clone(), kind, path)?;
        let (is_shown, kind) = (file.held().is_some(), file.kind());
        if !is_shown {
            tracing::warn!(
                "{}: no machine in it is {}; upstream {name} is asked without",
                path.display(),
                options.url.host()
            );
        }
        if is_shown && !options.url.is_https() && options.socket.is_none() {
            tracing::warn!("upstream {name} is shown {kind} over plain http: who is on the way can read it");
        }
        Ok(Self(Some(file)))
    }

    /// Those for the proxy that the options name.
    ///
    /// Blocking.
    ///
    /// # Errors
    /// Their file cannot be used, with the reason in words.
    pub(super) fn for_proxy(options: &Options) -> Result<Self, String> {
        let Some((kind, path)) = kind_for_proxy(options) else { return Ok(Self(None)) };
        Ok(Self(Some(SecretFile::load(options.display_name(), kind, path)?)))
    }

    /// Checks that the files that the options name can be used.
    ///
    /// # Errors
    /// The key of one that cannot, and why not in words.
    pub(super) fn check(options: &Options) -> Result<(), (&'static str, String)> {
        for (kind, path) in kind_of(options).into_iter().chain(kind_for_proxy(options)) {
            let key = match kind {
                Kind::Netrc { .. } => "netrc_file",
                Kind::Token => "token_file",
                Kind::Password { .. } => "password_file",
                Kind::Proxy { .. } => "proxy_password_file",
            };
            SecretFile::check(&kind, path).map_err(|why| (key, why))?;
        }
        Ok(())
    }

    /// The `Authorization` to send now.
    pub(super) async fn header(&self) -> Option<HeaderValue> {
        self.0.as_ref()?.current().await
    }

    /// After `refused` was refused: what to try instead, if the file has something else by now.
    pub(super) async fn instead_of(&self, refused: Option<&HeaderValue>) -> Option<HeaderValue> {
        self.0.as_ref()?.instead_of(refused).await
    }

    /// Which kind they are, in words that follow "refused"; `None` where the upstream is asked without any.
    pub(super) fn shown(&self) -> Option<String> {
        let file = self.0.as_ref()?;
        file.held().map(|_| file.kind().to_string())
    }
}

fn kind_of(options: &Options) -> Option<(Kind, &Path)> {
    let netrc = options.netrc_file.as_deref().map(|path| (Kind::Netrc { host: options.url.host().to_owned() }, path));
    let token = || options.token_file.as_deref().map(|path| (Kind::Token, path));
    let user = options.user.clone().unwrap_or_default();
    let password = || options.password_file.as_deref().map(|path| (Kind::Password { user }, path));
    netrc.or_else(token).or_else(password)
}

fn kind_for_proxy(options: &Options) -> Option<(Kind, &Path)> {
    let user = options.proxy_user.clone()?;
    options.proxy_password_file.as_deref().map(|path| (Kind::Proxy { user }, path))
}

impl Secret for Kind {
    type Held = HeaderValue;

    fn parse(&self, text: &str) -> Result<Option<HeaderValue>, String> {
        header_of(self, text)
    }
}

fn header_of(kind: &Kind, text: &str) -> Result<Option<HeaderValue>, String> {
    // One line, as `echo` and editors end it.
    let line = || match text.trim_ascii_end() {
        "" => Err("there is nothing in it"),
        text if text.contains(|c: char| c.is_ascii_control()) => Err("more than one line, or control characters"),
        text => Ok(text),
    };
    let value = match kind {
        Kind::Netrc { host } => match netrc::login(text, host).map_err(|error| error.to_string())? {
            None => return Ok(None),
            Some(login) => basic(&login.user, &login.password),
        },
        Kind::Password { user } | Kind::Proxy { user } => basic(user, line()?),
        Kind::Token => {
            let token = line()?;
            let mut value = Zeroizing::new(String::with_capacity(7 + token.len()));
            value.push_str("Bearer ");
            value.push_str(token);
            value
        }
    };
    let mut header = HeaderValue::from_str(&value).map_err(|_| "characters that no token has")?;
    header.set_sensitive(true);
    Ok(Some(header))
}

/// RFC 7617.
pub(super) fn basic(user: &str, password: &str) -> Zeroizing<String> {
    let mut pair = Zeroizing::new(String::with_capacity(user.len() + 1 + password.len()));
    pair.push_str(user);
    pair.push(':');
    pair.push_str(password);
    let mut value = Zeroizing::new(String::with_capacity(6 + pair.len().div_ceil(3) * 4));
    value.push_str("Basic ");
    BASE64.encode_string(pair.as_bytes(), &mut value);
    value
}
