//! What is wrong in the library (R17): never served, and replaced by what is right.

use super::{Shelf, beside, fetch, until_written, written_as};
use crate::support::cache::{Compression, Key, Object, narinfo_fields};
use crate::support::lies::{LIES, lie};
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Count, Snowbank};
use crate::support::within;
use std::time::Duration;

/// A library with this object in it, as a server wrote it, and the origin that has it too.
async fn filled(objects: &[Object], key: &Key) -> (Origin, Shelf) {
    let (origin, shelf) = (Origin::start(), Shelf::new());
    objects.iter().for_each(|object| origin.publish(object, key));
    let snowbank = beside(&origin, key, &shelf.url()).start();
    for object in objects {
        fetch(&snowbank, object).await;
    }
    until_written(&snowbank, objects.len() as u64).await;
    (origin, shelf)
}

/// Builds as Nix does: what breaks off is asked for again; what comes to its end must be right. The narinfo may still be the
/// wrong one, and its NAR must be had all the same.
async fn fetch_as_nix(snowbank: &Snowbank, object: &Object) {
    let narinfo = snowbank.http().get(&object.narinfo_target()).await.expect(200);
    let target = format!("/{}", narinfo_fields(narinfo.text(), "URL")[0]);
    for _ in 0..5 {
        let response = snowbank.http().get(&target).await;
        if response.status == 200 && response.end == crate::support::client::End::Clean {
            return drop(response.expect_bytes(&object.file));
        }
        assert!(response.status == 0 || response.status == 200, "a build would fail: {}", response.status);
    }
    panic!("{} could not be had in five tries", object.base_name);
}

/// Waits until the library has this object as it should be.
async fn until_right(shelf: &Shelf, object: &Object, narinfo: &[u8], what: &str) {
    let right = || {
        let read = |target: &str| std::fs::read(shelf.file(target)).unwrap_or_default();
        read(&object.narinfo_target()) == narinfo && read(&object.served_target()) == object.file
    };
    within(&format!("{what} is repaired"), async {
        while !right() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Somebody else, with an empty store and no upstream that has anything, gets all of it from the library.
async fn whole_without_upstream(objects: &[Object], key: &Key, shelf: &Shelf) {
    let nothing = Origin::start();
    let snowbank = beside(&nothing, key, &shelf.url()).start();
    for object in objects {
        fetch(&snowbank, object).await;
    }
    assert_eq!(snowbank.counter(Count::NarinfosRefused), 0);
}

type Damage = fn(&Shelf, &[Object]);

fn flip(shelf: &Shelf, object: &Object, at: usize) {
    let path = shelf.file(&object.served_target());
    let mut bytes = std::fs::read(&path).expect("the NAR");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("the NAR");
}

fn rewrite(shelf: &Shelf, object: &Object, change: impl Fn(String) -> String) {
    let path = shelf.file(&object.narinfo_target());
    let text = std::fs::read_to_string(&path).expect("the narinfo");
    std::fs::write(path, change(text)).expect("the narinfo");
}

/// What is done to the first of two objects of one size; where it says nothing else.
const DAMAGES: [(&str, Damage); 12] = [
    ("a bit at the beginning", |shelf, objects| flip(shelf, &objects[0], 200)),
    ("a bit at the end", |shelf, objects| flip(shelf, &objects[0], objects[0].file.len() - 1)),
    ("NARs in each other's place", |shelf, objects| {
        let [one, other] = [&objects[0], &objects[1]].map(|object| shelf.file(&object.served_target()));
        std::fs::write(one, &objects[1].file).expect("a NAR");
        std::fs::write(other, &objects[0].file).expect("a NAR");
    }),
    ("a NAR cut short", |shelf, objects| {
        let file = std::fs::File::options().write(true).open(shelf.file(&objects[0].served_target()));
        file.and_then(|file| file.set_len(1000)).expect("a NAR");
    }),
    ("an empty NAR", |shelf, objects| std::fs::write(shelf.file(&objects[0].served_target()), "").expect("a NAR")),
    ("a NAR that is longer", |shelf, objects| {
        let longer = [&objects[0].file[..], b"more"].concat();
        std::fs::write(shelf.file(&objects[0].served_target()), longer).expect("a NAR");
    }),
    ("a narinfo without signature", |shelf, objects| {
        rewrite(shelf, &objects[0], |text| {
            text.lines().filter(|line| !line.starts_with("Sig:")).map(|line| format!("{line}\n")).collect()
        });
    }),
    ("a narinfo with another NarHash", |shelf, objects| {
        rewrite(shelf, &objects[0], |text| text.replace(&objects[0].nar_hash(), &objects[1].nar_hash()));
    }),
    ("a narinfo with another's URL", |shelf, objects| {
        rewrite(shelf, &objects[0], |text| {
            text.replace(&objects[0].served_target()[1..], &objects[1].served_target()[1..])
        });
    }),
    ("a narinfo that leads out of it", |shelf, objects| {
        rewrite(shelf, &objects[0], |text| text.replace("URL: nar/", "URL: ../nar/"));
    }),
    ("narinfos in each other's place", |shelf, objects| {
        let [one, other] = [&objects[0], &objects[1]].map(|object| shelf.file(&object.narinfo_target()));
        let text = std::fs::read(&one).expect("a narinfo");
        std::fs::copy(&other, one).expect("a narinfo");
        std::fs::write(other, text).expect("a narinfo");
    }),
    ("no narinfo at all", |shelf, objects| {
        std::fs::write(shelf.file(&objects[0].narinfo_target()), "<html>gone</html>").expect("a file");
    }),
];

#[tokio::test]
async fn r17_what_is_damaged_is_never_served_and_is_replaced() {
    for size in [50_000, 3_000_000] {
        let key = Key::new("up-1");
        for (what, damage) in DAMAGES {
            let objects = [Object::new(&format!("one-{size}"), size), Object::new(&format!("two-{size}"), size)];
            let (origin, shelf) = filled(&objects, &key).await;
            let before = shelf.files();
            damage(&shelf, &objects);
            assert_ne!(shelf.files(), before, "{what}");
            let snowbank = beside(&origin, &key, &shelf.url()).start();
            for object in &objects {
                fetch_as_nix(&snowbank, object).await;
            }
            for object in &objects {
                until_right(&shelf, object, &before[&object.narinfo_target()[1..]], what).await;
            }
            whole_without_upstream(&objects, &key, &shelf).await;
            let replaced = written_as(&snowbank, "nar", "replaced") + written_as(&snowbank, "narinfo", "replaced");
            assert!(replaced > 0, "{what}");
        }
    }
}

#[tokio::test]
async fn r17_a_lie_in_the_library_is_no_better_than_an_upstreams() {
    let key = Key::new("up-1");
    for name in LIES {
        let object = Object::compressed(name, 100_000, Compression::Xz);
        let (origin, shelf) = filled(std::slice::from_ref(&object), &key).await;
        let before = shelf.files();
        let lie = lie(name, &object, &[&key]);
        std::fs::write(shelf.file(&object.narinfo_target()), &lie.narinfo).expect("a narinfo");
        let file = shelf.file(&lie.file_target);
        std::fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        std::fs::write(file, &lie.file).expect("a NAR");
        let snowbank = beside(&origin, &key, &shelf.url()).start();
        fetch_as_nix(&snowbank, &object).await;
        // As a client that asks once more, with whatever narinfo it is given then.
        fetch(&snowbank, &object).await;
        until_right(&shelf, &object, &before[&object.narinfo_target()[1..]], name).await;
        whole_without_upstream(std::slice::from_ref(&object), &key, &shelf).await;
    }
}

#[tokio::test]
async fn r17_what_only_the_library_has_is_missing_when_it_is_wrong() {
    let key = Key::new("up-1");
    let objects = [Object::new("only-one", 50_000), Object::new("only-two", 50_000)];
    for (what, damage) in DAMAGES {
        let (_, shelf) = filled(&objects, &key).await;
        damage(&shelf, &objects);
        let nothing = Origin::start();
        nothing.otherwise(|_, _| Reply::status(404));
        let snowbank = beside(&nothing, &key, &shelf.url()).start();
        let narinfo = snowbank.http().get(&objects[0].narinfo_target()).await;
        assert!([200, 404].contains(&narinfo.status), "{what}: {}", narinfo.status);
        if narinfo.status == 200 {
            let target = snowbank.http().nar_target(&objects[0]).await;
            snowbank.http().get(&target).await.expect_all_or_broken(&objects[0].file);
        }
    }
}

#[tokio::test]
async fn a_nar_that_is_gone_is_fetched_and_written_again() {
    let key = Key::new("up-1");
    let objects = [Object::new("gone-small", 3_000), Object::new("gone-large", 12_000_000)];
    let (origin, shelf) = filled(&objects, &key).await;
    let before = shelf.files();
    for object in &objects {
        std::fs::remove_file(shelf.file(&object.served_target())).expect("the NAR");
    }
    let snowbank = beside(&origin, &key, &shelf.url()).start();
    for object in &objects {
        // At the first try: no build waits for it.
        fetch(&snowbank, object).await;
        until_right(&shelf, object, &before[&object.narinfo_target()[1..]], "what was gone").await;
    }
    whole_without_upstream(&objects, &key, &shelf).await;
    // A path that was built anew meanwhile: the narinfo that leads nowhere is replaced too.
    let (old, new) = (&objects[0], Object::new("rebuilt", 4_000));
    let new = Object { base_name: old.base_name.clone(), ..new };
    std::fs::remove_file(shelf.file(&old.served_target())).expect("the NAR");
    let origin = Origin::start();
    origin.publish(&new, &key);
    let snowbank = beside(&origin, &key, &shelf.url()).start();
    let target = snowbank.http().nar_target(old).await;
    snowbank.http().get(&target).await.expect(404);
    fetch(&snowbank, &new).await;
    within("the other narinfo is there", async {
        let named = || std::fs::read_to_string(shelf.file(&new.narinfo_target())).unwrap_or_default();
        while !named().contains(&new.served_target()[1..]) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    whole_without_upstream(&[new], &key, &shelf).await;
}

#[tokio::test]
async fn a_hole_is_filled_from_the_library_or_the_library_from_what_filled_it() {
    let (key, object) = (Key::new("up-1"), Object::new("holed", 3_000_000));
    for what in ["right", "wrong", "gone"] {
        let (origin, shelf) = filled(std::slice::from_ref(&object), &key).await;
        let before = shelf.files();
        let setup = beside(&origin, &key, &shelf.url());
        let snowbank = setup.start();
        fetch(&snowbank, &object).await;
        assert!(snowbank.stop().success());
        crate::holes::damage(setup.dir(), &object.file, 5);
        match what {
            "wrong" => flip(&shelf, &object, 5 * 262_000 + 70_000),
            "gone" => std::fs::remove_file(shelf.file(&object.served_target())).expect("the NAR"),
            _ => {}
        }
        origin.forget();
        let snowbank = setup.start();
        snowbank.wait_for_disk();
        snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
        assert_eq!(snowbank.counter(Count::ChunksRefilled), 1, "{what}");
        let asked = origin.count(&object.file_target());
        assert_eq!(asked, usize::from(what != "right"), "{what}");
        until_right(&shelf, &object, &before[&object.narinfo_target()[1..]], what).await;
    }
}
