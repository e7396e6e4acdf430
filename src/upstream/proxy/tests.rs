use std::collections::HashMap;

use super::*;
use crate::options::Table as _;

fn shown(text: &str) -> Option<String> {
    parse(text).ok().map(|(proxy, _)| proxy.to_string())
}

#[test]
fn addresses_of_proxies_are_read_as_curl_reads_them() {
    for (text, is) in [
        ("http://p:3128", "http://p:3128"),
        ("http://p:3128/", "http://p:3128"),
        ("HTTP://P.Example:80/", "http://p.example:80"),
        ("http://p", "http://p:1080"),
        ("p:8080", "http://p:8080"),
        ("https://p", "https://p:443"),
        ("https://p:8443", "https://p:8443"),
        ("socks5://127.0.0.1", "socks5://127.0.0.1:1080"),
        ("socks5h://[::1]:9050", "socks5://[::1]:9050"),
        ("http://user:word@p:3128", "http://p:3128"),
    ] {
        assert_eq!(shown(text).as_deref(), Some(is), "{text}");
    }
    for text in
        ["", "socks4://p", "ftp://p", "http://", "http://p/path", "http://p?q", "http://p:x", "http://a b", "p\n"]
    {
        assert_eq!(shown(text), None, "{text}");
    }
    let (_, login) = parse("http://us%40er:pass%3aw0rd@p:3128").unwrap();
    assert_eq!(login, Some(("us@er".into(), "pass:w0rd".into())));
}

/// The environment as a test has it.
fn routes(variables: &[(&str, &str)]) -> Routes {
    let variables: HashMap<_, _> = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Routes::from_environment(|name| variables.get(name).cloned()).unwrap()
}

fn through(routes: &Routes, uri: &str) -> String {
    routes.of(&uri.parse().unwrap()).map_or("none".into(), |via| via.proxy.host.clone())
}

#[test]
fn the_environment_decides_as_for_curl() {
    let both = ["http://a.example/", "https://a.example/"];
    for (variables, expected) in [
        (&[][..], ["none", "none"]),
        (&[("https_proxy", "s:1")], ["none", "s"]),
        (&[("HTTPS_PROXY", "s:1")], ["none", "s"]),
        (&[("https_proxy", "s:1"), ("HTTPS_PROXY", "upper:1")], ["none", "s"]),
        (&[("http_proxy", "h:1")], ["h", "none"]),
        (&[("HTTP_PROXY", "h:1")], ["none", "none"]),
        (&[("all_proxy", "socks5://x:1")], ["x", "x"]),
        (&[("ALL_PROXY", "x:1"), ("http_proxy", "h:1")], ["h", "x"]),
        (&[("ALL_PROXY", "x:1"), ("http_proxy", "")], ["x", "x"]),
    ] {
        let routes = routes(variables);
        assert_eq!(both.map(|uri| through(&routes, uri)), expected, "{variables:?}");
    }
    let broken = Routes::from_environment(|name| (name == "https_proxy").then(|| "socks4://u:w0rd@p".into()));
    let told = broken.unwrap_err();
    assert!(told.starts_with("the environment variable https_proxy is not") && !told.contains("w0rd"), "{told}");
}

#[test]
fn no_proxy_excepts_names_with_what_is_below_them_addresses_and_networks() {
    let variables = [("all_proxy", "p:1"), ("no_proxy", "b.example, .c.example 10.0.0.0/8,192.0.2.7 [::2],fd00::/8")];
    let some = routes(&variables);
    for (host, is) in [
        ("a.example", "p"),
        ("b.example", "none"),
        ("B.Example:8080", "none"),
        ("x.b.example", "none"),
        ("xb.example", "p"),
        ("x.c.example", "none"),
        ("10.1.2.3:5000", "none"),
        ("11.1.2.3", "p"),
        ("192.0.2.7", "none"),
        ("[fd00::1]:80", "none"),
        ("[fe00::1]", "p"),
    ] {
        assert_eq!(through(&some, &format!("http://{host}/")), is, "{host}");
    }
    let all = routes(&[("ALL_PROXY", "p:1"), ("NO_PROXY", "*")]);
    assert_eq!(through(&all, "https://a.example/"), "none");
}

#[test]
fn this_machine_is_not_asked_through_a_proxy_of_the_environment() {
    let routes = routes(&[("all_proxy", "p:1")]);
    for host in ["localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000", "x.localhost", "LOCALHOST."] {
        assert_eq!(through(&routes, &format!("http://{host}/")), "none", "{host}");
    }
    assert_eq!(through(&routes, "http://10.0.0.1/"), "p");
}

#[test]
fn r14_what_a_proxy_connects_to_is_known_by_its_text() {
    for (reach, hosts) in [
        (Reach::Machine, ["localhost", "a.localhost.", "127.0.0.1", "[::1]", "ip6-localhost"]),
        (Reach::Private, ["minio", "a.local", "metadata.google.internal", "nas.home.arpa", "10.0.0.1"]),
        (Reach::Public, ["a.example", "local.example", "1.1.1.1", "[2a04:4e42::729]", "internal.example.org"]),
        (Reach::Link, ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.1.1]", "0xa9fea9fe", "169.254.1"]),
    ] {
        for host in hosts {
            assert_eq!(super::reach(&format!("http://{host}/").parse().unwrap()), reach, "{host}");
        }
    }
}

fn mistakes(lines: &str) -> String {
    match Options::from_toml(&format!("url = 'https://a'\ntrust = 'pass'\n{lines}")) {
        Err(mistakes) => mistakes.to_string(),
        Ok(options) => {
            let mut mistakes = Mistakes::default();
            options.check("upstream", &mut mistakes);
            mistakes.to_string()
        }
    }
}

#[test]
fn what_cannot_be_meant_is_refused_without_showing_a_password() {
    for (lines, told) in [
        ("proxy = 'http://user:w0rd@p:3128'", "set proxy_user and proxy_password_file"),
        ("proxy = 'p:3128'", "\"none\", or an address"),
        ("proxy = 'socks4://u:w0rd@p'", "\"none\", or an address"),
        ("proxy = 7", "\"none\", or an address"),
        ("proxy = 'http://p'\nproxy_user = 'u'", "proxy_password_file"),
        ("proxy = 'http://p'\nproxy_password_file = '/x'", "proxy_user"),
        ("proxy = 'none'\nproxy_user = 'u'\nproxy_password_file = '/x'", "because `proxy_user` is given"),
        ("proxy = 'http://p'\nproxy_user = 'u:v'\nproxy_password_file = '/x'", "without colons"),
        ("proxy = 'http://p'\nsocket = '/x'", "which no proxy leads to"),
    ] {
        let found = mistakes(lines);
        assert!(found.contains(told) && !found.contains("w0rd"), "{lines}: {found}");
    }
    for lines in ["proxy = 'none'\nsocket = '/x'", "proxy = 'http://p'\nproxy_user = 'u'\nproxy_password_file = '/x'"] {
        assert_eq!(mistakes(lines), "", "{lines}");
    }
}

#[tokio::test]
async fn a_login_has_no_debug_and_comes_back_as_it_was() {
    let routes = routes(&[("all_proxy", "socks5://us%40er:pass%3aw0rd@p:1")]);
    let via = routes.of(&"https://a.example/".parse().unwrap()).unwrap();
    assert_eq!(via.login().await, Some(("us@er".into(), "pass:w0rd".into())));
    let debug = format!("{routes:?} {}", via.proxy);
    assert!(!debug.contains("w0rd") && !debug.contains("cGFzcz"), "{debug}");
}
