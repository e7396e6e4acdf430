//! How rows that must be refused are made from a good narinfo; and those that are about another path, lead elsewhere, or are
//! no narinfo at all.

use crate::support::cache::{Compression, Key, Object, nix32, sha256};
use crate::support::lies::with_field;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// What a bad narinfo is made from.
pub struct Good {
    /// The object; two references, a deriver, compressed.
    pub object: Object,
    /// Its narinfo, rightly signed.
    pub text: String,
    /// The key that signed it.
    pub key: Key,
    /// The base URL of a server that nobody may ask.
    pub elsewhere: String,
}

impl Good {
    /// The text with another value for a field.
    pub fn with(&self, field: &str, value: &str) -> String {
        with_field(&self.text, field, value)
    }

    /// The text with a change to the whole line of a field, its line end included.
    pub fn line(&self, field: &str, change: impl Fn(&str, &str) -> Vec<u8>) -> Vec<u8> {
        let prefix = format!("{field}: ");
        let changed = |line: &str| match line.strip_prefix(&prefix) {
            Some(value) => change(field, value),
            None => format!("{line}\n").into_bytes(),
        };
        self.text.lines().flat_map(changed).collect()
    }

    /// The text without a field.
    pub fn without(&self, field: &str) -> String {
        String::from_utf8(self.line(field, |_, _| Vec::new())).expect("text")
    }

    /// The text with a line more.
    pub fn and(&self, line: &str) -> String {
        format!("{}{line}\n", self.text)
    }

    /// The text with this signature and no other.
    pub fn signed(&self, signature: &str) -> String {
        with_field(&self.text, "Sig", signature)
    }

    /// The good signature's bytes.
    pub fn signature(&self) -> Vec<u8> {
        let line = self.key.sign(&self.object.fingerprint());
        STANDARD.decode(line.split_once(':').expect("a name").1).expect("base 64")
    }

    pub fn base_name(&self, name: &str) -> String {
        format!("/nix/store/{}-{name}", self.object.hash_part())
    }
}

/// A row.
pub struct Case {
    /// Its name, usable in a store path.
    pub name: String,
    /// The status that a client is answered with.
    pub status: u16,
    /// The reasons for which it may be refused; one of them it must be.
    pub reasons: &'static [&'static str],
    /// How it is made.
    pub make: Box<dyn Fn(&Good) -> Vec<u8>>,
}

/// A row that is answered with 404.
pub fn row<T: Into<Vec<u8>>>(
    name: impl Into<String>,
    reasons: &'static [&'static str],
    make: impl Fn(&Good) -> T + 'static,
) -> Case {
    Case { name: name.into(), status: 404, reasons, make: Box::new(move |good| make(good).into()) }
}

/// What is well formed and signed, but about another path than the one asked for.
pub fn of_another_path() -> Vec<Case> {
    const REASON: &[&str] = &["other-path"];
    vec![
        row("another-paths-narinfo", REASON, |g| Object::new("given", 300).narinfo(&[&g.key])),
        row("another-hash-part", REASON, |g| {
            let rest = &g.object.base_name[32..];
            g.with("StorePath", &format!("/nix/store/{}{rest}", "0".repeat(32)))
        }),
        row("its-own-reference", REASON, |g| g.with("StorePath", &format!("/nix/store/{}", g.object.references[0]))),
        row("its-deriver", REASON, |g| {
            let mut drv = g.object.clone();
            drv.base_name = format!("{}-x.drv", nix32(&sha256(g.object.base_name.as_bytes())[..20]));
            drv.narinfo(&[&g.key])
        }),
    ]
}

/// URLs that a signature does not cover and that nobody may follow.
pub fn bad_urls() -> Vec<Case> {
    const REASON: &[&str] = &["bad-url"];
    let mut cases = vec![
        row("another-host", REASON, |g| g.with("URL", &format!("{}/nar/x.nar", g.elsewhere))),
        row("another-host-without-scheme", REASON, |g| {
            g.with("URL", &format!("{}/nar/x.nar", g.elsewhere.trim_start_matches("http:")))
        }),
        row("another-host-behind-a-user", REASON, |g| {
            g.with("URL", &format!("http://127.0.0.1@{}/x", g.elsewhere.trim_start_matches("http://")))
        }),
        row("another-host-behind-backslashes", REASON, |g| {
            g.with("URL", &format!("\\\\{}\\x", g.elsewhere.trim_start_matches("http://")))
        }),
        row("tls-to-another-host", REASON, |g| {
            g.with("URL", &format!("{}/nar/x.nar", g.elsewhere.replace("http:", "https:")))
        }),
    ];
    for (name, url) in [
        ("metadata-service", "http://169.254.169.254/latest/meta-data/"),
        ("loopback-admin", "http://localhost:9090/metrics"),
        ("file", "file:///etc/passwd"),
        ("file-of-a-key", "file:secret.key"),
        ("data", "data:text/plain,x"),
        ("ftp", "ftp://127.0.0.1/x"),
        ("gopher", "gopher://127.0.0.1:25/x"),
        ("unix", "unix:/run/nix/daemon.sock"),
        ("scheme-alone", "http:nar/x.nar"),
        ("scheme-and-one-slash", "http:/nar/x.nar"),
        ("empty-host", "http:///nar/x.nar"),
        ("capital-scheme", "HTTP://127.0.0.1/x"),
        ("up", "../nar/x.nar"),
        ("up-and-up", "nar/../../../etc/passwd"),
        ("up-at-the-end", "nar/.."),
        ("dot", "./nar/x.nar"),
        ("dot-between", "nar/./x.nar"),
        ("escaped-up", "nar/%2e%2e/x.nar"),
        ("escaped-up-in-capitals", "nar/%2E%2E/x.nar"),
        ("escaped-slash", "nar/..%2fx.nar"),
        ("escaped-newline", "nar/x%0d%0aHost:%20y"),
        ("escaped-nul", "nar/x%00.nar"),
        ("lone-percent", "nar/x%"),
        ("backslash", "nar\\x.nar"),
        ("backslash-up", "nar/..\\x.nar"),
        ("fragment", "nar/x.nar#y"),
        ("empty-segment", "nar//x.nar"),
        ("slash-at-the-end", "nar/"),
        ("root", "/"),
        ("query-alone", "?x=y"),
        ("colon-first", ":nar/x"),
        ("quote", "nar/\"x\".nar"),
        ("angle-brackets", "nar/<script>.nar"),
        ("caret", "nar/^x"),
        ("brackets-in-the-query", "nar/x?y=[z]"),
    ] {
        cases.push(row(name, REASON, move |g| g.with("URL", url)));
    }
    cases
}

/// What came with 200 and is no narinfo: it says nothing about the path, so clients must not take it for a miss.
pub fn no_narinfo() -> Vec<Case> {
    const REASON: &[&str] = &["not-a-narinfo"];
    let mut cases = vec![
        row("nothing", REASON, |_| Vec::new()),
        row("login-page", REASON, |_| "<!doctype html><title>log in</title>\n"),
        row("json", REASON, |_| "{\"error\": \"not found\"}\n"),
        row("cache-info", REASON, |_| "StoreDir: /nix/store\nWantMassQuery: 1\n"),
        row("utf-16", REASON, |g| g.text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()),
        row("compressed", REASON, |g| Compression::Xz.compress(&Bytes::from(g.text.clone())).to_vec()),
        row("bom", REASON, |g| format!("\u{feff}{}", g.text)),
        row("no-store-path", REASON, |g| g.without("StorePath")),
        row("store-path-in-small-letters", REASON, |g| g.text.replace("StorePath:", "storepath:")),
        row("its-nar", REASON, |g| g.object.nar.to_vec()),
    ];
    for case in &mut cases {
        case.status = 502;
    }
    cases
}
