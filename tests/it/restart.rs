//! What a stop, a crash and a sick disk may cost: unflushed chunks, and never a wrong byte. And what they may not: what
//! was stored is there again, and the program serves even when it cannot store.

use crate::holes::files;
use crate::support::cache::{Key, Object};
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::snowbank::{Count, Setup, Snowbank};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

/// A few random numbers; the same ones in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % below.max(1)
    }
}

fn objects(name: &str, count: usize, size: usize) -> Vec<Object> {
    (0..count).map(|n| Object::new(&format!("{name}-{n}"), size + n * 1_717)).collect()
}

async fn read_all(snowbank: &Snowbank, objects: &[Object]) {
    for object in objects {
        snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
    }
}

#[tokio::test]
async fn a_hundred_kills_in_the_middle_of_fills_never_leave_a_wrong_byte() {
    let (origin, key) = (Origin::start(), Key::new("kill-1"));
    let setup = Setup::in_front_of(&origin, &key).store("disk = \"256 MiB\"\nmemory = \"16 MiB\"");
    let mut dice = Dice(4242);
    let mut known: Vec<Object> = Vec::new();
    for round in 0..100 {
        let snowbank = setup.start();
        let fresh: Vec<Object> =
            (0..3).map(|n| Object::new(&format!("round-{round}-{n}"), 1_000 + dice.roll(1_500_000))).collect();
        for object in &fresh {
            origin.publish_narinfo(object, &key);
            let reply = Reply::bytes(object.file.clone()).pieces(50_000 + dice.roll(200_000), Duration::from_millis(2));
            origin.serve(&object.file_target(), reply);
        }
        // What the round before was killed over comes first, then some of the older ones.
        let wanted = fresh.iter().chain(known.iter().rev().take(3));
        let wanted: Vec<Object> =
            wanted.chain((0..3).filter_map(|_| known.get(dice.roll(known.len())))).cloned().collect();
        let mut readers = tokio::task::JoinSet::new();
        for object in wanted {
            let client = snowbank.http();
            readers.spawn(async move {
                if let Some(response) = client.attempt(&object.served_target()).await {
                    response.expect_all_or_broken(&object.file);
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(dice.roll(150) as u64)).await;
        snowbank.kill();
        while let Some(reader) = readers.join_next().await {
            reader.expect("no reader saw a wrong byte");
        }
        known.extend(fresh);
    }
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    read_all(&snowbank, &known).await;
}

#[tokio::test]
async fn what_was_stored_is_served_after_a_stop_without_any_upstream() {
    let (origin, key) = (Origin::start(), Key::new("stop-1"));
    let setup = Setup::in_front_of(&origin, &key).store("disk = \"512 MiB\"\nmemory = \"32 MiB\"");
    let objects = objects("stored", 60, 2_500_000);
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    for object in &objects {
        origin.publish(object, &key);
    }
    // 150 MB as fast as the loopback brings them, six at a time: the write gate keeps every chunk.
    for group in objects.chunks(6) {
        let reads = group.iter().map(|object| {
            let client = snowbank.http();
            async move { client.get(&client.nar_target(object).await).await.expect_bytes(&object.file) }
        });
        futures_util::future::join_all(reads).await;
    }
    assert!(snowbank.stop().success());
    let _off = origin.switch_off();
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    for object in &objects {
        snowbank.http().nar_target(object).await;
    }
    read_all(&snowbank, &objects).await;
}

#[tokio::test]
async fn it_answers_before_the_disk_is_open() {
    let (origin, key) = (Origin::start(), Key::new("early-1"));
    let object = Object::new("early", 700_000);
    origin.publish(&object, &key);
    let snowbank = Setup::in_front_of(&origin, &key).start();
    // Whether the disk is open by now or not: an answer, and the right one.
    snowbank.http().get(&snowbank.http().nar_target(&object).await).await.expect_bytes(&object.file);
}

#[tokio::test]
async fn flipped_bits_cut_files_and_lost_files_never_become_wrong_bytes() {
    let (origin, key) = (Origin::start(), Key::new("damage-1"));
    let setup = Setup::in_front_of(&origin, &key);
    let objects = objects("damaged", 30, 2_000_000);
    for object in &objects {
        origin.publish(object, &key);
    }
    let mut dice = Dice(7);
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    read_all(&snowbank, &objects).await;
    assert!(snowbank.stop().success());
    for round in 0..6 {
        for (n, path) in files(setup.dir()).into_iter().enumerate() {
            let file = std::fs::OpenOptions::new().write(true).open(&path).expect("a file of the store");
            let length = usize::try_from(file.metadata().expect("its size").len()).expect("small");
            match (round + n) % 7 {
                0 => file.set_len((length / 2) as u64).expect("cut"),
                1 => std::fs::remove_file(&path).expect("removed"),
                _ => {
                    use std::os::unix::fs::FileExt as _;
                    for _ in 0..200 {
                        file.write_at(&[0x55; 16], dice.roll(length) as u64).expect("flipped");
                    }
                }
            }
        }
        let snowbank = setup.start();
        snowbank.wait_for_disk();
        read_all(&snowbank, &objects).await;
        assert!(snowbank.stop().success());
    }
}

#[tokio::test]
async fn another_geometry_starts_anew_and_gives_the_old_space_back() {
    let (origin, key) = (Origin::start(), Key::new("geometry-1"));
    let objects = objects("geometry", 10, 2_000_000);
    for object in &objects {
        origin.publish(object, &key);
    }
    let first = Setup::in_front_of(&origin, &key);
    for disk in [512_u64, 256, 384, 256] {
        let setup = first.clone().store(&format!("disk = \"{disk} MiB\"\nmemory = \"16 MiB\""));
        for _ in 0..2 {
            let snowbank = setup.start();
            snowbank.wait_for_disk();
            read_all(&snowbank, &objects).await;
            assert!(snowbank.stop().success());
        }
        let used: u64 = files(setup.dir()).iter().map(|f| f.metadata().expect("its size").blocks() * 512).sum();
        assert!(used <= (disk + 1) << 20, "{} MiB of {disk} are used", used >> 20);
    }
}

#[tokio::test]
async fn a_store_smaller_than_what_passes_through_stays_right_and_within_its_size() {
    let (origin, key) = (Origin::start(), Key::new("evict-1"));
    let setup = Setup::in_front_of(&origin, &key).store("disk = \"256 MiB\"\nmemory = \"16 MiB\"");
    let objects = objects("evicted", 40, 12_000_000);
    for object in &objects {
        origin.publish(object, &key);
    }
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    read_all(&snowbank, &objects).await;
    read_all(&snowbank, &objects[..4]).await;
    read_all(&snowbank, &objects[36..]).await;
    let used: u64 = files(setup.dir()).iter().map(|f| f.metadata().expect("its size").blocks() * 512).sum();
    assert!(used <= 257 << 20, "{} MiB", used >> 20);
}

/// Starts with this shell command run first in a mount namespace of its own; `$0` is the store's directory. The program
/// must serve, say once and loudly what is wrong with the directory, and still serve at its end.
async fn serves_without_storing(prepare: &str, directory: impl Fn(&Path)) {
    let (origin, key) = (Origin::start(), Key::new("sick-1"));
    let setup = Setup::in_front_of(&origin, &key);
    directory(setup.dir());
    let dir = setup.dir().to_str().expect("a path of text").to_owned();
    let script = format!("{prepare} && exec \"$@\"");
    let mut command = vec!["unshare", "--mount"];
    if !rustix::process::getuid().is_root() {
        command.push("--map-root-user");
    }
    command.extend(["sh", "-c", &script, &dir]);
    let setup = setup.through(&command);
    for _ in 0..2 {
        let snowbank = setup.start();
        let line = snowbank.log_line(&dir, 0);
        assert!(line.contains("ERROR"), "loudly: {line}");
        let objects = objects("sick", 12, 2_000_000);
        for object in &objects {
            origin.publish(object, &key);
        }
        read_all(&snowbank, &objects).await;
        read_all(&snowbank, &objects).await;
        let told = snowbank.log().iter().filter(|line| line.contains("ERROR")).count();
        assert_eq!(told, 1, "once:\n{}", snowbank.log().join("\n"));
        assert!(snowbank.stop().success());
    }
}

#[tokio::test]
async fn a_disk_too_small_for_the_store() {
    serves_without_storing("mount -t tmpfs -o size=48m tmpfs \"$0\"", |dir| {
        std::fs::create_dir(dir).expect("a mount point");
    })
    .await;
}

#[tokio::test]
async fn a_read_only_directory() {
    serves_without_storing("mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"", |dir| {
        std::fs::create_dir(dir).expect("a directory");
    })
    .await;
}

#[tokio::test]
async fn a_directory_that_is_a_file() {
    serves_without_storing("true", |dir| std::fs::write(dir, "not a directory").expect("a file")).await;
}

/// What was written of a NAR is gone on with after a kill: only the rest is fetched.
#[tokio::test]
async fn a_fill_that_was_killed_is_gone_on_with_by_range() {
    let (origin, key) = (Origin::start(), Key::new("go-on-1"));
    let setup = Setup::in_front_of(&origin, &key);
    let object = Object::new("go-on", 8_000_000);
    origin.publish_narinfo(&object, &key);
    let gate = Gate::new();
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(6_000_000, &gate));
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let client = snowbank.http();
    let target = object.served_target();
    let reader = tokio::spawn(async move { client.attempt(&target).await });
    // Two notes are made by then, and everything that came is on disk.
    let received = || snowbank.counter(Count::Received);
    while received() < 6_000_000 || snowbank.counter(Count::Unwritten) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    snowbank.kill();
    let broken = reader.await.expect("no panic");
    assert!(broken.is_none_or(|response| response.status != 200 || response.body.len() < object.file.len()));

    origin.forget();
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()));
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    read_all(&snowbank, std::slice::from_ref(&object)).await;
    let asked = origin.requests_for(&object.file_target());
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].field("range"), Some("bytes=4192000-"), "from the sixteenth chunk");
}

#[tokio::test]
async fn a_missing_directory_is_made() {
    let (origin, key) = (Origin::start(), Key::new("missing-1"));
    let setup = Setup::in_front_of(&origin, &key);
    let below = setup.home().join("not/yet/there");
    let setup = setup.store_dir(&below);
    let object = Object::new("made", 700_000);
    origin.publish(&object, &key);
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    read_all(&snowbank, std::slice::from_ref(&object)).await;
    assert!(snowbank.stop().success());
    assert!(!files(&below).is_empty());
}

#[tokio::test]
async fn a_directory_that_vanishes_while_it_runs_changes_nothing_for_clients() {
    let (origin, key) = (Origin::start(), Key::new("vanished-1"));
    let setup = Setup::in_front_of(&origin, &key);
    let objects = objects("vanished", 8, 2_000_000);
    for object in &objects {
        origin.publish(object, &key);
    }
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    read_all(&snowbank, &objects[..4]).await;
    std::fs::remove_dir_all(setup.dir()).expect("removed");
    read_all(&snowbank, &objects).await;
}

#[tokio::test]
async fn two_programs_on_one_directory_do_not_spoil_it() {
    let (origin, key) = (Origin::start(), Key::new("two-1"));
    let first = Setup::in_front_of(&origin, &key);
    let second = Setup::in_front_of(&origin, &key).store_dir(first.dir());
    let objects = objects("two", 10, 2_000_000);
    for object in &objects {
        origin.publish(object, &key);
    }
    let one = first.start();
    one.wait_for_disk();
    let other = second.start();
    for object in &objects {
        one.http().get(&object.served_target()).await.expect_bytes(&object.file);
        other.http().get(&object.served_target()).await.expect_bytes(&object.file);
    }
    assert!(other.log_line(first.dir().to_str().expect("text"), 0).contains("ERROR"), "the second one says so");
}
