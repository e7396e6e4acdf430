//! Connections to an upstream: names that move, addresses that are dead, connections that went dead.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::cache::{Key, Object};
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::proxies::{NAME, Passage, with_hosts};
use crate::support::snowbank::{Count, Setup, Snowbank};

/// A program for which the hosts file is this one.
fn start(setup: Setup, hosts: &Path) -> Snowbank {
    let words = with_hosts(hosts);
    setup.through(&words.iter().map(String::as_str).collect::<Vec<_>>()).start()
}

/// A listener that the kernel lets hear nothing: who connects to it waits, as for a machine that is switched off.
fn black_hole(address: SocketAddr) -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&address.into()).expect("a free port");
    // One instruction of the classic packet filter: return 0, keep none of it.
    socket.attach_filter(&[socket2::SockFilter::new(6, 0, 0, 0)]).expect("a filter");
    socket.listen(8).expect("a listener");
    socket
}

#[tokio::test]
async fn an_upstream_that_moved_is_found_without_a_restart() {
    let key = Key::new("connections-1");
    let first = Origin::start_at("127.0.0.2:0".parse().expect("an address"));
    let port = first.address().port();
    let second = Origin::start_at(SocketAddr::from(([127, 0, 0, 3], port)));
    let (here, there) = (Object::new("here", 1_000), Object::new("there", 1_000));
    // Over a connection of its own: a kept one would lead to where the upstream was.
    first.serve(&here.narinfo_target(), Reply::bytes(here.narinfo(&[&key])).field("Connection", "close"));
    second.publish(&there, &key);
    let setup = Setup::new().upstream(&format!("http://{NAME}:{port}"), &key);
    let hosts = setup.home().join("hosts");
    std::fs::write(&hosts, format!("127.0.0.2 {NAME}\n")).expect("a hosts file");
    let snowbank = start(setup, &hosts);
    snowbank.http().get(&here.narinfo_target()).await.expect(200);
    std::fs::write(&hosts, format!("127.0.0.3 {NAME}\n")).expect("a hosts file");
    let _off = first.switch_off();
    snowbank.http().get(&there.narinfo_target()).await.expect(200);
}

#[tokio::test]
async fn a_narinfo_comes_although_the_first_addresses_of_its_upstream_are_dead() {
    let key = Key::new("connections-2");
    let origin = Origin::start_at("127.0.0.3:0".parse().expect("an address"));
    let port = origin.address().port();
    // Whichever order the system prefers, one of the dead is before the living.
    let _holes = [2, 4].map(|n| black_hole(SocketAddr::from(([127, 0, 0, n], port))));
    let setup = Setup::new().upstream(&format!("http://{NAME}:{port}"), &key);
    let hosts = setup.home().join("hosts");
    std::fs::write(&hosts, format!("127.0.0.2 {NAME}\n127.0.0.3 {NAME}\n127.0.0.4 {NAME}\n")).expect("a hosts file");
    let object = Object::new("past-the-dead", 1_000);
    origin.publish(&object, &key);
    let snowbank = start(setup, &hosts);
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
}

/// A program in front of an upstream that speaks HTTP/2, which is the program itself, in front of the origin.
fn in_front_of_itself(origin: &Origin, key: &Key, more: &str) -> (Snowbank, Passage, Snowbank) {
    let far = Setup::in_front_of(origin, key).start();
    let way = Passage::to(far.https_url()[8..].parse().expect("an address"), false);
    let setup = Setup::new();
    let lines = format!("public_keys = [{:?}]\nca_file = {:?}\n{more}", key.public(), setup.authority_file());
    let near = setup.upstream_with(&format!("https://{}", way.address), &lines).start();
    (far, way, near)
}

#[tokio::test]
async fn a_kept_connection_that_went_dead_costs_a_narinfo_half_of_its_time_and_the_next_one_nothing() {
    let (origin, key) = (Origin::start(), Key::new("connections-3"));
    let objects: Vec<Object> = (0..4).map(|n| Object::new(&format!("kept-{n}"), 1_000)).collect();
    objects.iter().for_each(|object| origin.publish(object, &key));
    let (_far, way, near) = in_front_of_itself(&origin, &key, "narinfo_timeout = \"4 s\"");
    near.http().get(&objects[0].narinfo_target()).await.expect(200);
    way.freeze();
    let begun = Instant::now();
    near.http().get(&objects[1].narinfo_target()).await.expect(200);
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}, so that nothing was frozen");
    assert!(took < Duration::from_secs(4), "{took:?}");
    let begun = Instant::now();
    for object in &objects[2..] {
        near.http().get(&object.narinfo_target()).await.expect(200);
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(near.counter(Count::Resends), 1);
}

#[tokio::test]
async fn a_nar_over_a_kept_connection_that_went_dead_comes_over_another() {
    let (origin, key) = (Origin::start(), Key::new("connections-4"));
    let objects = ["first", "second"].map(|name| Object::new(name, 300_000));
    objects.iter().for_each(|object| origin.publish(object, &key));
    let (_far, way, near) = in_front_of_itself(&origin, &key, "");
    for object in &objects {
        near.http().get(&object.narinfo_target()).await.expect(200);
    }
    near.http().get(&objects[0].served_target()).await.expect_bytes(&objects[0].file);
    way.freeze();
    let begun = Instant::now();
    near.http().get(&objects[1].served_target()).await.expect_bytes(&objects[1].file);
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}, so that nothing was frozen");
    assert!(took < Duration::from_secs(12), "{took:?}: it was not the kernel that noticed");
}

#[tokio::test]
async fn an_upstream_that_is_slow_is_asked_twice_once() {
    let (origin, key) = (Origin::start(), Key::new("connections-5"));
    let (_far, _way, near) = in_front_of_itself(&origin, &key, "");
    let quick = Object::new("quick", 100);
    origin.publish(&quick, &key);
    near.http().get(&quick.narinfo_target()).await.expect(200);
    for n in 0..3 {
        let (object, gate) = (Object::new(&format!("slow-{n}"), 100), Gate::new());
        let narinfo = Reply::bytes(object.narinfo(&[&key])).gate_before_head(&gate);
        origin.serve(&object.narinfo_target(), narinfo);
        let (http, target) = (near.http(), object.narinfo_target());
        let asked = tokio::spawn(async move { http.get(&target).await });
        gate.reached().await;
        // So slow is it: longer than half of a narinfo's time.
        tokio::time::sleep(Duration::from_millis(1300)).await;
        gate.open();
        asked.await.expect("an answer").expect(200);
        assert_eq!(near.counter(Count::Resends), 1, "{n}");
    }
}
