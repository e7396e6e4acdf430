//! Real Nix clients, each a machine of its own: its own `/nix` (bind-mounted in a private mount namespace), its own
//! HOME (where Nix remembers narinfos for 30 days) and its own configuration.
//!
//! The machine's real `/nix` is only a mount point and stays empty. Needs root, or user namespaces and an existing
//! `/nix`; `tests/run` sees to it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The small nixpkgs of the tests.
pub const NIXPKGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/nixpkgs");

/// A machine with Nix.
pub struct Machine {
    dir: PathBuf,
    /// Removes the machine with this value; `None` for one that stays.
    _owned: Option<tempfile::TempDir>,
}

impl Machine {
    /// A fresh machine that trusts these public keys and has no substituters of its own.
    pub fn new(public_keys: &[&str]) -> Self {
        let owned = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the machine");
        let mut machine = Self::at(owned.path(), public_keys);
        machine._owned = Some(owned);
        machine
    }

    /// A machine that lives in this directory and stays.
    pub fn at(dir: &Path, public_keys: &[&str]) -> Self {
        for part in ["nix", "home", "conf"] {
            std::fs::create_dir_all(dir.join(part)).expect("a directory for the machine");
        }
        let conf = format!(
            "build-users-group =\nsandbox = false\nexperimental-features = nix-command flakes\nsubstituters =\n\
             trusted-public-keys = {}\nconnect-timeout = 15\nflake-registry =\n",
            public_keys.join(" ")
        );
        std::fs::write(dir.join("conf/nix.conf"), conf).expect("a configuration for Nix");
        Self { dir: dir.to_owned(), _owned: None }
    }

    /// Its store directory as this process sees it.
    pub fn real_store(&self) -> PathBuf {
        self.dir.join("nix/store")
    }

    /// Its HOME.
    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// A command inside the machine.
    pub fn command(&self, words: &[&str]) -> Command {
        assert!(
            Path::new("/nix").is_dir(),
            "there is no /nix to mount a machine's store on: run tests/run, or `mkdir /nix`"
        );
        let mut command = Command::new("unshare");
        if !rustix::process::getuid().is_root() {
            command.arg("--map-root-user");
        }
        command
            .args(["--mount", "sh", "-c", "mount --bind \"$0\" /nix && exec \"$@\""])
            .arg(self.dir.join("nix"))
            .args(words)
            .current_dir(self.home())
            .stdin(Stdio::null())
            .env("HOME", self.home())
            .env("NIX_CONF_DIR", self.dir.join("conf"))
            .env("NIX_PATH", format!("nixpkgs={NIXPKGS}"))
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("NIX_REMOTE");
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("unshare runs; tests/run installs what is missing")
    }

    /// Runs a command that must succeed; its standard output without the last line end.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(
            output.status.success(),
            "{words:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    }

    /// `nix-build '<nixpkgs>' -A attribute` from this substituter only, building nothing: the store path. `authority` is
    /// the PEM file to trust for https.
    #[track_caller]
    pub fn substitute(&self, attribute: &str, substituter: &str, authority: Option<&Path>) -> String {
        let words =
            ["nix-build", "<nixpkgs>", "-A", attribute, "--no-out-link", "--max-jobs", "0", "--option", "substituters"];
        let mut command = self.command(&[&words[..], &[substituter]].concat());
        if let Some(file) = authority {
            command.env("NIX_SSL_CERT_FILE", file);
        }
        let output = command.output().expect("nix-build runs");
        assert!(
            output.status.success(),
            "nix-build -A {attribute} from {substituter}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let paths = String::from_utf8(output.stdout).expect("text");
        paths.lines().last().expect("a store path").to_owned()
    }

    /// Hashes every path of the store again.
    #[track_caller]
    pub fn verify_all(&self) {
        self.ok(&["nix", "store", "verify", "--all", "--no-trust"]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self._owned.is_some() {
            // Store paths are read-only directories, which only root can remove as they are.
            let _ = Command::new("chmod").args(["-R", "u+w"]).arg(&self.dir).status();
        }
    }
}
