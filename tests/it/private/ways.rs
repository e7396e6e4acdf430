//! By which ways a client is let in, and how it is not any more.

use super::{Office, Token};
use crate::support::authority::{Authority, Kind, Leaf};
use crate::support::cache::{Key, Object};
use crate::support::client::Target;
use crate::support::origin::Origin;
use crate::support::snowbank::{Setup, Snowbank, run};
use crate::support::tls::Hello;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn a_token_is_shown_as_nix_does_or_as_bearer() {
    let office = Office::new();
    let object = Object::new("shown", 1000);
    office.publish(&object);
    let snowbank = office.setup.start();
    for client in [snowbank.http(), snowbank.https(), snowbank.unix()] {
        for shown in [office.token.basic(), office.token.bearer()] {
            let narinfo = client.get_with(&object.narinfo_target(), &[("Authorization", &shown)]).await.expect(200);
            assert!(narinfo.text().contains(&object.base_name));
        }
        client.get_with("/nix-cache-info", &[("Authorization", &office.token.basic())]).await.expect(200);
        client.get("/nix-cache-info").await.expect(200);
    }
}

#[tokio::test]
async fn each_request_of_a_connection_is_judged_by_itself() {
    let office = Office::new();
    let object = Object::new("judged", 1000);
    office.publish(&object);
    let snowbank = office.setup.start();
    let request = |rest: &str| format!("GET {} HTTP/1.1\r\nHost: x\r\n{rest}\r\n", object.narinfo_target());
    let shown = format!("Authorization: {}\r\n", office.token.basic());
    for client in [snowbank.http(), snowbank.https()] {
        let mut connection = client.connect().await;
        let all = [request(""), request(&shown), request(""), request(&(shown.clone() + "Connection: close\r\n"))];
        connection.send(all.concat().as_bytes()).await;
        let said = String::from_utf8(connection.until_closed().await).expect("text");
        let statuses: Vec<&str> = said.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses, ["404", "200", "404", "200"], "{said}");
    }
}

#[tokio::test]
async fn a_token_that_is_taken_out_is_worth_nothing_at_once_and_so_is_a_table() {
    let office = Office::new();
    let object = Object::new("revoked", 300_000);
    office.publish(&object);
    let snowbank = office.setup.start();
    let client = snowbank.http();
    office.get(&client, &object.served_target()).await.expect_bytes(&object.file);
    let second = Token::new("second");
    std::fs::write(office.tokens(), &second.line).expect("a file of tokens");
    snowbank.log_line("the tokens were read again", 0);
    for target in [object.narinfo_target(), object.served_target()] {
        office.get(&client, &target).await.expect(404);
        client.get_with(&target, &[("Authorization", &second.bearer())]).await.expect(200);
    }
    // A file that cannot be used changes nothing, not even by a reload.
    std::fs::write(office.tokens(), "this is no token").expect("a file of tokens");
    snowbank.log_line("the tokens cannot be read", 0);
    snowbank.hang_up();
    snowbank.log_line("reload refused", 0);
    client.get_with(&object.narinfo_target(), &[("Authorization", &second.bearer())]).await.expect(200);
    // By SIGHUP: the same file, back to the first token.
    std::fs::write(office.tokens(), &office.token.line).expect("a file of tokens");
    snowbank.hang_up();
    snowbank.log_line("reloaded", 0);
    office.get(&client, &object.narinfo_target()).await.expect(200);
    client.get_with(&object.narinfo_target(), &[("Authorization", &second.bearer())]).await.expect(404);
}

#[tokio::test]
async fn an_upstream_comes_and_goes_with_a_reload() {
    let office = Office::new();
    let object = Object::new("coming", 1000);
    office.publish(&object);
    let keys = format!("public_keys = [{:?}]", office.key.public());
    let with = office.setup.config();
    let path = office.setup.write();
    let public = format!("[[upstream]]\nurl = {:?}\nname = \"public\"\n{keys}\n", office.public.url());
    let without = with[..with.find("[[upstream]]").expect("there are some")].to_owned() + &public;
    let snowbank = office.setup.start();
    let client = snowbank.http();
    office.get(&client, &object.narinfo_target()).await.expect(200);
    std::fs::write(&path, &without).expect("a configuration");
    snowbank.hang_up();
    snowbank.log_line("reloaded", 0);
    office.get(&client, &object.narinfo_target()).await.expect(404);
    std::fs::write(&path, &with).expect("a configuration");
    snowbank.hang_up();
    snowbank.log_line("reloaded", 1);
    office.get(&client, &object.narinfo_target()).await.expect(200);
    assert_eq!(office.work.count(&object.narinfo_target()), 1, "it was kept");
}

#[tokio::test]
async fn two_private_upstreams_do_not_mix() {
    let (one, other, key) = (Origin::start(), Origin::start(), Key::new("two-1"));
    let (a, b) = (Token::new("a"), Token::new("b"));
    let setup = Setup::new();
    let mut tables = String::new();
    for (name, token) in [("one", &a), ("other", &b)] {
        let file = setup.home().join(name);
        std::fs::write(&file, &token.line).expect("a file of tokens");
        tables.push_str(&format!("[[access]]\nupstreams = [{name:?}]\ntoken_files = [{file:?}]\n"));
    }
    let lines = |name: &str| format!("name = {name:?}\nprivate = true\npublic_keys = [{:?}]", key.public());
    let setup =
        setup.upstream_with(&one.url(), &lines("one")).upstream_with(&other.url(), &lines("other")).also(&tables);
    let (mine, theirs, shared) =
        (Object::new("mine", 300_000), Object::new("others", 300_000), Object::new("both", 3000));
    one.publish(&mine, &key);
    other.publish(&theirs, &key);
    for origin in [&one, &other] {
        origin.publish(&shared, &key);
    }
    let snowbank = setup.start();
    let client = snowbank.http();
    for _ in 0..2 {
        for (token, own, foreign) in [(&a, &mine, &theirs), (&b, &theirs, &mine)] {
            let shown = token.bearer();
            let fields = [("Authorization", shown.as_str())];
            client.get_with(&own.served_target(), &fields).await.expect_bytes(&own.file);
            client.get_with(&shared.served_target(), &fields).await.expect_bytes(&shared.file);
            for target in super::targets(foreign) {
                client.get_with(&target, &fields).await.expect(404);
            }
        }
        client.get(&shared.served_target()).await.expect(404);
    }
    for origin in [&one, &other] {
        assert_eq!(origin.count(&shared.file_target()), 1, "each for its own clients");
    }
}

#[tokio::test]
async fn what_is_private_is_so_after_a_restart_and_is_examined_too() {
    let office = Office::new();
    let object = Object::new("restarted", 700_000);
    office.publish(&object);
    let snowbank = office.setup.start();
    snowbank.wait_for_disk();
    office.get(&snowbank.http(), &object.served_target()).await.expect_bytes(&object.file);
    snowbank.wait_until_stored();
    snowbank.kill();
    let config = office.setup.write();
    let verified = run(&["verify", "--config", config.to_str().expect("a path of text")]);
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).expect("a report");
    assert_eq!(
        (&report["narinfos"]["seen"], &report["nars"]["seen"], &report["wrong"]),
        (&1.into(), &1.into(), &0.into()),
        "{report}"
    );
    assert_eq!(report["nars"]["proven"], 1, "{report}");
    let snowbank = office.setup.start();
    snowbank.wait_for_disk();
    office.work.forget();
    for target in [object.narinfo_target(), object.served_target()] {
        snowbank.http().get(&target).await.expect(404);
        office.get(&snowbank.http(), &target).await.expect(200);
    }
    assert_eq!(office.work.total(), 0, "{:?}", office.work.requests());
}

/// An upstream with one path, granted by this table.
fn granted_by(conditions: &str, change: impl FnOnce(Setup) -> Setup) -> (Origin, Object, Snowbank) {
    let (work, key, object) = (Origin::start(), Key::new("way-1"), Object::new("way", 1000));
    work.publish(&object, &key);
    let lines = format!("name = \"work\"\nprivate = true\npublic_keys = [{:?}]", key.public());
    let setup = Setup::new().upstream_with(&work.url(), &lines);
    let setup = setup.also(&format!("[[access]]\nupstreams = [\"work\"]\n{conditions}"));
    let snowbank = change(setup).start();
    (work, object, snowbank)
}

#[tokio::test]
async fn a_network_lets_in_who_comes_from_it_and_nobody_who_has_no_address() {
    let (_work, object, snowbank) = granted_by("networks = [\"192.0.2.0/24\", \"127.0.0.0/8\"]", |setup| setup);
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    snowbank.unix().get(&object.narinfo_target()).await.expect(404);
    let (_work, object, snowbank) = granted_by("networks = [\"192.0.2.0/24\"]", |setup| setup);
    let forwarded = [("X-Forwarded-For", "192.0.2.1"), ("Forwarded", "for=192.0.2.1"), ("X-Real-IP", "192.0.2.1")];
    snowbank.http().get_with(&object.narinfo_target(), &forwarded).await.expect(404);
}

#[tokio::test]
async fn a_listener_lets_in_who_comes_to_it() {
    let (_work, object, snowbank) =
        granted_by("listeners = [\"inside\"]", |setup| setup.plain_listener("name = \"inside\""));
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    snowbank.https().get(&object.narinfo_target()).await.expect(404);
    snowbank.unix().get(&object.narinfo_target()).await.expect(404);
}

#[tokio::test]
async fn a_closed_listener_answers_nobody_else() {
    let mut office = Office::new();
    office.setup = office.setup.clone().tls_listener("serves = \"granted\"");
    let object = Object::new("closed", 1000);
    office.publish(&object);
    let snowbank = office.setup.start();
    let client = snowbank.https();
    for target in ["/nix-cache-info", "/", &object.narinfo_target(), &Object::new("none", 1).narinfo_target()] {
        for fields in [&[][..], &[("Authorization", "Bearer wrong")]] {
            let answer = client.get_with(target, fields).await.expect(401);
            assert!(answer.field("www-authenticate").is_some_and(|field| field.starts_with("Basic ")), "{target}");
            assert_eq!(answer.field("cache-control"), Some("no-store"));
        }
    }
    assert_eq!(office.work.total() + office.public.total(), 0);
    for target in ["/nix-cache-info", &object.narinfo_target()] {
        office.get(&client, target).await.expect(200);
    }
    let public = Object::new("public", 1000);
    office.public.publish(&public, &office.key);
    office.get(&client, &public.narinfo_target()).await.expect(200);
    snowbank.http().get(&public.narinfo_target()).await.expect(200);
}

const CLIENT: Leaf = Leaf { client: true, kind: Kind::Ecdsa, from: -60, until: 3600 };

/// The status of what a client with this certificate asks for.
async fn status(snowbank: &Snowbank, hello: Hello, target: &str) -> u16 {
    let Target::Https(address, _) = snowbank.https() else { panic!("it speaks TLS") };
    let mut stream = hello.connected(address).await.expect("a connection");
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status")
}

#[tokio::test]
async fn a_certificate_lets_in_whom_it_names() {
    let authority = Authority::new("clients of private upstreams");
    let (_work, object, snowbank) = granted_by("certificates = [\"ci.example.org\", \"*.lab.example.org\"]", |setup| {
        let file = setup.home().join("clients.pem");
        std::fs::write(&file, &authority.pem).expect("a certificate file");
        setup.tls_listener(&format!("client_certificates = \"optional\"\nclient_ca_file = {file:?}"))
    });
    let target = object.narinfo_target();
    for name in ["ci.example.org", "a.lab.example.org"] {
        let hello = Hello::to("localhost").with(&authority.issue(&[name], CLIENT));
        assert_eq!(status(&snowbank, hello, &target).await, 200, "{name}");
    }
    for name in ["other.example.org", "lab.example.org", "*.lab.example.org"] {
        let hello = Hello::to("localhost").with(&authority.issue(&[name], CLIENT));
        assert_eq!(status(&snowbank, hello, &target).await, 404, "{name}");
    }
    assert_eq!(status(&snowbank, Hello::to("localhost"), &target).await, 404);
    let plain: Target = snowbank.http();
    plain.get(&target).await.expect(404);
}

#[test]
fn what_would_be_open_to_more_or_fewer_than_it_looks_is_told_before_anything_is_served() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let check = |lines: &str| {
        let file = dir.path().join("snowbank.toml");
        std::fs::write(&file, format!("store = {{ dir = {:?} }}\n{lines}", dir.path().join("s"))).expect("a file");
        let checked = run(&["check-config", file.to_str().expect("a path of text")]);
        (checked.status.success(), String::from_utf8_lossy(&checked.stderr).into_owned())
    };
    let listen = "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = false\nname = \"inside\"\n";
    let work = "[[upstream]]\nurl = \"http://work\"\nname = \"work\"\nprivate = true\ntrust = \"pass\"\n";
    let access = |lines: &str| format!("[[access]]\nupstreams = [\"work\"]\n{lines}\n");
    let fine = format!("{listen}{work}{}", access("listeners = [\"inside\"]"));
    assert_eq!(check(&fine), (true, String::new()));
    for (lines, told) in [
        (format!("{listen}{work}"), "upstream[0].private = true"),
        (format!("{listen}{work}{}", access("")), "everything to everybody"),
        (format!("{listen}{work}{}", access("listeners = [\"outside\"]")), "access[0].listeners[0] = \"outside\""),
        (format!("{listen}{work}{}", access("networks = [\"10.0.0.1/8\"]")), "access[0].networks[0]"),
        (format!("{listen}{work}{}", access("certificates = [\"a.example\"]")), "no listener asks"),
        (format!("{listen}{work}{}", access("token_files = [\"/absent/tokens\"]")), "access[0].token_files[0]"),
        (format!("{fine}[[access]]\nupstreams = [\"play\"]\nlisteners = [\"inside\"]"), "the name of an upstream"),
        (fine.replace("private = true", "private = false"), "a private upstream"),
        (listen.replace(":1\"", ":2\"") + &fine, "a name that is not that of listen[0]"),
        (
            format!("{listen}serves = \"granted\"\n[[upstream]]\nurl = \"http://a\"\ntrust = \"pass\""),
            "nobody would be served",
        ),
    ] {
        let (ok, said) = check(&lines);
        assert!(!ok && said.contains(told), "{lines}: {said}");
        assert_eq!(said.lines().count(), 1, "{lines}: {said}");
    }
}

/// A condition that was written for a new listener must not hold at the old one, which runs on.
#[tokio::test]
async fn a_reload_whose_conditions_speak_of_other_listeners_is_refused() {
    let origin = Origin::start();
    let key = Key::new("work-1");
    let lines = format!("private = true\nname = \"work\"\npublic_keys = [{:?}]", key.public());
    let access = |conditions: &str| format!("[[access]]\nupstreams = [\"work\"]\n{conditions}\n");
    let setup = |listener: &str, conditions: &str| {
        let setup = Setup::new().upstream_with(&origin.url(), &lines);
        setup.plain_listener(listener).also(&access(conditions))
    };
    let object = Object::new("opened", 1000);
    origin.publish(&object, &key);
    let closed = setup("name = \"main\"", "networks = [\"192.0.2.0/24\"]");
    let snowbank = closed.start();
    let is_open = async |expected| snowbank.http().get(&object.narinfo_target()).await.expect(expected);
    is_open(404).await;
    // Another address is meant, and nobody listens there yet.
    let text = closed.config().replace("192.0.2.0/24", "").replace("networks = [\"\"]", "listeners = [\"main\"]");
    snowbank.reload_text(&closed, &text.replacen("name = \"main\"", "name = \"main\"\nserves = \"granted\"", 1));
    snowbank.log_line("reload refused, nothing changes: [[access]] asks for `listeners`", 0);
    is_open(404).await;
    snowbank.reload_text(&closed, &text);
    snowbank.log_line("reloaded: the new configuration is in force", 0);
    is_open(200).await;
}

#[tokio::test]
async fn nothing_of_a_listener_for_the_granted_alone_may_be_kept_in_between() {
    let (origin, key) = (Origin::start(), Key::new("public-1"));
    let object = Object::new("in-between", 1000);
    origin.publish(&object, &key);
    let work = Origin::start();
    let lines = format!("private = true\nname = \"work\"\npublic_keys = [{:?}]", key.public());
    let setup = Setup::in_front_of(&origin, &key).upstream_with(&work.url(), &lines);
    let access = "[[access]]\nupstreams = [\"work\"]\nnetworks = [\"127.0.0.0/8\"]\n";
    let snowbank = setup.plain_listener("serves = \"granted\"").also(access).start();
    for target in ["/nix-cache-info".to_owned(), object.narinfo_target(), object.served_target()] {
        let closed = snowbank.http().get(&target).await.expect(200);
        assert!(closed.field("cache-control").is_some_and(|value| value.starts_with("private")), "{target}");
        assert_eq!(closed.field("vary").map(str::to_lowercase).as_deref(), Some("authorization"), "{target}");
        let open = snowbank.https().get(&target).await.expect(200);
        assert!(open.field("cache-control").is_some_and(|value| value.starts_with("public")), "{target}");
    }
}
