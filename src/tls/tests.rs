use std::path::Path;

use super::testing::{DAY, Made, good, signed};
use super::*;
use crate::options::Table;

fn options(text: &str) -> Options {
    Options::from_toml(text).unwrap()
}

fn files(dir: &Path, rest: &str) -> Options {
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    options(&format!("cert_file = '{}'\nkey_file = '{}'\n{rest}", cert.display(), key.display()))
}

fn told(options: &Options) -> Vec<String> {
    let mut mistakes = Mistakes::default();
    options.check("tls", true, &mut mistakes);
    options.check_files("tls", &mut mistakes);
    mistakes.lines().to_vec()
}

/// What is told when only the files change.
fn refused(made: &Made, rest: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    made.put(dir.path());
    let told = told(&files(dir.path(), rest));
    assert_eq!(told.len(), 1, "{told:?}");
    told[0].replace(&dir.path().display().to_string(), "DIR")
}

#[test]
fn each_kind_of_broken_file_has_a_line_of_its_own() {
    let (right, other) = (good(&["a.example.org"]), good(&["a.example.org"]));
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let day = i64::try_from(DAY).unwrap();
    let cases = [
        (signed(&["a.example.org"], -2 * day, -day, p256), "tls.cert_file: DIR/cert.pem: the certificate expired at "),
        (
            signed(&["a.example.org"], day, 2 * day, p256),
            "tls.cert_file: DIR/cert.pem: the certificate is not valid before ",
        ),
        (
            Made { key: other.key, ..right.clone() },
            "tls.key_file: DIR/key.pem: not the private key of the first certificate in ",
        ),
        (
            Made { cert: right.cert[..right.cert.len() / 2].to_owned(), ..right.clone() },
            "tls.cert_file: DIR/cert.pem: not a certificate in PEM form: a section has no end",
        ),
        (
            Made { key: right.key[..right.key.len() / 2].to_owned(), ..right.clone() },
            "tls.key_file: DIR/key.pem: not a private key in PEM form: a section has no end",
        ),
        (
            Made { key: right.key.replace("PRIVATE", "ENCRYPTED PRIVATE"), ..right.clone() },
            "tls.key_file: DIR/key.pem: the private key has a passphrase",
        ),
        (
            Made { cert: right.key.clone(), ..right.clone() },
            "tls.cert_file: DIR/cert.pem: not a certificate in PEM form: no ",
        ),
        (
            Made { key: right.cert.clone(), ..right.clone() },
            "tls.key_file: DIR/key.pem: not a private key in PEM form: no ",
        ),
    ];
    for (made, line) in cases {
        let told = refused(&made, "");
        assert!(told.starts_with(line) && !told.contains('\n'), "{told}");
    }
    let told = refused(&right, "names = ['a.example.org', 'b.example.org']");
    assert!(
        told.starts_with("tls.names[1] = \"b.example.org\"") && told.contains("they are for a.example.org"),
        "{told}"
    );
}

#[test]
fn files_that_are_not_there_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let told = told(&files(dir.path(), ""));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("tls.cert_file") && told[0].contains("cannot read the certificate"), "{told:?}");
    assert!(told[1].starts_with("tls.key_file") && told[1].contains("cannot read the private key"), "{told:?}");
}

#[test]
fn what_goes_together_is_asked_for() {
    let told = |text: &str| told(&options(text));
    assert!(told("cert_file = '/c.pem'")[0].starts_with("tls.key_file: missing"));
    assert!(told("[acme]\ndirectory = 'letsencrypt'")[0].starts_with("tls.names: missing"));
    let acme = |rest: &str| told(&format!("names = ['*.example.org']\n[acme]\ndirectory = 'letsencrypt'\n{rest}"));
    assert!(acme("")[0].starts_with("tls.acme.challenge = \"http-01\"") && acme("")[0].contains("*.example.org"));
    assert!(acme("challenge = 'dns-01'")[0].starts_with("tls.acme.dns_hook: missing"));
    assert_eq!(acme("dns_hook = '/hook'"), [""; 0]);
    assert!(acme("dns_hook = '/hook'\neab_key_id = 'x'")[0].starts_with("tls.acme.eab_key_file: missing"));
    assert!(acme("dns_hook = '/hook'\ncontact = ['ops']")[0].starts_with("tls.acme.contact[0] = \"ops\""));
    let mut mistakes = Mistakes::default();
    assert_eq!(Options::from_toml("names = ['not a name']").unwrap_err().lines().len(), 1);
    options("names = ['ok.example', '::1']").check("tls", true, &mut mistakes);
    assert!(mistakes.is_empty(), "{mistakes}");
}
