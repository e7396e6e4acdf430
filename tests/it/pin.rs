//! `snowbank pin`: what is pinned stays on a disk through which several times its size goes, and is trusted no more for that.

use crate::support::cache::{Key, Object};
use crate::support::client::Target;
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank, run};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

const MB: usize = 1 << 20;
/// The least disk: 48 MiB of it are for NARs, half of which may be pinned.
const SMALL: &str = "disk = \"64 MiB\"\nmemory = \"16 MiB\"";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// What a command says on both outputs, and its exit status. Off the threads on which the upstreams answer.
async fn told(setup: &Setup, words: &[&str]) -> (Option<i32>, String) {
    let file = setup.home().join("snowbank.toml");
    let config = ["--config", file.to_str().expect("text")];
    let words: Vec<String> = words.iter().take(1).chain(&config).chain(&words[1..]).map(ToString::to_string).collect();
    let running = tokio::task::spawn_blocking(move || {
        let output = run(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text.into_owned())
    });
    running.await.expect("a thread")
}

/// Starts it, with its disk.
async fn start(setup: &Setup) -> Arc<Snowbank> {
    let setup = setup.clone();
    let starting = tokio::task::spawn_blocking(move || {
        let snowbank = setup.start();
        snowbank.wait_for_disk();
        snowbank
    });
    Arc::new(starting.await.expect("a thread"))
}

/// Waits until `pin --list` says this.
async fn until_told(setup: &Setup, what: &str) {
    let deadline = Instant::now() + crate::support::PATIENCE;
    loop {
        let (status, list) = told(setup, &["pin", "--list"]).await;
        if status == Some(0) && list.contains(what) {
            return;
        }
        assert!(Instant::now() < deadline, "not {what:?}: {list}");
    }
}

/// A closure of 9 MiB: the first refers to the second, the second to the third.
fn closure() -> [Object; 3] {
    let last = Object::new("last", 3 * MB);
    let mut middle = Object::new("middle", 2 * MB);
    middle.references = vec![last.base_name.clone()];
    let mut root = Object::new("root", 4 * MB);
    root.references = vec![root.base_name.clone(), middle.base_name.clone()];
    [root, middle, last]
}

async fn get(http: &Target, object: &Object) {
    http.get(&object.narinfo_target()).await.expect(200);
    http.get(&object.served_target()).await.expect_bytes(&object.file);
}

/// Whether a client gets it, from narinfo to the last byte.
async fn is_had(http: &Target, object: &Object) -> bool {
    let Some(narinfo) = http.attempt(&object.narinfo_target()).await else { return false };
    let nar = http.attempt(&object.served_target()).await;
    narinfo.status == 200 && nar.is_some_and(|nar| nar.status == 200 && nar.body == object.file)
}

/// Four times what the disk has for NARs goes through.
async fn flood(http: &Target, origin: &Origin, key: &Key, turn: usize) {
    for n in 0..24 {
        let object = Object::new(&format!("flood-{turn}-{n}"), 8 * MB);
        origin.publish(&object, key);
        get(http, &object).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_stays_until_it_is_let_go() {
    let (others, origin, key) = (Origin::start(), Origin::start(), Key::new("pin-1"));
    let ([root, middle, last], control) = (closure(), Object::new("control", 3 * MB));
    [&root, &middle, &last, &control].into_iter().for_each(|object| origin.publish(object, &key));
    let setup = Setup::in_front_of(&others, &key).upstream(&origin.url(), &key).store(SMALL).admin_port(free_port());
    let snowbank = start(&setup).await;
    get(&snowbank.http(), &control).await;
    let (status, said) = told(&setup, &["pin", root.hash_part()]).await;
    assert!(status == Some(0) && said.contains("3 of 3: 3 fetched (9 MiB)"), "{said}");
    assert!(said.contains("3 paths are pinned: 9.5 MB of 3"), "{said}");
    let off = origin.switch_off();
    flood(&snowbank.http(), &others, &key, 0).await;
    for object in [&root, &middle, &last] {
        get(&snowbank.http(), object).await;
    }
    assert!(!is_had(&snowbank.http(), &control).await, "what is not pinned is gone");
    drop(snowbank);

    // The list survives the end, and what it keeps another flood; the upstream of it is still off.
    let snowbank = start(&setup).await;
    until_told(&setup, &format!("{}  closure  3 paths  9.5 MB\n", root.base_name)).await;
    flood(&snowbank.http(), &others, &key, 1).await;
    for object in [&root, &middle, &last] {
        get(&snowbank.http(), object).await;
    }
    let (_, status) = told(&setup, &["status"]).await;
    assert!(status.contains("  pinned ") && status.contains(", 3 paths\n"), "{status}");
    assert!(snowbank.metrics().contains("\nsnowbank_pins_paths 3\n"));

    let (status, said) = told(&setup, &["unpin", &root.base_name, middle.hash_part()]).await;
    assert!(status == Some(1) && said.contains(&format!("{}: may be evicted again", root.base_name)), "{said}");
    assert!(said.contains(&format!("{}: was not pinned", middle.hash_part())), "{said}");
    assert!(said.contains("0 paths are pinned: 0 B of "), "{said}");
    assert_eq!(told(&setup, &["pin", "--list"]).await, (Some(0), String::new()));
    flood(&snowbank.http(), &others, &key, 2).await;
    assert!(!is_had(&snowbank.http(), &root).await, "what was let go is gone");
    drop(off);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_or_does_not_come_is_refused_and_nothing_of_it_is_kept() {
    let (origin, key) = (Origin::start(), Key::new("pin-2"));
    let parts: Vec<Object> = (0..4).map(|n| Object::new(&format!("part-{n}"), 7 * MB)).collect();
    let mut large = Object::new("large", 1000);
    large.references = parts.iter().map(|part| part.base_name.clone()).collect();
    let mut torn = Object::new("torn", 1000);
    torn.references = vec![parts[0].base_name.clone(), Object::new("nowhere", 10).base_name];
    parts.iter().chain([&large, &torn]).for_each(|object| origin.publish(object, &key));
    let setup = Setup::in_front_of(&origin, &key).store(SMALL).admin_port(free_port());
    let snowbank = start(&setup).await;
    let (status, said) = told(&setup, &["pin", large.hash_part()]).await;
    assert!(status == Some(2) && said.contains("nothing is pinned: half of store.disk is the most"), "{said}");
    let (status, said) = told(&setup, &["pin", torn.hash_part()]).await;
    assert!(
        status == Some(1) && said.contains("no upstream has it") && said.ends_with("nothing is pinned\n"),
        "{said}"
    );
    assert!(snowbank.metrics().contains("\nsnowbank_pins_bytes 0\n"));
    // Alone it is small; and again with all that it refers to, it is as large as before.
    let (status, said) = told(&setup, &["pin", "--no-closure", large.hash_part()]).await;
    assert!(status == Some(0) && said.contains("1 paths are pinned"), "{said}");
    assert_eq!(told(&setup, &["pin", large.hash_part()]).await.0, Some(2));
    let (_, list) = told(&setup, &["pin", "--list"]).await;
    assert_eq!(list, format!("{}  alone  1 paths  16.4 kB\n", large.base_name));
    for (words, status, said) in [
        (&["pin", "hello"][..], 2, "400 Bad Request: hello is no store path"),
        (&["unpin", "hello"], 2, "400 Bad Request: hello is no store path"),
        (&["pin"], 64, "required"),
        (&["pin", "--list", "x"], 64, "cannot be used with"),
    ] {
        let (found, text) = told(&setup, words).await;
        assert!(found == Some(status) && text.contains(said), "{words:?}: {found:?} {text}");
    }
    assert_eq!(snowbank.operator("GET", "/pin", "").0, 405);
    assert_eq!(snowbank.operator("POST", "/unpin", "Origin: https://elsewhere.example.org\r\n").0, 403);
    drop(snowbank);

    // A list that was damaged is neither believed nor written over.
    let file = setup.dir().join("pins");
    std::fs::write(&file, "what is this\n").expect("a file");
    let snowbank = start(&setup).await;
    let (status, said) = told(&setup, &["pin", parts[0].hash_part()]).await;
    assert!(status == Some(2) && said.contains("line 1 is no pin; mend or remove it"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "what is this\n");
    drop(snowbank);

    let setup = Setup::in_front_of(&origin, &key).store("disk = \"0 B\"").admin_port(free_port());
    let _snowbank = setup.start();
    let (status, said) = told(&setup, &["pin", large.hash_part()]).await;
    assert!(status == Some(2) && said.contains("the store has no disk"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_makes_nothing_trusted_and_what_was_forgotten_comes_again() {
    let (origin, other, key, new_key) = (Origin::start(), Origin::start(), Key::new("pin-3"), Key::new("pin-4"));
    let [root, middle, last] = closure();
    [&root, &middle, &last].into_iter().for_each(|object| origin.publish(object, &key));
    let setup = Setup::in_front_of(&origin, &key).store(SMALL).admin_port(free_port());
    let snowbank = start(&setup).await;
    assert_eq!(told(&setup, &["pin", root.hash_part()]).await.0, Some(0));
    let whole = format!("{}  closure  3 paths  9.5 MB\n", root.base_name);
    let nothing = format!("{}  closure  1 paths, 1 of them not here  0 B\n", root.base_name);
    until_told(&setup, &whole).await;
    let reload = async |setup: &Setup| {
        setup.write();
        let snowbank = Arc::clone(&snowbank);
        let asked = tokio::task::spawn_blocking(move || snowbank.operator("POST", "/reload", ""));
        assert_eq!(asked.await.expect("a thread").0, 200);
    };

    // A key is revoked; then the upstream is taken out. What they vouched for is not served, pinned or not.
    let config = setup.config();
    let revoked = config.replace(&key.public(), &new_key.public());
    let elsewhere = config.replace(&origin.url(), &other.url());
    for config in [revoked, elsewhere] {
        std::fs::write(setup.home().join("snowbank.toml"), config).expect("a configuration");
        let asking = Arc::clone(&snowbank);
        let asked = tokio::task::spawn_blocking(move || asking.operator("POST", "/reload", ""));
        assert_eq!(asked.await.expect("a thread").0, 200);
        for object in [&root, &middle, &last] {
            assert!(!is_had(&snowbank.http(), object).await, "{}", object.base_name);
        }
        until_told(&setup, &nothing).await;
        reload(&setup).await;
        until_told(&setup, &whole).await;
        get(&snowbank.http(), &last).await;
    }

    // What an operator has forgotten is fetched again at the next look.
    let before = origin.count(&last.file_target());
    assert_eq!(snowbank.operator("POST", &format!("/purge?path={}", last.base_name), "").0, 200);
    reload(&setup).await;
    let deadline = Instant::now() + crate::support::PATIENCE;
    while origin.count(&last.file_target()) == before {
        assert!(Instant::now() < deadline, "it is not fetched again");
        tokio::task::yield_now().await;
    }
    until_told(&setup, &whole).await;
    // What is gone upstream stays here.
    origin.otherwise(|_, _| Reply::status(404));
    get(&snowbank.http(), &last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_over_while_no_server_runs_displaces_nothing_pinned() {
    let (origin, key) = (Origin::start(), Key::new("pin-5"));
    let ([root, middle, last], control) = (closure(), Object::new("control", 3 * MB));
    [&root, &middle, &last, &control].into_iter().for_each(|object| origin.publish(object, &key));
    let setup = Setup::in_front_of(&origin, &key).store(SMALL).admin_port(free_port());
    let snowbank = start(&setup).await;
    get(&snowbank.http(), &control).await;
    assert_eq!(told(&setup, &["pin", root.hash_part()]).await.0, Some(0));
    assert!(Arc::into_inner(snowbank).expect("nobody else has it").stop().success());
    let dir = setup.home().join("carried");
    std::fs::create_dir_all(dir.join("nar")).expect("a directory");
    std::fs::write(dir.join("nix-cache-info"), "StoreDir: /nix/store\n").expect("a file");
    for n in 0..24 {
        let object = Object::new(&format!("carried-{n}"), 8 * MB);
        std::fs::write(dir.join(&object.narinfo_target()[1..]), object.narinfo(&[&key])).expect("a file");
        std::fs::write(dir.join(&object.url), &object.file).expect("a file");
    }
    let (status, said) = told(&setup, &["import", dir.to_str().expect("text")]).await;
    assert!(status == Some(0) && said.contains("24 of 24: 24 imported"), "{said}");
    let _off = origin.switch_off();
    let snowbank = start(&setup).await;
    for object in [&root, &middle, &last] {
        get(&snowbank.http(), object).await;
    }
    assert!(!is_had(&snowbank.http(), &control).await, "what is not pinned is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_cannot_be_had_costs_nothing_below_it() {
    let (origin, key) = (Origin::start(), Key::new("pin-6"));
    let [root, middle, last] = closure();
    [&root, &middle, &last].into_iter().for_each(|object| origin.publish(object, &key));
    let setup = Setup::in_front_of(&origin, &key).store(SMALL).admin_port(free_port());
    let snowbank = start(&setup).await;
    assert_eq!(told(&setup, &["pin", root.hash_part()]).await.0, Some(0));
    assert!(Arc::into_inner(snowbank).expect("nobody else has it").stop().success());
    // The disk is lost, and by then the upstream has the narinfo of one and no more.
    let dir = setup.dir().to_owned();
    for entry in std::fs::read_dir(&dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            std::fs::remove_dir_all(entry).expect("it goes");
        }
    }
    origin.serve(&middle.file_target(), Reply::status(404));
    origin.forget();
    let snowbank = start(&setup).await;
    until_told(&setup, &format!("{}  closure  3 paths, 1 of them not here  7.4 MB\n", root.base_name)).await;
    let _off = origin.switch_off();
    get(&snowbank.http(), &root).await;
    get(&snowbank.http(), &last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_to_be_private_is_asked_of_nobody_else() {
    let (public, work, key) = (Origin::start(), Origin::start(), Key::new("pin-7"));
    let [root, middle, last] = closure();
    [&root, &middle, &last].into_iter().for_each(|object| work.publish(object, &key));
    let keys = format!("public_keys = [{:?}]", key.public());
    let setup = Setup::new()
        .store(SMALL)
        .admin_port(free_port())
        .upstream_with(&public.url(), &format!("name = \"public\"\n{keys}"))
        .upstream_with(&work.url(), &format!("name = \"work\"\nprivate = true\npriority = 90\n{keys}"))
        .also("[cache]\nnegative_ttl = \"0 s\"");
    let tokens = setup.home().join("tokens");
    let token = run(&["token", "ci"]);
    std::fs::write(&tokens, token.stdout.split(|byte| *byte == b'\n').next().expect("a line"))
        .expect("a file of tokens");
    let setup = setup.also(&format!("[[access]]\nupstreams = [\"work\"]\ntoken_files = [{tokens:?}]"));
    let _snowbank = start(&setup).await;
    let (status, said) = told(&setup, &["pin", root.hash_part()]).await;
    assert_eq!(status, Some(0), "{said}");
    // The public one is asked first, and has to be: nothing was known yet.
    assert_eq!(public.count(&root.narinfo_target()), 1);
    let asked = public.total();
    let (status, said) = told(&setup, &["warm", root.hash_part()]).await;
    assert!(status == Some(0) && said.contains("3 were here already"), "{said}");
    assert_eq!(public.total(), asked);
}
