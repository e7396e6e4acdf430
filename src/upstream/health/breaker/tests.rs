use proptest::prelude::*;

use super::*;

const BAD: Verdict = Verdict::Failed;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A breaker that opened just now, without chance.
fn opened(now: Instant) -> Breaker {
    let mut breaker = Breaker::new();
    for _ in 0..FEW {
        let passed = breaker.pass(now).unwrap();
        breaker.settle(passed, BAD, now, 0.0);
    }
    assert_eq!(breaker.position(), Position::Open);
    breaker
}

#[test]
fn a_few_failures_in_a_row_open_it_and_an_answer_between_them_does_not() {
    let (mut breaker, now) = (Breaker::new(), Instant::now());
    for verdict in [BAD, BAD, BAD, BAD, Verdict::Answered, BAD, BAD, Verdict::Nothing, BAD, BAD] {
        let passed = breaker.pass(now).unwrap();
        assert_eq!(breaker.settle(passed, verdict, now, 0.0), None);
    }
    let passed = breaker.pass(now).unwrap();
    let change = breaker.settle(passed, BAD, now, 0.0);
    assert_eq!(change, Some(Change::Opened { span: seconds(1), again: false }));
    assert_eq!(breaker.pass(now), Err(seconds(1)));
}

#[test]
fn half_of_many_open_it_unless_they_are_long_ago() {
    for (pause, expected) in [(Duration::ZERO, Position::Open), (seconds(2), Position::Closed)] {
        let (mut breaker, mut now) = (Breaker::new(), Instant::now());
        for n in 0..20 {
            let passed = breaker.pass(now).unwrap();
            breaker.settle(passed, if n % 2 == 0 { BAD } else { Verdict::Answered }, now, 0.0);
            if breaker.position() == Position::Open {
                break;
            }
            now += pause;
        }
        let last = breaker.pass(now).map(|passed| breaker.settle(passed, BAD, now, 0.0));
        assert_eq!((breaker.position(), last.is_ok()), (expected, true), "{pause:?}");
    }
}

#[test]
fn one_request_finds_out_whether_it_is_back() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let later = now + seconds(1);
    let probe = breaker.pass(later).unwrap();
    assert_eq!(breaker.position(), Position::HalfOpen);
    assert!(breaker.pass(later).is_err(), "one at a time");
    assert_eq!(breaker.settle(probe, Verdict::Answered, later, 0.0), Some(Change::Closed));
    assert!(breaker.pass(later).is_ok() && breaker.pass(later).is_ok());
}

#[test]
fn a_probe_that_comes_to_nothing_leaves_its_place_to_the_next() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let later = now + seconds(1);
    let probe = breaker.pass(later).unwrap();
    assert_eq!(breaker.settle(probe, Verdict::Nothing, later, 0.0), None);
    let slow = breaker.pass(later).unwrap();
    assert!(breaker.pass(later + PROBE / 2).is_err());
    let next = breaker.pass(later + PROBE).unwrap();
    assert_eq!(breaker.settle(slow, BAD, later + PROBE, 0.0), None, "it is another's turn by now");
    assert_eq!(breaker.settle(next, Verdict::Answered, later + PROBE, 0.0), Some(Change::Closed));
}

#[test]
fn it_stays_open_for_longer_each_time_up_to_a_bound_and_begins_anew_after_a_calm() {
    let mut now = Instant::now();
    let mut breaker = opened(now);
    let mut spans = Vec::new();
    while spans.len() < 6 {
        now += breaker.refuses_for(now).unwrap();
        let probe = breaker.pass(now).unwrap();
        let Some(Change::Opened { span, again: true }) = breaker.settle(probe, BAD, now, 0.0) else { panic!("open") };
        spans.push(span);
    }
    assert_eq!(spans, [seconds(2), seconds(4), seconds(8), LONGEST, LONGEST, LONGEST]);
    for (calm, expected) in [(CALM - seconds(1), LONGEST), (CALM, FIRST)] {
        now += breaker.refuses_for(now).unwrap();
        let probe = breaker.pass(now).unwrap();
        breaker.settle(probe, Verdict::Answered, now, 0.0);
        now += calm;
        for _ in 0..FEW {
            let passed = breaker.pass(now).unwrap();
            breaker.settle(passed, BAD, now, 0.0);
        }
        assert_eq!(breaker.refuses_for(now), Some(expected));
    }
}

/// What a test does to a breaker.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Ask,
    /// One of those that were let through ends.
    End(usize, Verdict, f64),
}

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        3 => Just(Verdict::Answered),
        6 => Just(Verdict::Failed),
        1 => Just(Verdict::Nothing),
    ];
    prop_oneof![
        2 => (0_u64..4000).prop_map(Step::Wait),
        5 => Just(Step::Ask),
        5 => (0_usize..8, verdict, 0.0..1.0).prop_map(|(n, verdict, chance)| Step::End(n, verdict, chance)),
    ]
}

proptest! {
    /// Whatever happens: nothing is let through while it is open, one at a time while half-open, it never refuses for
    /// longer than the bound, and an upstream that answers is asked as usual after one probe.
    #[test]
    fn it_keeps_its_promises(steps in proptest::collection::vec(step(), 1..200)) {
        let (mut breaker, mut now) = (Breaker::new(), Instant::now());
        let (mut running, mut probe): (Vec<Passed>, Option<(Passed, Instant)>) = (Vec::new(), None);
        for step in steps {
            match step {
                Step::Wait(millis) => now += Duration::from_millis(millis),
                Step::Ask => {
                    let (was, left) = (breaker.position(), breaker.refuses_for(now));
                    match breaker.pass(now) {
                        Err(said) => {
                            prop_assert_ne!(was, Position::Closed);
                            prop_assert_eq!(Some(said), left);
                            prop_assert!(said <= LONGEST);
                        }
                        Ok(passed) => {
                            prop_assert!(left.is_none());
                            if was != Position::Closed {
                                prop_assert!(probe.is_none_or(|(_, since)| now >= since + PROBE), "one at a time");
                                prop_assert_eq!(breaker.position(), Position::HalfOpen);
                                probe = Some((passed, now));
                            }
                            running.push(passed);
                        }
                    }
                }
                Step::End(n, verdict, chance) if !running.is_empty() => {
                    let passed = running.remove(n % running.len());
                    let (was, is_probe) = (breaker.position(), probe.is_some_and(|(probe, _)| probe == passed));
                    let change = breaker.settle(passed, verdict, now, chance);
                    match (was, change) {
                        (Position::Open, change) => prop_assert_eq!(change, None),
                        (_, Some(Change::Opened { span, again })) => {
                            prop_assert!(span >= FIRST.mul_f64(0.75) && span <= LONGEST);
                            prop_assert_eq!(again, is_probe);
                            prop_assert!(matches!(verdict, Verdict::Failed));
                        }
                        (_, Some(Change::Closed)) => prop_assert!(is_probe && verdict == Verdict::Answered),
                        (_, None) => {}
                    }
                    if is_probe {
                        probe = None;
                    }
                }
                Step::End(..) => {}
            }
        }
        now += LONGEST.max(PROBE);
        if breaker.position() != Position::Closed {
            let probe = breaker.pass(now);
            prop_assert!(probe.is_ok(), "asked again within the bound");
            prop_assert_eq!(breaker.settle(probe.unwrap(), Verdict::Answered, now, 0.0), Some(Change::Closed));
        }
        prop_assert!(breaker.pass(now).is_ok() && breaker.pass(now).is_ok());
    }
}
