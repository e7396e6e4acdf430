//! For any chunking, delay, cut and error of an upstream's body, every reader sees exactly the bytes and a clean end, or a
//! prefix of them and an error. Never anything else.

use crate::support::cache::{Key, Object};
use crate::support::client::{End, Response};
use crate::support::origin::{Break, Framing, Origin, Reply};
use crate::support::runtime;
use crate::support::snowbank::Setup;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What one request for a body gets.
#[derive(Debug, Clone)]
struct Behaviour {
    framing: Framing,
    ranges: bool,
    pieces: Option<(usize, u64)>,
    /// Where it breaks, in thousandths of the body, and how.
    cut: Option<(u64, Break)>,
    /// A wrong byte, in thousandths of the body.
    flip: Option<u64>,
    /// Bytes more (or fewer) than there should be.
    longer: i64,
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let framing = prop_oneof![Just(Framing::Length), Just(Framing::Chunked), Just(Framing::UntilClose)];
    let pieces = proptest::option::of((1_000_usize..300_000, 0_u64..3));
    let how = prop_oneof![Just(Break::Close), Just(Break::Reset)];
    let cut = proptest::option::weighted(0.4, (0_u64..=1000, how));
    let flip = proptest::option::weighted(0.15, 0_u64..1000);
    let longer = prop_oneof![8 => Just(0_i64), 1 => 1_i64..5000, 1 => -5000_i64..0];
    (framing, any::<bool>(), pieces, cut, flip, longer).prop_map(|(framing, ranges, pieces, cut, flip, longer)| {
        Behaviour { framing, ranges, pieces, cut, flip, longer }
    })
}

impl Behaviour {
    fn reply(&self, file: &[u8]) -> Reply {
        let mut body = file.to_vec();
        let place = |thousandths: u64| file.len() as u64 * thousandths / 1000;
        if let Some(flip) = self.flip {
            let at = usize::try_from(place(flip)).expect("small").min(body.len() - 1);
            body[at] ^= 1;
        }
        let length = usize::try_from(body.len() as i64 + self.longer).unwrap_or_default();
        body.resize(length, 0xaa);
        let mut reply = Reply::bytes(body).framing(self.framing);
        if !self.ranges {
            reply = reply.without_ranges();
        }
        if let Some((size, pause)) = self.pieces {
            reply = reply.pieces(size, Duration::from_micros(pause * 300));
        }
        if let Some((at, how)) = self.cut {
            reply = reply.break_at(place(at), how);
        }
        reply
    }
}

/// What one client does.
#[derive(Debug, Clone)]
enum Reader {
    Plain,
    Tls,
    H2,
    /// Asks for the rest from here on, in thousandths of the body.
    From(u64),
}

fn reader() -> impl Strategy<Value = Reader> {
    prop_oneof![Just(Reader::Plain), Just(Reader::Tls), Just(Reader::H2), (0_u64..1000).prop_map(Reader::From)]
}

/// What a reader may see of `file[first..]`.
fn judge(response: &Response, file: &[u8], first: usize, behaviour: &[Behaviour]) {
    let expected = &file[first..];
    match (&response.end, response.status) {
        (End::Clean, 200 | 206) => {
            assert!(
                response.body == expected,
                "a clean end and other bytes: {} of {}",
                response.body.len(),
                expected.len()
            );
        }
        (End::Clean, 404 | 502..=504) => {}
        (End::Broken(_), 0) => {}
        (End::Broken(_), 200 | 206) => {
            // A wrong byte may leave before the end proves it wrong; what it is part of never looks complete.
            let seen = response.body.len();
            assert!(seen < expected.len(), "all bytes, then an error");
            let honest = behaviour.iter().all(|b| b.flip.is_none());
            assert!(!honest || response.body == expected[..seen], "a broken end and no prefix");
        }
        _ => panic!("{} {:?} for {behaviour:?}", response.status, response.end),
    }
}

#[test]
fn every_reader_sees_all_of_it_or_a_prefix_and_an_error() {
    let (origin, key) = (Origin::start(), Key::new("bodies-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let count = AtomicUsize::new(0);
    let case = (
        prop_oneof![1 => 0_usize..2000, 2 => 60_000_usize..1_100_000, 2 => 1_100_000_usize..2_500_000],
        proptest::collection::vec(behaviour(), 1..4),
        proptest::collection::vec(reader(), 1..5),
    );
    let config =
        ProptestConfig { cases: 150, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() };
    proptest::test_runner::TestRunner::new(config)
        .run(&case, |(size, behaviours, readers)| {
            let object = Object::new(&format!("body-{}", count.fetch_add(1, Ordering::Relaxed)), size);
            let (file, script) = (object.file.clone(), behaviours.clone());
            origin.publish_narinfo(&object, &key);
            origin.script(&object.file_target(), move |_, nth| script[nth.min(script.len() - 1)].reply(&file));
            runtime().block_on(async {
                let target = snowbank.http().nar_target(&object).await;
                let reads = readers.iter().map(|reader| {
                    let (target, object, snowbank) = (&target, &object, &snowbank);
                    async move {
                        let length = object.file.len();
                        match reader {
                            Reader::Plain => (snowbank.http().get(target).await, 0),
                            Reader::Tls => (snowbank.https().get(target).await, 0),
                            Reader::H2 => (snowbank.https().h2().await.get(target).await, 0),
                            Reader::From(thousandths) => {
                                let first = length * usize::try_from(*thousandths).expect("small") / 1000;
                                let range = format!("bytes={first}-");
                                (snowbank.http().get_with(target, &[("Range", &range)]).await, first)
                            }
                        }
                    }
                });
                for (response, first) in futures_util::future::join_all(reads).await {
                    judge(&response, &object.file, first, &behaviours);
                }
                // Whatever happened: an honest origin mends it.
                origin.publish(&object, &key);
                snowbank.http().get(&target).await.expect_bytes(&object.file);
            });
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
