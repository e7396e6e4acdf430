use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::metrics::{CertificateFailure as Reason, Label, Metrics};
use crate::tls::testing::{Made, good, signed};

struct Bench {
    dir: tempfile::TempDir,
    watched: Watched,
    metrics: CertificateMetrics,
    names: Vec<Name>,
}

impl Bench {
    fn new(made: &Made, names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let watched = Watched::load(made.put(dir.path()), UnixSeconds::now()).unwrap();
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        Self { dir, watched, metrics: Metrics::default().certificates, names }
    }

    fn look(&mut self) -> bool {
        self.look_at(UnixSeconds::now())
    }

    fn look_at(&mut self, now: UnixSeconds) -> bool {
        let wanted = Wanted { names: &self.names, others_are_ordered: false };
        let looked = self.watched.to_look().look(now);
        looked.is_some_and(|looked| self.watched.judge(looked, wanted, now, false, &self.metrics))
    }

    /// The second look at what is wrong is the one that tells.
    fn refuses(&mut self, reason: Reason) -> String {
        let (serial, count) = (self.serial(), self.count(reason));
        assert!(!self.look() && self.count(reason) == count, "{reason}: told at the first look");
        assert!(!self.look() && self.count(reason) == count + 1, "{reason}: {:?}", self.watched.error);
        assert!(!self.look() && self.count(reason) == count + 1, "{reason}: told twice");
        assert_eq!(self.serial(), serial, "the one before stays");
        self.watched.error.clone().expect("it is told")
    }

    fn count(&self, reason: Reason) -> u64 {
        self.metrics.failures.of(reason).get()
    }

    fn serial(&self) -> String {
        self.watched.certificate.as_ref().unwrap().facts.serial.clone()
    }
}

#[test]
fn a_good_pair_is_taken_at_the_first_look_and_a_broken_one_never() {
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let mut bench = Bench::new(&good(&["a.test"]), &["a.test"]);
    assert!(!bench.look(), "nothing changed");
    let (right, first) = (good(&["a.test", "b.test"]), bench.serial());
    right.put(bench.dir.path());
    assert!(bench.look() && bench.serial() != first);
    let broken = [
        (signed(&["a.test"], -7200, -3600, p256), Reason::Expired),
        (signed(&["a.test"], 3600, 7200, p256), Reason::NotYetValid),
        (good(&["other.test"]), Reason::OtherNames),
        (Made { key: good(&["a.test"]).key, ..right.clone() }, Reason::Mismatch),
        (Made { cert: right.cert[..200].to_owned(), ..right.clone() }, Reason::Malformed),
        (Made { key: right.key.replace("PRIVATE", "ENCRYPTED PRIVATE"), ..right.clone() }, Reason::Passphrase),
    ];
    for (made, reason) in broken {
        made.put(bench.dir.path());
        let told = bench.refuses(reason);
        assert!(told.contains(".pem: ") && !told.contains('\n'), "{told}");
    }
    fs::remove_file(&bench.watched.pair.key_file).unwrap();
    bench.refuses(Reason::Unreadable);
    right.put(bench.dir.path());
    assert!(!bench.look() && bench.watched.error.is_none(), "mended, and the one in force");
    assert_eq!(Reason::ALL.iter().map(|reason| bench.count(*reason)).sum::<u64>(), 7);
}

#[test]
fn a_pair_between_its_two_files_is_no_mistake() {
    let mut bench = Bench::new(&good(&["a.test"]), &[]);
    let fresh = good(&["a.test"]);
    fs::write(&bench.watched.pair.cert_file, &fresh.cert).unwrap();
    assert!(!bench.look());
    fs::write(&bench.watched.pair.key_file, &fresh.key).unwrap();
    assert!(bench.look());
    assert_eq!(bench.serial(), fresh.loaded().facts.serial);
    assert_eq!(Reason::ALL.iter().map(|reason| bench.count(*reason)).sum::<u64>(), 0);
}

#[test]
fn swapped_links_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str| {
        let made = good(&["a.test"]);
        fs::create_dir(dir.path().join(name)).unwrap();
        made.put(&dir.path().join(name));
        let link = dir.path().join("..data_tmp");
        symlink(name, &link).unwrap();
        fs::rename(&link, dir.path().join("..data")).unwrap();
        made.loaded().facts.serial
    };
    put("..1");
    for name in ["cert.pem", "key.pem"] {
        symlink(format!("..data/{name}"), dir.path().join(name)).unwrap();
    }
    let pair = Pair { cert_file: dir.path().join("cert.pem"), key_file: dir.path().join("key.pem") };
    let watched = Watched::load(pair, UnixSeconds::now()).unwrap();
    let mut bench =
        Bench { dir: tempfile::tempdir().unwrap(), watched, metrics: Metrics::default().certificates, names: vec![] };
    let second = put("..2");
    assert!(bench.look());
    assert_eq!(bench.serial(), second);
}

#[test]
fn what_is_not_yet_in_force_is_taken_when_its_time_comes() {
    let mut bench = Bench::new(&good(&["a.test"]), &[]);
    signed(&["a.test"], 100, 7200, &rcgen::PKCS_ECDSA_P256_SHA256).put(bench.dir.path());
    bench.refuses(Reason::NotYetValid);
    let later = UnixSeconds::now().plus(200);
    assert!(bench.look_at(later));
}

#[test]
fn a_pipe_in_place_of_a_file_holds_nothing_up() {
    let mut bench = Bench::new(&good(&["a.test"]), &[]);
    let path = bench.watched.pair.cert_file.clone();
    fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let told = bench.refuses(Reason::Unreadable);
    assert!(told.contains("a pipe or a device"), "{told}");
}
