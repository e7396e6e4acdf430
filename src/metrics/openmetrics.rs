//! The OpenMetrics text format, version 1.0 (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), and who wants it.
//!
//! It differs from Prometheus' older format in few ways: a counter's family is called without `_total`, bounds of buckets
//! are floating-point numbers always, and an end mark tells a page that was cut from a whole one.

use std::fmt::Write as _;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// The format's media type.
const MEDIA_TYPE: &str = "application/openmetrics-text";
/// What a page of it is called.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether who sends this `Accept` would rather have OpenMetrics than the older format (RFC 9110, section 12.5.1).
pub fn is_wanted(accept: &str) -> bool {
    let (mut this, mut older) = (0.0_f32, 0.0_f32);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        match media_type {
            _ if media_type.eq_ignore_ascii_case(MEDIA_TYPE) => this = this.max(weight),
            _ if media_type.eq_ignore_ascii_case("text/plain") => older = older.max(weight),
            _ => {}
        }
    }
    this > 0.0 && this >= older
}

/// A page of these families.
pub fn page(families: &[MetricFamily]) -> String {
    let mut page = String::with_capacity(64 << 10);
    for family in families {
        write_family(&mut page, family);
    }
    page.push_str("# EOF\n");
    page
}

fn write_family(page: &mut String, family: &MetricFamily) {
    let (kind, name) = match family.get_field_type() {
        MetricType::COUNTER => ("counter", family.name().strip_suffix("_total").unwrap_or(family.name())),
        MetricType::GAUGE => ("gauge", family.name()),
        MetricType::HISTOGRAM => ("histogram", family.name()),
        // Nothing here declares one.
        MetricType::SUMMARY | MetricType::UNTYPED => return,
    };
    let _ = writeln!(page, "# HELP {name} {}", Escaped(family.help())); // writing to a String cannot fail
    let _ = writeln!(page, "# TYPE {name} {kind}");
    for metric in family.get_metric() {
        match family.get_field_type() {
            MetricType::COUNTER => sample(page, name, "_total", metric, None, metric.get_counter().get_value()),
            MetricType::GAUGE => sample(page, name, "", metric, None, metric.get_gauge().get_value()),
            _ => write_histogram(page, name, metric),
        }
    }
}

fn write_histogram(page: &mut String, name: &str, metric: &Metric) {
    let histogram = metric.get_histogram();
    for bucket in histogram.get_bucket() {
        count(page, name, "_bucket", metric, Some(bucket.upper_bound()), bucket.cumulative_count());
    }
    if histogram.get_bucket().last().is_none_or(|last| last.upper_bound().is_finite()) {
        count(page, name, "_bucket", metric, Some(f64::INFINITY), histogram.get_sample_count());
    }
    count(page, name, "_count", metric, None, histogram.get_sample_count());
    sample(page, name, "_sum", metric, None, histogram.get_sample_sum());
}

fn sample(page: &mut String, name: &str, suffix: &str, metric: &Metric, bound: Option<f64>, value: f64) {
    write_name(page, name, suffix, metric.get_label(), bound);
    let _ = writeln!(page, " {}", Number(value));
}

fn count(page: &mut String, name: &str, suffix: &str, metric: &Metric, bound: Option<f64>, value: u64) {
    write_name(page, name, suffix, metric.get_label(), bound);
    let _ = writeln!(page, " {value}");
}

fn write_name(page: &mut String, name: &str, suffix: &str, labels: &[LabelPair], bound: Option<f64>) {
    let _ = write!(page, "{name}{suffix}");
    let mut mark = '{';
    for label in labels {
        let _ = write!(page, "{mark}{}=\"{}\"", label.name(), Escaped(label.value()));
        mark = ',';
    }
    if let Some(bound) = bound {
        let _ = write!(page, "{mark}le=\"{}\"", Number(bound));
        mark = ',';
    }
    if mark == ',' {
        page.push('}');
    }
}

/// A number as the format has it: `1.0`, `+Inf`.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            infinite if infinite == f64::INFINITY => f.write_str("+Inf"),
            infinite if infinite == f64::NEG_INFINITY => f.write_str("-Inf"),
            nan if nan.is_nan() => f.write_str("NaN"),
            number => write!(f, "{number:?}"),
        }
    }
}

/// Text as it stands in help and labels.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '\n' => f.write_str("\\n"),
            '"' => f.write_str("\\\""),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

    use super::*;

    #[test]
    fn a_page_is_as_the_specification_has_it() {
        let registry = Registry::new();
        let requests = IntCounterVec::new(Opts::new("requests_total", "How \"many\"."), &["who"]).unwrap();
        requests.with_label_values(&["a\\b\n\"c\""]).inc_by(3);
        let seconds = HistogramOpts::new("seconds", "How long.").buckets(vec![0.5, 1.0]);
        let seconds = HistogramVec::new(seconds, &["of"]).unwrap();
        seconds.with_label_values(&["x"]).observe(0.75);
        let load = Gauge::new("load", "How much.").unwrap();
        load.set(2.0);
        registry.register(Box::new(requests)).unwrap();
        registry.register(Box::new(seconds)).unwrap();
        registry.register(Box::new(load)).unwrap();
        let expected = "# HELP load How much.\n# TYPE load gauge\nload 2.0\n\
            # HELP requests How \\\"many\\\".\n# TYPE requests counter\nrequests_total{who=\"a\\\\b\\n\\\"c\\\"\"} 3.0\n\
            # HELP seconds How long.\n# TYPE seconds histogram\nseconds_bucket{of=\"x\",le=\"0.5\"} 0\n\
            seconds_bucket{of=\"x\",le=\"1.0\"} 1\nseconds_bucket{of=\"x\",le=\"+Inf\"} 1\nseconds_count{of=\"x\"} 1\n\
            seconds_sum{of=\"x\"} 0.75\n# EOF\n";
        assert_eq!(page(&registry.gather()), expected);
    }

    #[test]
    fn who_wants_it_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert!(is_wanted(prometheus));
        assert!(is_wanted("Application/OpenMetrics-Text"));
        for other in [
            "",
            "*/*",
            "text/plain",
            "text/plain, application/openmetrics-text;q=0.5",
            "application/openmetrics-text;q=0",
        ] {
            assert!(!is_wanted(other), "{other}");
        }
    }
}
