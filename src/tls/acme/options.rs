//! How a CA is asked.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use instant_acme::{ChallengeType, LetsEncrypt};
use url::Url;

use crate::options::{Mistakes, Period, key};
use crate::tls::name::Name;

crate::options! {
    /// Certificates from a CA that speaks ACME, one for each of `tls.names` that none of the files is for. They are kept in
    /// `acme/` of the state directory, and renewed when the CA wants it (ARI) or when two thirds of their life are over. To
    /// set this is to agree to the CA's terms of service.
    pub struct Options {
        /// The CA: "letsencrypt", "letsencrypt-staging" (to try things out: no client trusts its certificates, and its
        /// limits are wide), or the URL of another CA's directory.
        pub directory: Directory,
        /// Whom the CA may write to, such as "mailto:ops@example.org".
        pub contact: Vec<String> = Vec::new(),
        /// Certificates (PEM) to trust, besides the system's, when the CA is spoken to: for a CA inside a company.
        pub ca_file: Option<PathBuf> = None,
        /// How the CA is shown that a name is ours. "http-01": it asks for a token at port 80 of the name, which has to reach
        /// a listener without TLS here. "tls-alpn-01": it connects to port 443 of the name, which has to reach a listener
        /// with TLS here, with nothing in between that ends the TLS. "dns-01": it looks for a record in the DNS, which
        /// `dns_hook` makes; the only way for wildcards. By default dns-01 with a `dns_hook`, else http-01 where a listener
        /// has no TLS, else tls-alpn-01.
        pub challenge: Option<Challenge> = None,
        /// A program that makes the DNS record: called with the arguments `add NAME VALUE`, and afterwards
        /// `remove NAME VALUE`; see deploy/acme/nsupdate.sh.
        pub dns_hook: Option<PathBuf> = None,
        /// How long a record needs until every server of the zone has it.
        pub dns_wait: Period = Period::seconds(10),
        /// The account at the CA's that the new account is bound to (external account binding), where the CA demands that.
        pub eab_key_id: Option<String> = None,
        /// The file with the key of that account, as the CA gave it (base64url).
        pub eab_key_file: Option<PathBuf> = None,
        /// One of the kinds of certificate that the CA offers, such as "shortlived".
        pub profile: Option<String> = None,
    }
}

crate::choice! {
    /// How a CA is shown that a name is ours.
    pub enum Challenge {
        /// RFC 8555 section 8.3
        Http01 = "http-01",
        /// RFC 8737
        TlsAlpn01 = "tls-alpn-01",
        /// RFC 8555 section 8.4
        Dns01 = "dns-01",
    }
}

impl Challenge {
    pub(super) fn kind(self) -> ChallengeType {
        match self {
            Self::Http01 => ChallengeType::Http01,
            Self::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Self::Dns01 => ChallengeType::Dns01,
        }
    }

    /// What has to be so for it to succeed.
    pub(super) fn advice(self, name: &Name) -> String {
        match self {
            Self::Http01 => format!("port 80 of {name} has to reach a listener of this server without TLS"),
            Self::TlsAlpn01 => format!("port 443 of {name} has to reach a listener of this server with TLS, untouched"),
            Self::Dns01 => "the record of dns_hook has to be at every server of the zone within dns_wait".to_owned(),
        }
    }
}

/// A CA's directory, `https` only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory(Url);

crate::string_value!(
    Directory,
    "\"letsencrypt\", \"letsencrypt-staging\" or the URL of a CA's directory such as \"https://ca.example.org/acme/directory\""
);

/// The text is no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotADirectory;

impl FromStr for Directory {
    type Err = NotADirectory;

    fn from_str(text: &str) -> Result<Self, NotADirectory> {
        let text = match text {
            "letsencrypt" => LetsEncrypt::Production.url(),
            "letsencrypt-staging" => LetsEncrypt::Staging.url(),
            other => other,
        };
        let url = Url::parse(text).map_err(|_| NotADirectory)?;
        let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        (url.scheme() == "https" && url.has_host() && plain).then_some(Self(url)).ok_or(NotADirectory)
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.url() {
            url if url == LetsEncrypt::Production.url() => f.write_str("letsencrypt"),
            url if url == LetsEncrypt::Staging.url() => f.write_str("letsencrypt-staging"),
            url => f.write_str(url),
        }
    }
}

impl Directory {
    pub(super) fn url(&self) -> &str {
        self.0.as_str()
    }

    /// The name of the directory's own directory: accounts and certificates of two CAs never mix.
    pub(super) fn slug(&self) -> String {
        let text = self.url().trim_start_matches("https://").trim_end_matches('/');
        let plain = |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' };
        // A host begins it, so it is neither `.` nor `..`.
        text.chars().map(plain).take(200).collect()
    }
}

impl Options {
    /// The way that is taken; `has_plain`: a TCP listener has no TLS.
    pub fn way(&self, has_plain: bool) -> Challenge {
        self.challenge.unwrap_or(match (&self.dns_hook, has_plain) {
            (Some(_), _) => Challenge::Dns01,
            (None, true) => Challenge::Http01,
            (None, false) => Challenge::TlsAlpn01,
        })
    }

    /// Checks what one value alone cannot show; `at` is the table's place, `names` are those to be ordered for.
    pub(in crate::tls) fn check(&self, at: &str, names: &[Name], way: Challenge, mistakes: &mut Mistakes) {
        let key = |name: &str| key(at, name);
        if way == Challenge::Dns01 && self.dns_hook.is_none() {
            mistakes.missing(&key("dns_hook"), "a program that makes the records, because challenge = \"dns-01\"");
        }
        match (&self.eab_key_id, &self.eab_key_file) {
            (Some(_), None) => mistakes.missing(&key("eab_key_file"), "a path, because eab_key_id is set"),
            (None, Some(_)) => mistakes.missing(&key("eab_key_id"), "the account's name, because eab_key_file is set"),
            _ => {}
        }
        for (n, contact) in self.contact.iter().enumerate() {
            if Url::parse(contact).is_err() {
                let key = format!("{}[{n}]", key("contact"));
                mistakes.refuse(&key, &format!("{contact:?}"), "a URL such as \"mailto:ops@example.org\"");
            }
        }
        if let Some(wildcard) = names.iter().find(|name| matches!(name, Name::Wildcard(_)))
            && way != Challenge::Dns01
        {
            let accepted = format!("\"dns-01\", with a dns_hook, because {wildcard} is among tls.names");
            mistakes.refuse(&key("challenge"), &format!("\"{way}\""), &accepted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_or_urls() {
        for text in ["letsencrypt", "letsencrypt-staging", "https://127.0.0.1:14000/dir"] {
            assert_eq!(text.parse::<Directory>().map(|directory| directory.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "zerossl", "http://ca.example.org/", "https://user@ca.example.org/", "https://", "/dir"] {
            assert_eq!(text.parse::<Directory>(), Err(NotADirectory), "{text}");
        }
    }

    #[test]
    fn two_directories_share_nothing_on_disk() {
        let slug = |text: &str| text.parse::<Directory>().unwrap().slug();
        assert_eq!(slug("letsencrypt"), "acme-v02.api.letsencrypt.org_directory");
        assert_ne!(slug("letsencrypt"), slug("letsencrypt-staging"));
        assert_ne!(slug("https://127.0.0.1:14000/dir"), slug("https://127.0.0.1:14001/dir"));
        assert!(!slug("https://a.b/../../etc?x=/").contains('/'));
    }
}
