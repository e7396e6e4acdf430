//! Pages for people: one hand-written file each, with its style and its script in it, and the header fields that let a browser run
//! these and nothing else.
//!
//! ```text
//! page.html ──Document::new──▶ policy with the hashes of its style and script
//!     │
//!     └── {{name}} ──Document::filled──▶ text in which each stands for a value that was escaped
//! ```
//!
//! A value gets into a page only as [`Html`], which is made by escaping, so that forgetting it is a type error.
//!
//! Out of scope: what the pages say (`edge`, `admin`).

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue};

/// A piece of a page in which every character stands for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Html(String);

impl Html {
    /// What we wrote ourselves.
    pub fn literal(markup: &'static str) -> Self {
        Self(markup.to_owned())
    }

    /// Text from wherever, for an element's content or for an attribute in double quotes.
    pub fn text(text: &str) -> Self {
        let mut escaped = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                '"' => escaped.push_str("&quot;"),
                '\'' => escaped.push_str("&#39;"),
                c => escaped.push(c),
            }
        }
        Self(escaped)
    }

    /// This and what follows it.
    #[must_use]
    pub fn and(mut self, next: &Self) -> Self {
        self.0.push_str(&next.0);
        self
    }
}

/// A page as it is written down, with the policy that is made of it.
#[derive(Debug)]
pub struct Document {
    text: &'static str,
    policy: HeaderValue,
}

/// What a page does besides being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// Nothing.
    Nobody,
    /// Its script asks the server that it came from.
    ItsServer,
}

impl Document {
    /// A page whose `<style>` and `<script>` elements have no attributes.
    pub fn new(text: &'static str, asks: Asks) -> Self {
        let mut policy = String::from("default-src 'none'");
        for (directive, element) in [("style-src", "style"), ("script-src", "script")] {
            let _ = write!(policy, "; {directive}"); // into a string, which takes everything
            let hashes = contents(text, element).map(|inside| BASE64.encode(digest(&SHA256, inside.as_bytes())));
            hashes.for_each(|hash| _ = write!(policy, " 'sha256-{hash}'"));
        }
        if asks == Asks::ItsServer {
            policy.push_str("; connect-src 'self'");
        }
        // The icon stands in the page, as a `data:` URL.
        policy.push_str("; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
        // Without a policy of its own nothing of it runs.
        let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
        Self { text, policy }
    }

    /// Puts into the head of a response with this page what is to be there, besides its length. It is never kept: each is made for who
    /// asks.
    pub fn head(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
    }

    /// The page as it is written down.
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// The page with a value for each `{{name}}` in it.
    pub fn filled(&self, value: impl Fn(&str) -> Html) -> String {
        let mut page = String::with_capacity(self.text.len() * 2);
        let mut rest = self.text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").unwrap_or(("", after));
            page.push_str(before);
            page.push_str(&value(name).0);
            rest = after;
        }
        page.push_str(rest);
        page
    }
}

/// What is in the elements of this name, byte by byte as a browser hashes it.
fn contents<'a>(text: &'a str, element: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&open)?;
        let (inside, after) = after.split_once(&close)?;
        rest = after;
        Some(inside)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_text_whatever_it_is() {
        let document = Document::new("<p title=\"{{a}}\">{{b}}{{a}}</p>", Asks::Nobody);
        let hostile = "\"'><script>&{{b}}";
        let page = document.filled(|name| if name == "a" { Html::text(hostile) } else { Html::literal("<br>") });
        let escaped = "&quot;&#39;&gt;&lt;script&gt;&amp;{{b}}";
        assert_eq!(page, format!("<p title=\"{escaped}\"><br>{escaped}</p>"));
    }

    #[test]
    fn the_policy_names_what_is_in_the_page() {
        let document = Document::new("<style>a{}</style><script>1</script><script>2</script>", Asks::ItsServer);
        // `printf 1 | openssl dgst -sha256 -binary | base64` and so on.
        let one = "a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s=";
        let two = "1HNeOiZeFu7gP1lxi5tdAwGcB9i2xR+Q2jpmbuwTqzU=";
        let policy = document.policy.to_str().unwrap();
        assert!(
            policy.contains(&format!("; script-src 'sha256-{one}' 'sha256-{two}'; connect-src 'self';")),
            "{policy}"
        );
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
        assert!(!Document::new("", Asks::Nobody).policy.to_str().unwrap().contains("connect-src"));
    }
}
