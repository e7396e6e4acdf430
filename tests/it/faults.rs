//! A table of what an upstream can do wrong: asked cold, with everything cached, and by eight clients at once, nobody is told
//! "not found" who should not be, gets a wrong byte that ends cleanly, or waits past the limits.

use std::time::{Duration, Instant};

use crate::support::cache::{Compression, Key, Object, narinfo_fields};
use crate::support::client::{Response, Target};
use crate::support::door::{Act, Door, Fault, Where, response};
use crate::support::snowbank::{Certificates, Setup};

/// Every limit of the upstream is a second; some follow one another, and the machine has other things to do.
const LIMIT: Duration = Duration::from_secs(10);
const LIMITS: &str = "connect_timeout = \"1 s\"\nnarinfo_timeout = \"1 s\"\nresponse_timeout = \"1 s\"\n\
                      stall_timeout = \"1 s\"\nnarinfo_ttl = \"0 s\"\nconnections = 32";
const DRIP: Duration = Duration::from_millis(100);

fn fault(name: &'static str, place: Where, acts: Vec<Act>) -> Fault {
    Fault { name, place, acts }
}

fn send(text: &str) -> Act {
    Act::Send(text.as_bytes().to_vec())
}

/// GET that is over within the limit.
async fn get(http: &Target, target: &str, name: &str) -> Response {
    let begun = Instant::now();
    let answer = http.get(target).await;
    assert!(begun.elapsed() < LIMIT, "{name}: {target} took {:?}", begun.elapsed());
    answer
}

/// An upstream that has it misbehaves: whatever comes is right, broken off, or "unknown".
fn check_narinfo(name: &str, object: &Object, answer: &Response) {
    match answer.status {
        200 => {
            assert_eq!(narinfo_fields(answer.text(), "NarHash"), [format!("sha256:{}", object.nar_hash())], "{name}");
        }
        status => assert!([502, 503].contains(&status), "{name}: {status} {:?}", answer.body),
    }
}

/// The same for a NAR; `refused` if what is sent can be held against what was announced, which is 404 with a reason.
fn check_nar(name: &str, object: &Object, answer: &Response, refused: bool) {
    answer.expect_all_or_broken(&object.file);
    let known = [0, 200, 502, 503].contains(&answer.status) || (refused && answer.status == 404);
    assert!(known, "{name}: {} {:?}", answer.status, answer.body);
}

/// Runs one line of the table.
async fn run(fault: &Fault, tls: bool, refused: bool) {
    let (door, key, name) = (Door::start(tls), Key::new("faults-1"), fault.name);
    let setup = Setup::new();
    let ca = if tls { format!("ca_file = {:?}", setup.authority_file()) } else { String::new() };
    let keys = format!("public_keys = [{:?}]\n{LIMITS}\n{ca}", key.public());
    let snowbank = setup.upstream_with(&door.url(), &keys).start();
    let object = |what: &str| Object::compressed(&format!("{what}-{name}"), 400_000, Compression::None);
    let [warm, cold, many] = ["warm", "cold", "many"].map(object);
    for object in [&warm, &cold, &many] {
        door.has(&object.narinfo_target(), object.narinfo(&[&key]));
        door.has(&object.file_target(), object.file.clone());
    }
    let http = snowbank.http();
    http.get(&warm.narinfo_target()).await.expect(200);
    http.get(&warm.served_target()).await.expect_bytes(&warm.file);

    door.misbehave(fault);
    check_narinfo(name, &cold, &get(&http, &cold.narinfo_target(), name).await);
    check_nar(name, &cold, &get(&http, &cold.served_target(), name).await, refused);
    get(&http, &warm.narinfo_target(), name).await.expect(200);
    get(&http, &warm.served_target(), name).await.expect_bytes(&warm.file);
    let all = (0..8).map(|_| async {
        check_narinfo(name, &many, &get(&http, &many.narinfo_target(), name).await);
        check_nar(name, &many, &get(&http, &many.served_target(), name).await, refused);
    });
    futures_util::future::join_all(all).await;
}

/// Four lines of the table at a time.
async fn run_all(faults: &[Fault], tls: bool, refused: bool) {
    for some in faults.chunks(4) {
        futures_util::future::join_all(some.iter().map(|fault| run(fault, tls, refused))).await;
    }
}

#[tokio::test]
async fn connections_that_come_to_nothing() {
    let faults = [
        fault("black-hole", Where::Accepting, vec![Act::Hold]),
        fault("closed-at-once", Where::Accepting, vec![]),
        fault("reset-at-once", Where::Accepting, vec![Act::Reset]),
        fault("no-http", Where::Accepting, vec![send("220 mail.example.org ESMTP\r\n")]),
        fault("silent", Where::Answering(""), vec![Act::Hold]),
        fault("closed-before-head", Where::Answering(""), vec![]),
        fault("reset-before-head", Where::Answering(""), vec![Act::Reset]),
        fault("closed-in-head", Where::Answering(""), vec![send("HTTP/1.1 200 OK\r\nContent-Le")]),
        fault("reset-in-head", Where::Answering(""), vec![send("HTTP/1.1 404 Not Found\r\n"), Act::Reset]),
        fault("held-in-head", Where::Answering(""), vec![send("HTTP/1.1 404 Not Found\r\n"), Act::Hold]),
        fault("dripping-head", Where::Answering(""), vec![Act::Drip(response("404 Not Found", "", b"no"), DRIP)]),
        fault(
            "endless-head",
            Where::Answering(""),
            vec![send(&format!("HTTP/1.1 404 No\r\nX: {}", "x".repeat(1 << 20)))],
        ),
    ];
    run_all(&faults, false, false).await;
}

#[tokio::test]
async fn tls_that_is_none() {
    let made = rcgen::generate_simple_self_signed(vec!["other.example.org".to_owned()]).expect("a certificate");
    let other = Certificates {
        authority: made.cert.der().clone(),
        authority_pem: made.cert.pem(),
        certificate_pem: made.cert.pem(),
        key_pem: made.signing_key.serialize_pem(),
    };
    let plain = response("404 Not Found", "", b"plain HTTP\n");
    let faults = [
        fault("wrong-certificate", Where::Certificate(other.acceptor()), vec![]),
        fault("tls-closed", Where::Accepting, vec![]),
        fault("tls-reset", Where::Accepting, vec![Act::Reset]),
        fault("tls-held", Where::Accepting, vec![Act::Hold]),
        fault("plain-on-tls", Where::Accepting, vec![Act::Send(plain)]),
    ];
    run_all(&faults, true, false).await;
}

#[tokio::test]
async fn answers_that_are_neither_yes_nor_no() {
    let page = b"<html><title>Log in</title></html>";
    let answers = [
        ("status-500", "500 Internal Server Error", ""),
        ("status-502", "502 Bad Gateway", ""),
        ("status-503", "503 Service Unavailable", "Retry-After: 3600\r\n"),
        ("status-504", "504 Gateway Timeout", ""),
        ("status-429", "429 Too Many Requests", "Retry-After: 60\r\n"),
        ("status-400", "400 Bad Request", ""),
        ("status-401", "401 Unauthorized", "WWW-Authenticate: Basic\r\n"),
        ("status-403", "403 Forbidden", ""),
        ("status-407", "407 Proxy Authentication Required", ""),
        ("login-page", "200 OK", "Content-Type: text/html\r\n"),
    ];
    let acts = |status, fields| vec![Act::Send(response(status, fields, page))];
    let faults = answers.map(|(name, status, fields)| fault(name, Where::Answering(".narinfo"), acts(status, fields)));
    run_all(&faults, false, false).await;
    let of_nars: Vec<Fault> = answers[..9]
        .iter()
        .map(|(name, status, fields)| fault(name, Where::Answering(".nar"), acts(status, fields)))
        .collect();
    run_all(&of_nars, false, false).await;
}

#[tokio::test]
async fn redirects_that_lead_nowhere() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let nobody = format!("http://{nobody}/x");
    let places = [
        ("redirect-loop", "/again"),
        ("redirect-to-nobody", &nobody),
        ("redirect-to-no-name", "http://no-such-name.invalid/x"),
        ("redirect-to-another-scheme", "ftp://127.0.0.1/x"),
        ("redirect-to-nonsense", "http://[::"),
        ("redirect-with-login", "http://user:secret@127.0.0.1/x"),
    ];
    let faults = places.map(|(name, place)| {
        let answer = response("302 Found", &format!("Location: {place}\r\n"), b"elsewhere");
        fault(name, Where::Answering(""), vec![Act::Send(answer)])
    });
    run_all(&faults, false, false).await;
    let without = Act::Send(response("307 Temporary Redirect", "", b"elsewhere"));
    run_all(&[fault("redirect-without-place", Where::Answering(""), vec![without])], false, false).await;
}

#[tokio::test]
async fn flapping() {
    let bad = || vec![Act::Send(response("503 Service Unavailable", "", b"busy"))];
    let faults = [
        fault("flapping-1", Where::Flapping(1), bad()),
        fault("flapping-4", Where::Flapping(4), bad()),
        fault("flapping-resets", Where::Flapping(2), vec![Act::Reset]),
        fault("flapping-silence", Where::Flapping(2), vec![Act::Hold]),
    ];
    run_all(&faults, false, false).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_told() {
    let key = Key::new("faults-1");
    let keys = format!("public_keys = [{:?}]\n{LIMITS}", key.public());
    let snowbank = Setup::new().upstream_with("http://no-such-name.invalid", &keys).start();
    let object = Object::compressed("no-name", 100, Compression::None);
    for target in [object.narinfo_target(), object.served_target()] {
        let answer = get(&snowbank.http(), &target, "no-name").await;
        assert!([502, 503].contains(&answer.status), "{} {}", answer.status, answer.text());
        assert!(answer.text().contains("no-such-name.invalid"), "{}", answer.text());
    }
}

#[tokio::test]
async fn narinfos_that_break_off() {
    let at = Where::Answering(".narinfo");
    let head = |fields: &str| send(&format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{fields}\r\n"));
    let begin = "StorePath: /nix/store/";
    let faults = [
        fault("narinfo-short", at.clone(), vec![head("Content-Length: 500\r\n"), send(begin)]),
        fault("narinfo-reset", at.clone(), vec![head("Content-Length: 500\r\n"), send(begin), Act::Reset]),
        fault("narinfo-stall", at.clone(), vec![head("Content-Length: 500\r\n"), send(begin), Act::Hold]),
        fault("narinfo-drip", at.clone(), vec![head("Content-Length: 500\r\n"), Act::Drip(vec![b'x'; 500], DRIP)]),
        fault("narinfo-no-last-chunk", at.clone(), vec![head("Transfer-Encoding: chunked\r\n"), send("3\r\nSto\r\n")]),
        fault("narinfo-bad-chunk", at.clone(), vec![head("Transfer-Encoding: chunked\r\n"), send("zz\r\nSto\r\n")]),
        fault("narinfo-empty", at.clone(), vec![head("Content-Length: 0\r\n")]),
        fault("narinfo-encoded", at, vec![head("Content-Length: 4\r\nContent-Encoding: zstd\r\n"), send("(\u{b5}/")]),
    ];
    run_all(&faults, false, false).await;
}

#[tokio::test]
async fn nars_that_break_off() {
    let at = Where::Answering(".nar");
    let head = |fields: &str| send(&format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{fields}\r\n"));
    // As long as the NARs of the table are, and other bytes.
    let size = Object::compressed("any", 400_000, Compression::None).file.len();
    let length = format!("Content-Length: {size}\r\n");
    let part = || Act::Send(vec![0; 100_000]);
    let faults = [
        fault("nar-short", at.clone(), vec![head(&length), part()]),
        fault("nar-reset", at.clone(), vec![head(&length), part(), Act::Reset]),
        fault("nar-stall", at.clone(), vec![head(&length), part(), Act::Hold]),
        fault("nar-drip", at.clone(), vec![head(&length), Act::Drip(vec![0; 1000], DRIP)]),
        fault("nar-no-last-chunk", at.clone(), vec![head("Transfer-Encoding: chunked\r\n"), send("3\r\nabc\r\n")]),
        fault("nar-held", at.clone(), vec![Act::Hold]),
        fault("nar-encoded", at.clone(), vec![head(&format!("{length}Content-Encoding: gzip\r\n")), part()]),
        fault("nar-until-close", at.clone(), vec![head(""), part()]),
    ];
    run_all(&faults, false, false).await;
    let refused = [
        fault("nar-other", at.clone(), vec![head(&length), Act::Send(vec![0; size])]),
        fault("nar-longer", at.clone(), vec![head(""), Act::Send(vec![0; 2 * size])]),
        fault("nar-other-size", at.clone(), vec![Act::Send(response("200 OK", "", b"short"))]),
        fault("nar-page", at, vec![Act::Send(response("200 OK", "Content-Type: text/html\r\n", b"<html></html>"))]),
    ];
    run_all(&refused, false, true).await;
}
