use std::sync::Arc;

use http::{HeaderMap, Method, Version};

use super::*;
use crate::edge::Listener;
use crate::nix::cache_info::CacheInfo;
use crate::nix::signature::PublicKey;
use crate::nix::store_path::StoreDir;

const KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

fn about(keys: &[&str]) -> About {
    About {
        cache: CacheInfo { store_dir: StoreDir::default(), want_mass_query: true, priority: 30 },
        keys: keys.iter().map(|key| PublicKey::parse(key).unwrap()).collect(),
        leaves_to_clients: false,
    }
}

fn base(entrance: Entrance, forwarded: bool, target: &str, fields: &[(&'static str, &str)]) -> Base {
    let peer = Peer { forwarded, ..Peer::new(None, entrance, Arc::new(Listener::default())) };
    let headers: HeaderMap =
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    Base::of(
        &target.parse().unwrap(),
        &peer,
        Asked { method: &Method::GET, version: Version::HTTP_11, headers: &headers },
    )
}

#[test]
fn only_what_is_plainly_a_host_is_told() {
    for (host, told) in [
        ("cache.example.org", Some("cache.example.org")),
        ("Cache.Example.ORG:5080", Some("cache.example.org:5080")),
        ("127.0.0.1:80", Some("127.0.0.1:80")),
        ("[2001:DB8::1]:8080", Some("[2001:db8::1]:8080")),
        ("[::1]", Some("[::1]")),
        ("a:", Some("a")),
        ("", None),
        ("a b", None),
        ("a$(id)", None),
        ("a;b", None),
        ("a'b", None),
        ("a\"><script>", None),
        ("user@a", None),
        ("-option", None),
        ("a:65536", None),
        ("a:+1", None),
        ("a:1:2", None),
        ("[::1", None),
        ("[::1]x", None),
        ("[zz]", None),
        ("\u{e9}", None),
        ("a/b", None),
        (&"a".repeat(254), None),
    ] {
        assert_eq!(plain(host).as_deref(), told, "{host}");
    }
}

#[test]
fn the_address_is_the_one_by_which_the_client_came() {
    let told = |base: Base| base.0;
    let host = [("host", "c.example:1")];
    assert_eq!(told(base(Entrance::Plain, false, "/", &host)).as_deref(), Some("http://c.example:1"));
    assert_eq!(told(base(Entrance::Tls, false, "/", &host)).as_deref(), Some("https://c.example:1"));
    // As over HTTP/2.
    assert_eq!(told(base(Entrance::Tls, false, "https://d.example/", &host)).as_deref(), Some("https://d.example"));
    let said = [("host", "c.example"), ("x-forwarded-proto", "http, https")];
    assert_eq!(told(base(Entrance::Plain, true, "/", &said)).as_deref(), Some("https://c.example"));
    assert_eq!(told(base(Entrance::Plain, false, "/", &said)).as_deref(), Some("http://c.example"), "not believed");
    let odd = [("host", "c.example"), ("x-forwarded-proto", "javascript")];
    assert_eq!(told(base(Entrance::Tls, true, "/", &odd)).as_deref(), Some("https://c.example"));
    assert_eq!(told(base(Entrance::Plain, false, "/", &[])), None);
}

#[test]
fn the_lines_are_those_of_each_file() {
    let keys = [KEY.to_owned(), "b-1:x".to_owned()];
    let url = "http://c:1";
    assert_eq!(
        nix_conf(url, &keys),
        format!("extra-substituters = http://c:1\nextra-trusted-public-keys = {KEY} b-1:x")
    );
    assert_eq!(
        nixos(url, &keys),
        format!(
            "nix.settings = {{\n  substituters = [ \"http://c:1\" ];\n  trusted-public-keys = [\n    \"{KEY}\"\n    \"b-1:x\"\n  ];\n}};"
        )
    );
    assert_eq!(
        command(url, &keys),
        format!(
            "nix build nixpkgs#hello \\\n  --option extra-substituters http://c:1 \\\n  --option extra-trusted-public-keys '{KEY} b-1:x'"
        )
    );
    assert_eq!(
        command("http://[::1]", &[]),
        "nix build nixpkgs#hello \\\n  --option extra-substituters 'http://[::1]'"
    );
    assert_eq!(nixos(url, &[]), "nix.settings = {\n  substituters = [ \"http://c:1\" ];\n};");
}

#[test]
fn a_key_s_name_means_nothing_to_who_reads_the_lines() {
    let name = "a\"${b}'$(c)\\-1";
    assert_eq!(nix_string(name), r#""a\"\${b}'$(c)\\-1""#);
    assert_eq!(shell_word(name), r#"'a"${b}'\''$(c)\-1'"#);
    let key = KEY.replace("cache.nixos.org-1", "a<b>&\"-1");
    let page = render(&about(&[&key]), &Base(None));
    assert!(page.contains("a&lt;b&gt;&amp;&quot;-1:") && !page.contains("a<b>"), "{page}");
}

#[test]
fn every_blank_is_filled() {
    for (about, base) in [
        (about(&[KEY]), Base(Some("https://c.example".to_owned()))),
        (About { leaves_to_clients: true, ..about(&[]) }, Base(None)),
    ] {
        let page = render(&about, &base);
        assert!(!page.contains("{{") && page.contains("/nix/store"), "{page}");
        assert_eq!(page.contains(KEY), !about.keys.is_empty());
        assert_eq!(page.contains("passed on as it came"), about.leaves_to_clients);
        assert_eq!(page.contains("is not known here"), base.0.is_none());
    }
}
