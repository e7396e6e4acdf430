//! Crowds: what they cost, and that everybody is served.
//!
//! In the ordinary run they are small, and what is asserted does not depend on how fast the machine is. With `SNOWBANK_LOAD=full`
//! they are as large as their names say, for a release build, and times are held against bounds too:
//!
//! ```sh
//! SNOWBANK_LOAD=full cargo test --release --test it -- --nocapture --test-threads 1 load:: overload:: floods::
//! ```

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::cache::{Key, Object};
use crate::support::client::{Target, tls};
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::within;

const MIB: u64 = 1 << 20;

/// Whether this run is for the figures.
pub fn is_full() -> bool {
    std::env::var_os("SNOWBANK_LOAD").is_some_and(|form| form == "full")
}

/// So much in a run for the figures, so much otherwise.
fn scale<T>(full: T, small: T) -> T {
    if is_full() { full } else { small }
}

fn in_front_of(objects: &[&Object], store: &str, also: &str) -> (Origin, Setup) {
    let (origin, key) = (Origin::start(), Key::new("load-1"));
    origin.otherwise(|_, _| Reply::status(404));
    objects.iter().for_each(|object| origin.publish(object, &key));
    let setup = Setup::in_front_of(&origin, &key).store(store).also(also);
    (origin, setup)
}

/// This program may have as many files open as the system lets it.
fn raise_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("a limit");
}

/// The processor time that a program has used so far.
fn processor(snowbank: &Snowbank) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", snowbank.id())).expect("its figures");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number");
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// The times of so many requests for something that is here, one after the other: the median and the 99th percentile.
async fn hits(client: &Target, target: &str, requests: usize) -> (Duration, Duration) {
    let mut connection = client.connect().await;
    let mut times = Vec::with_capacity(requests);
    for _ in 0..requests {
        let begun = Instant::now();
        let (response, kept) = connection.get(target).await;
        response.expect(200);
        times.push(begun.elapsed());
        connection = kept;
    }
    times.sort_unstable();
    (times[requests / 2], times[requests * 99 / 100])
}

/// Downloads over plain HTTP and compares each byte as it comes.
async fn download(address: SocketAddr, target: &str, expected: &Bytes) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let ask = format!("GET {target} HTTP/1.1\r\nHost: cache.test\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.expect("a request");
    let mut buffer = vec![0; 128 << 10];
    let (mut head, mut at) = (Vec::new(), None);
    loop {
        let read = stream.read(&mut buffer).await.expect("bytes");
        if read == 0 {
            break;
        }
        let mut piece = &buffer[..read];
        if at.is_none() {
            head.extend_from_slice(piece);
            let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head[..end]));
            at = Some(0);
            piece = &piece[piece.len() - (head.len() - end - 4)..];
        }
        let from = at.expect("the head is over");
        assert!(expected.get(from..from + piece.len()) == Some(piece), "other bytes from {from}");
        at = Some(from + piece.len());
    }
    assert_eq!(at, Some(expected.len()), "bytes");
}

async fn all<T: 'static>(mut tasks: JoinSet<T>) {
    while let Some(ended) = tasks.join_next().await {
        ended.expect("it was served");
    }
}

/// The most memory that a program had while something went on.
async fn most_memory(snowbank: &Snowbank, what: impl Future<Output = ()>) -> u64 {
    let mut most = 0;
    let mut what = std::pin::pin!(what);
    loop {
        tokio::select! {
            () = &mut what => return most.max(snowbank.resident()),
            () = tokio::time::sleep(Duration::from_millis(50)) => most = most.max(snowbank.resident()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_over_tls() {
    let count = scale(10_000, 200);
    raise_files();
    let object = Object::new("idle", 1000);
    let (_origin, setup) =
        in_front_of(&[&object], "disk = \"0 B\"\nmemory = \"16 MiB\"", "[limits]\nconnections = 10100");
    let snowbank = setup.start();
    snowbank.https().get(&object.narinfo_target()).await.expect(200);
    let before = snowbank.resident();
    let Target::Https(address, authorities) = snowbank.https() else { panic!("no TLS") };
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        let batch = (0..50.min(count - held.len())).map(|_| tls(address, &authorities, &[b"http/1.1"]));
        held.extend(futures_util::future::join_all(batch).await);
    }
    let resident = snowbank.resident();
    let (median, slow) = hits(&snowbank.https(), &object.narinfo_target(), scale(5000, 100)).await;
    println!(
        "load: {count} idle TLS connections: {} MiB ({} KiB each), hits p50 {median:?} p99 {slow:?}",
        resident / MIB,
        (resident - before) / 1024 / count as u64,
    );
    assert!(resident < 400 * MIB);
    assert!(!is_full() || slow < Duration::from_millis(50));
    // Each of them is still there.
    for mut stream in held {
        stream.write_all(b"GET /nix-cache-info HTTP/1.1\r\nHost: cache.test\r\n\r\n").await.expect("a connection");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
}

/// With pages of 2 MiB an idle server took 22 MB more.
#[test]
fn memory_is_taken_in_small_pages() {
    let (_origin, setup) = in_front_of(&[], "disk = \"0 B\"\nmemory = \"16 MiB\"", "");
    let snowbank = setup.start();
    let status = std::fs::read_to_string(format!("/proc/{}/status", snowbank.id())).expect("its status");
    let Some(huge) = status.lines().find_map(|line| line.strip_prefix("THP_enabled:")) else {
        return; // a kernel before 5.0, or one that has no others
    };
    assert_eq!(huge.trim(), "0");
}

/// A client that goes on so slowly that it holds its connection as long as it is let; how long that was.
async fn slowly(address: SocketAddr, text: &'static [u8]) -> Duration {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let (mut next, mut answer) = (0, [0; 256]);
    loop {
        tokio::select! {
            read = stream.read(&mut answer) => if !matches!(read, Ok(1..)) {
                return begun.elapsed();
            },
            _ = ticks.tick() => {
                // The last byte is never sent. Whoever is closed hears of it by reading.
                let _ = stream.write_all(&text[next..=next]).await;
                next = (next + 1).min(text.len() - 2);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_clients_beside_a_hundred_honest_ones() {
    const HEAD: &[u8] =
        b"GET /nix-cache-info HTTP/1.1\r\nHost: cache.test\r\nX-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n";
    // The beginning of a ClientHello of 512 bytes.
    const HELLO: &[u8] =
        &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7];
    let (slow, honest) = (scale(1000, 60), scale(100, 10));
    raise_files();
    let object = Object::new("honest", 100_000);
    let (_origin, setup) = in_front_of(&[&object], "disk = \"0 B\"\nmemory = \"64 MiB\"", "");
    let snowbank = setup.start();
    let (plain, Target::Https(secure, _)) = (snowbank.http_address(), snowbank.https()) else { panic!("no TLS") };
    let mut slow_ones = JoinSet::new();
    for n in 0..slow {
        match n % 2 {
            0 => slow_ones.spawn(slowly(plain, HEAD)),
            _ => slow_ones.spawn(slowly(secure, HELLO)),
        };
    }
    let mut honest_ones = JoinSet::new();
    for n in 0..honest {
        let client = if n % 2 == 0 { snowbank.http() } else { snowbank.https() };
        let object = object.clone();
        honest_ones.spawn(async move {
            let begun = Instant::now();
            let mut times = Vec::new();
            while begun.elapsed() < Duration::from_secs(12) {
                let asked = Instant::now();
                client.get(&object.narinfo_target()).await.expect(200);
                client.get(&object.served_target()).await.expect_bytes(&object.file);
                times.push(asked.elapsed());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            times
        });
    }
    let (mut times, mut longest) = (Vec::new(), Duration::ZERO);
    while let Some(ended) = honest_ones.join_next().await {
        times.extend(ended.expect("it was served"));
    }
    while let Some(ended) = within("slow clients to be closed", slow_ones.join_next()).await {
        longest = longest.max(ended.expect("an end"));
    }
    times.sort_unstable();
    println!(
        "load: {slow} slow clients, the last one gone after {longest:?}; {} rounds of {honest} honest ones, all served, p99 {:?}",
        times.len(),
        times[times.len() * 99 / 100]
    );
    assert!(longest < Duration::from_secs(15));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_on_one_cold_nar_of_a_gibibyte() {
    let (clients, size) = (scale(1000, 50), scale(1 << 30, 12 << 20));
    raise_files();
    let object = Object::new("giant", size);
    let store = "disk = \"3 GiB\"\nmemory = \"64 MiB\"";
    let (origin, setup) =
        in_front_of(&[&object], if is_full() { store } else { "disk = \"256 MiB\"\nmemory = \"32 MiB\"" }, "");
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let (address, target) = (snowbank.http_address(), object.served_target());
    let begun = Instant::now();
    let mut downloads = JoinSet::new();
    for _ in 0..clients {
        let (target, file) = (target.clone(), object.file.clone());
        downloads.spawn(async move { download(address, &target, &file).await });
    }
    let most = most_memory(&snowbank, all(downloads)).await;
    println!(
        "load: {clients} clients on one cold NAR of {} MiB in {:?}: {} MiB at most, {:?} of processor",
        size as u64 / MIB,
        begun.elapsed(),
        most / MIB,
        processor(&snowbank)
    );
    assert_eq!(origin.count(&object.file_target()), 1, "upstream requests");
    assert!(most < 300 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_nars_at_once() {
    let (count, size) = (scale(1000, 60), scale(4 << 20, 1 << 20));
    raise_files();
    let objects: Vec<Object> = (0..count).map(|n| Object::new(&format!("many-{n}"), size)).collect();
    let store = scale("disk = \"8 GiB\"\nmemory = \"128 MiB\"", "disk = \"256 MiB\"\nmemory = \"64 MiB\"");
    let (origin, setup) = in_front_of(&objects.iter().collect::<Vec<_>>(), store, "");
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let (address, begun) = (snowbank.http_address(), Instant::now());
    let mut downloads = JoinSet::new();
    for object in &objects {
        let (target, file) = (object.served_target(), object.file.clone());
        downloads.spawn(async move { download(address, &target, &file).await });
    }
    let most = most_memory(&snowbank, all(downloads)).await;
    println!(
        "load: {count} NARs of {} MiB at once in {:?}: {} MiB at most",
        size as u64 / MIB,
        begun.elapsed(),
        most / MIB
    );
    assert!(objects.iter().all(|object| origin.count(&object.file_target()) == 1), "upstream requests");
    assert!(most < 512 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_paths_that_nobody_has() {
    const CLIENTS: usize = 16;
    let count = scale(1_000_000, 8_000);
    let (_origin, setup) = in_front_of(&[], "disk = \"0 B\"\nmemory = \"64 MiB\"", "[log]\naccess = false");
    let snowbank = setup.start();
    let client = snowbank.http();
    let mut resident = Vec::new();
    let begun = Instant::now();
    for half in 0..2 {
        let mut asking = JoinSet::new();
        for first in 0..CLIENTS {
            let client = client.clone();
            asking.spawn(async move {
                let mut connection = client.connect().await;
                for n in (half * count / 2..(half + 1) * count / 2).skip(first).step_by(CLIENTS) {
                    let (response, kept) = connection.get(&format!("/{n:032}.narinfo")).await;
                    response.expect(404);
                    connection = kept;
                }
            });
        }
        all(asking).await;
        resident.push(snowbank.resident() / MIB);
    }
    println!("load: {count} missing narinfos in {:?}: {resident:?} MiB after each half", begun.elapsed());
    assert!(resident[1] < 300 && resident[1] < resident[0] + 64, "{resident:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_256_files_it_serves_and_does_not_spin() {
    raise_files();
    let (here, cold) = (Object::new("here", 10_000), Object::new("cold", 3_000_000));
    let (_origin, setup) = in_front_of(&[&here, &cold], "disk = \"0 B\"\nmemory = \"64 MiB\"", "");
    let snowbank = setup.through(&["prlimit", "--nofile=256:256", "--"]).start();
    let client = snowbank.http();
    let mut kept = client.connect().await;
    (_, kept) = kept.get(&here.narinfo_target()).await;
    let mut crowd = Vec::new();
    for n in 0..400_u32 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 1, u8::try_from(n % 200).expect("small") + 1], 0))).expect("an address");
        crowd.push(socket.connect(snowbank.http_address()).await.expect("a connection"));
    }
    // Who is in is served, from here and from upstreams.
    (_, kept) = kept.get(&here.narinfo_target()).await;
    let (response, kept) = kept.get(&cold.narinfo_target()).await;
    response.expect(200);
    let (response, _kept) = kept.get(&cold.served_target()).await;
    response.expect_bytes(&cold.file);
    let before = processor(&snowbank);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let spent = processor(&snowbank) - before;
    println!("load: 256 files, 400 clients: {spent:?} of processor in 2 s");
    assert!(spent < Duration::from_millis(500), "it spins: {spent:?}");
    drop(crowd);
    for _ in 0..20 {
        client.get(&here.narinfo_target()).await.expect(200);
    }
}

/// A group of processes that may take so many bytes of memory together; `None` where none can be made here.
struct Group(std::path::PathBuf);

impl Group {
    fn with(bytes: u64) -> Option<Self> {
        let name = format!("snowbank-test-{}", std::process::id());
        let version_1 = std::path::Path::new("/sys/fs/cgroup/memory").join(&name);
        let version_2 = std::path::Path::new("/sys/fs/cgroup").join(&name);
        [(version_1, "memory.limit_in_bytes"), (version_2, "memory.max")].into_iter().find_map(|(dir, limit)| {
            std::fs::create_dir(&dir).ok()?;
            let group = Self(dir);
            std::fs::write(group.0.join(limit), bytes.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0); // its last process may still be on its way out
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_downloads_of_a_gibibyte_in_256_mib() {
    let (clients, size) = (scale(200, 20), scale(1 << 30, 48 << 20));
    raise_files();
    let Some(group) = Group::with(256 * MIB) else {
        println!("load: NOT RUN: no group of processes with a limit of memory can be made here");
        return;
    };
    let object = Object::new("squeezed", size);
    let store = scale("disk = \"3 GiB\"\nmemory = \"32 MiB\"", "disk = \"256 MiB\"\nmemory = \"32 MiB\"");
    let (origin, setup) = in_front_of(&[&object], store, "");
    let into = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
    let snowbank = setup.through(&["sh", "-c", &into, "sh"]).start();
    snowbank.wait_for_disk();
    let (address, begun) = (snowbank.http_address(), Instant::now());
    let mut downloads = JoinSet::new();
    for _ in 0..clients {
        let (target, file) = (object.served_target(), object.file.clone());
        downloads.spawn(async move { download(address, &target, &file).await });
    }
    let most = most_memory(&snowbank, all(downloads)).await;
    println!(
        "load: {clients} downloads of {} MiB in 256 MiB of memory: {:?}, {} MiB resident at most",
        size as u64 / MIB,
        begun.elapsed(),
        most / MIB
    );
    assert!(origin.each_byte_once(&object.file_target()), "{:?}", origin.parts(&object.file_target()));
    assert!(snowbank.stop().success(), "it was killed");
}
