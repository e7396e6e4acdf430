//! The image, built and run as an engine does it: from nothing, read-only, as a user without any rights, and a build of real Nix through it.
//!
//! It takes buildah, crun, root, and a static binary, which takes too long to be made here: `SNOWBANK_TEST_STATIC` names one. Where
//! something of it is missing, that is said, and nothing is done.

use super::{printed, text, tool, tree};
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::static_cache;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What the image may have at most; the binary is nearly all of it.
const LARGEST: u64 = 48 << 20;

/// Storage of its own for images, and for what runs of them.
struct Engine {
    home: tempfile::TempDir,
}

impl Engine {
    /// `None`, and a line that says why, where it cannot be done.
    fn new() -> Option<Self> {
        tool("crun", &["--version"]).and(tool("buildah", &["--version"]))?;
        if !rustix::process::getuid().is_root() {
            eprintln!("NOT RUN: only root can run the image in this way");
            return None;
        }
        Some(Self { home: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for images") })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn buildah(&self, words: &[&str]) -> String {
        let mut buildah = Command::new("buildah");
        buildah.args(["--storage-driver", "vfs", "--root"]).arg(self.path("images"));
        buildah.arg("--runroot").arg(self.path("run")).args(words);
        printed(&buildah.output().expect("buildah"))
    }

    fn crun(&self) -> Command {
        // It works on no machine whose control groups are of both versions, so it is shown one.
        let one_version = "mount -t cgroup2 none /sys/fs/cgroup && exec \"$0\" \"$@\"";
        let mut crun = Command::new("unshare");
        crun.args(["--mount", "sh", "-c", one_version, "crun"]);
        crun.args(["--cgroup-manager=disabled", "--root"]).arg(self.path("crun")).current_dir(self.home.path());
        crun
    }

    fn in_container(&self, words: &[&str]) -> Output {
        self.crun().args(words).output().expect("crun")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.in_container(&["delete", "--force", "snowbank"]);
        let _ = Command::new("buildah")
            .args(["--storage-driver", "vfs", "--root"])
            .arg(self.path("images"))
            .arg("--runroot")
            .arg(self.path("run"))
            .args(["rm", "--all"])
            .output();
    }
}

/// What the image is made of, besides the binary from the tree alone.
fn rootfs(dir: &Path, binary: &Path) {
    for (from, to) in [
        (binary.to_owned(), "usr/bin/snowbank"),
        ("/etc/ssl/certs/ca-certificates.crt".into(), "etc/ssl/certs/ca-certificates.crt"),
        (tree("deploy/container/snowbank.toml"), "etc/snowbank/snowbank.toml"),
    ] {
        let to = dir.join(to);
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("directories");
        std::fs::copy(&from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
    std::fs::create_dir_all(dir.join("var/lib/snowbank")).expect("directories");
}

/// What an engine makes of the image and of compose.yaml: no rights, nothing to write but the volume, the host's network.
fn bundle(image: &Value, root: &str, config: &Path, volume: &Path) -> Value {
    let words = |name: &str| image[name].as_array().expect("words").clone();
    let bind = |from: &Path, to: &str, more: &str| json!({ "destination": to, "source": from, "type": "bind", "options": ["bind", more] });
    json!({
        "ociVersion": "1.0.0",
        "root": { "path": root, "readonly": true },
        "process": {
            "user": { "uid": 65532, "gid": 65532 }, "cwd": "/", "noNewPrivileges": true,
            "args": ([words("Entrypoint"), words("Cmd")].concat()),
            "capabilities": { "bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": [] },
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"] },
            bind(config, "/etc/snowbank/snowbank.toml", "ro"),
            bind(volume, "/var/lib/snowbank", "rw"),
        ],
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }] },
    })
}

#[test]
fn real_nix_builds_through_the_image() {
    let (Some(engine), Some(binary)) = (Engine::new(), std::env::var_os("SNOWBANK_TEST_STATIC")) else {
        return eprintln!(
            "NOT RUN: the image, which takes buildah, crun, root, and a static binary in SNOWBANK_TEST_STATIC"
        );
    };
    rootfs(&engine.path("rootfs"), Path::new(&binary));
    let (file, from) = (tree("deploy/container/Dockerfile.prebuilt"), engine.path("rootfs"));
    let (file, from) = (file.to_str().expect("text"), from.to_str().expect("text"));
    let build = ["build", "--isolation", "chroot", "--format", "docker", "--file", file, "--tag", "snowbank", from];
    engine.buildah(&build);
    let inspected: Value =
        serde_json::from_str(&engine.buildah(&["inspect", "--type", "image", "snowbank"])).expect("JSON");
    let image = &inspected["Docker"]["config"];
    assert_eq!((&image["User"], &image["StopSignal"]), (&json!("65532:65532"), &json!("SIGTERM")));
    let manifest: Value = serde_json::from_str(inspected["Manifest"].as_str().expect("text")).expect("JSON");
    let layers = manifest["layers"].as_array().expect("layers").iter();
    let size: u64 = layers.filter_map(|layer| layer["size"].as_u64()).sum();
    println!("the image has {size} bytes");
    assert!((1 << 20..LARGEST).contains(&size), "{size} bytes");
    let container = engine.buildah(&["from", "snowbank"]);
    let root = engine.buildah(&["mount", container.trim()]);

    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("zstd"));
    let setup = Setup::new();
    let config = text("deploy/container/snowbank.toml");
    let upstream = config.split_once("[[upstream]]").and_then(|(_, rest)| rest.split_once("[store]")).expect("tables");
    let ours = format!("\nurl = {:?}\npublic_keys = [{:?}]\n\n", origin.url(), fixture.key().public());
    let config = config
        .replace(upstream.0, &ours)
        .replace("[::]:8443", "[::1]:0")
        .replace("[::]:8080", "127.0.0.1:0")
        .replace("10 GiB", "512 MiB")
        .replace("127.0.0.1:9090", &format!("127.0.0.1:{}", super::super::support::pebble::free_port()));
    let (file, volume) = (setup.home().join("container.toml"), setup.home().join("volume"));
    std::fs::write(&file, config).expect("a configuration");
    std::fs::create_dir(&volume).expect("a volume");
    std::os::unix::fs::chown(&volume, Some(65532), Some(65532)).expect("its owner");
    std::fs::create_dir(engine.path("bundle")).expect("a directory");
    let bundled = bundle(image, root.trim(), &file, &volume).to_string();
    std::fs::write(engine.path("bundle/config.json"), bundled).expect("a bundle");
    let mut run = engine.crun();
    run.args(["run", "--bundle"]).arg(engine.path("bundle")).arg("snowbank");
    let mut snowbank = Snowbank::run(&mut run, setup.home());
    let url = format!("http://{}", snowbank.log_after("listening on http://"));
    snowbank.log_line("disk tier open", 0);

    let health: Vec<String> = serde_json::from_value(image["Healthcheck"]["Test"].clone()).expect("a health check");
    let check = |status| {
        let words: Vec<&str> = ["exec", "snowbank"].into_iter().chain(health[1..].iter().map(String::as_str)).collect();
        let asked = engine.in_container(&words);
        assert_eq!(asked.status.code(), Some(status), "{}", String::from_utf8_lossy(&asked.stderr));
    };
    assert_eq!(health[0], "CMD");
    check(0);
    let state = printed(&engine.in_container(&["state", "snowbank"]));
    let pid = serde_json::from_str::<Value>(&state).expect("JSON")["pid"].as_u64().expect("a process");
    let of = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).expect("its state");
    let status = of("status");
    for line in ["Uid:\t65532\t65532\t65532\t65532", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line}:\n{status}");
    }
    let mounts = of("mountinfo");
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
    assert!(root.split(' ').nth(5).is_some_and(|options| options.split(',').any(|option| option == "ro")), "{root}");

    let machine = Machine::new(&[&fixture.key().public()]);
    assert_eq!(machine.substitute("everything", &url, None), fixture.path("everything"));
    machine.verify_all();
    printed(&engine.in_container(&["kill", "snowbank", image["StopSignal"].as_str().expect("a signal")]));
    assert!(snowbank.wait().success(), "stopped by its signal it ends in order");
    assert!(volume.join("nar").is_dir(), "what it keeps is on the volume");
}
