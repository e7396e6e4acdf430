use super::*;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};

use rustix::fs::{CWD, FileType, Mode};

/// Somebody else.
const STRANGER: u32 = 12_345;

/// A directory of ours with a key in it.
struct Shelf {
    dir: tempfile::TempDir,
}

impl Shelf {
    fn new() -> Self {
        let shelf = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::write(shelf.key(), SecretKey::generate("shelf-1").unwrap().to_text().as_bytes()).unwrap();
        shelf.mode("key", 0o600);
        shelf
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn key(&self) -> PathBuf {
        self.path("key")
    }

    fn mode(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn directory(&self, name: &str, mode: u32) {
        std::fs::create_dir_all(self.path(name)).unwrap();
        self.mode(name, mode);
    }

    /// What loading says; empty when it gives the key.
    fn told(&self, name: &str) -> String {
        told(&self.path(name), &Process::this())
    }
}

fn told(path: &Path, process: &Process) -> String {
    match load_as(path, process) {
        Ok(key) => {
            assert_eq!(key.name(), "shelf-1");
            String::new()
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("key file ") && !text.contains('\n'), "{text}");
            text
        }
    }
}

/// Only root can give files away.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn r4_a_file_that_only_we_can_use_is_read() {
    let shelf = Shelf::new();
    for mode in [0o600, 0o400, 0o700, 0o640, 0o440] {
        shelf.mode("key", mode);
        assert_eq!(shelf.told("key"), "", "{mode:o}");
    }
}

#[test]
fn r4_what_others_can_read_or_write_is_refused() {
    let shelf = Shelf::new();
    let file = shelf.key().display().to_string();
    for (mode, wrong) in [
        (0o604, "every user can read it (mode 0604)"),
        (0o644, "every user can read it (mode 0644)"),
        (0o620, "users other than its owner can change it (mode 0620)"),
        (0o602, "users other than its owner can change it (mode 0602)"),
        (0o666, "users other than its owner can change it (mode 0666)"),
    ] {
        shelf.mode("key", mode);
        let told = shelf.told("key");
        assert!(told.starts_with(&format!("key file {file}: {wrong}: `chmod 600 {file}`")), "{told}");
    }
}

#[test]
fn r4_only_a_group_of_ours_may_read() {
    if !is_root() {
        return;
    }
    let shelf = Shelf::new();
    lchown(shelf.key(), None, Some(STRANGER)).unwrap();
    shelf.mode("key", 0o640);
    let told_in = |groups: &[u32]| told(&shelf.key(), &Process { uid: 0, groups: groups.to_vec() });
    assert_eq!(told_in(&[7, STRANGER]), "");
    let refused = told_in(&[7]);
    assert!(refused.contains(&format!("group {STRANGER} can read it (mode 0640)")), "{refused}");
    shelf.mode("key", 0o600);
    assert_eq!(told_in(&[7]), "", "its group may do nothing");
}

#[test]
fn r4_it_belongs_to_root_or_to_us() {
    if !is_root() {
        return;
    }
    let shelf = Shelf::new();
    let stranger = Process { uid: STRANGER, groups: vec![] };
    assert_eq!(told(&shelf.key(), &stranger), "", "root's");
    lchown(shelf.key(), Some(STRANGER), None).unwrap();
    assert_eq!(told(&shelf.key(), &stranger), "", "our own");
    let file = shelf.key().display().to_string();
    let wrong = format!(
        "key file {file}: belongs to user {STRANGER}; it must belong to root: `chown 0 {file}`, or run this as user {STRANGER}"
    );
    assert_eq!(shelf.told("key"), wrong);
}

#[test]
fn r4_nobody_else_can_put_another_file_in_its_place() {
    let shelf = Shelf::new();
    shelf.directory("in", 0o755);
    std::fs::rename(shelf.key(), shelf.path("in/key")).unwrap();
    for mode in [0o757, 0o777, 0o702] {
        shelf.mode("in", mode);
        let told = shelf.told("in/key");
        let place = shelf.path("in");
        assert!(told.contains(&format!("other users can write {} (mode {mode:04o})", place.display())), "{told}");
    }
    for mode in [0o755, 0o700, 0o1777, 0o3777] {
        shelf.mode("in", mode);
        assert_eq!(shelf.told("in/key"), "", "{mode:o}");
    }
    if is_root() {
        shelf.mode("in", 0o775);
        assert_eq!(shelf.told("in/key"), "", "root's group");
        lchown(shelf.path("in"), None, Some(STRANGER)).unwrap();
        assert!(shelf.told("in/key").contains("(mode 0775)"));
        shelf.mode("in", 0o755);
        lchown(shelf.path("in"), Some(STRANGER), None).unwrap();
        assert!(shelf.told("in/key").contains(&format!("on the way to it belongs to user {STRANGER}")));
    }
}

#[test]
fn r4_links_are_followed_over_safe_ground_only() {
    let shelf = Shelf::new();
    // As in a volume of Kubernetes.
    shelf.directory("volume", 0o1777);
    shelf.directory("volume/..2026", 0o755);
    std::fs::rename(shelf.key(), shelf.path("volume/..2026/key")).unwrap();
    symlink("..2026", shelf.path("volume/..data")).unwrap();
    symlink("..data/key", shelf.path("volume/key")).unwrap();
    assert_eq!(shelf.told("volume/key"), "");
    // By way of an absolute link, and back.
    symlink(shelf.path("volume"), shelf.path("elsewhere")).unwrap();
    assert_eq!(shelf.told("elsewhere/../volume/./key"), "");
    // The link is fine, the place that it leads through is not.
    shelf.mode("volume/..2026", 0o777);
    assert!(shelf.told("volume/key").contains("..2026 (mode 0777)"), "{}", shelf.told("volume/key"));
    shelf.mode("volume/..2026", 0o755);
    if is_root() {
        lchown(shelf.path("volume/..data"), Some(STRANGER), None).unwrap();
        assert!(shelf.told("volume/key").contains("..data on the way to it belongs to"));
    }
}

#[test]
fn a_relative_path_begins_where_we_are() {
    let shelf = Shelf::new();
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = up.join(shelf.key().strip_prefix("/").unwrap());
    assert_eq!(told(&relative, &Process::this()), "");
}

#[test]
fn what_is_no_file_is_told() {
    let shelf = Shelf::new();
    shelf.directory("directory", 0o700);
    symlink("self", shelf.path("self")).unwrap();
    symlink("missing", shelf.path("dangling")).unwrap();
    rustix::fs::mknodat(CWD, shelf.path("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for (name, wrong) in [
        ("directory", ": this is no regular file"),
        ("pipe", ": this is no regular file"),
        ("missing", ": cannot be opened: No such file or directory"),
        ("dangling", ": cannot be opened: No such file or directory"),
        ("missing/key", "/missing cannot be opened: No such file or directory"),
        ("key/more", "/key cannot be opened: Not a directory"),
        ("self", ": cannot be opened: Too many levels of symbolic links"),
    ] {
        assert!(shelf.told(name).contains(wrong), "{}", shelf.told(name));
    }
    assert!(told(Path::new("/"), &Process::this()).contains("this is no regular file"));
}

#[test]
fn nothing_is_waited_for_where_the_public_half_is_told() {
    let shelf = Shelf::new();
    shelf.directory("directory", 0o700);
    rustix::fs::mknodat(CWD, shelf.path("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    symlink("pipe", shelf.path("to-pipe")).unwrap();
    symlink("key", shelf.path("to-key")).unwrap();
    shelf.mode("key", 0o666);
    let told = |path: PathBuf| {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            tell.send(load_unguarded(&path).map(|key| key.name().to_owned()).map_err(|error| error.to_string()))
        });
        told.recv_timeout(std::time::Duration::from_secs(20)).expect("it waits for something")
    };
    for name in ["key", "to-key"] {
        assert_eq!(told(shelf.path(name)).as_deref(), Ok("shelf-1"), "whoever else can read it");
    }
    let no_file = "this is no regular file; give the file that holds the key";
    for path in [shelf.path("pipe"), shelf.path("to-pipe"), shelf.path("directory"), "/dev/zero".into()] {
        let expected = format!("key file {}: {no_file}", path.display());
        assert_eq!(told(path), Err(expected));
    }
    let missing = told(shelf.path("missing")).unwrap_err();
    assert!(missing.contains(": cannot be opened: No such file"), "{missing}");
}

#[test]
fn what_is_in_it_is_a_key_and_nothing_else() {
    let shelf = Shelf::new();
    let key = std::fs::read_to_string(shelf.key()).unwrap();
    let holding = |bytes: &[u8]| {
        std::fs::write(shelf.key(), bytes).unwrap();
        shelf.told("key")
    };
    assert_eq!(holding(format!("{key}\n").as_bytes()), "");
    assert_eq!(holding(&[key.as_bytes(), &vec![b'\n'; MOST - key.len()]].concat()), "");
    assert!(holding(&[key.as_bytes(), &vec![b'\n'; MOST + 1 - key.len()]].concat()).contains("longer than 4096 bytes"));
    assert!(holding(b"").contains("not a secret key"));
    assert!(holding(&[0xff; 95]).contains("not a secret key"));
    let public = SecretKey::parse(&key).unwrap().public().to_string();
    assert!(holding(public.as_bytes()).ends_with("this is the public key shelf-1; the secret one is needed"));
}

#[test]
fn a_name_with_line_ends_stays_on_one_line() {
    let shelf = Shelf::new();
    assert!(shelf.told("a\nb").contains("a\\nb: cannot be opened"));
}
