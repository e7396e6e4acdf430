use std::net::TcpListener;

use super::*;
use crate::upstream::reach::Reach;
use crate::upstream::testing::black_hole;

const NAME: &str = "cache.example";

fn tcp(addresses: &[IpAddr], limit: Duration) -> Tcp {
    let found: Vec<_> = addresses.iter().map(|address| SocketAddr::new(*address, 0)).collect();
    Tcp::new(Names::by(move |_| Ok(found.clone())), limit)
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Connects to a name with these addresses, of which the last one listens and the others swallow everything.
async fn past_holes(addresses: &[&str]) -> Duration {
    let addresses = ips(addresses);
    let (living, holes) = addresses.split_last().unwrap();
    let listener = TcpListener::bind((*living, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let _holes: Vec<_> = holes.iter().map(|hole| black_hole(SocketAddr::new(*hole, port))).collect();
    let begun = std::time::Instant::now();
    let stream = tcp(&addresses, Duration::from_secs(20)).connect(NAME, port, None).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap().ip(), *living);
    begun.elapsed()
}

#[tokio::test]
async fn an_address_that_swallows_everything_costs_a_quarter_of_a_second() {
    for addresses in [
        &["::1", "127.0.0.1"][..],
        &["127.0.0.1", "::1"],
        &["127.0.0.2", "127.0.0.1"],
        &["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.1"],
    ] {
        if addresses.contains(&"::1") && TcpListener::bind("[::1]:0").is_err() {
            continue; // a machine without IPv6
        }
        let holes = u32::try_from(addresses.len() - 1).unwrap();
        let took = past_holes(addresses).await;
        assert!(took >= STAGGER * holes, "{addresses:?}: {took:?}, so that nothing was swallowed");
        assert!(took < STAGGER * holes + Duration::from_secs(3), "{addresses:?}: {took:?}");
    }
}

#[tokio::test]
async fn an_address_that_refuses_costs_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let begun = std::time::Instant::now();
    let several = tcp(&ips(&["127.0.0.2", "::1", "127.0.0.3", "127.0.0.1"]), Duration::from_secs(20));
    several.connect(NAME, port, None).await.unwrap();
    assert!(begun.elapsed() < STAGGER * 3, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn where_no_address_answers_the_first_reason_is_told_and_the_time_is_bounded() {
    let hole = black_hole("127.0.0.2:0".parse().unwrap());
    let port = hole.local_addr().unwrap().as_socket().unwrap().port();
    let one = tcp(&ips(&["127.0.0.2"]), Duration::from_millis(300));
    let told = one.connect(NAME, port, None).await.unwrap_err().to_string();
    assert_eq!(told, format!("{NAME} port {port}: no connection within 300ms"));
    let refusing = tcp(&ips(&["127.0.0.3", "127.0.0.4"]), Duration::from_secs(20));
    let told = refusing.connect(NAME, port, None).await.unwrap_err().to_string();
    assert!(told.starts_with(&format!("127.0.0.3:{port}: Connection refused")), "{told}");
}

#[tokio::test]
async fn a_resolver_that_hangs_is_waited_for_no_longer_than_a_connection() {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = std::sync::Mutex::new(ended);
    let names = Names::by(move |_| {
        let _ = ended.lock().unwrap().recv();
        Ok(Vec::new())
    });
    let tcp = Tcp::new(names, Duration::from_millis(100));
    let told = tcp.connect(NAME, 80, None).await.unwrap_err().to_string();
    assert_eq!(told, format!("{NAME} port 80: no connection within 100ms"));
    drop(end);
}

#[tokio::test]
async fn r14_an_address_of_this_machine_is_not_connected_to_unless_its_own_upstream_is_here() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, limit) = (listener.local_addr().unwrap().port(), Limit::new());
    let tcp = tcp(&ips(&["127.0.0.1"]), Duration::from_secs(20));
    for host in [NAME, "127.0.0.1"] {
        let told = tcp.connect(host, port, Some(&limit)).await.unwrap_err().to_string();
        assert_eq!(told, NOT_THERE, "{host}");
    }
    limit.saw(Reach::Machine);
    tcp.connect(NAME, port, Some(&limit)).await.unwrap();
}

#[test]
fn the_families_take_turns() {
    let of = |texts: &[&str]| -> Vec<SocketAddr> { ips(texts).into_iter().map(|ip| SocketAddr::new(ip, 1)).collect() };
    let found = of(&["::1", "::2", "::3", "1.0.0.1", "1.0.0.2"]);
    assert_eq!(in_turn(&found), of(&["::1", "1.0.0.1", "::2", "1.0.0.2", "::3"]));
    let found = of(&["1.0.0.1", "1.0.0.2", "::1"]);
    assert_eq!(in_turn(&found), of(&["1.0.0.1", "::1", "1.0.0.2"]));
    assert_eq!(in_turn(&vec![found[0]; 100]).len(), MOST);
}
