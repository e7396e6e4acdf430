use super::*;

/// The cache of nixpkgs' key, for upstreams that need one.
const KEY: &str = defaults::CACHE_NIXOS_ORG.1;

fn root() -> Environment {
    Environment { root: true, ..Environment::default() }
}

/// Loads `text` from a file with `flags`; the messages without the name of the file.
fn load(text: &str, flags: &Flags) -> Result<Config, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snowbank.toml");
    std::fs::write(&path, text).unwrap();
    let prefix = format!("{}: ", path.display());
    Config::load(Some(&path), flags, &root())
        .map_err(|mistakes| mistakes.lines().iter().map(|line| line.replace(&prefix, "FILE: ")).collect())
}

/// What is wrong with `text`.
fn mistakes(text: &str) -> Vec<String> {
    load(text, &Flags::default()).expect_err("a configuration with mistakes")
}

fn with_upstream(rest: &str) -> String {
    format!("[[upstream]]\nurl = 'https://a'\npublic_keys = ['{KEY}']\n{rest}")
}

#[test]
fn without_a_file_cache_nixos_org_is_mirrored_on_loopback() {
    let config = Config::load(None, &Flags::default(), &root()).unwrap();
    let listen: Vec<_> = config.listen.iter().map(|l| (l.address.to_string(), l.tls)).collect();
    assert_eq!(listen, [("127.0.0.1:5443".to_owned(), true), ("127.0.0.1:5080".to_owned(), false)]);
    assert_eq!(config.upstream.len(), 1);
    assert_eq!(config.upstream[0].url.to_string(), "https://cache.nixos.org");
    assert_eq!(config.upstream[0].trust, upstream::options::Trust::Keys);
    assert_eq!(config.upstream[0].public_keys[0].to_string(), KEY);
    assert_eq!(config.state_dir(), Some(Path::new("/var/lib/snowbank")));
    assert_eq!(load("", &Flags::default()), Ok(config), "an empty file is no file");
}

#[test]
fn every_mistake_is_told_at_once() {
    let text = "
lisen = 1
[[listen]]
address = 'localhost:443'
[[listen]]
tls = 'yes'
[[upstream]]
url = 'https://user:word@cache.example.org'
trust = 'none'
public_key = []
[[upstream]]
public_keys = ['cache.example.org-1']
connect_timeout = '5'
[cache]
fills = -1
[log]
format = 'xml'
colour = true
[store]
disk = 200
";
    assert_eq!(
        mistakes(text),
        [
            "FILE: listen[0].address = \"localhost:443\": expected an address and port such as \"0.0.0.0:443\" or \
             \"[::]:443\", \"unix:/path/to/socket\", or \"fd:NAME\" for a socket that systemd opens",
            "FILE: listen[1].address: missing; expected an address and port such as \"0.0.0.0:443\" or \
             \"[::]:443\", \"unix:/path/to/socket\", or \"fd:NAME\" for a socket that systemd opens",
            "FILE: listen[1].tls = \"yes\": expected true or false",
            "FILE: store.disk = 200: expected a size such as \"200 GiB\", \"64 MiB\" or \"500 GB\"",
            "FILE: upstream[0].url = \"https://***@cache.example.org\": expected an address without user and password",
            "FILE: upstream[0].trust = \"none\": expected \"keys\" or \"origin\" or \"pass\"",
            "FILE: upstream[0].public_key: no such option; did you mean `public_keys`?",
            "FILE: upstream[1].url: missing; expected an address such as \"https://cache.example.org\" or \
             \"http://127.0.0.1:5000/prefix\", a bucket such as \"s3://bucket?region=eu-west-1\", or a directory such as \
             \"file:///mnt/cache\"",
            "FILE: upstream[1].public_keys[0] = \"cache.example.org-1\": expected <key name>:<base 64 of 32 bytes>, as \
             in nix.conf's trusted-public-keys",
            "FILE: upstream[1].connect_timeout = \"5\": expected a time such as \"2 s\", \"500 ms\" or \"30 days\"",
            "FILE: cache.fills = -1: expected a whole number, 0 or more",
            "FILE: log.format = \"xml\": expected \"text\" or \"json\"",
            "FILE: log.colour: no such option; the options here are level, format, access, sample_hits, traceparent, server_timing, otlp, otlp_share",
            "FILE: lisen: no such option; did you mean `listen`?",
        ]
    );
}

#[test]
fn a_mistake_of_form_does_not_hide_the_others() {
    assert_eq!(
        mistakes("[cache]\nfills = 0\n[log]\nlevel = 'loud'\n[admin]\naddress = '127.0.0.1:5080'"),
        [
            "FILE: log.level = \"loud\": expected \"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\", or a \
             list by part such as \"info,snowbank::fill=debug\"",
            "FILE: cache.fills = 0: expected at least 1",
            "FILE: admin.address = \"127.0.0.1:5080\": expected an address other than that of listen[1].address",
        ]
    );
}

/// What stands for a refused value is wrong in other ways, which are not told.
#[test]
fn a_default_in_place_of_a_refused_value_is_no_mistake() {
    let cases = [
        ("[[upstream]]\nurl = 'https://a'\npublic_keys = ['x']", "upstream[0].public_keys[0]"),
        ("[[upstream]]\nurl = 'https://a'\ntrust = 'none'", "upstream[0].trust"),
        ("[[listen]]\naddress = 'x'\n[admin]\naddress = '127.0.0.1:5443'", "listen[0].address"),
        ("[[listen]]\naddress = '0.0.0.0:443'\n[tls]\ncert_file = 1", "tls.cert_file"),
        ("tls = 1\n[[listen]]\naddress = '0.0.0.0:443'", "tls"),
        ("upstream = []\nlisten = 'x'", "listen"),
    ];
    for (text, key) in cases {
        let found = mistakes(text);
        assert!(found[0].starts_with(&format!("FILE: {key} = ")), "{text}: {found:?}");
        let others: &[&str] =
            if key == "listen" { &["FILE: upstream: missing; expected at least one upstream"] } else { &[] };
        assert_eq!(found[1..], *others, "{text}");
    }
}

#[test]
fn every_mistake_between_tables_is_told_at_once() {
    let text = format!(
        "
[[listen]]
address = '0.0.0.0:443'
[[listen]]
address = '127.0.0.1:80'
tls = false
[[listen]]
address = '127.0.0.1:80'
[[upstream]]
url = 'https://a'
[[upstream]]
url = 'https://a/other'
trust = 'origin'
connections = 1
[[upstream]]
url = 'http://localhost:443'
public_keys = ['{KEY}']
stall_timeout = '0 s'
[cache]
negative_ttl = '2 min'
fills = 0
[limits]
connections = 0
[store]
disk = '10 MiB'
memory = '0 B'
[tls]
[admin]
address = '127.0.0.1:80'
[library]
url = 'http://127.0.0.1/library'
"
    );
    assert_eq!(
        mistakes(&text),
        [
            "FILE: upstream[0].public_keys: missing; expected at least one key, because trust is \"keys\"; \"origin\" \
             trusts everything, \"pass\" leaves it to the clients",
            "FILE: upstream[1].connections = 1: expected at least 2: one for NARs and one for everything else",
            "FILE: upstream[2].stall_timeout = \"0 ms\": expected more than \"0 ms\"",
            "FILE: cache.negative_ttl = \"2 minutes\": expected at most \"60 s\"",
            "FILE: cache.fills = 0: expected at least 1",
            "FILE: limits.connections = 0: expected at least 1",
            "FILE: store.disk = \"10 MiB\": expected at least \"64 MiB\", or \"0 B\" for none",
            "FILE: store.memory = \"0 B\": expected at least \"16 MiB\"",
            "FILE: listen[2].address = \"127.0.0.1:80\": expected an address other than that of listen[1].address",
            "FILE: admin.address = \"127.0.0.1:80\": expected an address other than that of listen[1].address",
            "FILE: tls.names: missing; expected the names or IP addresses that clients use, because listen[0] = \
             \"0.0.0.0:443\" serves other machines over TLS",
            "FILE: upstream[1].name = \"a\": expected a name that is not that of upstream[0]",
            "FILE: upstream[2].url = \"http://localhost:443\": expected another server; this is listen[0] itself",
            "FILE: library.url = \"http://127.0.0.1/library\": expected a bucket such as \"s3://bucket?region=eu-west-1\", or \
             a directory such as \"file:///srv/library\"",
        ]
    );
    let named = mistakes(&with_upstream("name = 'library'\n[library]\nurl = 'file:///srv/library'"));
    let told = "FILE: upstream[0].name = \"library\": expected another name, because the library has this one";
    assert_eq!(named, [told]);
    let unbelievable = mistakes("[[upstream]]\nurl = 'https://a'\ntrust = 'origin'\n[library]\nurl = 'file:///srv'");
    assert!(unbelievable.len() == 1 && unbelievable[0].starts_with("FILE: library: nothing"), "{unbelievable:?}");
}

#[test]
fn what_is_not_toml_is_told_by_line_and_without_its_text() {
    let found = mistakes("[store]\ndir = /secret\n[log]\nlevel = \n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("FILE: line 2, column "), "{found:?}");
    assert!(found[1].starts_with("FILE: line 4, column "), "{found:?}");
    assert!(!found.concat().contains("secret"), "{found:?}");
}

#[test]
fn files_are_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let present = dir.path().join("cert.pem");
    std::fs::write(&present, "").unwrap();
    let text = format!(
        "{}\n[tls]\ncert_file = {:?}\nkey_file = {:?}",
        with_upstream("ca_file = '/does/not/exist.pem'"),
        present,
        dir.path()
    );
    let found = mistakes(&text);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(
        found[0],
        "FILE: upstream[0].ca_file = \"/does/not/exist.pem\": expected a file that can be read; No such file or \
         directory (os error 2)"
    );
    assert!(found[1].starts_with("FILE: tls.cert_file: ") && found[1].contains("BEGIN CERTIFICATE"), "{found:?}");
    assert!(found[2].starts_with("FILE: tls.key_file: ") && found[2].contains("directory"), "{found:?}");
    let half = mistakes(&format!("[tls]\ncert_file = {present:?}"));
    assert_eq!(half, ["FILE: tls.key_file: missing; expected a path, because cert_file is set"]);
}

/// What `serve` would refuse after its start is refused before it.
#[test]
fn files_are_loaded_as_for_serving() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let made = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        (
            file(&format!("{name}.crt"), &made.cert.pem()),
            file(&format!("{name}.key"), &made.signing_key.serialize_pem()),
        )
    };
    let ((cert, key), (_, other)) = (made("a"), made("b"));
    let garbage = file("garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let text = |ca: &Path, cert: &Path, key: &Path| {
        format!("{}\n[tls]\ncert_file = {cert:?}\nkey_file = {key:?}", with_upstream(&format!("ca_file = {ca:?}")))
    };
    load(&text(&cert, &cert, &key), &Flags::default()).unwrap();
    let found = mistakes(&text(&garbage, &cert, &other));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("FILE: tls.key_file: ") && found[0].contains("not the private key of"), "{found:?}");
    assert!(found[1].starts_with("FILE: upstream[0].ca_file: "), "{found:?}");
    let found = mistakes(&text(&key, &garbage, &cert));
    let keys: Vec<&str> = found.iter().map(|line| line.split(": ").nth(1).unwrap()).collect();
    assert_eq!(keys, ["tls.key_file", "upstream[0].ca_file"], "{found:?}");
    let found = mistakes(&text(&cert, &garbage, &key));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("FILE: tls.cert_file: "), "{found:?}");
}

#[test]
fn a_file_that_is_not_there_is_told_with_wrong_flags() {
    let flags = Flags { upstream: vec!["x".to_owned()], ..Flags::default() };
    let found = Config::load(Some(Path::new("/does/not/exist.toml")), &flags, &root()).unwrap_err();
    assert_eq!(found.lines().len(), 2, "{found}");
    assert_eq!(found.lines()[0], "/does/not/exist.toml: cannot be read: No such file or directory (os error 2)");
    assert!(found.lines()[1].starts_with("--upstream[0].url = \"x\": expected"), "{found}");
}

#[test]
fn flags_replace_what_the_file_says_and_are_named_in_messages() {
    let flags = Flags {
        upstream: vec!["http://b".to_owned()],
        listen: vec!["http://127.0.0.1:0".to_owned(), "http://127.0.0.1:0".to_owned()],
        dir: Some("/d".into()),
    };
    let config = load(&with_upstream("[[listen]]\naddress = '127.0.0.1:1'"), &flags).unwrap();
    assert_eq!((config.upstream[0].display_name().as_str(), config.upstream.len()), ("b", 1));
    assert_eq!((config.listen[0].address.to_string().as_str(), config.listen.len()), ("127.0.0.1:0", 2));
    assert_eq!(config.state_dir(), Some(Path::new("/d")));

    let flags = Flags {
        upstream: vec!["http://127.0.0.1:1".to_owned()],
        listen: vec!["http://127.0.0.1:1".to_owned()],
        ..Flags::default()
    };
    let found = load("", &flags).unwrap_err();
    assert_eq!(
        found,
        ["--upstream[0].url = \"http://127.0.0.1:1\": expected another server; this is --listen[0] itself"]
    );
}

#[test]
fn what_is_printed_reads_the_same() {
    let text = format!(
        "
[[listen]]
address = 'unix:/run/s'
[[listen]]
address = '[::1]:0'
tls = false
[[upstream]]
url = 'https://cache.example.org/a'
name = 'office'
priority = 3
when_down = 'miss'
public_keys = ['{KEY}']
[[upstream]]
url = 'http://127.0.0.1:5000'
trust = 'pass'
connections = 7
[log]
access = false
[store]
dir = '/with \"quotes\"'
"
    );
    let config = load(&text, &Flags::default()).unwrap();
    for detail in [Detail::Values, Detail::Documented] {
        let printed = config.print(detail);
        assert_eq!(load(&printed, &Flags::default()).as_ref(), Ok(&config), "{printed}");
        assert_eq!(load(&printed, &Flags::default()).unwrap().print(detail), printed);
    }
}

proptest::proptest! {
    #[test]
    fn the_law_holds_for_generated_lines(lines in proptest::collection::vec(line(), 0..12)) {
        laws::config(lines.join("\n").as_bytes());
    }
}

#[test]
fn the_law_holds_for_the_corpus() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
    let files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "no corpus in {}", dir.display());
    for file in files {
        laws::config(&std::fs::read(&file).unwrap());
    }
}

/// Lines of configurations: right ones, ones with a slip, and noise.
fn line() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let table =
        prop::sample::select(vec!["[store]", "[cache]", "[log]", "[[listen]]", "[[upstream]]", "[tls]", "[admin]"]);
    let key = prop::sample::select(vec![
        "dir", "disk", "url", "name", "priority", "address", "tls", "level", "names", "fills",
    ]);
    let value = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<bool>().prop_map(|b| b.to_string()),
        prop::sample::select(vec![
            "'http://a'",
            "'[::1]:0'",
            "'a'",
            "['a', \"\\u0007\"]",
            "'7 MiB'",
            "'warn'",
            "{ a = 1 }"
        ])
        .prop_map(str::to_owned),
        ".{0,12}",
    ];
    prop_oneof![
        2 => table.prop_map(str::to_owned),
        4 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => ".{0,20}",
    ]
}
