//! Client certificates: who is let in, per listener, and by which authority and name.

use super::files::secure;
use crate::support::authority::{Authority, Leaf, Pair};
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::tls::Hello;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const CLIENT: Leaf = Leaf { client: true, kind: crate::support::authority::Kind::Ecdsa, from: -60, until: 3600 };

/// A program whose TLS listener asks for certificates in this way.
fn asking(authority: &Authority, mode: &str, names: &[&str]) -> Snowbank {
    let setup = Setup::new();
    let file = setup.home().join("clients.pem");
    std::fs::write(&file, &authority.pem).expect("a certificate file");
    let mut lines = format!("client_certificates = {mode:?}\nclient_ca_file = {file:?}\n");
    if !names.is_empty() {
        lines.push_str(&format!("client_names = {names:?}\n"));
    }
    setup.tls_listener(&lines).start()
}

/// The status of an answer; with TLS 1.3 a client hears only with the first bytes whether its certificate was accepted.
async fn status(snowbank: &Snowbank, identity: Option<&Pair>) -> Result<u16, String> {
    let mut hello = Hello::to("localhost");
    if let Some(identity) = identity {
        hello = hello.with(identity);
    }
    let mut stream = hello.connected(secure(snowbank)).await?;
    let request = b"GET /nix-cache-info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(|e| e.to_string())?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    status.ok_or_else(|| format!("closed: {answer:?}"))
}

#[tokio::test]
async fn a_listener_that_requires_one_answers_nobody_else() {
    let (authority, stranger) = (Authority::new("clients"), Authority::new("strangers"));
    let snowbank = asking(&authority, "required", &[]);
    let known = authority.issue(&["builder.example.org"], CLIENT);
    assert_eq!(status(&snowbank, Some(&known)).await, Ok(200));
    let unknown = stranger.issue(&["builder.example.org"], CLIENT);
    let expired = authority.issue(&["builder.example.org"], Leaf { from: -7200, until: -3600, ..CLIENT });
    for identity in [None, Some(&unknown), Some(&expired)] {
        let answer = status(&snowbank, identity).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    // The other listeners ask nobody.
    snowbank.http().get("/nix-cache-info").await.expect(200);
}

#[tokio::test]
async fn a_listener_with_names_lets_only_them_in() {
    let authority = Authority::new("clients with names");
    let snowbank = asking(&authority, "required", &["builder.example.org", "*.ci.example.org"]);
    for name in ["builder.example.org", "a.ci.example.org"] {
        assert_eq!(status(&snowbank, Some(&authority.issue(&[name], CLIENT))).await, Ok(200), "{name}");
    }
    for name in ["other.example.org", "a.b.ci.example.org", "ci.example.org"] {
        let answer = status(&snowbank, Some(&authority.issue(&[name], CLIENT))).await;
        assert!(!matches!(answer, Ok(200)), "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn a_listener_where_one_is_optional_still_refuses_a_bad_one() {
    let (authority, stranger) = (Authority::new("optional"), Authority::new("strangers"));
    let snowbank = asking(&authority, "optional", &[]);
    assert_eq!(status(&snowbank, None).await, Ok(200));
    assert_eq!(status(&snowbank, Some(&authority.issue(&["b.example.org"], CLIENT))).await, Ok(200));
    let answer = status(&snowbank, Some(&stranger.issue(&["b.example.org"], CLIENT))).await;
    assert!(answer.is_err(), "{answer:?}");
}

#[test]
fn a_listener_without_an_authority_for_its_clients_is_refused() {
    let setup = Setup::new().tls_listener("client_certificates = \"required\"");
    super::broken::refused(&setup, &["client_ca_file"]);
}
