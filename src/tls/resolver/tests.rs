use rustls::SignatureScheme::{ECDSA_NISTP256_SHA256, RSA_PSS_SHA256};

use super::*;
use crate::tls::testing::{good, signed};

const BOTH: &[SignatureScheme] = &[RSA_PSS_SHA256, ECDSA_NISTP256_SHA256];

struct Set(Shelf);

impl Set {
    fn new(certificates: Vec<Certificate>, last_resort: Option<Certificate>) -> Self {
        Self(Shelf { certificates, last_resort })
    }

    /// The names and the algorithm of what a client is shown.
    fn shown(&self, asked: &str, schemes: &[SignatureScheme]) -> String {
        let asked = (!asked.is_empty()).then(|| asked.parse().unwrap());
        let found = self.0.best(asked.as_ref(), schemes, UnixSeconds::now()).expect("there is always one");
        let names: Vec<String> = found.facts.names.iter().map(ToString::to_string).collect();
        format!("{} {}", names.join("+"), if found.is_ecdsa() { "ec" } else { "rsa" })
    }
}

#[test]
fn the_name_asked_for_decides_then_what_the_client_can_verify() {
    let rsa = signed(&["a.example.org"], -60, 3600, &rcgen::PKCS_RSA_SHA256).loaded();
    let wildcard = good(&["*.example.org"]).loaded();
    let set =
        Set::new(vec![rsa, wildcard, good(&["a.example.org"]).loaded(), good(&["b.test", "c.test"]).loaded()], None);
    assert_eq!(set.shown("a.example.org", BOTH), "a.example.org ec");
    assert_eq!(set.shown("A.example.org.", BOTH), "a.example.org ec");
    assert_eq!(set.shown("a.example.org", &[RSA_PSS_SHA256]), "a.example.org rsa");
    assert_eq!(set.shown("z.example.org", BOTH), "*.example.org ec");
    assert_eq!(set.shown("c.test", BOTH), "b.test+c.test ec");
    assert_eq!(set.shown("unknown.test", BOTH), "*.example.org ec", "the first that can be verified");
    assert_eq!(set.shown("", &[RSA_PSS_SHA256]), "a.example.org rsa");
}

#[test]
fn one_in_force_comes_before_one_that_is_not_and_any_before_the_last_resort() {
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let over = signed(&["a.test"], -7200, -3600, p256).loaded();
    let own = good(&["a.test", "b.test", "localhost"]).loaded();
    let set = Set::new(vec![over.clone()], Some(own.clone()));
    assert_eq!(set.shown("a.test", BOTH), "a.test ec", "an expired one tells a client more than a stranger's");
    assert_eq!(set.shown("b.test", BOTH), "a.test+b.test+localhost ec");
    assert_eq!(set.shown("", BOTH), "a.test ec");
    let set = Set::new(vec![over, good(&["a.test", "x.test"]).loaded()], Some(own));
    assert_eq!(set.shown("a.test", BOTH), "a.test+x.test ec");
}
