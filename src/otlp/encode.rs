//! Spans as OpenTelemetry's messages have them.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as Message, SpanFlags, Status};
use prost::Message as _;

use crate::trace::{Kind, Span, Trace, Value};

/// Who speaks: the same for all spans of a process.
#[derive(Debug)]
pub(super) struct Speaker(Resource);

impl Speaker {
    /// This process. Its instance is told by an id that is made up here.
    pub(super) fn new() -> Self {
        let instance = format!("{:032x}", Trace::begin().id);
        let attributes = vec![
            attribute("service.name", Any::StringValue("snowbank".to_owned())),
            attribute("service.version", Any::StringValue(env!("CARGO_PKG_VERSION").to_owned())),
            attribute("service.instance.id", Any::StringValue(instance)),
        ];
        Self(Resource { attributes, ..Resource::default() })
    }

    /// The body of a request that sends these spans.
    pub(super) fn encode(&self, spans: &[Span]) -> Vec<u8> {
        let scope = InstrumentationScope { name: "snowbank".to_owned(), ..InstrumentationScope::default() };
        let spans = spans.iter().map(message).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource_spans =
            vec![ResourceSpans { resource: Some(self.0.clone()), scope_spans, ..ResourceSpans::default() }];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    }
}

fn message(span: &Span) -> Message {
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let is_remote = span.kind == Kind::Server && span.parent.is_some();
    let mut flags = 1 | SpanFlags::ContextHasIsRemoteMask as u32; // sampled, and known whose the parent is
    if is_remote {
        flags |= SpanFlags::ContextIsRemoteMask as u32;
    }
    let mut attributes: Vec<KeyValue> = span.attributes.iter().map(|(key, it)| attribute(key, value(it))).collect();
    attributes.extend(span.failed.map(|why| attribute("error.type", Any::StringValue(why.to_owned()))));
    Message {
        trace_id: span.trace.get().to_be_bytes().to_vec(),
        span_id: span.id.get().to_be_bytes().to_vec(),
        parent_span_id: span.parent.map(|parent| parent.get().to_be_bytes().to_vec()).unwrap_or_default(),
        flags,
        name: span.name.to_owned(),
        kind: match span.kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
        } as i32,
        start_time_unix_nano: nanos(span.begun),
        end_time_unix_nano: nanos(span.begun + span.took),
        attributes,
        status: span.failed.map(|_| Status { code: StatusCode::Error as i32, ..Status::default() }),
        ..Message::default()
    }
}

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn value(value: &Value) -> Any {
    match value {
        Value::Word(word) => Any::StringValue((*word).to_owned()),
        Value::Name(name) => Any::StringValue(name.to_string()),
        Value::Text(text) => Any::StringValue(text.clone()),
        Value::Count(count) => Any::IntValue(i64::try_from(*count).unwrap_or(i64::MAX)),
        Value::Seconds(seconds) => Any::DoubleValue(*seconds),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn span(kind: Kind, failed: Option<&'static str>) -> Span {
        let Trace { id: trace, span: id, .. } = Trace::begin();
        let attributes = vec![("a", Value::Word("w")), ("b", Value::Count(u64::MAX)), ("c", Value::Seconds(0.5))];
        let (begun, took) = (Duration::from_secs(1_800_000_000), Duration::from_millis(1500));
        Span { trace, id, parent: Some(id), kind, name: "nar", begun, took, failed, attributes }
    }

    #[test]
    fn a_span_is_told_in_the_terms_of_the_protocol() {
        let (server, client) = (span(Kind::Server, None), span(Kind::Client, Some("cut")));
        let bytes = Speaker::new().encode(&[server.clone(), client]);
        let read = ExportTraceServiceRequest::decode(&*bytes).unwrap();
        let [ResourceSpans { resource: Some(resource), scope_spans, .. }] = &read.resource_spans[..] else { panic!() };
        assert_eq!(resource.attributes[0], attribute("service.name", Any::StringValue("snowbank".to_owned())));
        let [one, other] = &scope_spans[0].spans[..] else { panic!() };
        assert_eq!(one.trace_id, server.trace.get().to_be_bytes());
        assert_eq!((&one.span_id, &one.parent_span_id), (&server.id.get().to_be_bytes().to_vec(), &one.span_id));
        assert_eq!(one.end_time_unix_nano - one.start_time_unix_nano, 1_500_000_000);
        assert_eq!((one.kind, other.kind), (SpanKind::Server as i32, SpanKind::Client as i32));
        assert_eq!((one.flags, other.flags), (0x301, 0x101), "the parent is somebody else's, or ours");
        assert_eq!(one.attributes[1], attribute("b", Any::IntValue(i64::MAX)));
        assert_eq!((one.attributes.len(), one.status.is_some()), (3, false));
        assert_eq!(other.attributes[3], attribute("error.type", Any::StringValue("cut".to_owned())));
        assert_eq!(other.status.as_ref().map(|status| status.code), Some(StatusCode::Error as i32));
    }
}
