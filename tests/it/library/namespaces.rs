//! Three servers, each in a network of its own, that can reach nothing of each other: all that they share is the bucket.

use super::replicas::{Part, nars_fetched};
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::origin::Origin;
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::{PATIENCE, static_cache};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};

/// A network with two addresses: ours, and that of who is in it.
struct Network {
    name: String,
    ours: Ipv4Addr,
    theirs: Ipv4Addr,
}

impl Network {
    fn new(n: u8) -> Self {
        let id = std::process::id();
        // A subnet of four addresses for each, apart from those of other runs on this machine.
        let third = u8::try_from(id % 200).expect("small");
        let [ours, theirs] = [1, 2].map(|last| Ipv4Addr::new(10, 213, third, n * 4 + last));
        let network = Self { name: format!("snowbank-{id}-{n}"), ours, theirs };
        let (name, link) = (&network.name, format!("sb{}-{n}", id % 100_000));
        for words in [
            format!("netns add {name}"),
            format!("link add {link} type veth peer name eth0 netns {name}"),
            format!("addr add {ours}/30 dev {link}"),
            format!("link set {link} up"),
            format!("-n {name} addr add {theirs}/30 dev eth0"),
            format!("-n {name} link set eth0 up"),
            format!("-n {name} link set lo up"),
        ] {
            let made = Command::new("ip").args(words.split(' ')).output().expect("ip");
            assert!(made.status.success(), "ip {words}: {}", String::from_utf8_lossy(&made.stderr));
        }
        network
    }

    /// A command in it.
    fn inside(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The pair of links goes with it.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// Lets whoever is in a network reach a port of this machine.
async fn door(at: Ipv4Addr, port: u16) -> SocketAddr {
    let listener = TcpListener::bind((at, 0)).await.expect("an address");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    address
}

/// A server in a network of its own, with an empty store, and the origin that counts what it asks.
struct Replica {
    origin: Origin,
    setup: Setup,
    snowbank: Snowbank,
    network: Network,
}

impl Replica {
    async fn start(part: &Part, n: u8) -> Self {
        let network = Network::new(n);
        let origin = Origin::start_at((network.ours, 0).into());
        static_cache::serve_with(&origin, &fixture().cache("zstd"));
        let bucket = door(network.ours, part.seaweedfs.port()).await;
        let setup = Setup::in_front_of(&origin, fixture().key()).through(&network.inside());
        let table = part.table_at(&format!("http://{bucket}"), setup.home());
        let listen = format!("[[listen]]\naddress = \"{}:5080\"\ntls = false\n", network.theirs);
        let setup = setup.also(&listen).also(&table);
        let snowbank = setup.start();
        Self { origin, setup, snowbank, network }
    }

    fn url(&self) -> String {
        format!("http://{}:5080", self.network.theirs)
    }

    /// Killed, and started again with nothing.
    fn again(self) -> Self {
        let Self { origin, setup, snowbank, network } = self;
        snowbank.kill();
        let _ = std::fs::remove_dir_all(setup.dir());
        let snowbank = setup.start();
        Self { origin, setup, snowbank, network }
    }

    /// Waits until what it fetched is in the bucket. Its address for operators is on the loopback of its network.
    fn settle(&self) {
        let page = format!("http://{}/metrics", self.snowbank.log_after("admin on http://").trim_end_matches('/'));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let [ip, words @ ..] = self.network.inside();
            let output = Command::new(ip).args(words).args(["curl", "-sf", &page]).output().expect("curl");
            let text = String::from_utf8_lossy(&output.stdout);
            if ["snowbank_library_queue 0", "snowbank_fill_running 0"]
                .iter()
                .all(|idle| text.lines().any(|l| l == *idle))
            {
                return;
            }
            assert!(Instant::now() < deadline, "it does not come to rest: {text}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// A fresh machine for each server builds everything through it, all at once.
async fn build_through(replicas: &[Replica]) {
    let builds = replicas.iter().map(|replica| {
        let url = replica.url();
        tokio::task::spawn_blocking(move || {
            let machine = Machine::new(&[&fixture().key().public()]);
            assert_eq!(machine.substitute("everything", &url, None), fixture().path("everything"));
            machine.verify_all();
        })
    });
    for build in builds.collect::<Vec<_>>() {
        build.await.expect("no build fails");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_that_share_nothing_but_a_bucket() {
    if !rustix::process::getuid().is_root() || Command::new("ip").arg("-V").output().is_err() {
        return eprintln!("SKIPPED: networks of their own take root and ip");
    }
    let Some(part) = Part::new("namespaces") else { return };
    let mut replicas = Vec::new();
    for n in 0..3 {
        replicas.push(Replica::start(&part, n).await);
    }
    // Nobody hears of another: neither its address nor its loopback can be reached.
    let [ip, words @ ..] = replicas[0].network.inside();
    let other = replicas[1].url();
    let asked = Command::new(ip).args(words).args(["curl", "-sf", "-m", "2", &other]).status().expect("curl");
    assert!(!asked.success(), "{other} is reached from the network of another");
    build_through(&replicas).await;
    for (n, replica) in replicas.iter().enumerate() {
        let fetched = nars_fetched(&replica.origin);
        assert!(fetched.values().all(|count| *count == 1), "server {n}: {fetched:?}");
        println!("server {n} fetched {} of {} NARs from upstream", fetched.len(), fixture().infos().len());
        replica.settle();
        replica.origin.forget();
    }
    // All of it is in the bucket by now: whoever dies and comes back with nothing asks upstream for none of it.
    for n in 0..3 {
        let victim = replicas.remove(n).again();
        replicas.insert(n, victim);
        build_through(&replicas).await;
    }
    for replica in &replicas {
        let fetched = nars_fetched(&replica.origin);
        assert!(fetched.is_empty(), "{fetched:?}");
    }
}
