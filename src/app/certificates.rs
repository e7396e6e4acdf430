//! `snowbank certificates`: how the certificates of the running server stand.

use std::io::Write as _;

use anyhow::Context as _;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::operator;
use crate::config::Config;
use crate::tls::certificate::date;
use crate::tls::certificates::Shown;

/// Where the server tells, on the address for operators.
pub(super) const PATH: &str = "/certificates";

/// Asks the server and prints a table, or what the server said (`raw`).
///
/// # Errors
/// There is no server to ask, or it does not answer.
pub async fn run(config: &Config, raw: bool) -> anyhow::Result<()> {
    let address = config.admin.to_ask().map_err(anyhow::Error::msg)?;
    let asked = operator::ask(&address.to_string(), Method::GET, PATH).await;
    let mut asked = asked.with_context(|| format!("asking the server at the [admin] address {address}"))?;
    let status = asked.response.status();
    let body = asked.response.body_mut().collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    anyhow::ensure!(status == StatusCode::OK, "{address}: {status}: {}", text.trim_end());
    let shown = match raw {
        true => text.into_owned(),
        false => table(&serde_json::from_str(&text).with_context(|| format!("{address}: not what snowbank tells"))?),
    };
    std::io::stdout().write_all(shown.as_bytes()).context("stdout")
}

/// What the server tells.
pub(super) fn json(shown: &[Shown]) -> Value {
    let certificates = shown.iter().map(|shown| {
        let facts = shown.facts.as_ref();
        json!({
            "names": shown.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "source": shown.source.to_string(),
            "file": shown.file.as_ref().map(|file| file.display().to_string()),
            "issuer": facts.map(|facts| facts.issuer.as_str()),
            "serial": facts.map(|facts| facts.serial.as_str()),
            "not_before": facts.map(|facts| date(facts.not_before)),
            "not_after": facts.map(|facts| date(facts.not_after)),
            "next_renewal": shown.next.map(date),
            "last_success": shown.succeeded.map(date),
            "last_error": shown.error,
        })
    });
    json!({ "certificates": certificates.collect::<Vec<_>>() })
}

/// A line for each certificate, and one for what is wrong with it.
fn table(told: &Value) -> String {
    const HEAD: [&str; 5] = ["NAMES", "SOURCE", "ISSUER", "NOT AFTER", "NEXT RENEWAL"];
    let certificates = told.get("certificates").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |certificate: &Value, key: &str| {
        let text = certificate.get(key).and_then(Value::as_str).unwrap_or("-");
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>()
    };
    let row = |certificate: &Value| {
        let names = certificate.get("names").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
        [
            names.join(" "),
            text(certificate, "source"),
            text(certificate, "issuer"),
            text(certificate, "not_after"),
            text(certificate, "next_renewal"),
        ]
    };
    let rows: Vec<[String; 5]> = std::iter::once(HEAD.map(str::to_owned)).chain(certificates.iter().map(row)).collect();
    let widths: Vec<usize> =
        (0..HEAD.len()).map(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0)).collect();
    let mut table = String::new();
    for (n, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        table.push_str(cells.join("  ").trim_end());
        table.push('\n');
        let error = n.checked_sub(1).and_then(|n| certificates[n].get("last_error")).and_then(Value::as_str);
        if error.is_some() {
            table.push_str(&format!("  last error: {}\n", text(&certificates[n - 1], "last_error")));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_and_one_for_each_error() {
        let told = json!({ "certificates": [
            { "names": ["a.example.org", "b.example.org"], "source": "file", "issuer": "CN=X", "not_after": "2026-12-01T00:00:00Z",
              "next_renewal": null, "last_error": null },
            { "names": ["c.example.org"], "source": "acme", "issuer": null, "not_after": null,
              "next_renewal": "2026-11-30T00:00:00Z", "last_error": "the CA\nsays \u{1b}[31mno" },
        ] });
        let table = table(&told);
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(table.contains("last error: the CA says  [31mno"), "{table}");
        let second = table.lines().nth(2).unwrap();
        assert_eq!(
            second.split_whitespace().collect::<Vec<_>>(),
            ["c.example.org", "acme", "-", "-", "2026-11-30T00:00:00Z"]
        );
    }
}
