//! Certificates that somebody else makes: several pairs, the right one for each client, and files that are replaced.

use super::{entry, shown};
use crate::support::authority::{Authority, Files, Kind, Leaf, Pair};
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::tls::{Hello, Told, tell};
use crate::support::trust::eventually;
use rustls::SignatureScheme::{ECDSA_NISTP256_SHA256, RSA_PKCS1_SHA256, RSA_PSS_SHA256};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The lines of `[tls]` for these pairs of files: the first in the table itself, the others below it.
pub(super) fn lines(all: &[&Files]) -> String {
    let both = |files: &Files| format!("cert_file = {:?}\nkey_file = {:?}\n", files.certificate, files.key);
    let mut text = both(all[0]);
    for files in &all[1..] {
        text.push_str("[[tls.certificate]]\n");
        text.push_str(&both(files));
    }
    text
}

/// The address of the TLS listener.
pub(super) fn secure(snowbank: &Snowbank) -> SocketAddr {
    let address = snowbank.log_after("listening on https://");
    address.trim_end_matches('/').parse().expect("an address")
}

/// Waits until this very certificate is shown for the name.
pub(super) async fn in_force(address: SocketAddr, name: &str, pair: &Pair) {
    let expected = tell(&pair.certificate);
    eventually(&format!("the certificate of {name}"), async || shown(address, name).await == expected).await;
}

async fn shown_to(hello: Hello, address: SocketAddr) -> Told {
    tell(&hello.presented(address).await.expect("a handshake")[0])
}

#[tokio::test]
async fn a_client_that_knows_one_kind_of_key_gets_it() {
    let (authority, setup) = (Authority::new("two kinds"), Setup::new());
    let name = "cache.example.org";
    let modern = authority.issue(&[name], Leaf::default());
    let old = authority.issue(&[name], Leaf { kind: Kind::Rsa, ..Leaf::default() });
    for order in [[&modern, &old], [&old, &modern]] {
        let files = [order[0].write(setup.home(), "first"), order[1].write(setup.home(), "second")];
        let snowbank = setup.clone().tls(&lines(&[&files[0], &files[1]])).start();
        let address = secure(&snowbank);
        let only = |schemes: &[_]| Hello::to(name).knows_only(schemes);
        let rsa = [RSA_PSS_SHA256, RSA_PKCS1_SHA256];
        assert_eq!(shown_to(only(&rsa), address).await, tell(&old.certificate));
        assert_eq!(shown_to(only(&[ECDSA_NISTP256_SHA256]), address).await, tell(&modern.certificate));
        // A client that knows both gets the one that costs less.
        assert_eq!(shown(address, name).await, tell(&modern.certificate));
    }
}

#[tokio::test]
async fn the_name_that_is_asked_for_decides() {
    let (authority, setup) = (Authority::new("many names"), Setup::new());
    let all = [
        authority.issue(&["cache.example.org", "mirror.example.org"], Leaf::default()),
        authority.issue(&["*.ci.example.org"], Leaf::default()),
        authority.issue(&["special.ci.example.org"], Leaf::default()),
    ];
    let files: Vec<Files> = all.iter().enumerate().map(|(n, pair)| pair.write(setup.home(), &n.to_string())).collect();
    let snowbank = setup.tls(&lines(&files.iter().collect::<Vec<_>>())).start();
    let address = secure(&snowbank);
    let expected = [
        ("cache.example.org", 0),
        ("mirror.example.org", 0),
        ("CACHE.example.org", 0),
        ("a.ci.example.org", 1),
        ("special.ci.example.org", 2),
        // A wildcard is for one label; and a name that nobody has gets the first pair, as an address does.
        ("b.a.ci.example.org", 0),
        ("ci.example.org", 0),
        ("unknown.example.net", 0),
        ("127.0.0.1", 0),
    ];
    for (name, which) in expected {
        assert_eq!(shown(address, name).await, tell(&all[which].certificate), "{name}");
    }
    Hello::to("a.ci.example.org").verified(address, &[authority.certificate]).await.expect("a strict client");
}

/// What Kubernetes does: `..data` is a link to a directory, and the files are links through it.
fn projected(dir: &Path, generation: &str, pair: &Pair) -> Files {
    let real = dir.join(format!("..{generation}"));
    std::fs::create_dir(&real).expect("a directory");
    std::fs::write(real.join("tls.crt"), &pair.certificate_pem).expect("a file");
    std::fs::write(real.join("tls.key"), &pair.key_pem).expect("a file");
    let beside = dir.join("..data_tmp");
    symlink(format!("..{generation}"), &beside).expect("a link");
    std::fs::rename(&beside, dir.join("..data")).expect("a rename");
    let files = Files { certificate: dir.join("tls.crt"), key: dir.join("tls.key") };
    for (path, name) in [(&files.certificate, "tls.crt"), (&files.key, "tls.key")] {
        if path.symlink_metadata().is_err() {
            symlink(format!("..data/{name}"), path).expect("a link");
        }
    }
    files
}

#[tokio::test]
async fn links_that_are_swapped_are_noticed_without_a_signal() {
    let (authority, setup) = (Authority::new("links"), Setup::new());
    let name = "cache.example.org";
    let dir = setup.home().join("secret");
    std::fs::create_dir(&dir).expect("a directory");
    let first = authority.issue(&[name], Leaf::default());
    let files = projected(&dir, "first", &first);
    let snowbank = setup.clone().tls(&lines(&[&files])).start();
    let address = secure(&snowbank);
    assert_eq!(shown(address, name).await, tell(&first.certificate));
    // A connection that is open stays open over the swap.
    let (_, open) = connection(&snowbank).await.get("/nix-cache-info").await;
    for generation in ["second", "third"] {
        let next = authority.issue(&[name], Leaf::default());
        projected(&dir, generation, &next);
        in_force(address, name, &next).await;
    }
    std::fs::remove_dir_all(dir.join("..first")).expect("the old one goes");
    let (answer, _) = open.get("/nix-cache-info").await;
    answer.expect(200);
    let entry = entry(&snowbank, name).expect("an entry");
    assert_eq!(entry["source"], "file");
    assert_eq!(snowbank.warnings_with(&["tls.crt"]), Vec::<String>::new());
}

/// A connection to the plain listener: the certificates are none of its business, and it must not be dropped either.
async fn connection(snowbank: &Snowbank) -> crate::support::client::Connection {
    snowbank.http().connect().await
}

#[tokio::test]
async fn a_pair_that_is_added_or_removed_by_a_reload_takes_effect() {
    let (authority, setup) = (Authority::new("reload"), Setup::new());
    let first = authority.issue(&["first.example.org"], Leaf::default());
    let second = authority.issue(&["second.example.org"], Leaf::default());
    let files = [first.write(setup.home(), "first"), second.write(setup.home(), "second")];
    let snowbank = setup.clone().tls(&lines(&[&files[0]])).start();
    let address = secure(&snowbank);
    assert_eq!(shown(address, "second.example.org").await, tell(&first.certificate));
    snowbank.reload(&setup.clone().tls(&lines(&[&files[0], &files[1]])));
    in_force(address, "second.example.org", &second).await;
    snowbank.reload(&setup.tls(&lines(&[&files[1]])));
    in_force(address, "first.example.org", &second).await;
    eventually("it is no longer listed", async || entry(&snowbank, "first.example.org").is_none()).await;
}
