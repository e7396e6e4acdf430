use super::*;

/// What is written and the exit status, or `serve`.
fn told(args: &[&str]) -> (String, String, Option<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["snowbank"].iter().chain(args).map(OsString::from);
    let environment = Environment { root: true, ..Environment::default() };
    let next = run(args, &environment, &mut out, &mut err).unwrap();
    let status = match next {
        Next::Serve(..) | Next::Verify(..) | Next::Certificates(..) | Next::Healthcheck(_) => None,
        Next::Status(..) | Next::Top(..) | Next::Import(..) | Next::Warm(..) | Next::Export(..) => None,
        Next::Pin(..) | Next::Unpin(..) | Next::Pins(..) => None,
        Next::Exit(status) => Some(status),
    };
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), status)
}

fn served(args: &[&str]) -> Config {
    let environment = Environment { root: true, ..Environment::default() };
    let args = ["snowbank"].iter().chain(args).map(OsString::from);
    match run(args, &environment, &mut Vec::new(), &mut Vec::new()).unwrap() {
        Next::Serve(config, _) => *config,
        other => panic!("{other:?}"),
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn serving_is_the_default() {
    let flags = ["--upstream", "http://a", "--listen", "http://127.0.0.1:0", "--dir", "/d"];
    let config = served(&flags);
    assert_eq!(config.upstream[0].url.to_string(), "http://a");
    assert_eq!(config.state_dir(), Some(Path::new("/d")));
    assert_eq!(config, served(&[&["serve"], &flags[..]].concat()));
    assert_eq!(served(&[]), served(&["serve"]));
}

#[test]
fn check_config_tells_all_or_ok() {
    let good = file("[log]\nlevel = 'debug'\n");
    let path = good.path().display().to_string();
    for args in [vec!["check-config", &path], vec!["check-config", "--config", &path]] {
        assert_eq!(told(&args), (format!("{path}: ok\n"), String::new(), Some(0)));
    }

    let bad = file("[log]\nlevel = 'loud'\nformat = 1\n");
    let path = bad.path().display().to_string();
    let (out, err, status) = told(&["check-config", &path]);
    assert_eq!((out.as_str(), status), ("", Some(EX_USAGE)));
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(lines[0].starts_with(&format!("{path}: log.level = \"loud\": expected ")), "{err}");
    assert!(lines[1].starts_with(&format!("{path}: log.format = 1: expected ")), "{err}");
    for command in ["serve", "print-config"] {
        assert_eq!(told(&[command, "--config", &path]), (String::new(), err.clone(), Some(EX_USAGE)));
    }
}

#[test]
fn print_config_prints_what_holds() {
    let (out, err, status) = told(&["print-config", "--upstream", "http://a:5000"]);
    assert_eq!((err.as_str(), status), ("", Some(0)));
    assert!(out.contains("url = \"http://a:5000\"\n") && !out.contains('#'), "{out}");
    let printed = file(&out);
    let path = printed.path().to_str().unwrap();
    assert_eq!(served(&["--config", path]), served(&["--upstream", "http://a:5000"]));
    assert_eq!(told(&["print-config", "--config", path]).0, out);
    assert!(told(&["print-config", "--docs"]).0.contains("\n# Where the cache is: "));
}

#[test]
fn a_key_is_made_and_its_public_half_told() {
    let (secret, hint, status) = told(&["keygen", "cache.example.org-1"]);
    assert_eq!((hint.lines().count(), status), (1, Some(0)), "{hint}");
    assert!(secret.starts_with("cache.example.org-1:") && secret.ends_with("==\n"), "one line");
    let kept = file(&secret);
    let (public, err, status) = told(&["public-key", kept.path().to_str().unwrap()]);
    assert_eq!((err.as_str(), status), ("", Some(0)));
    assert!(
        public.starts_with("cache.example.org-1:") && public.len() == "cache.example.org-1:".len() + 45,
        "{public}"
    );
    assert!(!hint.contains(&secret[20..60]), "the hint is for the screen");
}

#[test]
fn r4_a_key_file_is_made_for_its_owner_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let name = path.to_str().unwrap();
    let (public, hint, status) = told(&["keygen", "a-1", "--output", name]);
    assert_eq!((hint.lines().count(), status), (1, Some(0)), "{hint}");
    let made = std::fs::read_to_string(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(told(&["public-key", name]), (public.clone(), String::new(), Some(0)));
    assert!(!public.contains(&made[4..40]) && !hint.contains(&made[4..40]));

    let (out, err, status) = told(&["keygen", "a-2", "-o", name]);
    assert_eq!((out.as_str(), status), ("", Some(EX_USAGE)));
    assert_eq!(err, format!("{name:?}: there is such a file already, and it is left as it is\n"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), made);
    let (_, err, status) = told(&["keygen", "a-2", "-o", dir.path().join("no/key").to_str().unwrap()]);
    assert!(err.contains("no/key\": cannot be made: No such file") && status == Some(EX_USAGE), "{err}");
}

#[test]
fn what_is_no_key_is_told_on_one_line() {
    let public = file("a-1:JqxkR8cKg7LQutsBfQ9rqTH8tJihhND3XfcjgOKbWSk=");
    let name = public.path().to_str().unwrap();
    for (args, wrong) in [
        (["keygen", "a b"], "a key name is 1 to 255 visible ASCII characters"),
        (["keygen", "a:b"], "a key name is 1 to 255 visible ASCII characters"),
        (["keygen", ""], "a key name is 1 to 255 visible ASCII characters"),
        (["public-key", name], "this is the public key a-1; the secret one is needed"),
        (["public-key", "/does/not/exist"], "key file /does/not/exist: cannot be opened: No such file"),
    ] {
        let (out, err, status) = told(&args);
        assert_eq!((out.as_str(), status, err.lines().count()), ("", Some(EX_USAGE), 1), "{args:?}: {err}");
        assert!(err.contains(wrong), "{err}");
    }
}

#[test]
fn a_health_check_reads_nothing_but_where_to_ask() {
    let asked = |text: &str| {
        let (file, mut err) = (file(text), Vec::new());
        let path = file.path().display().to_string();
        let args = ["snowbank", "healthcheck", "--config", &path].map(OsString::from);
        match run(args, &Environment::default(), &mut Vec::new(), &mut err).unwrap() {
            Next::Healthcheck(address) => Ok(address.to_string()),
            Next::Exit(status) => Err((status, String::from_utf8(err).unwrap().replace(&path, "FILE"))),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asked("[admin]\naddress = '0.0.0.0:9090'"), Ok("0.0.0.0:9090".to_owned()));
    // The server that runs has none of these mistakes yet.
    let broken = "lisen = 1\n[sign]\nkey_files = ['/does/not/exist']\n[[upstream]]\n[admin]\naddress = '[::1]:9090'";
    assert_eq!(asked(broken), Ok("[::1]:9090".to_owned()));
    for (text, why) in [
        ("", "FILE: the configuration has no [admin] address"),
        ("[admin]\naddress = 'fd:admin'", "FILE: [admin] address is a socket that systemd opens"),
        ("[admin]\naddress = '127.0.0.1:0'", "FILE: [admin] address has port 0"),
        (
            "[admin]\naddress = 'unix:/run/admin'",
            "FILE: admin.address = \"unix:/run/admin\": expected an address and port",
        ),
        ("admin = 1", "FILE: admin = 1: expected"),
        ("[admin", "FILE: "),
    ] {
        let (status, said) = asked(text).expect_err(text);
        assert_eq!((status, said.lines().count()), (EX_UNHEALTHY, 1), "{said}");
        assert!(said.starts_with(why), "{said}");
    }
    let (_, err, status) = told(&["healthcheck", "--config", "/does/not/exist"]);
    assert_eq!(
        (err.as_str(), status),
        ("/does/not/exist: cannot be read: No such file or directory (os error 2)\n", Some(1))
    );
    assert_eq!(told(&["healthcheck"]).2, Some(1));
}

#[test]
fn who_looks_reads_nothing_but_where_to_ask() {
    let file = file("lisen = 1\n[admin]\naddress = '[::1]:9090'");
    let path = file.path().display().to_string();
    let next = |args: &[&str]| {
        let args = ["snowbank"].iter().chain(args).map(OsString::from);
        format!("{:?}", run(args, &Environment::default(), &mut Vec::new(), &mut Vec::new()).unwrap())
    };
    assert_eq!(next(&["status", "--config", &path]), "Status([::1]:9090, false)");
    assert_eq!(next(&["status", "--config", &path, "--json"]), "Status([::1]:9090, true)");
    assert_eq!(next(&["top", "--config", &path]), "Top([::1]:9090, 2s)");
    assert_eq!(next(&["top", "--config", &path, "--interval", "0.5"]), "Top([::1]:9090, 500ms)");
    for interval in ["0", "0.09", "-1", "NaN", "inf", "3601", "2s", ""] {
        let (out, err, status) = told(&["top", "--config", &path, "--interval", interval]);
        assert_eq!((out.as_str(), status), ("", Some(EX_USAGE)), "{interval}: {err}");
    }
    for command in ["status", "top"] {
        let (out, err, status) = told(&[command]);
        assert_eq!((out.as_str(), status, err.lines().count()), ("", Some(EX_NOT_DONE), 1), "{err}");
    }
}

#[test]
fn wrong_arguments_exit_like_wrong_configurations() {
    for args in [&["sevre"][..], &["check-config"], &["check-config", "a", "--config", "b"], &["--port", "1"]] {
        let (out, err, status) = told(args);
        assert_eq!((out.as_str(), status), ("", Some(EX_USAGE)), "{args:?}");
        assert!(err.starts_with("error: "), "{err}");
    }
}

#[test]
fn the_version_is_told() {
    assert_eq!(told(&["--version"]), (format!("snowbank {}\n", env!("CARGO_PKG_VERSION")), String::new(), Some(0)));
}

/// Short and long help of the program and of its commands, as on a terminal of 80 columns.
fn help() -> String {
    use clap::CommandFactory as _;
    let mut cli = Cli::command().term_width(80);
    cli.build();
    let mut text = format!("$ snowbank -h\n{}\n$ snowbank --help\n{}", cli.render_help(), cli.render_long_help());
    for command in cli.get_subcommands_mut().filter(|c| c.get_name() != "help") {
        let help = command.render_long_help();
        text.push_str(&format!("\n$ snowbank {} --help\n{help}", command.get_name()));
    }
    let trimmed: Vec<&str> = text.lines().map(str::trim_end).collect();
    trimmed.join("\n") + "\n"
}

/// The help as it was reviewed; `SNOWBANK_BLESS=1 cargo test` writes it anew.
#[test]
fn the_help_reads_as_reviewed() {
    if std::env::var_os("SNOWBANK_BLESS").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/help.txt"), help()).unwrap();
    } else {
        assert_eq!(help(), include_str!("help.txt"));
    }
}
