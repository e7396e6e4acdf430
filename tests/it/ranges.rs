//! Parts of a NAR: Nix resumes with `Range` and without `If-Range`, so a part is always cut from the same bytes, on a hit,
//! in the middle of a cold NAR and while it is being filled, and every 206 says again that ranges are accepted.

use crate::support::cache::{Compression, Key, Object};
use crate::support::client::{Target, assert_same};
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};

const SIZE: usize = 3_000_000;

fn start() -> (Origin, Key, Snowbank) {
    let (origin, key) = (Origin::start(), Key::new("ranges-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    (origin, key, snowbank)
}

/// Asks for a range and holds the 206 against the file.
async fn check(client: &Target, target: &str, range: &str, file: &[u8], first: usize, last: usize) {
    let part = client.get_with(target, &[("Range", range)]).await.expect(206);
    assert_eq!(part.field("content-range"), Some(format!("bytes {first}-{last}/{}", file.len()).as_str()), "{range}");
    assert_eq!(part.field("content-length"), Some((last - first + 1).to_string().as_str()), "{range}");
    assert_eq!(part.field("accept-ranges"), Some("bytes"), "a resumed download must be resumable again");
    assert_eq!(part.field("content-encoding"), None);
    assert!(part.field("etag").is_some(), "{range}");
    assert_same(&part.body, &file[first..=last]);
}

#[tokio::test]
async fn every_form_of_a_single_range_on_a_warm_nar() {
    let (origin, key, snowbank) = start();
    let object = Object::compressed("warm", SIZE, Compression::Zstd);
    origin.publish(&object, &key);
    let client = snowbank.http();
    let target = client.nar_target(&object).await;
    client.get(&target).await.expect_bytes(&object.file);
    let end = object.file.len() - 1;
    for (first, last) in [(0, 0), (0, end), (261_999, 262_000), (262_000, 523_999), (1_000_000, 1_000_000), (end, end)]
    {
        check(&client, &target, &format!("bytes={first}-{last}"), &object.file, first, last).await;
        check(&snowbank.https(), &target, &format!("bytes={first}-"), &object.file, first, end).await;
    }
    check(&client, &target, "bytes=-1", &object.file, end, end).await;
    check(&client, &target, "bytes=-500000", &object.file, end - 499_999, end).await;
    check(&client, &target, "bytes=-99999999", &object.file, 0, end).await;
    check(&client, &target, "bytes=5-99999999", &object.file, 5, end).await;
    assert_eq!(origin.count(&object.file_target()), 1);
}

#[tokio::test]
async fn what_is_not_a_single_satisfiable_range() {
    let (origin, key, snowbank) = start();
    let object = Object::new("odd-ranges", SIZE);
    origin.publish(&object, &key);
    let client = snowbank.http();
    let target = client.nar_target(&object).await;
    client.get(&target).await.expect_bytes(&object.file);
    for range in ["bytes=0-1,5-6", "bytes=0-0,-1", "bites=0-1", "bytes=5-1", "bytes=a-b", "bytes=-", "0-1", "bytes="] {
        client.get_with(&target, &[("Range", range)]).await.expect_bytes(&object.file);
    }
    for range in [format!("bytes={}-", object.file.len()), "bytes=99999999-".to_owned(), "bytes=-0".to_owned()] {
        let answer = client.get_with(&target, &[("Range", &range)]).await.expect(416);
        assert_eq!(answer.field("content-range"), Some(format!("bytes */{}", object.file.len()).as_str()), "{range}");
    }
    // RFC 9110 14.2: a Range on HEAD is ignored.
    let head = client.request("HEAD", &target, &[("Range", "bytes=0-1")]).await.expect(200);
    assert_eq!(head.field("content-length"), Some(object.file.len().to_string().as_str()));
}

#[tokio::test]
async fn conditions_are_held_against_the_entity_tag() {
    let (origin, key, snowbank) = start();
    let object = Object::new("conditions", SIZE);
    origin.publish(&object, &key);
    let client = snowbank.http();
    let target = client.nar_target(&object).await;
    let whole = client.get(&target).await.expect_bytes(&object.file);
    let tag = whole.field("etag").expect("an entity tag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "a strong one: {tag}");
    for match_all in [tag.as_str(), "*", &format!("\"other\", {tag}"), &format!("W/{tag}")] {
        let answer = client.get_with(&target, &[("If-None-Match", match_all)]).await;
        assert_eq!((answer.status, answer.body.len()), (304, 0), "{match_all}");
        assert_eq!(answer.field("etag"), Some(tag.as_str()));
    }
    client.get_with(&target, &[("If-None-Match", "\"other\"")]).await.expect_bytes(&object.file);
    let range = ("Range", "bytes=10-19");
    client.get_with(&target, &[range, ("If-Range", &tag)]).await.expect(206);
    client.get_with(&target, &[range, ("If-Range", "\"other\"")]).await.expect_bytes(&object.file);
    client.get_with(&target, &[range, ("If-Range", &format!("W/{tag}"))]).await.expect_bytes(&object.file);
    client.get_with(&target, &[range, ("If-Range", "Sun, 22 Nov 2026 17:16:05 GMT")]).await.expect_bytes(&object.file);
    // RFC 9110 13.2.2: If-None-Match comes first.
    assert_eq!(client.get_with(&target, &[range, ("If-None-Match", &tag)]).await.status, 304);
}

#[tokio::test]
async fn a_range_in_the_middle_of_a_cold_nar() {
    let (origin, key, snowbank) = start();
    let client = snowbank.http();
    for (name, ranges) in [("cold", true), ("cold-without-ranges", false)] {
        let object = Object::new(name, SIZE);
        let reply = Reply::bytes(object.file.clone());
        origin.publish_narinfo(&object, &key);
        origin.serve(&object.file_target(), if ranges { reply } else { reply.without_ranges() });
        let target = client.nar_target(&object).await;
        check(&client, &target, "bytes=1500000-1600000", &object.file, 1_500_000, 1_600_000).await;
        client.get(&target).await.expect_bytes(&object.file);
        check(&client, &target, "bytes=2999000-", &object.file, 2_999_000, object.file.len() - 1).await;
    }
}

#[tokio::test]
async fn a_range_while_the_nar_is_being_filled() {
    let (origin, key, snowbank) = start();
    let object = Object::new("during-fill", SIZE);
    let gate = Gate::new();
    origin.publish_narinfo(&object, &key);
    // The second request is the fill of a range, should the program want it sooner than the first one gets there.
    let file = object.file.clone();
    let first_gate = gate.clone();
    origin.script(&object.file_target(), move |_, nth| match nth {
        0 => Reply::bytes(file.clone()).gate_at(1_500_000, &first_gate),
        _ => Reply::bytes(file.clone()),
    });
    let client = snowbank.http();
    let target = client.nar_target(&object).await;
    let mut whole = client.start("GET", &target, &[]).await;
    let mut body = whole.exactly(500_000).await;
    gate.reached().await;
    // They may wait until the whole is proven, or be fetched by themselves; but they are never told a 200.
    let parts = [(100_000, 199_999), (1_000_000, 2_999_999), (2_000_000, 2_099_999)].map(|(first, last)| {
        let (client, target, file) = (client.clone(), target.clone(), object.file.clone());
        tokio::spawn(async move {
            check(&client, &target, &format!("bytes={first}-{last}"), &file, first, last).await;
        })
    });
    // Time for them to arrive, so that they meet the fill and not its end.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    gate.open();
    for part in parts {
        part.await.expect("the right part");
    }
    body.extend_from_slice(&whole.rest().await.0);
    assert_same(&body, &object.file);
}

#[tokio::test]
async fn a_download_cut_by_the_client_is_resumed_where_it_was() {
    let (origin, key, snowbank) = start();
    let object = Object::compressed("resumed", SIZE, Compression::Zstd);
    origin.publish(&object, &key);
    let client = snowbank.https();
    let target = client.nar_target(&object).await;
    let mut body = Vec::new();
    while body.len() < object.file.len() {
        let range = format!("bytes={}-", body.len());
        let mut exchange = client.start("GET", &target, &[("Range", &range)]).await;
        assert_eq!(exchange.status, 206);
        let piece = 400_001.min(object.file.len() - body.len());
        body.extend(exchange.exactly(piece).await);
    }
    assert_same(&body, &object.file);
    assert_eq!(origin.count(&object.file_target()), 1);
}
