//! More requests than there may be: who comes beyond the bound is told so at once, those before it are served, and what is here is
//! served whatever upstreams do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::support::cache::{Key, Object};
use crate::support::client::{Exchange, Response, Target};
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::within;

/// 64 in flight, of which 32 may wait.
const BOUND: usize = 64;

fn start(objects: &[&Object], lines: &str) -> (Origin, Snowbank) {
    let (origin, key) = (Origin::start(), Key::new("overload-1"));
    origin.otherwise(|_, _| Reply::status(404));
    objects.iter().for_each(|object| origin.publish(object, &key));
    let limits = format!("[limits]\nrequests = {BOUND}");
    let upstream = "narinfo_timeout = '20 s'\nconnections = 1000\n".to_owned() + lines;
    let keys = format!("public_keys = ['{}']\n{upstream}", key.public());
    let snowbank = Setup::new().upstream_with(&origin.url(), &keys).also(&limits).start();
    (origin, snowbank)
}

/// The sample of a metric.
fn sample(snowbank: &Snowbank, name: &str) -> u64 {
    let page = snowbank.metrics();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().expect("a count")
}

/// The target of a narinfo of which nobody knows anything, by number.
fn nobodys(number: usize) -> String {
    format!("/{number:032}.narinfo")
}

/// Waits until a gauge says so much.
async fn until(snowbank: &Snowbank, name: &str, value: u64) {
    within(&format!("{name} to be {value}"), async {
        while sample(snowbank, name) != value {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Told to come again, by a line that names the option.
fn expect_refused(response: Response) {
    let response = response.expect(503);
    assert_eq!(response.field("retry-after"), Some("1"));
    assert!(response.text().contains("limits.requests") || response.text().contains("wait"), "{}", response.text());
}

#[tokio::test]
async fn who_waits_for_upstreams_leaves_room_for_what_is_here() {
    let (here, slow) = (Object::new("here", 70_000), Object::new("slow", 3_000_000));
    let (origin, snowbank) = start(&[&here, &slow], "");
    let client = snowbank.http();
    client.get(&here.narinfo_target()).await.expect(200);
    client.get(&here.served_target()).await.expect_bytes(&here.file);
    client.get(&slow.narinfo_target()).await.expect(200);
    let gate = Gate::new();
    let held = gate.clone();
    origin.otherwise(move |_, _| Reply::status(404).gate_before_head(&held));
    origin.serve(&slow.file_target(), Reply::bytes(slow.file.clone()).gate_before_head(&gate));

    // As many as may wait: for narinfos, and for the first bytes of a NAR.
    let waiting: Vec<_> = (0..BOUND / 2)
        .map(|number| {
            let (client, slow) = (client.clone(), slow.served_target());
            tokio::spawn(async move {
                match number % 4 {
                    0 => client.get(&slow).await.status,
                    _ => client.get(&nobodys(number)).await.status,
                }
            })
        })
        .collect();
    until(&snowbank, "snowbank_proxy_waiting", BOUND as u64 / 2).await;

    // A narinfo and a NAR before, a narinfo, and what is asked for those who wait: the NAR once.
    let asked = 3 + 3 * BOUND / 8 + 1;
    for number in 0..40 {
        expect_refused(client.get(&nobodys(1000 + number)).await);
        expect_refused(client.get(&slow.served_target()).await);
        client.get(&here.narinfo_target()).await.expect(200);
        client.get(&here.served_target()).await.expect_bytes(&here.file);
        client.get("/nix-cache-info").await.expect(200);
    }
    assert_eq!(origin.total(), asked, "nothing was asked for those who were refused");

    gate.open();
    for (number, waited) in waiting.into_iter().enumerate() {
        let status = waited.await.expect("an answer");
        assert_eq!(status, if number % 4 == 0 { 200 } else { 404 });
    }
    client.get(&nobodys(1000)).await.expect(404);
    client.get(&slow.served_target()).await.expect_bytes(&slow.file);
    until(&snowbank, "snowbank_proxy_waiting", 0).await;
    until(&snowbank, "snowbank_edge_requests_in_flight", 0).await;
}

#[tokio::test]
async fn what_is_kept_is_served_stale_to_who_finds_no_place_to_wait() {
    let old = Object::new("old", 1000);
    let (origin, snowbank) = start(&[&old], "narinfo_ttl = '1 s'");
    let client = snowbank.http();
    let narinfo = client.get(&old.narinfo_target()).await.expect(200);
    let gate = Gate::new();
    let held = gate.clone();
    origin.otherwise(move |_, _| Reply::status(404).gate_before_head(&held));
    let waiting: Vec<_> = (0..BOUND / 2)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.get(&nobodys(number)).await.status })
        })
        .collect();
    until(&snowbank, "snowbank_proxy_waiting", BOUND as u64 / 2).await;
    let stale = "snowbank_edge_requests_total{outcome=\"stale\",route=\"narinfo\"}";
    within("a stale answer", async {
        while sample(&snowbank, stale) == 0 {
            client.get(&old.narinfo_target()).await.expect_bytes(&narinfo.body);
        }
    })
    .await;
    gate.open();
    for waited in waiting {
        assert_eq!(waited.await.expect("an answer"), 404);
    }
}

#[tokio::test]
async fn requests_in_flight_are_bounded_until_their_last_byte() {
    let large = Object::new("large", 24 << 20);
    let (_origin, snowbank) = start(&[&large], "");
    let client = snowbank.http();
    client.get(&large.narinfo_target()).await.expect(200);
    client.get(&large.served_target()).await.expect_bytes(&large.file);
    let mut held: Vec<Exchange> = Vec::new();
    for _ in 0..BOUND {
        let mut download = client.start("GET", &large.served_target(), &[]).await;
        download.exactly(1000).await;
        held.push(download);
    }
    assert_eq!(sample(&snowbank, "snowbank_edge_requests_in_flight"), BOUND as u64);
    for _ in 0..3 {
        expect_refused(client.get("/nix-cache-info").await);
        client.head(&large.served_target()).await.expect(503);
    }
    assert_eq!(sample(&snowbank, "snowbank_edge_limited_total{limit=\"in-flight\"}"), 6);

    // One that leaves makes room for one.
    drop(held.pop());
    until(&snowbank, "snowbank_edge_requests_in_flight", BOUND as u64 - 1).await;
    client.get("/nix-cache-info").await.expect(200);
    for mut download in held {
        let (rest, _) = download.rest().await;
        assert_eq!(rest.len() + 1000, large.file.len(), "nobody was cut");
    }
    until(&snowbank, "snowbank_edge_requests_in_flight", 0).await;
}

/// What clients that ask without a pause get done in a while: answers, refusals, and the slowest refusal.
async fn crowd(client: &Target, clients: usize, first: usize, lasting: Duration) -> (u64, u64, Duration) {
    let (done, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (slowest, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let next = Arc::new(AtomicU64::new(first as u64));
    let asking: Vec<_> = (0..clients)
        .map(|_| {
            let (client, done, refused) = (client.clone(), Arc::clone(&done), Arc::clone(&refused));
            let (slowest, over, next) = (Arc::clone(&slowest), Arc::clone(&over), Arc::clone(&next));
            tokio::spawn(async move {
                let mut connection = client.connect().await;
                while !over.load(Relaxed) {
                    let number = usize::try_from(next.fetch_add(1, Relaxed)).expect("a number");
                    let begun = Instant::now();
                    let (response, kept) = connection.get(&nobodys(number)).await;
                    connection = kept;
                    match response.status {
                        404 => _ = done.fetch_add(1, Relaxed),
                        _ => {
                            let took = u64::try_from(begun.elapsed().as_micros()).expect("a while");
                            expect_refused(response);
                            refused.fetch_add(1, Relaxed);
                            slowest.fetch_max(took, Relaxed);
                            // A tenth of what it was told: clients are not all patient.
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(lasting).await;
    over.store(true, Relaxed);
    for asked in asking {
        asked.await.expect("answers");
    }
    (done.load(Relaxed), refused.load(Relaxed), Duration::from_micros(slowest.load(Relaxed)))
}

/// Its times are held against bounds only where a run is for that: `SNOWBANK_LOAD=full`, with a release build.
#[tokio::test]
async fn three_times_as_many_clients_as_there_is_room_for_get_as_much_done() {
    let full = crate::load::is_full();
    let lasting = if full { Duration::from_secs(10) } else { Duration::from_secs(1) };
    let (origin, snowbank) = start(&[], "");
    // An upstream 40 ms away.
    origin.otherwise(|_, _| Reply::status(404).after(Duration::from_millis(40)));
    let client = snowbank.http();
    let (peak, refused, _) = crowd(&client, BOUND / 2, 0, lasting).await;
    assert!(peak > 0 && refused == 0, "{peak} done, {refused} refused");
    let (done, refused, slowest) = crowd(&client, 3 * BOUND / 2, 10_000_000, lasting).await;
    println!(
        "overload: {peak} at the bound, {done} with three times the clients, {refused} refused, the slowest {slowest:?}"
    );
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
    if full {
        assert!(done * 10 >= peak * 9, "{done} of {peak}");
        assert!(slowest < Duration::from_millis(50), "{slowest:?}");
    }
    until(&snowbank, "snowbank_edge_requests_in_flight", 0).await;
}
