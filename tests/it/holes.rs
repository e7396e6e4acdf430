//! Chunks of a warm NAR that the disk lost or changed: they are fetched again, by range or by reading past what is there,
//! and held against the manifest before a byte of them leaves.

use crate::support::cache::{Key, Object};
use crate::support::origin::{Break, Origin, Reply};
use crate::support::snowbank::{Count, Setup};
use std::path::{Path, PathBuf};

/// The size of a chunk, as it is in the store's format.
const CHUNK: usize = 262_000;
const SIZE: usize = 12 * CHUNK + 1234;

/// The files below `dir`.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found
}

/// Flips one byte in the middle of this chunk of `file`, wherever its copies are in the store. Panics when there is none:
/// a test that damages nothing proves nothing.
pub fn damage(dir: &Path, file: &[u8], chunk: usize) {
    let start = chunk * CHUNK;
    let needle = &file[start + 1000..start + 1064];
    let mut damaged = 0;
    for path in files(dir) {
        let mut bytes = std::fs::read(&path).expect("a block file");
        let found: Vec<usize> = find(&bytes, needle);
        for at in &found {
            bytes[*at] ^= 0x40;
        }
        if !found.is_empty() {
            // In place: the program preallocated the file, and a shorter one would be another kind of damage.
            use std::io::Write as _;
            let mut file = std::fs::OpenOptions::new().write(true).open(&path).expect("a block file");
            file.write_all(&bytes).expect("written");
        }
        damaged += found.len();
    }
    assert!(damaged > 0, "chunk {chunk} is not on the disk");
}

fn find(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    let first = needle[0];
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|b| *b == first) {
        at += next;
        if bytes[at..].starts_with(needle) {
            found.push(at);
        }
        at += 1;
    }
    found
}

/// Fills, stops, damages these chunks, starts again and reads everything; what the origin was asked after the damage.
async fn refill(name: &str, chunks: &[usize], reply: impl Fn(Reply) -> Reply) -> Vec<(u64, u64)> {
    let (origin, key) = (Origin::start(), Key::new("holes-1"));
    let setup = Setup::in_front_of(&origin, &key);
    let object = Object::new(name, SIZE);
    origin.publish(&object, &key);
    let snowbank = setup.start();
    let target = snowbank.http().nar_target(&object).await;
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    assert!(snowbank.stop().success());
    for chunk in chunks {
        damage(setup.dir(), &object.file, *chunk);
    }
    origin.serve(&object.file_target(), reply(Reply::bytes(object.file.clone())));
    origin.forget();
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    assert_eq!(snowbank.counter(Count::ChunksRefilled), chunks.len() as u64);
    let asked = origin.requests_for(&object.file_target());
    // What was refilled is kept: nothing is asked a second time.
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    assert_eq!(origin.requests_for(&object.file_target()).len(), asked.len());
    asked
        .iter()
        .map(|request| {
            let range = request.field("range").and_then(|v| v.strip_prefix("bytes="));
            let (first, last) = range.and_then(|r| r.split_once('-')).unwrap_or(("0", ""));
            (first.parse().expect("a number"), last.parse().unwrap_or(u64::MAX))
        })
        .collect()
}

#[tokio::test]
async fn a_hole_in_the_middle_is_fetched_by_range() {
    let asked = refill("one-hole", &[5], |whole| whole).await;
    assert_eq!(asked.len(), 1, "{asked:?}");
    let (first, last) = asked[0];
    assert_eq!(first, 5 * CHUNK as u64);
    assert!(last >= 6 * CHUNK as u64 - 1);
}

#[tokio::test]
async fn several_holes_are_fetched_without_the_whole() {
    let asked = refill("three-holes", &[1, 2, 9], |whole| whole).await;
    assert!(asked.iter().all(|(first, _)| *first >= CHUNK as u64), "{asked:?}");
    assert!(asked.len() <= 3, "{asked:?}");
}

#[tokio::test]
async fn the_first_and_the_last_chunk_are_holes_like_any_other() {
    refill("outer-holes", &[0, 12], |whole| whole).await;
}

#[tokio::test]
async fn a_hole_is_filled_from_an_origin_without_ranges() {
    let asked = refill("no-ranges", &[5], Reply::without_ranges).await;
    assert_eq!(asked.len(), 1, "{asked:?}");
}

#[tokio::test]
async fn a_hole_refilled_with_other_bytes_is_never_served() {
    let (origin, key) = (Origin::start(), Key::new("holes-1"));
    let setup = Setup::in_front_of(&origin, &key);
    let object = Object::new("liar", SIZE);
    origin.publish(&object, &key);
    let snowbank = setup.start();
    let target = snowbank.http().nar_target(&object).await;
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    assert!(snowbank.stop().success());
    damage(setup.dir(), &object.file, 5);
    let mut wrong = object.file.to_vec();
    wrong[5 * CHUNK + 17] ^= 1;
    origin.serve(&object.file_target(), Reply::bytes(wrong));
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    for client in [snowbank.http(), snowbank.https()] {
        let response = client.get(&target).await;
        response.expect_all_or_broken(&object.file);
        assert!(response.body.len() <= 5 * CHUNK, "bytes of the hole were served");
    }
    // What is whole is still served, though the origin lies.
    let part = snowbank.http().get_with(&target, &[("Range", "bytes=1572000-1672000")]).await.expect(206);
    assert_eq!(part.body, object.file.slice(1_572_000..=1_672_000));
    // And an honest origin mends it.
    origin.publish(&object, &key);
    snowbank.http().get(&target).await.expect_bytes(&object.file);
}

#[tokio::test]
async fn a_hole_whose_refill_is_cut_is_asked_for_again() {
    let (origin, key) = (Origin::start(), Key::new("holes-1"));
    let setup = Setup::in_front_of(&origin, &key);
    let object = Object::new("cut-refill", SIZE);
    origin.publish(&object, &key);
    let snowbank = setup.start();
    let target = snowbank.http().nar_target(&object).await;
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    assert!(snowbank.stop().success());
    damage(setup.dir(), &object.file, 5);
    origin.serve(
        &object.file_target(),
        Reply::bytes(object.file.clone()).break_at(5 * CHUNK as u64 + 1000, Break::Reset),
    );
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    snowbank.http().get(&target).await.expect_all_or_broken(&object.file);
    origin.publish(&object, &key);
    snowbank.http().get(&target).await.expect_bytes(&object.file);
}

#[tokio::test]
async fn what_is_whole_is_served_while_the_origin_is_down_and_a_hole_is_an_error() {
    let (origin, key) = (Origin::start(), Key::new("holes-1"));
    let setup = Setup::in_front_of(&origin, &key);
    let (whole, holed) = (Object::new("whole", SIZE), Object::new("holed", SIZE));
    origin.publish(&whole, &key);
    origin.publish(&holed, &key);
    let snowbank = setup.start();
    for object in [&whole, &holed] {
        let target = snowbank.http().nar_target(object).await;
        snowbank.http().get(&target).await.expect_bytes(&object.file);
    }
    assert!(snowbank.stop().success());
    damage(setup.dir(), &holed.file, 5);
    let _off = origin.switch_off();
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    snowbank.http().get(&whole.served_target()).await.expect_bytes(&whole.file);
    let response = snowbank.http().get(&holed.served_target()).await;
    response.expect_all_or_broken(&holed.file);
    assert!(response.status != 404, "a hole that cannot be filled now is not a NAR that is not there");
}

/// Whoever has the same bytes mends them, not only the upstream that they came from.
#[tokio::test]
async fn a_hole_is_filled_from_the_next_upstream_when_the_first_fails() {
    let (mut first, second, key) = (Origin::start(), Origin::start(), Key::new("holes-1"));
    let setup = Setup::in_front_of(&first, &key).upstream(&second.url(), &key);
    let object = Object::new("mended-elsewhere", SIZE);
    let (address, file) = (first.address(), object.file.clone());
    first.publish(&object, &key);
    let snowbank = setup.start();
    let target = snowbank.http().nar_target(&object).await;
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    assert_eq!(second.total(), 0);
    assert!(snowbank.stop().success());
    second.publish(&object, &key);
    let failing = [
        Some(Reply::status(500)),
        Some(Reply::status(403)),
        Some(Reply::bytes(file.clone()).break_at(10, Break::Reset)),
        Some(Reply::bytes(vec![0; SIZE])),
        None,
    ];
    for (chunk, reply) in failing.into_iter().enumerate() {
        damage(setup.dir(), &object.file, chunk);
        second.forget();
        let is_off = reply.is_none();
        match reply {
            Some(reply) => first.serve(&object.file_target(), reply),
            None => drop(std::mem::replace(&mut first, Origin::start())),
        }
        let snowbank = setup.start();
        snowbank.wait_for_disk();
        snowbank.http().get(&target).await.expect_bytes(&object.file);
        assert_eq!(snowbank.counter(Count::ChunksRefilled), 1, "chunk {chunk}, {address} off: {is_off}");
        assert_eq!(second.count(&object.file_target()), 1);
        assert!(snowbank.stop().success());
    }
}
