use super::super::testing::{Origin, Step, answer, not_found, upstream};
use super::super::{Said, Upstream};
use super::*;

/// Where nobody listens.
fn nobody() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn ask(upstream: &Arc<Upstream>, path: &str) -> Result<Said<super::super::Asked>, UpstreamError> {
    upstream.narinfo(path, 1000).await
}

/// Asks about so many things, one after the other; the last error.
async fn fail(upstream: &Arc<Upstream>, times: u32) -> UpstreamError {
    let mut last = None;
    for n in 0..times {
        last = ask(upstream, &format!("{n}.narinfo")).await.err();
    }
    last.unwrap()
}

fn state(upstream: &Upstream) -> (i64, u64, u64) {
    let metrics = upstream.metrics();
    (metrics.breaker.get(), metrics.openings.get(), metrics.unasked.get())
}

#[tokio::test]
async fn an_upstream_that_refuses_connections_is_not_asked_for_a_while() {
    let upstream = upstream(nobody(), 10, "name = 'a'");
    assert!(!fail(&upstream, breaker::FEW).await.is_known());
    assert_eq!(state(&upstream), (2, 1, 0));
    let asked = upstream.metrics().requests.get();
    let error = fail(&upstream, 100).await;
    assert!(error.is_known(), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("upstream a is taken for down: it could not be asked: "), "{text}");
    assert!(upstream.open("/nar/x", 0, None).await.unwrap_err().is_known(), "NARs neither");
    assert!(upstream.pass_on("log/x").await.unwrap_err().is_known());
    assert_eq!((upstream.metrics().requests.get(), state(&upstream)), (asked, (2, 1, 102)));
    assert!(upstream.down_for().is_some_and(|left| left <= Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_connections_and_says_nothing_is_found_out_within_its_budget() {
    let origin = Origin::start(|_| vec![Step::Pause(Duration::from_secs(3600))]).await;
    let upstream = origin.upstream(10, "connections = 16");
    let begun = Instant::now();
    let asked = futures_util::future::join_all((0..8).map(|n| {
        let upstream = Arc::clone(&upstream);
        async move { ask(&upstream, &format!("{n}.narinfo")).await.unwrap_err().to_string() }
    }));
    for text in asked.await {
        assert!(text.ends_with("did not answer within 2s"), "{text}");
    }
    assert_eq!(begun.elapsed().as_secs(), 2);
    assert_eq!(state(&upstream), (2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_for_a_connection_are_told_when_it_is_taken_for_down() {
    let origin = Origin::start(|_| vec![Step::Pause(Duration::from_secs(3600))]).await;
    let upstream = origin.upstream(10, "connections = 2");
    let begun = Instant::now();
    let asked = futures_util::future::join_all((0..50).map(|n| {
        let upstream = Arc::clone(&upstream);
        async move { ask(&upstream, &format!("{n}.narinfo")).await.unwrap_err().is_known() }
    }));
    let known = asked.await.into_iter().filter(|known| *known).count();
    // The first two of them (one connection is for NARs): a whole budget of silence says more than a failure.
    assert_eq!((known, begun.elapsed().as_secs()), (48, 4));
}

#[tokio::test]
async fn a_recovery_is_noticed_by_the_first_request_after_its_time() {
    let well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let origin = Origin::start(move |_| match is_well.load(std::sync::atomic::Ordering::Relaxed) {
        true => not_found(),
        false => answer("503 Service Unavailable", "no"),
    })
    .await;
    let upstream = origin.upstream(10, "");
    assert!(fail(&upstream, breaker::FEW).await.to_string().contains("503"));
    well.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(ask(&upstream, "x.narinfo").await.unwrap_err().is_known());
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::resume();
    assert!(matches!(ask(&upstream, "x.narinfo").await, Ok(Said::HaveNot)));
    assert_eq!(state(&upstream), (0, 1, 1));
}

#[tokio::test]
async fn what_is_no_sign_of_an_outage_opens_nothing() {
    for status in ["404 Not Found", "410 Gone", "401 Unauthorized", "403 Forbidden", "302 Found"] {
        let origin = Origin::start(move |_| answer(status, "x")).await;
        let upstream = origin.upstream(10, "");
        for n in 0..30 {
            let _ = ask(&upstream, &n.to_string()).await;
        }
        assert_eq!(state(&upstream), (0, 0, 0), "{status}");
    }
    // One path that it cannot answer for, however often it is asked for.
    let origin = Origin::start(|_| answer("500 Internal Server Error", "x")).await;
    let upstream = origin.upstream(10, "");
    for _ in 0..30 {
        ask(&upstream, "x.narinfo").await.unwrap_err();
    }
    assert_eq!(state(&upstream), (0, 0, 0));
    assert!(!fail(&upstream, 4).await.is_known());
    assert_eq!(state(&upstream), (2, 1, 0));
}

/// Answers these paths with 500 and has nothing else.
async fn five_that_fail() -> Origin {
    Origin::start(|request| match request.target.contains("bad") {
        true => answer("500 Internal Server Error", "x"),
        false => not_found(),
    })
    .await
}

#[tokio::test]
async fn paths_that_always_fail_do_not_keep_an_upstream_down() {
    let origin = five_that_fail().await;
    let upstream = origin.upstream(10, "");
    let bad = |n: u32| format!("bad{n}.narinfo");
    for n in 0..breaker::FEW {
        ask(&upstream, &bad(n)).await.unwrap_err();
    }
    assert_eq!(state(&upstream), (2, 1, 0), "an outage looks just like this");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::resume();
    for n in 0..breaker::FEW {
        assert!(!ask(&upstream, &bad(n)).await.unwrap_err().is_known(), "as a probe it says nothing new");
    }
    assert!(matches!(ask(&upstream, "good.narinfo").await, Ok(Said::HaveNot)));
    for round in 0..20 {
        for n in 0..breaker::FEW {
            assert!(!ask(&upstream, &bad(n)).await.unwrap_err().is_known(), "{round} {n}");
        }
    }
    assert_eq!(state(&upstream), (0, 1, 0));
}

#[tokio::test]
async fn what_clients_may_name_as_they_like_opens_nothing() {
    let origin = five_that_fail().await;
    let upstream = origin.upstream(10, "");
    for n in 0..30 {
        upstream.small(&format!("bad{n}.ls"), 1000).await.unwrap_err();
        upstream.pass_on(&format!("log/bad{n}")).await.unwrap_err();
    }
    assert_eq!(state(&upstream), (0, 0, 0));
    let gone = super::super::testing::upstream(nobody(), 10, "");
    for n in 0..breaker::FEW {
        gone.small(&format!("bad{n}.ls"), 1000).await.unwrap_err();
    }
    assert_eq!(state(&gone), (2, 1, 0), "no connection is no connection");
}

#[tokio::test]
async fn a_nar_that_breaks_off_opens_nothing_and_a_narinfo_that_does_so_does() {
    let cut = || Step::Send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\nshort".into());
    let origin = Origin::start(move |_| vec![cut()]).await;
    let upstream = origin.upstream(10, "");
    for n in 0..30 {
        let Ok(Said::Have(mut opened)) = upstream.open(&format!("/nar/{n}"), 0, None).await else {
            panic!("it begins")
        };
        while let Some(piece) = opened.body.next().await {
            let Ok(_) = piece else { break };
        }
    }
    assert_eq!(state(&upstream), (0, 0, 0));
    assert!(!fail(&upstream, breaker::FEW).await.is_known());
    assert_eq!(state(&upstream), (2, 1, 0));
}

#[tokio::test]
async fn a_question_that_is_given_up_says_nothing() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |_| vec![Step::Hold(Arc::clone(&held))]).await;
    let upstream = origin.upstream(10, "connections = 64");
    for n in 0..30 {
        let path = format!("{n}.narinfo");
        let mut asking = Box::pin(ask(&upstream, &path));
        while origin.asked(&path) == 0 {
            assert!(futures_util::FutureExt::now_or_never(&mut asking).is_none());
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(state(&upstream), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_always_slow_is_not_taken_for_silent_once_that_is_known() {
    let slow = Duration::from_millis(900);
    let origin = Origin::start(move |_| [vec![Step::Pause(slow)], not_found()].concat()).await;
    let upstream = origin.upstream(10, "connections = 16");
    let ask_eight = |round: u32| {
        let upstream = Arc::clone(&upstream);
        async move {
            let all = (0..8).map(|n| {
                let upstream = Arc::clone(&upstream);
                async move {
                    let begun = Instant::now();
                    ask(&upstream, &format!("{round}-{n}.narinfo")).await.unwrap();
                    upstream.took(begun.elapsed());
                }
            });
            futures_util::future::join_all(all).await;
        }
    };
    ask_eight(0).await;
    let (mut asking, before) = (Box::pin(ask_eight(1)), Duration::from_millis(800));
    assert!(tokio::time::timeout(before, &mut asking).await.is_err());
    assert!(upstream.answers(), "it has answered after {slow:?} before");
    assert!(tokio::time::timeout(Duration::from_secs(10), asking).await.is_ok());
}
