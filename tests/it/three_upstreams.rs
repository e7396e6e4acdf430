//! A real Nix client behind three upstreams of which one is dead, dies in the middle, or all are gone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::door::{Act, Door, Fault, Where};
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::origin::{Break, Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::static_cache;

/// What a dead upstream may add to a build of the whole closure.
const PRICE: Duration = Duration::from_secs(2);

/// An origin with every second narinfo of the closure, and all of its NARs.
fn half(dir: &Path, odd: bool) -> Origin {
    let (origin, dir) = (Origin::start(), dir.to_owned());
    origin.otherwise(move |request, _| {
        let target = &request.target;
        let is_other = target.ends_with(".narinfo") && (target.as_bytes()[1] % 2 == 1) != odd;
        if is_other { Reply::status(404) } else { static_cache::answer(&dir, target, None) }
    });
    origin
}

fn keys() -> String {
    format!("public_keys = [{:?}]", fixture().key().public())
}

/// A fresh machine builds everything from these upstreams; how long that took.
fn build(upstreams: &[&str]) -> Duration {
    let setup = Setup::new();
    let keys = format!("{}\nca_file = {:?}", keys(), setup.authority_file());
    let setup = upstreams.iter().fold(setup, |setup, url| setup.upstream_with(url, &keys));
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let begun = Instant::now();
    builds(&snowbank, "everything");
    begun.elapsed()
}

#[track_caller]
fn builds(snowbank: &Snowbank, attribute: &str) {
    let machine = Machine::new(&[&fixture().key().public()]);
    assert_eq!(machine.substitute(attribute, &snowbank.http_url(), None), fixture().path(attribute));
    machine.verify_all();
}

#[test]
fn one_that_is_dead_from_the_start_costs_little() {
    let dir = fixture().cache("zstd");
    let (even, odd) = (half(&dir, false), half(&dir, true));
    let empty = Origin::start();
    let (even, odd) = (even.url(), odd.url());
    let without = build(&[&even, &odd]);
    let idle = build(&[&empty.url(), &even, &odd]);
    // A machine that does other things may be slow once.
    let price = |what: &str, upstreams: [&str; 3]| {
        let price = || build(&upstreams).saturating_sub(idle);
        let once = price();
        let price = if once < PRICE { once } else { once.min(price()) };
        println!("{what}: {price:.1?} more");
        assert!(price < PRICE, "{what}: {price:.1?}");
    };
    println!("without {without:.1?}, with an empty one {idle:.1?}");
    let silent = Door::start(false);
    silent.misbehave(&Fault { name: "silent", place: Where::Accepting, acts: vec![Act::Hold] });
    price("first silent", [&silent.url(), &even, &odd]);
    price("second silent", [&even, &silent.url(), &odd]);
    let secure = Door::start(true);
    secure.misbehave(&Fault { name: "silent", place: Where::Answering(""), acts: vec![Act::Hold] });
    price("first silent over TLS", [&secure.url(), &even, &odd]);
    let address = empty.url();
    let _off = empty.switch_off();
    price("first refuses", [&address, &even, &odd]);
}

#[test]
fn one_that_dies_in_the_middle_costs_no_build() {
    let dir = fixture().cache("zstd");
    for after in [1, 100, 260] {
        let (dying, seen) = (Origin::start(), Arc::new(AtomicUsize::new(0)));
        let (files, asked) = (dir.clone(), Arc::clone(&seen));
        dying.otherwise(move |request, _| {
            let reply = static_cache::answer(&files, &request.target, None);
            match asked.fetch_add(1, Ordering::Relaxed) < after {
                true => reply,
                false => reply.break_at(100, Break::Reset),
            }
        });
        let (even, odd) = (half(&dir, false), half(&dir, true));
        build(&[&dying.url(), &even.url(), &odd.url()]);
        assert!(seen.load(Ordering::Relaxed) > after, "it never died");
    }
}

#[test]
fn with_all_of_them_gone_what_is_cached_builds_and_the_rest_says_why() {
    let dir = fixture().cache("zstd");
    let (even, odd, gone) = (half(&dir, false), half(&dir, true), Arc::new(AtomicBool::new(false)));
    let (third, is_gone) = (Origin::start(), Arc::clone(&gone));
    third.otherwise(move |_, _| Reply::status(if is_gone.load(Ordering::Relaxed) { 500 } else { 404 }));
    let urls = [&even, &odd, &third].map(Origin::url);
    let setup = urls.iter().fold(Setup::new(), |setup, url| setup.upstream_with(url, &keys()));
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    builds(&snowbank, "hello");
    let _off = (even.switch_off(), odd.switch_off());
    gone.store(true, Ordering::Relaxed);
    builds(&snowbank, "hello");
    let machine = Machine::new(&[&fixture().key().public()]);
    let url = snowbank.http_url();
    let words = ["nix-store", "--realise", fixture().path("everything"), "--option", "substituters", &url];
    let begun = Instant::now();
    let output = machine.run(&words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    let host = urls[0].trim_start_matches("http://");
    assert!(said.contains(host) && (said.contains("503") || said.contains("502")), "{said}");
    println!("Nix gave up after {:.1?}:\n{said}", begun.elapsed());
}
