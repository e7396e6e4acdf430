//! The NAR of a path is fetched when its narinfo is asked for: it is at hand when the client comes for it, it costs nobody
//! anything who asked for something, and what is fetched for nothing is bounded.

use std::time::Instant;

use crate::support::PATIENCE;
use crate::support::cache::{Key, Object};
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::origin::{Framing, Gate, Origin, Reply};
use crate::support::snowbank::{Count, Setup, Snowbank};
use crate::support::static_cache;
use crate::support::trust::eventually;

fn key() -> Key {
    Key::new("prefetch-1")
}

fn published(origin: &Origin, name: &str, size: usize) -> Object {
    let object = Object::new(name, size);
    origin.publish(&object, &key());
    object
}

async fn until(snowbank: &Snowbank, count: Count, holds: impl Fn(u64) -> bool) {
    let begun = Instant::now();
    loop {
        let value = snowbank.counter(count);
        if holds(value) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{count:?} is {value}\n{}", snowbank.log().join("\n"));
        tokio::task::yield_now().await;
    }
}

/// Waits until so many bytes came ahead, and nothing more is coming.
async fn fetched(snowbank: &Snowbank, bytes: u64) {
    until(snowbank, Count::Prefetched, |fetched| fetched >= bytes).await;
    until(snowbank, Count::Prefetching, |running| running == 0).await;
    assert_eq!(snowbank.counter(Count::Prefetched), bytes);
}

#[tokio::test]
async fn a_nar_is_here_when_it_is_asked_for() {
    let origin = Origin::start();
    let objects: Vec<Object> = (0..20).map(|n| published(&origin, &format!("path-{n}"), 50_000 + n)).collect();
    let bytes: u64 = objects.iter().map(|object| object.file.len() as u64).sum();
    let snowbank = Setup::in_front_of(&origin, &key()).prefetching().start();
    snowbank.wait_for_disk();
    let client = snowbank.https();
    for object in &objects {
        client.get(&object.narinfo_target()).await.expect(200);
    }
    fetched(&snowbank, bytes).await;
    let asked = origin.total();
    for object in &objects {
        client.get(&object.served_target()).await.expect_bytes(&object.file);
    }
    assert_eq!((origin.total(), asked), (40, 40), "each narinfo and each NAR once");
    assert_eq!(snowbank.counter(Count::PrefetchUsed), bytes);
    // Asked for again, it is nothing new.
    client.get(&objects[0].narinfo_target()).await.expect(200);
    client.get(&objects[0].served_target()).await.expect_bytes(&objects[0].file);
    assert_eq!((origin.total(), snowbank.counter(Count::PrefetchUsed)), (40, bytes));
}

#[tokio::test]
async fn a_client_joins_what_is_on_its_way() {
    let (origin, gate) = (Origin::start(), Gate::new());
    let object = Object::new("large", 3_000_000);
    origin.publish_narinfo(&object, &key());
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(2_000_000, &gate));
    let snowbank = Setup::in_front_of(&origin, &key()).prefetching().start();
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    gate.reached().await;
    let mut exchange = snowbank.http().start("GET", &object.served_target(), &[]).await;
    assert_eq!(exchange.exactly(1_500_000).await, object.file[..1_500_000]);
    gate.open();
    assert_eq!(exchange.finish().await.expect(200).body, object.file[1_500_000..]);
    assert_eq!(origin.count(&object.file_target()), 1);
    fetched(&snowbank, object.file.len() as u64).await;
    assert_eq!(snowbank.counter(Count::PrefetchUsed), object.file.len() as u64);
}

#[tokio::test]
async fn what_says_no_holds() {
    let (origin, other) = (Origin::start(), Origin::start());
    let small = published(&origin, "small", 10_000);
    let large = published(&origin, "large", 50_000);
    let of_other = published(&other, "of-the-other", 5_000);
    let control = published(&origin, "control", 20_000);
    let other_small = published(&origin, "other-small", 10_000);
    let keys = format!("public_keys = [{:?}]", key().public());
    let setup = Setup::new()
        .upstream_with(&origin.url(), &keys)
        .upstream_with(&other.url(), &format!("{keys}\nprefetch = \"0 B\""))
        .also("[cache]\nprefetch = \"40 kB\"")
        .plain_listener("prefetch = \"15 kB\"");
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    // Too large; at an upstream that is not to be asked; too large for this listener; by HEAD.
    snowbank.https().get(&large.narinfo_target()).await.expect(200);
    snowbank.https().get(&of_other.narinfo_target()).await.expect(200);
    snowbank.http().get(&control.narinfo_target()).await.expect(200);
    snowbank.https().head(&small.narinfo_target()).await.expect(200);
    assert_eq!(snowbank.counter(Count::Prefetching), 0);
    assert_eq!(snowbank.counter(Count::FillsStarted), 0);
    // The same, where nothing says no.
    snowbank.http().get(&other_small.narinfo_target()).await.expect(200);
    fetched(&snowbank, other_small.file.len() as u64).await;
    for object in [&large, &control, &small] {
        assert_eq!(origin.count(&object.file_target()), 0);
    }
    assert_eq!(other.count(&of_other.file_target()), 0);
}

#[tokio::test]
async fn a_crawler_costs_the_budget_and_a_build_after_it_has_its_nars_at_hand() {
    let origin = Origin::start();
    let size = 70_000;
    let objects: Vec<Object> = (0..600).map(|n| published(&origin, &format!("path-{n}"), size)).collect();
    let file = objects[0].file.len() as u64;
    let snowbank =
        Setup::in_front_of(&origin, &key()).also("[cache]\nprefetch = \"1 MiB\"\nprefetch_budget = \"7 MiB\"").start();
    snowbank.wait_for_disk();
    let client = snowbank.https().h2().await;
    let (crawled, built) = objects.split_at(500);
    for object in crawled {
        client.get(&object.narinfo_target()).await.expect(200);
    }
    until(&snowbank, Count::Prefetching, |running| running == 0).await;
    let cost = snowbank.counter(Count::Prefetched);
    let most = (7 << 20) / 4 * 3;
    assert!(most - file <= cost && cost <= most + file, "all but a quarter, which is for whoever comes then: {cost}");
    // Somebody else from there, who takes what he asks about, the last first.
    for object in built {
        client.get(&object.narinfo_target()).await.expect(200);
    }
    for object in built.iter().rev() {
        client.get(&object.served_target()).await.expect_bytes(&object.file);
        until(&snowbank, Count::Prefetching, |running| running == 0).await;
    }
    let used = snowbank.counter(Count::PrefetchUsed);
    assert!(used >= 98 * file, "{} of 100", used / file);
    for object in built {
        assert_eq!(origin.count(&object.file_target()), 1);
    }
}

#[tokio::test]
async fn who_asks_for_a_nar_does_not_stand_behind_what_nobody_asked_for() {
    let (origin, gate) = (Origin::start(), Gate::new());
    let ahead: Vec<Object> = (0..12).map(|n| Object::new(&format!("ahead-{n}"), 2_000_000)).collect();
    for object in &ahead {
        origin.publish_narinfo(object, &key());
        // A drip: the origin would take a quarter of an hour.
        let slowly =
            Reply::bytes(object.file.clone()).gate_at(100, &gate).pieces(1000, std::time::Duration::from_millis(300));
        origin.serve(&object.file_target(), slowly);
    }
    let wanted: Vec<Object> = (0..8).map(|n| published(&origin, &format!("wanted-{n}"), 1_500_000)).collect();
    let keys = format!("public_keys = [{:?}]\nconnections = 8", key().public());
    let snowbank = Setup::new().upstream_with(&origin.url(), &keys).prefetching().start();
    snowbank.wait_for_disk();
    let client = snowbank.http();
    for object in &ahead {
        client.get(&object.narinfo_target()).await.expect(200);
    }
    gate.reached().await;
    gate.open();
    until(&snowbank, Count::FillsRunning, |running| running == 3).await;
    assert_eq!(snowbank.counter(Count::Prefetching), 3, "three of the four places of this upstream");
    for object in &wanted {
        client.get(&object.narinfo_target()).await.expect(200);
    }
    let taken = wanted.iter().map(|object| {
        let (client, target) = (client.clone(), object.served_target());
        async move { client.get(&target).await.expect_bytes(&object.file) }
    });
    // Four at a time, although three places were taken.
    futures_util::future::join_all(taken).await;
    for object in &wanted {
        assert_eq!(origin.count(&object.file_target()), 1);
    }
}

#[tokio::test]
async fn what_was_not_answered_yet_makes_way_too() {
    let (origin, heads, bodies) = (Origin::start(), Gate::new(), Gate::new());
    let ahead: Vec<Object> = (0..12).map(|n| Object::new(&format!("ahead-{n}"), 2_000_000)).collect();
    for object in &ahead {
        origin.publish_narinfo(object, &key());
        let slowly = Reply::bytes(object.file.clone()).pieces(1000, std::time::Duration::from_millis(300));
        origin.serve(&object.file_target(), slowly.gate_before_head(&heads));
    }
    let wanted: Vec<Object> = (0..8).map(|n| published(&origin, &format!("wanted-{n}"), 1_500_000)).collect();
    for object in &wanted {
        origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(100, &bodies));
    }
    let keys = format!("public_keys = [{:?}]\nconnections = 8\nstall_timeout = \"10 m\"", key().public());
    let snowbank = Setup::new().upstream_with(&origin.url(), &keys).prefetching().start();
    snowbank.wait_for_disk();
    let client = snowbank.http();
    for object in &ahead {
        client.get(&object.narinfo_target()).await.expect(200);
    }
    until(&snowbank, Count::FillsRunning, |running| running == 3).await;
    let taken = wanted.iter().map(|object| {
        let (client, target) = (client.clone(), object.served_target());
        async move { client.get(&target).await.expect_bytes(&object.file) }
    });
    let four_at_a_time = async {
        // One has the place that was left to it, and its response has begun.
        bodies.reached().await;
        until(&snowbank, Count::Waiting, |waiting| waiting == 7).await;
        heads.open();
        let asked = || wanted.iter().map(|object| origin.count(&object.file_target())).sum::<usize>();
        eventually("four are asked for", async || asked() == 4).await;
        bodies.open();
    };
    futures_util::future::join(futures_util::future::join_all(taken), four_at_a_time).await;
}

#[tokio::test]
async fn what_is_small_is_asked_for_once_however_many_ask() {
    let origin = Origin::start();
    let objects: Vec<Object> = (0..200).map(|n| published(&origin, &format!("small-{n}"), n * 997)).collect();
    let snowbank = Setup::in_front_of(&origin, &key()).prefetching().start();
    snowbank.wait_for_disk();
    let client = snowbank.https().h2().await;
    let taken = objects.iter().map(async |object| {
        client.get(&object.narinfo_target()).await.expect(200);
        client.get(&object.served_target()).await.expect_bytes(&object.file);
    });
    futures_util::future::join_all(taken).await;
    for object in &objects {
        assert_eq!(origin.count(&object.file_target()), 1, "{} bytes", object.file.len());
    }
}

#[tokio::test]
async fn what_failed_ahead_is_asked_for_again_by_who_wants_it() {
    let origin = Origin::start();
    let object = Object::new("fails-once", 400_000);
    origin.publish_narinfo(&object, &key());
    let file = object.file.clone();
    origin.script(&object.file_target(), move |_, nth| match nth {
        0 => Reply::status(500),
        _ => Reply::bytes(file.clone()).framing(Framing::Chunked),
    });
    let snowbank = Setup::in_front_of(&origin, &key()).prefetching().start();
    snowbank.wait_for_disk();
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    until(&snowbank, Count::FillsFailed, |failed| failed == 1).await;
    snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
    assert_eq!(origin.count(&object.file_target()), 2);
}

#[test]
fn a_build_of_real_nix_takes_each_nar_once_and_no_other() {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("xz"));
    let setup =
        Setup::in_front_of(&origin, fixture.key()).store("disk = \"512 MiB\"\nmemory = \"64 MiB\"").prefetching();
    let authority = setup.authority_file();
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let machine = Machine::new(&[&fixture.key().public()]);
    machine.substitute("everything", &snowbank.https_url(), Some(&authority));
    machine.verify_all();
    let nars: Vec<_> = origin.requests().into_iter().filter(|request| request.target.contains("/nar/")).collect();
    assert!(nars.len() >= fixture.infos().len(), "{}", nars.len());
    for request in nars {
        assert_eq!(origin.count(&request.target), 1, "{}", request.target);
    }
    let (fetched, used) = (snowbank.counter(Count::Prefetched), snowbank.counter(Count::PrefetchUsed));
    assert!(fetched > 0 && used == fetched, "{used} of {fetched}");
}

#[tokio::test]
async fn what_a_path_refers_to_is_asked_for_with_it() {
    let origin = Origin::start();
    // A chain of thirty, each of which refers to itself too, and to something that nobody has.
    let mut objects: Vec<Object> = (0..30).map(|n| Object::new(&format!("link-{n}"), 1000 + n)).collect();
    let names: Vec<String> = objects.iter().map(|object| object.base_name.clone()).collect();
    let nobody = Object::new("nobody-has-it", 10);
    for (n, object) in objects.iter_mut().enumerate() {
        object.references = vec![names[n].clone(), nobody.base_name.clone()];
        object.references.extend(names.get(n + 1).cloned());
        origin.publish(object, &key());
    }
    let snowbank = Setup::in_front_of(&origin, &key()).prefetching().start();
    snowbank.wait_for_disk();
    let client = snowbank.https();
    client.get(&objects[0].narinfo_target()).await.expect(200);
    until(&snowbank, Count::PrefetchedNarinfos, |asked| asked == 29).await;
    fetched(&snowbank, objects[0].file.len() as u64).await;
    let asked = origin.total();
    for object in &objects {
        client.get(&object.narinfo_target()).await.expect(200);
        assert_eq!(origin.count(&object.narinfo_target()), 1);
    }
    client.get(&nobody.narinfo_target()).await.expect(404);
    assert_eq!((origin.count(&nobody.narinfo_target()), snowbank.counter(Count::PrefetchedNarinfosUsed)), (1, 29));
    // Only what a client asks about has its NAR fetched.
    assert!(asked <= 2 * 30 + 1, "{asked}");
    until(&snowbank, Count::Prefetched, |bytes| bytes > 30_000).await;
    for object in &objects {
        assert!(origin.count(&object.file_target()) <= 1);
    }
}

#[tokio::test]
async fn what_is_referred_to_is_asked_for_within_bounds() {
    let origin = Origin::start();
    let mut root = Object::new("root", 1000);
    let many: Vec<Object> = (0..400).map(|n| Object::new(&format!("many-{n}"), 1000)).collect();
    root.references = many.iter().map(|object| object.base_name.clone()).collect();
    origin.publish(&root, &key());
    many.iter().for_each(|object| origin.publish(object, &key()));
    let snowbank = Setup::in_front_of(&origin, &key()).also("[cache]\nprefetch = \"1 MiB\"").start();
    snowbank.wait_for_disk();
    snowbank.https().get(&root.narinfo_target()).await.expect(200);
    until(&snowbank, Count::PrefetchedNarinfos, |asked| asked == 256).await;
    let off =
        Setup::in_front_of(&origin, &key()).also("[cache]\nprefetch = \"1 MiB\"\nprefetch_references = false").start();
    off.wait_for_disk();
    origin.forget();
    off.https().get(&root.narinfo_target()).await.expect(200);
    fetched(&off, root.file.len() as u64).await;
    assert_eq!((origin.total(), off.counter(Count::PrefetchedNarinfos)), (2, 0));
}
