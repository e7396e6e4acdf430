//! A new process takes over the sockets of an old one that stops: nobody is refused, and nothing is cut.

use crate::support::activation::{Manager, config};
use crate::support::cache::{Key, Object};
use crate::support::client::{End, Target};
use crate::support::origin::Origin;
use crate::support::snowbank::{Setup, Snowbank, certificates};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// Downloads, one after the other, until told to stop; how many there were, and what went wrong.
struct Crowd {
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

/// How a client asks.
#[derive(Debug, Clone, Copy)]
enum Habit {
    /// A connection for each download.
    Fresh,
    /// A connection as long as the server keeps it.
    Kept,
    /// HTTP/2, a connection for each few downloads.
    H2,
}

impl Crowd {
    fn start(targets: &[(Target, Habit)], objects: &Arc<Vec<Object>>) -> Self {
        let (done, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let clients = targets.iter().cloned().enumerate().map(|(n, (target, habit))| {
            let (done, stop, objects) = (Arc::clone(&done), Arc::clone(&stop), Arc::clone(objects));
            tokio::spawn(async move {
                let mut failures = Vec::new();
                let mut objects = objects.iter().cycle().skip(n);
                while !stop.load(SeqCst) {
                    let batch: Vec<&Object> = objects.by_ref().take(3).collect();
                    failures.extend(download(&target, habit, &batch, &done).await);
                }
                failures
            })
        });
        Self { clients: clients.collect(), done, stop }
    }

    async fn until(&self, downloads: usize) {
        crate::support::within("downloads", async {
            while self.done.load(SeqCst) < downloads {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    async fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, SeqCst);
        let mut failures = Vec::new();
        for client in self.clients {
            failures.extend(client.await.expect("no client panics"));
        }
        (self.done.load(SeqCst), failures)
    }
}

async fn download(target: &Target, habit: Habit, batch: &[&Object], done: &AtomicUsize) -> Vec<String> {
    let mut failures = Vec::new();
    let mut judge = |object: &Object, status: u16, body: &[u8], end: &End| {
        done.fetch_add(1, SeqCst);
        if status != 200 || *end != End::Clean || body != object.file {
            let tls = matches!(target, Target::Https(..));
            failures.push(format!("{habit:?}, TLS {tls}: {status}, {} bytes, {end:?}", body.len()));
        }
    };
    match habit {
        Habit::Fresh => {
            for object in batch {
                let response = target.get(&object.served_target()).await;
                judge(object, response.status, &response.body, &response.end);
            }
        }
        Habit::Kept => {
            let mut connection = Some(target.connect().await);
            for object in batch {
                let open = match connection.take() {
                    Some(open) => open,
                    None => target.connect().await,
                };
                let (response, kept) = open.get(&object.served_target()).await;
                judge(object, response.status, &response.body, &response.end);
                let closed = response.field("connection").is_some_and(|value| value == "close");
                connection = (!closed && response.status == 200).then_some(kept);
            }
        }
        Habit::H2 => {
            let h2 = target.h2().await;
            let targets: Vec<String> = batch.iter().map(|object| object.served_target()).collect();
            let asked = targets.iter().map(|target| h2.get(target));
            for (object, mut response) in batch.iter().zip(futures_util::future::join_all(asked).await) {
                // GOAWAY says of a request that it was not taken (RFC 9113 section 6.8): clients ask again elsewhere. Nothing of
                // it was answered then.
                let not_taken = |end: &End| matches!(end, End::Broken(why) if why.contains("GoAway(b\"\", NO_ERROR"));
                if response.status == 0 && not_taken(&response.end) {
                    response = target.h2().await.get(&object.served_target()).await;
                }
                judge(object, response.status, &response.body, &response.end);
            }
        }
    }
    failures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_go_on_while_a_fresh_process_takes_over() {
    let (origin, key) = (Origin::start(), Key::new("takeover-1"));
    let objects: Vec<Object> = (0..20).map(|n| Object::new(&format!("taken-{n}"), 100_000 + n * 37_000)).collect();
    for object in &objects {
        origin.publish(object, &key);
    }
    let objects = Arc::new(objects);
    let setup = Setup::in_front_of(&origin, &key);
    let path = setup.home().join("given.sock");
    let mut manager = Manager::default();
    let plain = Target::Http(manager.listen("web", "127.0.0.1:0"));
    let tls = Target::Https(manager.listen("tls", "127.0.0.1:0"), vec![certificates().authority.clone()]);
    manager.listen_unix("unix", &path);
    let start = || -> Snowbank {
        let program = manager.start(&setup, &config(&setup));
        program.log_line("admin on", 0);
        program
    };
    let mut old = start();
    let habits = [
        (plain.clone(), Habit::Fresh),
        (tls.clone(), Habit::Fresh),
        (plain.clone(), Habit::Kept),
        (tls.clone(), Habit::Kept),
        (tls, Habit::H2),
        (Target::Unix(path), Habit::Fresh),
    ];
    let crowd = Crowd::start(&habits, &objects);
    crowd.until(60).await;
    // Four times: with the new one there already, then with nobody there for a while.
    for turn in 1..=4 {
        let fresh = if turn % 2 == 0 { None } else { Some(start()) };
        old.ask_to_stop();
        let ended = tokio::task::spawn_blocking(move || old.wait());
        let status = ended.await.expect("a thread");
        assert!(status.success(), "{status}");
        old = match fresh {
            Some(fresh) => fresh,
            None => start(),
        };
        crowd.until(60 + turn * 60).await;
    }
    let (done, failures) = crowd.stop().await;
    assert!(done >= 300, "{done}");
    assert!(failures.is_empty(), "{} of {done}: {failures:#?}", failures.len());
    // The store is the new one's once the old one has left it.
    old.wait_for_disk_to_be_up();
    println!("{done} downloads, 0 failed");
}
