//! Three servers over one bucket of a real S3 server, and real Nix clients spread over them.

use super::{Shelf, fetch, until_written, with_library};
use crate::support::cache::{Compression, Key, Object};
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::origin::Origin;
use crate::support::seaweedfs::SeaweedFs;
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::static_cache;
use crate::support::within;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Part of a bucket that everybody may read, and that is written to with keys.
pub(super) struct Part {
    pub(super) seaweedfs: Arc<SeaweedFs>,
    name: String,
}

impl Part {
    pub(super) fn new(name: &str) -> Option<Self> {
        Some(Self { seaweedfs: SeaweedFs::shared()?, name: name.to_owned() })
    }

    /// As a library.
    fn table(&self, keys: [&str; 2], home: &std::path::Path, more: &str) -> String {
        self.table_by(&self.seaweedfs.endpoint(), keys, home, more)
    }

    /// As a library that may be written, at this address of the server.
    pub(super) fn table_at(&self, endpoint: &str, home: &std::path::Path) -> String {
        self.table_by(endpoint, SeaweedFs::ADMIN, home, "")
    }

    fn table_by(&self, endpoint: &str, keys: [&str; 2], home: &std::path::Path, more: &str) -> String {
        let file: PathBuf = home.join("library-keys");
        let text = format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", keys[0], keys[1]);
        std::fs::write(&file, text).expect("a file of keys");
        let url = format!("s3://{}/{}?endpoint={endpoint}", SeaweedFs::PUBLIC, self.name);
        format!("[library]\nurl = {url:?}\ncredentials_file = {file:?}\n{more}")
    }

    fn beside(&self, origin: &Origin, key: &Key) -> Setup {
        let setup = Setup::in_front_of(origin, key);
        let table = self.table(SeaweedFs::ADMIN, setup.home(), "");
        setup.also(&table)
    }

    /// As any HTTP server shows it.
    fn url(&self) -> String {
        format!("{}/{}/{}", self.seaweedfs.endpoint(), SeaweedFs::PUBLIC, self.name)
    }
}

pub(super) fn nars_fetched(origin: &Origin) -> BTreeMap<String, usize> {
    let mut fetched = BTreeMap::new();
    for request in origin.requests().into_iter().filter(|request| request.target.starts_with("/nar/")) {
        *fetched.entry(request.target).or_default() += 1;
    }
    fetched
}

#[tokio::test]
async fn a_real_bucket_is_written_and_read() {
    let Some(part) = Part::new("written") else { return };
    let (origin, key) = (Origin::start(), Key::new("up-1"));
    let objects = [
        Object::new("s3-small", 3_000),
        Object::compressed("s3-packed", 500_000, Compression::Xz),
        Object::new("s3-large", 9_000_000),
        Object::compressed("s3-larger", 30_000_000, Compression::Zstd),
    ];
    objects.iter().for_each(|object| origin.publish(object, &key));
    let first = part.beside(&origin, &key).start();
    for object in &objects {
        fetch(&first, object).await;
    }
    until_written(&first, 4).await;
    // With keys that may only read.
    let setup = Setup::in_front_of(&origin, &key);
    let table = part.table(SeaweedFs::READER, setup.home(), "write = false");
    let second = setup.also(&table).start();
    origin.forget();
    for object in &objects {
        fetch(&second, object).await;
    }
    assert_eq!(origin.total(), 0, "{:?}", origin.requests());
    // Who may not write says so, and serves.
    let setup = Setup::in_front_of(&origin, &key);
    let table = part.table(SeaweedFs::READER, setup.home(), "");
    let third = setup.also(&table).start();
    let more = Object::new("s3-refused", 3_000);
    origin.publish(&more, &key);
    fetch(&third, &more).await;
    third.log_line("upstream library may not be written to with the keys from its credentials_file (AccessDenied)", 0);
}

#[tokio::test]
async fn r17_what_is_damaged_in_a_real_bucket_is_replaced() {
    let Some(part) = Part::new("damaged") else { return };
    let (origin, key) = (Origin::start(), Key::new("up-1"));
    let objects =
        [Object::new("s3-flipped", 30_000), Object::new("s3-cut", 9_000_000), Object::new("s3-unsigned", 3_000)];
    objects.iter().for_each(|object| origin.publish(object, &key));
    let first = part.beside(&origin, &key).start();
    for object in &objects {
        fetch(&first, object).await;
    }
    until_written(&first, 3).await;
    let mut flipped = objects[0].file.to_vec();
    flipped[9_000] ^= 1;
    let unsigned = Object { url: objects[2].served_target()[1..].to_owned(), ..objects[2].clone() }.narinfo(&[]);
    let [flipped_at, cut_at] = [0, 1].map(|n: usize| format!("{}{}", part.name, objects[n].served_target()));
    let unsigned_at = format!("{}{}", part.name, objects[2].narinfo_target());
    let cut = &objects[1].file[..8_000_000];
    let damage: [(&str, &[u8]); 3] = [(&flipped_at, &flipped), (&cut_at, cut), (&unsigned_at, unsigned.as_bytes())];
    part.seaweedfs.put(SeaweedFs::PUBLIC, &damage);
    let second = part.beside(&origin, &key).start();
    for object in &objects {
        fetch(&second, object).await;
    }
    let replaced = || super::written_as(&second, "nar", "replaced") + super::written_as(&second, "narinfo", "replaced");
    within("all three are replaced", async {
        while replaced() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let nothing = Origin::start();
    let third = part.beside(&nothing, &key).start();
    for object in &objects {
        fetch(&third, object).await;
    }
}

/// A server with an empty store, and the origin that counts what it asks.
struct Replica {
    origin: Origin,
    setup: Setup,
    snowbank: Snowbank,
}

impl Replica {
    fn start(part: &Part) -> Self {
        let origin = static_cache::serve(&fixture().cache("zstd"));
        let setup = part.beside(&origin, fixture().key());
        let snowbank = setup.start();
        Self { origin, setup, snowbank }
    }

    /// Killed, and started again with nothing.
    fn again(self) -> Self {
        let port = self.snowbank.http_address().port();
        self.snowbank.kill();
        let _ = std::fs::remove_dir_all(self.setup.dir());
        let setup = self.setup.ports(port, 0);
        let snowbank = setup.start();
        Self { origin: self.origin, setup, snowbank }
    }
}

#[test]
fn three_servers_over_one_bucket_serve_real_nix_whoever_dies() {
    let Some(part) = Part::new("replicas") else { return };
    let fixture = fixture();
    let mut replicas: Vec<Replica> = (0..3).map(|_| Replica::start(&part)).collect();
    let urls: Vec<String> = replicas.iter().map(|replica| replica.snowbank.http_url()).collect();
    let build = |attribute: &'static str, url: String| {
        std::thread::spawn(move || {
            let machine = Machine::new(&[&fixture.key().public()]);
            assert_eq!(machine.substitute(attribute, &url, None), fixture.path(attribute));
            machine.verify_all();
        })
    };
    // All at once, each client at one of them, while one dies and comes back empty.
    let builds: Vec<_> = urls.iter().map(|url| build("everything", url.clone())).collect();
    let victim = replicas.remove(0);
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while victim.origin.total() < 40 && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    replicas.insert(0, victim.again());
    for build in builds {
        build.join().expect("no build fails");
    }
    for (n, replica) in replicas.iter().enumerate() {
        let fetched = nars_fetched(&replica.origin);
        // One of them was killed in the middle of some.
        let most = if n == 0 { 2 } else { 1 };
        assert!(fetched.values().all(|count| *count <= most), "server {n}: {fetched:?}");
        println!("server {n} fetched {} of {} NARs from upstream", fetched.len(), fixture.infos().len());
    }
    // All of it is in the bucket by now; then nobody asks upstream, whoever dies and comes back empty.
    for replica in &replicas {
        wait_until_idle(&replica.snowbank);
        replica.origin.forget();
    }
    for n in 0..3 {
        let victim = replicas.remove(n).again();
        replicas.insert(n, victim);
        let others: Vec<_> = urls.iter().map(|url| build("everything", url.clone())).collect();
        for build in others {
            build.join().expect("no build fails");
        }
    }
    for replica in &replicas {
        let fetched = nars_fetched(&replica.origin);
        assert!(fetched.is_empty(), "{fetched:?}");
    }
    // And without any of them: the bucket is a cache.
    drop(replicas);
    build("everything", part.url()).join().expect("the bucket alone is enough");
    let machine = Machine::new(&[&fixture.key().public()]);
    machine.ok(&["nix", "copy", "--from", &part.url(), fixture.path("everything")]);
    machine.verify_all();
}

fn wait_until_idle(snowbank: &Snowbank) {
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while super::sample(snowbank, "snowbank_library_queue") > 0 || super::sample(snowbank, "snowbank_fill_running") > 0
    {
        assert!(std::time::Instant::now() < deadline, "it does not come to rest");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn any_server_answers_a_url_that_another_one_handed_out() {
    let (origin, key, shelf) = (Origin::start(), Key::new("up-1"), Shelf::new());
    let object = Object::compressed("handed-out", 700_000, Compression::Xz);
    origin.publish(&object, &key);
    let [first, second] = [(); 2].map(|()| with_library(Setup::in_front_of(&origin, &key), &shelf.url()).start());
    let target = first.http().nar_target(&object).await;
    second.http().get(&target).await.expect_bytes(&object.file);
    within("it is written", until_written(&second, 1)).await;
    first.http().get(&target).await.expect_bytes(&object.file);
    assert_eq!(origin.count(&object.file_target()), 1, "the other one had it from the library");
}
