use std::net::Ipv4Addr;

use super::*;
use crate::metrics::Metrics;
use crate::options::Table as _;

const OF_ALL: Bounds = Bounds { connections: 10_000, handshakes: 256 };

fn limits(text: &str) -> Limits {
    Limits::from_toml(text).expect(text)
}

fn clients(text: &str) -> Clients {
    Clients::new(&limits(text), OF_ALL, Metrics::default().edge.limits)
}

fn at(n: u32) -> Client {
    Client::V4(Ipv4Addr::from_bits(n))
}

/// How many of so many requests at once are answered.
fn answered(clients: &Clients, client: Client, of: usize) -> usize {
    (0..of).filter(|_| clients.request(client).is_ok()).count()
}

#[tokio::test(start_paused = true)]
async fn ten_machines_behind_one_address_may_fetch_all_they_need_at_once() {
    let clients = clients("");
    // Each a narinfo and a NAR of 5,000 paths, over as many connections as Nix makes.
    assert_eq!(answered(&clients, at(1), 10 * 2 * 5_000), 100_000);
    let seats: Vec<_> = (0..10 * 25).map(|_| clients.arrive(at(1))).collect();
    assert!(seats.iter().all(Option::is_some));
    assert!(clients.pace(Some(at(1))).is_none(), "nothing is paced unless it is asked for");
    assert_eq!(clients.0.metrics.refused.of(LimitReached::Requests).get(), 0);
}

#[tokio::test(start_paused = true)]
async fn each_client_has_a_budget_of_its_own() {
    let clients = clients("[client]\nrequests = 2\nrequest_burst = 10");
    let named = ["alice", "bob"].map(|name| clients.named("token", name));
    for client in [at(1), at(2), Client::Unix, named[0], named[1], clients.named("certificate", "alice")] {
        assert_eq!(answered(&clients, client, 100), 10, "{client}");
        assert_eq!(answered(&clients, client, 100), 0, "{client}");
    }
    assert_eq!(clients.named("token", "alice"), named[0]);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(answered(&clients, at(1), 100), 4, "two each second");
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(answered(&clients, at(1), 100), 10, "no more than at first");
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_is_told_when_to_come_again() {
    for (refuse_with, status) in [("503", StatusCode::SERVICE_UNAVAILABLE), ("429", StatusCode::TOO_MANY_REQUESTS)] {
        let clients = clients(&format!("[client]\nrequests = 1\nrequest_burst = 1\nrefuse_with = '{refuse_with}'"));
        assert!(clients.request(at(1)).is_ok());
        assert_eq!(clients.request(at(1)), Err(TooMany { status, retry_after: 1, limit: LimitReached::Requests }));
        assert_eq!(clients.0.metrics.refused.of(LimitReached::Requests).get(), 1);
        // What it was told is true.
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(clients.request(at(1)).is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn new_connections_are_counted_by_the_second_too() {
    let clients = clients("[client]\nnew_connections = 3");
    let arrive = |n: usize| (0..n).filter(|_| clients.arrive(at(1)).is_some()).count();
    assert_eq!(arrive(100), 30, "ten seconds' worth at once");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(arrive(100), 6);
    assert_eq!(clients.0.metrics.refused.of(LimitReached::NewConnections).get(), 70 + 94);
    assert!(clients.arrive(at(2)).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_is_zero_is_no_limit() {
    let clients = clients("[client]\nrequests = 0\nnew_connections = 0\nconnections = 1000000");
    assert!(!clients.matter_to_requests());
    assert_eq!(answered(&clients, at(1), 300_000), 300_000);
    let seats: Vec<_> = (0..20_000).map_while(|_| clients.arrive(at(1))).collect();
    assert_eq!(seats.len(), 20_000);
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_what_it_names_and_leaves_the_rest() {
    let clients = clients("[client]\nrequests = 1\nrequest_burst = 5\nconnections = 2");
    let seats = [clients.arrive(at(1)), clients.arrive(at(1))];
    assert_eq!(answered(&clients, at(1), 9), 5);
    clients.reload(&limits("[client]\nrequests = 1\nrequest_burst = 5\nconnections = 3\nbytes = '1 MB'"));
    assert_eq!(answered(&clients, at(1), 9), 0, "this limit is the same, and used up");
    assert!(clients.pace(Some(at(1))).is_some());
    let third = clients.arrive(at(1)).expect("one more than before");
    assert!(clients.arrive(at(1)).is_none(), "connections from before count");
    clients.reload(&limits("[client]\nrequests = 1\nrequest_burst = 6"));
    assert_eq!(answered(&clients, at(1), 9), 6, "another limit begins anew");
    assert!(clients.pace(Some(at(1))).is_none());
    drop((seats, third));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_clients_is_forgotten_within_minutes() {
    let metrics = Metrics::default().edge.limits;
    let clients = Clients::new(&limits("[client]\nbytes = '64 kB'"), OF_ALL, metrics.clone());
    let stop = CancellationToken::new();
    let sweeping = tokio::spawn(clients.clone().sweep_until(stop.clone()));
    for n in 0..1_000_000 {
        assert!(clients.request(at(n)).is_ok(), "nobody is refused for others' number");
    }
    assert!(clients.0.in_force.load().requests.as_ref().unwrap().len() <= 65_536);
    assert!(metrics.shared.get() > 900_000);
    assert!(clients.arrive(at(1)).is_some());
    clients.reserve(Some(at(1)), 1_000_000_000); // hours
    tokio::time::sleep(SWEEP * 2).await;
    assert_eq!(metrics.known.get(), 1);
    stop.cancel();
    sweeping.await.expect("it ends when it is asked to");
}

#[tokio::test(start_paused = true)]
async fn this_machine_is_exempt_unless_it_is_said_otherwise() {
    let exempt = |text: &str| {
        let clients = clients(text);
        ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "2001:db8::1"]
            .map(|address| clients.exempt(Some(address.parse().unwrap())))
            .into_iter()
            .chain([clients.exempt(None)])
            .collect::<Vec<_>>()
    };
    assert_eq!(exempt(""), [true, true, true, false, false, true]);
    assert_eq!(exempt("[client]\nexempt = []"), [false; 6]);
    assert_eq!(exempt("[client]\nexempt = ['10.0.0.0/8']"), [false, false, false, true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn who_is_exempt_is_in_the_row_of_everybody_all_the_same() {
    let clients = clients("bytes = '1 MB'\n[client]\nbytes = '100 kB'");
    tokio::time::advance(Duration::from_secs(1)).await;
    let wait = |client, bytes| clients.reserve(client, bytes).saturating_duration_since(Instant::now());
    assert_eq!(wait(None, 1_250_000), Duration::ZERO);
    assert_eq!(wait(None, 1), Duration::from_secs(1));
    assert_eq!(wait(Some(at(1)), 125_000), Duration::from_micros(1_000_001), "the later of both");
    assert_eq!(wait(Some(at(1)), 1), Duration::from_micros(1_125_001));
    assert_eq!(wait(Some(at(1)), 200_000), Duration::from_micros(1_125_002));
    assert_eq!(wait(Some(at(1)), 1), Duration::from_micros(3_000_010), "its own row is now the longer one");
}

#[test]
fn one_client_does_not_get_all_handshakes() {
    assert_eq!([1, 2, 64, 256, 1000].map(handshakes), [16, 16, 16, 64, 250]);
}
