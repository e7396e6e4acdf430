//! Keys of our own: ours and Nix's are one kind, a key that others could use stops the start, and nothing dumps it (R4).

use crate::support::cache::{Key, Object};
use crate::support::nix::Machine;
use crate::support::origin::Origin;
use crate::support::snowbank::{Setup, run};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_snowbank");

/// The user of a service.
const SERVICE: u32 = 12_345;

/// A directory with keys and configurations.
struct Shelf(tempfile::TempDir);

impl Shelf {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory for keys"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A key of this name in a file of this name; its public half.
    fn key(&self, name: &str) -> String {
        let made = run(&["keygen", name, "--output", self.path(name).to_str().expect("text")]);
        assert!(made.status.success(), "{made:?}");
        text(&made.stdout)
    }

    fn mode(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).expect("a mode");
    }

    /// A configuration that signs with these files.
    fn config(&self, files: &[PathBuf]) -> PathBuf {
        let path = self.path("snowbank.toml");
        std::fs::write(&path, format!("[sign]\nkey_files = {files:?}\n")).expect("a configuration");
        path
    }

    /// The program as [`SERVICE`] in this group, copied to where that user can reach it.
    fn as_service(&self, group: u32) -> Command {
        let copy = self.path("program");
        std::fs::copy(PROGRAM, &copy).expect("a copy");
        self.mode(".", 0o755);
        let mut command = Command::new("setpriv");
        let ids = [format!("--reuid={SERVICE}"), format!("--regid={group}"), "--clear-groups".to_owned()];
        command.args(ids).arg(copy).env("HOME", "/");
        command
    }

    /// What `check-config` says of these keys, line by line, without the name of the configuration.
    fn check(&self, names: &[&str]) -> Vec<String> {
        let files: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        let config = self.config(&files).display().to_string();
        let output = run(&["check-config", &config]);
        let told = [text(&output.stdout), text(&output.stderr)].concat();
        assert_eq!(output.status.code(), Some(if told == format!("{config}: ok") { 0 } else { 64 }), "{told}");
        told.lines().map(|line| line.trim_start_matches(&format!("{config}: ")).to_owned()).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text").trim_end().to_owned()
}

/// Runs a program to its end with this file as its standard input.
fn fed(mut command: Command, file: &Path) -> Output {
    command.stdin(std::fs::File::open(file).expect("the input")).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.output().expect("the program runs")
}

#[test]
fn a_key_of_nix_is_read() {
    let machine = Machine::new(&[]);
    let shelf = Shelf::new();
    let (secret, public) = (shelf.path("secret"), shelf.path("public"));
    let files = [secret.to_str().expect("text"), public.to_str().expect("text")];
    machine.ok(&["nix-store", "--generate-binary-cache-key", "nix-made-1", files[0], files[1]]);
    let expected = text(&std::fs::read(&public).expect("the public key of Nix"));
    assert_eq!(text(&run(&["public-key", files[0]]).stdout), expected);
    let mut command = Command::new(PROGRAM);
    command.args(["public-key", "-"]);
    assert_eq!(text(&fed(command, &secret).stdout), expected);
    assert_eq!(shelf.check(&["secret"]), ["ok"]);
}

#[test]
fn a_key_of_ours_is_one_for_nix() {
    let machine = Machine::new(&[]);
    let shelf = Shelf::new();
    let public = shelf.key("ours-1");
    let key = shelf.path("ours-1");
    let converted = fed(machine.command(&["nix", "key", "convert-secret-to-public"]), &key);
    assert_eq!(text(&converted.stdout), public, "{converted:?}");
    // Nix signs with it, and believes the signature.
    std::fs::write(machine.home().join("file"), "signed").expect("a file");
    let path = machine.ok(&["nix-store", "--add", "file"]);
    machine.ok(&["nix", "store", "sign", "--key-file", key.to_str().expect("text"), &path]);
    let verify = |key: &str| {
        let words = ["nix", "store", "verify", "--sigs-needed", "1", "--option", "trusted-public-keys", key, &path];
        machine.run(&words).status.success()
    };
    assert!(machine.ok(&["nix", "path-info", "--json", "--sigs", &path]).contains("ours-1:"));
    assert!(verify(&public));
}

#[test]
fn keygen_prints_one_line_that_public_key_reads_from_stdin() {
    let shelf = Shelf::new();
    let made = run(&["keygen", "printed-1"]);
    std::fs::write(shelf.path("key"), &made.stdout).expect("a file");
    assert_eq!((text(&made.stdout).lines().count(), text(&made.stderr).lines().count()), (1, 1));
    let mut command = Command::new(PROGRAM);
    command.args(["public-key", "-"]);
    let public = text(&fed(command, &shelf.path("key")).stdout);
    assert!(public.starts_with("printed-1:") && public.len() == "printed-1:".len() + 44, "{public}");
}

#[test]
fn r4_every_mistake_about_keys_is_told_at_once() {
    let shelf = Shelf::new();
    for name in ["good", "open", "writable", "twin"] {
        shelf.key(name);
    }
    shelf.mode("open", 0o644);
    shelf.mode("writable", 0o660);
    std::fs::copy(shelf.path("good"), shelf.path("twin")).expect("a copy");
    std::fs::write(shelf.path("garbage"), "garbage").expect("a file");
    shelf.mode("garbage", 0o600);
    std::fs::create_dir(shelf.path("everybody's")).expect("a directory");
    std::fs::copy(shelf.path("good"), shelf.path("everybody's/key")).expect("a copy");
    shelf.mode("everybody's", 0o777);
    symlink("everybody's/key", shelf.path("link")).expect("a link");
    let told = shelf.check(&["good", "open", "writable", "twin", "garbage", "missing", "link", "good"]);
    let expected = [
        (7, "expected each file once; this is key_files[0]"),
        (1, "every user can read it (mode 0644): `chmod 600 "),
        (2, "users other than its owner can change it (mode 0660): `chmod 600 "),
        (3, "the key is named good like that of "),
        (4, "not a secret key, which is <key name>:<base 64 of 64 bytes>"),
        (5, "cannot be opened: No such file"),
        (6, "other users can write "),
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (line, (place, wrong)) in told.iter().zip(expected) {
        assert!(line.contains(&format!("sign.key_files[{place}]")) && line.contains(wrong), "{line}");
    }
    assert_eq!(shelf.check(&["good"]), ["ok"]);
}

#[test]
fn r4_a_key_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return; // nobody else can give files away
    }
    let shelf = Shelf::new();
    shelf.key("given");
    chown(shelf.path("given"), Some(SERVICE), None).expect("root gives it away");
    let told = shelf.check(&["given"]);
    assert!(told[0].contains("belongs to user 12345; it must belong to root: `chown 0 "), "{told:?}");
    // 0640 root:service, and the service in that group or not.
    chown(shelf.path("given"), Some(0), Some(SERVICE)).expect("root takes it back");
    shelf.mode("given", 0o640);
    assert!(shelf.check(&["given"])[0].contains("group 12345 can read it (mode 0640)"));
    let config = shelf.config(&[shelf.path("given")]);
    let check_in = |group: u32| {
        let mut command = shelf.as_service(group);
        command.arg("check-config").arg(&config).output().expect("setpriv runs")
    };
    let output = check_in(SERVICE);
    assert!(output.status.success(), "{output:?}");
    let output = check_in(SERVICE + 1);
    assert!(text(&output.stderr).contains("cannot be opened: Permission denied"), "{output:?}");
}

/// The program in a mount namespace of its own, with a tmpfs at `volume` that is filled by `filled` and mounted `mode`.
fn with_volume(shelf: &Shelf, mode: &str) -> Output {
    std::fs::create_dir_all(shelf.path("volume")).expect("a mount point");
    // As Kubernetes lays it out: a directory that everybody could write, links in it, and files with mode 0644.
    let script =
        "set -e; mount -t tmpfs -o mode=1777 tmpfs \"$1\"; mkdir -m 755 \"$1/..2026\"; cp \"$2\" \"$1/..2026/key\"
        chmod 644 \"$1/..2026/key\"; ln -s ..2026 \"$1/..data\"; ln -s ..data/key \"$1/key\"
        mount -o \"remount,$3\" \"$1\"; exec \"$4\" check-config \"$5\"";
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(shelf.path("volume")).arg(shelf.path("secret-1"));
    command.arg(mode).arg(PROGRAM).arg(shelf.config(&[shelf.path("volume/key")]));
    command.output().expect("unshare runs")
}

#[test]
fn r4_a_mounted_secret_is_read_though_its_mode_is_wide() {
    let shelf = Shelf::new();
    shelf.key("secret-1");
    let output = with_volume(&shelf, "ro");
    assert!(output.status.success(), "{output:?}");
    let output = with_volume(&shelf, "rw");
    assert!(text(&output.stderr).contains("every user can read it (mode 0644)"), "{output:?}");
}

#[test]
fn r4_serving_tells_the_public_keys_and_dumps_nothing() {
    let shelf = Shelf::new();
    let public = [shelf.key("old-1"), shelf.key("new-2")];
    let files = [shelf.path("old-1"), shelf.path("new-2")];
    let setup = Setup::new()
        .upstream_with("http://127.0.0.1:9", "trust = \"origin\"")
        .also(&format!("[sign]\nkey_files = {files:?}"));
    let snowbank = setup.start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", snowbank.id())).expect("its limits");
    let core: Vec<&str> =
        limits.lines().find(|line| line.starts_with("Max core")).expect("a limit").split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"], "{limits}");
    let secret = std::fs::read_to_string(&files[0]).expect("the key");
    let config = setup.home().join("snowbank.toml");
    let lines = run(&["print-config", "--config", config.to_str().expect("text")]);
    for told in [text(&lines.stdout), snowbank.log().join("\n")] {
        assert!(!told.contains(&secret[10..50]), "{told}");
    }
    assert!(text(&lines.stdout).contains(files[0].to_str().expect("text")));
    let line = snowbank.log_line("trusted-public-keys = ", 0);
    assert_eq!(line, format!("extra-trusted-public-keys = {} {}", public[0], public[1]));
    assert!(snowbank.stop().success());
}

/// Every spelling of the secret half that a careless line could hold.
fn canaries(secret: &str) -> Vec<String> {
    let payload = secret.trim().split_once(':').expect("a key").1;
    let pair = STANDARD.decode(payload).expect("base 64");
    let seed = &pair[..32];
    let hex: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    // At each of the three places where base 64 can begin, without the characters that depend on its neighbours.
    let base64 = (0..3).map(|skip| STANDARD.encode(&seed[skip..30]));
    let mut all: Vec<String> = base64.flat_map(|text| [text[..12].to_owned(), text[12..24].to_owned()]).collect();
    all.extend([hex[..16].to_owned(), hex[32..48].to_uppercase()]);
    all.push(format!("{:?}", &seed[..8]).trim_matches(['[', ']']).to_owned());
    all
}

/// A canary: signing at trace level, a reload with the key gone bad, metrics, the configuration, every error.
#[tokio::test]
async fn r4_the_secret_is_in_no_output() {
    let (origin, upstream) = (Origin::start(), Key::new("upstream-1"));
    let (object, shelf) = (Object::new("canary", 30_000), Shelf::new());
    origin.publish(&object, &upstream);
    shelf.key("canary-1");
    let secret = std::fs::read_to_string(shelf.path("canary-1")).expect("the key");
    let setup = Setup::in_front_of(&origin, &upstream)
        .also("[log]\nlevel = \"trace\"")
        .also(&format!("[sign]\nkey_files = [{:?}]", shelf.path("canary-1")));
    let snowbank = setup.start();
    let client = snowbank.http();
    let narinfo = client.get(&object.narinfo_target()).await.expect(200);
    assert!(narinfo.text().contains("Sig: canary-1:"), "{}", narinfo.text());
    client.get(&object.served_target()).await.expect_bytes(&object.file);
    let mut told = vec![narinfo.text().to_owned(), snowbank.metrics()];
    let config = setup.home().join("snowbank.toml").display().to_string();
    let mut tell = |output: Output| told.extend([text(&output.stdout), text(&output.stderr)]);
    tell(run(&["print-config", "--docs", "--config", &config]));
    tell(run(&["public-key", &shelf.path("canary-1").display().to_string()]));
    // The key goes bad in ways that a message could quote.
    for (n, bad) in
        [secret.replace(':', "-"), secret.trim().replacen("canary-1:", "canary-1: ", 1), secret[..70].to_owned()]
            .into_iter()
            .enumerate()
    {
        std::fs::write(shelf.path("canary-1"), bad).expect("the key");
        tell(run(&["check-config", &config]));
        tell(run(&["public-key", &shelf.path("canary-1").display().to_string()]));
        tell(run(&["serve", "--config", &config]));
        snowbank.reload(&setup);
        snowbank.log_line("reload refused", n);
    }
    for file in ["cmdline", "environ", "status"] {
        told.push(
            String::from_utf8_lossy(&std::fs::read(format!("/proc/{}/{file}", snowbank.id())).expect("a file")).into(),
        );
    }
    told.push(snowbank.log().join("\n"));
    assert!(told.iter().any(|text| text.contains("TRACE")), "the log is at trace level");
    for canary in canaries(&secret) {
        assert!(!told.iter().any(|text| text.contains(&canary)), "{canary} was told");
    }
}

#[test]
fn r4_nobody_looks_into_its_memory() {
    if !rustix::process::geteuid().is_root() {
        return; // nobody else can become the service
    }
    let shelf = Shelf::new();
    std::fs::create_dir(shelf.path("state")).expect("a directory");
    chown(shelf.path("state"), Some(SERVICE), None).expect("root gives it away");
    let config = shelf.path("serve.toml");
    std::fs::write(&config, "[store]\ndisk = \"0 B\"\nmemory = \"16 MiB\"\n").expect("a configuration");
    let mut command = shelf.as_service(SERVICE);
    let mut child = command
        .args(["serve", "--listen", "http://127.0.0.1:0", "--config"])
        .arg(config)
        .arg("--dir")
        .arg(shelf.path("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("setpriv runs");
    // What to paste into nix.conf is said when it listens.
    let mut said = [0];
    child.stdout.take().expect("a pipe").read_exact(&mut said).expect("it starts");
    // What the kernel gives to root is not open to the user himself.
    let owner = |of: &str| std::fs::metadata(format!("/proc/{}/{of}", child.id())).expect("it runs").uid();
    let owners = (owner("mem"), owner("environ"));
    child.kill().and_then(|()| child.wait()).expect("it ends");
    assert_eq!(owners, (0, 0));
}
