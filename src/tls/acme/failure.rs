//! Why there is no certificate, in words for a person and a label for an alert.

use std::time::Duration;

use instant_acme::{Error, Problem};

use crate::metrics::CertificateFailure as Reason;

/// What kept an order from its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// For the metric.
    pub(super) reason: Reason,
    /// For a person: what happened, and where it is not plain, what to do. One line.
    pub(super) text: String,
    /// How long the CA asks us to wait.
    pub(super) wait: Option<Duration>,
    /// The CA does not know the account.
    pub(super) account_is_gone: bool,
}

impl Failure {
    /// A failure that is not the CA's answer.
    pub(super) fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: one_line(&text.into()), wait: None, account_is_gone: false }
    }

    /// What `error` means, after `doing`; `wait` is what the CA asked for with it.
    pub(super) fn of(error: &Error, doing: &str, wait: Option<Duration>) -> Self {
        let (reason, text) = match error {
            Error::Api(problem) => return Self::answered(problem, doing, wait),
            Error::Other(why) => (Reason::Unreachable, why.to_string()),
            Error::Json(why) => (Reason::Unreachable, format!("the answer is not ACME: {why}")),
            Error::Timeout(_) => (Reason::Unreachable, "the CA did not decide in time".to_owned()),
            other => (Reason::Refused, other.to_string()),
        };
        Self { wait, ..Self::new(reason, format!("{doing}: {text}")) }
    }

    /// A problem document of the CA (RFC 8555 section 6.7).
    pub(super) fn answered(problem: &Problem, doing: &str, wait: Option<Duration>) -> Self {
        let kind = kind(problem);
        let reason = match kind {
            "rateLimited" => Reason::RateLimited,
            "accountDoesNotExist"
            | "externalAccountRequired"
            | "userActionRequired"
            | "invalidContact"
            | "unsupportedContact" => Reason::Account,
            "caa" | "connection" | "dns" | "incorrectResponse" | "tls" | "unauthorized" => Reason::Validation,
            "serverInternal" => Reason::Unreachable,
            _ => Reason::Refused,
        };
        let hint = match kind {
            "externalAccountRequired" => "; set eab_key_id and eab_key_file to what the CA gave you",
            "userActionRequired" => "; the CA wants its terms of service agreed to anew",
            "rejectedIdentifier" => "; this CA does not sign for that name",
            _ => "",
        };
        let text = format!("{doing}: {}{hint}", problem_text(problem));
        Self { wait, account_is_gone: kind == "accountDoesNotExist", ..Self::new(reason, text) }
    }
}

/// The last part of the problem's type.
pub(super) fn kind(problem: &Problem) -> &str {
    problem.r#type.as_deref().and_then(|kind| kind.rsplit(':').next()).unwrap_or_default()
}

/// Whether a fresh nonce is all it takes (RFC 8555 section 6.5).
pub(super) fn is_bad_nonce(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if kind(problem) == "badNonce")
}

/// What the CA says, and about which part of the order.
pub(super) fn problem_text(problem: &Problem) -> String {
    let mut text = problem.detail.clone().unwrap_or_else(|| "the CA gives no reason".to_owned());
    let kind = kind(problem);
    if !kind.is_empty() {
        text.push_str(&format!(" ({kind})"));
    }
    for sub in &problem.subproblems {
        text.push_str(&format!("; {sub}"));
    }
    text
}

/// What a stranger sent, fit for a line of a log.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 600;
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut line: String = plain.take(LONGEST).collect();
    if line.chars().count() == LONGEST {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, rest: &str) -> Problem {
        serde_json::from_str(&format!("{{\"type\": \"urn:ietf:params:acme:error:{kind}\"{rest}}}")).unwrap()
    }

    #[test]
    fn the_cas_words_are_told_on_one_line() {
        let sub = r#", "detail": "one\nor more", "subproblems": [{"type": "urn:x:caa", "detail": "CAA forbids",
            "identifier": {"type": "dns", "value": "a.test"}}]"#;
        let failure = Failure::answered(&problem("rejectedIdentifier", sub), "the order was not taken", None);
        assert_eq!(failure.reason, Reason::Refused);
        assert!(
            failure.text.starts_with("the order was not taken: one or more (rejectedIdentifier); "),
            "{}",
            failure.text
        );
        assert!(failure.text.contains("a.test") && failure.text.contains("CAA forbids"), "{}", failure.text);
        let long = Failure::new(Reason::Refused, "x".repeat(10_000));
        assert!(long.text.len() < 700);
    }

    #[test]
    fn each_kind_has_its_reason() {
        for (kind, reason) in [
            ("rateLimited", Reason::RateLimited),
            ("externalAccountRequired", Reason::Account),
            ("accountDoesNotExist", Reason::Account),
            ("dns", Reason::Validation),
            ("unauthorized", Reason::Validation),
            ("serverInternal", Reason::Unreachable),
            ("badCSR", Reason::Refused),
            ("of the future", Reason::Refused),
        ] {
            let failure = Failure::answered(&problem(kind, ""), "it", Some(Duration::from_secs(7)));
            assert_eq!((failure.reason, failure.wait), (reason, Some(Duration::from_secs(7))), "{kind}");
            assert_eq!(failure.account_is_gone, kind == "accountDoesNotExist");
        }
        let silent = Failure::of(&Error::Other("no route".into()), "it", None);
        assert_eq!((silent.reason, silent.text.as_str()), (Reason::Unreachable, "it: no route"));
    }
}
