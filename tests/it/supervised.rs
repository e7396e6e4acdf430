//! What a service manager is told over its socket, and what operators ask for over the admin address.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::support::cache::{Key, Object};
use crate::support::origin::Origin;
use crate::support::snowbank::{Setup, Snowbank};

/// A socket as systemd gives one.
struct Manager(UnixDatagram);

impl Manager {
    /// What was told next.
    #[track_caller]
    fn told(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("something is told");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// The same without signs of life.
    #[track_caller]
    fn told_of_change(&self) -> String {
        loop {
            let told = self.told();
            if told.trim() != "WATCHDOG=1" {
                return told;
            }
        }
    }
}

#[test]
fn it_is_told_of_readiness_life_reloads_and_the_end() {
    let setup = Setup::new();
    let path = setup.home().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).expect("a socket"));
    manager.0.set_read_timeout(Some(Duration::from_secs(20))).expect("an option");
    let config = setup.write();
    let environment =
        [("NOTIFY_SOCKET".to_owned(), path.display().to_string()), ("WATCHDOG_USEC".to_owned(), "200000".to_owned())];
    let arguments = ["serve", "--config", config.to_str().expect("a path of text")];
    let mut snowbank = Snowbank::spawn(&[], &arguments, &environment, setup.home());
    let told = manager.told_of_change();
    assert!(told.lines().any(|line| line == "READY=1"), "{told}");
    let life = (0..3).map(|_| manager.told()).collect::<Vec<_>>();
    assert!(life.iter().all(|told| told.trim() == "WATCHDOG=1"), "{life:?}");
    snowbank.hang_up();
    let told = manager.told_of_change();
    assert!(told.contains("RELOADING=1\n") && told.contains("MONOTONIC_USEC="), "{told}");
    let told = manager.told_of_change();
    assert!(told.contains("READY=1"), "{told}");
    snowbank.ask_to_stop();
    let told = manager.told_of_change();
    assert!(told.contains("STOPPING=1"), "{told}");
    assert!(snowbank.wait().success());
}

#[test]
fn a_reload_over_the_admin_address_tells_what_came_of_it() {
    let setup = Setup::new();
    let snowbank = setup.start();
    assert_eq!(snowbank.operator("GET", "/reload", "").0, 405);
    assert_eq!(snowbank.operator("POST", "/reload", "Origin: https://elsewhere.example.org\r\n").0, 403);
    let (status, text) = snowbank.operator("POST", "/reload", "");
    assert_eq!(status, 200, "{text}");
    let file = setup.home().join("snowbank.toml");
    let broken = format!("{}\n[cache]\nnegative_ttl = \"never\"\nprioritee = 3\n", setup.config());
    std::fs::write(&file, broken).expect("a configuration file");
    let (status, text) = snowbank.operator("POST", "/reload", "");
    assert!(status == 422 && text.contains("negative_ttl") && text.contains("prioritee"), "{status} {text}");
    std::fs::write(&file, setup.config()).expect("a configuration file");
    assert_eq!(snowbank.operator("POST", "/reload", "").0, 200);
    assert!(snowbank.stop().success());
}

/// A page from elsewhere may have its own name lead to loopback, and is of the same origin for the browser then.
#[test]
fn on_loopback_operators_ask_for_an_address_and_not_for_a_name() {
    let snowbank = Setup::new().start();
    for host in ["127.0.0.1:9090", "[::1]:9090", "localhost", "LOCALHOST:1", "snowbank.localhost.", "10.0.0.1"] {
        assert_eq!(snowbank.operator_at(host, "GET", "/status", "").0, 200, "{host}");
    }
    for host in [
        "rebound.example.org:9090",
        "localhost.example.org",
        "127.0.0.1.example.org",
        "notlocalhost",
        "a",
        "a_b@",
        "a b",
        "a{b.example.org",
        "",
    ] {
        for (method, path) in [("GET", "/status"), ("GET", "/metrics"), ("GET", "/"), ("POST", "/reload")] {
            let (status, text) = snowbank.operator_at(host, method, path, "");
            assert!(status == 403 && text.contains("[admin] is on loopback"), "{host} {path}: {status} {text}");
        }
    }
    assert_eq!(snowbank.operator_at("lb.example.org", "GET", "/readyz", "").0, 200);
    assert!(snowbank.stop().success());
}

#[tokio::test]
async fn what_is_purged_is_asked_for_again_and_nothing_else_is() {
    let (origin, key) = (Origin::start(), Key::new("purge-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let [purged, stays, missing] = ["purged", "stays", "missing"].map(|name| Object::new(name, 3_000_000));
    for object in [&purged, &stays] {
        origin.publish(object, &key);
        snowbank.http().get(&object.narinfo_target()).await.expect(200);
        snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
    }
    snowbank.http().get(&missing.narinfo_target()).await.expect(404);
    snowbank.wait_until_stored();
    let hash = |object: &Object| object.narinfo_target()[1..33].to_owned();
    origin.forget();
    for (path, nars) in [(format!("/nix/store/{}-purged", hash(&purged)), 1), (hash(&missing), 0)] {
        let (status, text) = snowbank.operator("POST", &format!("/purge?path={path}"), "");
        let told: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} {text}"));
        assert_eq!((told["narinfos"].as_u64(), told["nars"].as_u64()), (Some(nars), Some(nars)), "{told}");
        assert_eq!(told["negatives"], 1 - nars, "{told}");
    }
    assert_eq!(snowbank.operator("POST", "/purge?path=/nix/store/x", "").0, 400);
    assert_eq!(snowbank.operator("GET", &format!("/purge?path={}", hash(&purged)), "").0, 405);
    origin.publish(&missing, &key);
    for object in [&purged, &stays, &missing] {
        snowbank.http().get(&object.narinfo_target()).await.expect(200);
        snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
    }
    let asked_for = |object: &Object| (origin.count(&object.narinfo_target()), origin.count(&object.file_target()));
    assert_eq!([&purged, &stays, &missing].map(asked_for), [(1, 1), (0, 0), (1, 1)]);
}
