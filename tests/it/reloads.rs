//! The configuration is read again while clients are served: nobody notices, and a broken file changes nothing.

use crate::support::cache::{Key, Object};
use crate::support::client::{End, Target};
use crate::support::origin::Origin;
use crate::support::snowbank::{Setup, Snowbank};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What nix-cache-info says of the priority.
async fn priority(target: &Target) -> u32 {
    let info = target.get("/nix-cache-info").await.expect(200);
    let line = info.text().lines().find_map(|line| line.strip_prefix("Priority: ")).expect("a priority");
    line.parse().expect("a number")
}

/// Has this configuration read.
async fn reload(snowbank: &Arc<Snowbank>, setup: &Setup, config: String) -> (u16, String) {
    let (snowbank, file) = (Arc::clone(snowbank), setup.home().join("snowbank.toml"));
    let asked = tokio::task::spawn_blocking(move || {
        std::fs::write(file, config).expect("a configuration file");
        snowbank.operator("POST", "/reload", "")
    });
    asked.await.expect("a thread")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_under_load_fail_nobody() {
    const RELOADS: u32 = 100;
    let (origin, key) = (Origin::start(), Key::new("reloads-1"));
    let objects: Vec<Object> = (0..300).map(|n| Object::new(&format!("reloaded-{n}"), 40_000 + n * 1_000)).collect();
    objects.iter().for_each(|object| origin.publish(object, &key));
    let objects = Arc::new(objects);
    let setup = Setup::in_front_of(&origin, &key);
    let snowbank = Arc::new(setup.start());
    snowbank.wait_for_disk();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = [snowbank.http(), snowbank.https(), snowbank.unix()]
        .into_iter()
        .enumerate()
        .map(|(n, target)| {
            let (stop, objects) = (Arc::clone(&stop), Arc::clone(&objects));
            tokio::spawn(async move {
                let (mut done, mut failures) = (0, Vec::new());
                // Each meets others that the store does not have yet.
                for object in objects.iter().cycle().skip(n * 100) {
                    if stop.load(SeqCst) {
                        break;
                    }
                    for (asked, whole) in
                        [(object.narinfo_target(), None), (object.served_target(), Some(&object.file))]
                    {
                        let response = target.get(&asked).await;
                        let right = whole.is_none_or(|whole| response.body == *whole);
                        done += 1;
                        if response.status != 200 || response.end != End::Clean || !right {
                            failures.push(format!("{asked}: {} {:?}", response.status, response.end));
                        }
                    }
                }
                (done, failures)
            })
        })
        .collect();
    let http = snowbank.http();
    let (begun, mut resident) = (Instant::now(), Vec::new());
    for n in 1..=RELOADS {
        // Another upstream with each, as far as its options go, and so another policy.
        let config = format!("{}\n[cache]\npriority = {n}\n", setup.config())
            .replace("public_keys", &format!("connect_timeout = \"{} ms\"\npublic_keys", 4000 + n));
        let (status, text) = reload(&snowbank, &setup, config).await;
        assert_eq!((status, text.as_str()), (200, "the new configuration is in force\n"));
        assert_eq!(priority(&http).await, n, "what was answered holds");
        resident.push(snowbank.resident() >> 20);
    }
    let elapsed = begun.elapsed();
    stop.store(true, SeqCst);
    let (mut done, mut failures) = (0, Vec::new());
    for client in clients {
        let (its, failed) = client.await.expect("no client panics");
        done += its;
        failures.extend(failed);
    }
    println!(
        "{RELOADS} reloads in {elapsed:?} under {done} requests, {} failed; resident MiB {resident:?}",
        failures.len()
    );
    assert!(failures.is_empty(), "{} of {done}: {failures:#?}", failures.len());
    assert!(done > 200, "{done} requests are no load");
    // What they take, they give back. (Under load the store's memory fills, which says nothing.)
    let before = snowbank.resident();
    for n in 1..=RELOADS {
        let config = setup.config().replace("public_keys", &format!("connect_timeout = \"{n} s\"\npublic_keys"));
        assert_eq!(reload(&snowbank, &setup, config).await.0, 200);
    }
    let grown = snowbank.resident().saturating_sub(before) >> 20;
    println!("{RELOADS} more without load: {grown} MiB more");
    assert!(grown < 16, "{grown} MiB more");
    assert!(snowbank.metrics().contains("snowbank_reloads_total{result=\"applied\"} 200"), "{}", snowbank.metrics());
}

/// Twenty ways to break a file, with what is said about each.
fn broken(good: &str) -> Vec<(String, &'static str)> {
    let also = |text: &str| format!("{good}\n{text}\n");
    let instead = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    vec![
        (String::from("this is not TOML"), "not TOML"),
        (also("[cache"), "not TOML"),
        (also("[nonsense]"), "nonsense: no such option"),
        (also("[cache]\npriorty = 3"), "did you mean `priority`"),
        (also("[cache]\npriority = \"high\""), "cache.priority = \"high\""),
        (also("[cache]\nnegative_ttl = \"1 h\""), "at most \"60 s\""),
        (also("[cache]\nfills = 0"), "cache.fills = 0"),
        (also("[[cache.priority_for]]\nnetworks = [\"10.0.0.1/8\"]\npriority = 1"), "cache.priority_for[0].networks"),
        (also("[[cache.priority_for]]\nnetworks = []\npriority = 1"), "at least one network"),
        (also("[[upstream]]\nurl = \"gopher://example.org\"\ntrust = \"pass\""), "gopher"),
        (also("[[upstream]]\nurl = \"https://b.example.org\""), "public_keys"),
        (also("[[upstream]]\nurl = \"https://b.example.org\"\npublic_keys = [\"b\"]"), "upstream[1].public_keys[0]"),
        (also("[[upstream]]\ntrust = \"pass\""), "upstream[1].url: missing"),
        (also("[sign]\nkey_files = [\"/nonexistent/key\"]"), "/nonexistent/key"),
        (also("[[access]]\nupstreams = [\"nobody\"]\nnetworks = [\"10.0.0.0/8\"]"), "nobody"),
        (also("[limits]\nconnections = 0"), "limits.connections = 0"),
        (also("[log]\nlevel = \"loud\""), "log.level = \"loud\""),
        (also("[shutdown]\ndrain = \"soon\""), "shutdown.drain = \"soon\""),
        (instead("tls.crt", "gone.crt"), "gone.crt"),
        (instead("disk = \"256 MiB\"", "disk = \"1 MiB\""), "store.disk"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_broken_files_change_nothing_and_are_told() {
    let (origin, key) = (Origin::start(), Key::new("broken-1"));
    let setup = Setup::in_front_of(&origin, &key).also("[cache]\npriority = 77\n");
    let snowbank = Arc::new(setup.start());
    let http = snowbank.http();
    let broken = broken(&setup.config().replace("[cache]\npriority = 77\n", ""));
    assert_eq!(broken.len(), 20);
    for (n, (config, told)) in broken.into_iter().enumerate() {
        let (status, text) = reload(&snowbank, &setup, config).await;
        assert!(
            status == 422 && text.starts_with("nothing changes:\n") && text.contains(told),
            "{told}: {status} {text}"
        );
        for mistake in text.lines().skip(1) {
            snowbank.log_line(&format!("reload refused, nothing changes: {mistake}"), 0);
        }
        // The configuration of before: its priority, and an upstream that has what nobody has asked for yet.
        assert_eq!(priority(&http).await, 77, "{told}");
        let object = Object::new(&format!("after-{n}"), 50_000);
        origin.publish(&object, &key);
        http.get(&http.nar_target(&object).await).await.expect_bytes(&object.file);
        snowbank.https().get("/nix-cache-info").await.expect(200);
    }
    assert!(snowbank.metrics().contains("snowbank_reloads_total{result=\"refused\"} 20"), "{}", snowbank.metrics());
    let (status, _) = reload(&snowbank, &setup, setup.config()).await;
    assert_eq!(status, 200);
}

/// A file that was cut must not make cache.nixos.org the upstream of a private cache, and one that blocks who
/// reads it must not block the reloads after it, nor the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_no_empty_file_and_waits_for_no_pipe() {
    let setup = Setup::new().upstream("http://127.0.0.1:9", &Key::new("empty-1")).also("[cache]\npriority = 77\n");
    let snowbank = Arc::new(setup.start());
    let refused = async |config: String, told: &str| {
        let (status, text) = reload(&snowbank, &setup, config).await;
        assert!(status == 422 && text.contains(told), "{told}: {status} {text}");
        assert_eq!(priority(&snowbank.http()).await, 77, "{told}");
    };
    let none = "snowbank.toml: it has no [[upstream]] any more";
    refused(String::new(), none).await;
    refused("\n# nothing but words\n".to_owned(), none).await;
    let config = setup.config();
    refused(config[..config.find("[[upstream]]").expect("one")].to_owned(), none).await;
    refused("# long\n".repeat(1 << 18), "it has more than 1048576 bytes").await;
    let file = setup.home().join("snowbank.toml");
    for kind in ["pipe", "directory"] {
        let command = if kind == "pipe" { "mkfifo" } else { "mkdir" };
        let _ = std::fs::remove_file(&file);
        assert!(std::process::Command::new(command).arg(&file).status().expect(command).success());
        for _ in 0..2 {
            let (snowbank, asked) = (Arc::clone(&snowbank), snowbank.clone());
            let asked = tokio::task::spawn_blocking(move || asked.operator("POST", "/reload", ""));
            let (status, text) = asked.await.expect("a thread");
            assert!(
                status == 422 && text.contains("this is no file, but a directory, a pipe or a device"),
                "{kind}: {text}"
            );
            assert_eq!(priority(&snowbank.http()).await, 77, "{kind}");
        }
        if kind == "pipe" {
            std::fs::remove_file(&file).expect("a pipe");
        } else {
            std::fs::remove_dir(&file).expect("a directory");
        }
    }
    let (status, text) = reload(&snowbank, &setup, setup.config()).await;
    assert_eq!(status, 200, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reload_does_not_change_is_told_by_name() {
    let setup = Setup::new().upstream("http://127.0.0.1:9", &Key::new("named-1"));
    let snowbank = Arc::new(setup.start());
    let config = setup.config().replace("memory = \"64 MiB\"", "memory = \"65 MiB\"");
    let config = format!("{config}\n[cache]\npriority = 3\nfills = 7\n[shutdown]\ndelay = \"1 s\"\n");
    let (status, text) = reload(&snowbank, &setup, config).await;
    let named = "cache.fills, shutdown.delay, store.memory";
    assert_eq!(status, 200, "{text}");
    assert_eq!(
        text,
        format!("the new configuration is in force, but with the next start only what changed in {named}\n")
    );
    snowbank.log_line(&format!("what changed in {named} takes effect with the next start only"), 0);
    assert_eq!(priority(&snowbank.http()).await, 3, "the rest is in force");
}

/// nix-cache-info for a client that comes from this address.
async fn info_from(source: &str, snowbank: &Snowbank) -> String {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{source}:0").parse().expect("an address")).expect("all of 127.0.0.0/8 is ours");
    let mut stream = socket.connect(snowbank.http_address()).await.expect("a connection");
    let request = b"GET /nix-cache-info HTTP/1.1\r\nHost: cache.test\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_the_priority_of_their_network() {
    let office = "[cache]\npriority = 50\n[[cache.priority_for]]\nnetworks = [\"127.1.0.0/16\"]\npriority = 10\n";
    let setup = Setup::new().upstream("http://127.0.0.1:9", &Key::new("office-1"));
    let snowbank = Arc::new(setup.start());
    let public = info_from("127.1.0.7", &snowbank).await;
    assert!(public.contains("cache-control: public, max-age=3600") && public.contains("Priority: 30\n"), "{public}");
    let (status, text) = reload(&snowbank, &setup, format!("{}\n{office}", setup.config())).await;
    assert_eq!(status, 200, "{text}");
    for (source, priority) in [("127.1.0.7", 10), ("127.2.0.7", 50), ("127.0.0.1", 50)] {
        let info = info_from(source, &snowbank).await;
        assert!(
            info.ends_with(&format!("\r\n\r\nStoreDir: /nix/store\nWantMassQuery: 1\nPriority: {priority}\n")),
            "{info}"
        );
        assert!(info.contains("cache-control: private, max-age=3600"), "{source}: {info}");
    }
    assert_eq!(priority(&snowbank.unix()).await, 50, "it has no address");
    let (status, _) = reload(&snowbank, &setup, setup.config()).await;
    assert_eq!(status, 200);
    assert!(info_from("127.1.0.7", &snowbank).await.contains("Priority: 30\n"));
}
