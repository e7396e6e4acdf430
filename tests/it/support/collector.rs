//! A collector of traces: an origin that is posted to, and what it was told, read with the messages of the protocol.

use super::origin::{Origin, Reply, Request};
use super::trust::eventually;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use std::collections::BTreeMap;

/// Where spans are sent.
pub const PATH: &str = "/v1/traces";

/// A span as it arrived, ids in hexadecimal digits, attributes as text.
#[derive(Debug, Clone)]
pub struct Span {
    /// The trace.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// Its parent's; empty for none.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// Whether it is of a request that was answered, and not of one that was sent.
    pub is_server: bool,
    /// Nanoseconds since 1970.
    pub time: (u64, u64),
    /// Whether it is marked as an error.
    pub is_error: bool,
    /// Attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Span {
    /// An attribute, or `-`.
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("-", String::as_str)
    }
}

/// See the module.
pub struct Collector(pub Origin);

impl Collector {
    /// One that takes everything.
    pub fn start() -> Self {
        Self::answering(|_, _| Reply::bytes(""))
    }

    /// One that answers so: to this request, the n-th.
    pub fn answering(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let origin = Origin::start();
        origin.script(PATH, answer);
        Self(origin)
    }

    /// The lines of `[log]` that name it.
    pub fn options(&self) -> String {
        format!("otlp = \"{}{PATH}\"\n", self.0.url())
    }

    /// Every request that it got.
    pub fn requests(&self) -> Vec<Request> {
        self.0.requests_for(PATH)
    }

    /// Every span that it was sent.
    pub fn spans(&self) -> Vec<Span> {
        self.requests().iter().flat_map(spans_of).collect()
    }

    /// The spans, once there are so many, in the order in which they began.
    pub async fn wait_for(&self, count: usize) -> Vec<Span> {
        eventually("the spans arrive", async || self.spans().len() >= count).await;
        let mut spans = self.spans();
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans.sort_by_key(|span| span.time);
        spans
    }
}

/// What one request brought.
pub fn spans_of(request: &Request) -> Vec<Span> {
    assert_eq!(request.method, "POST");
    assert_eq!(request.field("content-type"), Some("application/x-protobuf"));
    let read = ExportTraceServiceRequest::decode(request.body.clone()).expect("the message of the protocol");
    let mut spans = Vec::new();
    for of_resource in read.resource_spans {
        let resource = of_resource.resource.expect("who speaks");
        let names: Vec<&str> = resource.attributes.iter().map(|attribute| &*attribute.key).collect();
        assert_eq!(names, ["service.name", "service.version", "service.instance.id"]);
        spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    spans.into_iter().map(span).collect()
}

fn span(read: opentelemetry_proto::tonic::trace::v1::Span) -> Span {
    assert_eq!((read.trace_id.len(), read.span_id.len()), (16, 8));
    assert!(read.start_time_unix_nano <= read.end_time_unix_nano);
    let attributes = read.attributes.into_iter().map(|attribute| {
        let text = match attribute.value.and_then(|value| value.value) {
            Some(Any::StringValue(text)) => text,
            Some(Any::IntValue(number)) => number.to_string(),
            Some(Any::DoubleValue(number)) => number.to_string(),
            other => panic!("{}: {other:?}", attribute.key),
        };
        (attribute.key, text)
    });
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect();
    Span {
        attributes: attributes.collect(),
        trace: hex(&read.trace_id),
        id: hex(&read.span_id),
        parent: hex(&read.parent_span_id),
        name: read.name,
        is_server: match SpanKind::try_from(read.kind) {
            Ok(SpanKind::Server) => true,
            Ok(SpanKind::Client) => false,
            other => panic!("{other:?}"),
        },
        time: (read.start_time_unix_nano, read.end_time_unix_nano),
        is_error: read.status.is_some_and(|status| status.code == 2),
    }
}
