//! The leak table, and what runs beside it.

use std::time::Duration;

use super::{Office, nars, smalls, targets};
use crate::support::cache::Object;
use crate::support::client::{End, Response, Target};
use crate::support::origin::{Gate, Reply};
use crate::support::snowbank::{Count, Snowbank};
use crate::support::within;

/// The ways of asking: method and header fields.
fn ways(object: &Object) -> Vec<(&'static str, Vec<(&'static str, String)>)> {
    vec![
        ("GET", vec![]),
        ("HEAD", vec![]),
        ("GET", vec![("Range", "bytes=1-9".to_owned())]),
        ("GET", vec![("If-None-Match", format!("\"{}\"", object.file_hash()))]),
        ("GET", vec![("Authorization", "Bearer snowbank-of-somebody-else".to_owned())]),
        ("GET", vec![("Authorization", "Basic Og==".to_owned())]),
    ]
}

/// All that an answer tells, with whatever names the object taken out; and the work that it took.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    status: u16,
    fields: Vec<(String, String)>,
    body: String,
    end: End,
    public: usize,
    work: usize,
    upstream_requests: u64,
    store_reads: Vec<(String, i64)>,
    fills: u64,
}

fn store_reads(page: &str) -> Vec<(String, i64)> {
    let reads = page.lines().filter(|line| line.starts_with("snowbank_store_reads_total"));
    reads
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a sample");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

fn anonymous(text: &str, object: &Object) -> String {
    let hex: String = object.hash_part().bytes().map(|byte| format!("{byte:02x}")).collect();
    [(&object.base_name, "BASE"), (&object.file_hash(), "FILE"), (&object.nar_hash(), "NAR"), (&hex, "HEX")]
        .into_iter()
        .fold(text.to_owned(), |text, (name, word)| text.replace(name.as_str(), word))
        .replace(object.hash_part(), "HASH")
        .replace(&hex[..40], "HEX40")
}

impl Office {
    /// What an outsider is told, and what it takes.
    async fn told(
        &self,
        snowbank: &Snowbank,
        client: &Target,
        object: &Object,
        target: &str,
        (method, fields): &(&str, Vec<(&'static str, String)>),
    ) -> Told {
        self.public.forget();
        self.work.forget();
        let before = snowbank.metrics();
        let (upstream, fills) = (snowbank.counter(Count::UpstreamRequests), snowbank.counter(Count::FillsStarted));
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let Response { status, fields, body, end } = client.request(method, target, &fields).await;
        let after = snowbank.metrics();
        let reads = store_reads(&after).into_iter().zip(store_reads(&before));
        Told {
            status,
            fields: fields
                .into_iter()
                .filter(|(name, _)| !name.eq_ignore_ascii_case("date"))
                .map(|(name, value)| (name, anonymous(&value, object)))
                .collect(),
            body: anonymous(&String::from_utf8_lossy(&body), object),
            end,
            public: self.public.total(),
            work: self.work.total(),
            upstream_requests: snowbank.counter(Count::UpstreamRequests) - upstream,
            store_reads: reads.map(|((name, after), (_, before))| (name, after - before)).collect(),
            fills: snowbank.counter(Count::FillsStarted) - fills,
        }
    }

    /// Everything of `secret` is answered as everything of `nobodys`, each asked for twice.
    async fn compare(&self, snowbank: &Snowbank, client: &Target, secret: &Object, nobodys: &Object) {
        let (secrets, none) = (targets(secret), targets(nobodys));
        let ways = ways(secret).into_iter().zip(ways(nobodys));
        for (way, way_of_none) in ways {
            for (target, target_of_none) in secrets.iter().zip(&none) {
                for time in ["first", "second"] {
                    let told = self.told(snowbank, client, secret, target, &way).await;
                    let expected = self.told(snowbank, client, nobodys, target_of_none, &way_of_none).await;
                    assert_eq!(told, expected, "{way:?} {target}, the {time} time");
                    assert_eq!((told.status, told.work), (404, 0), "{way:?} {target}");
                }
            }
        }
    }

    /// Everything of an object, for who may see it.
    async fn fetch(&self, client: &Target, object: &Object) {
        let narinfo = self.get(client, &object.narinfo_target()).await.expect(200);
        assert_eq!(narinfo.field("cache-control"), Some("private, max-age=3600"));
        assert_eq!(narinfo.field("vary"), Some("authorization"));
        for target in nars(object) {
            let nar = self.get(client, &target).await.expect_bytes(&object.file);
            assert_eq!(nar.field("cache-control"), Some("private, max-age=31536000, immutable"), "{target}");
            assert_eq!(nar.field("vary"), Some("authorization"), "{target}");
        }
        for target in smalls(object) {
            let small = self.get(client, &target).await.expect(200);
            assert_eq!(small.field("cache-control"), Some("private, max-age=3600"), "{target}");
            assert!(small.text().contains(&target), "{target}");
        }
    }
}

fn object(name: &str) -> Object {
    // Two objects of names of equal length differ in nothing but hashes. Announced under an opaque URL.
    let object = Object::new(name, 300_000);
    let url = format!("nar/by-{}.nar", object.nar_hash());
    object.at_url(&url)
}

#[tokio::test]
async fn outsiders_are_told_nothing_of_a_path_that_was_never_asked_for() {
    let office = Office::new();
    let (secret, nobodys) = (object("secret-a"), object("nobody-a"));
    office.publish(&secret);
    let snowbank = office.setup.start();
    snowbank.wait_for_disk();
    office.compare(&snowbank, &snowbank.http(), &secret, &nobodys).await;
    // And who may see it finds it, whatever is remembered for the others.
    office.fetch(&snowbank.http(), &secret).await;
}

#[tokio::test]
async fn outsiders_are_told_nothing_of_a_path_that_is_here() {
    let office = Office::new();
    let (secret, nobodys) = (object("secret-b"), object("nobody-b"));
    office.publish(&secret);
    let snowbank = office.setup.start();
    snowbank.wait_for_disk();
    office.fetch(&snowbank.http(), &secret).await;
    snowbank.wait_until_stored();
    office.compare(&snowbank, &snowbank.http(), &secret, &nobodys).await;
    let other = object("secret-c");
    office.publish(&other);
    office.fetch(&snowbank.https(), &other).await;
    snowbank.wait_until_stored();
    office.compare(&snowbank, &snowbank.https(), &other, &object("nobody-c")).await;
    // Nothing of it went out either: no credentials of clients, and no token in any place where somebody looks.
    office.work.forget();
    office.fetch(&snowbank.http(), &secret).await;
    assert_eq!(office.work.total(), 0, "all of it is here: {:?}", office.work.requests());
}

#[tokio::test]
async fn outsiders_are_told_nothing_of_a_path_that_is_on_disk_after_a_restart() {
    let office = Office::new();
    let secret = object("secret-f");
    office.publish(&secret);
    let snowbank = office.setup.start();
    snowbank.wait_for_disk();
    office.fetch(&snowbank.http(), &secret).await;
    snowbank.wait_until_stored();
    assert!(snowbank.stop().success());
    let snowbank = office.setup.start();
    snowbank.wait_for_disk();
    office.compare(&snowbank, &snowbank.http(), &secret, &object("nobody-f")).await;
    office.work.forget();
    office.fetch(&snowbank.http(), &secret).await;
    assert_eq!(office.work.total(), 0, "all of it is here: {:?}", office.work.requests());
}

#[tokio::test]
async fn a_path_that_both_have_is_the_public_one_to_outsiders_and_costs_what_it_costs_without_the_private_one() {
    let office = Office::new();
    // The same bytes, at both.
    let (both, plain) = (Object::new("both", 400_000), Object::new("just", 400_000));
    office.publish(&both);
    office.public.publish(&both, &office.key);
    office.public.publish(&plain, &office.key);
    let snowbank = office.setup.start();
    snowbank.wait_for_disk();
    office.fetch(&snowbank.http(), &both).await;
    assert_eq!(office.public.total(), 0, "the private one is asked first");
    snowbank.wait_until_stored();
    let coalesced = snowbank.counter(Count::Coalesced);
    for target in [0, 1] {
        let target = |object: &Object| [object.narinfo_target(), object.served_target()][target].clone();
        let way = ("GET", vec![]);
        let client = snowbank.http();
        // The first of all makes the connection.
        let expected = office.told(&snowbank, &client, &plain, &target(&plain), &way).await;
        let told = office.told(&snowbank, &client, &both, &target(&both), &way).await;
        assert_eq!((told.status, told.public, told.work, told.fills), (200, expected.public, 0, expected.fills));
        let fields = |told: &Told| told.fields.clone();
        assert_eq!(fields(&told), fields(&expected));
        assert!(told.fields.iter().any(|(_, value)| value.starts_with("public, ")), "{told:?}");
    }
    assert_eq!(snowbank.counter(Count::Coalesced), coalesced);
}

#[tokio::test]
async fn outsiders_neither_join_nor_notice_a_private_fill_that_runs() {
    let office = Office::new();
    let (secret, nobodys, both) = (object("secret-d"), object("nobody-d"), Object::new("both-d", 3_000_000));
    let gate = Gate::new();
    for held in [&secret, &both] {
        office.work.publish_narinfo(held, &office.key);
        office.work.serve(&held.file_target(), Reply::bytes(held.file.clone()).gate_at(100_000, &gate));
    }
    office.public.publish(&both, &office.key);
    let snowbank = office.setup.start();
    snowbank.wait_for_disk();
    let insider = |object: &Object| {
        let (client, target, token) = (snowbank.http(), object.served_target(), office.token.bearer());
        tokio::spawn(async move { client.get_with(&target, &[("Authorization", &token)]).await })
    };
    let running = [insider(&secret), insider(&both)];
    gate.reached().await;
    // A fill runs before its request arrives.
    let asked = |object: &Object| office.work.count(&object.file_target());
    let both_run = async {
        while snowbank.counter(Count::FillsRunning) < 2 || asked(&secret) == 0 || asked(&both) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("both are asked for", both_run).await;
    office.compare(&snowbank, &snowbank.http(), &secret, &nobodys).await;
    let outsiders = snowbank.http().get(&both.served_target()).await.expect_bytes(&both.file);
    assert_eq!(outsiders.field("cache-control"), Some("public, max-age=31536000, immutable"));
    assert_eq!(snowbank.counter(Count::Coalesced), 0);
    gate.open();
    for (insider, object) in running.into_iter().zip([&secret, &both]) {
        insider.await.expect("no panic").expect_bytes(&object.file);
    }
}

#[tokio::test]
async fn a_token_is_in_no_request_to_an_upstream_and_in_nothing_that_is_printed() {
    let mut office = Office::new();
    office.setup = office.setup.clone().also("[log]\nlevel = \"debug\"");
    let secret = object("secret-e");
    office.publish(&secret);
    let snowbank = office.setup.start();
    office.fetch(&snowbank.http(), &secret).await;
    for wrong in ["Bearer wrong-one", "Basic d3Jvbmctb25lOng=", "nonsense"] {
        let answer = snowbank.http().get_with(&secret.narinfo_target(), &[("Authorization", wrong)]).await;
        answer.expect(404);
    }
    let two = [("Authorization", office.token.bearer()), ("Authorization", office.token.bearer())];
    let two = two.each_ref().map(|(name, value)| (*name, value.as_str()));
    snowbank.http().get_with(&secret.narinfo_target(), &two).await.expect(404);
    for request in office.work.requests().into_iter().chain(office.public.requests()) {
        assert_eq!(request.field("authorization"), None, "{request:?}");
    }
    let config = crate::support::snowbank::run(&[
        "print-config",
        "--config",
        office.setup.write().to_str().expect("a path of text"),
    ]);
    let hash = office.token.line.split(':').nth(1).expect("a hash");
    let basic = office.token.basic();
    let said = snowbank.log().join("\n") + &snowbank.metrics() + &String::from_utf8_lossy(&config.stdout);
    for never in [office.token.text.as_str(), hash, &basic["Basic ".len()..], "wrong-one", "d3Jvbmct"] {
        assert!(!said.contains(never), "{never}");
    }
    assert!(said.contains("snowbank_proxy_access_total{decision=\"refused\"} 3"), "{said}");
}
