use super::*;
use crate::metrics::Metrics;

const MIB: u64 = 1 << 20;

type Named = Book<u32, &'static str>;

fn lane(network: Option<&str>, upstream: &str) -> LaneId {
    LaneId { network: Network::of(network.map(|address| address.parse().unwrap())), upstream: upstream.into() }
}

struct Rig {
    book: Named,
    now: Instant,
    metrics: PrefetchMetrics,
}

impl Rig {
    fn new() -> Self {
        let now = Instant::now();
        Self { book: Book::new(now), now, metrics: Metrics::default().upstream("a").prefetch }
    }

    fn offer(&mut self, key: u32, lane: &LaneId, size: u64, budget: u64) {
        let metrics = self.metrics.clone();
        let waits = Waits { lane: lane.clone(), size, most: 24, metrics, what: "fetch it" };
        self.book.offer(key, waits, budget, self.now);
    }

    fn next(&mut self) -> Option<u32> {
        self.book.next(self.now).map(|(key, _)| key)
    }

    /// All that may run now.
    fn all(&mut self) -> Vec<u32> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn fetched(&mut self, key: u32, size: u64) {
        self.book.ended(key, size, true, self.now);
    }

    fn counted(&self) -> [u64; 3] {
        [self.metrics.fetched.get(), self.metrics.used.get(), self.metrics.wasted.get()]
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.book.expire(self.now);
    }
}

#[test]
fn the_newest_goes_first_and_networks_take_turns() {
    let mut rig = Rig::new();
    let (one, other) = (lane(Some("192.0.2.1"), "a"), lane(Some("198.51.100.1"), "a"));
    for key in 1..=3 {
        rig.offer(key, &one, 1, MIB);
    }
    for key in 11..=12 {
        rig.offer(key, &other, 1, MIB);
    }
    rig.offer(2, &other, 1, MIB);
    assert_eq!(rig.all(), [3, 12, 2, 11, 1], "each once");
    assert_eq!(rig.book.running(), 5);
}

#[test]
fn what_is_asked_for_opens_the_way_and_what_is_not_is_wasted_in_the_end() {
    let (mut rig, lane) = (Rig::new(), lane(None, "a"));
    for key in 0..100 {
        rig.offer(key, &lane, MIB, 16 * MIB / 3);
    }
    assert_eq!(rig.all(), [99, 98, 97, 96], "all but a quarter");
    for key in 96..100 {
        rig.fetched(key, MIB);
    }
    assert_eq!((rig.all().len(), rig.counted()), (0, [4 * MIB, 0, 0]));
    rig.book.wanted(99, rig.now);
    assert_eq!(rig.all(), [95, 94], "as much again");
    // Wanted before it is here.
    rig.book.wanted(95, rig.now);
    rig.book.wanted(95, rig.now);
    assert_eq!(rig.all(), [93, 92]);
    rig.fetched(95, MIB);
    assert_eq!(rig.counted(), [5 * MIB, 2 * MIB, 0]);
    // Never fetched ahead, and it would have been worth it.
    rig.book.wanted(0, rig.now);
    assert_eq!(rig.all(), [91]);
    rig.later(299);
    assert_eq!(rig.counted()[2], 0);
    rig.later(1);
    assert_eq!(rig.counted(), [5 * MIB, 2 * MIB, 3 * MIB], "96 to 98");
    rig.book.wanted(97, rig.now);
    assert_eq!(rig.counted()[1], 2 * MIB, "too late");
}

#[test]
fn who_asks_about_everything_costs_the_budget_and_the_next_one_is_not_slower_for_long() {
    let (mut rig, lane) = (Rig::new(), lane(None, "a"));
    let mut fetched = 0;
    for key in 0..10_000 {
        rig.offer(key, &lane, 70_000, 64 * MIB);
        for key in rig.all() {
            rig.fetched(key, 70_000);
            fetched += 70_000;
        }
    }
    assert!((48 * MIB - 70_000..=48 * MIB).contains(&fetched), "all but a quarter: {fetched}");
    // Another client of the network a little later, whose paths come in levels: what the first levels take opens the way.
    rig.later(5);
    let (mut at_hand, mut levels) = (0, Vec::new());
    for key in 20_000..20_200 {
        rig.offer(key, &lane, 70_000, 64 * MIB);
        for key in rig.all() {
            rig.fetched(key, 70_000);
        }
    }
    for level in 0..10 {
        for key in (20_200 - 20 * (level + 1)..20_200 - 20 * level).rev() {
            at_hand += u32::from(rig.book.unwanted.contains_key(&key));
            rig.book.wanted(key, rig.now);
            for key in rig.all() {
                rig.fetched(key, 70_000);
            }
        }
        levels.push(at_hand);
    }
    assert_eq!(levels[9], 199, "all but the first: {levels:?}");
}

#[test]
fn bytes_at_once_are_bounded_and_one_may_always_run() {
    let (mut rig, one, other) = (Rig::new(), lane(None, "a"), lane(None, "b"));
    for key in 0..4 {
        rig.offer(key, &one, 60 * MIB, 1 << 40);
        rig.offer(10 + key, &other, 60 * MIB, 1 << 40);
    }
    assert_eq!(rig.all(), [3, 13, 2, 12], "two of each upstream");
    rig.fetched(3, 60 * MIB);
    assert_eq!(rig.all(), [1]);
    let mut rig = Rig::new();
    rig.offer(1, &one, 1 << 30, 1 << 40);
    rig.offer(2, &one, 1, 1 << 40);
    assert_eq!(rig.all(), [2], "small ones first, where they fit beside nothing else");
    rig.fetched(2, 1);
    assert_eq!(rig.all(), [1]);
}

#[test]
fn places_are_bounded_in_all_and_by_upstream() {
    let (mut rig, lanes) = (Rig::new(), ["a", "b", "c"].map(|upstream| lane(None, upstream)));
    for (n, lane) in (0..).zip(&lanes) {
        for key in 0..100 {
            rig.offer(100 * n + key, lane, 1, 64 * MIB);
        }
    }
    let running = rig.all();
    assert_eq!(running.len(), AT_ONCE);
    for n in 0..3 {
        assert!(running.iter().filter(|key| **key / 100 == n).count() <= 24);
    }
}

#[test]
fn what_failed_costs_what_came_of_it() {
    let (mut rig, lane) = (Rig::new(), lane(None, "a"));
    rig.offer(1, &lane, MIB, MIB);
    assert_eq!(rig.all(), [1]);
    rig.book.ended(1, 1000, false, rig.now);
    assert_eq!(rig.counted(), [1000, 0, 1000]);
    rig.offer(2, &lane, MIB, MIB);
    rig.offer(3, &lane, MIB * 3 / 4 - LEAST_COST, MIB);
    assert_eq!(rig.all(), [3]);
}

#[test]
fn what_is_tiny_costs_a_request_too() {
    let (mut rig, lane) = (Rig::new(), lane(None, "a"));
    for key in 0..10_000 {
        rig.offer(key, &lane, 100, 64 * MIB);
        rig.all().into_iter().for_each(|key| rig.fetched(key, 100));
    }
    assert_eq!(rig.counted()[0], 100 * (48 * MIB / LEAST_COST), "all but a quarter");
    // What is asked for gives back what it cost, and more.
    rig.book.wanted(0, rig.now);
    rig.offer(20_000, &lane, MIB, 64 * MIB);
    assert_eq!(rig.all(), [20_000, 9999]);
}

#[test]
fn what_waits_is_bounded_and_leaves_after_a_minute() {
    let (mut rig, one, other) = (Rig::new(), lane(Some("192.0.2.1"), "a"), lane(Some("198.51.100.1"), "a"));
    for key in 0..100_000 {
        rig.offer(key, &one, MIB, 0);
        assert_eq!(rig.next(), None);
        if key % 3 == 0 {
            rig.book.wanted(key, rig.now);
        }
    }
    assert_eq!(rig.book.waiting.len(), MOST_WAITING - 1, "the last one was wanted");
    assert!(rig.book.lanes[&one].stack.len() <= 2 * MOST_WAITING);
    for key in 200_000..200_100 {
        rig.offer(key, &other, MIB, 100 * MIB);
    }
    assert_eq!(rig.book.waiting.len(), MOST_WAITING);
    assert_eq!(rig.all(), (200_000..200_100).rev().take(24).collect::<Vec<_>>(), "who asks for little is not kept out");
    for key in 100_000..110_000 {
        rig.offer(key, &one, MIB, 0);
    }
    let kept = (200_000..200_076).filter(|key| rig.book.waiting.contains_key(key)).count();
    assert_eq!(kept, 76, "nor pushed out");
    rig.later(61);
    (200_076..200_100).for_each(|key| rig.fetched(key, MIB));
    assert_eq!(rig.next(), None);
    assert!(!rig.book.has_waiting());
    assert!(rig.book.turns.is_empty());
}

#[test]
fn who_has_asked_for_what_it_asked_about_is_not_in_the_way() {
    let (mut rig, one, other) = (Rig::new(), lane(Some("192.0.2.1"), "a"), lane(Some("198.51.100.1"), "a"));
    for key in 0..4000 {
        rig.offer(key, &one, MIB, 0);
    }
    (1..4000).for_each(|key| _ = rig.book.wanted(key, rig.now));
    for key in 10_000..20_000 {
        rig.offer(key, &other, MIB, 0);
    }
    assert_eq!(rig.book.waiting.len(), MOST_WAITING);
    assert!(rig.book.waiting.contains_key(&0), "it is the only one of its lane");
}

#[test]
fn what_is_remembered_of_what_was_wanted_is_bounded() {
    let (mut rig, lane) = (Rig::new(), lane(None, "a"));
    for key in 0..100_000 {
        rig.offer(key, &lane, 1, MIB);
        assert_eq!(rig.next(), Some(key));
        rig.fetched(key, 1);
        if key > 10 {
            rig.book.wanted(key, rig.now);
        }
    }
    assert!(rig.book.due.len() <= 2 * MOST_UNWANTED);
    rig.later(301);
    assert_eq!(rig.counted(), [100_000, 99_989, 11]);
}

#[test]
fn lanes_are_bounded() {
    let mut rig = Rig::new();
    for n in 0..2 * u32::try_from(MOST_LANES).unwrap() {
        let address = std::net::Ipv4Addr::from_bits(n << 8).to_string();
        rig.offer(n, &lane(Some(&address), "a"), 1, MIB);
        for key in rig.all() {
            rig.fetched(key, 1);
            rig.book.wanted(key, rig.now);
        }
    }
    assert!(rig.book.lanes.len() <= MOST_LANES);
}
