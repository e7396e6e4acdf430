//! Proxies in front of upstreams: the real `tinyproxy` (HTTP) and `microsocks` (SOCKS 5), and a TLS entrance for one.
//!
//! Both run where [`NAME`] is this machine, which nobody else knows: what arrives under that name came through them.

use super::{PATIENCE, runtime};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A host that only the proxies can resolve; it stands in the certificate of the tests.
pub const NAME: &str = "cache.example.test";

/// A running proxy. Dropping it ends it.
pub struct Proxy {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    _home: tempfile::TempDir,
}

/// `tinyproxy`, which wants this user with this password.
pub fn tinyproxy(user: &str, password: &str) -> Proxy {
    start(|address, home| {
        let (ip, port) = (address.ip(), address.port());
        let config = format!("Listen {ip}\nPort {port}\nTimeout 60\nLogLevel Critical\nBasicAuth {user} {password}\n");
        let path = home.join("tinyproxy.conf");
        std::fs::write(&path, config).expect("a configuration for tinyproxy");
        vec!["tinyproxy".into(), "-d".into(), "-c".into(), path.display().to_string()]
    })
}

/// `microsocks`, which wants this user with this password.
pub fn microsocks(user: &str, password: &str) -> Proxy {
    start(|address, _| {
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        ["microsocks", "-i", &ip, "-p", &port, "-u", user, "-P", password].map(String::from).to_vec()
    })
}

/// Words that run a program where `/etc/hosts` is this file.
pub fn with_hosts(hosts: &Path) -> Vec<String> {
    let mut words = vec!["unshare".to_owned()];
    if !rustix::process::getuid().is_root() {
        words.push("--map-root-user".into());
    }
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    words.extend(["--mount", "sh", "-c", script, &hosts.display().to_string()].map(String::from));
    words
}

/// A free port is looked for until the proxy starts.
fn start(words: impl Fn(SocketAddr, &Path) -> Vec<String>) -> Proxy {
    for _ in 0..20 {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the proxy");
        let hosts = home.path().join("hosts");
        std::fs::write(&hosts, format!("127.0.0.1 localhost {NAME}\n")).expect("a hosts file");
        let words = [with_hosts(&hosts), words(address, home.path())].concat();
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare runs; tests/run installs what is missing");
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().expect("its status").is_none() && Instant::now() < deadline {
            if TcpStream::connect(address).is_ok() {
                return Proxy { child, address, _home: home };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    panic!("the proxy does not start; tests/run installs what is missing");
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A door to a TCP server: it passes bytes on, behind TLS where wanted, and what passes can be frozen.
pub struct Passage {
    /// Where it listens.
    pub address: SocketAddr,
    frozen: tokio::sync::watch::Sender<usize>,
    /// The connections that came, as the kernel knows them.
    ears: Arc<Mutex<Vec<OwnedFd>>>,
    accepting: JoinHandle<()>,
}

impl Passage {
    /// A door to `to`; with TLS, whoever enters speaks it with the door, by the certificate of the tests.
    pub fn to(to: SocketAddr, tls: bool) -> Self {
        let _entered = runtime().enter();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener on the runtime");
        let address = listener.local_addr().expect("a bound address");
        let acceptor = tls.then(|| super::snowbank::certificates().acceptor());
        let (frozen, freezing) = tokio::sync::watch::channel(0);
        let ears: Arc<Mutex<Vec<OwnedFd>>> = Arc::default();
        let came = Arc::clone(&ears);
        let accepting = runtime().spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut here, _)) = listener.accept().await {
                let (acceptor, mut freezing, ears) = (acceptor.clone(), freezing.clone(), Arc::clone(&came));
                freezing.mark_unchanged();
                connections.spawn(async move {
                    let mut there = tokio::net::TcpStream::connect(to).await?;
                    ears.lock().expect("nobody panicked").push(here.as_fd().try_clone_to_owned()?);
                    let passing = async {
                        match acceptor {
                            None => tokio::io::copy_bidirectional(&mut here, &mut there).await,
                            Some(acceptor) => {
                                let mut here = acceptor.accept(&mut here).await?;
                                tokio::io::copy_bidirectional(&mut here, &mut there).await
                            }
                        }
                    };
                    tokio::select! {
                        passed = passing => passed.map(|_| ()),
                        Ok(()) = freezing.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self { address, frozen, ears, accepting }
    }

    /// Freezes the connections there are, and no later one, as if a router had forgotten them: nothing that comes is
    /// acknowledged, and nothing is said.
    pub fn freeze(&self) {
        for ear in self.ears.lock().expect("nobody panicked").iter() {
            // One instruction of the classic packet filter: return 0, keep none of it.
            let filter = [socket2::SockFilter::new(6, 0, 0, 0)];
            socket2::SockRef::from(ear).attach_filter(&filter).expect("a filter");
        }
        self.frozen.send_modify(|times| *times += 1);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
