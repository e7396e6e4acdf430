//! Collectors, good and bad: what they take arrives once, what they do not is counted, and nobody who is served notices.

use crate::support::cache::{Key, Object};
use crate::support::collector::{Collector, PATH};
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::otelcol::Otelcol;
use crate::support::snowbank::{Count, Setup, Snowbank};
use crate::support::trust::eventually;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use prost::Message as _;

const INFO: &str = "/nix-cache-info";
/// The log tells that nothing arrives.
const FAILING: &str = "traces do not arrive";

fn start(log: &str) -> Snowbank {
    Setup::in_front_of(&Origin::start(), &Key::new("otlp-2")).also(&format!("[log]\n{log}")).start()
}

async fn ask(snowbank: &Snowbank, times: usize) {
    for _ in 0..times {
        snowbank.http().get(INFO).await.expect(200);
    }
}

async fn dropped(snowbank: &Snowbank, count: u64) {
    eventually("spans are dropped", async || snowbank.counter(Count::SpansDropped) >= count).await;
    assert_eq!(snowbank.counter(Count::SpansDropped), count);
}

/// How often it was told.
fn told(snowbank: &Snowbank) -> usize {
    snowbank.log().iter().filter(|line| line.contains(FAILING)).count()
}

#[tokio::test]
async fn a_collector_that_is_down_costs_spans_and_a_line_and_nothing_else() {
    let collector = Collector::start();
    let (address, options) = (collector.0.address(), collector.options());
    let down = collector.0.switch_off();
    let snowbank = start(&options);
    ask(&snowbank, 5).await;
    dropped(&snowbank, 5).await;
    ask(&snowbank, 1).await;
    let up = Origin::start_at(address);
    drop(down);
    up.serve(PATH, Reply::bytes(""));
    eventually("it comes back", async || snowbank.counter(Count::SpansSent) == 1).await;
    snowbank.log_line("takes them again", 0);
    assert_eq!((told(&snowbank), snowbank.counter(Count::SpansDropped)), (1, 5));
}

#[tokio::test]
async fn a_collector_that_hangs_is_left_after_a_while() {
    let gate = Gate::new();
    let collector = {
        let gate = gate.clone();
        Collector::answering(move |_, _| Reply::bytes("").gate_before_head(&gate))
    };
    let snowbank = start(&collector.options());
    ask(&snowbank, 2).await;
    gate.reached().await;
    ask(&snowbank, 20).await;
    dropped(&snowbank, 2).await;
    snowbank.log_line("no answer within", 0);
    gate.open();
    eventually("it answers again", async || snowbank.counter(Count::SpansSent) + 2 >= 22).await;
}

#[tokio::test]
async fn a_collector_that_hangs_does_not_hold_up_the_end() {
    let gate = Gate::new();
    let collector = {
        let gate = gate.clone();
        Collector::answering(move |_, _| Reply::bytes("").gate_before_head(&gate))
    };
    let mut snowbank = start(&collector.options());
    ask(&snowbank, 3).await;
    gate.reached().await;
    let began = std::time::Instant::now();
    snowbank.ask_to_stop();
    assert!(snowbank.wait().success());
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    snowbank.log_line("3 spans of traces were not sent", 0);
}

#[tokio::test]
async fn what_a_collector_refuses_for_good_is_not_sent_again() {
    let collector = Collector::answering(|_, n| if n == 0 { Reply::status(500) } else { Reply::bytes("") });
    let snowbank = start(&collector.options());
    ask(&snowbank, 3).await;
    eventually("spans are sent", async || collector.requests().len() > 1 || snowbank.counter(Count::SpansDropped) == 3)
        .await;
    let gone = snowbank.counter(Count::SpansDropped);
    ask(&snowbank, 1).await;
    eventually("all are told", async || snowbank.counter(Count::SpansSent) + gone == 4).await;
    assert_eq!(collector.spans().len(), 4, "each once");
    assert!(gone > 0);
    snowbank.log_line("500", 0);
}

#[tokio::test]
async fn what_a_collector_has_no_time_for_is_sent_again() {
    let busy = Reply::status(429).field("Retry-After", "0");
    let collector = Collector::answering(move |_, n| if n < 3 { busy.clone() } else { Reply::bytes("") });
    let snowbank = start(&collector.options());
    ask(&snowbank, 3).await;
    eventually("they arrive", async || snowbank.counter(Count::SpansSent) == 3).await;
    assert_eq!((snowbank.counter(Count::SpansDropped), told(&snowbank)), (0, 1));
    let requests = collector.requests();
    assert!(requests.len() >= 4 && requests[0].body == requests[3].body, "the same once more");

    let never = Collector::answering(|_, _| Reply::status(429).field("Retry-After", "0"));
    let snowbank = start(&never.options());
    ask(&snowbank, 3).await;
    dropped(&snowbank, 3).await;
}

#[tokio::test]
async fn spans_that_are_refused_among_others_are_counted() {
    let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "no".to_owned() };
    let answer = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let collector = Collector::answering(move |_, n| Reply::bytes(if n == 0 { answer.clone() } else { Vec::new() }));
    let snowbank = start(&collector.options());
    ask(&snowbank, 3).await;
    eventually("they arrive", async || snowbank.counter(Count::SpansSent) == 2).await;
    assert_eq!(snowbank.counter(Count::SpansDropped), 1);
    snowbank.log_line("refuses 1 spans", 0);
}

#[tokio::test]
async fn the_end_sends_what_is_left() {
    let collector = Collector::start();
    let snowbank = start(&collector.options());
    ask(&snowbank, 40).await;
    assert!(snowbank.stop().success());
    let spans = collector.spans();
    assert!(spans.len() == 40 && spans.iter().all(|span| span.name == "cache-info"), "{}", spans.len());
    let ids: std::collections::BTreeSet<&String> = spans.iter().map(|span| &span.id).collect();
    assert_eq!(ids.len(), 40);
}

#[tokio::test]
async fn more_than_wait_for_a_collector_are_dropped() {
    const ASKED: usize = 5500;
    let gate = Gate::new();
    let collector = {
        let gate = gate.clone();
        Collector::answering(move |_, _| Reply::bytes("").gate_before_head(&gate))
    };
    let snowbank = start(&collector.options());
    ask(&snowbank, 1).await;
    gate.reached().await;
    let h2 = snowbank.https().h2().await;
    for _ in 0..ASKED / 50 {
        futures_util::future::join_all((0..50).map(|_| h2.get(INFO))).await;
    }
    eventually("some find no room", async || snowbank.counter(Count::SpansDropped) > 0).await;
    gate.open();
    let all = ASKED as u64 + 1;
    let counted = || snowbank.counter(Count::SpansSent) + snowbank.counter(Count::SpansDropped);
    eventually("all are counted", async || counted() == all).await;
    assert!(snowbank.counter(Count::SpansSent) >= 4096);
}

#[tokio::test]
async fn a_collector_behind_tls_is_trusted_as_the_system_does() {
    let (origin, key) = (Origin::start(), Key::new("otlp-3"));
    let object = Object::new("encrypted", 1000);
    origin.publish(&object, &key);
    let collector = Collector(Origin::start_tls());
    collector.0.serve(PATH, Reply::bytes(""));
    let setup = Setup::in_front_of(&origin, &key).also(&format!("[log]\n{}", collector.options()));
    let (path, authority) = (setup.write(), setup.authority_file());
    let variables = [("SSL_CERT_FILE".to_owned(), authority.display().to_string())];
    let arguments = ["serve", "--config", path.to_str().expect("a path of text")];
    let snowbank = Snowbank::spawn(&[], &arguments, &variables, setup.home());
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    collector.wait_for(2).await;

    let distrusting = start(&collector.options());
    ask(&distrusting, 1).await;
    dropped(&distrusting, 1).await;
    assert_eq!(collector.spans().len(), 2, "nothing is sent to who cannot show a certificate");
}

#[tokio::test]
async fn the_real_collector_understands_every_span() {
    let Some(collector) = Otelcol::start() else { return };
    let snowbank = start(&format!("otlp = {:?}\n", collector.url()));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    snowbank.http().get_with(INFO, &[("traceparent", parent)]).await.expect(200);
    eventually("it takes them", async || snowbank.counter(Count::SpansSent) == 1).await;
    let printed = collector.wait_for("snowbank.first_byte");
    for line in [
        "service.name: Str(snowbank)",
        "Trace ID       : 4bf92f3577b34da6a3ce929d0e0e4736",
        "Parent ID      : 00f067aa0ba902b7",
        "Name           : cache-info",
        "Kind           : Server",
        "http.response.status_code: Int(200)",
        "snowbank.outcome: Str(local)",
        "url.path: Str(/nix-cache-info)",
    ] {
        assert!(printed.contains(line), "no {line:?} in\n{printed}");
    }
}
