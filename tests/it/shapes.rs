//! Upstreams as they are in the wild: each has a shape of its own, and a client sees none of it.

use crate::support::authority::{Authority, Kind, Leaf};
use crate::support::cache::{Compression, Key, Object, narinfo_fields};
use crate::support::origin::{Origin, Reply};
use crate::support::pebble::free_port;
use crate::support::snowbank::{Setup, Snowbank};

/// Whatever the upstream does, this is what a client gets.
async fn is_served(snowbank: &Snowbank, object: &Object) {
    let narinfo = snowbank.http().get(&object.narinfo_target()).await.expect(200);
    let target = format!("/{}", narinfo_fields(narinfo.text(), "URL")[0]);
    snowbank.http().get(&target).await.expect_bytes(&object.file);
}

#[tokio::test]
async fn cachix_redirects_opaque_names_to_a_bucket() {
    let (cache, bucket, key) = (Origin::start(), Origin::start(), Key::new("shapes-1"));
    let object = Object::compressed("cachix", 3_000_000, Compression::Zstd)
        .at_url("nar/5f0c9d1e-2c1b-4c0e-9d3e-1f2e3d4c5b6a.nar.zst");
    cache.publish_narinfo(&object, &key);
    let target = "/bucket/5f0c?X-Amz-Expires=900&X-Amz-Signature=0a%2Fb";
    cache.serve(&object.file_target(), Reply::status(302).field("Location", &format!("{}{target}", bucket.url())));
    bucket.serve(target, Reply::bytes(object.file.clone()));
    let home = Setup::in_front_of(&cache, &key);
    std::fs::write(home.home().join("token"), "t0p-s3cret\n").expect("a token");
    let lines = format!("public_keys = [{:?}]\ntoken_file = {:?}", key.public(), home.home().join("token"));
    let snowbank = Setup::new().upstream_with(&cache.url(), &lines).start();
    is_served(&snowbank, &object).await;
    assert!(cache.requests().iter().all(|r| r.field("authorization") == Some("Bearer t0p-s3cret")));
    assert!(bucket.total() > 0 && bucket.requests().iter().all(|r| r.field("authorization").is_none()));
    let told = format!("{}{}", snowbank.log().join("\n"), snowbank.metrics());
    assert!(!told.contains("s3cret") && !told.contains("X-Amz"), "{told}");
}

#[tokio::test]
async fn attic_lies_under_a_prefix_and_sends_nars_without_a_length_or_from_a_bucket() {
    let (server, bucket, key) = (Origin::start(), Origin::start(), Key::new("shapes-1"));
    let setup = Setup::new().upstream(&format!("{}/team", server.url()), &key);
    let snowbank = setup.start();
    for (name, redirected) in [("merged", false), ("chunk", true)] {
        let object = Object::compressed(name, 3_000_000, Compression::Zstd);
        let mut object = object.clone().at_url(&format!("nar/{}.nar", object.hash_part()));
        object.tells_file = false;
        server.serve(&format!("/team{}", object.narinfo_target()), Reply::bytes(object.narinfo(&[&key])));
        let whole = Reply::bytes(object.file.clone());
        let target = format!("/team{}", object.file_target());
        if redirected {
            server.serve(&target, Reply::status(307).field("Location", &format!("{}/chunk?sig=1", bucket.url())));
            bucket.serve("/chunk?sig=1", whole);
        } else {
            server.serve(&target, whole.framing(crate::support::origin::Framing::Chunked).without_ranges());
        }
        is_served(&snowbank, &object).await;
    }
}

#[tokio::test]
async fn niks3_sends_narinfos_in_zstd_whatever_was_asked() {
    let (bucket, key) = (Origin::start(), Key::new("shapes-1"));
    let snowbank = Setup::in_front_of(&bucket, &key).start();
    let mut object = Object::compressed("niks3", 700_000, Compression::Zstd);
    object.tells_file = false;
    bucket.publish(&object, &key);
    let text = bytes::Bytes::from(object.narinfo(&[&key]));
    let encoded = Compression::Zstd.compress(&text);
    bucket.serve(&object.narinfo_target(), Reply::bytes(encoded).field("Content-Encoding", "zstd"));
    is_served(&snowbank, &object).await;
}

#[tokio::test]
async fn snix_and_harmonia_need_their_query() {
    let (origin, key) = (Origin::start(), Key::new("shapes-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    for url in ["nar/snix-castore/CiUKC2JsYWtlMw+/aGFzaA==?narsize=700112", "nar/1xp1.nar?hash=abc"] {
        let mut object = Object::new(&url[4..8], 700_000).at_url(url);
        object.tells_file = false;
        origin.publish(&object, &key);
        is_served(&snowbank, &object).await;
        assert!(origin.count(&format!("/{url}")) > 0);
    }
}

#[tokio::test]
async fn a_new_hydra_names_files_by_nar_hash() {
    let (origin, key) = (Origin::start(), Key::new("shapes-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let object = Object::compressed("hydra", 3_000_000, Compression::Xz);
    let object = object.clone().at_url(&format!("nar/{}.nar.xz", object.nar_hash()));
    origin.publish(&object, &key);
    is_served(&snowbank, &object).await;
}

#[tokio::test]
async fn a_bucket_that_may_not_be_listed_has_not_what_it_forbids() {
    let (bucket, key) = (Origin::start(), Key::new("shapes-1"));
    bucket.otherwise(|_, _| Reply::status(403));
    let lines = |forbidden: &str| format!("public_keys = [{:?}]\nforbidden = {forbidden:?}", key.public());
    let object = Object::new("absent", 1000);
    for (forbidden, status) in [("have-not", 404), ("unknown", 502)] {
        let snowbank = Setup::new().upstream_with(&bucket.url(), &lines(forbidden)).start();
        snowbank.http().get(&object.narinfo_target()).await.expect(status);
    }
}

#[tokio::test]
async fn an_upstream_that_wants_a_certificate_gets_ours() {
    let (origin, key, authority) = (Origin::start(), Key::new("shapes-1"), Authority::new("clients"));
    let object = Object::new("mutual", 700_000);
    origin.publish(&object, &key);
    let behind = Setup::in_front_of(&origin, &key);
    let clients = behind.home().join("clients.pem");
    std::fs::write(&clients, &authority.pem).expect("a certificate file");
    let behind =
        behind.tls_listener(&format!("client_certificates = \"required\"\nclient_ca_file = {clients:?}\n")).start();
    let setup = Setup::new();
    let leaf = Leaf { client: true, kind: Kind::Ecdsa, from: -60, until: 3600 };
    let files = authority.issue(&["front.example.org"], leaf).write(setup.home(), "own");
    let lines = format!("public_keys = [{:?}]\nca_file = {:?}\n", key.public(), setup.authority_file());
    let own = format!("client_cert_file = {:?}\nclient_key_file = {:?}\n", files.certificate, files.key);
    let known = setup.clone().upstream_with(&behind.https_url(), &format!("{lines}{own}")).start();
    is_served(&known, &object).await;
    let stranger = Setup::new().upstream_with(&behind.https_url(), &lines).start();
    stranger.http().get(&object.narinfo_target()).await.expect(502);
}

#[tokio::test]
async fn snowbanks_that_point_at_each_other_do_not_ask_in_circles() {
    let (origin, key) = (Origin::start(), Key::new("shapes-1"));
    let ports = [free_port(), free_port(), free_port()];
    let address = |n: usize| format!("http://127.0.0.1:{}", ports[n % 3]);
    let object = Object::new("round", 700_000);
    origin.publish(&object, &key);
    // A ring of three, one of which has somewhere else to ask, after the ring.
    let ring: Vec<Snowbank> = (0..3)
        .map(|n| {
            let setup = Setup::new().ports(ports[n], 0).upstream(&address(n + 1), &key);
            if n == 1 { setup.upstream(&origin.url(), &key).start() } else { setup.start() }
        })
        .collect();
    let absent = Object::new("absent", 1000);
    for snowbank in &ring {
        snowbank.http().get(&absent.narinfo_target()).await.expect(404);
    }
    assert!(origin.count(&absent.narinfo_target()) <= 3, "each asked once at most");
    for snowbank in &ring {
        is_served(snowbank, &object).await;
    }
}
