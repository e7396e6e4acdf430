//! An upstream that dies in the middle of a NAR costs nobody a download while another one has it, and what it sent is not
//! fetched again.

use crate::support::cache::{Key, Object};
use crate::support::client::End;
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::origin::{Break, Framing, Gate, Origin, Reply};
use crate::support::snowbank::{Count, Setup, Snowbank};
use crate::support::static_cache;
use std::sync::atomic::{AtomicUsize, Ordering};

const MB: usize = 1_000_000;

/// Two upstreams with the same narinfos, and the program in front of both.
fn start() -> (Origin, Origin, Key, Snowbank) {
    let (first, second, key) = (Origin::start(), Origin::start(), Key::new("failover-1"));
    let keys = format!("stall_timeout = \"1 s\"\npublic_keys = [{:?}]", key.public());
    let setup = Setup::new()
        .upstream_with(&first.url(), &format!("name = \"first\"\n{keys}"))
        .upstream_with(&second.url(), &format!("name = \"second\"\n{keys}"));
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    (first, second, key, snowbank)
}

fn ranges(origin: &Origin, object: &Object) -> Vec<Option<String>> {
    origin.requests_for(&object.file_target()).iter().map(|r| r.field("range").map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_nar_goes_on_at_the_next_upstream() {
    let (first, second, key, snowbank) = start();
    let mut expected = 0;
    for (n, size) in [300_000, 3 * MB].into_iter().enumerate() {
        for (framing, how) in
            [(Framing::Length, Break::Close), (Framing::Length, Break::Reset), (Framing::Chunked, Break::Close)]
        {
            for knows_ranges in [true, false] {
                let object = Object::new(&format!("over-{n}-{framing:?}-{how:?}-{knows_ranges}"), size);
                let whole = Reply::bytes(object.file.clone());
                first.publish_narinfo(&object, &key);
                second.publish_narinfo(&object, &key);
                first.serve(&object.file_target(), whole.clone().framing(framing).break_at(size as u64 / 2, how));
                second.serve(&object.file_target(), if knows_ranges { whole } else { whole.without_ranges() });
                let client = if knows_ranges { snowbank.http() } else { snowbank.https() };
                let target = client.nar_target(&object).await;
                client.get(&target).await.expect_bytes(&object.file);
                assert_eq!(second.count(&object.file_target()), 1);
                assert!(ranges(&second, &object)[0].is_some(), "{framing:?} {how:?}");
                // It is whole: nobody is asked a second time.
                client.get(&target).await.expect_bytes(&object.file);
                assert_eq!(first.count(&object.file_target()) + second.count(&object.file_target()), 2);
                expected += 1;
                assert_eq!(snowbank.counter(Count::Failovers), expected);
            }
        }
    }
    assert_eq!(snowbank.counter(Count::FillsFailed), 0);
    let line = snowbank.log_line("left at byte ", 0);
    assert!(line.contains("upstream=first") && line.contains("upstream second goes on from byte 150000"), "{line}");
}

#[tokio::test]
async fn an_upstream_that_falls_silent_is_left_and_all_its_clients_go_on() {
    let (first, second, key, snowbank) = start();
    let object = Object::new("silent", 4 * MB);
    let gate = Gate::new();
    first.publish_narinfo(&object, &key);
    first.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(2 * MB as u64, &gate));
    second.publish(&object, &key);
    let target = snowbank.http().nar_target(&object).await;
    let (plain, tls, h2) = (snowbank.http(), snowbank.https(), snowbank.https().h2().await);
    let (a, b, c) = tokio::join!(plain.get(&target), tls.get(&target), h2.get(&target));
    for response in [a, b, c] {
        response.expect_bytes(&object.file);
    }
    assert_eq!(ranges(&second, &object), [Some(format!("bytes={}-", 2 * MB))]);
    gate.open();
}

#[tokio::test]
async fn what_came_of_a_nar_is_not_fetched_again_when_its_only_upstream_is_back() {
    let (origin, key) = (Origin::start(), Key::new("failover-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    snowbank.wait_for_disk();
    let object = Object::new("back", 5 * MB);
    let whole = Reply::bytes(object.file.clone());
    origin.publish_narinfo(&object, &key);
    origin.serve(&object.file_target(), whole.clone().break_at(3 * MB as u64, Break::Close));
    let target = snowbank.http().nar_target(&object).await;
    let response = snowbank.http().get(&target).await;
    assert!(matches!(response.end, End::Broken(_)) && response.body.len() <= 3 * MB, "never a clean end");
    let (kept, received) = (3 * MB / 262_000 * 262_000, snowbank.counter(Count::Received));
    origin.forget();
    origin.serve(&object.file_target(), whole);
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    assert_eq!(ranges(&origin, &object), [Some(format!("bytes={kept}-"))]);
    assert_eq!(snowbank.counter(Count::FillsResumed), 1);
    assert_eq!(snowbank.counter(Count::Received) - received, (object.file.len() - kept) as u64);
}

#[tokio::test]
async fn a_liar_that_breaks_off_costs_an_honest_upstream_no_small_nar_and_no_second_try() {
    let (liar, honest, key, snowbank) = start();
    for size in [400_000, 3 * MB] {
        let object = Object::new(&format!("poisoned-{size}"), size);
        let mut wrong = object.file.to_vec();
        wrong[size / 4] ^= 1;
        liar.publish_narinfo(&object, &key);
        liar.serve(&object.file_target(), Reply::bytes(wrong).break_at(size as u64 / 2, Break::Close));
        honest.publish(&object, &key);
        let target = snowbank.http().nar_target(&object).await;
        let response = snowbank.http().get(&target).await;
        if size > MB {
            assert!(matches!(response.end, End::Broken(_)) && response.body.len() < object.file.len());
            snowbank.http().get(&target).await.expect_bytes(&object.file);
        } else {
            response.expect_bytes(&object.file);
        }
    }
    assert_eq!(snowbank.counter(Count::NarinfosRefused), 0, "nobody knows whose byte it was");
}

/// From the 40th NAR on each breaks off at its half, and from then on nothing comes of the first upstream any more.
#[test]
fn real_nix_builds_everything_although_an_upstream_dies_in_the_middle() {
    let fixture = fixture();
    let cache = fixture.cache("none");
    let (first, second) = (Origin::start(), static_cache::serve(&cache));
    let nars = AtomicUsize::new(0);
    first.otherwise(move |request, _| {
        let reply = static_cache::answer(&cache, &request.target, request.field("if-none-match"));
        let is_nar = request.target.starts_with("/nar/");
        let nth = if is_nar { nars.fetch_add(1, Ordering::Relaxed) } else { nars.load(Ordering::Relaxed) };
        match nth {
            0..40 => reply,
            40..48 if is_nar => reply.break_at(600, Break::Reset),
            _ => reply.break_at(0, Break::Reset),
        }
    });
    let setup = Setup::new().upstream(&first.url(), fixture.key()).upstream(&second.url(), fixture.key());
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let machine = Machine::new(&[&fixture.key().public()]);
    let path = machine.substitute("everything", &snowbank.http_url(), None);
    assert_eq!(path, fixture.path("everything"));
    machine.verify_all();
    assert!(snowbank.counter(Count::Failovers) >= 1);
    assert_eq!(snowbank.counter(Count::FillsFailed), 0, "no client had to try again");
}
