//! Certificates replaced again and again while clients download: nobody notices.

use super::files::{in_force, lines, secure};
use crate::support::authority::{Authority, Leaf};
use crate::support::cache::{Key, Object};
use crate::support::client::{End, H2, Target, assert_same};
use crate::support::origin::Origin;
use crate::support::snowbank::Setup;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_swaps_under_sixty_four_downloads() {
    let (origin, key, authority) = (Origin::start(), Key::new("swaps-1"), Authority::new("swaps"));
    let object = Arc::new(Object::new("swapped", 1_000_000));
    origin.publish(&object, &key);
    let setup = Setup::in_front_of(&origin, &key);
    let names = ["localhost", "127.0.0.1"];
    let files = authority.issue(&names, Leaf::default()).write(setup.home(), "pair");
    let snowbank = setup.tls(&lines(&[&files])).start();
    let address = secure(&snowbank);
    let target = Target::Https(address, vec![authority.certificate.clone()]);
    let place = target.nar_target(&object).await;
    target.get(&place).await.expect_bytes(&object.nar);

    let (stop, finished) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for n in 0..64 {
        let (stop, finished, object) = (Arc::clone(&stop), Arc::clone(&finished), Arc::clone(&object));
        let (target, place) = (target.clone(), place.clone());
        clients.push(tokio::spawn(async move {
            // Half of them open a connection for each download, half keep one over all of the swaps.
            let kept: Option<H2> = if n % 2 == 0 { Some(target.h2().await) } else { None };
            while !stop.load(Ordering::Relaxed) {
                let answer = match &kept {
                    Some(connection) => connection.get(&place).await,
                    None => target.get(&place).await,
                };
                assert_eq!((answer.status, &answer.end), (200, &End::Clean));
                assert_same(&answer.body, &object.nar);
                finished.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let began = std::time::Instant::now();
    for _ in 0..100 {
        let next = authority.issue(&names, Leaf::default());
        next.write_to(&files);
        snowbank.hang_up();
        in_force(address, "localhost", &next).await;
    }
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no download failed");
    }
    let finished = finished.load(Ordering::Relaxed);
    eprintln!("100 swaps in {took:?}, {finished} downloads");
    assert!(finished >= 64, "{finished} downloads");
}
