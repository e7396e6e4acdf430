//! What an upstream hears when clients say anything at all: only what this program writes (R13, R16, R20). And what clients and the
//! log hear of what clients said (R25).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::support::cache::{Key, Object};
use crate::support::client::Target;
use crate::support::frames::{HEADERS, WHOLE, Wire, block, frame};
use crate::support::mutator::{MARK, Mutator};
use crate::support::origin::Origin;
use crate::support::snowbank::{Count, Setup, Snowbank};
use crate::support::tap::Tap;

const PLAIN: usize = 13_000;
const TLS: usize = 2_000;
/// In batches, since some of what is wrong ends the connection.
const H2: usize = 5_000;
const BATCH: usize = 10;
/// Any other shows other mutations: the environment's, if it names one.
const SEED: u64 = 20_261_123;

/// Behind each request. Whatever the server takes it for, it is asked to close.
const PROBE: &[u8] =
    b"\r\nConnection: close\r\n\r\nGET /nix-cache-info HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n";

/// Paths of every route, some of them of what is there.
fn paths(object: &Object) -> Vec<String> {
    let (hash, base) = (object.hash_part(), &object.base_name);
    let (sha, build_id) = ("0123456789abcdef".repeat(4), "0123456789".repeat(4));
    vec![
        "/nix-cache-info".to_owned(),
        object.narinfo_target(),
        object.served_target(),
        object.file_target(),
        "/nar/00000000000000000000000000000000-0000000000000000000000000000000000000000000000000000.nar.zst".to_owned(),
        format!("/nar/{hash}.nar"),
        format!("/nar/{}.nar?hash={hash}", object.nar_hash()),
        "/nar/opaque/name?with=query".to_owned(),
        "/00000000000000000000000000000000.narinfo".to_owned(),
        format!("/{hash}.ls"),
        format!("/log/{base}.drv"),
        format!("/log/{hash}-a+b=c%3Fd.drv"),
        format!("/realisations/sha256:{sha}!out.doi"),
        format!("/build-trace-v2/{base}.drv/out.doi"),
        format!("/debuginfo/{build_id}"),
        format!("/debuginfo/{build_id}.debug"),
        "/.well-known/acme-challenge/token".to_owned(),
        "/".to_owned(),
    ]
}

fn seeds(paths: &[String]) -> Vec<String> {
    let curl = "Host: cache.example.org\r\nUser-Agent: curl/8 zqmark\r\nAccept: */*\r\nAccept-Encoding: zstd, br, gzip";
    let mut seeds = Vec::new();
    for path in paths {
        seeds.push(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        seeds.push(format!("GET {path} HTTP/1.1\r\n{curl}\r\nRange: bytes=5-\r\n\r\n"));
        seeds.push(format!("HEAD {path} HTTP/1.1\r\n{curl}\r\n\r\n"));
    }
    seeds
}

/// Sends one request, and gives back all that was said to it.
async fn said(target: &Target, request: &[u8]) -> Vec<u8> {
    let mut connection = target.connect().await;
    connection.try_send(&[request, PROBE].concat()).await;
    // What looks unfinished to the server it waits for, and then the client goes.
    tokio::time::timeout(Duration::from_millis(500), connection.until_closed()).await.unwrap_or_default()
}

/// Nothing of a request is in the head of an answer, and nothing but visible ASCII in a text that tells why there is nothing.
fn check_answer(request: &[u8], answer: &[u8]) {
    let text = String::from_utf8_lossy(answer).to_lowercase();
    for (at, _) in text.match_indices("http/1.1 ") {
        let (head, rest) = text[at..].split_once("\r\n\r\n").unwrap_or((&text[at..], ""));
        let told = || format!("{:?}: {text:?}", String::from_utf8_lossy(request));
        assert!(!head.contains(MARK) && head.split("\r\n").all(|line| !line.contains(char::is_control)), "{}", told());
        if head.contains("text/plain") {
            let body = rest.split("http/1.1 ").next().unwrap_or_default();
            assert!(body.bytes().all(|b| b == b'\n' || b.is_ascii_graphic() || b == b' '), "{}", told());
        }
    }
}

/// `n` requests over HTTP/1.1, eight at a time. How many were answered with 200, the probes not counted.
async fn send_all(target: &Target, seeds: &Arc<Vec<String>>, seed: u64, n: usize) -> usize {
    const AT_ONCE: usize = 8;
    let served = Arc::new(AtomicUsize::new(0));
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..AT_ONCE {
        let (target, seeds, served) = (target.clone(), Arc::clone(seeds), Arc::clone(&served));
        senders.spawn(async move {
            let mut mutator = Mutator::new(seed + sender as u64);
            for _ in 0..n / AT_ONCE {
                let request = mutator.request(&seeds);
                let answer = said(&target, &request).await;
                check_answer(&request, &answer);
                served.fetch_add(usize::from(answer.starts_with(b"HTTP/1.1 20")), Relaxed);
            }
        });
    }
    while let Some(sent) = senders.join_next().await {
        sent.expect("no answer that repeats what was said");
    }
    served.load(Relaxed)
}

/// The same over HTTP/2: names stay, paths and values change.
async fn send_all_h2(target: &Target, paths: &[String], seed: u64, n: usize) -> usize {
    const NAMES: [&str; 8] =
        ["host", "range", "authorization", "cdn-loop", "traceparent", "tracestate", "cookie", "x-forwarded-for"];
    let mut mutator = Mutator::new(seed);
    let mut served = 0;
    for _ in 0..n / BATCH {
        let mut wire = Wire::to(target).await;
        let last = u32::try_from(2 * BATCH).expect("a small number");
        for stream in (1..last).step_by(2) {
            let mut path = paths[mutator.below(paths.len())].clone().into_bytes();
            let mut value = b"zqmark, 1".to_vec();
            match mutator.below(3) {
                0 => mutator.path(&mut path),
                1 => mutator.bytes(&mut value),
                _ => (0..2).for_each(|_| mutator.path(&mut path)),
            }
            let fields: [(&[u8], &[u8]); 5] = [
                (b":method", mutator.one(&[&b"GET"[..], b"HEAD", b"GET"])),
                (b":scheme", b"https"),
                (b":authority", b"zqmark.example"),
                (b":path", &path),
                (mutator.one(&NAMES.map(str::as_bytes)), &value),
            ];
            wire.send(&frame(HEADERS, WHOLE, stream, &block(&fields))).await;
        }
        let over = |stream: u32, seen: &crate::support::frames::Seen| {
            seen.has_ended(stream) || seen.resets.contains_key(&stream)
        };
        let seen = wire.until(|seen| (1..last).step_by(2).all(|stream| over(stream, seen))).await;
        served += seen.statuses.values().filter(|status| matches!(status, 200 | 206)).count();
    }
    served
}

/// A head that this program writes, whoever asked it what: the path that is asked for.
fn path_of<'a>(head: &'a str, host: &str) -> Option<&'a str> {
    let mut lines = head.split("\r\n");
    let path = lines.next()?.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")?;
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        let is_right = match name {
            "user-agent" => value == concat!("snowbank/", env!("CARGO_PKG_VERSION")),
            "accept" => value == "*/*",
            "accept-encoding" => value == "identity",
            "host" => value == host,
            "range" => {
                value.strip_prefix("bytes=").is_some_and(|range| range.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
            }
            "cdn-loop" => value.split(", ").all(is_server),
            "traceparent" => is_traceparent(value),
            _ => false,
        };
        if !is_right {
            return None;
        }
    }
    let names: Vec<&str> = head.split("\r\n").skip(1).filter_map(|line| line.split(':').next()).collect();
    (names.iter().collect::<BTreeSet<_>>().len() == names.len()).then_some(path)
}

/// One server that a request passed (RFC 8586): beside the trace's ids the only thing of a request that goes on, in one form.
fn is_server(part: &str) -> bool {
    part.strip_prefix("snowbank;id=").is_some_and(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The trace that a request belongs to (W3C Trace Context), in the one form that is written here.
fn is_traceparent(value: &str) -> bool {
    let hex =
        |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) && text.bytes().any(|b| b != b'0');
    match value.split('-').collect::<Vec<_>>()[..] {
        ["00", trace, span, flags] => {
            trace.len() == 32 && span.len() == 16 && hex(trace) && hex(span) && matches!(flags, "00" | "01")
        }
        _ => false,
    }
}

/// What an upstream may be asked for: the paths of Nix, written in the one way there is, and announced NARs.
fn may_be_asked_for(path: &str, announced: &str) -> bool {
    let nix32 = |b: u8| b"0123456789abcdfghijklmnpqrsvwxyz".contains(&b);
    let hash = |text: &str| text.len() == 32 && text.bytes().all(nix32);
    let hex = |text: &str, n: usize| text.len() == n && text.bytes().all(|b| b"0123456789abcdef".contains(&b));
    let name = |text: &str| {
        let plain = text.replace("%3F", "?");
        !plain.is_empty()
            && plain.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b))
            && !text.contains('?')
    };
    let base = |text: &str| text.split_once('-').is_some_and(|(digits, rest)| hash(digits) && name(rest));
    let Some(path) = path.strip_prefix('/') else { return false };
    match path.split('/').collect::<Vec<_>>()[..] {
        ["nix-cache-info"] => true,
        [file] => file.strip_suffix(".narinfo").or(file.strip_suffix(".ls")).is_some_and(hash),
        ["log", drv] => base(drv),
        ["realisations", file] => file
            .strip_prefix("sha256:")
            .and_then(|rest| rest.strip_suffix(".doi"))
            .is_some_and(|rest| rest.split_once('!').is_some_and(|(digits, output)| hex(digits, 64) && name(output))),
        ["build-trace-v2", drv, file] => base(drv) && file.strip_suffix(".doi").is_some_and(name),
        // What a client remembers from before: a digest, which is what the bytes are held against (R12).
        ["nar", file] if path != announced => file.split_once(".nar").is_some_and(|(digest, extension)| {
            let known = ["", ".xz", ".bz2", ".zst", ".br", ".gz", ".lz4", ".lz", ".lzip", ".lzma"];
            digest.len() == 52 && digest.bytes().all(nix32) && known.contains(&extension)
        }),
        ["debuginfo", id] => hex(id.strip_suffix(".debug").unwrap_or(id), 40),
        _ => path == announced,
    }
}

/// Every event of the log is one line that begins with its time, and holds nothing that a terminal would obey.
fn check_log(snowbank: &Snowbank) {
    let log = snowbank.log();
    let begun = log.iter().position(|line| line.contains(" access: ")).expect("requests in the log");
    for line in &log[begun..] {
        assert!(line.starts_with("20") && line.contains("Z "), "{line:?}");
        assert!(!line.chars().any(|c| c.is_control() && c != '\t'), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_hears_only_what_was_written_here() {
    let seed = std::env::var("SNOWBANK_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    eprintln!("SNOWBANK_TEST_SEED={seed}");
    let (origin, key) = (Origin::start(), Key::new("mutants-1"));
    let tap = Tap::to(origin.address().port());
    let object = Object::new("mutated", 1_000);
    origin.publish(&object, &key);
    let snowbank = Setup::new().upstream(&format!("http://{}", tap.address()), &key).start();
    let paths = paths(&object);
    let seeds = Arc::new(seeds(&paths));
    let begun = Instant::now();
    let mut served = send_all(&snowbank.http(), &seeds, seed, PLAIN).await;
    served += send_all(&snowbank.https(), &seeds, seed ^ 1 << 32, TLS).await;
    served += send_all_h2(&snowbank.https(), &paths, seed ^ 1 << 33, H2).await;
    let took = begun.elapsed();
    let heads = tap.heads();
    let host = tap.address().to_string();
    let mut asked = BTreeSet::new();
    for head in &heads {
        let path = path_of(head, &host).unwrap_or_else(|| panic!("not written here: {head:?}"));
        assert!(may_be_asked_for(path, &object.url), "{path:?} was asked for");
        asked.insert(path);
    }
    eprintln!(
        "{} sent in {took:?}: {served} served, {} requests for {} paths",
        PLAIN + TLS + H2,
        heads.len(),
        asked.len()
    );
    // Otherwise nothing was proved.
    assert!(served > 1_000 && asked.len() > 500, "{served} served, {} paths asked for", asked.len());
    // The last of the log is there, so what is checked is all of it.
    snowbank.http().get("/the-last-of-all").await.expect(404);
    let last = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz.narinfo";
    snowbank.http().get(&format!("/{last}")).await.expect(404);
    snowbank.log_line(last, 0);
    check_log(&snowbank);
    assert_eq!(snowbank.counter(Count::Panics), 0);
}

/// The rules by which all that is judged refuse something.
#[test]
fn what_was_not_written_here_is_noticed() {
    let head = |line: &str| format!("GET /nix-cache-info HTTP/1.1\r\naccept: */*\r\nhost: h{line}");
    assert_eq!(path_of(&head(""), "h"), Some("/nix-cache-info"));
    for line in [
        "\r\ncookie: a",
        "\r\nhost: h",
        "\r\nuser-agent: curl/8",
        "\r\nrange: bytes=0-0,2-3",
        "\r\ncdn-loop: zqmark",
        "\r\ntracestate: a=b",
        "\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02",
        "\r\ntraceparent: 00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "\r\ntraceparent: 00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        " ",
    ] {
        assert_eq!(path_of(&head(line), "h"), None, "{line:?}");
    }
    assert_eq!(path_of("HEAD / HTTP/1.1\r\nhost: h", "h"), None);
    assert!(may_be_asked_for("/nar/announced?x", "nar/announced?x"));
    for path in ["/", "/../nix-cache-info", "/nar/x.nar", "/log/x", "/x.narinfo", "/debuginfo/..", "/nix-cache-info?x"]
    {
        assert!(!may_be_asked_for(path, "nar/announced"), "{path}");
    }
}
