//! What is in `config/` and `deploy/`: every file is read by the program that it is for, and they fit each other.
//!
//! Where a program is no Debian package (kubectl, helm), its tests look for it on the PATH, and say so and do nothing without it;
//! `tests/run` tells at its end what did not run.

mod container;
mod examples;
mod health;
mod image;
mod kubernetes;
mod nixos;
mod systemd;

use crate::support::snowbank::run;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file or directory of the tree.
fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What is in it.
#[track_caller]
fn text(path: &str) -> String {
    std::fs::read_to_string(tree(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a program said and how it ended; `None` where there is no such program.
fn tool(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).current_dir(tree("")).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("NOT RUN: there is no {program} here");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// What it printed, when it ended well.
#[track_caller]
fn printed(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    out.into_owned()
}

/// A machine that has what the files in the tree name.
struct Machine(tempfile::TempDir);

impl Machine {
    /// Where secrets and certificates are, by what the files in the tree say.
    const PLACES: [&'static str; 4] =
        ["/run/credentials/snowbank.service", "/run/secrets/snowbank", "/run/secrets/tls", "/etc/snowbank"];

    fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let own = rcgen::generate_simple_self_signed(["cache.example.org".to_owned()]).expect("a certificate");
        let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let signing = printed(&run(&["keygen", "cache.example.org-1"]));
        let keys = format!("[default]\naws_access_key_id = {0}\naws_secret_access_key = {0}\n", "A".repeat(20));
        let hash = format!("alice:{}\n", "0".repeat(64));
        for place in Self::PLACES {
            let dir = home.path().join(&place[1..]);
            std::fs::create_dir_all(dir.join("tls")).expect("directories");
            for (name, text) in [
                ("key", &signing),
                ("signing-key", &signing),
                ("snowbank.signing-key", &signing),
                ("tls/cert.pem", &certificate),
                ("tls/key.pem", &key),
                ("tls.crt", &certificate),
                ("tls.key", &key),
                ("ca.pem", &certificate),
                ("clients.pem", &certificate),
                ("work.token", &hash),
                ("tokens", &hash),
                ("aws", &keys),
            ] {
                use std::os::unix::fs::PermissionsExt;
                std::fs::write(dir.join(name), text).expect("a file");
                std::fs::set_permissions(dir.join(name), PermissionsExt::from_mode(0o600)).expect("its mode");
            }
        }
        Self(home)
    }

    fn home(&self) -> &Path {
        self.0.path()
    }

    /// A configuration with the places of this machine in it.
    fn here(&self, config: &str) -> String {
        Self::PLACES.iter().fold(config.to_owned(), |config, place| {
            let here = self.home().join(&place[1..]);
            config.replace(&format!("\"{place}"), &format!("\"{}", here.display()))
        })
    }

    /// Has it checked by the program; `name` is told when it is refused.
    #[track_caller]
    fn check(&self, name: &str, config: &str) {
        let file = self.home().join("checked.toml");
        std::fs::write(&file, self.here(config)).expect("a file");
        let checked = run(&["check-config", file.to_str().expect("text")]);
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

/// Seconds between the wish to stop and the end, by `[shutdown]` of a configuration and what the store needs.
#[track_caller]
fn seconds_to_stop(config: &str) -> u64 {
    let table: toml::Table = config.parse().expect("TOML");
    let of = |key: &str| {
        let period = table.get("shutdown").and_then(|shutdown| shutdown.get(key)).and_then(toml::Value::as_str);
        let Some((number, unit)) = period.and_then(|period| period.split_once(' ')) else { return 0 };
        let number: u64 = number.parse().expect("a number");
        if unit.starts_with("minute") { number * 60 } else { number }
    };
    of("delay") + of("drain") + 5
}
