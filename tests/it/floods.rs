//! Clients over HTTP/2 that would wear the server out (R22, R26, R27): how soon they are stopped, and what they cost until then.
//!
//! The figures are printed (`--nocapture`); what is asserted are counts, ends and memory, not times.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::support::cache::{Key, Object};
use crate::support::client::Target;
use crate::support::frames::*;
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::snowbank::{Count, Setup, Snowbank};

const CONNECTIONS: usize = 50;
/// More than these are not taken from anybody.
const MOST_RESETS: usize = 2_000;
const MIB: u64 = 1 << 20;

/// When a request is reset.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// In the same breath (CVE-2023-44487).
    AtOnce,
    /// Once the server has surely taken it up.
    TakenUp,
}

/// Asks and resets until the server closes; how many resets that took.
async fn reset_until_closed(target: Target, path: String, pace: Pace) -> usize {
    const BATCH: u32 = 50;
    let mut wire = Wire::to(&target).await;
    let ping = frame(PING, 0, 0, &[0; 8]);
    let mut next = 1;
    while !wire.seen.closed {
        let streams = || (next..next + 2 * BATCH).step_by(2);
        let acks = wire.seen.acks;
        match pace {
            Pace::AtOnce => {
                let both: Vec<u8> =
                    streams().flat_map(|stream| [get(stream, &path), cancel(stream)].concat()).collect();
                wire.send(&[both, ping.clone()].concat()).await;
            }
            Pace::TakenUp => {
                let asked: Vec<u8> = streams().flat_map(|stream| get(stream, &path)).collect();
                wire.send(&[asked, ping.clone()].concat()).await;
                wire.until(|seen| seen.acks > acks).await;
                wire.send(&[streams().flat_map(cancel).collect(), ping.clone()].concat()).await;
            }
        }
        let more = match pace {
            Pace::AtOnce => acks,
            Pace::TakenUp => acks + 1,
        };
        wire.until(|seen| seen.acks > more).await;
        next += 2 * BATCH;
        assert!(next < 4 * u32::try_from(MOST_RESETS).expect("a small number"), "{pace:?}: nobody stops it");
    }
    (next / 2) as usize
}

/// As many honest requests as a flood gets through: what a busy machine alone does to the others.
async fn ask_honestly(target: Target, path: String) {
    let mut wire = Wire::to(&target).await;
    for batch in 0..6 {
        let asked: Vec<u8> = (0..50).flat_map(|n| get(2 * (50 * batch + n) + 1, &path)).collect();
        wire.send(&[window(0, 1 << 20), asked].concat()).await;
        wire.until(|seen| seen.ended.len() == 50 * (batch as usize + 1)).await;
    }
}

/// The 99th percentile and the median of honest requests: of 1,000, or for as long as the floods go on.
async fn percentiles(target: &Target, path: &str, floods: &AtomicBool) -> (Duration, Duration) {
    let mut took = Vec::new();
    let mut connection = target.connect().await;
    while took.len() < 1000 || floods.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let (response, kept) = connection.get(path).await;
        connection = kept;
        took.push(begun.elapsed());
        response.expect(200);
    }
    took.sort();
    (took[took.len() * 99 / 100], took[took.len() / 2])
}

/// The same on a runtime of its own: the floods are not to keep the client waiting, but the server.
fn measure(snowbank: &Snowbank, path: &str, going_on: &Arc<AtomicBool>) -> JoinHandle<(Duration, Duration)> {
    let (http, path, going_on) = (snowbank.http(), path.to_owned(), Arc::clone(going_on));
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(percentiles(&http, &path, &going_on))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_are_stopped() {
    let (origin, key) = (Origin::start(), Key::new("floods-1"));
    let (honest, asked, gate) = (Object::new("honest", 1_000), Object::new("asked-in-vain", 1_000), Gate::new());
    origin.publish(&honest, &key);
    origin.serve(&asked.narinfo_target(), Reply::bytes(asked.narinfo(&[&key])).gate_before_head(&gate));
    // So that each is waiting still when it is reset.
    let lines = format!("public_keys = [{:?}]\nnarinfo_timeout = \"60 s\"", key.public());
    // As a client from elsewhere; this machine has no limits of its own.
    let limits = "[limits.client]\nexempt = []\n";
    let snowbank = Setup::new().upstream_with(&origin.url(), &lines).also(limits).start();
    let path = honest.narinfo_target();
    snowbank.http().get(&path).await.expect(200);
    let alone = percentiles(&snowbank.http(), &path, &AtomicBool::new(false)).await;
    let control = (0..CONNECTIONS).map(|_| tokio::spawn(ask_honestly(snowbank.https(), path.clone())));
    let control = futures_util::future::join_all(control);
    let going_on = Arc::new(AtomicBool::new(true));
    let beside = measure(&snowbank, &path, &going_on);
    assert!(control.await.into_iter().all(|asked| asked.is_ok()));
    going_on.store(false, Ordering::Relaxed);
    eprintln!("as many honest requests: p99 and median {:?}, alone {alone:?}", beside.await.expect("answers"));
    for pace in [Pace::AtOnce, Pace::TakenUp] {
        let mut floods = tokio::task::JoinSet::new();
        let going_on = Arc::new(AtomicBool::new(true));
        for _ in 0..CONNECTIONS {
            floods.spawn(reset_until_closed(snowbank.https(), asked.narinfo_target(), pace));
        }
        let beside = measure(&snowbank, &path, &going_on);
        let mut resets = Vec::new();
        while let Some(ended) = floods.join_next().await {
            resets.push(ended.expect("it is stopped"));
        }
        going_on.store(false, Ordering::Relaxed);
        let (most, beside) = (resets.iter().max().copied().unwrap_or_default(), beside.await.expect("answers"));
        eprintln!("{pace:?}: closed after at most {most} resets; p99 and median {beside:?}, alone {alone:?}");
        assert_eq!(resets.len(), CONNECTIONS);
        assert!(most <= MOST_RESETS, "{most}");
    }
    assert_eq!(snowbank.counter(Count::Panics), 0);
    assert!(snowbank.metrics().contains("snowbank_edge_connections_total{end=\"flood\"} "), "{}", snowbank.metrics());
    snowbank.log_line("a client abandons what it asks for: its connection is closed", 0);
    snowbank.https().get(&honest.narinfo_target()).await.expect(200);
}

/// Sends this until the server takes no more of it, and reads nothing. The connection, and how much went out.
async fn pour(target: &Target, piece: &[u8]) -> (Wire, usize) {
    const MUCH: usize = 64 << 20;
    let mut wire = Wire::to(target).await;
    let mut sent = 0;
    // How long nothing moves decides only how much is measured.
    while sent < MUCH
        && tokio::time::timeout(Duration::from_millis(500), wire.try_send(piece)).await.is_ok_and(|s| s.is_ok())
    {
        sent += piece.len();
    }
    (wire, sent)
}

/// What resident memory has grown to, in steps that are told.
fn grown(snowbank: &Snowbank, what: &str, before: u64) -> u64 {
    let grown = snowbank.resident().saturating_sub(before);
    eprintln!("{what}: {} MiB more", grown / MIB);
    grown
}

/// What is to be said to clients that do not read is not heaped up: they are not read from any more.
#[tokio::test]
async fn floods_whose_answers_nobody_reads() {
    const WIRES: usize = 20;
    let (origin, key) = (Origin::start(), Key::new("floods-2"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let target = snowbank.https();
    target.get("/nix-cache-info").await.expect(200);
    let floods = [("SETTINGS", frame(SETTINGS, 0, 0, &[])), ("PING", frame(PING, 0, 0, &[0; 8]))];
    for (what, flood) in floods {
        let before = snowbank.resident();
        let pouring = futures_util::future::join_all((0..WIRES).map(|_| {
            let (target, piece) = (target.clone(), flood.repeat(1000));
            async move { pour(&target, &piece).await }
        }));
        let wires = pouring.await;
        let sent: usize = wires.iter().map(|(_, sent)| sent).sum();
        let grown = grown(&snowbank, &format!("{what}, {WIRES} connections, {} KiB sent", sent / 1024), before);
        // What ARCHITECTURE.md has for connections, and something for the allocator.
        assert!(grown < WIRES as u64 * 656 * 1024 + 32 * MIB, "{grown}");
        target.get("/nix-cache-info").await.expect(200);
    }
}

/// Who asks for much and takes none of it: what is held for the streams. (That the connection is ended is a matter of minutes, and a
/// unit test of `edge::connection`.)
#[tokio::test]
async fn nars_that_nobody_takes() {
    const STREAMS: u32 = 128;
    let (origin, key) = (Origin::start(), Key::new("floods-3"));
    let objects: Vec<Object> = (0..8).map(|n| Object::new(&format!("untaken-{n}"), 8_000_000)).collect();
    objects.iter().for_each(|object| origin.publish(object, &key));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    for object in &objects {
        snowbank.http().get(&object.narinfo_target()).await.expect(200);
        snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
    }
    snowbank.wait_until_stored();
    for (what, stream_window, more) in [("no window", 0, 0), ("windows, and nothing is read", 0x7fff_ffff, 0x7fff_0000)]
    {
        let before = snowbank.resident();
        let mut wire = Wire::to(&snowbank.https()).await;
        wire.send(&[setting(4, stream_window), window(0, more.max(1))].concat()).await;
        let path = |n: u32| objects[n as usize % objects.len()].served_target();
        wire.send(&(0..STREAMS).flat_map(|n| get(2 * n + 1, &path(n))).collect::<Vec<u8>>()).await;
        if more == 0 {
            wire.until(|seen| seen.statuses.len() == STREAMS as usize).await;
        } else {
            // Nothing tells from outside when the server has come to rest.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let grown = grown(&snowbank, &format!("{STREAMS} streams, {what}"), before);
        // ARCHITECTURE.md: for the connection, for each stream beyond, and 512 KiB for each response.
        assert!(grown < (656 + u64::from(STREAMS) * (400 + 512)) * 1024, "{grown}");
        assert!(!wire.seen.closed && wire.seen.body == 0);
        snowbank.https().get("/nix-cache-info").await.expect(200);
    }
}
