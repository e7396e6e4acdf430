//! Where traces are sent to.

use std::fmt;

use crate::options::{Mistakes, Value};

/// What every collector has for traces (OpenTelemetry protocol specification, "OTLP/HTTP Request").
const PATH: &str = "/v1/traces";

/// The address of a collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector(url::Url);

impl Collector {
    /// The whole address, of `http` or `https`.
    pub fn address(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it is reached over TLS.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The address that was written, with the usual path where none was. Users, passwords and queries are refused: what lets in does
    /// not belong into a file that is printed and logged.
    fn parse(text: &str) -> Option<Self> {
        let mut url = url::Url::parse(text).ok()?;
        let is_plain = url.username().is_empty() && url.password().is_none();
        let has_nothing_behind = url.query().is_none() && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !is_plain || !has_nothing_behind {
            return None;
        }
        if url.path() == "/" {
            url.set_path(PATH);
        }
        Some(Self(url))
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for Collector {
    fn read(found: toml::Value, at: &str, mistakes: &mut Mistakes) -> Option<Self> {
        if cfg!(not(feature = "otlp")) {
            mistakes.say(at, "this program was built without the feature `otlp`, and sends no traces");
            return None;
        }
        let collector = found.as_str().and_then(Self::parse);
        if collector.is_none() {
            mistakes.refuse(at, &found, &Self::accepted());
        }
        collector
    }
    fn write(&self) -> Option<toml::Value> {
        Some(toml::Value::String(self.to_string()))
    }
    fn accepted() -> String {
        "the address of a collector such as \"http://127.0.0.1:4318/v1/traces\"".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_path_has_the_usual_one() {
        for (text, meant) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://Collector.example.org/otlp/v1/traces", "https://collector.example.org/otlp/v1/traces"),
            ("http://[::1]:4318/v1/traces", "http://[::1]:4318/v1/traces"),
        ] {
            let collector = Collector::parse(text).unwrap();
            assert_eq!(collector.to_string(), meant);
            assert_eq!(Collector::parse(meant), Some(collector), "{text}");
        }
    }

    #[test]
    fn nothing_secret_and_nothing_else_is_an_address() {
        for text in [
            "",
            "127.0.0.1:4318",
            "grpc://127.0.0.1:4317",
            "file:///tmp/traces",
            "http://",
            "http://user@collector:4318",
            "http://user:password@collector:4318",
            "http://collector:4318/v1/traces?key=secret",
            "http://collector:4318/v1/traces#there",
        ] {
            assert_eq!(Collector::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_program_that_cannot_send_them_says_so() {
        let mut mistakes = Mistakes::default();
        let read = Collector::read("http://127.0.0.1:4318".into(), "log.otlp", &mut mistakes);
        assert_eq!(read.is_some(), cfg!(feature = "otlp"));
        let told = mistakes.to_string();
        assert_eq!(
            told.contains("log.otlp: this program was built without the feature `otlp`"),
            read.is_none(),
            "{told}"
        );
    }
}
